"""What there is in an AWS region: used to see that nothing is left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .client import Aws

# Call, list in the answer, field that names the thing.
_EC2 = (
    ("describe_vpcs", "Vpcs", "VpcId"),
    ("describe_subnets", "Subnets", "SubnetId"),
    ("describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    ("describe_nat_gateways", "NatGateways", "NatGatewayId"),
    ("describe_addresses", "Addresses", "AllocationId"),
    ("describe_route_tables", "RouteTables", "RouteTableId"),
    ("describe_security_groups", "SecurityGroups", "GroupId"),
    ("describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId"),
    ("describe_key_pairs", "KeyPairs", "KeyName"),
    ("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
    ("describe_volumes", "Volumes", "VolumeId"),
    ("describe_flow_logs", "FlowLogs", "FlowLogId"),
)
_OTHERS = (
    ("iam", "list_roles", "Roles", "Arn"),
    ("iam", "list_instance_profiles", "InstanceProfiles", "Arn"),
    ("logs", "describe_log_groups", "logGroups", "arn"),
    ("ssm", "describe_parameters", "Parameters", "Name"),
    ("s3", "list_buckets", "Buckets", "Name"),
    ("elbv2", "describe_load_balancers", "LoadBalancers", "LoadBalancerArn"),
    ("elbv2", "describe_target_groups", "TargetGroups", "TargetGroupArn"),
)
_GONE = ("terminated", "deleted", "deleting")


def inventory(aws: Aws) -> frozenset[str]:
    """The names of everything of the kinds that we create. Records that AWS keeps of what is gone do not count."""
    ec2 = aws.client("ec2")
    names = {name for call, items, field in _EC2 for name in _names(getattr(ec2, call)()[items], field)}
    for service, call, items, field in _OTHERS:
        names.update(_names(getattr(aws.client(service), call)()[items], field))
    names |= _keys(aws.client("kms"))
    reservations = ec2.describe_instances()["Reservations"]
    names.update(i["InstanceId"] for r in reservations for i in r["Instances"] if i["State"]["Name"] not in _GONE)
    return frozenset(names)


def _keys(kms: Any) -> set[str]:
    """The keys that are not AWS's own, which come with the first use of a service."""
    own = {alias.get("TargetKeyId") for alias in kms.list_aliases()["Aliases"] if alias["AliasName"].startswith("alias/aws/")}
    found = [kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"] for key in kms.list_keys()["Keys"] if key["KeyId"] not in own]
    return {key["Arn"] for key in found if key["KeyState"] != "PendingDeletion"}


def _names(items: Iterable[Any], field: str) -> Iterable[str]:
    return [item[field] for item in items if item.get("State") not in _GONE]
