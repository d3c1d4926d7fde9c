"""What AWS itself refuses: texts that it does not take, and resources that come before what they need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from netaddr import IPNetwork

from localcloud.provider.texts import MOST_TAGS, TAGS, TEXTS, problem, refused
from tests.components.recording import Recording, Registration, run_consumer, run_program
from tests.components.test_program import merged

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
WRITTEN = ("name", "description", "policy", "assumeRolePolicy", "keyName", "path")
DIGITS = "-1234567"


@pytest.fixture(scope="module")
def recordings() -> dict[str, Recording]:
    found = {name: run_program(stack, merged(stack, **changes)) for name, (stack, changes) in VARIANTS.items()}
    return {**found, "the consumer": run_consumer(found["local"].outputs)}


def cloud_resources(recording: Recording) -> Iterator[Registration]:
    return (resource for resource in recording.resources.values() if resource.type.startswith("aws:"))


@pytest.mark.parametrize("name", [*VARIANTS, "the consumer"])
def test_aws_takes_every_text_that_is_registered(name: str, recordings: dict[str, Recording]) -> None:
    found = [
        f"{resource.type} {resource.name}: {failure.path}: {failure.reason}"
        for resource in cloud_resources(recordings[name])
        for failure in refused(resource.type, resource.inputs)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [*VARIANTS, "the consumer"])
def test_aws_takes_every_name_that_pulumi_makes_of_a_logical_name(name: str, recordings: dict[str, Recording]) -> None:
    for resource in cloud_resources(recordings[name]):
        rule = TEXTS.get(resource.type, {}).get("name")
        if rule is not None and "name" not in resource.inputs:
            assert problem(resource.name + DIGITS, rule) is None, f"{resource.type} {resource.name}"


def test_every_text_that_is_registered_has_a_rule(recordings: dict[str, Recording]) -> None:
    missing: set[str] = set()
    for recording in recordings.values():
        for resource in cloud_resources(recording):
            rules = TEXTS.get(resource.type, {})
            missing |= {f"{resource.type} {key}" for key in written(resource.inputs) if key not in rules}
            if resource.inputs.get("tags") and resource.type.split(":")[1].split("/")[0] not in TAGS:
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
    INSTANCE: (*WAY_OUT, "aws:iam/rolePolicy:RolePolicy", "aws:ssm/parameter:Parameter"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_aws_needs_beforehand_is_waited_for_even_where_nothing_names_it(
    name: str, recordings: dict[str, Recording]
) -> None:
    recording = recordings[name]
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
def test_every_planned_address_is_reserved_in_its_subnet(name: str, recordings: dict[str, Recording]) -> None:
    recording = recordings[name]
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
        ("aws:ec2/securityGroup:SecurityGroup", {"ingress": [{"description": "naïve"}]}, "ingress[0].description"),
        ("aws:iam/role:Role", {"tags": {"team": "R&D (core)"}}, "ValidationError: has '&()'"),
        ("aws:iam/role:Role", {"tags": {str(n): "x" for n in range(MOST_TAGS + 1)}}, "LimitExceeded: 51 tags"),
        ("aws:ec2/vpc:Vpc", {"tags": {"aws:mine": "x"}}, "the key is refused"),
        ("aws:ec2/instance:Instance", {"rootBlockDevice": {"tags": {"a": "x" * 257}}}, "rootBlockDevice.tags.a"),
        ("aws:iam/rolePolicy:RolePolicy", {"policy": "x" * 10241}, "LimitExceeded"),
        ("aws:ssm/parameter:Parameter", {"name": "/aws/mine"}, "malformed"),
        ("aws:ssm/parameter:Parameter", {"name": "/a" * 16}, "malformed"),
        ("aws:lb/loadBalancer:LoadBalancer", {"name": "internal-web"}, "malformed"),
        ("aws:lb/targetGroup:TargetGroup", {"name": "a" * 33}, "has 33 characters"),
    ],
)
def test_what_aws_refuses_has_a_message_with_its_code(type: str, inputs: dict[str, Any], said: str) -> None:
    messages = [f"{failure.path}: {failure.reason}" for failure in refused(type, inputs)]
    assert any(said in message for message in messages), messages


@pytest.mark.parametrize(
    ("type", "inputs"),
    [
        ("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", {"description": "a Z 9._-:/()#,@[]+=&;{}!$*"}),
        ("aws:ec2/vpc:Vpc", {"tags": {"team": "R&D (core)"}}),
        ("aws:iam/rolePolicy:RolePolicy", {"policy": "x" * 10240 + " " * 100}),
        ("aws:ssm/parameter:Parameter", {"name": "/apollo/dev/consul/ca", "description": "Consul's"}),
        ("aws:lb/loadBalancer:LoadBalancer", {"name": "a"}),
    ],
)
def test_what_aws_takes_passes(type: str, inputs: dict[str, Any]) -> None:
    assert not list(refused(type, inputs))
