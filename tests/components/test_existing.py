"""In a VPC that exists: what is registered, and that AWS is asked before anything is."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import asyncio
from typing import Any

import pulumi
import pytest

from components import existing
from tests.components.recording import Recording, run_program
from tests.components.test_program import merged
from tests.plan.support import cluster
from tests.plan.test_existing import EXISTING

SUBNETS = {one["id"]: (zone, kind, one["cidr"]) for zone, both in EXISTING["subnets"].items() for kind, one in both.items()}


def aws(token: str, args: dict[str, Any]) -> dict[str, Any] | None:
    """The account where all is well, and another stack has other addresses."""
    name = token.partition("/")[2].partition(":")[0]
    if name == "getVpc":
        return {"cidrBlock": EXISTING["cidr"], "enableDnsSupport": True, "enableDnsHostnames": True}
    if name == "getSubnet":
        zone, _, cidr = SUBNETS[args["id"]]
        free = {"availableIpAddressCount": 200}
        return {"vpcId": EXISTING["id"], "availabilityZone": f"eu-west-1{zone}", "cidrBlock": cidr, **free}
    if name == "getRouteTable":
        kind = SUBNETS[args["subnetId"]][1]
        target = {"gatewayId": "igw-1"} if kind == "public" else {"natGatewayId": "nat-1"}
        return {"routeTableId": f"rtb-{kind}", "routes": [{"cidrBlock": "0.0.0.0/0", **target}]}
    if name == "getInstances":
        return {"privateIps": []}
    if name == "getNetworkInterfaces":
        return {"ids": []}
    if name == "getSecurityGroups":
        return {"ids": ["sg-1"]}
    if name == "getSecurityGroup":
        return {"tags": {"apollo:stack": "other", f"apollo:{next(iter(SUBNETS))}": "1000-1271"}}
    return None


def program(lookups: Any = aws, **more: Any) -> Recording:
    return run_program("dev", merged(network={"existing": {**EXISTING, **more}}), lookups=lookups)


def test_nothing_of_the_vpc_is_registered_but_reservations_groups_and_the_endpoint_that_is_asked_for() -> None:
    recording = program(s3Endpoint=True)
    network = {r.type for r in recording.resources.values() if r.type.split(":")[0] == "aws" and "network-" in r.name}
    assert network == {"aws:ec2/subnetCidrReservation:SubnetCidrReservation", "aws:ec2/vpcEndpoint:VpcEndpoint"}
    owner = recording.named("apollo:network:ExistingVpc", "network").urn
    assert {r.request.parent for r in recording.resources.values() if r.name.startswith("network-")} == {owner}
    assert recording.told[owner] == {"vpcId": EXISTING["id"]}
    endpoint = dict(recording.named("aws:ec2/vpcEndpoint:VpcEndpoint", "network-s3").inputs)
    assert endpoint.pop("tags")["Name"] == "apollo-dev-s3"
    assert endpoint == {
        "vpcId": EXISTING["id"], "routeTableIds": ["rtb-private", "rtb-public"],
        "serviceName": "com.amazonaws.eu-west-1.s3", "vpcEndpointType": "Gateway",
    }  # fmt: skip
    assert not program().of("aws:ec2/vpcEndpoint:VpcEndpoint")
    groups = recording.of("aws:ec2/securityGroup:SecurityGroup")
    assert {group.inputs["vpcId"] for group in groups.values()} == {EXISTING["id"]}
    private = EXISTING["subnets"]["a"]["private"]["id"]
    assert groups["security-node"].inputs["tags"][f"apollo:{private}"] == "8-271"
    assert not any(f"apollo:{private}" in group.inputs["tags"] for name, group in groups.items() if name != "security-node")
    hosts = {name: r.inputs.get("subnetId") for name, r in recording.of("aws:ec2/instance:Instance").items()}
    assert hosts["slave-1-instance"] == private
    assert recording.outputs["vpcId"] == EXISTING["id"]
    assert recording.outputs["privateSubnetIds"] == [zone["private"]["id"] for zone in EXISTING["subnets"].values()]


def test_a_host_waits_for_the_reservations_of_its_subnet_and_for_the_endpoint() -> None:
    # A stack that runs already is not in its own way.
    own = {"apollo:stack": "dev", f"apollo:{IDS[0]}": "8-271"}
    recording = program(answering(getSecurityGroup={"tags": own}), s3Endpoint=True)
    waits = {urn.split("::")[-1] for urn in recording.named("aws:ec2/instance:Instance", "slave-2-instance").dependencies}
    assert {"network-private-b-reserved-8", "network-private-b-reserved-32", "network-s3"} <= waits


VPC = {"name": "vpc-id", "values": [EXISTING["id"]]}
IDS = list(SUBNETS)
RUNNING = ["pending", "running", "stopping", "stopped", "shutting-down"]


def checked(lookups: Any, monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[str]:
    """The route tables that the check gives, without the rest of the program."""

    async def invoke(token: str, args: dict[str, Any]) -> dict[str, Any] | None:
        return lookups(token, args)

    monkeypatch.setattr(existing, "invoke_async", invoke)
    plan = cluster(network={"existing": {**EXISTING, **more}})
    return asyncio.run(existing.check(plan, "dev", "Pulumi.dev.yaml"))


def test_aws_is_asked_about_this_vpc_these_subnets_and_no_more_addresses_at_once_than_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def noted(token: str, args: dict[str, Any]) -> dict[str, Any] | None:
        asked.append((token.partition("/")[2].partition(":")[0], args))
        # One of the planned addresses is a host's own by now.
        return {"privateIps": ["10.8.0.33"]} if "getInstances" in token else aws(token, args)

    assert checked(noted, monkeypatch) == ["rtb-private", "rtb-public"]

    def of(name: str) -> list[dict[str, Any]]:
        return [args for one, args in asked if one == name]

    assert of("getVpc") == [{"id": EXISTING["id"]}]
    assert sorted(args["id"] for args in of("getSubnet")) == sorted(args["subnetId"] for args in of("getRouteTable")) == IDS
    assert of("getInstances") == [{"instanceTags": {"apollo:stack": "dev"}, "instanceStateNames": RUNNING, "filters": [VPC]}]
    assert of("getSecurityGroups") == [{"filters": [VPC, {"name": "tag-key", "values": ["apollo:stack"]}]}]
    assert of("getSecurityGroup") == [{"id": "sg-1"}]
    assert of("getVpcEndpoint") == of("getNetworkInterface") == []
    searched = [args["filters"] for args in of("getNetworkInterfaces")]
    assert all(filters[0] == VPC and filters[1]["name"] == "addresses.private-ip-address" for filters in searched)
    parts = [filters[1]["values"] for filters in searched]
    assert {len(part) for part in parts[:-1]} == {200} and 0 < len(parts[-1]) <= 200
    addresses = sorted(address for part in parts for address in part)
    assert len({*addresses}) == len(addresses)
    assert {"10.8.0.34", "10.8.16.33", "10.8.240.11"} <= {*addresses} and "10.8.0.33" not in addresses


def answering(**answers: Any) -> Any:
    """As aws(), but for these look-ups: an answer, an error, or what makes one of the arguments."""

    def other(token: str, args: dict[str, Any]) -> dict[str, Any] | None:
        answer: Any = answers.get(token.partition("/")[2].partition(":")[0], aws)
        answer = answer(token, args) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    return other


NOT_THERE = RuntimeError("reading EC2 Route Table: no matching EC2 Route Table found")
WAY = {"cidrBlock": "0.0.0.0/0", "gatewayId": "igw-1"}
S3 = {"id": "vpce-1", "serviceName": "com.amazonaws.eu-west-1.s3", "tags": {}}


def with_endpoint(endpoint: Any, way: str = "gatewayId") -> dict[str, Any]:
    routes = [WAY, {"cidrBlock": "", way: "vpce-1"}]

    def answer(_: str, args: dict[str, Any]) -> Any:
        return endpoint if args == {"id": "vpce-1"} else None

    return {"getRouteTable": {"routeTableId": "rtb-1", "routes": routes}, "getVpcEndpoint": answer}


def interface(**more: Any) -> dict[str, Any]:
    eni = {"id": "eni-1", "description": "ELB app/x", "tags": {}, "privateIps": ["10.8.0.40", "10.8.9.9"], **more}
    return {
        "getNetworkInterfaces": lambda _, args: {"ids": ["eni-1"] if "10.8.0.40" in args["filters"][1]["values"] else []},
        "getNetworkInterface": lambda _, args: eni if args == {"id": "eni-1"} else None,
    }


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        # Another way out than the usual one.
        *(({"getRouteTable": lambda _, args, name=name: {"routeTableId": "rtb-1", "routes": [WAY if SUBNETS[args["subnetId"]][1] == "public" else {"cidrBlock": "0.0.0.0/0", "gatewayId": "", name: "x-1"}]}}, "") for name in ("transitGatewayId", "networkInterfaceId", "vpcEndpointId")),
        ({"getRouteTable": {"routeTableId": "rtb-1", "routes": [{"cidrBlock": "10.0.0.0/8", "gatewayId": "igw-1"}]}}, "has no default route to an internet gateway (none at all)"),
        ({"getRouteTable": {"routeTableId": "rtb-1", "routes": [{"cidrBlock": "0.0.0.0/0", "natGatewayId": "nat-1"}]}}, "has no default route to an internet gateway (nat-1)"),
        # Without one of its own a subnet has the VPC's main one.
        ({"getRouteTable": lambda _, args: NOT_THERE if "subnetId" in args else {"routeTableId": "rtb-main", "routes": [WAY]} if args == {"vpcId": EXISTING["id"], "filters": [{"name": "association.main", "values": ["true"]}]} else None}, ""),
        ({"getRouteTable": NOT_THERE}, "has no default route"),
        ({"getRouteTable": RuntimeError("timed out")}, "AWS does not answer getRouteTable: timed out"),
        ({"getRouteTable": lambda _, args: NOT_THERE if "subnetId" in args else RuntimeError("timed  out")}, "Pulumi.dev.yaml: network.existing: AWS does not answer getRouteTable: timed out; nothing was created"),
        ({"getNetworkInterfaces": RuntimeError("Throttling")}, "AWS does not answer getNetworkInterfaces: Throttling"),
        ({**interface(), "getNetworkInterface": RuntimeError("Throttling")}, "AWS does not answer getNetworkInterface: Throttling"),
        ({"getSecurityGroups": RuntimeError("Throttling")}, "AWS does not answer getSecurityGroups: Throttling"),
        ({"getSecurityGroup": RuntimeError("Throttling")}, "AWS does not answer getSecurityGroup: Throttling"),
        ({"getVpc": RuntimeError("no  matching\nVPC")}, "cannot be read (no matching VPC)"),
        ({"getSubnet": RuntimeError("no such subnet")}, "cannot be read (no such subnet)"),
        ({"getSecurityGroup": RuntimeError("no matching group")}, ""),
        ({"getSecurityGroup": {"tags": {"apollo:stack": "dev", f"apollo:{IDS[0]}": "8-271"}}}, ""),
        ({"getSecurityGroups": RuntimeError("empty result")}, ""),
        # A second group of that stack has no such tag.
        ({"getSecurityGroups": {"ids": ["sg-1", "sg-2"]}, "getSecurityGroup": lambda _, args: {"tags": {"apollo:stack": "b", **({f"apollo:{IDS[0]}": "200-400"} if args["id"] == "sg-1" else {})}}}, "stack b has 200 to 400"),
        (interface(), "10.8.0.40 (eni-1 ELB app/x)"),
        (interface(description=None), "10.8.0.40 (eni-1)"),
        (interface(tags={"apollo:stack": "dev"}), ""),
        (interface(tags={"apollo:stack": "other"}), "10.8.0.40 (eni-1 ELB app/x)"),
        (interface(privateIps=["10.8.9.9"]), ""),
        ({**interface(), "getNetworkInterface": RuntimeError("not found")}, ""),
        (with_endpoint(S3), "s3Endpoint: true, and the subnets have one already (vpce-1)"),
        (with_endpoint(S3, "vpcEndpointId"), "s3Endpoint: true, and the subnets have one already (vpce-1)"),
        (with_endpoint({**S3, "tags": {"apollo:stack": "dev"}}), ""),
        (with_endpoint({**S3, "serviceName": "com.amazonaws.eu-west-1.dynamodb"}), ""),
        (with_endpoint(RuntimeError("no matching endpoint")), ""),
        (with_endpoint(RuntimeError("Throttling")), "AWS does not answer getVpcEndpoint: Throttling"),
    ],
)  # fmt: skip
def test_each_thing_that_aws_says_counts_as_what_it_is(
    answers: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not words:
        assert checked(answering(**answers), monkeypatch, s3Endpoint=True)
        return
    with pytest.raises(pulumi.RunError) as refused:
        checked(answering(**answers), monkeypatch, s3Endpoint=True)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("getSubnet", {"vpcId": "vpc-1", "availableIpAddressCount": 200}, "is in vpc-1"),
        (
            "getSecurityGroup",
            {"tags": {"apollo:stack": "other", f"apollo:{next(iter(SUBNETS))}": "200-400"}},
            "stack other has 200",
        ),
        ("getInstances", RuntimeError("UnauthorizedOperation"), "AWS does not answer getInstances"),
    ],
)
def test_what_aws_says_against_it_ends_the_program_before_anything_is_registered(name: str, answer: Any, words: str) -> None:
    with pytest.raises(pulumi.RunError, match=words) as refused:
        program(answering(**{name: answer}))
    assert str(refused.value).startswith("Pulumi.dev.yaml: ") and "nothing was created" in str(refused.value)
