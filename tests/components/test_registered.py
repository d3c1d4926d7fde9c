"""What each kind of resource asks AWS for, whose it is, how it is named and what it waits for: tables by hand, of a stack that has
everything. A line that changes here changes what runs, or replaces it."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from components.readiness import READY
from components.secrets import MANAGE, USE, key_policy
from plan.parse import parse
from plan.rules import rules_of
from plan.secrets import SECRETS
from tests.components.recording import (
    ACCOUNT,
    IMAGE,
    TEST_CERTIFICATE,
    TEST_PUBLIC_KEY,
    TEST_SECRETS,
    Recording,
    Registration,
    mock_arn,
    run_program,
)
from tests.components.test_program import INSTANCE, merged, stack_settings
from tests.plan.test_access import READ

CHANGES: dict[str, Any] = {
    "zones": ["a", "b"],
    "slaves": {"count": 2, "retired": [], "generations": {"2": 3}},
    "edge": {"count": 2, "tls": {"enabled": True}, "domain": "apollo.example.com"},
    "network": {"nat": "perZone", "flowLogs": "reject"},
    "admin": {"allowedCidrs": ["203.0.113.7/32"], "publicKey": "ssh-ed25519 AAAA"},
    "tags": {"team": "web"},
}
ROLE_OF: dict[str, str] = {"slave": "apollo:compute:Slaves", "control": "apollo:compute:Control", "edge": "apollo:edge:Edge"}


@pytest.fixture(scope="module")
def most() -> Recording:
    return run_program("prod", merged("prod", **CHANGES) | {"apollo:adminPrivateKey": "the key"})


def short(resource: Registration) -> str:
    return resource.type.rpartition(":")[2]


def arn(kind: str, name: str) -> str:
    return mock_arn(f":{kind}", name)


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def assumed_by(service: str, **more: Any) -> dict[str, Any]:
    return document({"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole", **more})


def allowed(action: str | list[str], resource: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def may(role: str) -> dict[str, Any]:
    """What a role's hosts may ask AWS for: its own parameters, those of them that are secret decrypted, and its own programs."""
    own = [f"secrets-{name.replace('/', '-')}" for name, readers in READ.items() if role in readers and name != "bucket"]
    secret = sorted(arn("Parameter", name) for name in own if name != "secrets-control-count")
    bucket = arn("Bucket", "programs-bucket")
    return document(
        allowed("ssm:GetParameters", sorted(arn("Parameter", name) for name in (*own, "programs-bucket"))),
        allowed("kms:Decrypt", KEY, Condition={"StringEquals": {"kms:EncryptionContext:PARAMETER_ARN": secret}}),
        # Its own programs, old and new, and what there is: else a missing object and a refused one look the same.
        allowed("s3:GetObject", f"{bucket}/programs/{role}/*"),
        allowed(["s3:GetObject", "s3:PutObject"], f"{bucket}/images/*"),
        allowed("s3:ListBucket", bucket),
    )


def drain(host: str, address: str, edges: str) -> dict[str, Any]:
    """It does nothing before its deletion, and never fails."""
    way = f"--address {address} --jump 203.0.113.10 --host-key '{TEST_PUBLIC_KEY}' --edges {edges}"
    argv = f"python3 -m ops drain --host {host} --instance {host}-instance-id {way} --control 10.0.0.11,10.0.32.12,10.0.0.13"
    return {**HERE, "delete": f"{argv} || echo '{host} goes as it is'", "triggers": [f"{host}-instance-id"]}


def ready(host: str, address: str, **through: Any) -> dict[str, Any]:
    # What is open for the mesh is a digest: tests/components/test_readiness.py.
    return {"connection": {**WAY, "host": address, **through}, "create": READY, "triggers": [f"{host}-instance-id"], **ALONE}


