"""VPCs, subnets, gateways, addresses, routes and endpoints."""

from __future__ import annotations

import zlib

from ..api.client import Aws
from .aws import Api, Ec2, absent, first, pascal
from .values import Props


class Vpc(Ec2):
    token = "aws:ec2/vpc:Vpc"
    noun = "vpc"
    sends = ("cidrBlock",)
    setters = dict.fromkeys(("enableDnsSupport", "enableDnsHostnames"), "modify_vpc_attribute")
    inputs = (*sends, *setters, "tags")
    required = (("cidrBlock",),)
    replaces = computed = ("cidrBlock",)

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        ask = aws.client("ec2").describe_vpc_attribute
        return {name: ask(VpcId=id, Attribute=name)[pascal(name)]["Value"] for name in self.setters}


class Subnet(Ec2):
    token = "aws:ec2/subnet:Subnet"
    noun = "subnet"
    sends = ("vpcId", "cidrBlock", "availabilityZone")
    setters = {"mapPublicIpOnLaunch": "modify_subnet_attribute"}
    inputs = (*sends, *setters, "tags")
    replaces, computed = sends, ("availabilityZone",)


class SubnetCidrReservation(Ec2):
    token = "aws:ec2/subnetCidrReservation:SubnetCidrReservation"
    noun = "subnet_cidr_reservation"
    inputs = sends = replaces = ("subnetId", "cidrBlock", "reservationType", "description")
    renamed = {"cidrBlock": "Cidr"}

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("ec2").get_subnet_cidr_reservations(SubnetId=known["subnetId"])) or {}
        return first([r for r in answer.get("SubnetIpv4CidrReservations", []) if r[self.key] == id])


class InternetGateway(Ec2):
    token = "aws:ec2/internetGateway:InternetGateway"
    noun = "internet_gateway"
    setters = {"vpcId": "attach_internet_gateway"}
    inputs = ("vpcId", "tags")
    computed = ("vpcId",)

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {"vpcId": (first(record["Attachments"]) or {}).get("VpcId")}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if vpc := (self.read(aws, id, known) or {}).get("vpcId"):
            aws.client("ec2").detach_internet_gateway(InternetGatewayId=id, VpcId=vpc)
        super().delete(aws, id, known)


class Eip(Ec2):
    token = "aws:ec2/eip:Eip"
    noun, tagged = "address", "elastic-ip"
    creates, reads, deletes = "allocate_address", "describe_addresses", "release_address"
    found, key = "Addresses", "AllocationId"
    sends = replaces = computed = ("domain",)
    inputs = ("domain", "tags")

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {"publicDns": public_dns(aws, record["PublicIp"])}


def public_dns(aws: Aws, address: str) -> str:
    return f"ec2-{address.replace('.', '-')}.{aws.region}.compute.amazonaws.com"


class EipAssociation(Api):
    token = "aws:ec2/eipAssociation:EipAssociation"
    service, key = "ec2", "AssociationId"
    creates, deletes = "associate_address", "disassociate_address"
    inputs = sends = replaces = ("allocationId", "networkInterfaceId")
    shows = (*inputs, "publicIp", "privateIpAddress")
    required = (("allocationId",), ("networkInterfaceId",))

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        addresses = aws.client("ec2").describe_addresses()["Addresses"]
        return first([address for address in addresses if address.get(self.key) == id])


class NatGateway(Ec2):
    token = "aws:ec2/natGateway:NatGateway"
    noun, tagged = "nat_gateway", "natgateway"
    sends = replaces = ("allocationId", "subnetId")
    inputs = (*sends, "tags")
    required = (("allocationId",),)

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        address = first(record.get("NatGatewayAddresses")) or {}
        return {name: address.get(pascal(name)) for name in ("allocationId", "privateIp", "publicIp")}


class RouteTable(Ec2):
    token = "aws:ec2/routeTable:RouteTable"
    noun = "route_table"
    sends = replaces = ("vpcId",)
    inputs = ("vpcId", "tags")

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {"routes": None}  # routes are resources of their own


class Route(Api):
    token = "aws:ec2/route:Route"
    service, creates, deletes = "ec2", "create_route", "delete_route"
    inputs = sends = ("routeTableId", "destinationCidrBlock", "gatewayId", "natGatewayId")
    shows = (*inputs[1:], "state")
    required = (("destinationCidrBlock",), inputs[2:])
    replaces = inputs[:2]

    def id_of(self, inputs: Props, answer: Props) -> str:
        return f"r-{inputs['routeTableId']}{zlib.crc32(inputs['destinationCidrBlock'].encode())}"

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_route_tables(RouteTableIds=[known["routeTableId"]]))
        routes = answer["RouteTables"][0]["Routes"] if answer else []
        return first([r for r in routes if r.get("DestinationCidrBlock") == known["destinationCidrBlock"]])

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {"routeTableId": known["routeTableId"]}

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        if changed:
            self.call(aws, "replace_route", self.arguments(aws, "replace_route", inputs, self.inputs))

    def deletion(self, aws: Aws, id: str, known: Props) -> Props:
        return self.arguments(aws, self.deletes, known, self.replaces)


class RouteTableAssociation(Api):
    """Known by its subnet: AWS gives another association id when the table changes, and a Pulumi id never changes."""

    token = "aws:ec2/routeTableAssociation:RouteTableAssociation"
    service, key = "ec2", "AssociationId"
    creates, deletes = "associate_route_table", "disassociate_route_table"
    inputs = sends = shows = ("routeTableId", "subnetId")
    required = (("subnetId",),)
    replaces = ("subnetId",)

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        filters = [{"Name": "association.subnet-id", "Values": [known["subnetId"]]}]
        tables = aws.client("ec2").describe_route_tables(Filters=filters)["RouteTables"]
        return first([a for table in tables for a in table["Associations"] if a.get("SubnetId") == known["subnetId"]])

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        if changed:
            args = self.deletion(aws, id, inputs) | {"RouteTableId": inputs["routeTableId"]}
            self.call(aws, "replace_route_table_association", args)

    def deletion(self, aws: Aws, id: str, known: Props) -> Props:
        return {self.key: (self.record(aws, id, known) or {}).get("RouteTableAssociationId", id)}


class VpcEndpoint(Ec2):
    token = "aws:ec2/vpcEndpoint:VpcEndpoint"
    noun, deletes = "vpc_endpoint", "delete_vpc_endpoints"
    sends = ("vpcId", "serviceName", "vpcEndpointType", "routeTableIds")
    renamed = {"policy": "PolicyDocument"}
    inputs = (*sends, "tags")
    required = (("serviceName",),)
    replaces = sends[:3]
    computed = unordered = ("routeTableIds",)

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        prefixes = aws.client("ec2").describe_managed_prefix_lists()["PrefixLists"]
        prefix = first([p for p in prefixes if p["PrefixListName"] == record["ServiceName"]])
        return {"prefixListId": prefix and prefix["PrefixListId"]}

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        if "routeTableIds" in changed:
            before = set((self.record(aws, id, {}) or {}).get("RouteTableIds", []))
            after = set(inputs.get("routeTableIds") or ())
            args = {"AddRouteTableIds": sorted(after - before), "RemoveRouteTableIds": sorted(before - after)}
            aws.client("ec2").modify_vpc_endpoint(VpcEndpointId=id, **{k: v for k, v in args.items() if v})


KINDS = (
    Vpc,
    Subnet,
    SubnetCidrReservation,
    InternetGateway,
    Eip,
    EipAssociation,
    NatGateway,
    RouteTable,
    Route,
    RouteTableAssociation,
    VpcEndpoint,
)
