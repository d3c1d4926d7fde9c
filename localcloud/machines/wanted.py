"""What the cloud's API says should exist, read in one go into plain values. Nothing here touches the machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal

from localcloud.machines.errors import MachineError

# Addresses that moto picks by itself when an elastic address is allocated without one; they cannot be routed.
LOOPBACK = IPv4Network("127.0.0.0/8")
EVERYWHERE = IPv4Network("0.0.0.0/0")
BALANCERS = IPv4Network("192.0.2.0/24")
# Times that a look begins anew before what disturbs it is an error.
_DISTURBED = 9


@dataclass(frozen=True)
class Rule:
    """One permission of a security group. protocol: a name or number as the API gives it, "-1" for all.

    Ports are the API's: None where they do not apply; for icmp the type and the code, -1 for any.
    """

    direction: Literal["ingress", "egress"]
    protocol: str
    from_port: int | None
    to_port: int | None
    cidrs: tuple[IPv4Network, ...]
    group_ids: tuple[str, ...]


@dataclass(frozen=True)
class Nic:
    """A network interface that is attached to an instance, with everything that decides where its packets may go."""

    id: str
    mac: str
    instance_id: str
    device_index: int
    vpc_id: str
    subnet_id: str
    address: IPv4Address
    subnet: IPv4Network
    group_ids: tuple[str, ...]
    public_address: IPv4Address | None
    source_dest_check: bool

    @property
    def link(self) -> str:
        """The router's end of this interface's cable. At most 15 characters, so that Linux takes it."""
        return f"v{self.id.removeprefix('eni-')[-12:]}"

    @property
    def hostname(self) -> str:
        """Its name in the VPC, without the domain."""
        return f"ip-{str(self.address).replace('.', '-')}"


@dataclass(frozen=True)
class Route:
    """A route other than the VPC's own. target: an internet gateway, a NAT gateway or an interface, by id."""

    destination: IPv4Network
    target: str


@dataclass(frozen=True)
class Subnet:
    id: str
    vpc_id: str
    cidr: IPv4Network
    zone: str
    routes: tuple[Route, ...]

    @property
    def gateway(self) -> IPv4Address:
        return self.cidr[1]

    @property
    def default_target(self) -> str | None:
        """What the default route points to, or None in a subnet without a way out."""
        return next((route.target for route in self.routes if route.destination == EVERYWHERE), None)


@dataclass(frozen=True)
class Disk:
    """An EBS volume, attached to at most one instance. size: GiB. device: as attached, such as /dev/sdf."""

    id: str
    size: int
    instance_id: str | None
    device: str | None


@dataclass(frozen=True)
class Instance:
    id: str
    name: str
    state: str
    image_id: str
    instance_type: str
    zone: str
    key_name: str | None
    profile_arn: str | None
    hop_limit: int
    tokens_required: bool
    metadata_enabled: bool
    tags_in_metadata: bool
    nics: tuple[Nic, ...]
    disks: tuple[Disk, ...]
    tags: tuple[tuple[str, str], ...]
    launch_time: str

    @property
    def primary(self) -> Nic:
        return self.nics[0]


@dataclass(frozen=True)
class Target:
    address: IPv4Address
    port: int


@dataclass(frozen=True)
class TargetGroup:
    """Where a listener of a network load balancer leads. interval, timeout: seconds. check_port: None for the target's own.

    check_path: of an HTTP check, which 200 to 399 passes; None for a check that only connects. resets: whether a target that
    turns unhealthy loses its connections, as AWS has it by default.
    """

    arn: str
    targets: tuple[Target, ...]
    proxy_protocol: bool
    check_port: int | None
    check_path: str | None
    interval: float
    timeout: float
    healthy_threshold: int
    unhealthy_threshold: int
    resets: bool = True


@dataclass(frozen=True)
class Balancer:
    """A network load balancer. nics: one in each of its subnets. listeners: (port, where it leads)."""

    arn: str
    nics: tuple[Nic, ...]
    listeners: tuple[tuple[int, TargetGroup], ...]


@dataclass(frozen=True)
class Vpc:
    id: str
    cidr: IPv4Network

    @property
    def resolver(self) -> IPv4Address:
        return self.cidr[2]


