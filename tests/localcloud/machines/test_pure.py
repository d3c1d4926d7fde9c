"""What needs no machine: the filter's text and its meaning, DHCP answers, the reading of the API, the checks."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import boto3
import pytest
from moto import mock_aws

from localcloud.api import moto_policies
from localcloud.machines import image, network, wanted
from localcloud.machines.balancer import Health, proxy_header
from localcloud.machines.dhcp import ACK, DISCOVER, INFORM, MAGIC, NAK, OFFER, REQUEST, Lease, answer
from localcloud.machines.errors import MachineError
from localcloud.machines.machine import tail
from localcloud.machines.metadata import Metadata
from localcloud.machines.network import tracked
from localcloud.machines.security_groups import Flow, allowed, ruleset
from localcloud.machines.wanted import Nic, Route, Rule, Subnet, Target, TargetGroup, Vpc, Wanted

VPC = IPv4Network("10.0.0.0/16")
PRIVATE = IPv4Network("10.0.0.0/19")
WORLD = IPv4Network("0.0.0.0/0")
NAT = IPv4Address("203.0.113.1")


def nic(number: int, group: str, subnet: str = "subnet-private", public: str | None = None, checked: bool = True) -> Nic:
    address = IPv4Address(f"10.0.0.{number}")
    return Nic(
        id=f"eni-{number:017x}",
        mac=f"02:00:00:00:00:{number:02x}",
        instance_id=f"i-{number}",
        device_index=0,
        vpc_id="vpc-1",
        subnet_id=subnet,
        address=address,
        subnet=PRIVATE,
        group_ids=(group,),
        public_address=IPv4Address(public) if public else None,
        source_dest_check=checked,
    )


def instance(interface: Nic) -> wanted.Instance:
    return wanted.Instance(
        id=interface.instance_id,
        name=f"host-{interface.instance_id}",
        state="running",
        image_id="ami-1",
        instance_type="t3.small",
        zone="eu-west-1a",
        key_name=None,
        profile_arn=None,
        hop_limit=1,
        tokens_required=True,
        metadata_enabled=True,
        tags_in_metadata=False,
        nics=(interface,),
        disks=(),
        tags=(),
        launch_time="2026-01-01T00:00:00Z",
    )


def state(nics: list[Nic], rules: dict[str, tuple[Rule, ...]], **more: Any) -> Wanted:
    members: dict[str, tuple[IPv4Address, ...]] = {}
    for interface in nics:
        for group in interface.group_ids:
            members[group] = (*members.get(group, ()), interface.address)
    subnets = {
        "subnet-private": Subnet("subnet-private", "vpc-1", PRIVATE, "eu-west-1a", (Route(WORLD, "nat-1"),)),
        "subnet-public": Subnet("subnet-public", "vpc-1", PRIVATE, "eu-west-1a", (Route(WORLD, "igw-1"),)),
    }
    return Wanted(
        region="eu-west-1",
        vpcs={"vpc-1": Vpc("vpc-1", VPC)},
        subnets=subnets,
        instances={interface.instance_id: instance(interface) for interface in nics},
        rules=rules,
        group_members=members,
        nat_gateways={"nat-1": ("subnet-public", NAT)},
        **more,
    )


def ingress(protocol: str, ports: tuple[int, int] | None = None, *, cidrs: list[str] = [], groups: list[str] = []) -> Rule:  # noqa: B006
    networks = tuple(IPv4Network(cidr) for cidr in cidrs)
    return Rule("ingress", protocol, ports and ports[0], ports and ports[1], networks, tuple(groups))


EGRESS_ALL = Rule("egress", "-1", None, None, (WORLD,), ())


def flow(protocol: int, source: int, destination: int, port: int | None = None) -> Flow:
    return Flow(protocol, IPv4Address(f"10.0.0.{source}"), IPv4Address(f"10.0.0.{destination}"), port)


@pytest.mark.parametrize(
    ("rule", "candidate", "passes"),
    [
        (ingress("tcp", (80, 80), groups=["a"]), flow(6, 1, 2, 80), True),
        (ingress("tcp", (80, 80), groups=["a"]), flow(6, 1, 2, 81), False),
        (ingress("tcp", (80, 80), groups=["a"]), flow(17, 1, 2, 80), False),
        (ingress("tcp", (80, 80), groups=["b"]), flow(6, 1, 2, 80), False),
        (ingress("tcp", (1000, 2000), cidrs=["10.0.0.0/24"]), flow(6, 1, 2, 2000), True),
        (ingress("tcp", (1000, 2000), cidrs=["10.0.1.0/24"]), flow(6, 1, 2, 2000), False),
        (ingress("50", groups=["a"]), flow(50, 1, 2), True),
        (ingress("50", groups=["a"]), flow(17, 1, 2, 4500), False),
        (ingress("icmp", (-1, -1), groups=["a"]), flow(1, 1, 2), True),
        (ingress("-1", cidrs=["0.0.0.0/0"]), flow(47, 1, 2), True),
    ],
)
def test_a_flow_passes_only_where_a_rule_of_the_receivers_groups_says_so(rule: Rule, candidate: Flow, passes: bool) -> None:
    rules = {"a": (EGRESS_ALL,), "b": (EGRESS_ALL, rule)}
    assert allowed(state([nic(1, "a"), nic(2, "b")], rules), candidate) is passes


def test_a_sender_without_an_egress_rule_sends_nothing() -> None:
    rules = {"a": (), "b": (EGRESS_ALL, ingress("-1", cidrs=["0.0.0.0/0"]))}
    assert not allowed(state([nic(1, "a"), nic(2, "b")], rules), flow(6, 1, 2, 80))


def test_the_ruleset_names_protocols_by_number_and_groups_by_their_members() -> None:
    rules = {"a": (EGRESS_ALL,), "b": (EGRESS_ALL, ingress("50", groups=["a"]), ingress("udp", (6783, 6784), groups=["b"]))}
    text = ruleset(state([nic(1, "a"), nic(2, "b")], rules), "vpc-1", [])
    assert "ip saddr 10.0.0.1 meta l4proto 50 accept" in text
    assert "ip saddr 10.0.0.2 meta l4proto 17 th dport 6783-6784 accept" in text


def test_the_source_check_can_be_switched_off_for_one_interface() -> None:
    free = nic(2, "a", checked=False)
    text = ruleset(state([nic(1, "a"), free], {"a": (EGRESS_ALL,)}), "vpc-1", [])
    checked = next(line for line in text.splitlines() if line.startswith("add element inet vpc checked"))
    assert free.link not in checked
    assert nic(1, "a").link in checked


def test_a_private_host_leaves_through_the_nat_gateway_and_a_public_one_as_itself() -> None:
    private, public = nic(1, "a"), nic(2, "a", "subnet-public", "203.0.113.10")
    bare = nic(3, "a", "subnet-public")
    found = state([private, public, bare], {"a": (EGRESS_ALL,)})
    assert found.leaves_as(private) == NAT
    assert found.reached_as(private) is None
    assert found.leaves_as(public) == found.reached_as(public) == IPv4Address("203.0.113.10")
    assert found.leaves_as(bare) is None


def test_the_aws_endpoint_takes_a_way_out_and_an_egress_rule_for_https() -> None:
    https = Rule("egress", "tcp", 443, 443, (WORLD,), ())
    inside = Rule("egress", "-1", None, None, (VPC,), ())
    found = state([nic(1, "https"), nic(2, "inside")], {"https": (https,), "inside": (inside,)})
    api = next(line for line in ruleset(found, "vpc-1", []).splitlines() if line.startswith("add element inet vpc api"))
    assert nic(1, "x").link in api
    assert nic(2, "x").link not in api


LEASE = Lease(
    IPv4Address("10.0.0.33"), PRIVATE, IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"), "ip-10-0-0-33", "internal", 9001
)


def request(kind: int, asked: str | None = None) -> bytes:
    options = bytes([53, 1, kind]) + (bytes([50, 4]) + IPv4Address(asked).packed if asked else b"") + b"\xff"
    return struct.pack("!BBBB4s", 1, 1, 6, 0, b"abcd") + bytes(20) + b"\x02mac".ljust(16, b"\0") + bytes(192) + MAGIC + options


@pytest.mark.parametrize(
    ("kind", "asked", "reply", "given"),
    [
        (DISCOVER, None, OFFER, "10.0.0.33"),
        (DISCOVER, "10.9.9.9", OFFER, "10.0.0.33"),
        (REQUEST, "10.0.0.33", ACK, "10.0.0.33"),
        (REQUEST, "10.0.0.99", NAK, "0.0.0.0"),
        (INFORM, None, ACK, "0.0.0.0"),
    ],
)
def test_dhcp_gives_the_link_its_one_address(kind: int, asked: str | None, reply: int, given: str) -> None:
    packet = answer(request(kind, asked), LEASE)
    assert packet is not None
    assert packet[4:8] == b"abcd"
    assert IPv4Address(packet[16:20]) == IPv4Address(given)
    assert packet[240:243] == bytes([53, 1, reply])


def test_tracked_connections_that_differ_in_their_source_port_are_one_flow() -> None:
    entry = (
        "ipv4     2 udp      17 28 src=10.0.224.11 dst=10.0.0.33 sport={port} dport=4789 "
        "src=10.0.0.33 dst=10.0.224.11 sport=4789 dport={port} mark=0 use=1"
    )
    one, other = tracked(entry.format(port=40000)), tracked(entry.format(port=40001))
    assert one == other
    assert one[0] == Flow(17, IPv4Address("10.0.224.11"), IPv4Address("10.0.0.33"), 4789)
    assert "--sport" not in one[1] and one[1][-2:] == ("--dport", "4789")


def test_dhcp_ignores_what_a_server_would_send() -> None:
    assert answer(request(OFFER), LEASE) is None
    with pytest.raises(ValueError, match="not a DHCP request"):
        answer(b"\x02" + bytes(300), LEASE)


class Router:
    """A namespace that only remembers what nft was told, and refuses it on demand."""

    told: ClassVar[list[str]] = []
    refuses = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.told.clear()

    def run(self, argv: list[str], stdin: str = "", **_: Any) -> str:
        if argv[0] == "nft":
            if type(self).refuses:
                raise MachineError("nft: no such luck")
            self.told.append(stdin)
        return ""

    def ip(self, _: Any) -> None: ...

    def sysctl(self, values: Any) -> None:
        assert self.told, f"{values} before anything is filtered"


@pytest.fixture
def vpc_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> network.VpcNetwork:
    """A VPC's network on such a namespace."""
    monkeypatch.setattr(network, "Namespace", Router)
    monkeypatch.setattr(network, "DhcpServer", lambda *_: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(network.VpcNetwork, "_start_resolver", lambda _: None)
    monkeypatch.setattr(network.VpcNetwork, "_forget_refused", lambda *_: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    outside: Any = SimpleNamespace(plug=lambda _: (0, "vpc0"), namespace=Router("internet"))
    return network.VpcNetwork(Vpc("vpc-1", VPC), "test", outside, cast(Any, None), tmp_path, "eu-west-1")


@pytest.mark.usefixtures("vpc_network")
def test_a_router_passes_nothing_until_its_rules_are_there() -> None:
    (first,) = Router.told
    assert "hook forward priority filter; policy drop" in first and "accept" not in first


def test_rules_that_nft_refused_are_applied_by_the_next_look(
    vpc_network: network.VpcNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state([nic(1, "a"), nic(2, "a")], {"a": (EGRESS_ALL,)})
    after = state([nic(1, "a")], {"a": (EGRESS_ALL,)})
    vpc_network.apply(before, [])
    monkeypatch.setattr(Router, "refuses", True)
    for _ in range(2):
        with pytest.raises(MachineError, match="no such luck"):
            vpc_network.apply(after, [])
    monkeypatch.setattr(Router, "refuses", False)
    told = len(Router.told)
    vpc_network.apply(after, [])
    assert len(Router.told) == told + 1
    # The chains of the interface that went while nothing could be applied go too.
    assert f"delete chain inet vpc ingress-{nic(2, 'a').link}" in Router.told[-1]
    vpc_network.apply(after, [])
    assert len(Router.told) == told + 1, "the same rules twice"


@pytest.fixture
def ec2() -> Iterator[Any]:
    # As in the cloud itself: reading AWS's thousand policies took most of these tests' time.
    moto_policies.install()
    with mock_aws():
        yield boto3.client("ec2", region_name="eu-west-1", aws_access_key_id="t", aws_secret_access_key="t")


def elb() -> Any:
    return boto3.client("elbv2", region_name="eu-west-1", aws_access_key_id="t", aws_secret_access_key="t")


def test_reading_the_api_finds_a_network_load_balancer_with_an_interface_in_each_subnet(ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"eu-west-1{zone}")["Subnet"]["SubnetId"]
        for n, zone in enumerate("ab")
    ]
    group = ec2.create_security_group(VpcId=vpc, GroupName="g", Description="g")["GroupId"]
    api = elb()
    arn = api.create_load_balancer(Name="b", Type="network", Subnets=subnets, SecurityGroups=[group])["LoadBalancers"][0][
        "LoadBalancerArn"
    ]
    targets = api.create_target_group(
        Name="t", Port=8081, Protocol="TCP", VpcId=vpc, TargetType="ip", HealthCheckProtocol="HTTP", HealthCheckPath="/health",
        HealthCheckPort="8081", HealthCheckIntervalSeconds=10,
    )["TargetGroups"][0]["TargetGroupArn"]  # fmt: skip
    api.modify_target_group_attributes(
        TargetGroupArn=targets, Attributes=[{"Key": "proxy_protocol_v2.enabled", "Value": "true"}]
    )
    api.register_targets(TargetGroupArn=targets, Targets=[{"Id": "10.0.0.11", "Port": 8081}])
    forward = [{"Type": "forward", "TargetGroupArn": targets}]
    api.create_listener(LoadBalancerArn=arn, Port=80, Protocol="TCP", DefaultActions=forward)
    found = wanted.read(ec2, api, "eu-west-1")
    balancer = found.balancers[arn]
    assert [str(nic.address) for nic in balancer.nics] == ["10.0.0.254", "10.0.1.254"]
    assert len({nic.public_address for nic in balancer.nics} | {None}) == 3
    assert found.group_members[group] == tuple(nic.address for nic in balancer.nics)
    assert set(balancer.nics) <= set(found.nics())
    ((port, group_of),) = balancer.listeners
    assert port == 80 and group_of.targets == (Target(IPv4Address("10.0.0.11"), 8081),)
    assert (group_of.proxy_protocol, group_of.check_port, group_of.check_path, group_of.interval) == (True, 8081, "/health", 10)
    # AWS resets an unhealthy target's connections unless it is told otherwise.
    assert group_of.resets
    keep = {"Key": "target_health_state.unhealthy.connection_termination.enabled", "Value": "false"}
    api.modify_target_group_attributes(TargetGroupArn=targets, Attributes=[keep])
    found = wanted.read(ec2, api, "eu-west-1")
    assert not found.balancers[arn].listeners[0][1].resets
    # The same again: an address that moved would cut what is under way.
    assert wanted.read(ec2, api, "eu-west-1").balancers == found.balancers


@pytest.mark.parametrize("service", ["elbv2", "ec2"])
def test_a_look_at_the_api_begins_anew_where_things_go_and_come_between_its_calls(ec2: Any, service: str) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    api, other = elb(), boto3.client("ec2", region_name="eu-west-1", aws_access_key_id="t", aws_secret_access_key="t")
    arn = api.create_load_balancer(Name="b", Type="network", Subnets=[subnet])["LoadBalancers"][0]["LoadBalancerArn"]
    ami, done = ec2.describe_images()["Images"][0]["ImageId"], list[str]()

    def meanwhile(**_: Any) -> None:
        if not done:
            done.append(elb().delete_load_balancer(LoadBalancerArn=arn))
            new = other.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
            other.run_instances(MinCount=1, MaxCount=1, ImageId=ami, SubnetId=new)

    listing = {"elbv2": "elastic-load-balancing-v2.DescribeListeners", "ec2": "ec2.DescribeInstances"}[service]
    {"elbv2": api, "ec2": ec2}[service].meta.events.register(f"before-call.{listing}", meanwhile)
    found = wanted.read(ec2, api, "eu-west-1")
    assert (len(done), found.balancers, len(found.instances)) == (1, {}, 1)


def test_the_proxy_protocol_names_client_and_server() -> None:
    header = proxy_header(("203.0.113.9", 4660), ("192.0.2.1", 80))
    assert header == b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x34, 0, 80])


