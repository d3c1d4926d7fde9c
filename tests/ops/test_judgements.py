"""What the gate says of a change, on plain previews: each judgement by itself. With the engine: test_gate.py."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ops.__main__ import main
from ops.errors import OpsError
from ops.gate import refusals
from ops.preview import ATTACHMENT, HOST, INSTANCE, SUBNET, VOLUME, VPC, Preview, Step, parse

COMPONENT = {"slave": "apollo:compute:Slaves", "control": "apollo:compute:Control", "edge": "apollo:edge:Edge"}
INPUTS: dict[str, Any] = {
    "generation": 1,
    "instanceType": "t3.medium",
    "rootGib": 16,
    "hostFiles": "aaaa",
    "privateIp": "10.0.0.33",
    "bridgeAddress": "10.2.0.1/16",
    "dockerSubnet": "10.2.1.0/24",
    "zone": "eu-west-1a",
}


def host(name: str, op: str = "update", **new: object) -> Step:
    """The Host component's step, with inputs that change."""
    old, after = ({} if op == "create" else INPUTS), ({} if op == "delete" else INPUTS | new)
    return Step(op, HOST, name, "", old, after, frozenset(new))


def part(name: str, type_: str, op: str, old: Mapping[str, Any] | None = None, **new: Any) -> Step:
    """A step of the host's instance, volume or attachment."""
    role = name.partition("-")[0]
    end = "instance" if type_ == INSTANCE else "data"
    parent = f"urn:pulumi:dev::apollo::{COMPONENT[role]}$apollo:compute:Host::{name}"
    return Step(op, type_, f"{name}-{end}", parent, old or {}, new, frozenset(new))


def network(type_: str, op: str, before: str = "10.0.0.0/16", after: str = "") -> Step:
    old, new = ({"cidrBlock": side} if side else {} for side in (before, after))
    return Step(op, type_, "network-x", "urn:pulumi:dev::apollo::apollo:network:Vpc::network", old, new, frozenset())


def preview(*steps: Step, **config: Any) -> Preview:
    return Preview("dev", steps, {f"apollo:{key}": value for key, value in config.items()}, Counter(s.op for s in steps))


def judged(*steps: Step, allowed: tuple[str, ...] = (), **config: Any) -> list[tuple[str, str, str]]:
    return [(r.kind, r.name, r.reason) for r in refusals(preview(*steps, **config), allowed)]


