"""The stack's settings: every check of the input, all problems in one PlanError, before anything is created.

Keys are those of Pulumi.<stack>.yaml under `apollo:`, in camelCase. Each field's description says what a value does and what
is valid; the README's table is made from them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from netaddr import AddrFormatError, IPNetwork
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from plan.addresses import MAX_CONTROL, MAX_EDGES, MAX_ZONES, OverlayPlan, VpcPlan
from plan.mesh import DRIVERS
from plan.problems import PlanError, Problem

PRIVATE_RANGES = tuple(IPNetwork(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
DOCKER_DEFAULT = IPNetwork("172.17.0.0/16")
FORBIDDEN_RANGES = {
    "the loopback range": IPNetwork("127.0.0.0/8"),
    "the link-local range": IPNetwork("169.254.0.0/16"),
    "the multicast range": IPNetwork("224.0.0.0/4"),
    "the reserved range": IPNetwork("240.0.0.0/4"),
    "the local network range": IPNetwork("0.0.0.0/8"),
}


def _network(value: object) -> IPNetwork:
    if isinstance(value, IPNetwork):
        return value
    try:
        if not isinstance(value, str) or "/" not in value:
            raise AddrFormatError
        network = IPNetwork(value, version=4)
    except (AddrFormatError, ValueError):
        raise PydanticCustomError("cidr", "is not an IPv4 network; give one such as 10.2.0.0/16") from None
    if network.ip != network.network:
        instead = str(network.cidr)
        raise PydanticCustomError("host_bits", "has host bits set; did you mean {instead}?", {"instead": instead})
    return network


Cidr = Annotated[IPNetwork, BeforeValidator(_network)]
Generation = Annotated[int, Field(ge=1, le=1_000_000)]
InstanceType = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$", examples=["t3.small"])]
DnsLabel = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", examples=["dc1"])]
DnsName = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?$",
        max_length=253,
        examples=["apollo.example.com"],
    ),
]


ServiceName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", examples=["web"])]


class Section(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, arbitrary_types_allowed=True, validate_default=False
    )


class Zone(Section):
    """An availability zone. Zones are only ever appended; an appended one says from which slot it takes part."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]*[a-z]$", examples=["a", "eu-west-1a"])]
    from_slot: Annotated[int, Field(ge=2)] | None = None