KEY, ALONE = arn("Key", "secrets-key"), {"addPreviousOutputInEnv": False}
HERE: dict[str, Any] = {**ALONE, "environment": {"APOLLO_ADMIN_KEY": "the key"}}
WAY: dict[str, Any] = {
    "user": "admin", "port": 22, "privateKey": "the key", "hostKey": TEST_PUBLIC_KEY, "dialErrorLimit": -1, "perDialTimeout": 15,
}  # fmt: skip
THROUGH = {"proxy": {**WAY, "host": "203.0.113.10"}}
HOSTS = ["slave-1", "slave-2", "control-1", "control-2", "control-3", "edge-1", "edge-2"]
VPC, BUCKET, EVERYWHERE = {"vpcId": "network-vpc-id"}, {"bucket": "programs-bucket-id"}, "0.0.0.0/0"
CHECK = {
    "protocol": "HTTP",
    "port": "8081",
    "path": "/.apollo/health",
    "matcher": "200",
    "interval": 5,
    "timeout": 3,
    "healthyThreshold": 2,
    "unhealthyThreshold": 2,
}
TARGETS: dict[str, Any] = {
    **VPC, "protocol": "TCP", "targetType": "ip", "proxyProtocolV2": True, "preserveClientIp": "false", "deregistrationDelay": 30, "healthCheck": CHECK,
    "targetHealthStates": [{"enableUnhealthyConnectionTermination": False, "unhealthyDrainingInterval": 600}],
}  # fmt: skip
MACHINE: dict[str, Any] = {
    "ami": IMAGE,
    "metadataOptions": {"httpEndpoint": "enabled", "httpTokens": "required", "httpPutResponseHopLimit": 1},
    "rootBlockDevice": {"encrypted": True, "volumeType": "gp3"},
}
# By hand, of each kind one at least; of its texts those are left out that are in tables of their own.
INPUTS: dict[tuple[str, str], dict[str, Any]] = {
    ("Vpc", "network-vpc"): {"cidrBlock": "10.0.0.0/16", "enableDnsSupport": True, "enableDnsHostnames": True},
    ("DefaultSecurityGroup", "network-default"): {**VPC, "ingress": [], "egress": []},
    ("InternetGateway", "network-internet"): VPC,
    ("RouteTable", "network-public"): VPC,
    ("RouteTable", "network-private-b"): VPC,
    ("Route", "network-public-internet"): {"routeTableId": "network-public-id", "gatewayId": "network-internet-id", "destinationCidrBlock": EVERYWHERE},
    ("Route", "network-private-a-nat"): {"routeTableId": "network-private-a-id", "natGatewayId": "network-nat-a-id", "destinationCidrBlock": EVERYWHERE},
    ("Route", "network-private-b-nat"): {"routeTableId": "network-private-b-id", "natGatewayId": "network-nat-b-id", "destinationCidrBlock": EVERYWHERE},
    ("RouteTableAssociation", "network-public-b"): {"subnetId": "network-public-b-id", "routeTableId": "network-public-id"},
    ("RouteTableAssociation", "network-private-b"): {"subnetId": "network-private-b-id", "routeTableId": "network-private-b-id"},
    ("Subnet", "network-public-b"): {**VPC, "cidrBlock": "10.0.228.0/22", "availabilityZone": "eu-west-1b", "mapPublicIpOnLaunch": False},
    ("Subnet", "network-private-a"): {**VPC, "cidrBlock": "10.0.0.0/19", "availabilityZone": "eu-west-1a", "mapPublicIpOnLaunch": False},
    ("SubnetCidrReservation", "network-public-a-reserved-8"): {"subnetId": "network-public-a-id", "cidrBlock": "10.0.224.8/29", "reservationType": "explicit"},
    ("SubnetCidrReservation", "network-private-a-reserved-256"): {"subnetId": "network-private-a-id", "cidrBlock": "10.0.1.0/28", "reservationType": "explicit"},
    ("Eip", "network-nat-a"): {"domain": "vpc"},
    ("NatGateway", "network-nat-b"): {"allocationId": "network-nat-b-id", "subnetId": "network-public-b-id"},
    ("VpcEndpoint", "network-s3"): {
        **VPC, "serviceName": "com.amazonaws.eu-west-1.s3", "vpcEndpointType": "Gateway",
        "routeTableIds": ["network-public-id", "network-private-a-id", "network-private-b-id"],
    },
    ("LogGroup", "network-flow-logs"): {"name": "/apollo/prod/flow-logs", "retentionInDays": 30},
    # For flow logs of this account alone.
    ("Role", "network-flow-logs"): {"assumeRolePolicy": assumed_by("vpc-flow-logs.amazonaws.com", Condition={"StringEquals": {"aws:SourceAccount": ACCOUNT}})},
    ("RolePolicy", "network-flow-logs"): {
        "role": "network-flow-logs-id",
        "policy": document(
            allowed([f"logs:{name}" for name in ("CreateLogStream", "PutLogEvents", "DescribeLogGroups", "DescribeLogStreams")], f"{arn('LogGroup', 'network-flow-logs')}:*")
        ),
    },
    ("FlowLog", "network-flow-logs"): {**VPC, "trafficType": "REJECT", "logDestination": arn("LogGroup", "network-flow-logs"), "iamRoleArn": arn("Role", "network-flow-logs")},
    ("SecurityGroup", "security-node"): VPC,
    ("SecurityGroupIngressRule", "security-node-protocol-50-from-node"): {"securityGroupId": "security-node-id", "referencedSecurityGroupId": "security-node-id", "ipProtocol": "50"},
    ("SecurityGroupIngressRule", "security-edge-tcp-22-from-203.0.113.7-32"): {"securityGroupId": "security-edge-id", "cidrIpv4": "203.0.113.7/32", "ipProtocol": "tcp", "fromPort": 22, "toPort": 22},
    ("SecurityGroupEgressRule", "security-node-out"): {"securityGroupId": "security-node-id", "ipProtocol": "-1", "cidrIpv4": EVERYWHERE},
    **{
        ("SecurityGroupEgressRule", f"security-balancer-out{suffix}"): {
            "securityGroupId": "security-balancer-id", "referencedSecurityGroupId": "security-edge-id", "ipProtocol": "tcp", "fromPort": port, "toPort": port,
        }
        for suffix, port in (("", 8081), ("-8444", 8444))
    },
    **{
        key: value
        for role in ("slave", "control", "edge")
        for key, value in {
            ("Role", role): {"assumeRolePolicy": assumed_by("ec2.amazonaws.com")},
            ("RolePolicy", f"{role}-secrets"): {"role": f"{role}-id", "policy": may(role)},
            ("InstanceProfile", role): {"role": role},
        }.items()
    },
    # Its policy: below.
    ("Key", "secrets-key"): {"enableKeyRotation": True},
    ("Parameter", "secrets-control-count"): {"name": "/apollo/prod/control/count", "type": "String", "value": "3"},
    **{
        ("Parameter", f"secrets-{secret.parameter.replace('/', '-')}"): {
            "name": f"/apollo/prod/{secret.parameter}", "type": "SecureString", "value": TEST_SECRETS[secret.key], "keyId": KEY,
        }
        for secret in SECRETS
    },
    ("Parameter", "secrets-edge-certificate"): {"name": "/apollo/prod/edge/certificate", "type": "SecureString", "tier": "Advanced", "value": TEST_CERTIFICATE, "keyId": KEY},
    ("Parameter", "programs-bucket"): {"name": "/apollo/prod/bucket", "type": "String", "value": "programs-bucket-id"},
    ("Bucket", "programs-bucket"): {"bucketPrefix": "apollo-prod-", "forceDestroy": True},
    ("BucketPublicAccessBlock", "programs-bucket"): BUCKET | dict.fromkeys(("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"), True),
    # It takes TLS alone.
    ("BucketPolicy", "programs-bucket"): BUCKET | {
        "policy": document({
            "Sid": "TlsOnly", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            "Resource": [arn("Bucket", "programs-bucket"), f"{arn('Bucket', 'programs-bucket')}/*"],
        }),
    },
    ("BucketObjectv2", "programs-edge"): {**BUCKET, "contentType": "application/gzip"},
    ("Instance", "slave-2-instance"): {
        **MACHINE, "instanceType": "m5.xlarge", "subnetId": "network-private-b-id", "privateIp": "10.0.32.34",
        "vpcSecurityGroupIds": ["security-node-id", "security-slave-id"], "iamInstanceProfile": "slave",
    },
    ("Instance", "edge-1-instance"): {**MACHINE, "instanceType": "c5.large", "primaryNetworkInterface": {"networkInterfaceId": "edge-1-interface-id"}, "iamInstanceProfile": "edge"},
    ("Volume", "slave-2-data"): {"availabilityZone": "eu-west-1b", "size": 200, "type": "gp3", "encrypted": True},
    ("VolumeAttachment", "slave-2-data"): {"deviceName": "/dev/sdf", "instanceId": "slave-2-instance-id", "volumeId": "slave-2-data-id", "stopInstanceBeforeDetaching": True},
    ("NetworkInterface", "edge-2-interface"): {"subnetId": "network-public-b-id", "privateIps": ["10.0.228.12"], "securityGroups": ["security-node-id", "security-edge-id"]},
    ("Eip", "edge-2-address"): {"domain": "vpc"},
    ("EipAssociation", "edge-2-address"): {"allocationId": "edge-2-address-id", "networkInterfaceId": "edge-2-interface-id"},
    ("LoadBalancer", "edge-balancer"): {
        "loadBalancerType": "network", "internal": False, "enableCrossZoneLoadBalancing": True, "enableDeletionProtection": True,
        "subnets": ["network-public-a-id", "network-public-b-id"], "securityGroups": ["security-balancer-id"],
    },
    **{
        key: value
        for name, port, behind in (("web", 80, 8081), ("web-tls", 443, 8444))
        for key, value in {
            ("TargetGroup", f"edge-{name}"): {**TARGETS, "port": behind},
            ("Listener", f"edge-{name}"): {
                "loadBalancerArn": arn("LoadBalancer", "edge-balancer"), "port": port, "protocol": "TCP", "tcpIdleTimeoutSeconds": 3660,
                "defaultActions": [{"type": "forward", "targetGroupArn": arn("TargetGroup", f"edge-{name}")}],
            },
            ("TargetGroupAttachment", f"edge-2-{name}"): {"targetGroupArn": arn("TargetGroup", f"edge-{name}"), "targetId": "10.0.228.12", "port": behind},
        }.items()
    },
    ("Command", "slave-2-drain"): drain("slave-2", "10.0.32.34", "10.0.224.11,10.0.228.12"),
    # Reached without a jump, and it asks no other edge than the second.
    ("Command", "edge-1-drain"): drain("edge-1", "''", "10.0.228.12"),
    ("Command", "readiness-way"): {
        "create": f"python3 -m ops reach --jump 203.0.113.10 --host-key '{TEST_PUBLIC_KEY}'", **ALONE,
        # Looked at again for any new machine, which replaces nothing.
        "environment": {"APOLLO_ADMIN_KEY": "the key", "APOLLO_MACHINES": ",".join(f"{host}-instance-id" for host in HOSTS)},
    },
    ("Command", "slave-2-ready"): ready("slave-2", "10.0.32.34", **THROUGH),
    ("Command", "edge-1-ready"): ready("edge-1", "203.0.113.10"),
    ("Command", "edge-2-ready"): ready("edge-2", "10.0.228.12", **THROUGH),
}  # fmt: skip
# Shown by tests of their own, or words.
ELSEWHERE = {"tags", "description", "userDataBase64", "contentBase64", "key"}
PLAIN = {
    *(
        "BucketObjectv2",
        "BucketPolicy",
        "BucketPublicAccessBlock",
        "EipAssociation",
        "RolePolicy",
        "Route",
        "RouteTableAssociation",
    ),
    *("SubnetCidrReservation", "TargetGroupAttachment", "VolumeAttachment"),
}