def test_a_target_counts_by_its_first_check_then_by_thresholds_and_none_healthy_means_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address, port = listener.getsockname()
        alive, dead = Target(IPv4Address(address), port), Target(IPv4Address(address), 1)
        group = TargetGroup("g", (dead, alive), False, None, None, 0, 1, 2, 2)
        lost = list[Target]()
        health = Health(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), lambda _, target: lost.append(target))
        assert health.usable(group) == [dead, alive]
        health.look([group])
        assert health.usable(group) == [alive]
    health.look([group])
    assert (health.usable(group), lost) == ([alive], [])
    health.look([group])
    assert (health.usable(group), lost) == ([dead, alive], [alive])


def test_reading_the_api_finds_subnets_routes_interfaces_and_groups(ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24", AvailabilityZone="eu-west-1b")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="g", Description="g")["GroupId"]
    interface = {"DeviceIndex": 0, "SubnetId": subnet, "PrivateIpAddress": "10.0.0.33", "Groups": [group]}
    ami = ec2.describe_images()["Images"][0]["ImageId"]
    ec2.run_instances(MinCount=1, MaxCount=1, ImageId=ami, NetworkInterfaces=[interface])
    found = wanted.read(ec2, elb(), "eu-west-1")
    (host,) = found.instances.values()
    assert host.primary.address == IPv4Address("10.0.0.33")
    assert host.primary.group_ids == (group,)
    assert found.subnets[subnet].default_target is None
    assert found.group_members[group] == (IPv4Address("10.0.0.33"),)
    assert [rule.direction for rule in found.rules[group]] == ["egress"]


def test_an_elastic_address_that_cannot_be_routed_is_refused_by_name(ec2: Any) -> None:
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    ami = ec2.describe_images()["Images"][0]["ImageId"]
    reply = ec2.run_instances(MinCount=1, MaxCount=1, ImageId=ami, SubnetId=subnet)
    address = ec2.allocate_address(Domain="vpc", Address="127.0.0.9")
    ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=reply["Instances"][0]["InstanceId"])
    with pytest.raises(MachineError, match=rf"{address['PublicIp']} is a loopback address.*203\.0\.113\.0/24"):
        wanted.read(ec2, elb(), "eu-west-1")


