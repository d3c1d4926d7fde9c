"""What AWS would refuse, refused here too: in the check where the inputs tell, else by the call."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import base64
from typing import Any

import pytest

from localcloud.provider.values import UNKNOWN, Props, Secret, plain

from .support import REGION, World, refusal

VPC = "aws:ec2/vpc:Vpc"
INSTANCE = "aws:ec2/instance:Instance"
GROUP = "aws:ec2/securityGroup:SecurityGroup"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
ROLE = "aws:iam/role:Role"
INTERFACE = "aws:ec2/networkInterface:NetworkInterface"


def host(**more: Any) -> Props:
    return {"ami": "ami-1", "instanceType": "t3.micro", "subnetId": "subnet-1", **more}


def rule(**more: Any) -> Props:
    return {"securityGroupId": "sg-1", "ipProtocol": "tcp", "fromPort": 1, "toPort": 2, "cidrIpv4": "10.0.0.0/8", **more}


CHECKS: list[tuple[str, Props, str]] = [
    (INSTANCE, host(instnceType="t3.micro"), "instnceType: unknown property of aws:ec2/instance:Instance; did you mean instanceType?"),
    (INSTANCE, host(metadataOptions={"httpToken": "required"}), "metadataOptions.httpToken: unknown property"),
    (INSTANCE, host(sourceDestCheck="maybe"), "sourceDestCheck: is 'maybe', but aws:ec2/instance:Instance takes a boolean here"),
    (INSTANCE, host(hibernation=True), "hibernation: is a property of aws:ec2/instance:Instance, but the embedded cloud does not"),
    (INSTANCE, host(userData="x" * 16385), "userData: is 16385 bytes; AWS takes at most 16384 bytes before base64"),
    (INSTANCE, host(userDataBase64=base64.b64encode(b"x" * 16385).decode()), "userDataBase64: is 16385 bytes"),
    (INSTANCE, host(userDataBase64="not base64!"), "userDataBase64: is not base64"),
    (INSTANCE, {"instanceType": "t3.micro", "subnetId": "subnet-1"}, "ami: missing"),
    (VPC, {}, "cidrBlock: missing"),
    (INGRESS, {"ipProtocol": "tcp"}, "securityGroupId: missing"),
    (INGRESS, rule(fromPort=90, toPort=80), "fromPort 90 is above toPort 80"),
    (INGRESS, rule(toPort=70000), "ports 1 to 70000 are not within 0 to 65535"),
    (INGRESS, rule(cidrIpv4="10.0.0.1/8"), "10.0.0.1/8 is no network"),
    (INGRESS, rule(referencedSecurityGroupId="sg-2"), "exactly one of"),
    (GROUP, {"ingress": [{"protocol": "tcp", "fromPort": 9, "toPort": 8, "cidrBlocks": ["10.0.0.0/8"]}]}, "above toPort 8"),
    ("aws:iam/rolePolicy:RolePolicy", {"role": "r", "policy": "{"}, "policy: is not JSON"),
    ("aws:ssm/parameter:Parameter", {"type": "SecretString", "value": "v"}, "one of String, StringList, SecureString"),
    ("aws:kms/key:Key", {"deletionWindowInDays": 1}, "deletionWindowInDays: ValidationException: is 1; AWS takes 7 to 30"),
    ("aws:ec2/vpc:Vpcs", {}, "the aws provider has no type aws:ec2/vpc:Vpcs; did you mean Vpc?"),
    (INGRESS, rule(description="Marathon's API"), "description: InvalidParameterValue: has \"'\"; AWS takes 0 to 255 characters here"),
    (ROLE, {"assumeRolePolicy": "{}", "tags": {"team": "R&D (core)"}}, "tags.team: ValidationError: has '&()'"),
    ("aws:sqs/queue:Queue", {}, "the embedded cloud does not implement aws:sqs/queue:Queue"),
]  # fmt: skip


@pytest.mark.parametrize(("type", "inputs", "words"), CHECKS, ids=[words[:40] for _, _, words in CHECKS])
def test_bad_inputs_fail_the_check_by_name(type: str, inputs: Props, words: str, world: World) -> None:
    _, failures = world.aws.check(type, inputs)
    assert any(words in failure for failure in failures), failures


@pytest.mark.parametrize(
    "inputs", [host(userData="x" * 16384), rule(fromPort=80, toPort=80), rule(ipProtocol="50", fromPort=None, toPort=None)]
)
def test_the_limits_themselves_pass(inputs: Props, world: World) -> None:
    _, failures = world.aws.check(INSTANCE if "ami" in inputs else INGRESS, inputs)
    assert failures == []


def test_unknown_values_pass_the_check_and_the_preview(world: World) -> None:
    inputs = host(ami=UNKNOWN, subnetId=UNKNOWN, vpcSecurityGroupIds=[UNKNOWN], userDataBase64=UNKNOWN, tags={"a": UNKNOWN})
    id, outputs = world.aws.create(INSTANCE, inputs, preview=True)
    assert id == ""
    assert outputs["instanceType"] == "t3.micro"
    assert outputs["privateIp"] is UNKNOWN
    assert outputs["vpcSecurityGroupIds"] == [UNKNOWN]


@pytest.mark.parametrize("last", [0, 1, 2, 3, 255])
def test_the_five_addresses_that_aws_reserves_in_a_subnet_are_refused(last: int, world: World) -> None:
    vpc = world.vpc()
    subnet = world.subnet(vpc)
    words = refusal(lambda: world.aws.create(INSTANCE, world.host(vpc, subnet, last)))
    assert "reserves in subnet" in words and f"{world.cidr(vpc)}.1.4 to {world.cidr(vpc)}.1.254 are free" in words
    address = f"{world.cidr(vpc)}.1.{last}"
    assert "reserves" in refusal(lambda: world.aws.create(INTERFACE, {"subnetId": subnet, "privateIps": [address]}))


def test_an_address_outside_its_subnet_or_in_use_is_refused(world: World) -> None:
    vpc = world.vpc()
    subnet = world.subnet(vpc)
    outside = {**world.host(vpc, subnet, 9), "privateIp": f"{world.cidr(vpc)}.9.9"}
    assert "is not in subnet" in refusal(lambda: world.aws.create(INSTANCE, outside))
    id, outputs = world.aws.create(INSTANCE, world.host(vpc, subnet, 10))
    assert "already in use" in refusal(lambda: world.aws.create(INSTANCE, world.host(vpc, subnet, 10)))
    world.aws.delete(INSTANCE, id, outputs)
    again, outputs = world.aws.create(INSTANCE, world.host(vpc, subnet, 10))
    assert again != id
    assert outputs["privateIp"] == f"{world.cidr(vpc)}.1.10"


def test_a_security_group_of_another_vpc_is_refused(world: World) -> None:
    vpc, other = world.vpc(), world.vpc()
    subnet, foreign = world.subnet(vpc), world.group(other)
    words = refusal(lambda: world.aws.create(INSTANCE, world.host(vpc, subnet, 9, vpcSecurityGroupIds=[foreign])))
    assert foreign in words and other in words
    assert foreign in refusal(lambda: world.aws.create(INTERFACE, {"subnetId": subnet, "securityGroups": [foreign]}))
    id, outputs = world.aws.create(INSTANCE, inputs := world.host(vpc, subnet, 9))
    new = {**inputs, "vpcSecurityGroupIds": [foreign]}
    assert foreign in refusal(lambda: world.aws.update(INSTANCE, id, outputs, inputs, new))


def test_what_faces_the_internet_is_refused_until_the_vpc_has_its_gateway(world: World) -> None:
    vpc = world.vpc()
    subnet, address = world.subnet(vpc), world.aws.create("aws:ec2/eip:Eip", {"domain": "vpc"})[0]
    interface = world.aws.create(INTERFACE, {"subnetId": subnet})[0]
    balancer = {"loadBalancerType": "network", "subnets": [subnet], "name": f"lb-{world.number()}"}
    bound = {"allocationId": address, "networkInterfaceId": interface}
    cases: list[tuple[str, Props, str]] = [
        ("aws:lb/loadBalancer:LoadBalancer", balancer, f"InvalidSubnet: VPC {vpc} has no internet gateway"),
        ("aws:ec2/natGateway:NatGateway", {"allocationId": address, "subnetId": subnet}, f"Gateway.NotAttached: Network {vpc}"),
        ("aws:ec2/eipAssociation:EipAssociation", bound, f"Gateway.NotAttached: Network {vpc}"),
        ("aws:ec2/eip:Eip", {"domain": "vpc", "networkInterface": interface}, f"Gateway.NotAttached: Network {vpc}"),
    ]
    for type, inputs, words in cases:
        assert words in refusal(lambda type=type, inputs=inputs: world.aws.create(type, inputs))
    world.aws.create("aws:lb/loadBalancer:LoadBalancer", {**balancer, "internal": True})
    world.aws.create("aws:ec2/internetGateway:InternetGateway", {"vpcId": vpc})
    for type, inputs, _ in cases[:1] + cases[2:3]:
        world.aws.create(type, {**inputs, **({"name": f"lb-{world.number()}"} if "name" in inputs else {})})


def test_reserved_addresses_go_to_whoever_names_them_and_to_no_other(world: World) -> None:
    vpc = world.open_vpc()
    subnet = world.aws.create("aws:ec2/subnet:Subnet", {"vpcId": vpc, "cidrBlock": f"{world.cidr(vpc)}.5.0/28"})[0]
    # Of sixteen addresses five are AWS's; these leave .4, .5, .6 and .7.
    kept = {"subnetId": subnet, "cidrBlock": f"{world.cidr(vpc)}.5.8/29", "reservationType": "explicit"}
    world.aws.create("aws:ec2/subnetCidrReservation:SubnetCidrReservation", kept)
    overlapping = {**kept, "cidrBlock": f"{world.cidr(vpc)}.5.12/30"}
    assert "InvalidParameterValue" in refusal(
        lambda: world.aws.create("aws:ec2/subnetCidrReservation:SubnetCidrReservation", overlapping)
    )
    gateway = {"subnetId": subnet, "allocationId": world.aws.create("aws:ec2/eip:Eip", {"domain": "vpc"})[0]}
    addresses = [world.aws.create("aws:ec2/natGateway:NatGateway", gateway)[1]["privateIp"]]
    addresses += [world.aws.create(INTERFACE, {"subnetId": subnet})[1]["privateIp"] for _ in range(3)]
    assert sorted(addresses) == [f"{world.cidr(vpc)}.5.{last}" for last in (4, 5, 6, 7)]
    assert "InsufficientFreeAddressesInSubnet" in refusal(lambda: world.aws.create(INTERFACE, {"subnetId": subnet}))
    named = {"subnetId": subnet, "privateIps": [f"{world.cidr(vpc)}.5.9"]}
    assert plain(world.aws.create(INTERFACE, named)[1])["privateIp"] == f"{world.cidr(vpc)}.5.9"


def test_a_subnet_in_two_route_tables_is_refused(world: World) -> None:
    vpc = world.vpc()
    subnet = world.subnet(vpc)
    tables = [world.aws.create("aws:ec2/routeTable:RouteTable", {"vpcId": vpc})[0] for _ in range(2)]
    kind = "aws:ec2/routeTableAssociation:RouteTableAssociation"
    world.aws.create(kind, {"subnetId": subnet, "routeTableId": tables[0]})
    words = refusal(lambda: world.aws.create(kind, {"subnetId": subnet, "routeTableId": tables[1]}))
    assert subnet in words and tables[0] in words and tables[1] in words


def test_a_protected_instance_is_not_deleted(world: World) -> None:
    vpc = world.vpc()
    inputs = world.host(vpc, world.subnet(vpc), 9, disableApiTermination=True)
    id, outputs = world.aws.create(INSTANCE, inputs)
    assert "disableApiTermination" in refusal(lambda: world.aws.delete(INSTANCE, id, outputs))
    outputs = world.aws.update(INSTANCE, id, outputs, inputs, {**inputs, "disableApiTermination": False})
    world.aws.delete(INSTANCE, id, outputs)


def test_an_interface_of_a_living_instance_cannot_be_given_to_another(world: World) -> None:
    vpc = world.vpc()
    interface, _ = world.aws.create(INTERFACE, {"subnetId": world.subnet(vpc)})
    inputs = {"ami": world.image(), "instanceType": "t3.micro", "primaryNetworkInterface": {"networkInterfaceId": interface}}
    id, outputs = world.aws.create(INSTANCE, inputs)
    assert id in refusal(lambda: world.aws.create(INSTANCE, inputs))
    world.aws.delete(INSTANCE, id, outputs)
    second, outputs = world.aws.create(INSTANCE, inputs)
    assert plain(outputs)["primaryNetworkInterfaceId"] == interface
    world.aws.delete(INSTANCE, second, outputs)


def test_an_image_an_instance_type_and_a_zone_that_do_not_exist_are_refused(world: World) -> None:
    vpc = world.vpc()
    inputs = world.host(vpc, world.subnet(vpc), 9)
    assert "ami-0123" in refusal(lambda: world.aws.create(INSTANCE, {**inputs, "ami": "ami-01234567"}))
    assert "t99.huge" in refusal(lambda: world.aws.create(INSTANCE, {**inputs, "instanceType": "t99.huge"}))
    bad = {"vpcId": vpc, "cidrBlock": f"{world.cidr(vpc)}.8.0/24", "availabilityZone": f"{REGION}x"}
    assert "eu-west-1x" in refusal(lambda: world.aws.create("aws:ec2/subnet:Subnet", bad))


def test_a_failed_second_step_leaves_nothing_behind(world: World) -> None:
    before = world.boto("ec2").describe_addresses()["Addresses"]
    refusal(lambda: world.aws.create("aws:ec2/eip:Eip", {"domain": "vpc", "networkInterface": "eni-00000000"}))
    assert world.boto("ec2").describe_addresses()["Addresses"] == before


def test_a_protected_load_balancer_is_not_deleted(world: World) -> None:
    vpc, kind = world.open_vpc(), "aws:lb/loadBalancer:LoadBalancer"
    inputs = {"loadBalancerType": "network", "subnets": [world.subnet(vpc)], "name": f"lb-{world.number()}"}
    id, outputs = world.aws.create(kind, {**inputs, "enableDeletionProtection": True})
    words = refusal(lambda: world.aws.delete(kind, id, outputs))
    assert "OperationNotPermitted" in words and "enableDeletionProtection to false" in words
    old = {**inputs, "enableDeletionProtection": True}
    outputs = world.aws.update(kind, id, outputs, old, {**inputs, "enableDeletionProtection": False})
    world.aws.delete(kind, id, outputs)
    assert world.aws.read(kind, id, outputs, inputs)[0] == ""


def test_a_default_security_group_that_is_taken_over_has_no_rule_left(world: World) -> None:
    vpc = world.vpc()
    id, _ = world.aws.create("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", {"vpcId": vpc})
    (group,) = world.boto("ec2").describe_security_groups(GroupIds=[id])["SecurityGroups"]
    assert (group["GroupName"], group["IpPermissions"], group["IpPermissionsEgress"]) == ("default", [], [])


def test_a_flow_log_into_no_log_group_is_refused(world: World) -> None:
    role = world.aws.create(ROLE, {"assumeRolePolicy": "{}"}, name=f"flow-{world.number()}")[1]["arn"]
    inputs = {
        "vpcId": world.vpc(),
        "trafficType": "ALL",
        "iamRoleArn": role,
        "logDestination": "arn:aws:logs:x:1:log-group:/no",
    }
    assert "/no: Access error" in refusal(lambda: world.aws.create("aws:ec2/flowLog:FlowLog", inputs))


def test_a_parameter_under_a_key_that_cannot_encrypt_is_refused(world: World) -> None:
    key, outputs = world.aws.create("aws:kms/key:Key", {"description": "test", "deletionWindowInDays": 7})
    inputs = {"name": f"/keyed/{world.number()}", "type": "SecureString", "value": "one", "keyId": outputs["arn"]}
    world.aws.delete("aws:kms/key:Key", key, outputs)
    assert "InvalidKeyId" in refusal(lambda: world.aws.create("aws:ssm/parameter:Parameter", inputs))
    unknown = {**inputs, "keyId": f"{outputs['arn']}0"}
    assert "InvalidKeyId" in refusal(lambda: world.aws.create("aws:ssm/parameter:Parameter", unknown))


def test_secrets_stay_marked_and_out_of_messages(world: World) -> None:
    name = f"/secret/{world.number()}"
    inputs = {"name": name, "type": "SecureString", "value": Secret("hush"), "description": "d"}
    _, outputs = world.aws.create("aws:ssm/parameter:Parameter", inputs)
    assert outputs["value"] == Secret("hush")
    assert outputs["description"] == "d"
    _, seen, seen_inputs = world.aws.read("aws:ssm/parameter:Parameter", name, outputs, inputs)
    assert seen["value"] == seen_inputs["value"] == Secret("hush")
    found = world.aws.invoke("aws:ssm/getParameter:getParameter", {"name": name})
    assert found["value"] == "hush"
