"""Which hosts exist, and what moves when the settings change: nothing but what was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plan.cluster import Cluster, PlannedHost
from tests.plan.support import cluster


def by_name(planned: Cluster) -> dict[str, PlannedHost]:
    return {host.name: host for host in planned.hosts}


def test_an_empty_stack_file_plans_three_slaves_three_control_nodes_and_an_edge() -> None:
    assert [host.name for host in cluster().hosts] == [
        "slave-1", "slave-2", "slave-3", "control-1", "control-2", "control-3", "edge-1",
    ]  # fmt: skip


def test_retiring_slot_2_adds_slot_4_and_changes_neither_1_nor_3() -> None:
    before, after = by_name(cluster()), by_name(cluster(slaves={"count": 3, "retired": [2]}))
    assert [h.index for h in cluster(slaves={"count": 3, "retired": [2]}).slaves] == [1, 3, 4]
    assert (after["slave-1"], after["slave-3"]) == (before["slave-1"], before["slave-3"])


@pytest.mark.parametrize("first", [2, 3, 12, 13, 14])
def test_an_appended_zone_serves_from_its_first_slot_on_and_moves_no_host_below_it(first: int) -> None:
    before = cluster(zones=["a", "b"], slaves={"count": 20})
    after = cluster(zones=["a", "b", {"name": "c", "fromSlot": first}], slaves={"count": 20})
    assert before.slaves[: first - 1] == after.slaves[: first - 1]
    # Slot n is the zones' in turn: of three from the first one on.
    assert [h.zone.name[-1] for h in after.slaves[first - 1 :]] == ["abc"[(slot - 1) % 3] for slot in range(first, 21)]
    assert (before.control, before.edges) == (after.control, after.edges)
    assert before.control_addresses == after.control_addresses
    assert before.zones == after.zones[:2]


def test_each_of_several_appended_zones_has_its_own_first_slot() -> None:
    zones = ["a", {"name": "b", "fromSlot": 4}, {"name": "c", "fromSlot": 6}, {"name": "d", "fromSlot": 6}]
    planned = cluster(zones=zones, slaves={"count": 9})
    assert "".join(h.zone.name[-1] for h in planned.slaves) == "aaa" + "ba" + "bcda"
    assert {h.zone.name[-1] for h in (*planned.control, *planned.edges)} == {"a"}


@given(st.integers(0, 40), st.integers(0, 40), st.sets(st.integers(1, 60), max_size=10))
@settings(deadline=None, max_examples=40)
def test_scaling_never_changes_a_host_that_stays(few: int, many: int, retired: set[int]) -> None:
    before = by_name(cluster(slaves={"count": few, "retired": sorted(retired)}))
    after = by_name(cluster(slaves={"count": many, "retired": sorted(retired)}))
    for name in before.keys() & after.keys():
        assert before[name] == after[name]


@given(st.sets(st.integers(1, 30), max_size=8), st.integers(1, 30))
@settings(deadline=None, max_examples=40)
def test_retiring_one_more_slot_takes_that_one_away_and_adds_one(retired: set[int], victim: int) -> None:
    before = cluster(slaves={"count": 12, "retired": sorted(retired)})
    after = cluster(slaves={"count": 12, "retired": sorted(retired | {victim})})
    gone = {h.name for h in before.slaves} - {h.name for h in after.slaves}
    come = {h.name for h in after.slaves} - {h.name for h in before.slaves}
    used = victim in {h.index for h in before.slaves}
    assert gone == ({f"slave-{victim}"} if used else set())
    assert len(come) == (1 if used else 0)


def test_growing_control_from_3_to_5_changes_no_existing_host_and_no_address_they_are_told() -> None:
    before, after = cluster(control={"count": 3}), cluster(control={"count": 5})
    assert after.control[:3] == before.control
    assert (after.slaves, after.edges) == (before.slaves, before.edges)
    assert after.control_addresses == before.control_addresses
    assert [h.private_ip for h in after.control] == list(after.control_addresses)


def test_the_mtu_is_the_underlays_less_the_meshs_overhead() -> None:
    assert cluster(overlay={"mesh": "vxlan"}).mtu == 8951
    assert cluster(overlay={"mesh": "wireguard"}).mtu == 8941
    assert cluster(overlay={"mesh": "weave"}).mtu == 8916
    assert cluster(overlay={"mesh": "vxlan"}, network={"mtu": 1500}).mtu == 1450
    assert cluster(overlay={"mesh": "weave"}, network={"mtu": 1500}).mtu == 1415


def test_an_overlay_of_65000_hosts_is_planned_where_the_vpc_holds_them() -> None:
    planned = cluster(
        network={"cidr": "172.16.0.0/12"}, overlay={"cidr": "10.0.0.0/8", "mesh": "vxlan"}, slaves={"count": 65_000}
    )
    last = planned.slaves[-1]
    assert (str(last.bridge_address), str(last.docker_subnet)) == ("10.0.253.232/8", "10.254.231.0/24")
    assert len({h.docker_subnet for h in planned.slaves}) == 65_000


def test_hosts_have_what_their_own_section_says() -> None:
    planned = cluster(
        zones=["eu-west-1a", "b"],
        overlay={"hostPrefix": 25},
        slaves={"count": 2, "generations": {"2": 2}, "instanceType": "t3.large", "rootGib": 20, "dataGib": 50},
        control={"count": 1, "generations": {"1": 3}, "instanceType": "m5.large", "rootGib": 21, "dataGib": 51},
        edge={"count": 2, "generations": {"2": 4}, "instanceType": "c5.large", "rootGib": 22},
    )
    found = {h.name: (h.role, h.index, h.generation, h.instance_type, h.root_gib, h.data_gib) for h in planned.hosts}
    assert found == {
        "slave-1": ("slave", 1, 1, "t3.large", 20, 50),
        "slave-2": ("slave", 2, 2, "t3.large", 20, 50),
        "control-1": ("control", 1, 3, "m5.large", 21, 51),
        "edge-1": ("edge", 1, 1, "c5.large", 22, 0),
        "edge-2": ("edge", 2, 4, "c5.large", 22, 0),
    }
    assert {h.docker_subnet.prefixlen for h in planned.slaves if h.docker_subnet} == {25}
    assert [h.zone.name for h in planned.slaves] == ["eu-west-1a", "eu-west-1b"]
