"""What AWS refuses and moto takes: one rule each, with AWS's error code and where AWS says so.

A rule looks at a call's parameters, in boto3's spelling, and at moto's data, and gives the words of the refusal or None. What
stands at the end AWS would take, and the machines of this cloud cannot carry it. Texts have a table of their own (`texts.py`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.utils import get_service_model
from moto.ec2.models import ec2_backends
from moto.elbv2.models import elbv2_backends
from moto.kms.models import kms_backends

from . import texts
from .client import ACCOUNT
from .errors import ApiError
from .moto_faults import PUBLIC_ADDRESSES, addresses_in

Params = dict[str, Any]
# EC2 user guide, "Run commands when you launch an EC2 instance": bytes, before base64.
USER_DATA_LIMIT = 16384
# CloudWatch Logs API, PutRetentionPolicy.
RETENTION_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)
# SSM API, PutParameter: bytes of a value.
PARAMETER_BYTES = {"Standard": 4096, "Advanced": 8192, "Intelligent-Tiering": 8192}


@dataclass(frozen=True)
class Rule:
    """calls: service:operation. source: where AWS says it. words: of the refusal; a ServiceException is moto's to answer."""

    code: str
    calls: tuple[str, ...]
    source: str
    words: Callable[[Params, Any], str | None]


def check(service: str, operation: str, region: str, params: Params) -> None:
    """ApiError where AWS would refuse the call. To be called by one thread at a time, as moto's data is read."""
    for code, words in texts.refused(service, operation, params):
        raise ApiError(400, code, words)
    for words in _out_of_set(service, operation, params):
        raise ApiError(400, "InvalidParameterValue" if service == "ec2" else "ValidationException", words)
    data = _DATA.get(service)
    for rule in RULES:
        if f"{service}:{operation}" in rule.calls:
            try:
                words = rule.words(params, data(region) if data else None)
            except ServiceException:  # it names what does not exist, which moto says by itself
                continue
            if words:
                raise ApiError(400, rule.code, words)


_DATA: dict[str, Callable[[str], Any]] = {
    "ec2": lambda region: ec2_backends[ACCOUNT][region],
    "elbv2": lambda region: elbv2_backends[ACCOUNT][region],
    "kms": lambda region: kms_backends[ACCOUNT][region],
    # A parameter's key.
    "ssm": lambda region: kms_backends[ACCOUNT][region],
}


# --- values out of a set that the API's own model gives


def _out_of_set(service: str, operation: str, params: Params) -> Iterator[str]:
    shape = get_service_model(service).operation_model(operation).input_shape
    return _unknown_values(params, shape, "") if shape else iter(())


def _unknown_values(value: Any, shape: Any, path: str) -> Iterator[str]:
    if shape.type_name == "structure" and isinstance(value, dict):
        for name, item in value.items():
            # moto has a list of instance types of its own, and newer ones than the model.
            if name in shape.members and name != "InstanceType":
                yield from _unknown_values(item, shape.members[name], f"{path}.{name}" if path else name)
    elif shape.type_name == "list" and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown_values(item, shape.member, f"{path}[{index}]")
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield f"{path} is {value!r}; one of {', '.join(shape.enum)} is needed"


# --- addresses


def _placed(p: Params) -> Iterator[tuple[str, str]]:
    """Each subnet with an address that is asked for in it."""
    for place in (p, *p.get("NetworkInterfaces", [])):
        if subnet := place.get("SubnetId"):
            entries = [place, *place.get("PrivateIpAddresses", [])]
            asked = [str(entry["PrivateIpAddress"]) for entry in entries if entry.get("PrivateIpAddress")]
            yield from ((subnet, address) for address in dict.fromkeys(asked))


def _outside(p: Params, ec2: Any) -> str | None:
    for subnet, address in _placed(p):
        network = ip_network(ec2.get_subnet(subnet).cidr_block)
        if ip_address(address) not in network:
            return f"address {address} is not in subnet {subnet} ({network})"
    return None


def _kept(p: Params, ec2: Any) -> str | None:
    for subnet, address in _placed(p):
        network, wanted = ip_network(ec2.get_subnet(subnet).cidr_block), ip_address(address)
        if int(wanted) - int(network.network_address) < 4 or wanted == network.broadcast_address:
            free = f"{network[4]} to {network[-2]} are free to use"
            return f"address {address} is one of the five that AWS reserves in subnet {subnet} ({network}); {free}"
    return None


