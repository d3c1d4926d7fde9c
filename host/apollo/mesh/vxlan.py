"""The vxlan mesh: the kernel's VXLAN as a routed link. For each peer one permanent neighbour and one forwarding entry more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from host.apollo.mesh import routed
from plan import ports


def mac(bridge: str) -> str:
    """The MAC of a host's VXLAN device follows from its bridge address, so that no host has to ask for it."""
    return "02:78:" + IPv4Address(bridge).packed.hex(":")


class Vxlan(routed.Link):
    """Tables: neighbours (bridge address → MAC), frames (MAC → VPC address), routes (subnets go through bridge addresses)."""

    name, device = "vxlan", "vxweave"

    def make(self, facts: Mapping[str, str]) -> None:
        if not Path("/sys/class/net", self.device).exists():
            kind = f"type vxlan id 42 local {facts['PRIVATE_IP']} dstport {ports.VXLAN} ttl 16 nolearning"
            routed.run("ip", "link", "add", self.device, "address", mac(facts["BRIDGE_ADDRESS"]), *kind.split())
        routed.run("ip", "link", "set", self.device, "mtu", facts["BRIDGE_MTU"], "up")
        routed.answer_for_others()

    def wanted(self, peers: Sequence[routed.Peer]) -> routed.Tables:
        return {
            "neighbours": {peer.bridge: mac(peer.bridge) for peer in peers},
            "frames": {mac(peer.bridge): peer.address for peer in peers},
            "routes": routed.routes(peers, through_bridge=True),
        }

    def present(self) -> routed.Tables:
        neighbours = routed.shown("ip -j -4 neigh", self.device)
        return {
            "neighbours": {entry["dst"]: entry["lladdr"] for entry in neighbours if "PERMANENT" in entry.get("state", ())},
            "frames": {entry["mac"]: entry["dst"] for entry in routed.shown("bridge -j fdb", self.device) if "dst" in entry},
            "routes": routed.present_routes(self.device),
        }

    def commands(self, now: routed.Tables, then: routed.Tables, source: str) -> list[routed.Command]:
        gone, new = routed.differ(now["frames"], then["frames"])
        bridge = [f"fdb del {address} dev {self.device} dst {now['frames'][address]}" for address in gone]
        bridge += [f"fdb replace {address} dev {self.device} dst {host} self permanent" for address, host in new]
        routes_gone, routes = routed.route_lines(self.device, now["routes"], then["routes"], source)
        gone, new = routed.differ(now["neighbours"], then["neighbours"])
        ip = routes_gone + [f"neigh del {address} dev {self.device}" for address in gone]
        ip += [f"neigh replace {address} lladdr {link} dev {self.device} nud permanent" for address, link in new] + routes
        batches = (("bridge", bridge), ("ip", ip))
        return [((tool, "-force", "-batch", "-"), "".join(f"{line}\n" for line in lines)) for tool, lines in batches if lines]


LINK = Vxlan()