def test_each_kind_of_resource_asks_aws_for_exactly_this(most: Recording) -> None:
    found = {(short(r), r.name): r for r in most.resources.values() if r.type.partition(":")[0] in ("aws", "command")}
    assert {kind for kind, _ in found} == {kind for kind, _ in INPUTS}, "each kind has its line"
    for key, expected in INPUTS.items():
        inputs = {
            name: json.loads(value) if name in ("policy", "assumeRolePolicy") else copy.deepcopy(value)
            for name, value in found[key].inputs.items()
            if name not in ELSEWHERE
        }
        if key[0] == "Instance":
            disk = inputs["rootBlockDevice"]
            assert (
                disk.pop("tags") == found[key].inputs["tags"]
                and disk.pop("volumeSize") == {"slave-2-instance": 30, "edge-1-instance": 20}[key[1]]
            )
        if key[0] == "Key":
            del inputs["policy"]
        if key[1].endswith("-ready"):
            inputs["triggers"].pop()
        assert inputs == expected, key


def test_the_key_is_used_for_the_parameters_of_its_stack_account_and_partition_alone() -> None:
    prefix = "arn:aws-us-gov:ssm:us-gov-west-1:210987654321:parameter/apollo/dev/"
    owner = {"Principal": {"AWS": "arn:aws-us-gov:iam::210987654321:root"}}
    context = {"StringLike": {"kms:EncryptionContext:PARAMETER_ARN": f"{prefix}*"}}
    assert json.loads(key_policy(prefix)) == document(
        allowed(MANAGE, "*", Sid="Manage", **owner), allowed(USE, "*", Sid="Use", **owner, Condition=context)
    )


