"""What a stack cannot change in its life: which settings those are, and what is wrong with another value.

The record is plain values by key, as the state keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from plan.problems import Problem
from plan.settings import REGION_KEY, Existing, ExistingSubnet, Settings

# Key → why no running stack takes another value.
_FIXED = {
    REGION_KEY: "a stack stays in its region",
    "network.cidr": "every subnet and every host's address follows from it",
    "network.mtu": "between hosts of the old value and of the new one large packets are lost",
    "network.existing": "every host's address follows from it, and its subnets",
    "overlay.cidr": "every host's and every container's address follows from it",
    "overlay.hostPrefix": "every host's and every container's address follows from it",
    "consul.datacenter": "agents of two datacenters are not one cluster",
    "consul.domain": "containers and other stacks use names in it",
    "consul.tls": "agents with TLS and agents without it do not hear each other",
}
_DISKS = ("slaves.dataGib", "control.dataGib")


def recorded(s: Settings) -> dict[str, Any]:
    """The record of a stack with these settings."""
    existing = s.network.existing
    return {
        REGION_KEY: s.region,
        "zones": [{"name": s.zone_name(zone), "fromSlot": zone.from_slot or 1} for zone in s.zones],
        "network.cidr": str(existing.cidr if existing else s.network.cidr),
        # Left out for a VPC of the stack's own, as records were before there was another.
        **({"network.existing": _existing(s, existing)} if existing else {}),
        "network.mtu": s.network.mtu,
        "overlay.cidr": str(s.overlay.cidr),
        "overlay.hostPrefix": s.overlay.host_prefix,
        "overlay.mesh": s.overlay.mesh,
        "overlay.mtu": s.overlay_mtu,
        "slaves.retired": sorted(s.slaves.retired),
        # Without slaves there are no volumes, and the next ones may have any size.
        "slaves.dataGib": s.slaves.data_gib if s.slaves.count else 0,
        "control.dataGib": s.control.data_gib,
        "consul.datacenter": s.consul.datacenter,
        "consul.domain": s.consul.domain,
        "consul.tls": s.consul.tls,
    }


def changes(before: Mapping[str, Any], s: Settings) -> Iterator[Problem]:
    """What the settings change that the stack of this record cannot. A key that the record does not have is not compared."""
    now = recorded(s)
    # A record with a VPC's range and no existing VPC is one of a stack's own.
    none: dict[str, Any] = {"network.existing": None} if "network.cidr" in before else {}
    before, now = {**none, **before}, {**none, **now}
    differing = [key for key in now if key in before and before[key] != now[key]]
    for key in differing:
        if key in _FIXED:
            yield Problem(
                key,
                f"{_shown(now[key])} is not what this stack was made with, {_shown(before[key])}, and {_FIXED[key]}; "
                "take it back, or create a new stack",
            )
        if key in _DISKS and 0 < now[key] < before[key]:
            most = _shown(before[key])
            yield Problem(
                key, f"{now[key]} is less than this stack's volumes have, {most} GiB, and EBS shrinks none; give {most} or more"
            )
    if "zones" in differing and REGION_KEY not in differing:
        yield from _zones(before["zones"], now["zones"])
    if "overlay.mesh" in differing:
        yield from _mesh(before["overlay.mesh"], s)
    elif "overlay.mtu" in differing and "network.mtu" not in differing:
        old = _shown(before["overlay.mtu"])
        yield Problem(
            "overlay.mtu",
            f"{s.overlay_mtu} is not what this stack was made with, {old}, and {_FIXED['network.mtu']}; give {old}, "
            "or create a new stack",
        )
    again = sorted(set(before.get("slaves.retired", ())) - set(s.slaves.retired))
    if again:
        slots = ", ".join(_shown(slot) for slot in again)
        were = f"slots {slots} were" if len(again) > 1 else f"slot {slots} was"
        yield Problem("slaves.retired", f"{were} retired, and a retired slot never comes back; put it into the list again")


def _existing(s: Settings, existing: Existing) -> dict[str, Any]:
    def subnet(one: ExistingSubnet) -> str:
        return f"{one.id} {one.cidr} from {one.first_host}"

    zones = sorted(s.existing_zones.items())
    return {"id": existing.id, "subnets": {name: [subnet(zone.private), subnet(zone.public)] for name, zone in zones}}


def _mesh(old: str, s: Settings) -> Iterator[Problem]:
    if s.overlay.switch_from is None:
        yield Problem(
            "overlay.mesh",
            f"{s.overlay.mesh} is not what this stack runs, {old}, and hosts of two meshes do not reach each other; "
            f'to change it set overlay.switchFrom: {old} and follow docs/operations.md, "Switch the mesh"',
        )
    elif s.overlay.switch_from != old:
        yield Problem("overlay.switchFrom", f"{s.overlay.switch_from} is not what this stack runs; give {old}")


def _zones(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    # From which slot an appended zone serves may change while no host moves, which the hosts themselves see to.
    dropped, appended = before[len(now) :], now[len(before) :]
    both = zip(before, now, strict=False)
    moved = any(old["name"] != new["name"] or (old["fromSlot"] == 1) != (new["fromSlot"] == 1) for old, new in both)
    if moved or any(zone["fromSlot"] == 1 for zone in dropped):
        yield Problem(
            "zones",
            f"{_shown(now)} does not begin with this stack's, {_shown(before)}, and hosts and subnets follow that order; "
            "take it back, and append others behind it",
        )
    for zone in appended:
        if zone["fromSlot"] == 1:
            yield Problem(
                "zones",
                f"{zone['name']} is new and has no fromSlot, so hosts would move; write {{name: {zone['name']}, fromSlot: N}} "
                "with N above the highest slot ever used",
            )


def _shown(value: object) -> str:
    """The value as YAML has it. Numbers come back from the state as floats."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "none"
    if isinstance(value, Mapping) and "subnets" in value:
        found = cast(Mapping[str, Any], value)
        zones = ", ".join(f"{name}: {_shown(subnets)}" for name, subnets in found["subnets"].items())
        return f"{found['id']} with {{{zones}}}"
    if isinstance(value, Mapping):
        zone = cast(Mapping[str, Any], value)
        start = _shown(zone["fromSlot"])
        return str(zone["name"]) if start == "1" else f"{{name: {zone['name']}, fromSlot: {start}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_shown(part) for part in cast(Sequence[object], value))}]"
    return str(value)
