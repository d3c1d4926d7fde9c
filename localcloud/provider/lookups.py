"""The look-ups (invokes) of the program and of those that build on it: an image, and what there is in a VPC."""

from __future__ import annotations

from collections.abc import Callable

from .kind import Aws, CloudError, camel, tag_map
from .values import Props


def get_ami(aws: Aws, args: Props) -> Props:
    filters = [{"Name": f["name"], "Values": f["values"]} for f in args.get("filters") or []]
    query: Props = {"Filters": filters} if filters else {}
    if args.get("owners"):
        query["Owners"] = args["owners"]
    images = aws.client("ec2").describe_images(**query)["Images"]
    asked = ", ".join(f"{f['Name']}={'|'.join(f['Values'])}" for f in filters) or "no filter"
    if not images:
        raise CloudError(f"your query returned no image ({asked}; owners {args.get('owners') or 'any'}) in {aws.region}")
    if len(images) > 1 and not args.get("mostRecent"):
        raise CloudError(f"your query returned {len(images)} images ({asked}); narrow it, or set mostRecent")
    image = max(images, key=lambda i: i["CreationDate"])
    plain = {camel(k): v for k, v in image.items() if isinstance(v, (str, bool, int))}
    return {**args, **plain, "id": image["ImageId"], "tags": tag_map(image.get("Tags"))}


def get_vpc(aws: Aws, args: Props) -> Props:
    client = aws.client("ec2")
    found = _one(client.describe_vpcs(Filters=_filters(args, vpc_id="id"))["Vpcs"], "EC2 VPC")

    def switched(name: str) -> bool:
        shown = client.describe_vpc_attribute(VpcId=found["VpcId"], Attribute=name)
        return shown[f"{name[0].upper()}{name[1:]}"]["Value"]

    return {
        **args,
        **_shown(found, "VpcId"),
        "enableDnsSupport": switched("enableDnsSupport"),
        "enableDnsHostnames": switched("enableDnsHostnames"),
    }


def get_subnet(aws: Aws, args: Props) -> Props:
    query = _filters(args, subnet_id="id", vpc_id="vpcId")
    found = _one(aws.client("ec2").describe_subnets(Filters=query)["Subnets"], "EC2 Subnet")
    return {**args, **_shown(found, "SubnetId"), "arn": found["SubnetArn"]}


def get_route_table(aws: Aws, args: Props) -> Props:
    query = _filters(args, vpc_id="vpcId", association__subnet_id="subnetId", route_table_id="routeTableId")
    found = _one(aws.client("ec2").describe_route_tables(Filters=query)["RouteTables"], "EC2 Route Table")
    members = {
        "cidrBlock": "DestinationCidrBlock",
        "destinationPrefixListId": "DestinationPrefixListId",
        "gatewayId": "GatewayId",
        "natGatewayId": "NatGatewayId",
        "networkInterfaceId": "NetworkInterfaceId",
        "transitGatewayId": "TransitGatewayId",
        "vpcPeeringConnectionId": "VpcPeeringConnectionId",
    }
    # The provider leaves out the VPC's own, as nobody can change it.
    others = [route for route in found["Routes"] if route.get("GatewayId") != "local"]
    routes = [{name: route.get(member) or "" for name, member in members.items()} for route in others]
    return {**args, **_shown(found, "RouteTableId"), "routes": routes}


def get_network_interface(aws: Aws, args: Props) -> Props:
    query = _filters(args, network_interface_id="id")
    found = _one(aws.client("ec2").describe_network_interfaces(Filters=query)["NetworkInterfaces"], "EC2 Network Interface")
    addresses = [entry["PrivateIpAddress"] for entry in found["PrivateIpAddresses"]]
    return {**args, **_shown(found, "NetworkInterfaceId"), "tags": tag_map(found.get("TagSet")), "privateIps": addresses}