def _zone(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


_WEAVE_FROM = (
    r"^(https?://[A-Za-z0-9./:_-]+@sha256:[0-9a-f]{64}"
    r"|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d+)?/[a-z0-9._/-]+(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?)$"
)


class Network(Section):
    cidr: Cidr = Field(default=IPNetwork("10.0.0.0/16"), description="The VPC's range, /16 to /21.")
    nat: Literal["single", "perZone"] = Field(
        default="single", description="One NAT gateway for all zones, or one in each (no zone depends on another)."
    )
    mtu: Annotated[int, Field(ge=1280, le=9001)] = Field(
        default=9001, description="MTU of the hosts' uplinks in bytes, 1280 to 9001 (EC2's jumbo frames)."
    )


class Overlay(Section):
    cidr: Cidr = Field(default=IPNetwork("10.2.0.0/16"), description="The overlay's range: all containers and bridges.")
    host_prefix: Annotated[int, Field(le=30, ge=2)] = Field(
        default=24, description="Prefix length of each slave's Docker subnet, longer than the overlay's, at most 30."
    )
    mesh: Literal["weave", "vxlan", "wireguard"] = Field(
        default="weave", description="How packets cross hosts: `weave`, `vxlan` or `wireguard` (encrypted)."
    )
    weave_from: Annotated[str, Field(pattern=_WEAVE_FROM, examples=["docker.io/rajchaudhuri/weave:2.9.0"])] = Field(
        default="docker.io/rajchaudhuri/weave:2.9.0",
        description="Where hosts with mesh weave get its programs: an image, by tag or `@sha256:` digest, or the URL of a tar "
        "archive with `@sha256:` behind it. `python -m ops pin-images` puts the digest in.",
    )
    switch_from: Literal["weave", "vxlan", "wireguard"] | None = Field(
        default=None,
        description="While a running stack changes its mesh: the old one. Confirms the change, and keeps its ports open.",
    )
    mtu: Annotated[int, Field(ge=576, le=9001)] | None = Field(
        default=None,
        description="MTU inside the overlay in bytes; by default network.mtu less the mesh's overhead, the most that fits.",
    )


class Slaves(Section):
    count: Annotated[int, Field(ge=0)] = Field(default=3, description="How many slaves: the lowest slots that are not retired.")
    retired: list[int] = Field(default_factory=list, description="Slots taken out of use for ever.")
    instance_type: InstanceType = Field(default="t3.medium", description="EC2 instance type.")
    root_gib: Annotated[int, Field(ge=8, le=16384)] = Field(default=20, description="Root disk in GiB.")
    data_gib: Annotated[int, Field(ge=1, le=16384)] = Field(
        default=40, description="Data disk in GiB: Docker's data and Mesos's work directory."
    )
    generations: dict[int, Generation] = Field(
        default_factory=dict, description="Slot → generation (from 1). Raising one replaces just that slave."
    )


class Control(Section):
    count: int = Field(default=3, description="Consul servers and Mesos masters: 1, 3 or 5.")
    instance_type: InstanceType = Field(default="t3.small", description="EC2 instance type.")
    root_gib: Annotated[int, Field(ge=8, le=16384)] = Field(default=20, description="Root disk in GiB.")
    data_gib: Annotated[int, Field(ge=1, le=16384)] = Field(default=10, description="Data disk in GiB: raft and ZooKeeper.")
    generations: dict[int, Generation] = Field(
        default_factory=dict, description="Control node → generation (from 1). Raising one replaces just that node."
    )


class EdgeTls(Section):
    enabled: bool = Field(
        default=False, description="The edge serves HTTPS too, with the certificate in `apollo:edgeCertificate`."
    )
    redirect: bool = Field(default=True, description="With TLS, requests by HTTP are sent to HTTPS.")


class Edge(Section):
    count: Annotated[int, Field(ge=1, le=MAX_EDGES)] = Field(
        default=1, description="Edges, 1 to 10. One has an elastic address; several stand behind a network load balancer."
    )
    domain: DnsName = Field(default="apollo.test", description="Services answer at <service>.<domain>.")
    publish: list[ServiceName] = Field(
        default_factory=list[str], description="Services that are published although they do not have the tag `public`."
    )
    default_service: ServiceName | None = Field(
        default=None,
        description="The service that answers for every host name nobody has; by default those get a 404.",
        examples=["web"],
    )
    tls: EdgeTls = Field(default_factory=EdgeTls)
    instance_type: InstanceType = Field(default="t3.small", description="EC2 instance type.")
    root_gib: Annotated[int, Field(ge=8, le=16384)] = Field(default=20, description="Root disk in GiB.")
    generations: dict[int, Generation] = Field(
        default_factory=dict, description="Edge → generation (from 1). Raising one replaces just that edge."
    )


class Consul(Section):
    datacenter: DnsLabel = Field(default="dc1", description="Consul's datacenter name.")
    domain: DnsName = Field(default="consul", description="Consul's DNS domain.")
    tls: bool = Field(
        default=False,
        description="Consul's agents and servers talk TLS, each with a certificate. Decide before the first `up`.",
    )


ImageName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{64})$",
        examples=["mesosphere/marathon:v1.7.50"],
    ),
]


