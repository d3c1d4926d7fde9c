"""What AWS itself refuses: texts that it does not take, and resources that come before what they need."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from netaddr import IPNetwork

from localcloud.api.texts import MOST_TAGS, TAGS, TEXTS, Text, problem, refused
from tests.components.recording import Recording, Registration, run_consumer, run_program
from tests.components.test_program import merged
from tests.terraform import Terraform

ADMIN = {"allowedCidrs": ["203.0.113.7/32", "198.51.100.0/24"], "publicKey": "ssh-ed25519 AAAA"}
TLS = {"tls": {"enabled": True}}
# Together they reach every branch of the program that registers something.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dev": ("dev", {}),
    "prod": ("prod", {}),
    "local": ("local", {}),
    "one control node": ("dev", {"control": {"count": 1}, "slaves": {"count": 0}}),
    "most control nodes and edges": ("prod", {"control": {"count": 5}, "edge": {"count": 10, **TLS}}),
    "open to administrators": ("dev", {"admin": ADMIN, "edge": TLS}),
    "vxlan, published": ("dev", {"overlay": {"mesh": "vxlan"}, "mesos": {"published": ["marathon", "mesos-master"]}}),
    "a change of the mesh": ("dev", {"overlay": {"mesh": "wireguard", "switchFrom": "weave"}}),
    "an appended zone": ("prod", {"zones": ["a", "b", "c", {"name": "d", "fromSlot": 9}]}),
    "refused traffic recorded": ("dev", {"network": {"flowLogs": "reject"}}),
    "tags": ("prod", {"tags": {"cost centre": "R/D + core @ 4711", "e-mail": "ops@example.com"}}),
}
# Properties whose values people write: each has a rule, or is no text to AWS. Of a name that is not given, Pulumi makes one.
INSTANCE, INTERFACE = "aws:ec2/instance:Instance", "aws:ec2/networkInterface:NetworkInterface"
WRITTEN = ("name", "description", "policy", "assumeRolePolicy", "keyName", "path", "key")
DIGITS = "-1234567"
# The call that makes a resource of a type, and what it calls the properties that hold texts.
CALLS: dict[str, tuple[str, dict[str, str]]] = {
    "aws:ec2/securityGroup:SecurityGroup": ("ec2:CreateSecurityGroup", {"name": "GroupName", "description": "Description"}),
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": (
        "ec2:AuthorizeSecurityGroupIngress",
        {"description": "Description"},
    ),
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": (
        "ec2:AuthorizeSecurityGroupEgress",
        {"description": "Description"},
    ),
    INTERFACE: ("ec2:CreateNetworkInterface", {"description": "Description"}),
    "aws:ec2/subnetCidrReservation:SubnetCidrReservation": (
        "ec2:CreateSubnetCidrReservation",
        {"description": "Description"},
    ),
    "aws:ec2/keyPair:KeyPair": ("ec2:ImportKeyPair", {"keyName": "KeyName"}),
    "aws:iam/role:Role": (
        "iam:CreateRole",
        {"name": "RoleName", "description": "Description", "assumeRolePolicy": "AssumeRolePolicyDocument"},
    ),
    "aws:iam/rolePolicy:RolePolicy": ("iam:PutRolePolicy", {"name": "PolicyName", "policy": "PolicyDocument"}),
    "aws:iam/instanceProfile:InstanceProfile": ("iam:CreateInstanceProfile", {"name": "InstanceProfileName"}),
    "aws:ssm/parameter:Parameter": ("ssm:PutParameter", {"name": "Name", "description": "Description"}),
    "aws:kms/key:Key": ("kms:CreateKey", {"description": "Description", "policy": "Policy"}),
    "aws:s3/bucket:Bucket": ("s3:CreateBucket", {"bucket": "Bucket"}),
    "aws:s3/bucketPolicy:BucketPolicy": ("s3:PutBucketPolicy", {"policy": "Policy"}),
    "aws:s3/bucketObjectv2:BucketObjectv2": ("s3:PutObject", {"key": "Key"}),
    "aws:cloudwatch/logGroup:LogGroup": ("logs:CreateLogGroup", {"name": "logGroupName"}),
    "aws:lb/loadBalancer:LoadBalancer": ("elbv2:CreateLoadBalancer", {"name": "Name"}),
    "aws:lb/targetGroup:TargetGroup": ("elbv2:CreateTargetGroup", {"name": "Name", "path": "HealthCheckPath"}),
}
SERVICES = {"ebs": "ec2", "vpc": "ec2", "lb": "elbv2", "cloudwatch": "logs"}


def service_of(type: str) -> str:
    name = type.split(":")[1].split("/")[0]
    return SERVICES.get(name, name)


def rules_of(type: str) -> dict[str, Text]:
    """What AWS takes in a type's properties, by their names."""
    call, names = CALLS.get(type, ("", {}))
    return {name: TEXTS[call][member] for name, member in names.items() if member in TEXTS[call]}