def get_network_interfaces(aws: Aws, args: Props) -> Props:
    found = aws.client("ec2").describe_network_interfaces(Filters=_filters(args))["NetworkInterfaces"]
    return {**args, "id": aws.region, "ids": [entry["NetworkInterfaceId"] for entry in found]}


def get_instances(aws: Aws, args: Props) -> Props:
    query = _filters(args)
    query += [{"Name": f"tag:{name}", "Values": [value]} for name, value in (args.get("instanceTags") or {}).items()]
    query.append({"Name": "instance-state-name", "Values": args.get("instanceStateNames") or ["running"]})
    pages = aws.client("ec2").get_paginator("describe_instances").paginate(Filters=query)
    found = [instance for page in pages for held in page["Reservations"] for instance in held["Instances"]]
    return {
        **args,
        "id": aws.region,
        "ids": [instance["InstanceId"] for instance in found],
        "privateIps": [instance["PrivateIpAddress"] for instance in found if instance.get("PrivateIpAddress")],
    }


def get_security_group(aws: Aws, args: Props) -> Props:
    query = _filters(args, group_id="id", vpc_id="vpcId", group_name="name")
    found = _one(aws.client("ec2").describe_security_groups(Filters=query)["SecurityGroups"], "EC2 Security Group")
    return {**args, **_shown(found, "GroupId"), "name": found["GroupName"]}


def get_security_groups(aws: Aws, args: Props) -> Props:
    found = aws.client("ec2").describe_security_groups(Filters=_filters(args))["SecurityGroups"]
    return {**args, "id": aws.region, "ids": [entry["GroupId"] for entry in found]}


def get_vpc_endpoint(aws: Aws, args: Props) -> Props:
    query = _filters(args, vpc_id="vpcId", service_name="serviceName", vpc_endpoint_type="vpcEndpointType")
    given: Props = {"VpcEndpointIds": [args["id"]]} if args.get("id") else {}
    found = _one(aws.client("ec2").describe_vpc_endpoints(**given, Filters=query)["VpcEndpoints"], "EC2 VPC Endpoint")
    return {**args, **_shown(found, "VpcEndpointId"), "routeTableIds": found.get("RouteTableIds", [])}


def _filters(args: Props, **named: str) -> list[Props]:
    """The look-up's filters, and one for each argument that is given: filter with _ for -, __ for . → argument."""
    found = [{"Name": f["name"], "Values": f["values"]} for f in args.get("filters") or []]
    for name, argument in named.items():
        if args.get(argument):
            found.append({"Name": name.replace("__", ".").replace("_", "-"), "Values": [args[argument]]})
    return found


def _one(found: list[Props], what: str) -> Props:
    if not found:
        raise CloudError(f"no matching {what} found")
    if len(found) > 1:
        raise CloudError(f"multiple {what}s matched; use additional constraints to reduce matches to a single {what}")
    return found[0]


def _shown(found: Props, id: str) -> Props:
    """The plain members as Pulumi names them, the id and the tags."""
    plain = {camel(name): value for name, value in found.items() if isinstance(value, str | bool | int)}
    return {**plain, "id": found[id], "tags": tag_map(found.get("Tags"))}


LOOKUPS: dict[str, Callable[[Aws, Props], Props]] = {
    "aws:ec2/getAmi:getAmi": get_ami,
    "aws:ec2/getSubnet:getSubnet": get_subnet,
    "aws:ec2/getVpc:getVpc": get_vpc,
    "aws:ec2/getRouteTable:getRouteTable": get_route_table,
    "aws:ec2/getNetworkInterface:getNetworkInterface": get_network_interface,
    "aws:ec2/getNetworkInterfaces:getNetworkInterfaces": get_network_interfaces,
    "aws:ec2/getInstances:getInstances": get_instances,
    "aws:ec2/getSecurityGroup:getSecurityGroup": get_security_group,
    "aws:ec2/getSecurityGroups:getSecurityGroups": get_security_groups,
    "aws:ec2/getVpcEndpoint:getVpcEndpoint": get_vpc_endpoint,
}
