"""A VPC that somebody else made: what AWS says of it, and the little that a stack adds to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pulumi
from pulumi import ComponentResource, Input, Output, Resource, ResourceOptions
from pulumi.runtime import invoke_async

from components.network import Vpc, VpcArgs, reserve, s3_endpoint
from components.record import keep
from components.tags import Tags
from plan.cluster import Cluster
from plan.existing import Account, Answer, places, planned_addresses, problems
from plan.parse import refuse
from plan.problems import PlanError

# How many values AWS takes in one filter (EC2 API, "Filtering").
_VALUES = 200
_DEFAULT = "0.0.0.0/0"
# Where a route can lead, in the words of getRouteTable.
_TARGETS = (
    *("gatewayId", "natGatewayId", "transitGatewayId", "networkInterfaceId", "instanceId", "vpcPeeringConnectionId"),
    *("carrierGatewayId", "coreNetworkArn", "localGatewayId", "vpcEndpointId", "egressOnlyGatewayId"),
)


# How the provider says that there is no such thing, which is no failure where one was looked for.
_NONE = re.compile(r"no matching|no results|not ?found|empty result", re.IGNORECASE)


class _NotAnswered(Exception):
    """AWS gives no answer to what must be known, such as for lack of a permission."""


@dataclass(frozen=True)
class ExistingVpcArgs:
    """route_tables: those of the subnets, for a gateway endpoint; see check."""

    cluster: Cluster
    tags: Tags
    route_tables: Input[list[str]]


class ExistingVpc(ComponentResource):
    """The network of a stack in a VPC that exists, type apollo:network:ExistingVpc.

    Creates, and nothing else in the VPC is touched: {name}-<kind>-<letter>-reserved-<offset>, the reservations of planned
    addresses in each subnet, and with network.existing.s3Endpoint {name}-s3, a gateway endpoint to S3.
    """

    def __init__(self, name: str, args: ExistingVpcArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:network:ExistingVpc", name, None, opts)
        settings = args.cluster.settings
        existing = settings.network.existing
        assert existing is not None
        self.vpc_id: Input[str] = existing.id
        self.public_subnet_ids: dict[int, Input[str]] = {}
        self.private_subnet_ids: dict[int, Input[str]] = {}
        self.public_ready: dict[int, list[Resource]] = {}
        self.private_ready: dict[int, list[Resource]] = {}
        for place in places(args.cluster):
            subnet, zone = place.subnet, place.zone
            made = reserve(self, f"{name}-{place.kind}-{zone.name[-1]}", subnet.id, subnet.cidr, place.blocks)
            ids, ready = (
                (self.private_subnet_ids, self.private_ready)
                if place.kind == "private"
                else (self.public_subnet_ids, self.public_ready)
            )
            ids[zone.index], ready[zone.index] = subnet.id, made
        self.s3_ready: list[Resource] = []
        if existing.s3_endpoint:
            self.s3_ready = [s3_endpoint(self, f"{name}-s3", settings.region, existing.id, args.route_tables, args.tags)]
        self.register_outputs({"vpcId": self.vpc_id})


def network_of(cluster: Cluster, tags: Tags) -> tuple[Vpc | ExistingVpc, Output[Any]]:
    """The stack's own VPC or the one that it goes into, and the output that look-ups wait for: known if nothing is refused."""
    settings = cluster.settings
    if settings.network.existing is None:
        kept = keep(settings)
        return Vpc("network", VpcArgs(cluster, tags)), kept
    source = f"Pulumi.{tags.stack}.yaml"
    tables = keep(settings, lambda: check(cluster, tags.stack, source))
    return ExistingVpc("network", ExistingVpcArgs(cluster, tags, tables)), tables


async def check(cluster: Cluster, stack: str, source: str) -> list[str]:
    """Raises RunError with all that keeps the stack out of `network.existing`, as AWS has it now.

    Gives the route tables of its subnets, which a gateway endpoint would be for.
    """
    try:
        account, tables = await _account(cluster, stack)
        refuse(problems(cluster, account), source)
    except _NotAnswered as error:
        raise pulumi.RunError(f"{source}: network.existing: {error}; nothing was created") from None
    except PlanError as error:
        raise pulumi.RunError(str(error)) from None
    return tables


