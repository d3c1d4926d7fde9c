"""The VPC: subnets, ways out, and what a host must wait for before its first packet can leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from netaddr import IPNetwork
from pulumi import ComponentResource, Input, Resource, ResourceOptions
from pulumi_aws import cloudwatch, ec2, iam

from components.security import policy
from components.tags import Tags
from plan.cluster import Cluster, PlannedZone

FLOW_LOG_DAYS = 30


@dataclass(frozen=True)
class VpcArgs:
    """cluster: the plan, whose zones and ranges are taken as they are."""

    cluster: Cluster
    tags: Tags


class Vpc(ComponentResource):
    """The network of a stack, type apollo:network:Vpc.

    Creates: {name}-vpc, {name}-internet (gateway), {name}-public (route table with the way to the internet),
    {name}-s3 (gateway endpoint), and for each zone {name}-public-<letter> and {name}-private-<letter> (subnet and
    association; private: also a route table) with {name}-<kind>-<letter>-reserved-<offset> (reservations of its planned
    addresses). NAT: {name}-nat-<letter> with its elastic address in the first zone, or in each. {name}-default: the VPC's
    default security group, taken over and left without a rule. With network.flowLogs: {name}-flow-logs (log group, role,
    its policy, flow log).
    Each zone has its own private table even when all share a NAT gateway, so that going to one per zone changes a route only.
    """

    def __init__(self, name: str, args: VpcArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:network:Vpc", name, None, opts)
        self._name, self._tags = name, args.tags
        settings, zones, plan = args.cluster.settings, args.cluster.zones, args.cluster.vpc
        child = ResourceOptions(parent=self)

        self.vpc = ec2.Vpc(
            f"{name}-vpc",
            cidr_block=str(settings.network.cidr),
            enable_dns_support=True,
            enable_dns_hostnames=True,
            tags=args.tags.named("vpc"),
            opts=child,
        )
        self.vpc_id: Input[str] = self.vpc.id
        # An instance that is launched without a group is in this one. AWS makes it with everything open among its members.
        ec2.DefaultSecurityGroup(
            f"{name}-default", vpc_id=self.vpc_id, ingress=[], egress=[], tags=args.tags.named("default"), opts=child
        )
        if settings.network.flow_logs != "none":
            self._flow_logs(settings.network.flow_logs)
        gateway = ec2.InternetGateway(f"{name}-internet", vpc_id=self.vpc_id, tags=args.tags.named("internet"), opts=child)
        public_table = ec2.RouteTable(f"{name}-public", vpc_id=self.vpc_id, tags=args.tags.named("public"), opts=child)
        way_out = ec2.Route(
            f"{name}-public-internet",
            route_table_id=public_table.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.id,
            opts=child,
        )

        self.public_subnet_ids: dict[int, Input[str]] = {}
        self.private_subnet_ids: dict[int, Input[str]] = {}
        self.public_ready: dict[int, list[Resource]] = {}
        self.private_ready: dict[int, list[Resource]] = {}
        private_tables: list[ec2.RouteTable] = []
        nat: ec2.NatGateway | None = None
        for zone in zones:
            letter = zone.name[-1]
            public, association = self._subnet("public", zone, public_table)
            blocks = plan.reserved_public(zone.index)
            reserved = reserve(self, f"{name}-public-{letter}", public.id, zone.public_subnet, blocks)
            self.public_subnet_ids[zone.index] = public.id
            self.public_ready[zone.index] = [way_out, association, *reserved]
            if nat is None or settings.network.nat == "perZone":
                nat = self._nat(letter, public, needs=self.public_ready[zone.index])
            table = ec2.RouteTable(
                f"{name}-private-{letter}", vpc_id=self.vpc_id, tags=args.tags.named(f"private-{letter}"), opts=child
            )
            private_tables.append(table)
            private, association = self._subnet("private", zone, table)
            blocks = plan.reserved_private(zone.index, args.cluster.overlay.last_slot)
            reserved = reserve(self, f"{name}-private-{letter}", private.id, zone.private_subnet, blocks)
            route = ec2.Route(
                f"{name}-private-{letter}-nat",
                route_table_id=table.id,
                destination_cidr_block="0.0.0.0/0",
                nat_gateway_id=nat.id,
                opts=child,
            )
            self.private_subnet_ids[zone.index] = private.id
            self.private_ready[zone.index] = [route, association, *reserved]

        tables = [public_table.id, *(table.id for table in private_tables)]
        # Open connections to S3 are cut off when an endpoint appears.
        self.s3_ready: list[Resource] = [s3_endpoint(self, f"{name}-s3", settings.region, self.vpc_id, tables, args.tags)]
        self.register_outputs(
            {
                "vpcId": self.vpc_id,
                "publicSubnetIds": list(self.public_subnet_ids.values()),
                "privateSubnetIds": list(self.private_subnet_ids.values()),
            }
        )

    def _subnet(self, kind: str, zone: PlannedZone, table: ec2.RouteTable) -> tuple[ec2.Subnet, ec2.RouteTableAssociation]:
        name = f"{kind}-{zone.name[-1]}"
        subnet = ec2.Subnet(
            f"{self._name}-{name}",
            vpc_id=self.vpc_id,
            cidr_block=str(zone.public_subnet if kind == "public" else zone.private_subnet),
            availability_zone=zone.name,
            map_public_ip_on_launch=False,
            tags=self._tags.named(name),
            opts=ResourceOptions(parent=self),
        )
        association = ec2.RouteTableAssociation(
            f"{self._name}-{name}", subnet_id=subnet.id, route_table_id=table.id, opts=ResourceOptions(parent=self)
        )
        return subnet, association

    def _flow_logs(self, traffic: Literal["reject", "all"]) -> None:
        """Records of the VPC's traffic in CloudWatch Logs."""
        name, tags, child = f"{self._name}-flow-logs", self._tags.named("flow-logs"), ResourceOptions(parent=self)
        group = cloudwatch.LogGroup(
            name, name=f"/apollo/{self._tags.stack}/flow-logs", retention_in_days=FLOW_LOG_DAYS, tags=tags, opts=child
        )
        role = iam.Role(
            name,
            # For flow logs of this account alone, as the service writes for whoever names the role.
            assume_role_policy=self.vpc.arn.apply(
                lambda arn: policy(
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": "vpc-flow-logs.amazonaws.com"},
                        "Action": "sts:AssumeRole",
                        "Condition": {"StringEquals": {"aws:SourceAccount": arn.split(":")[4]}},
                    }
                )
            ),
            description="Apollo flow logs",
            tags=tags,
            opts=child,
        )
        actions = ("CreateLogStream", "PutLogEvents", "DescribeLogGroups", "DescribeLogStreams")
        writing = iam.RolePolicy(
            name,
            role=role.id,
            policy=group.arn.apply(
                lambda arn: policy({"Effect": "Allow", "Action": [f"logs:{a}" for a in actions], "Resource": f"{arn}:*"})
            ),
            opts=child,
        )
        ec2.FlowLog(
            name,
            vpc_id=self.vpc_id,
            traffic_type=traffic.upper(),
            log_destination=group.arn,
            iam_role_arn=role.arn,
            tags=tags,
            # Before the role may write, AWS takes the flow log and says "Access error" in its status.
            opts=ResourceOptions(parent=self, depends_on=[writing]),
        )

    def _nat(self, letter: str, subnet: ec2.Subnet, needs: list[Resource]) -> ec2.NatGateway:
        # Without the way out in place first, AWS creates the gateway but its first connections are lost.
        opts = ResourceOptions(parent=self, depends_on=needs)
        name = f"nat-{letter}"
        address = ec2.Eip(f"{self._name}-{name}", domain="vpc", tags=self._tags.named(name), opts=opts)
        return ec2.NatGateway(
            f"{self._name}-{name}", allocation_id=address.id, subnet_id=subnet.id, tags=self._tags.named(name), opts=opts
        )