def said_of(type: str, inputs: dict[str, Any]) -> list[str]:
    """What AWS would say to the call that makes such a resource."""
    call, names = CALLS.get(type, ("", {}))

    def spelt(value: Any) -> Any:
        if isinstance(value, dict):
            return {names.get(k, k): v if k == "tags" else spelt(v) for k, v in cast(dict[str, Any], value).items()}
        return [spelt(item) for item in cast(list[Any], value)] if isinstance(value, list) else value

    return [f"{code}: {words}" for code, words in refused(service_of(type), call.partition(":")[2], spelt(inputs))]


@functools.cache
def recorded(name: str) -> Recording:
    if name == "the consumer":
        return run_consumer(recorded("local").outputs)
    stack, changes = VARIANTS[name]
    return run_program(stack, merged(stack, **changes))


def cloud_resources(recording: Recording) -> Iterator[Registration]:
    return (resource for resource in recording.resources.values() if resource.type.startswith("aws:"))


@pytest.mark.engine
def test_the_real_provider_takes_and_plans_all_that_is_registered(tmp_path: Path) -> None:
    recordings = {name: recorded(name) for name in (*VARIANTS, "the consumer")}
    terraform = Terraform(tmp_path, recordings)
    assert terraform.validate() == []
    planned = terraform.changes("plan", "-refresh=false")
    registered = [resource for recording in recordings.values() for resource in cloud_resources(recording)]
    assert len(planned) == len(registered)
    assert {line.split()[0] for line in planned} == {"create"}


@pytest.mark.engine
@pytest.mark.parametrize(
    ("type_", "property", "value", "words"),
    [
        ("aws:ec2/instance:Instance", "instanceTyp", "t3.small", "the provider has no instanceTyp"),
        ("aws:ec2/subnet:Subnet", "cidrBlock", "10.0.0.1/99", "invalid CIDR"),
        ("aws:ec2/subnet:Subnet", "vpcId", "security-node-id", "names a resource that it does not depend on"),
    ],
)
def test_what_the_real_provider_does_not_take_is_found(
    tmp_path: Path, type_: str, property: str, value: str, words: str
) -> None:
    found = recorded("local")
    one = next(resource for resource in found.resources.values() if resource.type == type_)
    spoilt = replace(found, resources={**found.resources, one.urn: replace(one, inputs={**one.inputs, property: value})})
    try:
        said = "\n".join(Terraform(tmp_path, {"local": spoilt}).validate())
    except AssertionError as error:
        said = str(error)
    assert words in said


@pytest.mark.parametrize("name", [*VARIANTS, "the consumer"])
def test_aws_takes_every_text_that_is_registered(name: str) -> None:
    found = [
        f"{resource.type} {resource.name}: {said}"
        for resource in cloud_resources(recorded(name))
        for said in said_of(resource.type, resource.inputs)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [*VARIANTS, "the consumer"])
def test_aws_takes_every_name_that_pulumi_makes_of_a_logical_name(name: str) -> None:
    for resource in cloud_resources(recorded(name)):
        rule = rules_of(resource.type).get("name")
        if rule is not None and "name" not in resource.inputs:
            assert problem(resource.name + DIGITS, rule) is None, f"{resource.type} {resource.name}"