async def _account(cluster: Cluster, stack: str) -> tuple[Account, list[str]]:
    existing = cluster.settings.network.existing
    assert existing is not None
    in_vpc = {"name": "vpc-id", "values": [existing.id]}
    ids = [place.subnet.id for place in places(cluster)]
    vpc, subnets, tables, present, stacks = await asyncio.gather(
        _ask("getVpc", id=existing.id),
        asyncio.gather(*(_ask("getSubnet", id=id) for id in ids)),
        asyncio.gather(*(_route_table(existing.id, id) for id in ids)),
        _listed(
            "getInstances",
            "privateIps",
            instanceTags={"apollo:stack": stack},
            instanceStateNames=["pending", "running", "stopping", "stopped", "shutting-down"],
            filters=[in_vpc],
        ),
        _stacks(in_vpc, stack),
    )
    others = [address for address in planned_addresses(cluster) if address not in present]
    account = Account(
        vpc=vpc,
        subnets=dict(zip(ids, subnets, strict=True)),
        routes={id: _default_target(table) for id, table in zip(ids, tables, strict=True)},
        used=await _used(in_vpc, others, stack),
        present=frozenset(present),
        stacks=stacks,
        endpoints=await _endpoints(tables, cluster.settings.region, stack) if existing.s3_endpoint else (),
    )
    return account, sorted({str(table["routeTableId"]) for table in tables if table})


async def _route_table(vpc: str, subnet: str) -> Mapping[str, Any]:
    """The subnet's, which is the VPC's main one where it has none of its own. Empty where there is no such subnet."""
    table = _found("getRouteTable", await _ask("getRouteTable", subnetId=subnet))
    if table is None:
        main = [{"name": "association.main", "values": ["true"]}]
        table = _found("getRouteTable", await _ask("getRouteTable", vpcId=vpc, filters=main))
    return table or {}


def _default_target(table: Mapping[str, Any]) -> str:
    """Where the default route leads, such as igw-0123; empty where there is none."""
    routes = [route for route in table.get("routes", ()) if route.get("cidrBlock") == _DEFAULT]
    return next((str(route[name]) for route in routes for name in _TARGETS if route.get(name)), "")


async def _endpoints(tables: Iterable[Mapping[str, Any]], region: str, stack: str) -> tuple[str, ...]:
    """The gateway endpoints to S3 that these route tables lead to and somebody else made."""
    routes = [route for table in tables for route in table.get("routes", ())]
    targets = {str(route.get(name) or "") for route in routes for name in ("vpcEndpointId", "gatewayId")}
    ids = sorted(target for target in targets if target.startswith("vpce-"))
    found = [_found("getVpcEndpoint", await _ask("getVpcEndpoint", id=id)) for id in ids]
    return tuple(
        endpoint["id"]
        for endpoint in found
        if endpoint
        and endpoint["serviceName"] == f"com.amazonaws.{region}.s3"
        and endpoint["tags"].get("apollo:stack") != stack
    )


async def _used(in_vpc: Mapping[str, Any], addresses: Sequence[str], stack: str) -> dict[str, str]:
    """Which of the addresses an interface in the VPC has that is not the stack's → that interface."""
    asked = [addresses[start : start + _VALUES] for start in range(0, len(addresses), _VALUES)]
    name = "addresses.private-ip-address"
    found = await asyncio.gather(
        *(_listed("getNetworkInterfaces", "ids", filters=[in_vpc, {"name": name, "values": part}]) for part in asked)
    )
    ids = [id for part in found for id in part]
    interfaces = [
        _found("getNetworkInterface", i) for i in await asyncio.gather(*(_ask("getNetworkInterface", id=id) for id in ids))
    ]
    planned = set(addresses)
    return {
        address: " ".join([interface["id"], interface.get("description") or ""]).strip()
        for interface in interfaces
        # An edge's own is there before and after its machine.
        if interface and interface["tags"].get("apollo:stack") != stack
        for address in interface["privateIps"]
        if address in planned
    }


async def _stacks(in_vpc: Mapping[str, Any], stack: str) -> dict[str, dict[str, str]]:
    """The other stacks of this program in the VPC, and the tags of their groups."""
    ids = await _listed("getSecurityGroups", "ids", filters=[in_vpc, {"name": "tag-key", "values": ["apollo:stack"]}])
    found: dict[str, dict[str, str]] = {}
    for answer in await asyncio.gather(*(_ask("getSecurityGroup", id=id) for id in ids)):
        group = _found("getSecurityGroup", answer)
        tags: dict[str, str] = group["tags"] if group else {}
        if tags and tags["apollo:stack"] != stack:
            found.setdefault(tags["apollo:stack"], {}).update(tags)
    return found


async def _listed(name: str, of: str, **given: Any) -> list[str]:
    """What a look-up lists. Raises _NotAnswered."""
    return list((_found(name, await _ask(name, **given)) or {}).get(of, ()))


def _found(name: str, answer: Answer) -> Mapping[str, Any] | None:
    """What a look-up found; None where there is no such thing. Raises _NotAnswered."""
    if not isinstance(answer, str):
        return answer
    if _NONE.search(answer):
        return None
    raise _NotAnswered(f"AWS does not answer {name}: {answer}")


async def _ask(name: str, **given: Any) -> Answer:
    """What a look-up of pulumi_aws.ec2 answers, or its words where it fails."""
    try:
        return cast(dict[str, Any], await invoke_async(f"aws:ec2/{name}:{name}", given))
    except Exception as error:  # the SDK raises Exception itself, with the provider's words
        return " ".join(str(error).split())
