"""The packet rules of this host: tables of our own, named apollo, to which nothing else writes. Docker writes no rules at all.

By default nothing from the overlay or from a container is let in. What is: docs/architecture.md, "What a container reaches".

apollo firewall         loads them, says so to systemd, and keeps them: it restores at once what others change or flush
apollo firewall check   ends with 1, and says why, where they are not as they should be
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import NoReturn

from host.apollo import local
from plan import ports

# What the kernel lists after a load, for comparison: it spells the rules in its own way.
LOADED = Path("/run/apollo/firewall")
# The kernel's settings, and where systemd reads those of this host.
KERNEL, SETTINGS = Path("/proc/sys"), Path("/etc/sysctl.d")
# Seconds between looks at what no event reports, after which a follower that ended is started again, and for which rules may
# differ from their record before that is a complaint.
INTERVAL, PAUSE, PATIENCE = 10, 1, 2
# The device from which a mesh's packets come unwrapped. Weave's come through a port of the bridge.
DEVICES = {"vxlan": "vxweave", "wireguard": "wgweave"}
# What any host of the stack takes from any other, and so from a container in the name of its slave: gossip and every mesh. And
# metrics, for where a slave is a member of the group that may scrape them.
HOST_TCP = (ports.CONSUL_SERF, ports.WEAVE, ports.METRICS, ports.EDGE_STATS)
HOST_UDP = (ports.CONSUL_SERF, ports.VXLAN, ports.WEAVE, ports.WEAVE_DATA, ports.WIREGUARD)
# What one container may have of the connections that the kernel keeps in mind: one part of so many.
SHARE = 16
# Where a VXLAN packet has the type of the frame inside, in bits after the UDP header begins.
INNER_TYPE = "@th,224,16"
# The containers whose connections the kernel counts stand in the listing as elements of a set. They are no rules.
COUNTED = re.compile(r"(set flows \{[^{}]*?)\n\s*elements = \{[^{}]*\}")
# What a role serves to the overlay.
SERVED = {"edge": f"tcp dport {{ {ports.HTTP}, {ports.HTTPS} }} accept"}


class FirewallError(Exception):
    """A tool's own words on why the rules cannot be made or read."""


def run(*argv: str, text: str | None = None) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise FirewallError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def table(family: str, body: str) -> str:
    """The text that replaces a table in one step, whether it exists or not."""
    return f"table {family} apollo\ndelete table {family} apollo\ntable {family} apollo {{\n{body}}}\n"


def chain(name: str, rules: Iterable[str]) -> str:
    return f"chain {name} {{\n" + "".join(f"    {rule}\n" for rule in rules if rule) + "}\n"


def elements(values: Iterable[str]) -> str:
    joined = ", ".join(values)
    return f"elements = {{ {joined} }}\n" if joined else ""


def braced(numbers: Iterable[int]) -> str:
    return f"{{ {', '.join(map(str, numbers))} }}"


def connections() -> int:
    """How many connections the kernel keeps in mind at most."""
    try:
        return int((KERNEL / "net/netfilter/nf_conntrack_max").read_text())
    except FileNotFoundError:  # not yet: its module comes with the first rules
        return 65_536


def inner_source(bits: int) -> str:
    """The first bits of the source of the packet inside a VXLAN packet, at its place after the UDP header begins: beyond 8
    bytes of UDP, 8 of VXLAN, 14 of the frame and 12 of the packet."""
    return f"@th,336,{bits}"


def senders(facts: Mapping[str, str]) -> dict[str, list[str]]:
    """With vxlan: which overlay address (nodes) and block come from which address in the VPC, as the peers on disk say."""
    found: dict[str, list[str]] = {"nodes": [], "blocks": []}
    if facts["MESH"] != "vxlan":
        return found
    from host.apollo.mesh import routed

    for peer in routed.load(facts).values():
        found["nodes"].append(f"{peer.address} . {int(IPv4Address(peer.bridge)):#x}")
        if peer.subnet:
            block = IPv4Network(peer.subnet)
            first, last = int(block[0]), int(block[-1])
            # A hash of whole bytes costs half of what a range does.
            part = f"{first >> 32 - block.prefixlen:#x}" if block.prefixlen % 8 == 0 else f"{first:#x}-{last:#x}"
            found["blocks"].append(f"{peer.address} . {part}")
    return {name: sorted(values) for name, values in found.items()}


