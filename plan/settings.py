"""The stack's settings: every check of the input, all problems in one PlanError, before anything is created.

Keys are those of Pulumi.<stack>.yaml under `apollo:`, in camelCase. Each field's description says what a value does and what
is valid; the README's table is made from them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from netaddr import AddrFormatError, IPNetwork
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
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
# Under `apollo:` like the settings, and none of them: config.py reads these.
SECRET_KEYS = ("secrets", "adminPrivateKey", "edgeCertificate")
# The one setting that stands elsewhere, where Pulumi's provider reads it too.
REGION_KEY = "aws:region"


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


_NO_NUMBER = "is not a whole number; give one such as 3"


def _index(value: object) -> object:
    # A section reaches the program as JSON, where every key is text. A number has one spelling, so that none is given twice.
    if isinstance(value, str) and re.fullmatch(r"-?[1-9][0-9]{0,9}|0", value):
        return int(value)
    raise PydanticCustomError("index", _NO_NUMBER)


Cidr = Annotated[IPNetwork, BeforeValidator(_network)]
Index = Annotated[int, BeforeValidator(_index)]
# Numbers and truth values are strict everywhere: else `count: true` would quietly plan one slave.
Generation = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
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
    from_slot: Annotated[StrictInt, Field(ge=2)] | None = None


def _zone(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping | Zone):
        return cast(object, value)
    raise PydanticCustomError("zone", "is not a zone; give a letter such as a, or {name: c, fromSlot: 13}")


_WEAVE_FROM = (
    r"^(https?://[A-Za-z0-9./:_-]+@sha256:[0-9a-f]{64}"
    r"|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d+)?/[a-z0-9._/-]+(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?)$"
)


class Network(Section):
    cidr: Cidr = Field(default=IPNetwork("10.0.0.0/16"), description="The VPC's range, /16 to /21.")
    nat: Literal["single", "perZone"] = Field(
        default="single", description="One NAT gateway for all zones, or one in each (no zone depends on another)."
    )
    flow_logs: Literal["none", "reject", "all"] = Field(
        default="none",
        description="Records of the VPC's traffic, 30 days in CloudWatch Logs: `none`, what was refused (`reject`) or `all`.",
    )
    mtu: Annotated[StrictInt, Field(ge=1280, le=9001)] = Field(
        default=9001, description="MTU of the hosts' uplinks in bytes, 1280 to 9001 (EC2's jumbo frames)."
    )


class Overlay(Section):
    cidr: Cidr = Field(default=IPNetwork("10.2.0.0/16"), description="The overlay's range: all containers and bridges.")
    host_prefix: Annotated[StrictInt, Field(le=30, ge=2)] = Field(
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
    mtu: Annotated[StrictInt, Field(ge=576, le=9001)] | None = Field(
        default=None,
        description="MTU inside the overlay in bytes; by default network.mtu less the mesh's overhead, the most that fits.",
    )


class Slaves(Section):
    count: Annotated[StrictInt, Field(ge=0)] = Field(
        default=3, description="How many slaves: the lowest slots that are not retired."
    )
    retired: list[StrictInt] = Field(
        default_factory=list[int], description="Slots taken out of use for ever.", examples=[[2, 5]]
    )
    instance_type: InstanceType = Field(default="t3.medium", description="EC2 instance type.")
    root_gib: Annotated[StrictInt, Field(ge=8, le=16384)] = Field(default=20, description="Root disk in GiB.")
    data_gib: Annotated[StrictInt, Field(ge=1, le=16384)] = Field(
        default=40, description="Data disk in GiB: Docker's data and Mesos's work directory."
    )
    generations: dict[Index, Generation] = Field(
        default_factory=dict, description="Slot → generation (from 1). Raising one replaces just that slave."
    )


class Control(Section):
    count: StrictInt = Field(default=3, description="Consul servers and Mesos masters: 1, 3 or 5.")
    instance_type: InstanceType = Field(default="t3.small", description="EC2 instance type.")
    root_gib: Annotated[StrictInt, Field(ge=8, le=16384)] = Field(default=20, description="Root disk in GiB.")
    data_gib: Annotated[StrictInt, Field(ge=1, le=16384)] = Field(
        default=10, description="Data disk in GiB: raft and ZooKeeper."
    )
    generations: dict[Index, Generation] = Field(
        default_factory=dict, description="Control node → generation (from 1). Raising one replaces just that node."
    )


class EdgeTls(Section):
    enabled: StrictBool = Field(
        default=False, description="The edge serves HTTPS too, with the certificate in `apollo:edgeCertificate`."
    )
    redirect: StrictBool = Field(default=True, description="With TLS, requests by HTTP are sent to HTTPS.")
    # RFC 6797. Mozilla recommends two years, 63072000. A browser that has seen it does not come by HTTP until it is over.
    hsts: Annotated[StrictInt, Field(ge=0, le=63_072_000)] = Field(
        default=0,
        description="Seconds for which browsers keep to HTTPS after an answer (`Strict-Transport-Security`), such as 63072000; "
        "0 says nothing of it.",
    )


class EdgeClient(Section):
    """What one source address may take of each edge; behind the load balancer, the client's own. 0: no limit."""

    connections: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = Field(
        default=1000, description="Connections that one address may have open at an edge; more are closed. 0: no limit."
    )
    requests: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = Field(
        default=1000,
        description="Requests a second, over ten seconds, that one address may send to an edge; more get a 429. 0: no limit.",
    )


