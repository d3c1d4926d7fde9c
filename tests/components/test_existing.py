"""In a VPC that exists: what is registered, and that AWS is asked before anything is."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest

from tests.components.recording import Recording, run_program
from tests.components.test_program import merged
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
    endpoint = recording.named("aws:ec2/vpcEndpoint:VpcEndpoint", "network-s3").inputs
    assert (endpoint["vpcId"], endpoint["routeTableIds"]) == (EXISTING["id"], ["rtb-private", "rtb-public"])
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
    recording = program(s3Endpoint=True)
    waits = {urn.split("::")[-1] for urn in recording.named("aws:ec2/instance:Instance", "slave-2-instance").dependencies}
    assert {"network-private-b-reserved-8", "network-private-b-reserved-32", "network-s3"} <= waits


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
    def other(token: str, args: dict[str, Any]) -> dict[str, Any] | None:
        if f"/{name}:" not in token:
            return aws(token, args)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(pulumi.RunError, match=words) as refused:
        program(other)
    assert str(refused.value).startswith("Pulumi.dev.yaml: ") and "nothing was created" in str(refused.value)
