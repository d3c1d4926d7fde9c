"""Mesh drivers as the rest of the plan sees them: bytes added to a packet, ports that are needed, how many nodes fit.

A driver's host files are in the layers of host/files/mesh/ that it names. Figures: docs/meshes.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from plan import ports


@dataclass(frozen=True)
class Flow:
    """Traffic to a host. protocol: "tcp", "udp" or an IP protocol number; ports: both ends included."""

    protocol: str
    first_port: int
    last_port: int
    purpose: str

    @property
    def ported(self) -> bool:
        """A protocol without ports, such as ESP, must not carry any."""
        return self.protocol in ("tcp", "udp")


@dataclass(frozen=True)
class MeshDriver:
    """overhead: bytes a packet grows by. max_nodes: slaves, control nodes and edges together. flows: inbound, node to node.

    layers: folders of host/files/mesh/, in the order in which a host unpacks them.
    """

    name: str
    overhead: int
    max_nodes: int
    flows: tuple[Flow, ...]
    layers: tuple[str, ...]


DRIVERS: dict[str, MeshDriver] = {
    driver.name: driver
    for driver in (
        MeshDriver(
            name="weave",
            overhead=85,
            # All node addresses of the default plan: 239 slots and fifteen of infrastructure. Only three were ever run.
            max_nodes=254,
            flows=(
                Flow("tcp", ports.WEAVE, ports.WEAVE, "Weave control"),
                Flow("udp", ports.WEAVE, ports.WEAVE_DATA, "Weave data: sleeve and fast datapath"),
                Flow("50", 0, 0, "Weave encrypted fast datapath (ESP)"),
            ),
            layers=("weave",),
        ),
        MeshDriver(
            name="vxlan",
            overhead=50,
            max_nodes=65_535,
            flows=(Flow("udp", ports.VXLAN, ports.VXLAN, "VXLAN between overlay nodes"),),
            layers=("routed", "vxlan"),
        ),
        MeshDriver(
            name="wireguard",
            # 20 IP, 8 UDP, 16 of WireGuard's header, 16 of its tag. Padding never goes beyond the device's MTU.
            overhead=60,
            max_nodes=65_535,
            flows=(Flow("udp", ports.WIREGUARD, ports.WIREGUARD, "WireGuard between overlay nodes"),),
            layers=("routed", "wireguard"),
        ),
    )
}