def _in_use(p: Params, ec2: Any) -> str | None:
    for subnet, address in _placed(p):
        if holder := addresses_in(ec2, ec2.get_subnet(subnet)).get(address):
            by = holder.instance.id if holder.instance else holder.id
            return f"address {address} of subnet {subnet} is already in use by {by}"
    return None


# --- groups and rules


def _grouped(p: Params, ec2: Any) -> Iterator[tuple[str, str, str]]:
    """Each group that is named, the VPC that it has to be of, and what is in that VPC."""
    for place in (p, *p.get("NetworkInterfaces", [])):
        groups = [*place.get("Groups", []), *place.get("SecurityGroupIds", [])]
        if subnet := place.get("SubnetId"):
            where = (ec2.get_subnet(subnet).vpc_id, f"subnet {subnet}")
        elif interface := place.get("NetworkInterfaceId"):
            where = (ec2.get_network_interface(interface).vpc_id, f"network interface {interface}")
        elif instance := place.get("InstanceId"):
            where = (ec2.get_instance(instance).vpc_id, f"instance {instance}")
        else:
            continue
        yield from ((group, *where) for group in groups)
    if group := p.get("GroupId"):
        vpc, what = _group(ec2, group).vpc_id if _group(ec2, group) else "", f"rule of {group}"
        yield from ((pair["GroupId"], vpc, what) for r in p.get("IpPermissions", []) for pair in r.get("UserIdGroupPairs", []))
        changed = [rule.get("SecurityGroupRule", {}) for rule in p.get("SecurityGroupRules", [])]
        yield from ((rule["ReferencedGroupId"], vpc, what) for rule in changed if "ReferencedGroupId" in rule)


def _group(ec2: Any, group: str) -> Any:
    return ec2.get_security_group_from_id(group)


def _foreign_group(p: Params, ec2: Any) -> str | None:
    for group, vpc, what in _grouped(p, ec2):
        found = _group(ec2, group)
        if found is None:
            return f"The security group '{group}' does not exist"
        if vpc and found.vpc_id != vpc:
            named = f"security group {group} ({found.name}) is of VPC {found.vpc_id}"
            return f"{named}, but {what} is in {vpc}; use a group of {vpc}"
    return None


def _rules(p: Params) -> list[Params]:
    changed = [rule.get("SecurityGroupRule", {}) for rule in p.get("SecurityGroupRules", [])]
    return [*p.get("IpPermissions", []), *changed, *([p] if "IpProtocol" in p else [])]


def _ports(p: Params, _: Any) -> str | None:
    """Other protocols have none; for ICMP the two are type and code."""
    for rule in _rules(p):
        protocol, low, high = str(rule.get("IpProtocol")).lower(), rule.get("FromPort"), rule.get("ToPort")
        if protocol not in ("tcp", "udp", "6", "17"):
            continue
        if low is None or high is None:
            return f"a rule for {protocol} needs both FromPort and ToPort, 0 to 65535"
        if not 0 <= low <= 65535 or not 0 <= high <= 65535:
            return f"ports {low} to {high} are not within 0 to 65535"
        if low > high:
            return f"FromPort {low} is above ToPort {high}; the lower port comes first"
    return None


def _networks(p: Params, _: Any) -> str | None:
    for rule in _rules(p):
        ranges = [entry.get("CidrIp") for entry in rule.get("IpRanges", [])]
        ranges += [entry.get("CidrIpv6") for entry in rule.get("Ipv6Ranges", [])]
        for cidr in (*ranges, rule.get("CidrIpv4"), rule.get("CidrIpv6"), rule.get("CidrIp")):
            try:
                ip_network(cidr or "0.0.0.0/0")
            except ValueError as error:
                return f"{cidr} is no network: {error}"
    return None


# --- the way out


def _vpc_without_gateway(ec2: Any, vpc: str) -> bool:
    return not any(gateway.vpc and gateway.vpc.id == vpc for gateway in ec2.internet_gateways.values())