def reserve(
    parent: Resource, name: str, subnet_id: Input[str], network: IPNetwork, blocks: Sequence[IPNetwork]
) -> list[Resource]:
    """Keeps AWS from giving the blocks to NAT gateways, load balancers and others that ask for any address.

    What is in them already stays, and whoever names an address gets it: so a running stack takes them too.
    network: the subnet's range. Creates {name}-reserved-<offset> for each block.
    """
    return [
        ec2.SubnetCidrReservation(
            f"{name}-reserved-{block.first - network.first}",
            subnet_id=subnet_id,
            cidr_block=str(block),
            reservation_type="explicit",
            description="Planned addresses of hosts",
            # Reservations must not overlap, so one that becomes wider cannot exist beside its former self.
            opts=ResourceOptions(parent=parent, delete_before_replace=True),
        )
        for block in blocks
    ]


def s3_endpoint(
    parent: Resource, name: str, region: str, vpc_id: Input[str], tables: Input[Sequence[Input[str]]], tags: Tags
) -> ec2.VpcEndpoint:
    """A gateway endpoint to S3 for the route tables."""
    return ec2.VpcEndpoint(
        name,
        vpc_id=vpc_id,
        service_name=f"com.amazonaws.{region}.s3",
        vpc_endpoint_type="Gateway",
        route_table_ids=tables,
        tags=tags.named("s3"),
        opts=ResourceOptions(parent=parent),
    )