class Mesos(Section):
    source: Literal["images", "packages", "host"] = Field(
        default="images",
        description="Where Mesos and Marathon come from: `images` (containers), `packages` (an apt repository) or `host` (only "
        "what the hosts' image has in /usr or /opt/mesos; off where there is nothing).",
    )
    master_image: ImageName = Field(
        default="mesosphere/mesos-master:1.7.0", description="The master's image, with a tag or a digest."
    )
    agent_image: ImageName = Field(
        default="mesosphere/mesos-slave:1.7.0",
        description="The agent's image, with a tag or a digest; it must have Docker's client.",
    )
    marathon_image: ImageName = Field(
        default="mesosphere/marathon:v1.7.50", description="Marathon's image, with a tag or a digest."
    )
    repository: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9./:_@+-]+( [A-Za-z0-9./_-]+)+$")] | None = Field(
        default=None, description="For `packages`: the apt repository, such as `https://apt.example.com/mesos bookworm main`."
    )
    repository_key: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9./:_@+-]+$")] | None = Field(
        default=None, description="For `packages`: URL of the key that the repository is signed with."
    )
    repository_fingerprint: Annotated[str, Field(pattern=r"^[0-9A-F]{40}$")] | None = Field(
        default=None, description="For `packages`: that key's fingerprint, 40 hexadecimal digits in capitals."
    )
    packages: list[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]+(=[A-Za-z0-9.+:~-]+)?$", examples=["mesos"])]] = Field(
        default_factory=lambda: ["mesos", "marathon"],
        description="For `packages`: their names, each with or without `=version`.",
    )
    published: list[Literal["marathon", "mesos-master"]] = Field(
        default_factory=list[Literal["marathon", "mesos-master"]],
        description="Which of `marathon` and `mesos-master` the edge publishes; none by default. Both ask for a password.",
    )


class Admin(Section):
    allowed_cidrs: list[Cidr] = Field(
        default_factory=list[IPNetwork],
        description="Networks that may reach SSH on the edge; none by default, never the world.",
    )
    agent: bool = Field(
        default=False, description="Readiness is checked with the keys of the SSH agent instead of `apollo:adminPrivateKey`."
    )
    public_key: Annotated[str, Field(pattern=r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-\S+) [A-Za-z0-9+/=]+( .*)?$")] | None = Field(
        default=None, description="The administrators' SSH public key, in OpenSSH's one-line form."
    )


class Image(Section):
    baked: bool = Field(default=False, description="Packages are already in the image; the first boot installs none.")
    id: Annotated[str, Field(pattern=r"^ami-[0-9a-f]{8,17}$")] | None = Field(
        default=None, description="A fixed AMI; by default the newest that matches owner and name."
    )
    owner: Annotated[str, Field(pattern=r"^(\d{12}|self|amazon|aws-marketplace)$")] = Field(
        default="136693071363", description="Account that owns the AMI (default: Debian's)."
    )
    name: Annotated[str, Field(min_length=3)] = Field(default="debian-12-amd64-*", description="Name pattern of the AMI.")


class Settings(Section):
    """All settings of a stack. An empty stack file means all defaults."""

    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", examples=["eu-west-1"])] = Field(
        default="eu-west-1", description="AWS region (the stack's `aws:region`)."
    )
    zones: Annotated[list[Annotated[Zone, BeforeValidator(_zone)]], Field(min_length=1, max_length=MAX_ZONES)] = Field(
        default_factory=lambda: [Zone(name="a"), Zone(name="b")],
        description="Availability zones, one to seven, as letters or full names, in an order that never changes. A zone "
        "appended later is written {name: c, fromSlot: 13}, fromSlot being above the highest slot ever used.",
    )
    network: Network = Field(default_factory=Network)
    overlay: Overlay = Field(default_factory=Overlay)
    slaves: Slaves = Field(default_factory=Slaves)
    control: Control = Field(default_factory=Control)
    edge: Edge = Field(default_factory=Edge)
    consul: Consul = Field(default_factory=Consul)
    mesos: Mesos = Field(default_factory=Mesos)
    admin: Admin = Field(default_factory=Admin)
    image: Image = Field(default_factory=Image)
    aws_endpoint: (
        Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.-]+(:\d+)?$", examples=["http://169.254.169.250:4566"])] | None
    ) = Field(default=None, description="Where hosts reach AWS's API, if not at AWS: the embedded cloud's address.")
    tags: dict[str, str] = Field(default_factory=dict, description="Tags put on every resource that has tags.")

    def zone_name(self, zone: Zone) -> str:
        """The zone's full name: `a` in eu-west-1 is eu-west-1a."""
        return f"{self.region}{zone.name}" if len(zone.name) == 1 else zone.name

    @property
    def slots(self) -> list[int]:
        """The slots in use: the `slaves.count` lowest that are not retired, ascending."""
        retired = set(self.slaves.retired)
        slots: list[int] = []
        candidate = 1
        while len(slots) < self.slaves.count:
            if candidate not in retired:
                slots.append(candidate)
            candidate += 1
        return slots

    @property
    def overlay_mtu(self) -> int:
        """Bytes that fit into one frame of the overlay."""
        return self.overlay.mtu or self.network.mtu - DRIVERS[self.overlay.mesh].overhead