@pytest.mark.parametrize("name", [*VARIANTS, "the consumer"])
def test_every_text_that_is_registered_has_a_rule(name: str) -> None:
    missing: set[str] = set()
    for resource in cloud_resources(recorded(name)):
        rules = rules_of(resource.type)
        missing |= {f"{resource.type} {key}" for key in written(resource.inputs) if key not in rules}
        if resource.inputs.get("tags") and service_of(resource.type) not in TAGS:
            missing.add(f"{resource.type} tags")
    assert not missing


def written(value: Any) -> Iterator[str]:
    """The names of the properties that hold text of ours, at any depth; not the keys of tags."""
    if isinstance(value, dict):
        for key, item in cast(dict[str, Any], value).items():
            if key in WRITTEN and isinstance(item, str):
                yield key
            elif key != "tags":
                yield from written(item)
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            yield from written(item)


# AWS refuses these, or loses their first packets, before what they do not name: (type, types of what must stand before it).
# An address cannot be bound, nor a load balancer or NAT gateway made, in a VPC without a gateway (Gateway.NotAttached,
# InvalidSubnet); and the way out is a route in the table of their own subnet. What takes any free address of a subnet must not
# take a planned one (InvalidIPAddress.InUse for the host).
GATEWAY = "aws:ec2/internetGateway:InternetGateway"
RESERVATION = "aws:ec2/subnetCidrReservation:SubnetCidrReservation"
WAY_OUT = (GATEWAY, "aws:ec2/route:Route", "aws:ec2/routeTableAssociation:RouteTableAssociation")
NEEDS = {
    "aws:ec2/eipAssociation:EipAssociation": WAY_OUT,
    "aws:ec2/natGateway:NatGateway": (*WAY_OUT, RESERVATION),
    "aws:lb/loadBalancer:LoadBalancer": (*WAY_OUT, RESERVATION),
    "aws:ec2/flowLog:FlowLog": ("aws:iam/rolePolicy:RolePolicy", "aws:cloudwatch/logGroup:LogGroup"),
    INSTANCE: (
        *(*WAY_OUT, "aws:iam/rolePolicy:RolePolicy", "aws:ssm/parameter:Parameter"),
        *("aws:s3/bucketObjectv2:BucketObjectv2", "aws:ec2/vpcEndpoint:VpcEndpoint"),
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_aws_needs_beforehand_is_waited_for_even_where_nothing_names_it(name: str) -> None:
    recording = recorded(name)
    for resource in cloud_resources(recording):
        before = [recording.resources[urn] for urn in waited_for(recording, resource)]
        for needed in NEEDS.get(resource.type, ()):
            assert needed in {r.type for r in before}, f"{resource.name} does not wait for {needed}"
        if WAY_OUT[2] in NEEDS.get(resource.type, ()):
            for subnet in subnets_of(recording, resource):
                bound = [r for r in before if r.type == WAY_OUT[2] and r.inputs["subnetId"] == subnet]
                assert bound, f"{resource.name} does not wait for the routes of {subnet}"
                if RESERVATION in NEEDS[resource.type]:
                    kept = {r.name for r in recording.of(RESERVATION).values() if r.inputs["subnetId"] == subnet}
                    assert kept and kept <= {r.name for r in before}, f"{resource.name} may take a planned address of {subnet}"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_planned_address_is_reserved_in_its_subnet(name: str) -> None:
    recording = recorded(name)
    placed = {
        r.name: (r.inputs["subnetId"], r.inputs["privateIp"]) for r in recording.of(INSTANCE).values() if "subnetId" in r.inputs
    }
    placed |= {r.name: (r.inputs["subnetId"], r.inputs["privateIps"][0]) for r in recording.of(INTERFACE).values()}
    kept = [(r.inputs["subnetId"], IPNetwork(r.inputs["cidrBlock"])) for r in recording.of(RESERVATION).values()]
    assert {r.inputs["reservationType"] for r in recording.of(RESERVATION).values()} == {"explicit"}
    free = [
        host for host, (subnet, address) in placed.items() if not any(subnet == s and address in block for s, block in kept)
    ]
    assert placed and not free


def waited_for(recording: Recording, resource: Registration) -> set[str]:
    """The URNs of all that the engine makes before the resource."""
    seen: set[str] = set()
    left = set(resource.dependencies)
    while left:
        urn = left.pop()
        if urn not in seen and urn in recording.resources:
            seen.add(urn)
            left |= recording.resources[urn].dependencies
    return seen


def subnets_of(recording: Recording, resource: Registration) -> list[str]:
    """The ids of the subnets that a resource stands in, by itself or by its network interface."""
    inputs = resource.inputs
    interface = inputs.get("networkInterfaceId") or inputs.get("primaryNetworkInterface", {}).get("networkInterfaceId")
    if interface:
        inputs = recording.named(INTERFACE, interface.removesuffix("-id")).inputs
    return inputs.get("subnets") or [inputs["subnetId"]]


@pytest.mark.parametrize(
    ("type", "inputs", "said"),
    [
        ("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", {"description": "Marathon's API"}, 'has "\'"'),
        ("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule", {"description": "x" * 256}, "has 256 characters"),
        ("aws:ec2/securityGroup:SecurityGroup", {"name": "sg-mine"}, "malformed"),
        ("aws:ec2/securityGroup:SecurityGroup", {"description": "naïve"}, "Description has"),
        ("aws:iam/role:Role", {"tags": {"team": "R&D (core)"}}, "ValidationError: tags: team has '&()'"),
        ("aws:iam/role:Role", {"tags": {str(n): "x" for n in range(MOST_TAGS + 1)}}, "LimitExceeded: tags: 51 tags"),
        ("aws:ec2/vpc:Vpc", {"tags": {"aws:mine": "x"}}, "InvalidParameterValue: tags: the key aws:mine"),
        ("aws:ec2/instance:Instance", {"rootBlockDevice": {"tags": {"a": "x" * 257}}}, "rootBlockDevice.tags: a has 257"),
        ("aws:iam/rolePolicy:RolePolicy", {"policy": "x" * 10241}, "LimitExceeded"),
        ("aws:ssm/parameter:Parameter", {"name": "/aws/mine"}, "malformed"),
        ("aws:ssm/parameter:Parameter", {"name": "/a" * 16}, "malformed"),
        ("aws:lb/loadBalancer:LoadBalancer", {"name": "internal-web"}, "malformed"),
        ("aws:lb/targetGroup:TargetGroup", {"name": "a" * 33}, "has 33 characters"),
        ("aws:s3/bucket:Bucket", {"bucket": "Mine"}, "InvalidBucketName: Bucket has 'M'"),
        ("aws:s3/bucket:Bucket", {"bucket": "10.0.0.1"}, "malformed"),
    ],
)
def test_what_aws_refuses_has_a_message_with_its_code(type: str, inputs: dict[str, Any], said: str) -> None:
    messages = said_of(type, inputs)
    assert any(said in message for message in messages), messages


@pytest.mark.parametrize(
    ("type", "inputs"),
    [
        ("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", {"description": "a Z 9._-:/()#,@[]+=&;{}!$*"}),
        ("aws:ec2/vpc:Vpc", {"tags": {"team": "R&D (core)"}}),
        ("aws:iam/rolePolicy:RolePolicy", {"policy": "x" * 10240 + " " * 100}),
        ("aws:ssm/parameter:Parameter", {"name": "/apollo/dev/consul/ca", "description": "Consul's"}),
        ("aws:lb/loadBalancer:LoadBalancer", {"name": "a"}),
        ("aws:s3/bucket:Bucket", {"bucket": "a.b-c"}),
    ],
)
def test_what_aws_takes_passes(type: str, inputs: dict[str, Any]) -> None:
    assert not said_of(type, inputs)