class Edge(Section):
    count: Annotated[StrictInt, Field(ge=1, le=MAX_EDGES)] = Field(
        default=1, description="Edges, 1 to 10. One has an elastic address; several stand behind a network load balancer."
    )
    domain: DnsName = Field(default="apollo.test", description="Services answer at <service>.<domain>.")
    publish: list[ServiceName] = Field(
        default_factory=list[str],
        description="Services that are published although they do not have the tag `public`.",
        examples=[["web", "api"]],
    )
    default_service: ServiceName | None = Field(
        default=None,
        description="The service that answers for every host name nobody has; by default those get a 404.",
        examples=["web"],
    )
    tls: EdgeTls = Field(default_factory=EdgeTls)
    client: EdgeClient = Field(default_factory=EdgeClient)
    deletion_protection: StrictBool = Field(
        default=False,
        description="AWS refuses to delete the load balancer. Set it to false and run `pulumi up` before `destroy`.",
    )
    instance_type: InstanceType = Field(default="t3.small", description="EC2 instance type.")
    root_gib: Annotated[StrictInt, Field(ge=8, le=16384)] = Field(default=20, description="Root disk in GiB.")
    generations: dict[Index, Generation] = Field(
        default_factory=dict, description="Edge → generation (from 1). Raising one replaces just that edge."
    )


class Consul(Section):
    datacenter: DnsLabel = Field(default="dc1", description="Consul's datacenter name.")
    domain: DnsName = Field(default="consul", description="Consul's DNS domain.")
    tls: StrictBool = Field(
        default=False,
        description="Consul's agents and servers talk TLS, each with a certificate. A running stack keeps what it has.",
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
        default=None,
        description="For `packages`: the apt repository, such as `https://apt.example.com/mesos bookworm main`.",
        examples=["https://apt.example.com/mesos bookworm main"],
    )
    repository_key: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9./:_@+-]+$")] | None = Field(
        default=None,
        description="For `packages`: URL of the key that the repository is signed with.",
        examples=["https://apt.example.com/mesos.gpg"],
    )
    repository_fingerprint: Annotated[str, Field(pattern=r"^[0-9A-F]{40}$")] | None = Field(
        default=None,
        description="For `packages`: that key's fingerprint, 40 hexadecimal digits in capitals.",
        examples=["0123456789ABCDEF0123456789ABCDEF01234567"],
    )
    packages: list[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]+(=[A-Za-z0-9.+:~-]+)?$", examples=["mesos"])]] = Field(
        default_factory=lambda: ["mesos", "marathon"],
        description="For `packages`: their names, each with or without `=version`.",
        examples=[["mesos", "marathon"]],
    )
    published: list[Literal["marathon", "mesos-master"]] = Field(
        default_factory=list[Literal["marathon", "mesos-master"]],
        description="Which of `marathon` and `mesos-master` the edge publishes; none by default. Both ask for a password.",
        examples=[["marathon"]],
    )


class Admin(Section):
    allowed_cidrs: list[Cidr] = Field(
        default_factory=list[IPNetwork],
        description="Networks that may reach SSH on the edge; none by default, never the world.",
        examples=[["203.0.113.7/32"]],
    )
    agent: StrictBool = Field(
        default=False, description="Readiness is checked with the keys of the SSH agent instead of `apollo:adminPrivateKey`."
    )
    public_key: Annotated[str, Field(pattern=r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-\S+) [A-Za-z0-9+/=]+( .*)?$")] | None = Field(
        default=None,
        description="The administrators' SSH public key, in OpenSSH's one-line form.",
        examples=["ssh-ed25519 AAAAC3Nz… name"],
    )


class Image(Section):
    baked: StrictBool = Field(default=False, description="Packages are already in the image; the first boot installs none.")
    id: Annotated[str, Field(pattern=r"^ami-[0-9a-f]{8,17}$")] | None = Field(
        default=None,
        description="A fixed AMI; by default the newest that matches owner and name.",
        examples=["ami-0123456789abcdef0"],
    )
    owner: Annotated[str, Field(pattern=r"^(\d{12}|self|amazon|aws-marketplace)$")] = Field(
        default="136693071363", description="Account that owns the AMI (default: Debian's).", examples=["136693071363"]
    )
    name: Annotated[str, Field(min_length=3)] = Field(default="debian-12-amd64-*", description="Name pattern of the AMI.")