def parse(raw: Mapping[str, Any], source: str = "configuration") -> Settings:
    """The settings in `raw` (keys in camelCase), or PlanError with every problem found.

    A part that is malformed does not hide the others: it is taken as its default while the rest is checked, and checks
    that would rest on it are left out.
    """
    problems: list[Problem] = []
    broken: set[str] = set()
    usable = _copy(raw)
    while True:
        try:
            settings = Settings.model_validate(usable)
            break
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                problems.append(_problem(detail))
                location = _location(detail)
                instead = (detail.get("ctx") or {}).get("instead")
                _repair(usable, location, instead)
                if instead is None and detail["type"] != "extra_forbidden":
                    broken.add(".".join(str(part) for part in location[:2]))
    problems += [
        problem
        for keys, check in _CHECKS
        if not any(key == b or b.startswith(f"{key}.") or key.startswith(f"{b}.") for key in keys for b in broken)
        for problem in check(settings)
    ]
    if problems:
        unique = list(dict.fromkeys(problems))
        order = {name: place for place, name in enumerate(_aliases(Settings))}
        unique.sort(key=lambda p: order.get(re.split(r"[.\[]", p.key)[0], len(order)))
        raise PlanError(unique, source)
    return settings


# Checks across keys. Each names the keys it rests on, and is left out while one of them is malformed.


def _check_ranges(s: Settings) -> Iterator[Problem]:
    vpc, overlay = s.network.cidr, s.overlay.cidr
    if vpc.prefixlen > 21:
        yield Problem("network.cidr", f"{vpc} is too small for seven zones' subnets; give a /16 to /21 such as 10.0.0.0/16")
    for key, network in (("network.cidr", vpc), ("overlay.cidr", overlay)):
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
        yield Problem("overlay.cidr", f"{overlay} overlaps network.cidr {vpc}; give a range outside it such as {_outside(vpc)}")


def _check_host_prefix(s: Settings) -> Iterator[Problem]:
    prefix, overlay = s.overlay.host_prefix, s.overlay.cidr
    if prefix <= overlay.prefixlen:
        yield Problem(
            "overlay.hostPrefix",
            f"{prefix} is not longer than the prefix of overlay.cidr {overlay}; give {overlay.prefixlen + 1} to 30",
        )
    elif OverlayPlan(overlay, prefix).last_slot < 1:
        yield Problem(
            "overlay.hostPrefix",
            f"{prefix} leaves no slot in {overlay} beside sixteen infrastructure addresses; give a wider overlay.cidr, "
            "such as a /16 with 24",
        )


def _check_slots(s: Settings) -> Iterator[Problem]:
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
            f"{s.slaves.count} is more than this overlay holds; give 0 to {most} ({last} slots{less}), or a wider overlay.cidr",
        )


def _check_vpc_slots(s: Settings) -> Iterator[Problem]:
    if s.network.cidr.prefixlen > 21 or s.slaves.count > 1 << 20:
        return
    slots, last = s.slots, VpcPlan(s.network.cidr).last_slot
    if slots and slots[-1] > last:
        yield Problem(
            "slaves.count",
            f"{s.slaves.count} needs slot {slots[-1]}, which does not fit its zone's subnet "
            f"({VpcPlan(s.network.cidr).private_subnet(0)}); slots end at {last}, so give fewer or a wider network.cidr",
        )


def _check_zones(s: Settings) -> Iterator[Problem]:
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
                yield Problem(key, f"{zone.name} stands after an appended zone; give it a fromSlot of {previous} or more")
            continue
        if place == 0:
            yield Problem(key, f"{zone.name} is the first zone and serves from slot 1; leave fromSlot out")
        if zone.from_slot < previous:
            yield Problem(key, f"fromSlot {zone.from_slot} is below the zone before it; give {previous} or more")
        previous = max(previous, zone.from_slot)


