"""A VPC that exists: its addresses by the same formulas, and what keeps a stack out of it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from host.apollo.addresses import host_at
from host.render import node_facts, user_data
from plan.addresses import Subnet, VpcPlan
from plan.aws import check_aws_limits
from plan.existing import Account, marks, planned_addresses, problems
from plan.parse import examine
from plan.record import changes, recorded
from tests.plan.support import cluster


def subnet(number: int, cidr: str) -> dict[str, str]:
    return {"id": f"subnet-{number:017x}", "cidr": cidr}


EXISTING: dict[str, Any] = {
    "id": "vpc-0123456789abcdef0",
    "cidr": "10.8.0.0/16",
    "subnets": {
        "a": {"private": subnet(1, "10.8.0.0/20"), "public": subnet(2, "10.8.240.0/24")},
        "b": {"private": subnet(3, "10.8.16.0/20"), "public": subnet(4, "10.8.241.0/24")},
    },
}


def settings(path: str = "", value: object = None, **more: Any) -> dict[str, Any]:
    """The settings with network.existing, one value in it changed, and other keys."""
    existing = copy.deepcopy(EXISTING)
    holder: Any = existing
    *folders, last = path.split(".")
    for name in folders:
        holder = holder[name]
    if path:
        holder[last] = value
    network = {"existing": existing, **more.pop("network", {})}
    return {"region": "eu-west-1", "network": network, **more}


def refused(raw: dict[str, Any]) -> list[str]:
    checked, found = examine(raw)
    return [str(problem) for problem in (*found, *check_aws_limits(checked))]


def planned(**more: Any) -> Any:
    return cluster(**{key: value for key, value in settings(**more).items() if key != "region"})


def test_hosts_have_the_same_offsets_as_in_a_vpc_of_the_stacks_own() -> None:
    plan = planned()
    assert {host.name: str(host.private_ip) for host in plan.hosts} == {
        "slave-1": "10.8.0.33",
        "slave-2": "10.8.16.34",
        "slave-3": "10.8.0.35",
        "control-1": "10.8.0.11",
        "control-2": "10.8.16.12",
        "control-3": "10.8.0.13",
        "edge-1": "10.8.240.11",
    }
    moved = planned(path="subnets.a.private.firstHost", value=1000)
    assert str(moved.slaves[0].private_ip) == str(IPNetwork("10.8.0.0/20")[1000 + 25])
    assert str(moved.control[0].private_ip) == str(IPNetwork("10.8.0.0/20")[1000 + 3])


@given(first=st.integers(1, 64).map(lambda n: 8 * n), prefix=st.integers(19, 22), zone=st.integers(0, 1), data=st.data())
def test_no_address_below_the_first_host_is_a_hosts_or_reserved(
    first: int, prefix: int, zone: int, data: st.DataObject
) -> None:
    subnets = [(IPNetwork(f"10.8.{32 * i}.0/{prefix}"), IPNetwork(f"10.8.{128 + 8 * i}.0/22")) for i in (0, 1)]
    vpc = VpcPlan(IPNetwork("10.8.0.0/16"), tuple((Subnet(p, first), Subnet(q, first)) for p, q in subnets))
    slot = data.draw(st.integers(1, vpc.last_slot))
    private, public = subnets[zone]
    own = {vpc.slot_address(zone, slot), vpc.control_address(zone, 1), vpc.control_address(zone, 5)}
    reserved = vpc.reserved_private(zone, 239)
    assert all(address in private and int(address) >= private.first + first for address in own)
    assert all(block.first >= private.first + first and block in private for block in reserved)
    assert all(any(address in block for block in reserved) for address in own if slot <= 239)
    edges = {vpc.edge_address(zone, 1), vpc.edge_address(zone, 10)}
    assert all(any(edge in block for block in vpc.reserved_public(zone)) for edge in edges)
    assert all(block.first >= public.first + first for block in vpc.reserved_public(zone))
    # What hosts make of it is the plan's.
    facts = {
        "VPC_CIDR": "10.8.0.0/16",
        "PRIVATE_SUBNETS": " ".join(f"{network}+{first}" for network, _ in subnets),
        "PUBLIC_SUBNETS": " ".join(f"{network}+{first}" for _, network in subnets),
    }

    assert host_at(facts, str(vpc.slot_address(zone, slot))) == f"slave-{slot}"
    assert host_at(facts, str(vpc.control_address(zone, 5))) == "control-5"
    assert host_at(facts, str(vpc.edge_address(zone, 10))) == "edge-10"
    for stranger in (vpc.control_address(zone, 1) - 1, vpc.edge_address(zone, 10) + 1, IPAddress("10.9.0.40")):
        with pytest.raises(ValueError, match="is no host's address"):
            host_at(facts, str(stranger))


def test_a_zone_that_is_appended_changes_no_byte_of_another_host() -> None:
    third = {"private": subnet(5, "10.8.32.0/20"), "public": subnet(6, "10.8.242.0/24")}
    declared = {**EXISTING["subnets"], "c": third}
    before = planned(path="subnets", value=declared, slaves={"count": 3})
    after = planned(path="subnets", value=declared, slaves={"count": 9}, zones=["a", "b", {"name": "c", "fromSlot": 7}])
    assert {host.zone.name[-1] for host in after.slaves if host.index > 6} >= {"c"}
    for host in before.hosts:
        same = next(other for other in after.hosts if other.name == host.name)
        assert user_data(before, host, "s") == user_data(after, same, "s")
    assert node_facts(before, before.edges[0], "s")["EDGE_BALANCERS"] == "10.8.240.0/24 10.8.241.0/24 10.8.242.0/24"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (settings("subnets.a.private.firstHost", 3), "network.existing.subnets.a.private.firstHost: 3 is among the first 4 addresses of a subnet, which AWS keeps; give 8 or more"),
        (settings("subnets.a.private.firstHost", 4), "network.existing.subnets.a.private.firstHost: 4 is no multiple of 8, and reservations are blocks of that; give one such as 8"),
        (settings("subnets.a.private.firstHost", 100), "network.existing.subnets.a.private.firstHost: 100 is no multiple of 8, and reservations are blocks of that; give one such as 104"),
        (settings("subnets.a.private.firstHost", "8"), "network.existing.subnets.a.private.firstHost: 8 is text, not a whole number; give it without quotes"),
        (settings("subnets.a.private.cidr", "10.9.0.0/20"), "network.existing.subnets.a.private.cidr: 10.9.0.0/20 lies outside the VPC's 10.8.0.0/16; give the range of a subnet in it"),
        (settings("subnets.b.private.cidr", "10.8.0.0/21"), "network.existing.subnets.b.private.cidr: 10.8.0.0/21 overlaps 10.8.0.0/20 of a.private; give the subnet's own range"),
        (settings("subnets.b.private.id", "subnet-00000000000000001"), "network.existing.subnets.b.private.id: subnet-00000000000000001 is that of a.private too; give each zone a subnet of its own"),
        (settings("subnets.a.public.cidr", "10.8.240.0/28"), "network.existing.subnets.a.public.cidr: 10.8.240.0/28 is too small: ten edges need 22 addresses with firstHost 8; give a /27 or wider, or a lower firstHost"),
        (settings("subnets.a.private.cidr", "10.8.0.0/27"), "network.existing.subnets.a.private.cidr: 10.8.0.0/27 is too small: five control nodes and a slave need 35 addresses with firstHost 8; give a /26 or wider, or a lower firstHost"),
        (settings("subnets.a.private.cidr", "10.8.0.0/26"), "slaves.count: 40 needs slot 40, which does not fit its zone's subnet (10.8.0.0/26); slots end at 30, so give fewer, or create a new stack with wider subnets or a lower firstHost"),
        (settings("cidr", "10.0.0.0/8"), "network.existing.cidr: 10.0.0.0/8 is larger than AWS allows for a VPC; give a /16 to /21 such as 10.0.0.0/16"),
        (settings(zones=["a", "b", "c", "d"], tags={f"t{n}": "x" for n in range(41)}), "tags: has 41, and AWS takes 50 with the 10 of the program itself; give at most 40"),
        (settings("cidr", "10.0.0.0/8"), "overlay.cidr: 10.2.0.0/16 overlaps network.existing.cidr 10.0.0.0/8; give a range outside it such as 172.20.0.0/16"),
        (settings("cidr", "10.2.0.0/15"), "overlay.cidr: 10.2.0.0/16 overlaps network.existing.cidr 10.2.0.0/15; give a range outside it such as 10.0.0.0/16"),
        (settings("id", "my-vpc"), "network.existing.id: my-vpc is malformed; give one such as vpc-0123456789abcdef0"),
        (settings("subnets.a.private.id", 7), "network.existing.subnets.a.private.id: 7 is not text; give text in quotes"),
        (settings("subnets.a.private.idd", "x"), "network.existing.subnets.a.private.idd: unknown key; did you mean network.existing.subnets.a.private.id?"),
        (settings("subnets", {"a": EXISTING["subnets"]["a"]}), "zones[1]: b has no subnets in network.existing.subnets, which has a; give one of those, or its subnets too"),
        (settings("subnets", {}), "network.existing.subnets: {} is empty; give one such as {a: {private: {id: subnet-…, cidr: 10.8.0.0/20}, public: {id: subnet-…, cidr: 10.8.240.0/24}}}"),
        (settings(network={"nat": "perZone"}), "network.nat: perZone is for a VPC of the stack's own, and network.existing names another; leave one out"),
        (settings(network={"flowLogs": "all"}), "network.flowLogs: all is for a VPC of the stack's own, and network.existing names another; leave one out"),
        (settings(network={"cidr": "10.7.0.0/16"}), "network.cidr: 10.7.0.0/16 is for a VPC of the stack's own, and network.existing names another; leave one out"),
    ],
)  # fmt: skip
def test_a_bad_existing_vpc_is_refused_with_its_key_its_value_and_what_would_do(raw: dict[str, Any], expected: str) -> None:
    assert expected in refused({**raw, "slaves": {"count": 40}})


def test_all_that_is_wrong_comes_at_once() -> None:
    raw = settings("subnets.a.private.firstHost", 3, zones=["a", "b", "c"], network={"nat": "perZone"})
    raw["network"]["existing"]["subnets"]["a"]["private"]["cidr"] = "10.9.0.0/20"
    assert len(refused(raw)) >= 1
    raw["network"]["existing"]["subnets"]["a"]["private"]["firstHost"] = 8
    assert len(refused(raw)) == 3


def answers() -> Account:
    """What AWS says where all is well."""
    vpc = {"cidrBlock": "10.8.0.0/16", "enableDnsSupport": True, "enableDnsHostnames": True}
    subnets: dict[str, Any] = {}
    routes: dict[str, str] = {}
    for zone, both in EXISTING["subnets"].items():
        for kind, one in both.items():
            subnets[one["id"]] = {
                "vpcId": EXISTING["id"],
                "availabilityZone": f"eu-west-1{zone}",
                "cidrBlock": one["cidr"],
                "availableIpAddressCount": 200,
            }
            routes[one["id"]] = "igw-1" if kind == "public" else "nat-1"
    return Account(vpc, subnets, routes)


A_PRIVATE, A_PUBLIC = EXISTING["subnets"]["a"]["private"]["id"], EXISTING["subnets"]["a"]["public"]["id"]


def changed(**members: Any) -> Any:
    return lambda account: replace(account, **members)


def subnet_with(id: str, present: tuple[str, ...] = (), **members: Any) -> Any:
    return lambda account: replace(
        account, subnets={**account.subnets, id: {**account.subnets[id], **members}}, present=frozenset(present)
    )


def route_of(id: str, target: str) -> Any:
    """target: empty for none."""

    def change(account: Account) -> Account:
        others = {other: there for other, there in account.routes.items() if other != id}
        return replace(account, routes=others | ({id: target} if target else {}))

    return change


@pytest.mark.parametrize(
    ("change", "key", "text"),
    [
        (changed(vpc="no matching EC2 VPC found"), "id", "vpc-0123456789abcdef0 cannot be read (no matching EC2 VPC found); give a VPC of this account and region"),
        (changed(vpc={"cidrBlock": "10.7.0.0/16", "enableDnsSupport": True, "enableDnsHostnames": True}), "cidr", "10.8.0.0/16 is not the first range of vpc-0123456789abcdef0; give 10.7.0.0/16"),
        (changed(vpc={"cidrBlock": "10.8.0.0/16", "enableDnsSupport": True, "enableDnsHostnames": False}), "id", "vpc-0123456789abcdef0 has DNS host names off, and hosts need it; switch it on (enableDnsHostnames of the VPC)"),
        (changed(vpc={"cidrBlock": "10.8.0.0/16", "enableDnsSupport": False, "enableDnsHostnames": True}), "id", "vpc-0123456789abcdef0 has DNS support off, and hosts need it; switch it on (enableDnsSupport of the VPC)"),
        (lambda a: replace(a, subnets={**a.subnets, A_PRIVATE: "no matching EC2 Subnet found"}), "subnets.a.private.id", f"{A_PRIVATE} cannot be read (no matching EC2 Subnet found); give a subnet of vpc-0123456789abcdef0"),
        (subnet_with(A_PRIVATE, vpcId="vpc-1"), "subnets.a.private.id", f"{A_PRIVATE} is in vpc-1; give a subnet of vpc-0123456789abcdef0"),
        (subnet_with(A_PRIVATE, availabilityZone="eu-west-1c"), "subnets.a.private.id", f"{A_PRIVATE} is in zone eu-west-1c; give a subnet in eu-west-1a"),
        (subnet_with(A_PRIVATE, cidrBlock="10.8.64.0/20"), "subnets.a.private.cidr", f"10.8.0.0/20 is not the range of {A_PRIVATE}; give 10.8.64.0/20"),
        (route_of(A_PUBLIC, "nat-1"), "subnets.a.public.id", f"{A_PUBLIC} has no default route to an internet gateway (nat-1), so it is not public; give one that has"),
        (route_of(A_PUBLIC, ""), "subnets.a.public.id", f"{A_PUBLIC} has no default route to an internet gateway (none at all), so it is not public; give one that has"),
        (route_of(A_PRIVATE, ""), "subnets.a.private.id", f"{A_PRIVATE} has no default route, and hosts fetch packages and images; give it one, such as to a NAT gateway"),
        (changed(used={"10.8.0.44": "eni-7"}), "subnets.a.private.firstHost", f"8 gives hosts the offsets 8 to 271 of {A_PRIVATE}, and others have of them 10.8.0.44 (eni-7); give one above those, or free them"),
        (
            changed(used={f"10.8.0.{n}": f"eni-{n}" for n in range(46, 39, -1)}), "subnets.a.private.firstHost",
            f"8 gives hosts the offsets 8 to 271 of {A_PRIVATE}, and others have of them 10.8.0.40 (eni-40), 10.8.0.41 (eni-41), 10.8.0.42 (eni-42), "
            "10.8.0.43 (eni-43), 10.8.0.44 (eni-44) and 2 more; give one above those, or free them",
        ),
        (changed(stacks={"other": {f"apollo:{A_PRIVATE}": "264-535"}}), "subnets.a.private.firstHost", f"8 gives hosts the offsets 8 to 271 of {A_PRIVATE}, and stack other has 264 to 535; give 536 or more, or other subnets"),
        (changed(stacks={"other": {f"apollo:{A_PRIVATE}": "1-8"}}), "subnets.a.private.firstHost", f"8 gives hosts the offsets 8 to 271 of {A_PRIVATE}, and stack other has 1 to 8; give 16 or more, or other subnets"),
        (changed(stacks={"other": {f"apollo:{A_PRIVATE}": "271-280"}}), "subnets.a.private.firstHost", f"8 gives hosts the offsets 8 to 271 of {A_PRIVATE}, and stack other has 271 to 280; give 288 or more, or other subnets"),
        (subnet_with(A_PRIVATE, availableIpAddressCount=3), "subnets.a.private.id", f"{A_PRIVATE} has 3 free addresses, and 4 hosts are planned there; free some, or give another subnet"),
        (changed(endpoints=("vpce-1", "vpce-2")), "s3Endpoint", "true, and the subnets have one already (vpce-1, vpce-2); leave it out"),
    ],
)  # fmt: skip
def test_what_aws_says_against_it_is_refused(change: Any, key: str, text: str) -> None:
    found = list(problems(planned(), change(answers())))
    assert [str(problem) for problem in found] == [f"network.existing.{key}: {text}"]


@pytest.mark.parametrize(
    "change",
    [
        # As many addresses as hosts; fewer, where the hosts are there already; and what is used outside of the planned ranges.
        *(subnet_with(A_PRIVATE, availableIpAddressCount=4), subnet_with(A_PRIVATE, availableIpAddressCount=0, present=("10.8.0.33",))),
        *(changed(used={"10.8.1.16": "eni-7", "10.8.0.7": "eni-8"}), changed(stacks={"other": {f"apollo:{A_PRIVATE}": "272-535"}})),
        # A tag that somebody changed claims nothing.
        *(changed(stacks={"odd": {f"apollo:{A_PRIVATE}": text}}) for text in ("", "264", "264-", "-264", "many", "8-many", "8-9-10")),
    ],
)  # fmt: skip
def test_what_takes_no_planned_address_is_no_reason_against_it(change: Any) -> None:
    assert list(problems(planned(), change(answers()))) == []


def test_a_vpc_of_the_stacks_own_has_no_place_in_another() -> None:
    assert (marks(cluster()), planned_addresses(cluster()), list(problems(cluster(), answers()))) == ({}, [], [])


def test_of_another_stack_its_range_is_said_and_not_each_of_its_hosts() -> None:
    stacks = {"other": {f"apollo:{A_PRIVATE}": "264-535"}, "odd": {f"apollo:{A_PRIVATE}": "many"}}
    found = list(problems(planned(), replace(answers(), stacks=stacks, used={"10.8.1.8": "eni-7"})))
    assert len(found) == 1 and "stack other has 264 to 535" in str(found[0])


def test_a_vpc_as_it_must_be_passes_also_beside_another_stack_with_ranges_apart() -> None:
    plan = planned()
    assert not list(problems(plan, answers()))
    zones = copy.deepcopy(EXISTING["subnets"])
    for zone in zones.values():
        zone["private"]["firstHost"], zone["public"]["firstHost"] = 280, 24 + 8
    beside = planned(path="subnets", value=zones)
    assert not list(problems(plan, replace(answers(), stacks={"other": {**marks(beside), "apollo:stack": "other"}})))
    assert marks(plan)[f"apollo:{A_PRIVATE}"] == "8-271"
    assert not set(planned_addresses(plan)) & set(planned_addresses(beside))


@pytest.mark.parametrize("path", ["id", "subnets.b.public.firstHost", "subnets.a.private.id"])
def test_a_running_stack_does_not_change_its_vpc(path: str) -> None:
    value: Any = {"id": "vpc-00000000000000009", "subnets.b.public.firstHost": 16}.get(path, "subnet-00000000000000009")
    before = recorded(planned().settings)
    found = [str(problem) for problem in changes(before, planned(path=path, value=value).settings)]
    assert len(found) == 1 and found[0].startswith("network.existing: ") and "is not what this stack was made with" in found[0]
    assert not list(changes(before, planned(path="s3Endpoint", value=True).settings))


def test_a_running_stack_neither_leaves_its_own_vpc_nor_comes_back_to_one() -> None:
    own, other = cluster().settings, planned().settings
    zones = {
        zone: ", ".join(f"{one['id']} {one['cidr']} from 8" for one in (both["private"], both["public"]))
        for zone, both in EXISTING["subnets"].items()
    }
    there = f"vpc-0123456789abcdef0 with {{eu-west-1a: [{zones['a']}], eu-west-1b: [{zones['b']}]}}"
    for before, after, was, now in ((own, other, "none", there), (other, own, there, "none")):
        first = str(next(iter(changes(recorded(before), after))))
        assert first.startswith(
            f"network.existing: {now} is not what this stack was made with, {was}, and every host's address "
        )
    assert recorded(other)["network.cidr"] == "10.8.0.0/16"
    # A record of before there were others' VPCs says nothing of them.
    assert list(changes({"overlay.mesh": "weave"}, other)) == []
    assert "network.existing" not in recorded(own), "a stack of its own VPC would be shown a change"
