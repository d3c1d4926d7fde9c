"""Every resource type, through the provider's own port: made, read, changed, taken over by its id, deleted."""

# One case a line reads as the table it is.
# ruff: noqa: E501, ARG005
from __future__ import annotations

import importlib
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pulumi import _types as sdk_types  # pyright: ignore[reportPrivateUsage]  # the SDK's own introspection

from components.programs import tls_only
from localcloud.api.client import Aws, Keys
from localcloud.provider.aws import Api, members_of
from localcloud.provider.sdk import outputs as sdk_outputs
from localcloud.provider.values import Props, plain
from localcloud.service import MODULES

from .support import REGION, World

TRUST = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]})
POLICY = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ssm:Get*", "Resource": "*"}]})


@dataclass(frozen=True)
class Case:
    """make: inputs, given a world. update: inputs that an update changes. replace: a property whose other value replaces.
    stays: AWS keeps the resource when it is deleted. outputs: outputs that must have a value."""

    type: str
    make: Callable[[World], Props]
    update: Props = field(default_factory=dict[str, Any])
    replace: str | None = None
    outputs: tuple[str, ...] = ()
    stays: bool = False


def _route(w: World) -> Props:
    vpc = w.vpc()
    gateway = w.aws.create("aws:ec2/internetGateway:InternetGateway", {"vpcId": vpc})[0]
    table = w.aws.create("aws:ec2/routeTable:RouteTable", {"vpcId": vpc})[0]
    return {"routeTableId": table, "destinationCidrBlock": "0.0.0.0/0", "gatewayId": gateway}


def _association(w: World) -> Props:
    vpc = w.vpc()
    return {
        "routeTableId": w.aws.create("aws:ec2/routeTable:RouteTable", {"vpcId": vpc})[0],
        "subnetId": w.subnet(vpc),
    }


def _address(w: World) -> str:
    return w.aws.create("aws:ec2/eip:Eip", {"domain": "vpc"})[0]


def _interface(w: World) -> Props:
    vpc = w.open_vpc()
    address = f"{w.cidr(vpc)}.1.20"
    return {"subnetId": w.subnet(vpc), "privateIps": [address], "securityGroups": [w.group(vpc)]}


def _nat(w: World) -> Props:
    return {"subnetId": w.subnet(w.open_vpc()), "allocationId": _address(w), "tags": {"Name": "nat"}}


def _rule(w: World) -> Props:
    return {"securityGroupId": w.group(w.vpc()), "ipProtocol": "tcp", "fromPort": 80, "toPort": 81, "cidrIpv4": "10.0.0.0/8",
            "description": "web", "tags": {"a": "b"}}  # fmt: skip


def _peer_rule(w: World) -> Props:
    vpc = w.vpc()
    return {"securityGroupId": w.group(vpc), "ipProtocol": "udp", "fromPort": 53, "toPort": 53,
            "referencedSecurityGroupId": w.group(vpc), "description": "names"}  # fmt: skip


def _instance(w: World) -> Props:
    vpc = w.vpc()
    subnet = w.subnet(vpc)
    more = {
        "vpcSecurityGroupIds": [w.group(vpc)],
        "userDataBase64": "I2Nsb3VkLWNvbmZpZwo=",
        "iamInstanceProfile": _profile(w),
        "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 1, "httpEndpoint": "enabled"},
        "rootBlockDevice": {"encrypted": True, "volumeType": "gp3", "volumeSize": 12, "tags": {"a": "b"}},
        "tags": {"Name": "host"},
    }
    return w.host(vpc, subnet, 20, **more)


def _instance_on_interface(w: World) -> Props:
    vpc = w.vpc()
    inputs = {"subnetId": w.subnet(vpc), "privateIps": [f"{w.cidr(vpc)}.1.30"], "securityGroups": [w.group(vpc)]}
    interface = w.aws.create("aws:ec2/networkInterface:NetworkInterface", inputs)[0]
    return {"ami": w.image(), "instanceType": "t3.micro", "primaryNetworkInterface": {"networkInterfaceId": interface}}


