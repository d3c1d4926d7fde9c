"""Security groups as packet filter rules: pure text, from what the cloud's API says to what `nft -f` applies atomically.

A packet from one instance to another passes the sender's egress rules and the receiver's ingress rules, then the
connection is remembered and its answers pass. As on AWS, DHCP, the metadata service and the VPC's resolver pass whatever the
groups say, and an instance can only send from its own address (unless its source/destination check is off).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal

from localcloud.machines.wanted import EVERYWHERE, Nic, Rule, Wanted

METADATA = IPv4Address("169.254.169.254")
RESOLVER = IPv4Address("169.254.169.253")
# The AWS endpoint, which on AWS is many public addresses on port 443.
API = IPv4Address("169.254.169.250")
API_PORT = 4566
# The router's end of the cable to the internet.
UPLINK = "uplink"
PROTOCOL_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "ah": 51, "esp": 50, "gre": 47}


@dataclass(frozen=True)
class Flow:
    """The first packet of a connection, with the addresses as the instances see them. port: None without ports."""

    protocol: int
    source: IPv4Address
    destination: IPv4Address
    port: int | None


def ruleset(wanted: Wanted, vpc_id: str, cut: Iterable[str], gone: Iterable[Nic] = ()) -> str:
    """The filter and the address translation of one VPC's router. cut: links that carry nothing. gone: interfaces whose
    chains an earlier ruleset made. Counters and the list of refused flows survive a change."""
    nics = wanted.nics(vpc_id)
    owned = [f'"{nic.link}" . {nic.address}' for nic in nics]
    checked = [f'"{nic.link}"' for nic in nics if nic.source_dest_check]
    api = [f'"{nic.link}"' for nic in nics if _reaches_api(wanted, nic)]
    internet = [str(nic.address) for nic in nics if wanted.leaves_as(nic)]
    resolver = wanted.vpcs[vpc_id].resolver
    lines = [
        "add table inet vpc",
        "add set inet vpc denied { type ipv4_addr . ipv4_addr . inet_proto . inet_service; size 4096; "
        "flags dynamic, timeout; timeout 15m; }",
        "add counter inet vpc spoofed",
        "flush table inet vpc",
    ]
    for nic in gone:
        lines += [f"delete chain inet vpc {chain}-{nic.link}" for chain in ("egress", "ingress")]
        lines += [f"delete counter inet vpc {chain}-{nic.link}" for chain in ("egress", "ingress")]
    for name, kind, elements in (
        ("owned", "ifname . ipv4_addr", owned),
        ("checked", "ifname", checked),
        ("api", "ifname", api),
        ("internet", "ipv4_addr", internet),
        ("cut", "ifname", [f'"{link}"' for link in sorted(cut)]),
    ):
        lines += [f"add set inet vpc {name} {{ type {kind}; }}", f"flush set inet vpc {name}"]
        if elements:
            lines.append(f"add element inet vpc {name} {{ {', '.join(elements)} }}")
    lines += ["table inet vpc {"]
    for nic in nics:
        lines += _nic_chains(wanted, nic)
    senders = ", ".join(f'"{nic.link}" : jump egress-{nic.link}' for nic in nics)
    receivers = ", ".join([*(f'"{nic.link}" : goto ingress-{nic.link}' for nic in nics), f'"{UPLINK}" : goto internet'])
    lines += [
        "chain spoof { iifname @checked iifname . ip saddr != @owned counter name spoofed drop; }",
        f"chain internet {{ ip daddr {wanted.vpcs[vpc_id].cidr} drop; ip saddr @internet accept; drop; }}",
        "chain forward {",
        "type filter hook forward priority filter; policy drop;",
        "iifname @cut drop",
        "oifname @cut drop",
        "jump spoof",
        "ct state established,related accept",
        f'iifname "{UPLINK}" ct status & dnat != dnat drop',
        f"iifname vmap {{ {senders} }}" if nics else "",
        f"oifname vmap {{ {receivers} }}",
        "}",
        "chain input {",
        "type filter hook input priority filter; policy drop;",
        'iifname "lo" accept',
        "iifname @cut drop",
        "ct state established,related accept",
        f'iifname "{UPLINK}" drop',
        "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
        "jump spoof",
        "udp sport 68 udp dport 67 accept",
        f"ip daddr {METADATA} tcp dport 80 accept",
        f"ip daddr {{ {resolver}, {RESOLVER} }} meta l4proto {{ tcp, udp }} th dport 53 accept",
        f"ip daddr {API} tcp dport {API_PORT} iifname @api accept",
        f"ip daddr {API} tcp dport {API_PORT} update @denied {{ ip saddr . ip daddr . meta l4proto . th dport counter }}",
        "}",
        "}",
        *_translation(wanted, nics),
    ]
    return "\n".join(line for line in lines if line) + "\n"


def permits(
    wanted: Wanted, nic: Nic, direction: Literal["ingress", "egress"], protocol: int, peer: IPv4Address, port: int | None
) -> bool:
    """Whether the groups of this interface let the connection pass."""
    for rule in _rules(wanted, nic, direction):
        number = _protocol(rule)
        if number not in (None, protocol):
            continue
        ports = _ports(rule)
        if ports and (port is None or not ports[0] <= port <= ports[1]):
            continue
        if any(peer in cidr for cidr in rule.cidrs) or any(peer in wanted.group_members.get(g, ()) for g in rule.group_ids):
            return True
    return False


def allowed(wanted: Wanted, flow: Flow) -> bool:
    """Whether the rules, as they stand, would let this flow begin."""
    by_address = {nic.address: nic for nic in wanted.nics()}
    sender, receiver = by_address.get(flow.source), by_address.get(flow.destination)
    return (sender is None or permits(wanted, sender, "egress", flow.protocol, flow.destination, flow.port)) and (
        receiver is None or permits(wanted, receiver, "ingress", flow.protocol, flow.source, flow.port)
    )


def _rules(wanted: Wanted, nic: Nic, direction: str) -> list[Rule]:
    return [rule for group in nic.group_ids for rule in wanted.rules.get(group, ()) if rule.direction == direction]


def _nic_chains(wanted: Wanted, nic: Nic) -> list[str]:
    lines: list[str] = []
    for direction, side, verdict in (("egress", "daddr", "return"), ("ingress", "saddr", "accept")):
        chain = f"{direction}-{nic.link}"
        # Refused flows are listed with their port, which a counter alone does not tell.
        lines += [f"counter {chain} {{ }}", f"chain {chain} {{"]
        for rule in _rules(wanted, nic, direction):
            members = {str(address) for group in rule.group_ids for address in wanted.group_members.get(group, ())}
            peers = sorted({str(cidr) for cidr in rule.cidrs} | members)
            if EVERYWHERE in rule.cidrs:
                lines.append(f"{_match(rule)} {verdict}".strip())
            else:
                lines += [f"ip {side} {peer} {_match(rule)} {verdict}" for peer in peers]
        lines += [
            "meta l4proto { tcp, udp } update @denied { ip saddr . ip daddr . meta l4proto . th dport counter }",
            f"counter name {chain} drop",
            "}",
        ]
    return lines


def _match(rule: Rule) -> str:
    number = _protocol(rule)
    if number is None:
        return ""
    match = f"meta l4proto {number}"
    if ports := _ports(rule):
        return f"{match} th dport {ports[0]}-{ports[1]}"
    if number == PROTOCOL_NUMBERS["icmp"] and rule.from_port not in (None, -1):
        match += f" icmp type {rule.from_port}"
        if rule.to_port not in (None, -1):
            match += f" icmp code {rule.to_port}"
    return match


def _protocol(rule: Rule) -> int | None:
    if rule.protocol == "-1":
        return None
    return PROTOCOL_NUMBERS[rule.protocol] if rule.protocol in PROTOCOL_NUMBERS else int(rule.protocol)


def _ports(rule: Rule) -> tuple[int, int] | None:
    if _protocol(rule) not in (6, 17) or rule.from_port is None or rule.from_port == -1:
        return None
    return rule.from_port, rule.from_port if rule.to_port is None else rule.to_port


def _reaches_api(wanted: Wanted, nic: Nic) -> bool:
    # On AWS the endpoints are public addresses: it takes a way to the internet and an egress rule that covers them.
    public = IPv4Address("203.0.113.1")
    return wanted.leaves_as(nic) is not None and permits(wanted, nic, "egress", 6, public, 443)


def _translation(wanted: Wanted, nics: list[Nic]) -> list[str]:
    inward = [f"{public} : {nic.address}" for nic in nics if (public := wanted.reached_as(nic))]
    outward = [f"{nic.address} : {public}" for nic in nics if (public := wanted.leaves_as(nic))]
    return [
        "add table ip nat",
        "flush table ip nat",
        "table ip nat {",
        "chain prerouting {",
        "type nat hook prerouting priority dstnat;",
        f'iifname "{UPLINK}" dnat to ip daddr map {{ {", ".join(inward)} }}' if inward else "",
        "}",
        "chain postrouting {",
        "type nat hook postrouting priority srcnat;",
        f'oifname "{UPLINK}" snat to ip saddr map {{ {", ".join(outward)} }}' if outward else "",
        "}",
        "}",
    ]
