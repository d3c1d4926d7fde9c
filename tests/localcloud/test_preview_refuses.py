"""What fails at preview already, since the inputs alone tell: each refusal of each type of resource, without a cloud."""

from __future__ import annotations

import base64

import pytest

from localcloud.daemon import _MODULES  # pyright: ignore[reportPrivateUsage]
from localcloud.provider.kind import Kind
from localcloud.provider.values import UNKNOWN, Props

KINDS: dict[str, Kind] = {kind.token.rpartition(":")[2]: kind() for module in _MODULES for kind in module.KINDS}
ROUTE = {"routeTableId": "rtb-1", "destinationCidrBlock": "0.0.0.0/0"}
INSTANCE = {"ami": "ami-1", "instanceType": "t3.micro", "subnetId": "subnet-1"}
RULE = {"ipProtocol": "tcp", "fromPort": 80, "toPort": 80, "cidrIpv4": "10.0.0.0/8"}
FLOW_LOG = {"vpcId": "vpc-1", "logDestination": "arn", "iamRoleArn": "arn", "trafficType": "ALL"}
OF_INTERFACE = {"ami": "ami-1", "instanceType": "t3.micro", "primaryNetworkInterface": {"networkInterfaceId": "eni-1"}}

# Type, inputs, the properties that are refused.
CASES: list[tuple[str, Props, list[str]]] = [
    ("Vpc", {"cidrBlock": "10.0.0.0/16"}, []),
    ("Vpc", {}, ["cidrBlock"]),
    ("SubnetCidrReservation", {"reservationType": "explicit"}, []),
    ("SubnetCidrReservation", {"reservationType": "implicit"}, ["reservationType"]),
    ("NatGateway", {"allocationId": "eip-1"}, []),
    ("NatGateway", {"connectivityType": "private"}, []),
    ("NatGateway", {}, ["allocationId"]),
    *(("Route", {**ROUTE, target: "x-1"}, []) for target in ("gatewayId", "natGatewayId", "networkInterfaceId")),
    ("Route", {**ROUTE, "natGatewayId": UNKNOWN}, []),
    ("Route", ROUTE, ["gatewayId"]),
    ("Route", {**ROUTE, "gatewayId": "igw-1", "natGatewayId": "nat-1"}, ["gatewayId"]),
    ("Route", {"routeTableId": "rtb-1", "gatewayId": "igw-1"}, ["destinationCidrBlock"]),
    ("RouteTableAssociation", {"routeTableId": "rtb-1", "subnetId": "subnet-1"}, []),
    ("RouteTableAssociation", {"routeTableId": "rtb-1"}, ["subnetId"]),
    ("VpcEndpoint", {"serviceName": "com.amazonaws.eu-west-1.s3"}, []),
    ("VpcEndpoint", {"serviceName": UNKNOWN}, []),
    ("VpcEndpoint", {}, ["serviceName"]),
    ("Instance", INSTANCE, []),
    ("Instance", OF_INTERFACE, []),
    ("Instance", {}, ["ami", "instanceType", "subnetId"]),
    ("Instance", {**INSTANCE, "userData": "a", "userDataBase64": "YQ=="}, ["userData"]),
    ("Instance", {**INSTANCE, "userDataBase64": "no base64!"}, ["userDataBase64"]),
    ("Instance", {**INSTANCE, "userData": "x" * 16384}, []),
    ("Instance", {**INSTANCE, "userData": "x" * 16385}, ["userData"]),
    ("Instance", {**INSTANCE, "userDataBase64": base64.b64encode(bytes(16385)).decode()}, ["userDataBase64"]),
    ("Instance", {**OF_INTERFACE, "subnetId": "subnet-1", "privateIp": "10.0.0.9"}, ["subnetId", "privateIp"]),
    ("Instance", {**OF_INTERFACE, "vpcSecurityGroupIds": ["sg-1"]}, ["vpcSecurityGroupIds"]),
    ("SecurityGroupIngressRule", RULE, []),
    ("SecurityGroupIngressRule", {**RULE, "fromPort": 81}, ["fromPort"]),
    ("SecurityGroupIngressRule", {**RULE, "ipProtocol": "-1"}, ["fromPort"]),
    ("SecurityGroupIngressRule", {**RULE, "cidrIpv4": None}, ["cidrIpv4"]),
    ("SecurityGroupIngressRule", {**RULE, "referencedSecurityGroupId": "sg-1"}, ["cidrIpv4"]),
    ("SecurityGroupIngressRule", {**RULE, "cidrIpv4": "10.0.0.1/8"}, ["cidrIpv4"]),
    ("SecurityGroupEgressRule", {"ipProtocol": "-1", "cidrIpv4": "0.0.0.0/0"}, []),
    ("SecurityGroupEgressRule", {"ipProtocol": "-1"}, ["cidrIpv4"]),
    ("SecurityGroup", {"ingress": [{"protocol": "tcp", "fromPort": 9, "toPort": 8}]}, ["ingress[0]"]),
    ("DefaultSecurityGroup", {"ingress": [], "egress": []}, []),
    ("DefaultSecurityGroup", {"egress": [{"protocol": "tcp", "fromPort": 9, "toPort": 8}]}, ["egress[0]"]),
    ("Volume", {"size": 4}, []),
    ("Volume", {"snapshotId": "snap-1"}, []),
    ("Volume", {}, ["size"]),
    ("Role", {"assumeRolePolicy": "{}"}, []),
    ("Role", {"assumeRolePolicy": "{"}, ["assumeRolePolicy"]),
    ("RolePolicy", {"policy": "no JSON"}, ["policy"]),
    ("Parameter", {"type": "String", "value": "x" * 4096}, []),
    ("Parameter", {"type": "SecureString", "value": "x" * 8192, "tier": "Advanced"}, []),
    ("Parameter", {"type": "String", "value": "x" * 4097}, ["value"]),
    ("Parameter", {"type": "String", "value": "x" * 8193, "tier": "Advanced"}, ["value"]),
    ("Parameter", {"type": "String"}, ["value"]),
    ("Parameter", {"type": "Secret", "value": "x"}, ["type"]),
    ("Key", {"deletionWindowInDays": 7}, []),
    ("Key", {"deletionWindowInDays": 6}, ["deletionWindowInDays"]),
    ("Key", {"deletionWindowInDays": 31}, ["deletionWindowInDays"]),
    ("LogGroup", {"retentionInDays": 30}, []),
    ("LogGroup", {"retentionInDays": 31}, ["retentionInDays"]),
    ("FlowLog", FLOW_LOG, []),
    ("FlowLog", {**FLOW_LOG, "vpcId": None}, ["vpcId"]),
    ("FlowLog", {**FLOW_LOG, "subnetId": "subnet-1"}, ["vpcId"]),
    ("FlowLog", {"vpcId": "vpc-1"}, ["logDestination", "iamRoleArn", "trafficType"]),
    ("LoadBalancer", {"subnets": ["subnet-1"]}, []),
    ("LoadBalancer", {}, ["subnets"]),
]


def refused(name: str, inputs: Props) -> list[str]:
    return [failure.path for failure in KINDS[name].validate(inputs)]


@pytest.mark.parametrize(("name", "inputs", "properties"), CASES, ids=lambda value: str(value)[:60])
def test_a_preview_refuses_what_aws_would(name: str, inputs: Props, properties: list[str]) -> None:
    assert refused(name, inputs) == properties


def test_every_type_that_refuses_anything_at_preview_is_in_the_table() -> None:
    judging = {name for name, kind in KINDS.items() if type(kind).validate is not Kind.validate}
    assert judging == {name for name, _, _ in CASES}