def packets(facts: Mapping[str, str], uplink: str, known: Mapping[str, Iterable[str]]) -> str:
    """The table `inet apollo`. uplink: the device that leads to the VPC. known: what senders() gives."""
    overlay, own, address, vpc = facts["OVERLAY_CIDR"], facts["DOCKER_SUBNET"], facts["PRIVATE_IP"], facts["VPC_CIDR"]
    device, vxlan = DEVICES.get(facts["MESH"]), facts["MESH"] == "vxlan"
    flows = "set flows {\ntype ipv4_addr\nsize 65535\nflags dynamic\n}\n"
    share = f"ct state new add @flows {{ ip saddr ct count over {max(connections() // SHARE, 1)} }} drop"
    prefix = int(facts["HOST_PREFIX"])
    whole = {"nodes": inner_source(32), "blocks": inner_source(32 if prefix % 8 else prefix)}
    kinds = {"nodes": "", "blocks": "flags interval\n" if prefix % 8 else ""}
    sent = "".join(
        f"set {name} {{\ntypeof ip saddr . {part}\n{kinds[name]}{elements(known[name])}}}\n" for name, part in whole.items()
    )
    bridge, entries = facts["BRIDGE_ADDRESS"], ['"lo" : accept', f'"{uplink}" : goto outside', '"weave" : goto bridged']
    # Connections are kept in mind where addresses are rewritten, and not between containers.
    within = f"ip saddr {overlay} ip daddr {overlay} ip daddr != {bridge} notrack" if own else ""
    outside = [f"ip saddr {overlay} drop"]
    if vxlan:
        # An address of the overlay comes from the host that has it.
        outside += [
            *(
                f"udp dport {ports.VXLAN} {INNER_TYPE} 0x0800 ip saddr . {part} @{name} notrack accept"
                for name, part in reversed(whole.items())
            ),
            f"udp dport {ports.VXLAN} drop",
        ]
    unwrapped: list[str] = []
    if device:
        entries.append(f'"{device}" : goto unwrapped')
        unwrapped = [f"ip saddr != {overlay} drop", f"ip daddr != {overlay} drop", "fib saddr . iif oif missing drop", within]
        bridged = [f"ip saddr != {own} drop" if own else "drop"]
    else:
        # By its router other hosts' containers are on the bridge, and there for the overlay only.
        bridged = [f"ip saddr != {overlay} drop", f"{f'ip saddr != {own} ' if own else ''}ip daddr != {overlay} drop"]
    # Of a name's two packets none is kept in mind.
    bridged += [within, f"ip daddr {bridge} udp dport {ports.DNS} notrack" if own else ""]
    arriving = [
        # Before connection tracking, so that nothing false is ever remembered.
        "type filter hook prerouting priority raw; policy accept;",
        f"iifname vmap {{ {', '.join(entries)} }}",
        # Another network of Docker's: from the addresses that are there.
        "fib saddr . iif oif missing drop",
        f"ip daddr {bridge} udp dport {ports.DNS} notrack" if own else "",
    ]
    entering = [
        "type filter hook input priority filter - 10; policy drop;",
        'iifname "lo" accept',
        # Security groups say what comes this way.
        f'iifname "{uplink}" ip daddr {address} accept',
    ]
    leaving = ["type filter hook output priority raw; policy accept;"]
    if vxlan:
        # What wraps a flow has a source port for each.
        leaving.append(f"udp dport {ports.VXLAN} notrack")
    passing = ["type filter hook forward priority filter - 10; policy drop;"]
    rewriting: list[str] = []
    if own:
        leaving.append(f"ip saddr {bridge} udp sport {ports.DNS} notrack")
        entering += [
            "ct state established,related accept",
            share,
            "icmp type echo-request accept",
            # Names are for a slave's own containers, of any network.
            f"ip saddr {overlay} ip saddr != {own} drop",
            f"meta l4proto {{ tcp, udp }} th dport {ports.DNS} accept",
        ]
        passing += [
            f'iifname "{device}" oifname != "weave" drop' if device else "",
            f'ip saddr {overlay} ip daddr {overlay} iifname != "{uplink}" accept',
            "ct state established,related accept",
            f'iifname "{uplink}" drop',
            # Within one network of Docker's, where bridges pass through here.
            "fib daddr . iif oif exists accept",
            share,
            # Another network of Docker's, or from there into the overlay.
            f'oifname != "{uplink}" drop',
            # A container must not take the host's role. The comments are the guards' names in metrics.py.
            'ip daddr 169.254.0.0/16 counter drop comment "metadata"',
            f'ip daddr {{ {", ".join(facts["CONTROL_ADDRESSES"].split())} }} counter drop comment "control"',
            f'ip daddr {vpc} tcp dport {braced(HOST_TCP)} counter drop comment "host-tcp"',
            f'ip daddr {vpc} udp dport {braced(HOST_UDP)} counter drop comment "host-udp"',
            f'ip daddr {vpc} meta l4proto esp counter drop comment "host-esp"',
            "meta nfproto ipv4 accept",
        ]
        # Inside the overlay nothing is.
        rewriting = ["type nat hook postrouting priority srcnat - 10;", f'oifname "{uplink}" ip saddr != {address} masquerade']
    else:
        # Without connection tracking, which an edge with many clients would fill: an answer is what opens no connection.
        entering += [
            "tcp flags & (fin | syn | rst | ack) != syn accept",
            "icmp type { echo-request, echo-reply, destination-unreachable, time-exceeded } accept",
            SERVED.get(facts["ROLE"], ""),
        ]
    chains = {"outside": outside, "unwrapped": unwrapped, "bridged": bridged, "arriving": arriving}
    chains |= {"entering": entering, "passing": passing, "leaving": leaving, "rewriting": rewriting}
    body = (sent if vxlan else "") + (flows if own else "")
    body += "".join(chain(name, rules) for name, rules in chains.items() if rules)
    return table("inet", body)


