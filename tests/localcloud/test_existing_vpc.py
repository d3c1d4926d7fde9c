"""The real program in a VPC that another program made, under the real engine; instances are in the API alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localcloud import cloud as clouds
from tests import other_vpc
from tests.localcloud.test_program import Stack, changed

pytestmark = pytest.mark.engine
SMALL = ("--set", "slaves.count=2", "--set", "control.count=1")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack that is still to be brought up, on a cloud that runs."""
    found = Stack(tmp_path / "run")
    clouds.start(found.run_dir / "local", other_vpc.REGION)
    yield found
    found.run("down", "--force")


def given(existing: dict[str, Any]) -> tuple[str, ...]:
    return (*SMALL, "--set", f"network.existing={json.dumps(existing)}")


def spoiled(ec2: Any, existing: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`network.existing` with a fault of each kind, some of them in the VPC itself; and what a preview must say of each."""
    vpc = existing["id"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": False})
    another = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    foreign = ec2.create_subnet(VpcId=another, CidrBlock="10.8.64.0/20")["Subnet"]["SubnetId"]
    bare = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    elsewhere = other_vpc.subnet(ec2, vpc, "10.8.32.0/20", "a", bare)
    tables = ec2.describe_route_tables(Filters=[{"Name": "association.subnet-id", "Values": [elsewhere]}])["RouteTables"]
    assert [table["RouteTableId"] for table in tables] == [bare]
    service = f"com.amazonaws.{other_vpc.REGION}.s3"
    endpoint = ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=service, VpcEndpointType="Gateway", RouteTableIds=[bare])
    narrow, nat = existing["subnets"]["a"]["public"], existing["subnets"]["b"]["private"]["id"]
    taken = ec2.describe_network_interfaces(Filters=[{"Name": "subnet-id", "Values": [narrow["id"]]}])["NetworkInterfaces"]
    (taken,) = [interface["NetworkInterfaceId"] for interface in taken]
    missing, key = "subnet-0123456789abcdef0", "network.existing.subnets"
    subnets = {
        "a": {"private": {"id": missing, "cidr": "10.8.0.0/20"}, "public": {**narrow, "firstHost": 8}},
        "b": {"private": {"id": foreign, "cidr": "10.8.64.0/20"}, "public": {"id": nat, "cidr": "10.8.16.0/20"}},
        "c": {
            "private": {"id": elsewhere, "cidr": "10.8.32.0/20"},
            "public": {"id": existing["subnets"]["b"]["public"]["id"], "cidr": "10.8.128.0/24"},
        },
    }
    return {"id": vpc, "cidr": "10.8.0.0/16", "subnets": subnets, "s3Endpoint": True}, [
        f"network.existing.id: {vpc} has DNS host names off, and hosts need it; switch it on (enableDnsHostnames of the VPC)",
        f"{key}.a.private.id: {missing} cannot be read (",
        f"{key}.a.public.firstHost: 8 gives hosts the offsets 8 to 23 of {narrow['id']}, and others have of them 10.8.240.9 "
        f"({taken} somebody else); give one above those, or free them",
        f"{key}.b.private.id: {foreign} is in {another}; give a subnet of {vpc}",
        f"{key}.b.public.id: {nat} has no default route to an internet gateway (nat-",
        f"{key}.c.private.id: {elsewhere} is in zone eu-west-1a; give a subnet in eu-west-1c",
        f"{key}.c.private.id: {elsewhere} has no default route, and hosts fetch packages and images; give it one",
        f"{key}.c.public.id: {subnets['c']['public']['id']} is in zone eu-west-1b; give a subnet in eu-west-1c",
        f"{key}.c.public.cidr: 10.8.128.0/24 is not the range of {subnets['c']['public']['id']}; give 10.8.241.0/24",
        f"network.existing.s3Endpoint: true, and the subnets have one already ({endpoint['VpcEndpoint']['VpcEndpointId']})",
    ]


def test_all_that_the_account_has_against_it_is_said_at_once_before_anything_is_created(stack: Stack) -> None:
    ec2 = stack.client("ec2")
    existing, findings = spoiled(ec2, other_vpc.make(ec2))
    before = other_vpc.described(ec2, existing["id"])
    status, _, err = stack.run("up", "--no-machines", *given(existing), "--set", "zones=[a, b, c]")
    assert status == 1
    assert f"Pulumi.local.yaml: {len(findings)} problems, nothing was created." in err
    assert not [text for text in findings if text not in err], err
    status, _, err = stack.run("preview", *given({**existing, "id": "vpc-0123456789abcdef0"}))
    assert status == 1
    assert "network.existing.id: vpc-0123456789abcdef0 cannot be read (" in err, err
    assert other_vpc.described(ec2, existing["id"]) == before


def test_two_stacks_go_into_one_vpc_where_their_ranges_are_apart(stack: Stack) -> None:
    ec2 = stack.client("ec2")
    existing: dict[str, Any] = {**other_vpc.make(ec2), "s3Endpoint": True}
    before = other_vpc.described(ec2, existing["id"])
    # A stack has a cloud of its own by that name; here both have one, as two stacks of an account do.
    (stack.run_dir / "dev").symlink_to(stack.run_dir / "local")
    second = ("--stack", "dev", "--set", "overlay.cidr=10.3.0.0/16")

    first, *_ = stack.run("up", "--no-machines", "--json", *given(existing))
    assert first == 0
    beside: dict[str, Any] = copy.deepcopy({**existing, "s3Endpoint": False})
    lasts = {"private": other_vpc.FIRST + 263, "public": other_vpc.FIRST + 15}
    findings = [
        f"network.existing.subnets.{zone}.{kind}.firstHost: {other_vpc.FIRST} gives hosts the offsets {other_vpc.FIRST} to "
        f"{last} of {subnet['id']}, and stack local has {other_vpc.FIRST} to {last}; give {last + 1} or more, or other subnets"
        for zone, both in beside["subnets"].items()
        for kind, last in lasts.items()
        for subnet in (both[kind],)
    ]
    status, _, err = stack.run("up", "--no-machines", *second, *given(beside))
    assert status == 1
    assert f"Pulumi.dev.yaml: {len(findings)} problems, nothing was created." in err
    assert not [text for text in findings if text not in err], err

    for both in beside["subnets"].values():
        for kind, last in lasts.items():
            both[kind]["firstHost"] = last + 1
    status, out, err = stack.run("up", "--no-machines", "--json", *second, *given(beside))
    assert status == 0, err
    slave = json.loads(out)["outputs"]["slaves"]["slave-1"]
    assert (slave["privateIp"], slave["bridgeAddress"]) == ("10.8.1.137", "10.3.0.1/16")
    # The first one goes on beside it.
    status, out, err = stack.run("up", "--no-machines", "--json", *given(existing))
    assert (status, changed(json.loads(out))) == (0, set()), err

    for name in ("dev", "local"):
        status, out, err = stack.run("pulumi", "--stack", name, "destroy", "--yes", "--skip-preview")
        assert status == 0, out + err
    assert other_vpc.described(ec2, existing["id"]) == before