def _role(w: World) -> str:
    return w.aws.create("aws:iam/role:Role", {"assumeRolePolicy": TRUST}, name=f"role-{w.number()}")[0]


def _profile(w: World) -> str:
    return w.aws.create("aws:iam/instanceProfile:InstanceProfile", {"role": _role(w)}, name=f"profile-{w.number()}")[0]


def _key(w: World) -> str:
    return str(w.aws.create("aws:kms/key:Key", {"description": "test"})[1]["arn"])


def _bucket(w: World) -> str:
    return w.aws.create("aws:s3/bucket:Bucket", {"bucket": f"bucket-{w.number()}"})[0]


def _tls_bucket(w: World) -> str:
    """One that takes TLS alone, which the cloud's port stands for."""
    bucket = _bucket(w)
    w.aws.create("aws:s3/bucketPolicy:BucketPolicy", {"bucket": bucket, "policy": tls_only(f"arn:aws:s3:::{bucket}")})
    return bucket


def _flow_log(w: World) -> Props:
    group = w.aws.create("aws:cloudwatch/logGroup:LogGroup", {"name": f"/log/{w.number()}"})[1]["arn"]
    role = w.aws.create("aws:iam/role:Role", {"assumeRolePolicy": TRUST}, name=f"role-{w.number()}")[1]["arn"]
    return {"vpcId": w.vpc(), "trafficType": "ALL", "logDestination": group, "iamRoleArn": role, "tags": {"a": "b"}}


def _volume() -> Props:
    return {"availabilityZone": f"{REGION}a", "size": 2, "type": "gp3", "encrypted": True, "tags": {"Name": "data"}}


def _attachment(w: World) -> Props:
    vpc = w.vpc()
    instance = w.aws.create("aws:ec2/instance:Instance", w.host(vpc, w.subnet(vpc), 21))[0]
    volume = w.aws.create("aws:ebs/volume:Volume", _volume())[0]
    return {"deviceName": "/dev/sdf", "instanceId": instance, "volumeId": volume, "stopInstanceBeforeDetaching": True}


def _balancer(w: World) -> Props:
    vpc = w.open_vpc()
    subnets = [w.subnet(vpc, 1, "a"), w.subnet(vpc, 2, "b")]
    return {"loadBalancerType": "network", "internal": False, "subnets": subnets, "name": f"lb-{w.number()}",
            "enableCrossZoneLoadBalancing": True, "tags": {"a": "b"}}  # fmt: skip


def _targets(w: World) -> Props:
    return {
        "name": f"tg-{w.number()}", "port": 80, "protocol": "TCP", "targetType": "ip", "vpcId": w.vpc(),
        "proxyProtocolV2": True, "preserveClientIp": "false", "deregistrationDelay": 30,
        "healthCheck": {"protocol": "TCP", "interval": 10, "timeout": 3, "healthyThreshold": 2, "unhealthyThreshold": 2},
        "targetHealthStates": [{"enableUnhealthyConnectionTermination": False, "unhealthyDrainingInterval": 600}],
    }  # fmt: skip


def _listener(w: World) -> Props:
    balancer = w.aws.create("aws:lb/loadBalancer:LoadBalancer", _balancer(w))[0]
    group = w.aws.create("aws:lb/targetGroup:TargetGroup", _targets(w))[0]
    forward = [{"type": "forward", "targetGroupArn": group}]
    return {"loadBalancerArn": balancer, "port": 80, "protocol": "TCP", "defaultActions": forward}


def _target(w: World) -> Props:
    group = w.aws.create("aws:lb/targetGroup:TargetGroup", _targets(w))[0]
    return {"targetGroupArn": group, "targetId": "10.0.0.9", "port": 8080}


