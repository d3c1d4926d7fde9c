"""A VPC that exists, as AWS describes it, against what the plan needs of it. Pure: components/existing.py asks AWS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from netaddr import IPAddress, IPNetwork

from plan.cluster import Cluster, PlannedZone
from plan.problems import Problem
from plan.settings import Existing, ExistingSubnet

_KEY = "network.existing"
# A tag of the group `node`: which offsets of a subnet are this stack's, such as `8-279`.
_TAG = "apollo:"

# What AWS says of one thing, or its words where it says nothing.
Answer = Mapping[str, Any] | str


@dataclass(frozen=True)
class Account:
    """What AWS says. vpc, subnets (by id): as Pulumi's getVpc and getSubnet have it.

    routes: subnet → the target of its default route, such as igw-0123, empty where it has none.
    used: planned address → the interface that has it, where that is not the stack's own.
    present: addresses of the stack's own hosts. stacks: each other stack in the VPC → the tags of its group `node`.
    endpoints: gateway endpoints to S3 that the subnets use and somebody else made.
    """

    vpc: Answer
    subnets: Mapping[str, Answer]
    routes: Mapping[str, str] = field(default_factory=dict[str, str])
    used: Mapping[str, str] = field(default_factory=dict[str, str])
    present: frozenset[str] = frozenset()
    stacks: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A subnet that hosts go into. key: its place in the settings. blocks: what is reserved of it."""

    key: str
    kind: str
    zone: PlannedZone
    subnet: ExistingSubnet
    blocks: tuple[IPNetwork, ...]

    @property
    def range(self) -> tuple[int, int]:
        """First and last offset of what is the stack's own in the subnet."""
        first = self.subnet.cidr.first
        return self.blocks[0].first - first, self.blocks[-1].last - first


def places(cluster: Cluster) -> list[Place]:
    """The subnets of the zones in use: private and public of each. None without `network.existing`."""
    found: list[Place] = []
    given = cluster.settings.network.existing
    names = {cluster.settings.zone_name(name): name for name in given.subnets} if given else {}
    for zone in cluster.zones if given else ():
        own, key = cluster.settings.existing_zones[zone.name], f"{_KEY}.subnets.{names[zone.name]}"
        private = cluster.vpc.reserved_private(zone.index, cluster.overlay.last_slot)
        found.append(Place(f"{key}.private", "private", zone, own.private, tuple(private)))
        found.append(Place(f"{key}.public", "public", zone, own.public, tuple(cluster.vpc.reserved_public(zone.index))))
    return found


def planned_addresses(cluster: Cluster) -> list[str]:
    """All addresses that hosts have or may get, in every subnet of the zones in use."""
    return [str(IPAddress(address)) for place in places(cluster) for block in place.blocks for address in block]


def marks(cluster: Cluster) -> dict[str, str]:
    """The tags by which other stacks see which addresses are this one's."""
    return {f"{_TAG}{place.subnet.id}": "{}-{}".format(*place.range) for place in places(cluster)}


def problems(cluster: Cluster, account: Account) -> Iterator[Problem]:
    """Everything that keeps the stack from going into the VPC."""
    existing = cluster.settings.network.existing
    if existing is None:
        return
    yield from _vpc(existing, account.vpc)
    for place in places(cluster):
        yield from _subnet(existing, place, account)
    yield from _used(cluster, account)
    if account.endpoints:
        there = ", ".join(account.endpoints)
        yield Problem(f"{_KEY}.s3Endpoint", f"true, and the subnets have one already ({there}); leave it out")


def _vpc(existing: Existing, vpc: Answer) -> Iterator[Problem]:
    if isinstance(vpc, str):
        yield Problem(f"{_KEY}.id", f"{existing.id} cannot be read ({vpc}); give a VPC of this account and region")
        return
    if vpc["cidrBlock"] != str(existing.cidr):
        yield Problem(f"{_KEY}.cidr", f"{existing.cidr} is not the first range of {existing.id}; give {vpc['cidrBlock']}")
    for name, what in (("enableDnsSupport", "DNS support"), ("enableDnsHostnames", "DNS host names")):
        if not vpc[name]:
            yield Problem(f"{_KEY}.id", f"{existing.id} has {what} off, and hosts need it; switch it on ({name} of the VPC)")


