"""The address plan: the seed's numbers as examples, the promises as properties."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from plan.addresses import AddressError, OverlayPlan, VpcPlan, nth_block

SEED = OverlayPlan(IPNetwork("10.2.0.0/16"))


@pytest.mark.parametrize(
    ("slot", "bridge", "subnet"),
    [
        (1, "10.2.0.1/16", "10.2.1.0/24"),
        (2, "10.2.0.2/16", "10.2.2.0/24"),
        (239, "10.2.0.239/16", "10.2.239.0/24"),
    ],
)
def test_the_default_overlay_gives_each_slot_the_seeds_addresses(slot: int, bridge: str, subnet: str) -> None:
    assert str(SEED.bridge_address(slot)) == bridge
    assert str(SEED.docker_subnet(slot)) == subnet


def test_control_and_edges_have_the_reserved_node_addresses() -> None:
    assert [str(SEED.control_address(k).ip) for k in range(1, 6)] == [f"10.2.0.{n}" for n in range(250, 255)]
    assert [str(SEED.edge_address(k).ip) for k in range(1, 11)] == [f"10.2.0.{n}" for n in range(240, 250)]


@pytest.mark.parametrize(
    ("cidr", "host_prefix", "node_blocks", "last_slot"),
    [
        ("10.2.0.0/16", 24, 1, 239),
        ("10.0.0.0/8", 24, 256, 65_280),
        ("10.2.0.0/16", 28, 256, 3_840),
        ("10.2.0.0/20", 24, 1, 15),
        ("10.2.0.0/16", 20, 1, 15),
    ],
)
def test_last_slot_of_other_sizes(cidr: str, host_prefix: int, node_blocks: int, last_slot: int) -> None:
    plan = OverlayPlan(IPNetwork(cidr), host_prefix)
    assert (plan.node_blocks, plan.last_slot) == (node_blocks, last_slot)


@st.composite
def overlays(draw: st.DrawFn) -> OverlayPlan:
    prefix = draw(st.integers(8, 28))
    host_prefix = draw(st.integers(prefix + 1, 30))
    network = IPNetwork((10 << 24, prefix))
    plan = OverlayPlan(network, host_prefix)
    assume(plan.last_slot >= 1)
    return plan


@given(overlays(), st.data())
def test_no_two_addresses_of_an_overlay_meet(plan: OverlayPlan, data: st.DataObject) -> None:
    slots = data.draw(st.lists(st.integers(1, plan.last_slot), min_size=1, max_size=20, unique=True))
    nodes = [plan.bridge_address(slot) for slot in slots]
    nodes += [plan.control_address(k) for k in range(1, 6)] + [plan.edge_address(k) for k in range(1, 11)]
    subnets = [plan.docker_subnet(slot) for slot in slots]
    assert len({node.ip for node in nodes}) == len(nodes)
    assert len({subnet.first for subnet in subnets}) == len(subnets)
    for subnet in subnets:
        assert subnet in plan.network
        assert all(node.ip not in subnet for node in nodes), "a container could be given a node's address"
    assert all(node.ip in plan.network and node.prefixlen == plan.network.prefixlen for node in nodes)


@given(overlays())
def test_the_last_slot_is_whole_and_the_next_does_not_exist(plan: OverlayPlan) -> None:
    last = plan.docker_subnet(plan.last_slot)
    assert last in plan.network and plan.bridge_address(plan.last_slot).ip in plan.network
    with pytest.raises(AddressError):
        plan.docker_subnet(plan.last_slot + 1)


@given(st.integers(8, 30), st.data())
def test_nth_block_is_what_cutting_the_network_gives(prefix: int, data: st.DataObject) -> None:
    network = IPNetwork((10 << 24, max(8, prefix - data.draw(st.integers(0, 8)))))
    index = data.draw(st.integers(0, (1 << (prefix - network.prefixlen)) - 1))
    assert nth_block(network, prefix, index) == next(iter(list(network.subnet(prefix))[index:]))


def test_the_vpc_is_eight_blocks_and_the_eighth_holds_the_public_subnets() -> None:
    vpc = VpcPlan(IPNetwork("10.0.0.0/16"))
    assert [str(vpc.private_subnet(i)) for i in (0, 1, 6)] == ["10.0.0.0/19", "10.0.32.0/19", "10.0.192.0/19"]
    assert [str(vpc.public_subnet(i)) for i in (0, 1, 6)] == ["10.0.224.0/22", "10.0.228.0/22", "10.0.248.0/22"]


def test_hosts_have_fixed_offsets_in_their_subnets() -> None:
    vpc = VpcPlan(IPNetwork("10.0.0.0/16"))
    assert str(vpc.control_address(1, 2)) == "10.0.32.12"
    assert str(vpc.edge_address(0, 1)) == "10.0.224.11"
    assert str(vpc.slot_address(0, 1)) == "10.0.0.33"
    assert str(vpc.resolver) == "10.0.0.2"


@given(st.integers(16, 21), st.integers(0, 6), st.data())
def test_no_host_has_an_address_that_aws_keeps(prefix: int, zone: int, data: st.DataObject) -> None:
    vpc = VpcPlan(IPNetwork((10 << 24, prefix)))
    slot = data.draw(st.integers(1, vpc.last_slot))
    private, public = vpc.private_subnet(zone), vpc.public_subnet(zone)
    hosts = [(private, vpc.slot_address(zone, slot)), *((private, vpc.control_address(zone, k)) for k in range(1, 6))]
    hosts += [(public, vpc.edge_address(zone, k)) for k in range(1, 11)]
    assert len({address for _, address in hosts}) == len(hosts)
    for subnet, address in hosts:
        assert subnet.first + 4 <= int(address) < subnet.last
    with pytest.raises(AddressError):
        vpc.slot_address(zone, vpc.last_slot + 1)


@given(st.integers(16, 21), st.integers(0, 6), st.data())
def test_an_address_says_whose_it_is(prefix: int, zone: int, data: st.DataObject) -> None:
    vpc = VpcPlan(IPNetwork((10 << 24, prefix)))
    slots = [1, vpc.last_slot, data.draw(st.integers(1, vpc.last_slot))]
    hosts = {("slave", slot): vpc.slot_address(zone, slot) for slot in slots}
    hosts |= {("control", k): vpc.control_address(zone, k) for k in range(1, 6)}
    hosts |= {("edge", k): vpc.edge_address(zone, k) for k in range(1, 11)}
    for host, address in hosts.items():
        assert vpc.host_at(address) == host
    private, public = vpc.private_subnet(zone), vpc.public_subnet(zone)
    strangers = [*(private.first + offset for offset in (0, 10, 16, 32)), private.last]
    strangers += [*(public.first + offset for offset in (0, 10, 21)), vpc.public_block.last, vpc.network.first - 1]
    for stranger in (*strangers, vpc.network.last + 1):
        with pytest.raises(AddressError, match="is no host's address"):
            vpc.host_at(IPAddress(stranger))


def test_the_reserved_ranges_of_the_default_plan() -> None:
    vpc = VpcPlan(IPNetwork("10.0.0.0/16"))
    assert [str(block) for block in vpc.reserved_public(0)] == ["10.0.224.8/29", "10.0.224.16/29"]
    assert [str(block) for block in vpc.reserved_private(1, SEED.last_slot)] == [
        *("10.0.32.8/29", "10.0.32.32/27", "10.0.32.64/26", "10.0.32.128/25", "10.0.33.0/28")
    ]


@given(st.integers(16, 21), st.integers(0, 6), st.integers(1, 65_000), st.data())
def test_every_address_that_a_host_may_ever_have_is_reserved_and_aws_keeps_room(
    prefix: int, zone: int, last_slot: int, data: st.DataObject
) -> None:
    vpc = VpcPlan(IPNetwork((10 << 24, prefix)))
    slot = data.draw(st.integers(1, min(last_slot, vpc.last_slot)))
    private, public = vpc.reserved_private(zone, last_slot), vpc.reserved_public(zone)
    for address in (vpc.slot_address(zone, slot), *(vpc.control_address(zone, k) for k in range(1, 6))):
        assert sum(address in block for block in private) == 1
    for k in range(1, 11):
        assert sum(vpc.edge_address(zone, k) in block for block in public) == 1
    for subnet, blocks in ((vpc.private_subnet(zone), private), (vpc.public_subnet(zone), public)):
        assert all(block in subnet and block.first >= subnet.first + 4 for block in blocks)
        # A load balancer asks for eight free addresses in each of its subnets (ELB guide), a NAT gateway for one.
        assert subnet.size - 5 - sum(block.size for block in blocks) >= 9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda overlay, _: overlay.bridge_address(240), "slot 240 has no overlay address: give 1 to 239"),
        (lambda overlay, _: overlay.bridge_address(-1), "slot -1 has no overlay address: give 1 to 239"),
        (lambda overlay, _: overlay.control_address(0), "control node 0 has no overlay address: give 1 to 5"),
        (lambda overlay, _: overlay.docker_subnet(0), "slot 0 has no overlay address: give 1 to 239"),
        (lambda overlay, _: overlay.control_address(6), "control node 6 has no overlay address: give 1 to 5"),
        (lambda overlay, _: overlay.edge_address(11), "edge 11 has no overlay address: give 1 to 10"),
        (lambda _, vpc: vpc.private_subnet(7), "zone 7 has no subnet: a VPC is planned for zones 0 to 6"),
        (lambda _, vpc: vpc.public_subnet(-1), "zone -1 has no subnet: a VPC is planned for zones 0 to 6"),
        (lambda _, vpc: vpc.slot_address(0, 0), "slot 0 has no address in 10.0.0.0/19: give 1 to 8158"),
    ],
)
def test_an_address_that_there_is_not_is_refused_with_those_that_there_are(
    call: Callable[[OverlayPlan, VpcPlan], object], words: str
) -> None:
    with pytest.raises(AddressError) as refused:
        call(OverlayPlan(IPNetwork("10.2.0.0/16"), 24), VpcPlan(IPNetwork("10.0.0.0/16")))
    assert str(refused.value) == words