CASES = [
    Case("aws:ec2/vpc:Vpc", lambda w: {"cidrBlock": f"10.{w.number() + 100}.0.0/16", "enableDnsHostnames": True, "tags": {"a": "b"}},
         {"enableDnsHostnames": False, "tags": {"a": "c", "d": "e"}}, "cidrBlock",
         ("arn", "ownerId")),
    Case("aws:ec2/subnet:Subnet", lambda w: {"vpcId": (v := w.vpc()), "cidrBlock": f"{w.cidr(v)}.7.0/24"},
         {"mapPublicIpOnLaunch": True, "tags": {"a": "b"}}, "cidrBlock", ("arn", "availabilityZone")),
    Case("aws:ec2/subnetCidrReservation:SubnetCidrReservation",
         lambda w: {"subnetId": w.subnet(v := w.vpc()), "cidrBlock": f"{w.cidr(v)}.1.16/29", "reservationType": "explicit", "description": "planned"},
         {}, "cidrBlock", ("ownerId",)),
    Case("aws:ec2/internetGateway:InternetGateway", lambda w: {"vpcId": w.vpc()}, {"tags": {"a": "b"}}, None, ("arn",)),
    Case("aws:ec2/eip:Eip", lambda w: {"domain": "vpc", "tags": {"a": "b"}}, {"tags": {}}, None,
         ("publicIp", "allocationId", "arn", "publicDns")),
    Case("aws:ec2/eipAssociation:EipAssociation",
         lambda w: {"allocationId": _address(w),
                    "networkInterfaceId": w.aws.create("aws:ec2/networkInterface:NetworkInterface", _interface(w))[0]},
         {}, "allocationId", ("publicIp",)),
    Case("aws:ec2/natGateway:NatGateway", _nat, {"tags": {"Name": "other"}}, "subnetId", ("publicIp", "privateIp")),
    Case("aws:ec2/routeTable:RouteTable", lambda w: {"vpcId": w.vpc(), "tags": {"a": "b"}}, {"tags": {"a": "c"}}, "vpcId", ("arn",)),
    Case("aws:ec2/route:Route", _route, {}, "destinationCidrBlock", ("state",)),
    Case("aws:ec2/routeTableAssociation:RouteTableAssociation", _association, {}, "subnetId", ()),
    Case("aws:ec2/vpcEndpoint:VpcEndpoint",
         lambda w: {"vpcId": (v := w.vpc()), "serviceName": f"com.amazonaws.{REGION}.s3", "vpcEndpointType": "Gateway",
                    "routeTableIds": [w.aws.create("aws:ec2/routeTable:RouteTable", {"vpcId": v})[0]]},
         {"tags": {"a": "b"}}, "serviceName", ("arn", "state", "prefixListId")),
    Case("aws:ec2/securityGroup:SecurityGroup",
         lambda w: {"vpcId": w.vpc(), "description": "one", "name": f"named-{w.number()}", "tags": {"a": "b"}},
         {"tags": {"a": "c"}}, "description", ("arn", "ownerId")),
    Case("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup",
         lambda w: {"vpcId": w.vpc(), "ingress": [], "egress": [], "tags": {"a": "b"}},
         {"tags": {"a": "c"}}, "vpcId", ("arn", "ownerId", "name"), stays=True),
    Case("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", _rule,
         {"toPort": 90, "description": "wider", "tags": {"a": "c"}}, None, ("arn", "securityGroupRuleId")),
    Case("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", _peer_rule, {"description": "other"}),
    Case("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
         lambda w: {"securityGroupId": w.group(w.vpc()), "ipProtocol": "50", "cidrIpv4": "10.0.0.0/8", "description": "ESP"},
         {"cidrIpv4": "11.0.0.0/8"}),
    Case("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
         lambda w: {"securityGroupId": w.group(w.vpc()), "ipProtocol": "icmp", "fromPort": 8, "toPort": 0, "cidrIpv4": "10.0.0.0/8"},
         {"description": "ping"}),
    Case("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
         lambda w: {"securityGroupId": w.group(w.vpc()), "ipProtocol": "-1", "cidrIpv4": "0.0.0.0/0"},
         {"cidrIpv4": "10.0.0.0/8"}, None, ("arn",)),
    Case("aws:ec2/networkInterface:NetworkInterface", _interface, {"tags": {"a": "b"}},
         "subnetId", ("macAddress", "privateIp", "arn")),
    Case("aws:ec2/instance:Instance", _instance,
         {"tags": {"Name": "other"},
          "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 2, "httpEndpoint": "enabled"}},
         "privateIp", ("arn", "privateDns", "instanceState", "primaryNetworkInterfaceId", "availabilityZone")),
    Case("aws:ec2/instance:Instance", _instance_on_interface, {"tags": {"a": "b"}}, "ami", ("privateIp", "subnetId")),
    Case("aws:ebs/volume:Volume", lambda w: _volume(), {"size": 3, "tags": {"Name": "more"}}, "availabilityZone", ("arn",)),
    Case("aws:ec2/volumeAttachment:VolumeAttachment", _attachment, {"stopInstanceBeforeDetaching": False}, "deviceName", ()),
    Case("aws:iam/role:Role", lambda w: {"name": f"r-{w.number()}", "assumeRolePolicy": TRUST, "description": "one", "tags": {"a": "b"}},
         {"description": "two", "tags": {"c": "d"}}, "name", ("arn", "uniqueId")),
    Case("aws:iam/rolePolicy:RolePolicy", lambda w: {"name": "p", "role": _role(w), "policy": POLICY},
         {"policy": POLICY.replace("Get", "Put")}, "role"),
    Case("aws:iam/instanceProfile:InstanceProfile", lambda w: {"name": f"ip-{w.number()}", "role": _role(w)}, {"tags": {"a": "b"}},
         "name", ("arn", "uniqueId")),
    Case("aws:ssm/parameter:Parameter",
         lambda w: {"name": f"/test/{w.number()}", "type": "SecureString", "value": "one", "description": "d", "tags": {"a": "b"}},
         {"value": "two", "description": "e", "tags": {}}, "name", ("arn", "version", "tier")),
    Case("aws:ssm/parameter:Parameter",
         lambda w: {"name": f"/test/{w.number()}", "type": "SecureString", "value": "one", "keyId": _key(w)},
         {"keyId": "alias/aws/ssm"}, None, ("keyId",)),
    Case("aws:kms/key:Key", lambda w: {"description": "one", "policy": POLICY, "tags": {"a": "b"}},
         {"description": "two", "policy": POLICY.replace("Get", "Put"), "enableKeyRotation": True, "tags": {"c": "d"}}, None,
         ("arn", "keyId")),
    Case("aws:s3/bucket:Bucket", lambda w: {"bucket": f"bucket-{w.number()}", "tags": {"a": "b"}}, {"forceDestroy": True, "tags": {"c": "d"}},
         "bucket", ("arn", "bucketRegionalDomainName")),
    Case("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", lambda w: {"bucket": _bucket(w), "blockPublicAcls": True},
         {"blockPublicAcls": False, "restrictPublicBuckets": True}, "bucket"),
    Case("aws:s3/bucketPolicy:BucketPolicy", lambda w: {"bucket": _bucket(w), "policy": POLICY}, {"policy": POLICY.replace("Get", "Put")},
         "bucket"),
    Case("aws:s3/bucketObjectv2:BucketObjectv2",
         lambda w: {"bucket": _tls_bucket(w), "key": "a/b", "contentBase64": "b25l", "contentType": "text/plain"},
         {"contentBase64": "dHdv", "contentType": "text/html"}, "key", ("arn", "etag")),
    Case("aws:cloudwatch/logGroup:LogGroup", lambda w: {"name": f"/log/{w.number()}", "retentionInDays": 30, "tags": {"a": "b"}},
         {"retentionInDays": 7, "tags": {"c": "d"}}, "name", ("arn",)),
    Case("aws:ec2/flowLog:FlowLog", _flow_log, {"tags": {"c": "d"}}, "trafficType", ("arn",)),
    Case("aws:lb/loadBalancer:LoadBalancer", _balancer, {"enableCrossZoneLoadBalancing": False, "tags": {"a": "c"}}, "internal",
         ("arn", "dnsName", "zoneId", "vpcId")),
    Case("aws:lb/targetGroup:TargetGroup", _targets, {"deregistrationDelay": 60, "tags": {"a": "b"},
         "targetHealthStates": [{"enableUnhealthyConnectionTermination": False, "unhealthyDrainingInterval": 300}]}, "port",
         ("arn", "arnSuffix")),
    Case("aws:lb/listener:Listener", _listener, {"port": 81, "tcpIdleTimeoutSeconds": 3660, "tags": {"a": "b"}}, "loadBalancerArn",
         ("arn",)),
    Case("aws:lb/targetGroupAttachment:TargetGroupAttachment", _target, {}, "targetId"),
]  # fmt: skip

IDS = [f"{case.type.split(':')[-1]}-{index}" for index, case in enumerate(CASES)]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_resource_lives_through_all_its_calls(case: Case, world: World) -> None:
    aws = world.aws
    inputs, failures = aws.check(case.type, case.make(world))
    assert not failures
    id, outputs = aws.create(case.type, inputs)
    assert id
    assert {name for name in case.outputs if not outputs.get(name)} == set()
    assert set(outputs) <= sdk_outputs(case.type)

    seen_id, seen, seen_inputs = aws.read(case.type, id, outputs, inputs)
    assert (seen_id, plain(seen_inputs)) == (id, plain(inputs)), "a refresh right after the creation sees drift"
    assert plain(seen) == plain(outputs)
    assert aws.diff(case.type, id, outputs, inputs, inputs).paths == {}

    changed = {**inputs, **case.update}
    if case.update:
        change = aws.diff(case.type, id, outputs, inputs, changed)
        assert set(change.paths) <= set(case.update)
        assert change.paths and not change.replaces
        outputs = aws.update(case.type, id, outputs, inputs, changed)
        _, seen, seen_inputs = aws.read(case.type, id, outputs, changed)
        assert plain(seen_inputs) == plain(changed), "the update did not reach the cloud"

    if case.replace:
        other = {**changed, case.replace: f"{plain(changed[case.replace])}x"}
        assert aws.diff(case.type, id, outputs, changed, other).replaces == [case.replace]

    aws.delete(case.type, id, outputs)
    assert aws.read(case.type, id, outputs, changed)[0] == (id if case.stays else "")
    aws.delete(case.type, id, outputs)


def test_every_type_of_the_provider_has_a_case_here() -> None:
    tokens = {kind.token for module in MODULES for kind in module.KINDS}
    assert tokens == {case.type for case in CASES}


def properties(arguments: type) -> dict[str, dict[str, Any]]:
    """Property → the names inside where the SDK says that it is a block or a list of blocks; else none."""

    def inside(hint: Any) -> dict[str, Any]:
        if isinstance(hint, type) and sdk_types.is_input_type(hint):
            return properties(hint)
        return next(filter(None, map(inside, typing.get_args(hint))), {})

    return {name: inside(hint) for name, hint in sdk_types.input_type_types(arguments).items()}


def test_tables_name_only_properties_that_the_sdk_has() -> None:
    for module in MODULES:
        for kind in module.KINDS:
            _, home, name = kind.token.split(":")
            module_of = importlib.import_module(f"pulumi_aws.{home.split('/')[0]}")
            known = properties(getattr(module_of, f"{name}Args"))
            assert set(kind.inputs) <= known.keys(), kind.token
            rules = {*kind.replaces, *kind.computed, *kind.unordered, *kind.json_text, *kind.base64_text, *kind.parts}
            assert rules <= set(kind.inputs), kind.token
            for block, names in kind.parts.items():
                assert set(names) <= known[block].keys()


def test_each_setter_is_a_call_of_aws_s_that_takes_the_id_and_the_input() -> None:
    """The cases above change only some of the inputs that have one."""
    aws = Aws("http://127.0.0.1:1", REGION, Keys("id", "secret"))
    tables = [kind() for module in MODULES for kind in module.KINDS if issubclass(kind, Api) and kind.setters]
    assert len(tables) > 5
    for kind in tables:
        for name, setter in kind.setters.items():
            operation, _, member = setter.partition(".")
            members = members_of(aws.client(kind.service), operation)
            id = kind.joint.join(kind.identity) or "id"
            assert {member or kind.member(name, members), *kind.named(aws, operation, id)} <= set(members), (kind.token, setter)