def _check_control(s: Settings) -> Iterator[Problem]:
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


def _check_mesos(s: Settings) -> Iterator[Problem]:
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


def _check_mtu(s: Settings) -> Iterator[Problem]:
    most = s.network.mtu - DRIVERS[s.overlay.mesh].overhead
    if s.overlay.mtu is not None and s.overlay.mtu > most:
        yield Problem(
            "overlay.mtu",
            f"{s.overlay.mtu} does not fit the underlay's {s.network.mtu} bytes less {DRIVERS[s.overlay.mesh].overhead} "
            f"for {s.overlay.mesh}; give 576 to {most}, or leave it out",
        )


def _check_mesh(s: Settings) -> Iterator[Problem]:
    driver = DRIVERS[s.overlay.mesh]
    nodes = s.slaves.count + s.control.count + s.edge.count
    if nodes > driver.max_nodes:
        others = ", ".join(d.name for d in DRIVERS.values() if d.max_nodes >= nodes) or "none"
        yield Problem(
            "overlay.mesh",
            f"{driver.name} supports {driver.max_nodes} nodes and the stack has {nodes}; give fewer, "
            f"or a mesh that holds them: {others}",
        )


def _check_switch(s: Settings) -> Iterator[Problem]:
    if s.overlay.switch_from == s.overlay.mesh:
        yield Problem(
            "overlay.switchFrom", f"{s.overlay.mesh} is the new mesh too; give the old one, or leave it out when done"
        )


def _check_admin(s: Settings) -> Iterator[Problem]:
    for place, network in enumerate(s.admin.allowed_cidrs):
        if network.prefixlen < 8:
            yield Problem(
                f"admin.allowedCidrs[{place}]",
                f"{network} is the world or near it; give your own network, such as 203.0.113.7/32",
            )
    if s.admin.allowed_cidrs and not s.admin.public_key:
        yield Problem("admin.publicKey", "is missing, and admin.allowedCidrs opens SSH; give the key that may log in")


def _check_edge(s: Settings) -> Iterator[Problem]:
    seen: set[str] = set()
    for place, name in enumerate(s.edge.publish):
        if name in seen:
            yield Problem(f"edge.publish[{place}]", f"{name} is listed twice; list each service once")
        seen.add(name)


def _check_tags(s: Settings) -> Iterator[Problem]:
    for name in s.tags:
        if name.lower().startswith(("aws:", "apollo:")) or name == "Name" or not 1 <= len(name) <= 128:
            yield Problem(
                f"tags.{name}",
                "is not yours to set; give a name of 1 to 128 characters not starting with aws: or apollo:",
            )


_Check = Callable[[Settings], Iterator[Problem]]
_CHECKS: Sequence[tuple[tuple[str, ...], _Check]] = (
    (("network.cidr", "overlay.cidr"), _check_ranges),
    (("overlay.cidr", "overlay.hostPrefix"), _check_host_prefix),
    (("overlay.cidr", "overlay.hostPrefix", "slaves.count", "slaves.retired", "slaves.generations"), _check_slots),
    (("network.cidr", "slaves.count", "slaves.retired"), _check_vpc_slots),
    (("region", "zones"), _check_zones),
    (("control.count", "control.generations", "edge.generations"), _check_control),
    (("network.mtu", "overlay.mesh", "overlay.mtu"), _check_mtu),
    (("overlay.mesh", "slaves.count", "control.count", "edge.count"), _check_mesh),
    (("edge.publish",), _check_edge),
    (("mesos",), _check_mesos),
    (("overlay.mesh", "overlay.switchFrom"), _check_switch),
    (("admin",), _check_admin),
    (("tags",), _check_tags),
)


def check_aws_limits(settings: Settings, source: str = "configuration") -> None:
    """PlanError where AWS itself would refuse the plan. The plan's own arithmetic goes further than one VPC does."""
    vpc = settings.network.cidr
    if vpc.prefixlen < 16:
        text = f"{vpc} is larger than AWS allows for a VPC; give a /16 to /21 such as {vpc.ip}/16"
        raise PlanError([Problem("network.cidr", text)], source)