@dataclass(frozen=True)
class Wanted:
    """A snapshot. Instances: those that are not terminated, by id. group_members: every interface's address, by group."""

    region: str
    vpcs: dict[str, Vpc] = field(default_factory=dict[str, Vpc])
    subnets: dict[str, Subnet] = field(default_factory=dict[str, Subnet])
    instances: dict[str, Instance] = field(default_factory=dict[str, Instance])
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict[str, tuple[Rule, ...]])
    group_members: dict[str, tuple[IPv4Address, ...]] = field(default_factory=dict[str, tuple[IPv4Address, ...]])
    nat_gateways: dict[str, tuple[str, IPv4Address]] = field(default_factory=dict[str, tuple[str, IPv4Address]])
    disks: dict[str, Disk] = field(default_factory=dict[str, Disk])
    balancers: dict[str, Balancer] = field(default_factory=dict[str, Balancer])

    @property
    def domain(self) -> str:
        """In which hosts have their names in a VPC."""
        return "ec2.internal" if self.region == "us-east-1" else f"{self.region}.compute.internal"

    def nics(self, vpc_id: str | None = None) -> list[Nic]:
        """The interfaces of load balancers and of instances that are running, in the order of their ids."""
        running = [i for i in self.instances.values() if i.state == "running"]
        holders = [*running, *self.balancers.values()]
        nics = [nic for holder in holders for nic in holder.nics if vpc_id in (None, nic.vpc_id)]
        return sorted(nics, key=lambda nic: nic.id)

    def leaves_as(self, nic: Nic) -> IPv4Address | None:
        """The public address this interface's packets carry on the internet, or None where they do not get there."""
        target = self.subnets[nic.subnet_id].default_target or ""
        if target.startswith("igw-"):
            return nic.public_address
        gateway = self.nat_gateways.get(target)
        if gateway is None:
            return None
        subnet_id, public = gateway
        # A NAT gateway in a subnet without an internet gateway is a common mistake; on AWS it carries nothing either.
        return public if (self.subnets[subnet_id].default_target or "").startswith("igw-") else None

    def reached_as(self, nic: Nic) -> IPv4Address | None:
        """The public address at which the internet reaches this interface, or None."""
        return nic.public_address if self.leaves_as(nic) == nic.public_address else None


def read(ec2: Any, elb: Any, region: str) -> Wanted:
    """Asks the API for all of it, and begins anew where something went or came between two of the calls that this takes.

    Raises MachineError for what the private network cannot carry, naming the resource.
    """
    from botocore.exceptions import ClientError

    from localcloud.api.client import says_absent

    for _ in range(_DISTURBED):
        try:
            return _read(ec2, elb, region)
        except (KeyError, ClientError) as error:
            # KeyError: a thing came after its kind was listed, and another names it.
            if isinstance(error, ClientError) and not says_absent(error):
                raise
    return _read(ec2, elb, region)


def _read(ec2: Any, elb: Any, region: str) -> Wanted:
    vpcs = {v["VpcId"]: Vpc(v["VpcId"], IPv4Network(v["CidrBlock"])) for v in _all(ec2, "describe_vpcs", "Vpcs")}
    tables = _all(ec2, "describe_route_tables", "RouteTables")
    subnets = {s["SubnetId"]: _subnet(s, tables) for s in _all(ec2, "describe_subnets", "Subnets")}
    volumes = _all(ec2, "describe_volumes", "Volumes")
    interfaces = {n["NetworkInterfaceId"]: n for n in _all(ec2, "describe_network_interfaces", "NetworkInterfaces")}
    instances: dict[str, Instance] = {}
    disks: dict[str, Disk] = {}
    for reservation in _all(ec2, "describe_instances", "Reservations"):
        for raw in reservation["Instances"]:
            if raw["State"]["Name"] in ("terminated", "shutting-down"):
                continue
            mine = tuple(_disks(raw, volumes))
            disks.update((disk.id, disk) for disk in mine)
            instances[raw["InstanceId"]] = _instance(raw, interfaces, subnets, mine)
    for volume in volumes:
        disks.setdefault(volume["VolumeId"], Disk(volume["VolumeId"], volume["Size"], None, None))
    members: dict[str, list[IPv4Address]] = {}
    for interface in interfaces.values():
        for group in interface.get("Groups", []):
            members.setdefault(group["GroupId"], []).append(IPv4Address(interface["PrivateIpAddress"]))
    taken = {IPv4Address(interface["PrivateIpAddress"]) for interface in interfaces.values()}
    balancers = _balancers(elb, subnets, taken)
    for balancer in balancers.values():
        for nic in balancer.nics:
            for group in nic.group_ids:
                members.setdefault(group, []).append(nic.address)
    groups = _all(ec2, "describe_security_groups", "SecurityGroups")
    return Wanted(
        region=region,
        vpcs=vpcs,
        subnets=subnets,
        instances=instances,
        rules={group["GroupId"]: tuple(_rules(group)) for group in groups},
        group_members={group: tuple(sorted(set(addresses))) for group, addresses in members.items()},
        nat_gateways=_nat_gateways(ec2),
        disks=disks,
        balancers=balancers,
    )


