"""Which hosts exist, and everything about each that is fixed before the first cloud call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from netaddr import IPAddress, IPNetwork

from plan.addresses import MAX_CONTROL, OverlayPlan, VpcPlan
from plan.mesh import DRIVERS, Flow, MeshDriver
from plan.settings import Edge, Settings

Role = Literal["slave", "control", "edge"]


@dataclass(frozen=True)
class PlannedZone:
    """index: the zone's place in the settings, 0 to 6. The subnets are the zone's, whether it has hosts or not."""

    index: int
    name: str
    private_subnet: IPNetwork
    public_subnet: IPNetwork


@dataclass(frozen=True)
class PlannedHost:
    """One machine of the plan.

    name: its identity, `slave-1`, `control-1` or `edge-1`, the same in Pulumi, DNS and Consul.
    index: the slot of a slave, else the number of the control node or edge, from 1.
    bridge_address: the weave bridge's address with the overlay's prefix. docker_subnet: a slave's own block, else None.
    generation: from 1; raising it replaces the machine. data_gib: size of the data volume in GiB, 0 for none.
    """

    name: str
    role: Role
    index: int
    zone: PlannedZone
    private_ip: IPAddress
    bridge_address: IPNetwork
    docker_subnet: IPNetwork | None
    generation: int
    instance_type: str
    root_gib: int
    data_gib: int

    @property
    def public(self) -> bool:
        """Whether the host is in its zone's public subnet."""
        return self.role == "edge"


@dataclass(frozen=True)
class Cluster:
    """The planned stack. Hosts are in a fixed order: slaves by slot, control nodes, edges."""

    settings: Settings
    overlay: OverlayPlan
    vpc: VpcPlan
    mesh: MeshDriver
    mtu: int
    zones: tuple[PlannedZone, ...]
    slaves: tuple[PlannedHost, ...]
    control: tuple[PlannedHost, ...]
    edges: tuple[PlannedHost, ...]

    @cached_property
    def hosts(self) -> tuple[PlannedHost, ...]:
        return self.slaves + self.control + self.edges

    @property
    def flows(self) -> tuple[Flow, ...]:
        """The ports that the mesh needs between nodes, and while the stack changes its mesh those of the old one."""
        return tuple(flow for name in self.settings.meshes for flow in DRIVERS[name].flows)

    @cached_property
    def control_addresses(self) -> tuple[IPAddress, ...]:
        """The VPC addresses of all five control nodes that may ever exist, so that growing control changes no other host."""
        initial = _initial_zones(self.settings, self.zones)
        return tuple(self.vpc.control_address(_turn(initial, k).index, k) for k in range(1, MAX_CONTROL + 1))


def plan_cluster(settings: Settings) -> Cluster:
    """The cluster that checked settings describe."""
    overlay = OverlayPlan(settings.overlay.cidr, settings.overlay.host_prefix)
    vpc = settings.vpc
    zones = tuple(
        PlannedZone(i, settings.zone_name(zone), vpc.private_subnet(i), vpc.public_subnet(i))
        for i, zone in enumerate(settings.zones)
    )
    initial = _initial_zones(settings, zones)
    stages = _stages(settings, zones)

    def host(role: Role, index: int, zone: PlannedZone) -> PlannedHost:
        private_ip = {"slave": vpc.slot_address, "control": vpc.control_address, "edge": vpc.edge_address}[role]
        bridge = {"slave": overlay.bridge_address, "control": overlay.control_address, "edge": overlay.edge_address}[role]
        section = {"slave": settings.slaves, "control": settings.control, "edge": settings.edge}[role]
        return PlannedHost(
            name=f"{role}-{index}",
            role=role,
            index=index,
            zone=zone,
            private_ip=private_ip(zone.index, index),
            bridge_address=bridge(index),
            docker_subnet=overlay.docker_subnet(index) if role == "slave" else None,
            generation=section.generations.get(index, 1),
            instance_type=section.instance_type,
            root_gib=section.root_gib,
            data_gib=0 if isinstance(section, Edge) else section.data_gib,
        )

    def slave(slot: int) -> PlannedHost:
        return host("slave", slot, _turn(next(members for first, members in reversed(stages) if first <= slot), slot))

    return Cluster(
        settings=settings,
        overlay=overlay,
        vpc=vpc,
        mesh=DRIVERS[settings.overlay.mesh],
        mtu=settings.overlay_mtu,
        zones=zones,
        slaves=tuple(slave(slot) for slot in settings.slots),
        control=tuple(host("control", k, _turn(initial, k)) for k in range(1, settings.control.count + 1)),
        edges=tuple(host("edge", k, _turn(initial, k)) for k in range(1, settings.edge.count + 1)),
    )


def _initial_zones(settings: Settings, zones: tuple[PlannedZone, ...]) -> tuple[PlannedZone, ...]:
    return tuple(zone for zone, given in zip(zones, settings.zones, strict=True) if given.from_slot is None)


def _stages(settings: Settings, zones: tuple[PlannedZone, ...]) -> list[tuple[int, tuple[PlannedZone, ...]]]:
    """(first slot, zones that take part from it on), so that an appended zone moves no slot below its own first one."""
    starts = [zone.from_slot or 1 for zone in settings.zones]
    return [(start, tuple(z for z, s in zip(zones, starts, strict=True) if s <= start)) for start in sorted(set(starts))]


def _turn(zones: tuple[PlannedZone, ...], index: int) -> PlannedZone:
    return zones[(index - 1) % len(zones)]
