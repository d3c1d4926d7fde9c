"""A VPC that another program made, through AWS's own API, for a stack to go into."""

from __future__ import annotations

import json
from typing import Any

REGION = "eu-west-1"
# Below it in every subnet is what others have; the public subnet of zone a has an interface of somebody else's at offset 9.
FIRST = 104


def make(ec2: Any) -> dict[str, Any]:
    """A VPC with a public and a private subnet in two zones and one NAT gateway; gives what `network.existing` says of it."""
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    public, private = (ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"] for _ in range(2))
    ec2.create_route(RouteTableId=public, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    subnets: dict[str, dict[str, Any]] = {}
    for number, zone in enumerate("ab"):
        for kind, cidr, table in (
            ("public", f"10.8.{240 + number}.0/24", public),
            ("private", f"10.8.{16 * number}.0/20", private),
        ):
            id = subnet(ec2, vpc, cidr, zone, table)
            subnets.setdefault(zone, {})[kind] = {"id": id, "cidr": cidr, "firstHost": FIRST}
    # The NAT gateway takes any free address, so it has a subnet to itself.
    of_nat = subnet(ec2, vpc, "10.8.250.0/24", "a", public)
    address = ec2.allocate_address(Domain="vpc", Address="203.0.113.200")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=of_nat, AllocationId=address)["NatGateway"]["NatGatewayId"]
    ec2.create_route(RouteTableId=private, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
    place = {"SubnetId": subnets["a"]["public"]["id"], "PrivateIpAddress": "10.8.240.9"}
    ec2.create_network_interface(**place, Description="somebody else")
    return {"id": vpc, "cidr": "10.8.0.0/16", "subnets": subnets}


def subnet(ec2: Any, vpc: str, cidr: str, zone: str, table: str) -> str:
    """Makes a subnet with that route table; gives its id."""
    id = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone=REGION + zone)["Subnet"]["SubnetId"]
    ec2.associate_route_table(RouteTableId=table, SubnetId=id)
    return id


def described(ec2: Any, vpc: str) -> dict[str, Any]:
    """Everything in the VPC, and the region's elastic addresses. AWS goes on showing what is deleted for a while; not here."""
    of_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
    subnets = ec2.describe_subnets(Filters=of_vpc)["Subnets"]
    attached = [{"Name": "attachment.vpc-id", "Values": [vpc]}]
    found = {
        "vpc": ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"],
        "subnets": subnets,
        "reservations": [ec2.get_subnet_cidr_reservations(SubnetId=one["SubnetId"]) for one in subnets],
        "tables": ec2.describe_route_tables(Filters=of_vpc)["RouteTables"],
        "internet gateways": ec2.describe_internet_gateways(Filters=attached)["InternetGateways"],
        "NAT gateways": ec2.describe_nat_gateways(Filters=of_vpc)["NatGateways"],
        "groups": ec2.describe_security_groups(Filters=of_vpc)["SecurityGroups"],
        "ACLs": ec2.describe_network_acls(Filters=of_vpc)["NetworkAcls"],
        "endpoints": [e for e in ec2.describe_vpc_endpoints(Filters=of_vpc)["VpcEndpoints"] if e["State"] != "deleted"],
        "interfaces": ec2.describe_network_interfaces(Filters=of_vpc)["NetworkInterfaces"],
        "addresses": ec2.describe_addresses()["Addresses"],
    }
    for answer in found["reservations"]:
        answer.pop("ResponseMetadata")
    return json.loads(json.dumps(found, default=str, sort_keys=True))