def test_all_that_takes_tags_has_the_stacks_and_a_name_and_all_that_takes_words_has_some(most: Recording) -> None:
    # Of what belongs together, one name; and without what it is a part of.
    other = {"secrets-key": "secrets", "programs-bucket": "programs", "security-balancer-out-8444": "balancer-out"}
    for resource in most.resources.values():
        kind, name = short(resource), resource.name
        if not resource.type.startswith("aws:"):
            continue
        assert ("tags" not in resource.inputs) is (kind in PLAIN), resource.urn
        if kind in (
            "SecurityGroup",
            "SecurityGroupIngressRule",
            "SecurityGroupEgressRule",
            "Role",
            "Key",
            "Parameter",
            "SubnetCidrReservation",
        ):
            assert len(resource.inputs["description"]) > 8
        if kind in PLAIN:
            continue
        for prefix in ("network-", "security-", "secrets-", "edge-balancer", "edge-web"):
            name = name if not name.startswith(prefix) else name.removeprefix(prefix if prefix.endswith("-") else "edge-")
        for suffix in ("-instance", "-address", "-interface"):
            name = name.removesuffix(suffix)
        tags = {
            "team": "web",
            "environment": "prod",
            "apollo:stack": "prod",
            "Name": f"apollo-prod-{other.get(resource.name, name)}",
        }
        assert {key: resource.inputs["tags"].get(key) for key in tags} == tags, resource.urn
        own = {key for key in resource.inputs["tags"] if key not in tags}
        assert not own or kind == "Instance", resource.urn
    machine = most.named(INSTANCE, "slave-2-instance").inputs["tags"]
    assert {key: value for key, value in machine.items() if key.startswith("apollo:")} == {
        "apollo:stack": "prod", "apollo:host": "slave-2", "apollo:role": "slave", "apollo:slot": "2", "apollo:zone": "eu-west-1b",
        "apollo:bridge": "10.2.0.2/16", "apollo:docker-subnet": "10.2.2.0/24",
    }  # fmt: skip
    assert "apollo:docker-subnet" not in most.named(INSTANCE, "control-1-instance").inputs["tags"]