@pytest.mark.parametrize("option", ["enabled", "disabled", None])
def test_metadata_has_tags_only_where_the_instance_says_so(ec2: Any, option: str | None) -> None:
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    ami = ec2.describe_images()["Images"][0]["ImageId"]
    ec2.run_instances(
        MinCount=1, MaxCount=1, ImageId=ami, SubnetId=subnet,
        MetadataOptions={"HttpTokens": "required", **({"InstanceMetadataTags": option} if option else {})},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "one"}]}],
    )  # fmt: skip
    found = wanted.read(ec2, elb(), "eu-west-1")
    (host,) = found.instances.values()
    metadata = Metadata(lambda _: ec2)
    metadata.update(found)
    assert metadata.get(host, "latest/meta-data/tags/instance/Name") == ("one" if option == "enabled" else None)
    assert metadata.get(host, "latest/meta-data/instance-id") == host.id


def test_the_image_has_another_key_when_a_program_differs(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    assert image.image_key({"consul": one}) == image.image_key({"consul": one})
    assert image.image_key({"consul": one}) != image.image_key({"consul": other})


def test_the_console_is_shown_without_its_colours(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_text("first\n\x1b[0;32m  OK  \x1b[0m Started \x1b[1mssh\x1b[0m.\r\n")
    assert tail(tmp_path / "console.log", 1) == "  OK   Started ssh."