def _balancers(elb: Any, subnets: dict[str, Subnet], taken: set[IPv4Address]) -> dict[str, Balancer]:
    found: dict[str, Balancer] = {}
    public = set[IPv4Address]()
    for raw in sorted(_all(elb, "describe_load_balancers", "LoadBalancers"), key=lambda raw: raw["LoadBalancerArn"]):
        arn = raw["LoadBalancerArn"]
        if raw["Type"] != "network":
            continue
        nics: list[Nic] = []
        for zone in raw["AvailabilityZones"]:
            subnet = subnets[zone["SubnetId"]]
            # The API here makes no interfaces for balancers. Theirs take the highest free addresses of the subnets.
            address = next(a for a in (subnet.cidr[-n] for n in range(2, subnet.cidr.num_addresses)) if a not in taken)
            taken.add(address)
            digest = hashlib.sha256(f"{arn} {subnet.id}".encode()).hexdigest()
            # Its public address, out of TEST-NET-1: elastic addresses here are of TEST-NET-3.
            place = int(digest[:8], 16)
            outside = next(a for n in range(254) if (a := BALANCERS[1 + (place + n) % 254]) not in public)
            public.add(outside)
            nics.append(
                Nic(
                    id=f"eni-{digest[:17]}",
                    mac=f"02:{digest[17:19]}:{digest[19:21]}:{digest[21:23]}:{digest[23:25]}:{digest[25:27]}",
                    instance_id=arn,
                    device_index=0,
                    vpc_id=subnet.vpc_id,
                    subnet_id=subnet.id,
                    address=address,
                    subnet=subnet.cidr,
                    group_ids=tuple(sorted(raw.get("SecurityGroups", []))),
                    public_address=outside if raw.get("Scheme", "internet-facing") == "internet-facing" else None,
                    source_dest_check=True,
                )
            )
        listeners = elb.describe_listeners(LoadBalancerArn=arn)["Listeners"]
        leads = sorted((int(raw["Port"]), raw["DefaultActions"][0]["TargetGroupArn"]) for raw in listeners)
        found[arn] = Balancer(arn, tuple(nics), tuple((port, _target_group(elb, group)) for port, group in leads))
    return found


_TERMINATION = "target_health_state.unhealthy.connection_termination.enabled"


def _target_group(elb: Any, arn: str) -> TargetGroup:
    raw = elb.describe_target_groups(TargetGroupArns=[arn])["TargetGroups"][0]
    attributes = elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
    health = elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    targets = {(IPv4Address(h["Target"]["Id"]), int(h["Target"].get("Port") or raw["Port"])) for h in health}
    port = str(raw.get("HealthCheckPort") or "traffic-port")
    return TargetGroup(
        arn=arn,
        targets=tuple(Target(*target) for target in sorted(targets)),
        proxy_protocol=any(a["Key"] == "proxy_protocol_v2.enabled" and a["Value"] == "true" for a in attributes),
        check_port=None if port == "traffic-port" else int(port),
        check_path=raw.get("HealthCheckPath") or "/" if raw.get("HealthCheckProtocol") == "HTTP" else None,
        interval=float(raw.get("HealthCheckIntervalSeconds") or 30),
        timeout=float(raw.get("HealthCheckTimeoutSeconds") or 6),
        healthy_threshold=int(raw.get("HealthyThresholdCount") or 5),
        unhealthy_threshold=int(raw.get("UnhealthyThresholdCount") or 2),
        resets={"Key": _TERMINATION, "Value": "false"} not in attributes,
    )


def _all(client: Any, operation: str, key: str) -> list[dict[str, Any]]:
    return [item for page in client.get_paginator(operation).paginate() for item in page.get(key, [])]


def _subnet(raw: dict[str, Any], tables: list[dict[str, Any]]) -> Subnet:
    own: dict[str, Any] | None = None
    main: dict[str, Any] | None = None
    for table in tables:
        for association in table.get("Associations", []):
            if association.get("SubnetId") == raw["SubnetId"]:
                own = table
            elif association.get("Main") and table["VpcId"] == raw["VpcId"]:
                main = table
    routes: list[Route] = []
    for route in (own or main or {}).get("Routes", []):
        target = route.get("GatewayId") or route.get("NatGatewayId") or route.get("NetworkInterfaceId")
        if target and target != "local" and "DestinationCidrBlock" in route:
            routes.append(Route(IPv4Network(route["DestinationCidrBlock"]), target))
    return Subnet(raw["SubnetId"], raw["VpcId"], IPv4Network(raw["CidrBlock"]), raw["AvailabilityZone"], tuple(routes))


