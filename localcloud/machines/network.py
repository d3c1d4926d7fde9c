"""The VPC as network namespaces: one router for each VPC, an internet, and an administrator's machine in it.

    instance --- veth --- router of its VPC --- internet --- admin
    (own ns)              (<prefix>-vpc-…)      (<prefix>-internet)  (<prefix>-admin)

Routed like AWS's: instances share no layer 2. Each has a cable of its own to the router, which answers ARP for all it can
reach (so a subnet looks like one), carries no broadcast, and looks up the route table of the sender's subnet. No cable leads to
the namespace this process runs in, so the machine itself has no route to any of it.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

from localcloud.machines.dhcp import DhcpServer, Lease
from localcloud.machines.errors import MachineError
from localcloud.machines.namespaces import Namespace
from localcloud.machines.processes import Children, wait_until
from localcloud.machines.security_groups import API, METADATA, RESOLVER, UPLINK, Flow, allowed, ruleset
from localcloud.machines.wanted import EVERYWHERE, Nic, Route, Vpc, Wanted

# Bytes. Inside a VPC and on the way out of it, as on AWS.
VPC_MTU = 9001
INTERNET_MTU = 1500
# TEST-NET-2, so that nothing here is ever somebody's real address.
INTERNET_ADDRESS = IPv4Address("198.51.100.1")
ADMIN_ADDRESS = IPv4Address("198.51.100.10")
# What a router begins with: nothing passes it, and nothing reaches it. Every ruleset replaces this.
CLOSED = """table inet vpc {
chain forward { type filter hook forward priority filter; policy drop; }
chain input { type filter hook input priority filter; policy drop; }
}
"""
# The rules' priorities and the tables' numbers are free for use in a namespace of our own.
FIRST_TABLE = 1000


class Internet:
    """Everything outside the VPCs: a namespace that routes between them, and an admin namespace with one address in it."""

    def __init__(self, prefix: str) -> None:
        self.namespace = Namespace(f"{prefix}-internet")
        self.admin = Namespace(f"{prefix}-admin")
        self.namespace.sysctl({"net.ipv4.ip_forward": 1, "net.ipv4.conf.all.rp_filter": 0})
        self.namespace.ip(
            [
                f"link add admin mtu {INTERNET_MTU} type veth peer name eth0 mtu {INTERNET_MTU} netns {self.admin.name}",
                f"address add {INTERNET_ADDRESS}/24 dev admin",
                "link set admin up",
            ]
        )
        self.admin.ip(
            [
                f"address add {ADMIN_ADDRESS}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {INTERNET_ADDRESS}",
            ]
        )
        self._cables: set[int] = set()

    def plug(self, router: Namespace) -> tuple[int, str]:
        """Lays a cable to a router; returns its number and the name of the internet's end of it."""
        number = next(n for n in range(256) if n not in self._cables)
        self._cables.add(number)
        cable = f"vpc{number}"
        mtu = f"mtu {INTERNET_MTU}"
        self.namespace.ip(
            [
                f"link add {cable} {mtu} type veth peer name {UPLINK} {mtu} netns {router.name}",
                f"address add 100.64.{number}.1/30 dev {cable}",
                f"link set {cable} up",
            ]
        )
        router.ip([f"address add 100.64.{number}.2/30 dev {UPLINK}", f"link set {UPLINK} up"])
        return number, cable

    def unplug(self, number: int) -> None:
        """Frees the number of a cable whose router is gone."""
        self._cables.discard(number)

    def delete(self) -> None:
        self.admin.delete()
        self.namespace.delete()


