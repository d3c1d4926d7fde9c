"""VPCs, subnets, gateways, addresses, routes and endpoints."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

import zlib
from typing import Any

from .kind import Aws, Ec2, Kind, absent, arguments, first, pascal, tag_specifications, wait
from .values import Props


class Vpc(Ec2):
    token = "aws:ec2/vpc:Vpc"
    noun, snake = "Vpc", "vpc"
    creates = ("cidrBlock",)
    switches = ("enableDnsSupport", "enableDnsHostnames")
    inputs = (*creates, *switches, "tags")
    required = (("cidrBlock",),)
    replaces = computed = ("cidrBlock",)

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        ask = aws.client("ec2").describe_vpc_attribute
        return {name: ask(VpcId=id, Attribute=name)[pascal(name)]["Value"] for name in self.switches}


class Subnet(Ec2):
    token = "aws:ec2/subnet:Subnet"
    noun, snake = "Subnet", "subnet"
    creates = ("vpcId", "cidrBlock", "availabilityZone")
    switches = ("mapPublicIpOnLaunch",)
    inputs = (*creates, *switches, "tags")
    replaces, computed = creates, ("availabilityZone",)


class SubnetCidrReservation(Kind):
    token = "aws:ec2/subnetCidrReservation:SubnetCidrReservation"
    inputs = replaces = ("subnetId", "cidrBlock", "reservationType", "description")

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        args = arguments(ec2, "create_subnet_cidr_reservation", inputs, self.inputs, cidrBlock="Cidr")
        return str(ec2.create_subnet_cidr_reservation(**args)["SubnetCidrReservation"]["SubnetCidrReservationId"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("ec2").get_subnet_cidr_reservations(SubnetId=known["subnetId"]))
        record = first([r for r in (answer or {}).get("SubnetIpv4CidrReservations", []) if r["SubnetCidrReservationId"] == id])
        if record is None:
            return None
        return {
            "subnetId": record["SubnetId"],
            "cidrBlock": record["Cidr"],
            "reservationType": record["ReservationType"],
            "description": record.get("Description") or None,
            "ownerId": record["OwnerId"],
        }

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.read(aws, id, known):
            aws.client("ec2").delete_subnet_cidr_reservation(SubnetCidrReservationId=id)


class InternetGateway(Ec2):
    token = "aws:ec2/internetGateway:InternetGateway"
    noun, snake = "InternetGateway", "internet_gateway"
    inputs = ("vpcId", "tags")
    computed = ("vpcId",)

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        if changed is None or "vpcId" in changed:
            self._detach(aws, id)
            if inputs.get("vpcId"):
                aws.client("ec2").attach_internet_gateway(InternetGatewayId=id, VpcId=inputs["vpcId"])

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        return {"vpcId": (first(record["Attachments"]) or {}).get("VpcId")}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        self._detach(aws, id)
        super().delete(aws, id, known)

    def _detach(self, aws: Aws, id: str) -> None:
        for attachment in (self.record(aws, id) or {}).get("Attachments", []):
            aws.client("ec2").detach_internet_gateway(InternetGatewayId=id, VpcId=attachment["VpcId"])


class Eip(Ec2):
    token = "aws:ec2/eip:Eip"
    noun, snake = "Address", "address"
    inputs = ("domain", "tags")
    replaces = computed = ("domain",)

    def create(self, aws: Aws, inputs: Props) -> str:
        more = tag_specifications("elastic-ip", inputs)
        return str(aws.client("ec2").allocate_address(Domain="vpc", **more)["AllocationId"])

    def record(self, aws: Aws, id: str) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_addresses(AllocationIds=[id]))
        return first(answer["Addresses"]) if answer else None

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        return {"arn": aws.arn("ec2", f"elastic-ip/{id}"), "publicDns": public_dns(aws, record["PublicIp"])}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("ec2").release_address(AllocationId=id))


def public_dns(aws: Aws, address: str) -> str:
    return f"ec2-{address.replace('.', '-')}.{aws.region}.compute.amazonaws.com"


class EipAssociation(Kind):
    token = "aws:ec2/eipAssociation:EipAssociation"
    inputs = replaces = ("allocationId", "networkInterfaceId")
    required = (("allocationId",), ("networkInterfaceId",))

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        return str(ec2.associate_address(**arguments(ec2, "associate_address", inputs, self.inputs))["AssociationId"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        addresses = aws.client("ec2").describe_addresses()["Addresses"]
        record = first([address for address in addresses if address.get("AssociationId") == id])
        return record and {name: record.get(pascal(name)) for name in (*self.inputs, "publicIp", "privateIpAddress")}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("ec2").disassociate_address(AssociationId=id))


class NatGateway(Ec2):
    token = "aws:ec2/natGateway:NatGateway"
    noun, snake, tagged = "NatGateway", "nat_gateway", "natgateway"
    creates = ("allocationId", "subnetId")
    required = (("allocationId",),)
    inputs = (*creates, "tags")
    replaces = creates

    def record(self, aws: Aws, id: str) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_nat_gateways(NatGatewayIds=[id]))
        record = first(answer["NatGateways"]) if answer else None
        return None if record is None or record["State"] in ("deleted", "deleting") else record

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        address = first(record.get("NatGatewayAddresses")) or {}
        members = {"allocationId": "AllocationId", "privateIp": "PrivateIp", "publicIp": "PublicIp"}
        return {name: address.get(member) for name, member in members.items()}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.record(aws, id):
            aws.client("ec2").delete_nat_gateway(NatGatewayId=id)
            wait(f"the deletion of {id}", lambda: self.record(aws, id) is None)


class RouteTable(Ec2):
    token = "aws:ec2/routeTable:RouteTable"
    noun, snake = "RouteTable", "route_table"
    creates = replaces = ("vpcId",)
    inputs = ("vpcId", "tags")

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        return {"routes": None}  # routes are resources of their own


class Route(Kind):
    token = "aws:ec2/route:Route"
    inputs = ("routeTableId", "destinationCidrBlock", "gatewayId", "natGatewayId")
    required = (("destinationCidrBlock",), inputs[2:])
    replaces = inputs[:2]

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        ec2.create_route(**arguments(ec2, "create_route", inputs, self.inputs))
        return f"r-{inputs['routeTableId']}{zlib.crc32(inputs['destinationCidrBlock'].encode())}"

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        table, destination = known["routeTableId"], known["destinationCidrBlock"]
        answer = absent(lambda: aws.client("ec2").describe_route_tables(RouteTableIds=[table]))
        routes = answer["RouteTables"][0]["Routes"] if answer and answer["RouteTables"] else []
        record = first([r for r in routes if r.get("DestinationCidrBlock") == destination])
        if record is None:
            return None
        live = {name: record.get(pascal(name)) for name in (*self.inputs, "state")}
        return {**live, "routeTableId": table}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        ec2 = aws.client("ec2")
        ec2.replace_route(**arguments(ec2, "replace_route", new, self.inputs))

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.read(aws, id, known):
            args = {"RouteTableId": known["routeTableId"], "DestinationCidrBlock": known["destinationCidrBlock"]}
            aws.client("ec2").delete_route(**args)


class RouteTableAssociation(Kind):
    """Known by its subnet: AWS gives another association id when the table changes, and a Pulumi id never changes."""

    token = "aws:ec2/routeTableAssociation:RouteTableAssociation"
    inputs = ("routeTableId", "subnetId")
    required = (("subnetId",),)
    replaces = ("subnetId",)

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        answer = ec2.associate_route_table(RouteTableId=inputs["routeTableId"], SubnetId=inputs["subnetId"])
        return str(answer["AssociationId"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        found = self._record(aws, known["subnetId"])
        return found and {"subnetId": found["SubnetId"], "routeTableId": found["RouteTableId"]}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        found = self._record(aws, new["subnetId"])["RouteTableAssociationId"]
        aws.client("ec2").replace_route_table_association(AssociationId=found, RouteTableId=new["routeTableId"])

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if found := self._record(aws, known["subnetId"]):
            aws.client("ec2").disassociate_route_table(AssociationId=found["RouteTableAssociationId"])

    def _record(self, aws: Aws, subnet: str) -> Any:
        filters = [{"Name": "association.subnet-id", "Values": [subnet]}]
        tables = aws.client("ec2").describe_route_tables(Filters=filters)["RouteTables"]
        return first([a for table in tables for a in table["Associations"] if a.get("SubnetId") == subnet])


class VpcEndpoint(Ec2):
    token = "aws:ec2/vpcEndpoint:VpcEndpoint"
    noun, snake = "VpcEndpoint", "vpc_endpoint"
    creates = ("vpcId", "serviceName", "vpcEndpointType", "routeTableIds", "policy")
    renamed = {"policy": "PolicyDocument"}
    inputs = (*creates, "tags")
    required = (("serviceName",),)
    replaces, computed = creates[:3], ("routeTableIds", "policy")
    unordered = ("routeTableIds",)
    json_text = ("policy",)

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        prefixes = aws.client("ec2").describe_managed_prefix_lists()["PrefixLists"]
        prefix = first([p for p in prefixes if p["PrefixListName"] == record["ServiceName"]])
        policy = record.get("PolicyDocument")
        found = {"policy": policy} if isinstance(policy, str) and policy else {"policy": None}
        return {**found, "prefixListId": prefix and prefix["PrefixListId"]}

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        if "routeTableIds" in (changed or ()):
            before = set((self.record(aws, id) or {}).get("RouteTableIds", []))
            after = set(inputs.get("routeTableIds") or ())
            args = {"AddRouteTableIds": sorted(after - before), "RemoveRouteTableIds": sorted(before - after)}
            aws.client("ec2").modify_vpc_endpoint(VpcEndpointId=id, **{k: v for k, v in args.items() if v})
        if "policy" in (changed or ()) and inputs.get("policy"):
            aws.client("ec2").modify_vpc_endpoint(VpcEndpointId=id, PolicyDocument=inputs["policy"])

    def record(self, aws: Aws, id: str) -> Props | None:
        record = super().record(aws, id)
        return None if record is None or record["State"].lower() == "deleted" else record

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.record(aws, id):
            aws.client("ec2").delete_vpc_endpoints(VpcEndpointIds=[id])


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