def _gateway_of_nat(p: Params, ec2: Any) -> str | None:
    vpc = ec2.get_subnet(p["SubnetId"]).vpc_id
    if p.get("ConnectivityType") != "private" and _vpc_without_gateway(ec2, vpc):
        return f"Network {vpc} has no Internet gateway attached"
    return None


def _gateway_of_address(p: Params, ec2: Any) -> str | None:
    if interface := p.get("NetworkInterfaceId"):
        vpc = ec2.get_network_interface(interface).vpc_id
    elif instance := p.get("InstanceId"):
        vpc = ec2.get_instance(instance).vpc_id
    else:
        return None
    return f"Network {vpc} is not attached to any internet gateway" if vpc and _vpc_without_gateway(ec2, vpc) else None


def _gateway_of_balancer(p: Params, elb: Any) -> str | None:
    subnets = [*p.get("Subnets", []), *(mapping["SubnetId"] for mapping in p.get("SubnetMappings", []))]
    if p.get("Scheme") == "internal" or not subnets:
        return None
    ec2 = ec2_backends[ACCOUNT][elb.region_name]
    vpc = ec2.get_subnet(subnets[0]).vpc_id
    return f"VPC {vpc} has no internet gateway" if _vpc_without_gateway(ec2, vpc) else None


def _in_another_table(p: Params, ec2: Any) -> str | None:
    subnet = p.get("SubnetId")
    for table in ec2.route_tables.values():
        if subnet and subnet in table._associations.values():
            return f"subnet {subnet} is in route table {table.id} already; it cannot be in {p['RouteTableId']} as well"
    return None


def _same_route(p: Params, ec2: Any) -> str | None:
    table = ec2.route_tables.get(p["RouteTableId"])
    destination = p.get("DestinationCidrBlock")
    if table and any(destination and route.destination_cidr_block == destination for route in table._routes.values()):
        return f"route table {table.id} has a route for {destination} already"
    return None


# --- instances


def _user_data(p: Params) -> bytes:
    return base64.b64decode(str(p.get("UserData") or ""), validate=True)


def _no_base64(p: Params, _: Any) -> str | None:
    try:
        _user_data(p)
    except (binascii.Error, ValueError) as error:
        return f"UserData is not base64: {error}"
    return None


def _long_user_data(p: Params, _: Any) -> str | None:
    size = len(_user_data(p))
    return f"User data is limited to {USER_DATA_LIMIT} bytes before base64, and has {size}" if size > USER_DATA_LIMIT else None


def _attached(p: Params, ec2: Any) -> str | None:
    for place in p.get("NetworkInterfaces", []):
        interface = place.get("NetworkInterfaceId")
        holder = ec2.get_network_interface(interface).instance if interface else None
        if holder is not None:
            return f"network interface {interface} is attached to {holder.id}"
    return None


# --- other services


def _protected(p: Params, elb: Any) -> str | None:
    balancer = elb.load_balancers.get(p["LoadBalancerArn"])
    if balancer is not None and str(balancer.attrs.get("deletion_protection.enabled")).lower() == "true":
        off = "set deletion_protection.enabled to false first"
        return f"Load balancer '{balancer.arn}' cannot be deleted because deletion protection is enabled; {off}"
    return None


def _unusable_key(p: Params, kms: Any) -> str | None:
    name = kms.get_alias_name(str(p.get("KeyId") or "alias/aws/ssm"))
    if name.startswith("alias/aws/"):
        return None
    # moto breaks at an alias that there is not.
    id = kms.get_key_id_from_alias(name) if name.startswith("alias/") else name
    key = kms.keys.get(kms.any_id_to_key_id(id)) if id else None
    if key is None:
        return f"{name} is no KMS key of this account and region"
    return None if key.key_state == "Enabled" else f"{key.arn} is {key.key_state}"


def _long_parameter(p: Params, _: Any) -> str | None:
    size, tier = len(str(p.get("Value", "")).encode()), str(p.get("Tier") or "Standard")
    limit = PARAMETER_BYTES.get(tier, 4096)
    return f"Value has {size} bytes; tier {tier} takes at most {limit}" if size > limit else None


def _window(p: Params, _: Any) -> str | None:
    days = p.get("PendingWindowInDays", 30)
    return None if 7 <= days <= 30 else f"PendingWindowInDays is {days}; AWS takes 7 to 30"