class Settings(Section):
    """All settings of a stack. All but the region have a default."""

    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", examples=["eu-west-1"])] = Field(
        description="AWS region of the main partition (the stack's `aws:region`)."
    )
    zones: Annotated[list[Annotated[Zone, BeforeValidator(_zone)]], Field(min_length=1, max_length=MAX_ZONES)] = Field(
        default_factory=lambda: [Zone(name="a"), Zone(name="b")],
        description="Availability zones, one to seven, as letters or full names, in an order that never changes. A zone "
        "appended later is written {name: c, fromSlot: 13}, fromSlot being above the highest slot ever used.",
        examples=[["a", "b"]],
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
    aws_endpoint: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.-]+(:\d+)?$")] | None = Field(
        default=None,
        description="Where hosts reach AWS's API, if not at AWS: the embedded cloud's address.",
        examples=["http://169.254.169.250:4566"],
    )
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
    """The settings in `raw` (keys in camelCase), or PlanError with every problem found."""
    settings, problems = examine(raw)
    refuse(problems, source)
    return settings


def examine(raw: Mapping[str, Any]) -> tuple[Settings, list[Problem]]:
    """The settings in `raw` (keys in camelCase), and every problem found; with one, they are only good for further checks.

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
                if location == ("region",):
                    # It has no default. The rest is checked as if this were given.
                    usable["region"] = "eu-west-1"
                if instead is None and detail["type"] != "extra_forbidden":
                    broken.add(".".join(str(part) for part in location[:2]))
    problems += [
        problem
        for keys, check in _CHECKS
        if not any(key == b or b.startswith(f"{key}.") or key.startswith(f"{b}.") for key in keys for b in broken)
        for problem in check(settings)
    ]
    return settings, problems


def refuse(problems: Iterable[Problem], source: str) -> None:
    """PlanError with the problems, each once and in the order of the keys, if there are any."""
    order = {name: place for place, name in enumerate([REGION_KEY, *_aliases(Settings), *SECRET_KEYS])}
    unique = sorted(dict.fromkeys(problems), key=lambda p: order.get(re.split(r"[.\[]", p.key)[0], len(order)))
    if unique:
        raise PlanError(unique, source)


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
            f"{s.slaves.count} is more than this overlay holds; give 0 to {most} ({last} slots{less}), "
            "or create a new stack with a wider overlay.cidr",
        )


def _check_vpc_slots(s: Settings) -> Iterator[Problem]:
    if s.network.cidr.prefixlen > 21 or s.slaves.count > 1 << 20:
        return
    slots, last = s.slots, VpcPlan(s.network.cidr).last_slot
    if slots and slots[-1] > last:
        yield Problem(
            "slaves.count",
            f"{s.slaves.count} needs slot {slots[-1]}, which does not fit its zone's subnet "
            f"({VpcPlan(s.network.cidr).private_subnet(0)}); slots end at {last}, so give fewer, or create a "
            "new stack with a wider network.cidr",
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
        if network in s.admin.allowed_cidrs[:place]:
            yield Problem(f"admin.allowedCidrs[{place}]", f"{network} is listed twice; list each network once")
        if network.prefixlen < 8:
            yield Problem(
                f"admin.allowedCidrs[{place}]",
                f"{network} is the world or near it; give your own network, such as 203.0.113.7/32",
            )
    if s.admin.allowed_cidrs and not s.admin.public_key:
        yield Problem("admin.publicKey", "is missing, and admin.allowedCidrs opens SSH; give the key that may log in")


def _check_edge(s: Settings) -> Iterator[Problem]:
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
    (("network.cidr", "overlay.cidr"), _check_ranges),
    (("overlay.cidr", "overlay.hostPrefix"), _check_host_prefix),
    (("overlay.cidr", "overlay.hostPrefix", "slaves.count", "slaves.retired", "slaves.generations"), _check_slots),
    (("network.cidr", "slaves.count", "slaves.retired"), _check_vpc_slots),
    (("region", "zones"), _check_zones),
    (("control.count", "control.generations", "edge.generations"), _check_control),
    (("network.mtu", "overlay.mesh", "overlay.mtu"), _check_mtu),
    (("overlay.mesh", "slaves.count", "control.count", "edge.count"), _check_mesh),
    (("edge.publish", "edge.tls", "edge.count", "edge.deletionProtection"), _check_edge),
    (("mesos",), _check_mesos),
    (("overlay.mesh", "overlay.switchFrom"), _check_switch),
    (("admin",), _check_admin),
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


# From pydantic's findings to problems.


def _location(detail: ErrorDetails) -> tuple[int | str, ...]:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _key(location: Sequence[int | str]) -> str:
    if tuple(location) == ("region",):
        return REGION_KEY
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def _shown(value: object) -> str:
    """The value as it stands in YAML, cut where it is long, on one line."""
    if isinstance(value, str):
        text = value if value.isprintable() and value == value.strip() != "" else json.dumps(value, ensure_ascii=False)
    else:
        text = str(value) if isinstance(value, IPNetwork) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _problem(detail: ErrorDetails) -> Problem:
    location = _location(detail)
    key, kind = _key(location), detail["type"]
    if kind == "extra_forbidden":
        return Problem(key, _unknown(location))
    if kind == "missing":
        return Problem(key, f"is missing; give one such as {_example(location)}")
    what = detail["msg"] if kind in ("cidr", "host_bits", "index", "zone") else _what(detail, _example(location))
    return Problem(key, f"{_shown(detail['input'])} {what}")


def _what(detail: ErrorDetails, example: str) -> str:
    """What is wrong with a value, and what would do."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx") or {}
    if kind == "int_type":
        quoted = isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value)
        return "is text, not a whole number; give it without quotes" if quoted else _NO_NUMBER
    if kind == "bool_type":
        quoted = value in ("true", "false")
        return "is text; give it without quotes" if quoted else "is neither true nor false; give one of the two"
    if kind == "greater_than_equal":
        return f"is out of range; give {context['ge']} or more"
    if kind == "less_than_equal":
        return f"is out of range; give at most {context['le']}"
    if kind == "literal_error":
        return f"is not a choice; give {context['expected']}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "is not a set of keys; give key: value lines below it"
    if kind == "list_type":
        return f"is not a list; give one such as {example}"
    if kind == "too_short":
        return f"is empty; give one such as {example}"
    if kind == "too_long":
        return f"has {context['actual_length']} entries; give at most {context['max_length']}"
    if kind == "string_type":
        return "is not text; give text in quotes"
    if kind in ("string_too_short", "string_too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        return f"is too {f'short; give {least} characters or more' if least else f'long; give {most} characters at most'}"
    if kind == "string_pattern_mismatch":
        return f"is malformed; give {f'one such as {example}' if example else 'text matching ' + context['pattern']}"
    return f"does not fit ({detail['msg']}); the table of settings in README.md says what does"


def _unknown(location: Sequence[int | str]) -> str:
    known = _top() if len(location) == 1 else _aliases(_model(location[:-1]))
    word, section = str(location[-1]), _key(location[:-1])
    close = _closest(word, [*known, REGION_KEY] if len(location) == 1 else known)
    if not close:
        return f"unknown key; valid here: {', '.join(known)}"
    return f"unknown key; did you mean {' or '.join(f'{section}.{name}' if section else name for name in close)}?"


def _closest(word: str, known: Sequence[str]) -> list[str]:
    """The name most like the word, and one that is nearly as much: adminKey may be meant for admin or for adminPrivateKey."""
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.5)
    likeness = [difflib.SequenceMatcher(None, name, word).ratio() for name in close]
    return [name for name, ratio in zip(close, likeness, strict=True) if ratio > likeness[0] - 0.1]