class VpcNetwork:
    """One VPC's router: links, routes, filter, DHCP and name service."""

    def __init__(self, vpc: Vpc, prefix: str, internet: Internet, children: Children, folder: Path, region: str) -> None:
        self.vpc = vpc
        self._children = children
        self._internet = internet
        self._folder = folder
        self._wanted = Wanted(region)
        self._leases: dict[str, Lease] = {}
        self._nics: dict[str, Nic] = {}
        # Those that the filter has chains for.
        self._filtered: dict[str, Nic] = {}
        self._applied: dict[str, str] = {}
        self._tables: dict[str, int] = {}
        self._rules: set[str] = set()
        self._routes: set[str] = set()
        self._public: set[IPv4Address] = set()
        self._gateways: set[IPv4Address] = set()
        self._resolver: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.namespace = Namespace(f"{prefix}-{vpc.id}")
        # Before it routes anything, and for as long as no ruleset could be applied.
        self.namespace.run(["nft", "-f", "-"], stdin=CLOSED)
        self.namespace.sysctl(
            {
                "net.ipv4.ip_forward": 1,
                "net.ipv4.conf.all.rp_filter": 0,
                "net.ipv4.conf.default.rp_filter": 0,
                "net.ipv4.conf.all.send_redirects": 0,
                "net.ipv4.conf.default.send_redirects": 0,
            }
        )
        self.namespace.ip(f"address add {a}/32 dev lo" for a in (METADATA, RESOLVER, API, vpc.resolver))
        self._cable, self._outside = internet.plug(self.namespace)
        # An address without a machine is silent: by this route its neighbours get the router's MAC for it as for any other, and
        # the filter drops what goes there. Without it a sender would hear at once that there is no way.
        self.namespace.ip([f"route add {vpc.cidr} dev {UPLINK}"])
        self._start_resolver()
        self._dhcp = DhcpServer(self.namespace, self._leases.get)

    def attach(self, nic: Nic, namespace: str, device: str) -> None:
        """Lays the cable between the router and a device of an instance's namespace."""
        self._lay(
            nic,
            f"link add {nic.link} mtu {VPC_MTU} type veth peer name {device} address {nic.mac} mtu {VPC_MTU} netns {namespace}",
        )

    def attach_tap(self, nic: Nic) -> None:
        """Lays the cable to a virtual machine, whose own process takes the other end of it."""
        self._lay(nic, f"tuntap add dev {nic.link} mode tap", f"link set {nic.link} mtu {VPC_MTU}")

    def _lay(self, nic: Nic, *cable: str) -> None:
        self.namespace.ip(cable)
        # Proxied ARP is answered after a random delay by default, which would cost a first packet up to 0.8 s.
        self.namespace.sysctl(
            {
                f"net.ipv4.conf.{nic.link}.proxy_arp": 1,
                f"net.ipv4.neigh.{nic.link}.proxy_delay": 0,
            }
        )
        lease = Lease(nic.address, nic.subnet, nic.subnet[1], self.vpc.resolver, nic.hostname, self._wanted.domain, VPC_MTU)
        self._leases[nic.link] = lease
        # Known beforehand, as in AWS's own mapping: a neighbour that must be asked for could be impersonated.
        self.namespace.ip(
            [
                f"link set {nic.link} up",
                f"route replace {nic.address}/32 dev {nic.link} src {nic.subnet[1]}",
                f"neigh replace {nic.address} lladdr {nic.mac} dev {nic.link} nud permanent",
            ]
        )

    def detach(self, nic: Nic) -> None:
        """Removes the cable, if it is there. Both of its ends are gone on return."""
        self._leases.pop(nic.link, None)
        if nic.link in self.links():
            self.namespace.ip([f"link delete {nic.link}"])

    def links(self) -> set[str]:
        return set(re.findall(r"^\d+: ([^:@]+)", self.namespace.run(["ip", "-o", "link"]), re.MULTILINE))

    def apply(self, wanted: Wanted, cut: Iterable[str]) -> None:
        """Makes addresses, routes, filter and names match. Connections that the rules no longer admit are cut, which is
        more than AWS does: there a tracked connection outlives the rule that admitted it."""
        before, self._wanted = self._wanted, wanted
        nics = {nic.id: nic for nic in wanted.nics(self.vpc.id)}
        gone = [nic for key, nic in self._filtered.items() if key not in nics]
        self._nics = nics
        gateways = {subnet.gateway for subnet in wanted.subnets.values() if subnet.vpc_id == self.vpc.id}
        self.namespace.ip(
            [
                *(f"address add {gateway}/32 dev lo" for gateway in sorted(gateways - self._gateways)),
                *(f"address del {gateway}/32 dev lo" for gateway in sorted(self._gateways - gateways)),
            ]
        )
        self._gateways = gateways
        rules = ruleset(wanted, self.vpc.id, cut)
        if self._applied.get("rules") != rules:
            self.namespace.run(["nft", "-f", "-"], stdin=ruleset(wanted, self.vpc.id, cut, gone))
            # Only now, or a ruleset that nft refused would pass for applied ever after.
            self._applied["rules"], self._filtered = rules, nics
            if before.rules:
                self._forget_refused(wanted)
        self._apply_routes(wanted)
        self._publish(wanted)
        hosts = "".join(
            f"{nic.address} {nic.hostname}.{wanted.domain} {nic.hostname}\n"
            for nic in sorted(nics.values(), key=lambda nic: nic.address)
        )
        if self._applied.get("hosts") != hosts:
            (self._folder / "hosts").write_text(hosts)
            self._applied["hosts"] = hosts
            if self._resolver:
                self._resolver.send_signal(signal.SIGHUP)

    def _apply_routes(self, wanted: Wanted) -> None:
        # By difference: a table emptied for a moment would lose the packets of hosts that nothing happens to.
        rules: set[str] = set()
        routes: set[str] = set()
        links = self.links()
        for nic in self._nics.values():
            subnet = wanted.subnets[nic.subnet_id]
            table = self._tables.setdefault(subnet.id, FIRST_TABLE + len(self._tables))
            rules.add(f"priority {FIRST_TABLE} iif {nic.link} lookup {table}")
            # Inside the VPC the router's own table knows each interface.
            routes.add(f"throw {self.vpc.cidr} table {table}")
            for route in subnet.routes:
                if hop := self._hop(route, links):
                    routes.add(f"{route.destination} {hop} table {table}")
        stale = [f"rule del {rule}" for rule in sorted(self._rules - rules)]
        # A route through a link went with the link.
        stale += [f"route del {route}" for route in sorted(self._routes - routes) if f"dev {UPLINK}" in route]
        self.namespace.ip(
            [
                *(f"route replace {route}" for route in sorted(routes - self._routes)),
                *(f"rule add {rule}" for rule in sorted(rules - self._rules)),
                *stale,
            ]
        )
        self._rules, self._routes = rules, routes

    def _hop(self, route: Route, links: set[str]) -> str | None:
        if route.target.startswith(("igw-", "nat-")):
            return f"via 100.64.{self._cable}.1 dev {UPLINK}" if route.destination == EVERYWHERE else None
        nic = self._nics.get(route.target)
        return f"via {nic.address} dev {nic.link} onlink" if nic and nic.link in links else None

    def _publish(self, wanted: Wanted) -> None:
        public = {address for nic in self._nics.values() if (address := wanted.leaves_as(nic))}
        lines = [f"route del {address}/32 dev {self._outside}" for address in sorted(self._public - public)]
        lines += [
            f"route replace {address}/32 via 100.64.{self._cable}.2 dev {self._outside} src {INTERNET_ADDRESS}"
            for address in sorted(public - self._public)
        ]
        self._internet.namespace.ip(lines)
        self._public = public

    def _forget_refused(self, wanted: Wanted) -> None:
        flows = {tracked(line) for line in self.namespace.run(["conntrack", "-L", "-o", "extended"]).splitlines()}
        for flow, selector in sorted(flows, key=lambda one: one[1]):
            if flow and not allowed(wanted, flow):
                # Gone by itself in the meantime is as good.
                subprocess.run(self.namespace.command(["conntrack", "-D", *selector]), capture_output=True, check=False)

    def denied(self) -> list[Flow]:
        """The flows that the filter refused in the last fifteen minutes, TCP and UDP."""
        listing = self.namespace.run(["nft", "-n", "list", "set", "inet", "vpc", "denied"])
        found = re.findall(r"([\d.]+) \. ([\d.]+) \. (\d+) \. (\d+)", listing)
        return [Flow(int(p), IPv4Address(s), IPv4Address(d), int(port)) for s, d, p, port in found]

    def drops(self, nic: Nic) -> dict[str, int]:
        """Packets dropped so far for this interface, by direction."""
        listing = self.namespace.run(["nft", "list", "counters", "inet"])
        found = re.findall(r"counter (\w+)-" + nic.link + r" {\s*packets (\d+)", listing)
        return {direction: int(packets) for direction, packets in found}

    def _start_resolver(self) -> None:
        hosts = self._folder / "hosts"
        hosts.touch()
        log = self._folder / "resolver.log"
        argv = [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--group=root", "--pid-file="),
            *("--no-resolv", "--no-hosts", "--bind-interfaces", f"--addn-hosts={hosts}"),
            *("--local=/internal/", f"--listen-address={self.vpc.resolver},{RESOLVER}", "--log-facility=-"),
        ]
        with log.open("ab") as output:
            self._resolver = resolver = self._children.start(self.namespace.command(argv), output)

        def listening() -> bool:
            if resolver.poll() is not None:
                raise MachineError(f"the VPC's name service did not start: {log.read_text().strip()}")
            return f"{self.vpc.resolver}:53" in self.namespace.run(["ss", "-Huln", "sport = 53"])

        if not wait_until(listening, 10):
            raise MachineError(f"the VPC's name service does not listen after 10 s; see {log}")

    def delete(self) -> None:
        self._dhcp.close()
        if self._resolver:
            self._children.stop(self._resolver)
        self._internet.namespace.ip([f"link delete {self._outside}"])
        self._internet.unplug(self._cable)
        self.namespace.delete()


def tracked(line: str) -> tuple[Flow | None, tuple[str, ...]]:
    """A line of conntrack's listing: the flow with its real destination, and the options that select it and its like.

    Rules do not ask for source ports, and neither do the options: a mesh has a source port for each connection inside it, so
    thousands of entries are one flow.
    """
    words = line.split()
    if len(words) < 4 or not words[3].isdigit():
        return None, ()
    pairs = [word.split("=", 1) for word in words if "=" in word]
    original: dict[str, str] = {}
    reply: dict[str, str] = {}
    for key, value in pairs:
        if key in ("src", "dst", "sport", "dport"):
            (reply if key in original else original)[key] = value
    if "src" not in original or "src" not in reply:
        return None, ()
    # A translated destination is the one that answers.
    port = int(reply["sport"]) if "sport" in reply else None
    flow = Flow(int(words[3]), IPv4Address(original["src"]), IPv4Address(reply["src"]), port)
    selector = ["-p", words[2], "--orig-src", original["src"], "--orig-dst", original["dst"]]
    if "dport" in original:
        selector += ["--dport", original["dport"]]
    return flow, tuple(selector)