def test_everything_hangs_below_the_component_that_its_address_names(most: Recording) -> None:
    """A parent is part of a resource's identity: another one replaces it."""
    owners = {
        "network": "apollo:network:Vpc",
        "security": "apollo:security:Security",
        "secrets": "apollo:security:SecretStore",
        "programs": "apollo:compute:Programs",
        "readiness": "apollo:compute:Readiness",
    }
    stacks = {"settings", *owners, "control", "slave", "edge", "slaves", "drains"}
    for urn, resource in most.resources.items():
        parent = resource.request.parent.split("::")[2].split("$")[-1]
        name, first = resource.name, resource.name.partition("-")[0]
        if not resource.request.custom:
            host = name.partition("-")[2].isdecimal()
            expected = ROLE_OF[first] if host else "pulumi:pulumi:Stack"
            assert host or name in stacks
        elif resource.type == "pulumi:index:Stash":
            expected = "pulumi:pulumi:Stack"
        elif resource.type.startswith("command:"):
            expected = f"apollo:compute:{'Drains' if name.endswith('-drain') else 'Readiness'}"
        elif resource.type.startswith("aws:iam/") and first in ROLE_OF:
            expected = "apollo:security:Identity"
        else:
            expected = owners.get(first) or (
                "apollo:compute:Host" if name.endswith(("-instance", "-data")) else "apollo:edge:Edge"
            )
        assert parent == expected, urn
        if expected == "apollo:compute:Host":
            assert resource.request.parent.split("::")[-1] == name.rpartition("-")[0]