def _top() -> list[str]:
    """What may stand under `apollo:`."""
    return [*(name for name in _aliases(Settings) if name != "region"), *SECRET_KEYS]


def _aliases(model: type[BaseModel] | None) -> list[str]:
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _field(model: type[BaseModel] | None, alias: int | str) -> FieldInfo | None:
    fields = {} if model is None else model.model_fields
    return next((field for name, field in fields.items() if (field.alias or name) == alias), None)


def _model(path: Sequence[int | str]) -> type[BaseModel] | None:
    """The section at the path, None where there are values."""
    model: type[BaseModel] | None = Settings
    for part in path:
        if isinstance(part, str):
            field = _field(model, part)
            inside = Zone if part == "zones" else field and field.annotation
            model = inside if isinstance(inside, type) and issubclass(inside, BaseModel) else None
    return model


def _example(location: Sequence[int | str]) -> str:
    """A good value for the key, as YAML; for an element of a list a good element. Empty where the field has none."""
    names = [part for part in location if isinstance(part, str)]
    field = _field(_model(names[:-1]), names[-1])
    example: Any = ((field and field.examples) or [""])[0]
    if isinstance(example, list):
        entries = [str(entry) for entry in cast(list[object], example)]
        return entries[0] if isinstance(location[-1], int) else f"[{', '.join(entries)}]"
    return str(example)


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
