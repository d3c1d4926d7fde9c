"""What fails at preview already, as in the real provider's plan: what is missing, or given beside what excludes it.

What AWS itself refuses fails in the call (`test_refusals.py`).
"""

from __future__ import annotations

import pytest

from localcloud.provider.kind import Kind
from localcloud.provider.values import UNKNOWN, Props
from localcloud.service import MODULES

KINDS: dict[str, Kind] = {kind.token.rpartition(":")[2]: kind() for module in MODULES for kind in module.KINDS}
ROUTE = {"routeTableId": "rtb-1", "destinationCidrBlock": "0.0.0.0/0"}
INSTANCE = {"ami": "ami-1", "instanceType": "t3.micro", "subnetId": "subnet-1"}
RULE = {"ipProtocol": "tcp", "fromPort": 80, "toPort": 80, "cidrIpv4": "10.0.0.0/8"}
FLOW_LOG = {"vpcId": "vpc-1", "logDestination": "arn", "iamRoleArn": "arn", "trafficType": "ALL"}
OF_INTERFACE = {"ami": "ami-1", "instanceType": "t3.micro", "primaryNetworkInterface": {"networkInterfaceId": "eni-1"}}

# Type, inputs, the properties that are refused.
CASES: list[tuple[str, Props, list[str]]] = [
    ("Vpc", {"cidrBlock": "10.0.0.0/16"}, []),
    ("Vpc", {}, ["cidrBlock"]),
    ("EipAssociation", {"allocationId": "eip-1"}, ["networkInterfaceId"]),
    ("NatGateway", {"allocationId": "eip-1"}, []),
    ("NatGateway", {}, ["allocationId"]),
    *(("Route", {**ROUTE, target: "x-1"}, []) for target in ("gatewayId", "natGatewayId")),
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
    ("Instance", {**INSTANCE, "userDataBase64": UNKNOWN}, []),
    ("Instance", {**INSTANCE, "userDataBase64": "no base64"}, ["userDataBase64"]),
    ("Instance", {}, ["ami", "instanceType", "subnetId"]),
    ("Instance", {**OF_INTERFACE, "subnetId": "subnet-1", "privateIp": "10.0.0.9"}, ["subnetId", "privateIp"]),
    ("Instance", {**OF_INTERFACE, "vpcSecurityGroupIds": ["sg-1"]}, ["vpcSecurityGroupIds"]),
    ("NetworkInterface", {"privateIps": ["10.0.0.4"]}, []),
    ("NetworkInterface", {"privateIps": ["10.0.0.4", "10.0.0.5"]}, ["privateIps"]),
    ("SecurityGroupIngressRule", RULE, []),
    ("SecurityGroupIngressRule", {**RULE, "cidrIpv4": None}, ["cidrIpv4"]),
    ("SecurityGroupIngressRule", {**RULE, "referencedSecurityGroupId": "sg-1"}, ["cidrIpv4"]),
    ("SecurityGroupEgressRule", {"ipProtocol": "-1"}, ["cidrIpv4"]),
    ("SecurityGroup", {"vpcId": "vpc-1", "description": "d"}, []),
    ("SecurityGroup", {}, ["vpcId", "description"]),
    ("DefaultSecurityGroup", {"ingress": [], "egress": []}, []),
    ("DefaultSecurityGroup", {"egress": [{"protocol": "tcp", "fromPort": 9, "toPort": 8}]}, ["egress"]),
    ("Volume", {"size": 4}, []),
    ("Volume", {}, ["size"]),
    ("Parameter", {"type": "String", "value": UNKNOWN}, []),
    ("Parameter", {"type": "String"}, ["value"]),
    ("LogGroup", {"name": "/apollo"}, []),
    ("LogGroup", {"retentionInDays": 30}, ["name"]),
    ("FlowLog", FLOW_LOG, []),
    ("FlowLog", {"vpcId": "vpc-1"}, ["trafficType", "logDestination", "iamRoleArn"]),
    ("LoadBalancer", {"subnets": ["subnet-1"]}, []),
    ("LoadBalancer", {"subnets": []}, ["subnets"]),
    ("BucketPublicAccessBlock", {"bucket": "b"}, []),
    ("BucketPublicAccessBlock", {"blockPublicAcls": True}, ["bucket"]),
    ("BucketPolicy", {"bucket": "b", "policy": "{}"}, []),
    ("BucketPolicy", {}, ["bucket", "policy"]),
    ("BucketObjectv2", {"bucket": "b", "key": "k", "contentBase64": UNKNOWN}, []),
    ("BucketObjectv2", {"contentBase64": "no base64"}, ["bucket", "key", "contentBase64"]),
]


def refused(name: str, inputs: Props) -> list[str]:
    return [failure.path for failure in KINDS[name].validate(inputs)]


@pytest.mark.parametrize(("name", "inputs", "properties"), CASES, ids=lambda value: str(value)[:60])
def test_a_preview_refuses_what_a_plan_would(name: str, inputs: Props, properties: list[str]) -> None:
    assert refused(name, inputs) == properties


def test_every_type_that_refuses_anything_at_preview_is_in_the_table() -> None:
    judging = {
        name for name, kind in KINDS.items() if type(kind).validate is not Kind.validate or kind.required or kind.base64_text
    }
    assert judging == {name for name, _, _ in CASES}
