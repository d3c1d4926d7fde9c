"""What a running stack cannot change: each change is refused by its key, with the old value, the new one and what would do."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

from typing import Any

import pytest

from plan.record import changes, recorded
from tests.plan.support import settings


def refusals(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    # The state keeps every number as a float.
    kept = {key: float(value) if type(value) is int else value for key, value in recorded(settings(**before)).items()}
    return [str(problem) for problem in changes(kept, settings(**after))]


@pytest.mark.parametrize(
    ("before", "after", "wrong", "instead"),
    [
        ({}, {"region": "us-east-1"}, "aws:region: us-east-1 is not what this stack was made with, eu-west-1", "take it back, or create a new stack"),
        ({}, {"network": {"cidr": "10.8.0.0/16"}}, "network.cidr: 10.8.0.0/16 is not what this stack was made with, 10.0.0.0/16", "take it back, or create a new stack"),
        ({}, {"network": {"mtu": 1500}}, "network.mtu: 1500 is not what this stack was made with, 9001", "take it back, or create a new stack"),
        ({}, {"overlay": {"cidr": "10.2.0.0/15"}}, "overlay.cidr: 10.2.0.0/15 is not what this stack was made with, 10.2.0.0/16", "take it back, or create a new stack"),
        ({}, {"overlay": {"hostPrefix": 25}}, "overlay.hostPrefix: 25 is not what this stack was made with, 24", "take it back, or create a new stack"),
        ({}, {"overlay": {"mtu": 1400}}, "overlay.mtu: 1400 is not what this stack was made with, 8916", "give 8916, or create a new stack"),
        ({"overlay": {"mtu": 1400}}, {}, "overlay.mtu: 8916 is not what this stack was made with, 1400", "give 1400, or create a new stack"),
        ({}, {"overlay": {"mesh": "vxlan"}}, 'overlay.mesh: vxlan is not what this stack runs, weave', 'to change it set overlay.switchFrom: weave and follow docs/operations.md, "Switch the mesh"'),
        ({}, {"overlay": {"mesh": "vxlan", "switchFrom": "wireguard"}}, "overlay.switchFrom: wireguard is not what this stack runs", "give weave"),
        ({}, {"consul": {"datacenter": "dc2"}}, "consul.datacenter: dc2 is not what this stack was made with, dc1", "take it back, or create a new stack"),
        ({}, {"consul": {"domain": "internal"}}, "consul.domain: internal is not what this stack was made with, consul", "take it back, or create a new stack"),
        ({"consul": {"tls": True}}, {}, "consul.tls: false is not what this stack was made with, true", "take it back, or create a new stack"),
        ({}, {"zones": ["b", "a"]}, "zones: [eu-west-1b, eu-west-1a] does not begin with this stack's, [eu-west-1a, eu-west-1b]", "take it back, and append others behind it"),
        ({}, {"zones": ["a"]}, "zones: [eu-west-1a] does not begin with this stack's, [eu-west-1a, eu-west-1b]", "take it back, and append others behind it"),
        ({}, {"zones": ["a", "b", "c"]}, "zones: eu-west-1c is new and has no fromSlot", "write {name: eu-west-1c, fromSlot: N} with N above the highest slot ever used"),
        ({"zones": ["a", {"name": "c", "fromSlot": 13}]}, {"zones": ["a", "c"]}, "zones: [eu-west-1a, eu-west-1c] does not begin with this stack's, [eu-west-1a, {name: eu-west-1c, fromSlot: 13}]", "take it back, and append others behind it"),
        ({"slaves": {"retired": [7, 2, 5]}}, {"slaves": {"retired": [5]}}, "slaves.retired: slots 2, 7 were retired, and a retired slot never comes back", "put it into the list again"),
        ({}, {"slaves": {"dataGib": 39}}, "slaves.dataGib: 39 is less than this stack's volumes have, 40 GiB, and EBS shrinks none", "give 40 or more"),
        ({}, {"control": {"dataGib": 9}}, "control.dataGib: 9 is less than this stack's volumes have, 10 GiB, and EBS shrinks none", "give 10 or more"),
    ],
)  # fmt: skip
def test_a_running_stack_refuses(before: dict[str, Any], after: dict[str, Any], wrong: str, instead: str) -> None:
    (found,) = refusals(before, after)
    assert found.startswith(wrong) and found.endswith(f"; {instead}")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"overlay": {"mtu": 8916}}, {}),
        ({}, {"zones": ["a", "b", {"name": "c", "fromSlot": 13}]}),
        # Whether a host would move is asked of the hosts.
        ({"zones": ["a", {"name": "c", "fromSlot": 13}]}, {"zones": ["a", {"name": "c", "fromSlot": 9}]}),
        # Its subnets are the gate's matter: no host need stand in them.
        ({"zones": ["a", "b", {"name": "c", "fromSlot": 13}]}, {}),
        ({}, {"slaves": {"retired": [2], "count": 5, "dataGib": 41}, "control": {"dataGib": 20}}),
        ({"slaves": {"count": 0}}, {"slaves": {"dataGib": 1}}),
        ({}, {"slaves": {"count": 0, "dataGib": 1}}),
        ({}, {"overlay": {"mesh": "vxlan", "switchFrom": "weave"}}),
        ({"overlay": {"mesh": "vxlan", "switchFrom": "weave"}}, {"overlay": {"mesh": "vxlan"}}),
        ({}, {"edge": {"domain": "example.org", "count": 2}, "mesos": {"source": "host"}, "tags": {"team": "web"}}),
    ],
)
def test_a_running_stack_takes(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert refusals(before, after) == []


def test_several_changes_are_each_named_and_none_twice() -> None:
    found = refusals({}, {"region": "us-east-1", "network": {"mtu": 1500}, "consul": {"tls": True}})
    assert [line.partition(": ")[0] for line in found] == ["aws:region", "network.mtu", "consul.tls"]


def test_a_record_of_the_mesh_alone_has_nothing_else_compared() -> None:
    assert list(changes({"overlay.mesh": "weave"}, settings(consul={"domain": "internal"}))) == []


def test_what_a_newer_program_kept_is_left_alone() -> None:
    assert list(changes({**recorded(settings()), "network.colour": "red"}, settings())) == []
