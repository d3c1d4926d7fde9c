#!/usr/bin/python3
"""The packet rules of this host: tables of our own, named apollo, to which nothing else writes. Docker writes no rules at all.

By default nothing from the overlay or from a container is let in. What is: docs/architecture.md, "What a container reaches".

firewall.py         loads them, says so to systemd, and keeps them: what others change or flush comes back at once
firewall.py check   ends with 1, and says why, where they are not as they should be
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from pathlib import Path

import apollo

# What the kernel lists after a load, for comparison: it spells the rules in its own way.
LOADED = Path("/run/apollo/firewall")
# Seconds between looks at what no event reports, and after which a follower that ended is started again.
INTERVAL, PAUSE = 10, 1
# The device from which a mesh's packets come unwrapped. Weave's come through a port of the bridge.
DEVICES = {"vxlan": "vxweave", "wireguard": "wgweave"}
# What any host of the stack takes from any other, and so from a container in the name of its slave: gossip and every mesh.
HOST_TCP = (8301, 6783)
HOST_UDP = (8301, 4789, 6783, 6784, 51820)
# Where a VXLAN packet has, in bits after the UDP header begins, the type of the inner frame and the source of the packet in it:
# beyond 8 bytes of UDP, 8 of VXLAN, and 12 of the frame; there 2 more and 12 of the packet.
INNER_TYPE, INNER_SOURCE = "@th,224,16", "@th,336,32"
# What a role serves to the overlay.
SERVED = {"edge": "tcp dport { 80, 443 } accept"}
DNS = "meta l4proto { tcp, udp } th dport 53 accept"


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


def ports(numbers: Iterable[int]) -> str:
    return f"{{ {', '.join(map(str, numbers))} }}"


def senders(facts: Mapping[str, str]) -> list[str]:
    """With vxlan: which overlay addresses come from which address in the VPC, as its peers on disk say."""
    if facts["MESH"] != "vxlan":
        return []
    import mesh

    return sorted(
        f"{peer.address} . {int(block[0]):#010x}-{int(block[-1]):#010x}"
        for peer in mesh.load(facts).values()
        for block in map(IPv4Network, f"{peer.bridge}/32 {peer.subnet}".split())
    )


def packets(facts: Mapping[str, str], uplink: str, known: Iterable[str]) -> str:
    """The table `inet apollo`. uplink: the device that leads to the VPC. known: what senders() gives."""
    overlay, own, address, vpc = facts["OVERLAY_CIDR"], facts["DOCKER_SUBNET"], facts["PRIVATE_IP"], facts["VPC_CIDR"]
    device, vxlan, outside = DEVICES.get(facts["MESH"]), facts["MESH"] == "vxlan", f'iifname "{uplink}"'
    sent = f"set senders {{\ntypeof ip saddr . {INNER_SOURCE}\nflags interval\n{elements(known)}}}\n"
    arriving = [
        # Before connection tracking, so that nothing false is ever remembered.
        "type filter hook prerouting priority raw; policy accept;",
        'iifname "lo" accept',
        f"{outside} ip saddr {overlay} drop",
    ]
    if vxlan:
        arriving += [
            f"{outside} udp dport 4789 {INNER_TYPE} 0x0800 ip saddr . {INNER_SOURCE} @senders notrack accept",
            f"{outside} udp dport 4789 drop",
        ]
    if device:
        arriving += [
            # From the overlay, to the overlay, and from the host to which the address belongs.
            f'iifname "{device}" ip saddr != {overlay} drop',
            f'iifname "{device}" ip daddr != {overlay} drop',
        ]
        inside = own
    else:
        # Its router brings other hosts' containers onto the bridge, which are there for the overlay only.
        arriving += [f'iifname "weave" {f"ip saddr != {own} " if own else ""}ip daddr != {overlay} drop']
        inside = overlay
    arriving += [
        f'iifname "weave" {f"ip saddr != {inside} " if inside else ""}drop',
        # Whatever network of Docker's: from the addresses that are there.
        f'iifname != "{uplink}" fib saddr . iif oif missing drop',
        # Of no use between containers, and what one of them fills the others lack.
        f"ip saddr {overlay} ip daddr {overlay} fib daddr type != local notrack" if own else "",
    ]
    entering = [
        "type filter hook input priority filter - 10; policy drop;",
        'iifname "lo" accept',
        "ct state established,related accept",
        # Security groups say what comes this way.
        f"{outside} ip daddr {address} accept",
        "icmp type echo-request accept",
        SERVED.get(facts["ROLE"], ""),
        # Names are for a slave's own containers, of any network.
        *([f"ip saddr {overlay} ip saddr != {own} drop", DNS] if own else []),
    ]
    passing = ["type filter hook forward priority filter - 10; policy drop;"]
    leaving: list[str] = []
    if own:
        passing += [
            "ct state established,related accept",
            f"{outside} drop",
            f'iifname "{device}" oifname != "weave" drop' if device else "",
            f"ip saddr {overlay} ip daddr {overlay} accept",
            # Within one network of Docker's, where bridges pass through here.
            "fib daddr . iif oif exists accept",
            # Another network of Docker's, or from there into the overlay.
            f'oifname != "{uplink}" drop',
            'ip daddr 169.254.0.0/16 counter drop comment "a container must not take the host\'s role"',
            f"ip daddr {{ {', '.join(facts['CONTROL_ADDRESSES'].split())} }} counter drop",
            f"ip daddr {vpc} tcp dport {ports(HOST_TCP)} counter drop",
            f"ip daddr {vpc} udp dport {ports(HOST_UDP)} counter drop",
            f"ip daddr {vpc} meta l4proto esp counter drop",
            "meta nfproto ipv4 accept",
        ]
        # Inside the overlay nothing is rewritten.
        leaving = ["type nat hook postrouting priority srcnat - 10;", f'oifname "{uplink}" ip saddr != {address} masquerade']
    # What wraps a flow has a source port for each: thousands of them are no business of connection tracking.
    wrapped = ["type filter hook output priority raw; policy accept;", "udp dport 4789 notrack"] if vxlan else []
    chains = {"arriving": arriving, "entering": entering, "passing": passing, "wrapped": wrapped, "leaving": leaving}
    body = (sent if vxlan else "") + "".join(chain(name, rules) for name, rules in chains.items() if rules)
    return table("inet", body)


def uplink(facts: Mapping[str, str]) -> str:
    """The device that leads to the VPC. Raises FirewallError while there is none."""
    return json.loads(run("ip", "-j", "-4", "route", "get", facts["VPC_RESOLVER"]))[0]["dev"]


def listed(family: str) -> str:
    """How the kernel spells the table, "" where there is none."""
    shown = subprocess.run(
        ["nft", "-s", "list", "table", family, "apollo"], capture_output=True, text=True, check=False, timeout=30
    )
    return shown.stdout if shown.returncode == 0 else ""


def complaint() -> str:
    """What is wrong with the rules of this host, "" where nothing is; for apollo-check."""
    records = sorted(LOADED.glob("*.nft"))
    gone = [record.stem for record in records if listed(record.stem) != record.read_text()]
    if records and not gone:
        return ""
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
            apollo.write(record, listed(family))
            self._texts[family] = text
            loaded.append(family)
        return loaded


def forward_packets() -> None:
    """A slave routes for its containers. Other hosts do not route."""
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    if switch.read_text().strip() != "1":
        switch.write_text("1")


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


def main(verb: str) -> int:
    if verb == "check":
        wrong = complaint()
        print(wrong or "all rules stand")
        return 1 if wrong else 0
    facts, keeper, changed = apollo.facts(), Keeper(), threading.Event()
    for argv in (("nft", "monitor"), ("ip", "monitor", "route")):
        threading.Thread(target=follow, args=(changed, *argv), daemon=True).start()
    trouble, first = None, True
    while True:
        changed.clear()
        try:
            if facts["DOCKER_SUBNET"]:
                forward_packets()
            loaded = keeper.keep({"inet": packets(facts, uplink(facts), senders(facts))})
            problem = ""
            if loaded:
                print(f"loaded: {', '.join(loaded)}", flush=True)
            if first:
                ready()
                first = False
        except (FirewallError, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            problem = str(error)
        if problem != trouble:
            trouble = problem
            print(problem or "all rules stand", flush=True)
        changed.wait(INTERVAL)


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