def _overlap(a: IPNetwork, b: IPNetwork) -> bool:
    return a in b or b in a


def _outside(vpc: IPNetwork) -> str:
    candidates = (IPNetwork(n) for n in ("10.2.0.0/16", "10.0.0.0/16", "172.20.0.0/16"))
    return str(next(n for n in candidates if not _overlap(n, vpc)))


# From pydantic's findings to problems.


def _location(detail: ErrorDetails) -> tuple[int | str, ...]:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _key(location: Sequence[int | str]) -> str:
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def _problem(detail: ErrorDetails) -> Problem:
    location = _location(detail)
    key, kind, context = _key(location), detail["type"], detail.get("ctx") or {}
    value = detail["input"]
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if kind == "extra_forbidden":
        known = _siblings(location)
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        prefix = _key(location[:-1])
        hint = f"did you mean {prefix + '.' if prefix else ''}{close[0]}?" if close else f"valid here: {', '.join(known)}"
        return Problem(key, f"unknown key; {hint}")
    if kind in ("cidr", "host_bits"):
        return Problem(key, f"{shown} {detail['msg']}")
    if kind in ("int_type", "int_parsing", "int_from_float"):
        return Problem(key, f"{shown} is not a whole number; give one such as 3")
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"{context['ge']} or more" if "ge" in context else f"at most {context['le']}"
        return Problem(key, f"{shown} is out of range; give {bound}")
    if kind == "literal_error":
        return Problem(key, f"{shown} is not a choice; give {context['expected']}")
    if kind in ("bool_type", "bool_parsing"):
        return Problem(key, f"{shown} is neither true nor false; give one of the two")
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return Problem(key, f"{shown} is not a set of keys; give key: value lines below it")
    if kind == "list_type":
        return Problem(key, f"{shown} is not a list; give one such as [1, 2]")
    if kind == "string_type":
        return Problem(key, f"{shown} is not text; give text in quotes")
    if kind == "string_pattern_mismatch":
        examples = _examples(location)
        return Problem(
            key,
            f"{shown} is malformed; give {'one such as ' + examples if examples else 'text matching ' + context['pattern']}",
        )
    return Problem(key, f"{shown}: {detail['msg']}")


def _aliases(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _siblings(location: Sequence[int | str]) -> list[str]:
    if len(location) == 1:
        return _aliases(Settings)
    if location[0] == "zones":
        return _aliases(Zone)
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        field = next((f for name, f in model.model_fields.items() if (f.alias or name) == part), None)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return _aliases(model)


def _examples(location: Sequence[int | str]) -> str:
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        if part == "zones" or isinstance(part, int):
            model = Zone
            continue
        annotation = next((f.annotation for n, f in model.model_fields.items() if (f.alias or n) == part), None)
        if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
            return ""
        model = annotation
    for name, field in model.model_fields.items():
        if (field.alias or name) == location[-1]:
            return str((field.examples or [""])[0])
    return ""


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _copy(v) for k, v in cast(Mapping[object, object], value).items()}
    if isinstance(value, list):
        return [_copy(v) for v in cast(list[object], value)]
    return value


def _repair(raw: Any, location: Sequence[int | str], instead: object) -> None:
    """Puts `instead` at the location, or takes the finding's nearest removable ancestor out."""
    holder: Any = raw
    path: list[tuple[Any, int | str]] = []
    for part in location:
        if isinstance(holder, dict):
            key = str(part)
            if key not in holder:
                break
            path.append((cast(dict[str, Any], holder), key))
            holder = cast(dict[str, Any], holder)[key]
        elif isinstance(holder, list) and isinstance(part, int) and part < len(cast(list[Any], holder)):
            path.append((cast(list[Any], holder), part))
            holder = cast(list[Any], holder)[part]
        else:
            break
    if instead is not None and len(path) == len(location):
        container, key = path[-1]
        container[key] = instead
        return
    # An element out of a list would renumber the ones behind it, so the whole list goes.
    while path and isinstance(path[-1][0], list):
        path.pop()
    if path:
        container, key = path[-1]
        container.pop(key, None)