def frames(facts: Mapping[str, str], places: Iterable[tuple[str, str, str]], bridges: Iterable[str]) -> str:
    """The table `bridge apollo`: what may enter a bridge at a port. places: (port, MAC, address) of each known container.
    bridges: the addresses of Docker's bridges."""
    overlay, own, bridge = facts["OVERLAY_CIDR"], facts["DOCKER_SUBNET"], facts["BRIDGE_ADDRESS"]
    places = list(places)
    sets = {
        "places": ("ifname . ether_addr . ipv4_addr", [f'"{port}" . {mac} . {address}' for port, mac, address in places]),
        "ports": ("ifname", [f'"{port}"' for port, _, _ in places]),
        "macs": ("ether_addr", sorted({mac for _, mac, _ in places})),
        "taken": ("ipv4_addr", sorted({address for _, _, address in places} | {*bridges})),
    }
    sources = ("ip saddr", "arp saddr ip")
    sending = [
        "type filter hook prerouting priority dstnat - 10; policy accept;",
        # What Docker gave a container and nothing beside, in an ARP packet too.
        "iifname . ether saddr . ip saddr @places accept",
        "iifname . ether saddr . arp saddr ip @places iifname . arp saddr ether . arp saddr ip @places accept",
        # The router's port, by which all other hosts' containers come, and none of this host's.
        'iifname "vethwe-bridge" goto mesh' if facts["MESH"] == "weave" else "",
        'iifname != "veth*" accept',
        'iifname "vethwe*" accept',
        "iifname @ports drop",
        # A container that has just started, before Docker has reported its place: an address of this slave that no other has.
        "ether saddr @macs drop",
        *(f"{source} @taken drop" for source in sources),
        *(f"{source} {overlay} {source} != {own or bridge} drop" for source in sources),
        "ether type { ip, arp } accept",
        "drop",
    ]
    mesh = [
        *(f"{source} {{ {', '.join(filter(None, (own, bridge)))} }} drop" for source in sources),
        *(f"{source} != {overlay} drop" for source in (*sources, "ip daddr")),
        "ether type { ip, arp } accept",
        "drop",
    ]
    body = "".join(f"set {name} {{\ntype {kind}\n{elements(values)}}}\n" for name, (kind, values) in sets.items())
    body += chain("mesh", mesh) if facts["MESH"] == "weave" else ""
    return table("bridge", body + chain("sending", sending))


