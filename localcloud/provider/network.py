"""VPCs, subnets, gateways, addresses, routes and endpoints."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

import zlib
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

from .kind import Aws, CloudError, Ec2, Kind, absent, arguments, first, pascal, retag, tag_list, wait
from .schema import Failure
from .values import UNKNOWN, Props


class Vpc(Ec2):
    token = "aws:ec2/vpc:Vpc"
    noun, snake = "Vpc", "vpc"
    creates = ("cidrBlock", "instanceTenancy")
    inputs = (*creates, "enableDnsHostnames", "enableDnsSupport", "tags")
    defaults = {"instanceTenancy": "default", "enableDnsSupport": True, "enableDnsHostnames": False}

    def validate(self, inputs: Props) -> Iterable[Failure]:
        if not inputs.get("cidrBlock"):
            yield Failure("cidrBlock", "missing: a VPC needs one, such as 10.0.0.0/16")

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        # One attribute a call: AWS refuses two.
        for name in ("enableDnsSupport", "enableDnsHostnames"):
            if inputs.get(name) is not None and (changed is None or name in changed):
                aws.client("ec2").modify_vpc_attribute(VpcId=id, **{pascal(name): {"Value": inputs[name]}})

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        ec2 = aws.client("ec2")
        of_vpc = [{"Name": "vpc-id", "Values": [id]}]
        groups = ec2.describe_security_groups(Filters=[*of_vpc, {"Name": "group-name", "Values": ["default"]}])
        tables = ec2.describe_route_tables(Filters=[*of_vpc, {"Name": "association.main", "Values": ["true"]}])
        acls = ec2.describe_network_acls(Filters=[*of_vpc, {"Name": "default", "Values": ["true"]}])
        main = (first(tables["RouteTables"]) or {}).get("RouteTableId")
        return {
            "defaultSecurityGroupId": (first(groups["SecurityGroups"]) or {}).get("GroupId"),
            "mainRouteTableId": main,
            "defaultRouteTableId": main,
            "defaultNetworkAclId": (first(acls["NetworkAcls"]) or {}).get("NetworkAclId"),
            **{
                name: ec2.describe_vpc_attribute(VpcId=id, Attribute=name)[pascal(name)]["Value"]
                for name in ("enableDnsSupport", "enableDnsHostnames")
            },
        }


class Subnet(Ec2):
    token = "aws:ec2/subnet:Subnet"
    noun, snake = "Subnet", "subnet"
    creates = ("vpcId", "cidrBlock", "availabilityZone", "availabilityZoneId")
    inputs = (*creates, "mapPublicIpOnLaunch", "tags")
    defaults = {"mapPublicIpOnLaunch": False}

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        if inputs.get("mapPublicIpOnLaunch") is not None and (changed is None or "mapPublicIpOnLaunch" in changed):
            aws.client("ec2").modify_subnet_attribute(SubnetId=id, MapPublicIpOnLaunch={"Value": inputs["mapPublicIpOnLaunch"]})

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {"arn": record["SubnetArn"]}


class SubnetCidrReservation(Kind):
    token = "aws:ec2/subnetCidrReservation:SubnetCidrReservation"
    inputs = ("subnetId", "cidrBlock", "reservationType", "description")

    def validate(self, inputs: Props) -> Iterable[Failure]:
        if inputs.get("reservationType") not in ("explicit", "prefix", UNKNOWN):
            yield Failure("reservationType", f"is {inputs['reservationType']!r}; one of explicit, prefix is needed")

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        names = ("subnetId", "cidrBlock", "reservationType", "description")
        args = arguments(ec2, "create_subnet_cidr_reservation", inputs, names, cidrBlock="Cidr")
        return str(ec2.create_subnet_cidr_reservation(**args)["SubnetCidrReservation"]["SubnetCidrReservationId"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        subnet = known.get("subnetId")
        if not subnet:  # an import: SUBNET:RESERVATION, as for the real provider
            subnet, _, id = id.partition(":")
        answer = absent(lambda: aws.client("ec2").get_subnet_cidr_reservations(SubnetId=subnet))
        record = first([r for r in (answer or {}).get("SubnetIpv4CidrReservations", []) if r["SubnetCidrReservationId"] == id])
        if record is None:
            return None
        return {
            "subnetId": subnet,
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

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        if changed is None or "vpcId" in changed:
            self._detach(aws, id)
            if inputs.get("vpcId"):
                aws.client("ec2").attach_internet_gateway(InternetGatewayId=id, VpcId=inputs["vpcId"])

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {"vpcId": (first(record["Attachments"]) or {}).get("VpcId")}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.record(aws, id):
            self._detach(aws, id)
            super().delete(aws, id, known)

    def _detach(self, aws: Aws, id: str) -> None:
        for attachment in (self.record(aws, id) or {}).get("Attachments", []):
            aws.client("ec2").detach_internet_gateway(InternetGatewayId=id, VpcId=attachment["VpcId"])


def require_gateway(aws: Aws, vpc: str, refusal: str) -> None:
    """CloudError with the refusal (AWS's code and words) unless the VPC has an internet gateway; moto does not ask."""
    filters = [{"Name": "attachment.vpc-id", "Values": [vpc]}]
    if not aws.client("ec2").describe_internet_gateways(Filters=filters)["InternetGateways"]:
        raise CloudError(f"{refusal}; make it wait for the gateway, and for its route")


def vpc_of_subnet(aws: Aws, subnet: str) -> str:
    return str(aws.client("ec2").describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"])


def _check_binding(aws: Aws, interface: str | None, instance: str | None) -> None:
    """Refuses to bind an elastic address in a VPC that has no internet gateway."""
    ec2 = aws.client("ec2")
    if interface:
        vpc = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"][0]["VpcId"]
    elif instance:
        vpc = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["VpcId"]
    else:
        return
    require_gateway(aws, vpc, f"Gateway.NotAttached: Network {vpc} is not attached to any internet gateway")


# Set aside for documentation (RFC 5737), so nobody's. moto's own choice lies in the loopback range, which no router forwards.
PUBLIC_ADDRESSES = tuple(ip_network("203.0.113.0/24").hosts())


class Eip(Ec2):
    token = "aws:ec2/eip:Eip"
    noun, snake = "Address", "address"
    inputs = ("domain", "instance", "networkInterface", "associateWithPrivateIp", "tags")

    def create(self, aws: Aws, inputs: Props) -> str:
        tags = tag_list(inputs.get("tagsAll"))
        specification = {"TagSpecifications": [{"ResourceType": "elastic-ip", "Tags": tags}]} if tags else {}
        ec2 = aws.client("ec2")
        taken = {address["PublicIp"] for address in ec2.describe_addresses()["Addresses"]}
        free = next((str(ip) for ip in PUBLIC_ADDRESSES if str(ip) not in taken), None)
        if free is None:
            raise CloudError(f"AddressLimitExceeded: all {len(PUBLIC_ADDRESSES)} public addresses of this cloud are in use")
        id = str(ec2.allocate_address(Domain="vpc", Address=free, **specification)["AllocationId"])
        with self.undo_on_error(aws, id):
            self.settle(aws, id, inputs, None)
        return id

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        bound = ("instance", "networkInterface", "associateWithPrivateIp")
        if changed is not None and not changed.intersection(bound):
            return
        names = {"instance": "InstanceId", "networkInterface": "NetworkInterfaceId"}
        names["associateWithPrivateIp"] = "PrivateIpAddress"
        target = arguments(aws.client("ec2"), "associate_address", inputs, bound, **names)
        if target:
            _check_binding(aws, inputs.get("networkInterface"), inputs.get("instance"))
            aws.client("ec2").associate_address(AllocationId=id, AllowReassociation=True, **target)
        elif changed is not None:
            self._release_binding(aws, id)

    def record(self, aws: Aws, id: str) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_addresses(AllocationIds=[id]))
        return first(answer["Addresses"]) if answer else None

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        bound = bool(record.get("AssociationId"))
        return {
            "arn": aws.arn("ec2", f"elastic-ip/{id}"),
            "associationId": record.get("AssociationId") or None,
            "instance": record.get("InstanceId") or None,
            "networkInterface": record.get("NetworkInterfaceId") or None,
            "privateIp": (record.get("PrivateIpAddress") or None) if bound else None,
            "publicDns": public_dns(aws, record["PublicIp"]),
        }

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.record(aws, id):
            self._release_binding(aws, id)
            aws.client("ec2").release_address(AllocationId=id)

    def _release_binding(self, aws: Aws, id: str) -> None:
        association = (self.record(aws, id) or {}).get("AssociationId")
        if association:
            absent(lambda: aws.client("ec2").disassociate_address(AssociationId=association))


def public_dns(aws: Aws, address: str) -> str:
    return f"ec2-{address.replace('.', '-')}.{aws.region}.compute.amazonaws.com"


class EipAssociation(Kind):
    token = "aws:ec2/eipAssociation:EipAssociation"
    inputs = ("allocationId", "instanceId", "networkInterfaceId", "privateIpAddress", "allowReassociation")

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        _check_binding(aws, inputs.get("networkInterfaceId"), inputs.get("instanceId"))
        args = arguments(ec2, "associate_address", inputs, self.inputs)
        return str(ec2.associate_address(**args)["AssociationId"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self._record(aws, id)
        if record is None:
            return None
        return {
            "allocationId": record["AllocationId"],
            "instanceId": record.get("InstanceId") or None,
            "networkInterfaceId": record.get("NetworkInterfaceId") or None,
            "privateIpAddress": record.get("PrivateIpAddress") or None,
            "publicIp": record["PublicIp"],
        }

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self._record(aws, id):
            absent(lambda: aws.client("ec2").disassociate_address(AssociationId=id))

    def _record(self, aws: Aws, id: str) -> Any:
        return first([a for a in aws.client("ec2").describe_addresses()["Addresses"] if a.get("AssociationId") == id])


class NatGateway(Ec2):
    token = "aws:ec2/natGateway:NatGateway"
    noun, snake = "NatGateway", "nat_gateway"
    creates = ("allocationId", "connectivityType", "subnetId", "privateIp")
    renamed = {"privateIp": "PrivateIpAddress"}
    inputs = (*creates, "tags")
    tag_type = "natgateway"

    def validate(self, inputs: Props) -> Iterable[Failure]:
        if inputs.get("connectivityType") != "private" and not inputs.get("allocationId"):
            yield Failure("allocationId", "missing: a public NAT gateway needs an elastic address")

    def create(self, aws: Aws, inputs: Props) -> str:
        if inputs.get("connectivityType") != "private":
            vpc = vpc_of_subnet(aws, inputs["subnetId"])
            require_gateway(aws, vpc, f"Gateway.NotAttached: Network {vpc} has no Internet gateway attached")
        return super().create(aws, inputs)

    def tag_specification(self, inputs: Props) -> list[Props]:
        tags = tag_list(inputs.get("tagsAll"))
        return [{"ResourceType": "natgateway", "Tags": tags}] if tags else []

    def record(self, aws: Aws, id: str) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_nat_gateways(NatGatewayIds=[id]))
        record = first(answer["NatGateways"]) if answer else None
        return None if record is None or record["State"] in ("deleted", "deleting") else record

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        address = first(record.get("NatGatewayAddresses")) or {}
        return {
            "allocationId": address.get("AllocationId"),
            "networkInterfaceId": address.get("NetworkInterfaceId"),
            "privateIp": address.get("PrivateIp"),
            "publicIp": address.get("PublicIp"),
            "arn": aws.arn("ec2", f"natgateway/{id}"),
        }

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        record = self.record(aws, id)
        if record is None:
            return
        ec2 = aws.client("ec2")
        ec2.delete_nat_gateway(NatGatewayId=id)
        wait(f"the deletion of {id}", lambda: self.record(aws, id) is None)
        # AWS takes the gateway's interface away with it; moto leaves both it and the address's binding behind.
        for address in record.get("NatGatewayAddresses", []):
            allocation, interface = address.get("AllocationId"), address.get("NetworkInterfaceId")
            if allocation:
                Eip()._release_binding(aws, allocation)  # pyright: ignore[reportPrivateUsage]
            if interface:
                absent(lambda i=interface: ec2.delete_network_interface(NetworkInterfaceId=i))


_TARGETS = ("gatewayId", "natGatewayId", "networkInterfaceId", "vpcPeeringConnectionId", "transitGatewayId")


class RouteTable(Ec2):
    token = "aws:ec2/routeTable:RouteTable"
    noun, snake = "RouteTable", "route_table"
    creates = ("vpcId",)
    inputs = ("vpcId", "tags")

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        routes = [r for r in record["Routes"] if r.get("GatewayId") != "local" and r.get("DestinationCidrBlock")]
        return {
            "routes": [
                {"cidrBlock": r["DestinationCidrBlock"], **{name: r.get(pascal(name), "") for name in _TARGETS}} for r in routes
            ]
        }


class Route(Kind):
    token = "aws:ec2/route:Route"
    inputs = ("routeTableId", "destinationCidrBlock", *_TARGETS)

    def validate(self, inputs: Props) -> Iterable[Failure]:
        if not inputs.get("destinationCidrBlock"):
            yield Failure("destinationCidrBlock", "missing: a route needs a destination, such as 0.0.0.0/0")
        given = [name for name in _TARGETS if inputs.get(name)]
        if len(given) != 1:
            named = " and ".join(given) or "none"
            yield Failure("gatewayId", f"a route has exactly one target of {', '.join(_TARGETS)}; given: {named}")

    def create(self, aws: Aws, inputs: Props) -> str:
        table, destination = inputs["routeTableId"], inputs["destinationCidrBlock"]
        if self._record(aws, table, destination):
            raise CloudError(f"RouteAlreadyExists: route table {table} has a route for {destination} already")
        ec2 = aws.client("ec2")
        ec2.create_route(**arguments(ec2, "create_route", inputs, self.inputs))
        return f"r-{table}{zlib.crc32(destination.encode())}"

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        table, destination = known.get("routeTableId"), known.get("destinationCidrBlock")
        if not table or not destination:  # an import: TABLE_DESTINATION, as for the real provider
            table, _, destination = id.partition("_")
        record = self._record(aws, table, destination)
        if record is None:
            return None
        live = {name: record.get(pascal(name)) for name in _TARGETS}
        return {**live, "routeTableId": table, "destinationCidrBlock": destination, "state": record.get("State")}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        ec2 = aws.client("ec2")
        ec2.replace_route(**arguments(ec2, "replace_route", new, self.inputs))

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        table, destination = known["routeTableId"], known["destinationCidrBlock"]
        if self._record(aws, table, destination):
            aws.client("ec2").delete_route(RouteTableId=table, DestinationCidrBlock=destination)

    def _record(self, aws: Aws, table: str, destination: str) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_route_tables(RouteTableIds=[table]))
        routes = answer["RouteTables"][0]["Routes"] if answer and answer["RouteTables"] else []
        return first([r for r in routes if r.get("DestinationCidrBlock") == destination])


class RouteTableAssociation(Kind):
    """Known by its subnet: AWS gives another association id when the table changes, and a Pulumi id never changes."""

    token = "aws:ec2/routeTableAssociation:RouteTableAssociation"
    inputs = ("routeTableId", "subnetId")

    def validate(self, inputs: Props) -> Iterable[Failure]:
        if not inputs.get("subnetId"):
            yield Failure("subnetId", "missing: the association needs a subnet")

    def create(self, aws: Aws, inputs: Props) -> str:
        other = self._of_subnet(aws, inputs["subnetId"])
        if other:
            raise CloudError(
                f"Resource.AlreadyAssociated: subnet {inputs['subnetId']} is in route table {other['RouteTableId']} "
                f"already; it cannot be in {inputs['routeTableId']} as well"
            )
        ec2 = aws.client("ec2")
        answer = ec2.associate_route_table(RouteTableId=inputs["routeTableId"], SubnetId=inputs["subnetId"])
        return str(answer["AssociationId"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        subnet = known.get("subnetId")
        if not subnet and "/" in id:  # an import: SUBNET/TABLE
            subnet = id.split("/")[0]
        found = self._of_subnet(aws, subnet) if subnet else self._by_id(aws, id)
        return {"subnetId": found["SubnetId"], "routeTableId": found["RouteTableId"]} if found else None

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        found = self._of_subnet(aws, new["subnetId"])
        ec2 = aws.client("ec2")
        if found:
            ec2.replace_route_table_association(
                AssociationId=found["RouteTableAssociationId"], RouteTableId=new["routeTableId"]
            )
        else:
            ec2.associate_route_table(RouteTableId=new["routeTableId"], SubnetId=new["subnetId"])

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        found = self._of_subnet(aws, known["subnetId"])
        if found:
            aws.client("ec2").disassociate_route_table(AssociationId=found["RouteTableAssociationId"])

    def _all(self, aws: Aws, filters: list[Props]) -> list[Props]:
        tables = aws.client("ec2").describe_route_tables(Filters=filters)["RouteTables"]
        return [a for table in tables for a in table["Associations"] if a.get("SubnetId")]

    def _of_subnet(self, aws: Aws, subnet: str) -> Props | None:
        mine = self._all(aws, [{"Name": "association.subnet-id", "Values": [subnet]}])
        return first([a for a in mine if a["SubnetId"] == subnet])

    def _by_id(self, aws: Aws, id: str) -> Props | None:
        return first([a for a in self._all(aws, []) if a["RouteTableAssociationId"] == id])


class VpcEndpoint(Ec2):
    token = "aws:ec2/vpcEndpoint:VpcEndpoint"
    noun, snake = "VpcEndpoint", "vpc_endpoint"
    creates = ("vpcId", "serviceName", "vpcEndpointType", "routeTableIds", "subnetIds", "securityGroupIds", "policy",
               "privateDnsEnabled")  # fmt: skip
    renamed = {"policy": "PolicyDocument"}
    inputs = (*creates, "tags")
    unordered = ("routeTableIds", "subnetIds", "securityGroupIds")
    json_text = ("policy",)

    def validate(self, inputs: Props) -> Iterable[Failure]:
        service = inputs.get("serviceName")
        if service is not UNKNOWN and not service:
            yield Failure("serviceName", "missing: the endpoint needs one, such as com.amazonaws.eu-west-1.s3")

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        policy = record.get("PolicyDocument")
        prefixes = aws.client("ec2").describe_managed_prefix_lists()["PrefixLists"]
        prefix = first([p for p in prefixes if p["PrefixListName"] == record["ServiceName"]])
        return {
            "policy": policy if isinstance(policy, str) and policy else known.get("policy"),
            "securityGroupIds": [g["GroupId"] for g in record.get("Groups", [])],
            "prefixListId": prefix["PrefixListId"] if prefix else None,
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        retag(aws, id, old, new)
        args: Props = {}
        for name, member in (("routeTableIds", "RouteTableIds"), ("subnetIds", "SubnetIds")):
            before, after = set(old.get(name) or ()), set(new.get(name) or ())
            if name in changed:
                args |= {f"Add{member}": sorted(after - before), f"Remove{member}": sorted(before - after)}
        if "policy" in changed and new.get("policy"):
            args["PolicyDocument"] = new["policy"]
        if args:
            aws.client("ec2").modify_vpc_endpoint(VpcEndpointId=id, **{k: v for k, v in args.items() if v})

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