def _subnet(existing: Existing, place: Place, account: Account) -> Iterator[Problem]:
    subnet, given = account.subnets[place.subnet.id], place.subnet
    if isinstance(subnet, str):
        yield Problem(f"{place.key}.id", f"{given.id} cannot be read ({subnet}); give a subnet of {existing.id}")
        return
    if subnet["vpcId"] != existing.id:
        yield Problem(f"{place.key}.id", f"{given.id} is in {subnet['vpcId']}; give a subnet of {existing.id}")
        return
    if subnet["availabilityZone"] != place.zone.name:
        zone = subnet["availabilityZone"]
        yield Problem(f"{place.key}.id", f"{given.id} is in zone {zone}; give a subnet in {place.zone.name}")
    if subnet["cidrBlock"] != str(given.cidr):
        yield Problem(f"{place.key}.cidr", f"{given.cidr} is not the range of {given.id}; give {subnet['cidrBlock']}")
    target = account.routes.get(given.id, "")
    if place.kind == "public" and not target.startswith("igw-"):
        yield Problem(
            f"{place.key}.id",
            f"{given.id} has no default route to an internet gateway ({target or 'none at all'}), so it is not public; "
            "give one that has",
        )
    elif not target:
        yield Problem(
            f"{place.key}.id",
            f"{given.id} has no default route, and hosts fetch packages and images; give it one, such as to a NAT gateway",
        )


def _used(cluster: Cluster, account: Account) -> Iterator[Problem]:
    """Addresses of the planned ranges that others have, or have a right to; and whether the hosts still to come find room."""
    for place in places(cluster):
        subnet, (first, last) = account.subnets[place.subnet.id], place.range
        given = f"{place.subnet.first_host} gives hosts the offsets {first} to {last} of {place.subnet.id}"
        claims = {stack: _claim(tags, place) for stack, tags in account.stacks.items()}
        for stack, theirs in claims.items():
            if theirs and theirs[0] <= last and first <= theirs[-1]:
                above = (theirs[-1] // 8 + 1) * 8
                yield Problem(
                    f"{place.key}.firstHost",
                    f"{given}, and stack {stack} has {theirs[0]} to {theirs[-1]}; give {above} or more, or other subnets",
                )
        # The hosts of those stacks are within what is said of them.
        offsets = {address: int(IPAddress(address)) - place.subnet.cidr.first for address in account.used}
        taken = [
            address
            for address, offset in offsets.items()
            if any(IPAddress(address) in block for block in place.blocks)
            and not any(offset in theirs for theirs in claims.values())
        ]
        if taken:
            shown = ", ".join(f"{address} ({account.used[address]})" for address in sorted(taken, key=IPAddress)[:5])
            more = f" and {len(taken) - 5} more" if len(taken) > 5 else ""
            yield Problem(
                f"{place.key}.firstHost",
                f"{given}, and others have of them {shown}{more}; give one above those, or free them",
            )
        coming = [host for host in cluster.hosts if host.private_ip in place.subnet.cidr]
        # A subnet's count may leave out what is reserved, so it tells nothing once there are reservations.
        if not account.present and isinstance(subnet, Mapping) and subnet["availableIpAddressCount"] < len(coming):
            free = subnet["availableIpAddressCount"]
            what = f"{place.subnet.id} has {free} free addresses, and {len(coming)} hosts are planned there"
            yield Problem(f"{place.key}.id", f"{what}; free some, or give another subnet")


def _claim(tags: Mapping[str, str], place: Place) -> range:
    """The offsets of the place's subnet that another stack has by its tags."""
    first, _, last = tags.get(f"{_TAG}{place.subnet.id}", "").partition("-")
    return range(int(first), int(last) + 1) if first.isdecimal() and last.isdecimal() else range(0)