def uplink(facts: Mapping[str, str]) -> str:
    """The device that leads to the VPC. Raises FirewallError while there is none."""
    return json.loads(run("ip", "-j", "-4", "route", "get", facts["VPC_RESOLVER"]))[0]["dev"]


def listed(family: str) -> str:
    """How the kernel spells the table, less what it counts; "" where there is none."""
    shown = subprocess.run(
        ["nft", "-s", "list", "table", family, "apollo"], capture_output=True, text=True, check=False, timeout=30
    )
    return COUNTED.sub(r"\1", shown.stdout) if shown.returncode == 0 else ""


def complaint() -> str:
    """What is wrong with the rules of this host, "" where nothing is; for apollo-check and before Docker starts.

    A load and its record are two steps, and at a first boot, when peers come one by one, a check may come between them.
    """
    end = time.monotonic() + PATIENCE
    while True:
        records = sorted(LOADED.glob("*.nft"))
        gone = [record.stem for record in records if listed(record.stem) != record.read_text()]
        if records and not gone:
            return ""
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    what = f"the rules of table {' and '.join(f'{family} apollo' for family in gone)} were changed" if gone else "no rules"
    return f"{what}; apollo-firewall puts them right within {INTERVAL} s, else: systemctl restart apollo-firewall"


class Keeper:
    """Loads tables and knows what it loaded."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def keep(self, texts: Mapping[str, str]) -> list[str]:
        """Loads those that are not in the kernel as they should be. texts: by family. Gives the families."""
        loaded: list[str] = []
        for family, text in texts.items():
            record = LOADED / f"{family}.nft"
            if self._texts.get(family) == text and record.exists() and listed(family) == record.read_text():
                continue
            run("nft", "-f", "-", text=text)
            local.write(record, listed(family))
            self._texts[family] = text
            loaded.append(family)
        return loaded


def limits() -> dict[Path, str]:
    """The kernel's settings that this host is to have, by their file, but for those that only the machine beneath can set."""
    found: dict[Path, str] = {}
    for file in sorted(SETTINGS.glob("60-apollo*.conf")):
        for line in file.read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and os.access(path := KERNEL / key.strip().replace(".", "/"), os.W_OK):
                found[path] = value.strip()
    return found


def off_limits() -> list[str]:
    """Those that are lower, in words."""
    return [
        f"{path.relative_to(KERNEL)} is {now.strip()}, planned {value}"
        for path, value in limits().items()
        if int(now := path.read_text()) < int(value)
    ]


def keep_limits() -> None:
    """Sets them again: at boot some did not exist yet, as their module comes with the rules."""
    for path, value in limits().items():
        if int(path.read_text()) < int(value):
            path.write_text(value)


def follow(changed: threading.Event, *argv: str) -> None:
    """Sets the event at each line that a command prints. Never returns."""
    while True:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in process.stdout:
                changed.set()
        # What happened meanwhile is seen now.
        changed.set()
        time.sleep(PAUSE)


def ready() -> None:
    """Tells systemd that the rules stand."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", address.replace("@", "\0", 1))


def check() -> int:
    wrong = complaint()
    print(wrong or "all rules stand")
    return 1 if wrong else 0


def keep() -> NoReturn:
    facts, keeper, changed = local.facts(), Keeper(), threading.Event()
    bridged = None
    if facts["DOCKER_SUBNET"]:
        from host.apollo import bridge_ports

        bridged = bridge_ports.Ports()
        threading.Thread(target=bridged.follow, args=(changed,), daemon=True).start()
    for argv in (("nft", "monitor"), ("ip", "monitor", "link", "route")):
        threading.Thread(target=follow, args=(changed, *argv), daemon=True).start()
    trouble, first = None, True
    while True:
        changed.clear()
        try:
            places, bridges = bridged.look() if bridged else ([], [])
            tables = {"inet": packets(facts, uplink(facts), senders(facts)), "bridge": frames(facts, places, bridges)}
            loaded = keeper.keep(tables)
            problem = ""
            if loaded:
                print(f"loaded: {', '.join(loaded)}", flush=True)
            if first:
                ready()
                first = False
            keep_limits()
        except (FirewallError, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            problem = str(error)
        if problem != trouble:
            trouble = problem
            print(problem or "all rules stand", flush=True)
        changed.wait(INTERVAL)
