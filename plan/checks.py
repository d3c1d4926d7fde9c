"""What settings must be together: each check names the keys that it rests on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence

from netaddr import IPNetwork
from pydantic.alias_generators import to_camel

from plan.addresses import (
    AWS_RESERVED_AT_END,
    FIRST_HOST,
    INFRASTRUCTURE_OFFSET,
    MAX_CONTROL,
    MAX_EDGES,
    SLOT_OFFSET,
    OverlayPlan,
)
from plan.mesh import DRIVERS
from plan.problems import Problem
from plan.settings import Existing, ExistingSubnet, Settings

PRIVATE_RANGES = tuple(IPNetwork(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
DOCKER_DEFAULT = IPNetwork("172.17.0.0/16")
FORBIDDEN_RANGES = {
    "the loopback range": IPNetwork("127.0.0.0/8"),
    "the link-local range": IPNetwork("169.254.0.0/16"),
    "the multicast range": IPNetwork("224.0.0.0/4"),
    "the reserved range": IPNetwork("240.0.0.0/4"),
    "the local network range": IPNetwork("0.0.0.0/8"),
}


def check(s: Settings, broken: Collection[str]) -> Iterator[Problem]:
    """The problems of all checks but those that rest on a broken key, such as `slaves.count`, or on part of one."""
    for keys, found in _CHECKS:
        if not any(key == b or b.startswith(f"{key}.") or key.startswith(f"{b}.") for key in keys for b in broken):
            yield from found(s)


def _ranges(s: Settings) -> Iterator[Problem]:
    existing, overlay = s.network.existing, s.overlay.cidr
    vpc_key, vpc = ("network.existing.cidr", existing.cidr) if existing else ("network.cidr", s.network.cidr)
    if vpc.prefixlen > 21 and not existing:
        yield Problem("network.cidr", f"{vpc} is too small for seven zones' subnets; give a /16 to /21 such as 10.0.0.0/16")
    for key, network in ((vpc_key, vpc), ("overlay.cidr", overlay)):
        clash = next((what for what, taken in FORBIDDEN_RANGES.items() if _overlap(network, taken)), None)
        if clash:
            example = "10.2.0.0/16" if key == "overlay.cidr" else "10.0.0.0/16"
            yield Problem(
                key, f"{network} overlaps {clash} ({FORBIDDEN_RANGES[clash]}); give a private range such as {example}"
            )
        elif not any(network in private for private in PRIVATE_RANGES):
            ranges = ", ".join(str(n) for n in PRIVATE_RANGES)
            yield Problem(key, f"{network} is not a private range; give one inside {ranges}")
    if _overlap(overlay, DOCKER_DEFAULT):
        yield Problem(
            "overlay.cidr", f"{overlay} overlaps Docker's default bridge ({DOCKER_DEFAULT}); give one such as 10.2.0.0/16"
        )
    if _overlap(vpc, overlay):
        yield Problem("overlay.cidr", f"{overlay} overlaps {vpc_key} {vpc}; give a range outside it such as {_outside(vpc)}")


def _host_prefix(s: Settings) -> Iterator[Problem]:
    prefix, overlay = s.overlay.host_prefix, s.overlay.cidr
    fitting = [p for p in range(overlay.prefixlen + 1, 31) if p >= 2 and OverlayPlan(overlay, p).last_slot >= 1]
    if not fitting:
        yield Problem(
            "overlay.cidr",
            f"{overlay} has no room for sixteen infrastructure addresses and a slave; give a /26 or wider such as 10.2.0.0/16",
        )
    elif prefix not in fitting:
        why = (
            f"is not longer than the prefix of overlay.cidr {overlay}"
            if prefix <= overlay.prefixlen
            else f"leaves no slot in overlay.cidr {overlay} beside sixteen infrastructure addresses"
        )
        yield Problem("overlay.hostPrefix", f"{prefix} {why}; give {_choice(fitting)}, or a wider overlay.cidr")


def _slots(s: Settings) -> Iterator[Problem]:
    overlay, prefix = s.overlay.cidr, s.overlay.host_prefix
    if prefix <= overlay.prefixlen:
        return
    last = OverlayPlan(overlay, prefix).last_slot
    if last < 1:
        return
    seen: set[int] = set()
    for slot in s.slaves.retired:
        if slot in seen:
            yield Problem("slaves.retired", f"{slot} is listed twice; list each retired slot once")
        elif not 1 <= slot <= last:
            yield Problem("slaves.retired", f"{slot} is not a slot of this overlay; give 1 to {last}")
        seen.add(slot)
    for slot in s.slaves.generations:
        if not 1 <= slot <= last:
            yield Problem(f"slaves.generations.{slot}", f"{slot} is not a slot of this overlay; give 1 to {last}")
    most = last - len({slot for slot in seen if 1 <= slot <= last})
    if s.slaves.count > most:
        less = f" less {last - most} retired" if most < last else ""
        yield Problem(
            "slaves.count",
            f"{s.slaves.count} is more than this overlay holds; give 0 to {most} ({last} slots{less}), "
            "or create a new stack with a wider overlay.cidr",
        )


def _vpc_slots(s: Settings) -> Iterator[Problem]:
    existing = s.network.existing
    if s.slaves.count > 1 << 20 or (s.network.cidr.prefixlen > 21 and not existing):
        return
    if any(s.zone_name(zone) not in s.existing_zones for zone in s.zones if existing):
        return
    slots, vpc = s.slots, s.vpc
    last = vpc.last_slot
    if slots and slots[-1] > last >= 1:
        smallest = min(vpc.existing, key=lambda zone: zone[0].last_slot)[0].network if existing else vpc.private_subnet(0)
        wider = "wider subnets or a lower firstHost" if existing else "a wider network.cidr"
        yield Problem(
            "slaves.count",
            f"{s.slaves.count} needs slot {slots[-1]}, which does not fit its zone's subnet "
            f"({smallest}); slots end at {last}, so give fewer, or create a "
            f"new stack with {wider}",
        )


def _existing(s: Settings) -> Iterator[Problem]:
    existing, network = s.network.existing, s.network
    if existing is None:
        return
    for name in ("cidr", "nat", "flow_logs"):
        if name in network.model_fields_set and getattr(network, name) != type(network).model_fields[name].default:
            yield Problem(
                f"network.{to_camel(name)}",
                f"{getattr(network, name)} is for a VPC of the stack's own, and network.existing names another; leave one out",
            )
    known = s.existing_zones
    for place, zone in enumerate(s.zones):
        if s.zone_name(zone) not in known:
            given = ", ".join(existing.subnets)
            what = f"{zone.name} has no subnets in network.existing.subnets, which has {given}"
            yield Problem(f"zones[{place}]", f"{what}; give one of those, or its subnets too")
    seen: dict[str, tuple[str, IPNetwork]] = {}
    names: set[str] = set()
    for name, zone in existing.subnets.items():
        key = f"network.existing.subnets.{name}"
        if not re.fullmatch(re.escape(s.region) + r"[a-z]", s.zone_name(name)):
            yield Problem(key, f"is not a zone of region {s.region}; give a letter such as a, or {s.region}a")
        if s.zone_name(name) in names:
            yield Problem(key, f"{s.zone_name(name)} is there twice; give each zone once")
        names.add(s.zone_name(name))
        for kind, subnet in (("private", zone.private), ("public", zone.public)):
            yield from _existing_subnet(existing, f"{key}.{kind}", subnet, kind)
            for other, (other_id, range_) in seen.items():
                if subnet.id == other_id:
                    yield Problem(f"{key}.{kind}.id", f"{subnet.id} is that of {other} too; give each zone a subnet of its own")
                elif _overlap(subnet.cidr, range_):
                    yield Problem(
                        f"{key}.{kind}.cidr", f"{subnet.cidr} overlaps {range_} of {other}; give the subnet's own range"
                    )
            seen[f"{name}.{kind}"] = (subnet.id, subnet.cidr)


def _existing_subnet(existing: Existing, key: str, subnet: ExistingSubnet, kind: str) -> Iterator[Problem]:
    """kind: private or public. What its hosts need at least is one slot beside five control nodes, or ten edges."""
    if subnet.cidr not in existing.cidr:
        yield Problem(f"{key}.cidr", f"{subnet.cidr} lies outside the VPC's {existing.cidr}; give the range of a subnet in it")
    last = SLOT_OFFSET + 1 if kind == "private" else INFRASTRUCTURE_OFFSET + MAX_EDGES
    needed = subnet.first_host - FIRST_HOST + last + 1 + AWS_RESERVED_AT_END
    if subnet.cidr.size < needed:
        what = "five control nodes and a slave" if kind == "private" else "ten edges"
        yield Problem(
            f"{key}.cidr",
            f"{subnet.cidr} is too small: {what} need {needed} addresses with firstHost {subnet.first_host}; "
            f"give a /{32 - (needed - 1).bit_length()} or wider, or a lower firstHost",
        )


def _zones(s: Settings) -> Iterator[Problem]:
    names: set[str] = set()
    previous = 1
    for place, zone in enumerate(s.zones):
        key, name = f"zones[{place}]", s.zone_name(zone)
        if not re.fullmatch(re.escape(s.region) + r"[a-z]", name):
            yield Problem(key, f"{zone.name} is not a zone of region {s.region}; give a letter such as a, or {s.region}a")
        if name in names:
            yield Problem(key, f"{zone.name} is listed twice; list each zone once")
        names.add(name)
        if zone.from_slot is None:
            if previous > 1:
                yield Problem(key, f"{zone.name} comes after an appended zone; give it a fromSlot of {previous} or more")
            continue
        if place == 0:
            yield Problem(key, f"{zone.name} is the first zone and serves from slot 1; leave fromSlot out")
        if zone.from_slot < previous:
            yield Problem(key, f"fromSlot {zone.from_slot} is below the zone before it; give {previous} or more")
        previous = max(previous, zone.from_slot)


def _control(s: Settings) -> Iterator[Problem]:
    if s.control.count not in (1, 3, 5):
        yield Problem(
            "control.count", f"{s.control.count} servers cannot hold a useful majority; give 1, 3 or 5 (an odd number)"
        )
    for section, generations, last in (
        ("control", s.control.generations, MAX_CONTROL),
        ("edge", s.edge.generations, MAX_EDGES),
    ):
        for index in generations:
            if not 1 <= index <= last:
                yield Problem(f"{section}.generations.{index}", f"{index} is not a number of one; give 1 to {last}")


def _mesos(s: Settings) -> Iterator[Problem]:
    needed = {
        "repository": ("https://apt.example.com/mesos bookworm main", s.mesos.repository),
        "repositoryKey": ("https://apt.example.com/mesos.gpg", s.mesos.repository_key),
        "repositoryFingerprint": ("its 40 hexadecimal digits", s.mesos.repository_fingerprint),
    }
    for key, (example, value) in needed.items():
        if s.mesos.source == "packages" and value is None:
            yield Problem(f"mesos.{key}", f"is missing, and mesos.source is packages; give one such as {example}")
        if s.mesos.source != "packages" and value is not None:
            yield Problem(f"mesos.{key}", f"is for mesos.source packages, which is {s.mesos.source}; leave one of them out")


def _mtu(s: Settings) -> Iterator[Problem]:
    most = s.network.mtu - DRIVERS[s.overlay.mesh].overhead
    if s.overlay.mtu is not None and s.overlay.mtu > most:
        yield Problem(
            "overlay.mtu",
            f"{s.overlay.mtu} does not fit the underlay's {s.network.mtu} bytes less {DRIVERS[s.overlay.mesh].overhead} "
            f"for {s.overlay.mesh}; give 576 to {most}, or leave it out",
        )


def _mesh(s: Settings) -> Iterator[Problem]:
    driver = DRIVERS[s.overlay.mesh]
    nodes = s.slaves.count + s.control.count + s.edge.count
    if nodes > driver.max_nodes:
        others = ", ".join(d.name for d in DRIVERS.values() if d.max_nodes >= nodes) or "none"
        yield Problem(
            "overlay.mesh",
            f"{driver.name} supports {driver.max_nodes} nodes and the stack has {nodes}; give fewer, "
            f"or a mesh that holds them: {others}",
        )


def _switch(s: Settings) -> Iterator[Problem]:
    if s.overlay.switch_from == s.overlay.mesh:
        yield Problem(
            "overlay.switchFrom", f"{s.overlay.mesh} is the new mesh too; give the old one, or leave it out when done"
        )


def _admin(s: Settings) -> Iterator[Problem]:
    for place, network in enumerate(s.admin.allowed_cidrs):
        if network in s.admin.allowed_cidrs[:place]:
            yield Problem(f"admin.allowedCidrs[{place}]", f"{network} is listed twice; list each network once")
        if network.prefixlen < 8:
            yield Problem(
                f"admin.allowedCidrs[{place}]",
                f"{network} is the world or near it; give your own network, such as 203.0.113.7/32",
            )
    if s.admin.allowed_cidrs and not s.admin.public_key:
        yield Problem("admin.publicKey", "is missing, and admin.allowedCidrs opens SSH; give the key that may log in")


def _edge(s: Settings) -> Iterator[Problem]:
    if s.edge.deletion_protection and s.edge.count == 1:
        yield Problem(
            "edge.deletionProtection",
            "protects the load balancer, and one edge has none; leave it out, and where the stack has several edges set it to "
            "false and run `pulumi up` before you lower edge.count",
        )
    seen: set[str] = set()
    for place, name in enumerate(s.edge.publish):
        if name in seen:
            yield Problem(f"edge.publish[{place}]", f"{name} is listed twice; list each service once")
        seen.add(name)
    if s.edge.tls.hsts and not (s.edge.tls.enabled and s.edge.tls.redirect):
        yield Problem(
            "edge.tls.hsts",
            f"{s.edge.tls.hsts} keeps browsers to HTTPS; give it with edge.tls.enabled and edge.tls.redirect, or leave it out",
        )


_Check = Callable[[Settings], Iterator[Problem]]
_CHECKS: Sequence[tuple[tuple[str, ...], _Check]] = (
    (("network.cidr", "network.existing", "overlay.cidr"), _ranges),
    (("region", "zones", "network.existing"), _existing),
    (("overlay.cidr", "overlay.hostPrefix"), _host_prefix),
    (("overlay.cidr", "overlay.hostPrefix", "slaves.count", "slaves.retired", "slaves.generations"), _slots),
    (("network.cidr", "network.existing", "zones", "slaves.count", "slaves.retired"), _vpc_slots),
    (("region", "zones"), _zones),
    (("control.count", "control.generations", "edge.generations"), _control),
    (("network.mtu", "overlay.mesh", "overlay.mtu"), _mtu),
    (("overlay.mesh", "slaves.count", "control.count", "edge.count"), _mesh),
    (("edge.publish", "edge.tls", "edge.count", "edge.deletionProtection"), _edge),
    (("mesos",), _mesos),
    (("overlay.mesh", "overlay.switchFrom"), _switch),
    (("admin",), _admin),
)


def _overlap(a: IPNetwork, b: IPNetwork) -> bool:
    return a in b or b in a


def _outside(vpc: IPNetwork) -> str:
    candidates = (IPNetwork(n) for n in ("10.2.0.0/16", "10.0.0.0/16", "172.20.0.0/16"))
    return str(next(n for n in candidates if not _overlap(n, vpc)))


def _choice(numbers: Sequence[int]) -> str:
    """17 to 30; or where numbers are left out, each: 25, 26 or 30."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    *others, last = (str(number) for number in numbers)
    return f"{', '.join(others)} or {last}" if others else last
