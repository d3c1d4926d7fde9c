"""The gate and the comment, on previews that the real engine made of the real program. On plain ones: test_judgements.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ops.__main__ import main
from ops.comment import render
from ops.gate import Refusal, refusals
from ops.preview import Preview, parse
from tests.localcloud.test_program import Stack

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def previewed(stack: Stack) -> Any:
    """Makes previews of changed settings; each is made once.

    The stack has no record of its settings, as one made before there was any, so that the gate alone judges.
    """
    made: dict[tuple[str, ...], str] = {}

    def preview(*sets: str) -> str:
        if sets not in made:
            stack.keep({})
            options = [option for value in sets for option in ("--set", value)]
            status, out, err = stack.run("pulumi", *options, "preview", "--json")
            assert status == 0, err
            made[sets] = out
        return made[sets]

    return preview


def judged(text: str, *allowed: str) -> list[Refusal]:
    return refusals(parse(text), allowed)


def about(found: list[Refusal]) -> set[tuple[str, str]]:
    return {(refusal.kind, refusal.name) for refusal in found}


def test_an_instance_type_without_a_generation_is_refused_for_each_slave_and_says_what_would_do(previewed: Any) -> None:
    found = judged(previewed("slaves.instanceType=t3.large"))
    assert about(found) == {("waiting", f"slave-{slot}") for slot in (1, 2, 3)}
    assert "t3.medium → t3.large" in found[0].reason
    assert "raise slaves.generations.1" in found[0].fix


def test_an_instance_type_with_the_generations_of_all_its_hosts_passes(previewed: Any) -> None:
    generations = [f"slaves.generations.{slot}=2" for slot in (1, 2, 3)]
    assert judged(previewed("slaves.instanceType=t3.large", *generations)) == []


def test_another_vpc_range_is_refused_with_the_vpc_its_subnets_and_its_hosts(previewed: Any) -> None:
    found = about(judged(previewed("network.cidr=10.8.0.0/16")))
    assert {("network", "network-vpc"), ("network", "network-private-a"), ("host", "edge-1"), ("host", "slave-3")} <= found
    assert ("control", "control-1, control-2, control-3") in found


def test_a_generation_does_not_buy_the_loss_of_a_data_volume(previewed: Any) -> None:
    found = judged(previewed("zones=[a]", "slaves.generations.2=2"))
    assert {("network", "network-private-b"), ("network", "network-public-b")} <= about(found)
    moved = "its VPC address 10.0.32.34 → 10.0.0.34, zone eu-west-1b → eu-west-1a would change"
    assert [refusal.reason for refusal in found if refusal.name == "slave-2"] == [moved, "its data volume would be lost"]


def test_another_overlay_is_refused_for_every_host_whose_place_it_changes(previewed: Any) -> None:
    found = judged(previewed("overlay.cidr=10.2.0.0/15"))
    assert {("host", "slave-1"), ("host", "control-1"), ("host", "edge-1")} <= about(found)
    assert "bridge address 10.2.0.1/16 → 10.2.0.1/15, Docker subnet 10.2.1.0/24 → 10.2.2.0/24" in found[0].reason


def test_a_smaller_data_disk_and_two_control_nodes_at_once_are_refused_though_both_generations_rise(previewed: Any) -> None:
    found = judged(previewed("slaves.dataGib=2", "control.generations.1=2", "control.generations.3=2"))
    disks = {("host", f"slave-{slot}") for slot in (1, 2, 3)}
    assert about(found) == disks | {("control", "control-1, control-3")}
    assert "would shrink from 4 to 2 GiB" in found[0].reason


def test_a_preview_that_the_stacks_record_refused_is_none_to_the_gate(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.keep({"slaves.retired": [2]})
    _, out, _ = stack.run("pulumi", "preview", "--json")
    (tmp_path / "preview.json").write_text(out)
    assert main(["gate", str(tmp_path / "preview.json")]) == 2
    assert "slaves.retired: slot 2 was retired" in capsys.readouterr().err


# Changes that pass, each on hosts of its own or on all.
PASSING = ("slaves.count=4", "slaves.generations.2=2", "control.generations.1=2", "tags.team=web", "slaves.dataGib=6")


def test_a_new_slave_generations_a_tag_a_larger_data_disk_and_a_retired_slot_pass(previewed: Any) -> None:
    text = previewed(*PASSING)
    went = {name: host.op for name, host in parse(text).hosts.items() if host.op not in ("same", "update")}
    assert went == {"slave-2": "replace", "slave-4": "create", "control-1": "replace"}
    assert judged(text) == []
    assert judged(previewed("slaves.retired=[2]")) == []


def test_fewer_slaves_are_refused_unless_the_slot_is_retired_or_allowed(previewed: Any) -> None:
    text = previewed("slaves.count=2")
    (refusal,) = judged(text)
    assert (refusal.name, refusal.fix) == (
        "slave-3",
        "add 3 to slaves.retired in the same change, or take slaves.count back",
    )
    assert judged(text, "slave-3") == []


def test_a_comment_shows_who_comes_and_who_goes_with_their_addresses(previewed: Any) -> None:
    text = render(parse(previewed("slaves.retired=[2]")), "dev")
    assert text.startswith("<!-- apollo-preview dev -->\n### Preview of `dev`: ")
    assert "the gate passes" in text
    assert "| slave-2 | deleted | 1 | 10.0.32.34 | 10.2.0.2/16 | 10.2.2.0/24 |" in text
    assert "| slave-4 | created | 1 | 10.0.32.36 | 10.2.0.4/16 | 10.2.4.0/24 |" in text


def test_a_comment_shows_moved_ranges_and_what_waits_for_a_roll(previewed: Any) -> None:
    moved = render(parse(previewed("network.cidr=10.8.0.0/16")), "dev")
    assert "refused by the gate" in moved
    assert "| network-vpc | VPC | 10.0.0.0/16 | 10.8.0.0/16 |" in moved
    waiting = render(parse(previewed("slaves.instanceType=t3.large")), "dev")
    assert "| slave-1 | waiting for a roll (instance type t3.medium → t3.large) |" in waiting
    assert "**Address plan**: unchanged" in waiting


def test_no_value_of_a_secret_is_in_a_preview_or_its_comment(previewed: Any) -> None:
    preview: Preview = parse(previewed(*PASSING))
    assert set(preview.section("secrets").values()) == {"[secret]"}


def test_a_lowered_generation_is_refused_as_it_replaces_too(stack: Stack) -> None:
    stack.up("slaves.generations.2=2")
    try:
        status, out, _ = stack.run("pulumi", "preview", "--json")
    finally:
        stack.up()
    assert status == 0
    assert about(judged(out)) == {("host", "slave-2")}