def test_components_tell_what_they_made(most: Recording) -> None:
    told = {
        r.name: most.told[urn]
        for urn, r in most.resources.items()
        if not r.request.custom and r.name not in ("control", "edge")
    }
    assert told["network"] == {
        "vpcId": "network-vpc-id", "publicSubnetIds": ["network-public-a-id", "network-public-b-id"],
        "privateSubnetIds": ["network-private-a-id", "network-private-b-id"],
    }  # fmt: skip
    assert told["security"] == {"clientGroupId": "security-client-id", "slaveGroupId": "security-slave-id"}
    assert (
        "/apollo/prod/mesh/password" in told["secrets"]["parameters"]
        and told["secrets"]["parameters"][-1] == "/apollo/prod/control/count"
    )
    assert told["programs"] == {"bucket": "programs-bucket-id"}
    assert told["slave"] == {"instanceProfile": "slave"}
    assert told["slaves"] == {"instanceIds": {"slave-1": "slave-1-instance-id", "slave-2": "slave-2-instance-id"}}
    assert told["edge-2"] == {"instanceId": "edge-2-instance-id"}
    assert told["drains"] == told["readiness"] == {"hosts": HOSTS}
    (edge,) = [most.told[urn] for urn, r in most.resources.items() if r.type == "apollo:edge:Edge"]
    assert edge == {"publicIps": ["203.0.113.10"] * 2, "dnsName": "balancer.example.com"}
    (host,) = [r.inputs for r in most.resources.values() if r.name == "slave-2" and not r.request.custom]
    assert len(host["hostFiles"]) == 12
    assert {name: value for name, value in host.items() if name != "hostFiles"} == {
        "role": "slave", "index": 2, "generation": 3, "instanceType": "m5.xlarge", "rootGib": 30, "privateIp": "10.0.32.34",
        "bridgeAddress": "10.2.0.2/16", "dockerSubnet": "10.2.2.0/24", "zone": "eu-west-1b",
    }  # fmt: skip


