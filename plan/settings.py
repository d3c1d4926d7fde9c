"""The stack's settings, as models: each key with its type, its default and what a value of it alone may be.

Keys are those of Pulumi.<stack>.yaml under `apollo:`, in camelCase. Each field's description says what a value does and what
is valid; docs/settings.md has them as a table. plan/checks.py has what keys must be together, plan/parse.py reads both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, cast

from netaddr import AddrFormatError, IPNetwork
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from plan.addresses import AWS_RESERVED_AT_START, BLOCK, FIRST_HOST, MAX_EDGES, MAX_ZONES, Subnet, VpcPlan
from plan.mesh import DRIVERS

# Under `apollo:` like the settings, and none of them: config.py reads these.
SECRET_KEYS = ("secrets", "adminPrivateKey", "edgeCertificate")
# The one setting that is elsewhere, where Pulumi's provider reads it too.
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


NO_NUMBER = "is not a whole number; give one such as 3"


def _index(value: object) -> object:
    # A section reaches the program as JSON, where every key is text. A number has one spelling, so that none is given twice.
    if isinstance(value, str) and re.fullmatch(r"-?[1-9][0-9]{0,9}|0", value):
        return int(value)
    raise PydanticCustomError("index", NO_NUMBER)


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


def _first_host(value: int) -> int:
    if value < AWS_RESERVED_AT_START:
        known = {"kept": AWS_RESERVED_AT_START, "first": FIRST_HOST}
        raise PydanticCustomError(
            "first_host", "is among the first {kept} addresses of a subnet, which AWS keeps; give {first} or more", known
        )
    if value < FIRST_HOST or value % BLOCK:
        near = {"block": BLOCK, "near": max(FIRST_HOST, -(-value // BLOCK) * BLOCK)}
        raise PydanticCustomError(
            "first_host", "is no multiple of {block}, and reservations are blocks of that; give one such as {near}", near
        )
    return value


class ExistingSubnet(Section):
    id: Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$", examples=["subnet-0123456789abcdef0"])]
    cidr: Annotated[Cidr, Field(examples=["10.8.0.0/20"])]
    first_host: Annotated[StrictInt, AfterValidator(_first_host)] = FIRST_HOST

    @property
    def plan(self) -> Subnet:
        return Subnet(self.cidr, self.first_host)


class ExistingZone(Section):
    private: ExistingSubnet
    public: ExistingSubnet


class Existing(Section):
    """A VPC that another program made, and which of its subnets the hosts go into."""

    id: Annotated[str, Field(pattern=r"^vpc-[0-9a-f]{8,17}$", examples=["vpc-0123456789abcdef0"])] = Field(
        description="With `network.existing` the stack makes no VPC: the id of the one that it goes into."
    )
    cidr: Cidr = Field(description="That VPC's range, its first one where it has several.", examples=["10.8.0.0/16"])
    subnets: Annotated[dict[str, ExistingZone], Field(min_length=1, max_length=MAX_ZONES)] = Field(
        description="Zone → `{private: {id, cidr, firstHost}, public: {id, cidr, firstHost}}`, for every zone that it may "
        "have. firstHost (default 8, a multiple of 8): the offset in the subnet below which no host has an address.",
        examples=["{a: {private: {id: subnet-…, cidr: 10.8.0.0/20}, public: {id: subnet-…, cidr: 10.8.240.0/24}}}"],
    )
    s3_endpoint: StrictBool = Field(
        default=False, description="Make a gateway endpoint to S3 in that VPC where it has none for these subnets."
    )


class Network(Section):
    cidr: Cidr = Field(default=IPNetwork("10.0.0.0/16"), description="The VPC's range, /16 to /21.")
    existing: Existing | None = Field(default=None, description="A VPC that exists, instead of one of the stack's own.")
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
        "0: the header is not sent.",
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
        description="The service that answers for every host name without a service of its own; by default those get a 404.",
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

    def zone_name(self, zone: Zone | str) -> str:
        """The zone's full name: `a` in eu-west-1 is eu-west-1a."""
        name = zone if isinstance(zone, str) else zone.name
        return f"{self.region}{name}" if len(name) == 1 else name

    @property
    def existing_zones(self) -> dict[str, ExistingZone]:
        """The subnets of an existing VPC by the full names of their zones."""
        existing = self.network.existing
        return {self.zone_name(name): zone for name, zone in existing.subnets.items()} if existing else {}

    @property
    def vpc(self) -> VpcPlan:
        """The VPC's subnets. KeyError where a zone has none in `network.existing.subnets`, which is checked beforehand."""
        existing = self.network.existing
        if existing is None:
            return VpcPlan(self.network.cidr)
        found = self.existing_zones
        used = [self.zone_name(zone) for zone in self.zones]
        zones = [found[name] for name in (*used, *(name for name in found if name not in used))]
        return VpcPlan(existing.cidr, tuple((zone.private.plan, zone.public.plan) for zone in zones))

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
    def meshes(self) -> list[str]:
        """The mesh, and while the stack changes it the old one."""
        return [mesh for mesh in (self.overlay.mesh, self.overlay.switch_from) if mesh]

    @property
    def overlay_mtu(self) -> int:
        """Bytes that fit into one frame of the overlay."""
        return self.overlay.mtu or self.network.mtu - DRIVERS[self.overlay.mesh].overhead