def _retention(p: Params, _: Any) -> str | None:
    days = p.get("retentionInDays")
    return None if days in RETENTION_DAYS else f"retentionInDays is {days}; AWS takes {', '.join(map(str, RETENTION_DAYS))}"


# --- what AWS takes, and these machines cannot carry


def _prefix_lists(p: Params, _: Any) -> str | None:
    if any(rule.get("PrefixListIds") or rule.get("PrefixListId") for rule in _rules(p)):
        return "prefix lists are not enforced here; name CIDR blocks or security groups"
    return None


def _own_address(p: Params, _: Any) -> str | None:
    address = p.get("Address")
    if address and ip_address(address) not in PUBLIC_ADDRESSES:
        return f"Address {address} cannot be routed here; leave it out, or take one of 203.0.113.0/24"
    return None


def _targets(p: Params, _: Any) -> str | None:
    kind = p.get("TargetType", "instance")
    return None if kind == "ip" else f"target groups of type {kind} are not carried here; use ip"


_LAUNCH, _INTERFACE = "ec2:RunInstances", "ec2:CreateNetworkInterface"
_AUTHORIZE = ("ec2:AuthorizeSecurityGroupIngress", "ec2:AuthorizeSecurityGroupEgress", "ec2:ModifySecurityGroupRules")
_GROUPED = (_LAUNCH, _INTERFACE, *_AUTHORIZE, "ec2:ModifyNetworkInterfaceAttribute", "ec2:ModifyInstanceAttribute")
_PLACED = (_LAUNCH, _INTERFACE, "ec2:CreateNatGateway")
RULES = (
    Rule("InvalidParameterValue", _PLACED, "VPC user guide, Subnet CIDR blocks", _outside),
    Rule("InvalidParameterValue", _PLACED, "VPC user guide, Subnet CIDR blocks", _kept),
    Rule("InvalidIPAddress.InUse", _PLACED, "EC2 API, error codes", _in_use),
    Rule("InvalidGroup.NotFound", _GROUPED, "EC2 API, error codes", _foreign_group),
    Rule("InvalidParameterValue", _AUTHORIZE, "EC2 API, IpPermission", _ports),
    Rule("InvalidParameterValue", _AUTHORIZE, "EC2 API, IpRange", _networks),
    Rule("Gateway.NotAttached", ("ec2:CreateNatGateway",), "EC2 API, error codes", _gateway_of_nat),
    Rule("Gateway.NotAttached", ("ec2:AssociateAddress",), "EC2 API, error codes", _gateway_of_address),
    Rule("InvalidSubnet", ("elbv2:CreateLoadBalancer",), "terraform-provider-aws#4587", _gateway_of_balancer),
    Rule("Resource.AlreadyAssociated", ("ec2:AssociateRouteTable",), "EC2 API, error codes", _in_another_table),
    Rule("RouteAlreadyExists", ("ec2:CreateRoute",), "EC2 API, error codes", _same_route),
    Rule("InvalidUserData.Malformed", (_LAUNCH,), "EC2 API, error codes", _no_base64),
    Rule("InvalidParameterValue", (_LAUNCH,), "EC2 user guide, user data", _long_user_data),
    Rule("InvalidNetworkInterface.InUse", (_LAUNCH,), "EC2 API, error codes", _attached),
    Rule("OperationNotPermitted", ("elbv2:DeleteLoadBalancer",), "ELB API, DeleteLoadBalancer", _protected),
    Rule("InvalidKeyId", ("ssm:PutParameter",), "SSM API, PutParameter", _unusable_key),
    Rule("ValidationException", ("ssm:PutParameter",), "SSM API, PutParameter", _long_parameter),
    Rule("ValidationException", ("kms:ScheduleKeyDeletion",), "KMS API, ScheduleKeyDeletion", _window),
    Rule("InvalidParameterException", ("logs:PutRetentionPolicy",), "Logs API, PutRetentionPolicy", _retention),
    Rule("UnsupportedOperation", _AUTHORIZE, "this cloud", _prefix_lists),
    Rule("UnsupportedOperation", ("ec2:AllocateAddress",), "this cloud", _own_address),
    Rule("UnsupportedOperation", ("elbv2:CreateTargetGroup",), "this cloud", _targets),
)