ZONE_A = {"network-private-a", "network-private-a-nat", *(f"network-private-a-reserved-{n}" for n in (8, 32, 64, 128, 256))}
PUBLIC_A = {"network-public-internet", "network-public-a", *(f"network-public-a-reserved-{n}" for n in (8, 16))}
PUBLIC_B = {name.replace("-a", "-b") for name in PUBLIC_A}
# All that a first boot needs, by host, beside the rules to its groups: what comes later it would miss, and what is too much makes
# every change of it wait for no reason.
BOOT: dict[str, set[str]] = {
    "slave-1": ZONE_A | {f"secrets-{name}" for name in ("consul-slave-token", "consul-registration-token", "consul-agent-certificate", "control-count", "mesos-agent-password")},
    "control-1": ZONE_A
    | {f"secrets-consul-{name}" for name in ("server-certificate", *(f"{kind}-token" for kind in ("management", "control", "slave", "edge", "registration", "template")))}
    | {"secrets-control-count", *(f"secrets-mesos-{name}-password" for name in ("agent", "marathon", "operator", "zookeeper"))},
    "edge-1": PUBLIC_A
    | {"edge-1-address", "edge-1-interface", "secrets-edge-certificate", *(f"secrets-consul-{name}" for name in ("edge-token", "template-token", "agent-certificate"))},
}  # fmt: skip


@pytest.mark.parametrize("host", BOOT)
def test_a_host_waits_for_all_that_its_first_boot_needs_and_for_nothing_else(host: str, most: Recording) -> None:
    role = host.partition("-")[0]
    settings = parse({"region": "eu-west-1", **stack_settings("prod", CHANGES)})
    rules = {f"security-{rule.name}" for rule in rules_of(settings) if rule.to in ("node", role)}
    every = {"settings", "network-s3", "security-node-out", role, f"{role}-secrets", f"programs-{role}", "programs-bucket"}
    every |= {f"secrets-{name}" for name in ("consul-gossip-key", "consul-ca", "mesh-password", "ssh-host-key")}
    groups = set[str]() if role == "edge" else {"security-node", f"security-{role}"}
    waits = {urn.split("::")[-1] for urn in most.named(INSTANCE, f"{host}-instance").dependencies}
    assert waits == BOOT[host] | rules | every | groups


EDGE = {"edge-1-instance", "edge-1-address"}


@pytest.mark.parametrize(
    ("kind", "name", "first"),
    [
        # Without the way out AWS takes no address, and a gateway loses its first connections.
        ("Eip", "network-nat-b", PUBLIC_B),
        ("NatGateway", "network-nat-b", PUBLIC_B),
        ("Eip", "edge-2-address", PUBLIC_B),
        ("LoadBalancer", "edge-balancer", PUBLIC_A | PUBLIC_B),
        # What the service writes with.
        ("FlowLog", "network-flow-logs", {"network-flow-logs"}),
        ("BucketPolicy", "programs-bucket", {"programs-bucket"}),
        # An edge has to be there: its boot would be waited for before anyone starts it. And no check waits for another.
        ("Command", "readiness-way", EDGE | {f"{host}-instance" for host in HOSTS}),
        ("Command", "slave-2-ready", {"slave-2-instance", "slave-2-data", "edge-1-address", "readiness-way"}),
        # A drain goes before the machine and before its volume is detached, through the first edge, which outlives it.
        ("Command", "slave-2-drain", EDGE | {"slave-2-instance", "slave-2-data"}),
    ],
)
def test_what_would_come_too_early_waits(kind: str, name: str, first: set[str], most: Recording) -> None:
    (resource,) = [r for r in most.resources.values() if (short(r), r.name) == (kind, name)]
    kinds = {most.resources[urn].type.rpartition(":")[2] for urn in resource.dependencies if urn in most.resources}
    waits = {urn.split("::")[-1] for urn in resource.dependencies}
    assert waits == first | {"settings"} if kind == "Command" else waits >= first
    assert kinds >= {"FlowLog": {"RolePolicy"}, "BucketPolicy": {"BucketPublicAccessBlock"}}.get(kind, set())
