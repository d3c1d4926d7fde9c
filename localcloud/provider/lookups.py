"""The look-ups (invokes) of the program and of those that build on it: an image, and what there is in a VPC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..api.client import Aws
from .aws import absent, camel, from_aws, tag_map
from .kind import CloudError
from .network import Vpc
from .values import Props


@dataclass(frozen=True)
class LookUp:
    """arguments: those that are acted on; others are refused by name."""

    arguments: tuple[str, ...]
    answer: Callable[[Aws, Props], Props]


def get_ami(aws: Aws, args: Props) -> Props:
    query: Props = {"Owners": args["owners"]} if args.get("owners") else {}
    images = aws.client("ec2").describe_images(Filters=_filters(args), **query)["Images"]
    asked = ", ".join(f"{f['name']}={'|'.join(f['values'])}" for f in args.get("filters") or []) or "no filter"
    if not images:
        raise CloudError(f"your query returned no image ({asked}; owners {args.get('owners') or 'any'}) in {aws.region}")
    if len(images) > 1 and not args.get("mostRecent"):
        raise CloudError(f"your query returned {len(images)} images ({asked}); narrow it, or set mostRecent")
    return _shown(max(images, key=lambda i: i["CreationDate"]), "ImageId")


def _routes(aws: Aws, found: Props) -> Props:
    del aws
    # The provider leaves out the VPC's own, which cannot be changed.
    others = [route for route in found["Routes"] if route.get("GatewayId") != "local"]
    return {"routes": [{"cidrBlock": route.get("DestinationCidrBlock") or "", **from_aws(route)} for route in others]}


def _single(what: str, noun: str, id: str, more: Callable[[Aws, Props], Props] = lambda _, __: {}, **arguments: str) -> LookUp:
    """Exactly one, by its id where no arguments are named. what: AWS's word for it. noun: network_interface. id: its member.

    arguments: name → AWS's filter.
    """

    def answer(aws: Aws, args: Props) -> Props:
        query: Props = {"Filters": _filters(args) + [_filter(f, args[n]) for n, f in arguments.items() if args.get(n)]}
        if args.get("id"):
            query[f"{id}s"] = [args["id"]]
        found = absent(lambda: _described(aws, noun, **query)) or []
        if len(found) != 1:
            many = f"multiple EC2 {what}s matched; use additional constraints to reduce matches to a single EC2 {what}"
            raise CloudError(many if found else f"no matching EC2 {what} found")
        return _shown(found[0], id) | more(aws, found[0])

    return LookUp((*(arguments or ("id",)), "filters"), answer)


def _ids(noun: str, id: str) -> LookUp:
    """The ids of all that match."""

    def answer(aws: Aws, args: Props) -> Props:
        return {"id": aws.region, "ids": [entry[id] for entry in _described(aws, noun, Filters=_filters(args))]}

    return LookUp(("filters",), answer)


def _described(aws: Aws, noun: str, **query: Any) -> list[Props]:
    return getattr(aws.client("ec2"), f"describe_{noun}s")(**query)[noun.title().replace("_", "") + "s"]


def get_instances(aws: Aws, args: Props) -> Props:
    query = _filters(args) + [_filter(f"tag:{name}", value) for name, value in (args.get("instanceTags") or {}).items()]
    query.append(_filter("instance-state-name", *(args.get("instanceStateNames") or ["running"])))
    pages = aws.client("ec2").get_paginator("describe_instances").paginate(Filters=query)
    found = [instance for page in pages for held in page["Reservations"] for instance in held["Instances"]]
    return {
        "id": aws.region,
        "ids": [instance["InstanceId"] for instance in found],
        "privateIps": [instance["PrivateIpAddress"] for instance in found if instance.get("PrivateIpAddress")],
    }


def _filters(args: Props) -> list[Props]:
    return [_filter(f["name"], *f["values"]) for f in args.get("filters") or []]


def _filter(name: str, *values: str) -> Props:
    return {"Name": name, "Values": list(values)}


def _shown(found: Props, id: str) -> Props:
    """The plain members as Pulumi names them, the id and the tags."""
    plain = {camel(name): value for name, value in found.items() if isinstance(value, str | bool | int)}
    return {**plain, "id": found[id], "tags": tag_map(found.get("Tags") or found.get("TagSet"))}


_TABLE = {"routeTableId": "route-table-id", "subnetId": "association.subnet-id", "vpcId": "vpc-id"}
LOOKUPS: dict[str, LookUp] = {
    f"aws:ec2/{name}:{name}": look_up
    for name, look_up in {
        "getAmi": LookUp(("owners", "filters", "mostRecent"), get_ami),
        "getInstances": LookUp(("filters", "instanceTags", "instanceStateNames"), get_instances),
        "getNetworkInterface": _single(
            "Network Interface",
            "network_interface",
            "NetworkInterfaceId",
            lambda _, of: {"privateIps": [entry["PrivateIpAddress"] for entry in of["PrivateIpAddresses"]]},
        ),
        "getNetworkInterfaces": _ids("network_interface", "NetworkInterfaceId"),
        "getRouteTable": _single("Route Table", "route_table", "RouteTableId", _routes, **_TABLE),
        "getSecurityGroup": _single("Security Group", "security_group", "GroupId", lambda _, of: {"name": of["GroupName"]}),
        "getSecurityGroups": _ids("security_group", "GroupId"),
        "getSubnet": _single("Subnet", "subnet", "SubnetId", lambda _, of: {"arn": of["SubnetArn"]}),
        "getVpc": _single("VPC", "vpc", "VpcId", lambda aws, of: Vpc().describe(aws, of["VpcId"], of, {})),
        "getVpcEndpoint": _single("VPC Endpoint", "vpc_endpoint", "VpcEndpointId"),
    }.items()
}