def _nat_gateways(ec2: Any) -> dict[str, tuple[str, IPv4Address]]:
    found: dict[str, tuple[str, IPv4Address]] = {}
    for gateway in _all(ec2, "describe_nat_gateways", "NatGateways"):
        addresses = [a["PublicIp"] for a in gateway.get("NatGatewayAddresses", []) if a.get("PublicIp")]
        if gateway["State"] == "available" and addresses:
            found[gateway["NatGatewayId"]] = (gateway["SubnetId"], _public(addresses[0], gateway["NatGatewayId"]))
    return found


def _instance(
    raw: dict[str, Any], interfaces: dict[str, dict[str, Any]], subnets: dict[str, Subnet], disks: tuple[Disk, ...]
) -> Instance:
    nics: list[Nic] = []
    for entry in raw.get("NetworkInterfaces", []):
        # The instance's own copy lags behind: groups and addresses are those of the interface.
        nic: dict[str, Any] = interfaces.get(entry["NetworkInterfaceId"]) or entry
        subnet = subnets[nic["SubnetId"]]
        public = nic.get("Association", {}).get("PublicIp")
        nics.append(
            Nic(
                id=nic["NetworkInterfaceId"],
                mac=nic["MacAddress"],
                instance_id=raw["InstanceId"],
                device_index=entry["Attachment"]["DeviceIndex"],
                vpc_id=subnet.vpc_id,
                subnet_id=subnet.id,
                address=IPv4Address(nic["PrivateIpAddress"]),
                subnet=subnet.cidr,
                group_ids=tuple(sorted(group["GroupId"] for group in nic.get("Groups", []))),
                public_address=_public(public, nic["NetworkInterfaceId"]) if public else None,
                source_dest_check=nic.get("SourceDestCheck", True) and raw.get("SourceDestCheck", True),
            )
        )
    if not nics:
        raise MachineError(f"instance {raw['InstanceId']} has no network interface; launch it into a subnet of a VPC")
    tags = {tag["Key"]: tag["Value"] for tag in raw.get("Tags", [])}
    options = raw.get("MetadataOptions", {})
    return Instance(
        id=raw["InstanceId"],
        # What `status` calls it; the Name is the cosmetic one.
        name=tags.get("apollo:host") or tags.get("Name") or raw["InstanceId"],
        state=raw["State"]["Name"],
        image_id=raw["ImageId"],
        instance_type=raw["InstanceType"],
        zone=raw["Placement"]["AvailabilityZone"],
        key_name=raw.get("KeyName") or None,
        profile_arn=(raw.get("IamInstanceProfile") or {}).get("Arn"),
        hop_limit=int(options.get("HttpPutResponseHopLimit") or 1),
        tokens_required=options.get("HttpTokens") == "required",
        metadata_enabled=options.get("HttpEndpoint", "enabled") == "enabled",
        tags_in_metadata=options.get("InstanceMetadataTags") == "enabled",
        nics=tuple(sorted(nics, key=lambda nic: nic.device_index)),
        disks=disks,
        tags=tuple(sorted(tags.items())),
        launch_time=raw["LaunchTime"].strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _disks(raw: dict[str, Any], volumes: list[dict[str, Any]]) -> list[Disk]:
    root = raw.get("RootDeviceName") or "/dev/sda1"
    return [
        # The root disk is the machine's own file system, made from the image.
        Disk(volume["VolumeId"], volume["Size"], raw["InstanceId"], None if at["Device"] == root else at["Device"])
        for volume in volumes
        for at in volume.get("Attachments", [])
        if at.get("InstanceId") == raw["InstanceId"] and at.get("State") in ("attached", "attaching")
    ]


def _rules(group: dict[str, Any]) -> list[Rule]:
    # The API refuses what is not enforced here, such as prefix lists.
    directions: dict[Literal["ingress", "egress"], str] = {"ingress": "IpPermissions", "egress": "IpPermissionsEgress"}
    return [
        Rule(
            direction,
            str(permission["IpProtocol"]),
            permission.get("FromPort"),
            permission.get("ToPort"),
            tuple(IPv4Network(entry["CidrIp"], strict=False) for entry in permission.get("IpRanges", [])),
            tuple(pair["GroupId"] for pair in permission.get("UserIdGroupPairs", [])),
        )
        for direction, key in directions.items()
        for permission in group.get(key, [])
    ]


def _public(address: str, owner: str) -> IPv4Address:
    value = IPv4Address(address)
    if value in LOOPBACK:
        raise MachineError(
            f"{owner}: the elastic address {address} is a loopback address and cannot be routed; "
            "allocate it with Address= from 203.0.113.0/24"
        )
    return value