# What AWS changes while a machine runs.
IN_PLACE = ("tags", "tagsAll", "vpcSecurityGroupIds", "iamInstanceProfile", "metadataOptions", "monitoring")
RAISED: dict[str, Any] = {"generation": 2}
PASSES: dict[str, tuple[Step, ...]] = {
    "nothing": (),
    "a new slave": (host("slave-4", "create"), part("slave-4", INSTANCE, "create"), part("slave-4", VOLUME, "create")),
    "a raised generation": (
        host("slave-1", "update", **RAISED),
        part("slave-1", INSTANCE, "replace"),
        part("slave-1", ATTACHMENT, "replace"),
    ),
    **{
        f"another {name}, which AWS changes while a machine runs": (part("slave-1", INSTANCE, "update", None, **{name: "x"}),)
        for name in IN_PLACE
    },
    "all that AWS changes while a machine runs at once": (
        part("slave-1", INSTANCE, "update", None, **dict.fromkeys(IN_PLACE, "x")),
    ),
    "a larger data volume": (part("slave-1", VOLUME, "update", {"size": 4}, size=6),),
    "an attachment, of which sizes say nothing": (part("slave-1", ATTACHMENT, "update", {"size": 4}, size=2),),
    "a volume of the same size": (part("slave-1", VOLUME, "update", {"size": 4}, size=4),),
    "a volume whose size is left to AWS": (part("slave-1", VOLUME, "update", {"size": 4}),),
    "a volume whose size is not known yet": (part("slave-1", VOLUME, "update", {"size": 4}, size="04da6b54-80e4-46f7"),),
    "other tags of a volume": (part("slave-1", VOLUME, "update", {"tags": {}}, tags={"a": "b"}),),
    "one control node": (host("control-1", "update", **RAISED), part("control-1", INSTANCE, "replace")),
    "a VPC and a subnet that change in place or are new": (
        network(VPC, "update"), network(SUBNET, "update"), network(SUBNET, "create", "", "10.0.64.0/19"),
    ),
    "a resource that is no host's and goes": (Step("delete", "aws:ec2/eip:Eip", "nat", "", {}, {}, frozenset()),),
    "a larger machine with its generation": (
        host("slave-1", instanceType="t3.large", rootGib=32, **RAISED), part("slave-1", INSTANCE, "replace"),
    ),
    "other host files alone": (host("slave-1", hostFiles="bbbb"),),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
def test_the_gate_lets_through(name: str) -> None:
    assert judged(*PASSES[name]) == []


REFUSED: dict[str, tuple[tuple[Step, ...], list[tuple[str, str, str]]]] = {
    "a slave that is deleted": (
        (host("slave-1", "delete"), part("slave-1", INSTANCE, "delete")),
        [("host", "slave-1", "would be deleted")],
    ),
    "an edge that is deleted": ((part("edge-2", INSTANCE, "delete"),), [("host", "edge-2", "would be deleted")]),
    "a control node that is deleted": ((part("control-3", INSTANCE, "delete"),), [("host", "control-3", "would be deleted")]),
    "a replaced slave": ((part("slave-1", INSTANCE, "replace"),), [("host", "slave-1", "would be replaced")]),
    "a generation that falls": (
        (host("slave-1", generation=0), part("slave-1", INSTANCE, "replace")),
        [("host", "slave-1", "would be replaced")],
    ),
    "a volume attachment that is replaced alone": (
        (part("slave-1", ATTACHMENT, "replace"),),
        [("host", "slave-1", "would be stopped, to detach its volume")],
    ),
    "a volume attachment that is deleted alone": (
        (part("slave-1", ATTACHMENT, "delete"),),
        [("host", "slave-1", "would be stopped, to detach its volume")],
    ),
    "an update that stops the machine": (
        (part("slave-1", INSTANCE, "update", tags={"a": "b"}, instanceType="t3.large", ebsOptimized=True),),
        [("host", "slave-1", "would be stopped, to change its ebsOptimized, instanceType")],
    ),
    "a volume that is replaced": (
        (part("slave-1", VOLUME, "replace"),), [("host", "slave-1", "its data volume would be lost")],
    ),
    "a volume that is deleted from a host that stays": (
        (part("slave-1", VOLUME, "delete"),), [("host", "slave-1", "its data volume would be lost")],
    ),
    "a volume that is lost with a raised generation": (
        (host("slave-1", "update", **RAISED), part("slave-1", INSTANCE, "replace"), part("slave-1", VOLUME, "replace")),
        [("host", "slave-1", "its data volume would be lost")],
    ),
    "a volume that shrinks": (
        (part("slave-1", VOLUME, "update", {"size": 4}, size=3),),
        [("host", "slave-1", "its data volume would shrink from 4 to 3 GiB, which EBS does not do")],
    ),
    "a host that moves, though its generation rises": (
        (host("slave-1", zone="eu-west-1b", privateIp="10.0.32.33", **RAISED), part("slave-1", INSTANCE, "replace")),
        [("host", "slave-1", "its VPC address 10.0.0.33 → 10.0.32.33, zone eu-west-1a → eu-west-1b would change")],
    ),
    "another overlay": (
        (host("slave-1", bridgeAddress="10.2.0.1/15", dockerSubnet="10.2.2.0/24"),),
        [("host", "slave-1", "its bridge address 10.2.0.1/16 → 10.2.0.1/15, Docker subnet 10.2.1.0/24 → 10.2.2.0/24 would "
          "change")],
    ),
    "a machine type that would not come": (
        (host("slave-1", instanceType="t3.large"),),
        [("waiting", "slave-1", "its instance type t3.medium → t3.large would not reach the running machine")],
    ),
    "a root disk that would not come": (
        (host("edge-1", rootGib=32),),
        [("waiting", "edge-1", "its root disk (GiB) 16 → 32 would not reach the running machine")],
    ),
    "another VPC range": (
        (network(VPC, "replace", after="10.8.0.0/16"),),
        [("network", "network-x", "the VPC would be replaced (10.0.0.0/16 → 10.8.0.0/16)")],
    ),
    "a VPC that goes": ((network(VPC, "delete"),), [("network", "network-x", "the VPC would be deleted (10.0.0.0/16)")]),
    "a subnet that goes": (
        (network(SUBNET, "delete", "10.0.32.0/19"),),
        [("network", "network-x", "a subnet would be deleted (10.0.32.0/19)")],
    ),
    "two control nodes, though both generations rise": (
        tuple(s for n in ("control-3", "control-1") for s in (host(n, "update", **RAISED), part(n, INSTANCE, "replace"))),
        [("control", "control-1, control-3", "2 control nodes would be touched at once")],
    ),
    "two control nodes, one of which only loses its volume for a moment": (
        (
            host("control-1", "update", **RAISED),
            part("control-1", INSTANCE, "replace"),
            part("control-2", ATTACHMENT, "replace"),
        ),
        [
            ("host", "control-2", "would be stopped, to detach its volume"),
            ("control", "control-1, control-2", "2 control nodes would be touched at once"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_gate_refuses(name: str) -> None:
    steps, expected = REFUSED[name]
    assert judged(*steps) == expected


def test_a_retired_slot_may_go_and_no_other() -> None:
    gone = (part("slave-2", INSTANCE, "delete"), part("slave-3", INSTANCE, "delete"))
    assert judged(*gone, slaves={"retired": [2]}) == [("host", "slave-3", "would be deleted")]
    assert judged(*gone, slaves={"retired": [2, 3]}) == []
    # A retired slot is a slave's, and no control node's or edge's of that number.
    others = (part("control-2", INSTANCE, "delete"), part("edge-2", INSTANCE, "delete"))
    assert [name for _, name, _ in judged(*others, slaves={"retired": [2]})] == ["control-2", "edge-2"]
    # Only the program's own section counts.
    aws = Preview("dev", gone[:1], {"aws:slaves": {"retired": [2]}}, Counter())
    assert [refusal.name for refusal in refusals(aws)] == ["slave-2"]


def test_what_is_allowed_by_name_may_go_and_no_one_else() -> None:
    gone = (part("slave-1", INSTANCE, "delete"), part("slave-11", INSTANCE, "replace"), network(SUBNET, "delete"))
    assert [name for _, name, _ in judged(*gone, allowed=("slave-1",))] == ["network-x", "slave-11"]
    both = tuple(part(name, INSTANCE, "replace") for name in ("control-1", "control-2", "control-3"))
    assert [kind for kind, *_ in judged(*both, allowed=("control-1", "control-2"))] == ["host"]
    assert judged(*both, allowed=("control-1", "control-2", "control-3")) == []


@pytest.mark.parametrize(
    ("step", "fix"),
    [
        (part("slave-1", INSTANCE, "delete"), "add 1 to slaves.retired in the same change, or take slaves.count back"),
        (part("control-1", INSTANCE, "delete"), "take control.count back, or name it with --allow control-1"),
        (part("edge-1", INSTANCE, "delete"), "take edge.count back, or name it with --allow edge-1"),
        (part("slave-1", INSTANCE, "replace"), "raise slaves.generations.1 in the same change"),
        (part("control-1", INSTANCE, "replace"), "raise control.generations.1 in the same change"),
        (part("edge-1", VOLUME, "replace"), "take its zone and its address back"),
        (part("slave-1", VOLUME, "update", {"size": 4}, size=2), "take slaves.dataGib back"),
        (
            host("slave-1", rootGib=20),
            "raise slaves.generations.1 in the same change, or roll it first: python -m ops roll --stack dev --role slave",
        ),
        (network(SUBNET, "replace"), "take network.cidr and the order of zones back; a zone is only ever appended, and "
         "another range is a new stack"),
        (network(VPC, "delete"), "take network.cidr and the order of zones back; a zone is only ever appended, and another "
         "range is a new stack"),
        (network(SUBNET, "delete"), "take zones and the order of zones back; a zone is only ever appended, and another range "
         "is a new stack"),
        (host("slave-1", zone="b"), "take the ranges, the prefix and the zones back: a host keeps its place, and another plan "
         "is a new stack"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_would_pass(step: Step, fix: str) -> None:
    (refusal,) = refusals(preview(step))
    assert refusal.fix == fix
    assert str(refusal) == f"{refusal.name}: {refusal.reason}; {fix}"


def test_of_control_nodes_one_is_touched_at_a_time_whether_replaced_or_deleted() -> None:
    both = (part("control-1", INSTANCE, "delete"), part("control-2", INSTANCE, "delete"))
    found = refusals(preview(*both))
    assert [(refusal.kind, refusal.reason) for refusal in found][-1] == ("control", "2 control nodes would be touched at once")
    assert found[-1].fix == (
        "raise one generation, `up`, wait until it is back, then the next: python -m ops roll --role control does that"
    )


def document(*entries: tuple[str, str, str]) -> str:
    """What `pulumi preview --json` says of (operation, type, name)."""
    parent = "urn:pulumi:dev::apollo::apollo:compute:Slaves$apollo:compute:Host::slave-1"
    steps = [
        {"op": op, "urn": f"urn:pulumi:dev::apollo::apollo:compute:Host${type_}::{name}", "oldState": {"parent": parent}}
        for op, type_, name in entries
    ]
    return json.dumps({"steps": steps, "changeSummary": dict(Counter(op for op, *_ in entries)), "config": {}})


STACK = ("same", "pulumi:pulumi:Stack", "apollo-dev")
REPLACED = ("replace", INSTANCE, "slave-1-instance")


@pytest.mark.parametrize(
    ("text", "arguments", "status", "passes"),
    [
        (document(STACK), [], 0, True),
        (document(STACK, REPLACED), [], 1, False),
        (document(STACK, REPLACED), ["--allow", "slave-1"], 0, True),
        (document(STACK, REPLACED), ["--allow", "slave-1", "--allow", "slave-2"], 0, True),
        (document(STACK, ("delete-replaced", INSTANCE, "slave-1-instance")), [], 1, False),
        (document(STACK, ("create-replacement", ATTACHMENT, "slave-1-data")), [], 1, False),
        (document(STACK, ("read", INSTANCE, "slave-1-instance")), [], 0, True),
        ("no preview", [], 2, None),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_the_gate_ends_with_its_verdict(
    text: str, arguments: list[str], status: int, passes: bool | None, as_json: bool, tmp_path: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "preview.json"
    path.write_text(text)
    assert main(["gate", str(path), *arguments, *(["--json"] if as_json else [])]) == status
    out, err = capsys.readouterr()
    if passes is None:
        assert out == "" and err.startswith("error: ")
    elif as_json:
        told = json.loads(out)
        assert out.startswith('{\n  "passes"')
        assert told["passes"] is passes and bool(told["refusals"]) is not passes
    elif passes:
        changes = sum(step["op"] != "same" for step in json.loads(text)["steps"])
        assert out == f"passes: {changes} changes, none that takes a host or a network away\n"
    else:
        first, reason = out.splitlines()
        assert first == "refused, for 1 reason:"
        assert reason.startswith("  slave-1: would be ")


def test_the_gate_reads_standard_input_and_lists_each_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = document(STACK, REPLACED, ("replace", VOLUME, "slave-1-data"))
    for argv in (["gate"], ["gate", "-"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert main(argv) == 1
        assert capsys.readouterr().out.splitlines() == [
            "refused, for 2 reasons:",
            "  slave-1: would be replaced; raise slaves.generations.1 in the same change",
            "  slave-1: its data volume would be lost; take its zone and its address back",
        ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is not JSON"),
        ("Previewing update (dev)", "it is not JSON"),
        ("[1, 2]", "neither steps nor a summary"),
        ('{"name": "something else"}', "neither steps nor a summary"),
        ('{"steps": [{"op": "create"}], "changeSummary": {}}', "a step has an unknown form"),
        ('{"steps": [{"op": "create", "urn": "x"}], "changeSummary": {}}', "a step has an unknown form"),
        ('{"diagnostics": [{"severity": "error", "message": "no such zone"}]}', "no such zone"),
        ('{"diagnostics": []}', "no whole preview"),
    ],
)
def test_what_is_no_preview_is_one_clear_error(text: str, words: str) -> None:
    with pytest.raises(OpsError, match=words) as error:
        parse(text, "preview.json")
    assert error.value.status == 2
    assert str(error.value).startswith("preview.json is ")


def test_a_preview_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err
    (tmp_path / "odd.json").write_bytes(b"\xff")
    assert main(["gate", str(tmp_path / "odd.json")]) == 2
    assert "odd.json: 'utf-8' codec can't decode" in capsys.readouterr().err
