"""What a preview's comment says to a reviewer, to the letter, and what a preview's JSON means."""

# The comment is shown as it is.
# ruff: noqa: E501
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ops.__main__ import main
from ops.comment import render, render_failure
from ops.preview import INSTANCE, SUBNET, VOLUME, VPC, Step, parse
from tests.ops.test_judgements import RAISED, host, network, part, preview

CHANGE = (
    network(VPC, "replace", after="10.8.0.0/16"),
    network(SUBNET, "create", "", "10.0.64.0/19"),
    network(SUBNET, "update"),
    *(host("slave-4", "create"), part("slave-4", INSTANCE, "create"), part("slave-4", VOLUME, "create")),
    *(host("slave-2", "delete"), part("slave-2", INSTANCE, "delete")),
    host("slave-1", zone="eu-west-1b", instanceType="t3.large", hostFiles="bbbb", **RAISED),
    part("slave-1", INSTANCE, "replace"),
    host("edge-1", rootGib=32),
    # Of what changes in place a reviewer need not know.
    *(host("edge-2"), part("edge-2", INSTANCE, "update", tags={"a": "b"})),
)
COMMENT = """\
<!-- apollo-preview dev -->
### Preview of `dev`: refused by the gate

- network-x: the VPC would be replaced (10.0.0.0/16 → 10.8.0.0/16). To pass: take network.cidr and the order of zones back; a zone is only ever appended, and another range is a new stack
- slave-1: its zone eu-west-1a → eu-west-1b would change. To pass: take the ranges, the prefix and the zones back: a host keeps its place, and another plan is a new stack
- edge-1: its root disk (GiB) 16 → 32 would not reach the running machine. To pass: raise edge.generations.1 in the same change, or roll it first: python -m ops roll --stack dev --role edge

**Hosts**: 1 replaced, 1 deleted, 1 created, 1 waiting for a roll

| host | what | generation | VPC address | bridge address | Docker subnet |
|---|---|---|---|---|---|
| slave-1 | replaced (instance type t3.medium → t3.large, host files) | 1 → 2 | 10.0.0.33 | 10.2.0.1/16 | 10.2.1.0/24 |
| slave-2 | deleted | 1 | 10.0.0.33 | 10.2.0.1/16 | 10.2.1.0/24 |
| slave-4 | created | 1 | 10.0.0.33 | 10.2.0.1/16 | 10.2.1.0/24 |
| edge-1 | waiting for a roll (root disk (GiB) 16 → 32) | 1 | 10.0.0.33 | 10.2.0.1/16 | 10.2.1.0/24 |

**Address plan**

| of | what | before | after |
|---|---|---|---|
| network-x | VPC | 10.0.0.0/16 | 10.8.0.0/16 |
| network-x | subnet |  | 10.0.64.0/19 |
| network-x | subnet | 10.0.0.0/16 |  |
| slave-1 | zone | eu-west-1a | eu-west-1b |
| slave-2 | addresses | 10.0.0.33, 10.2.0.1/16, 10.2.1.0/24 |  |
| slave-4 | addresses |  | 10.0.0.33, 10.2.0.1/16, 10.2.1.0/24 |

<details><summary>8 resources</summary>

| what | type | how many |
|---|---|---|
| create | Instance | 1 |
| create | Subnet | 1 |
| create | Volume | 1 |
| delete | Instance | 1 |
| replace | Instance | 1 |
| replace | Vpc | 1 |
| update | Instance | 1 |
| update | Subnet | 1 |

</details>
"""


def test_a_comment_says_what_becomes_of_hosts_and_addresses_and_what_the_gate_says() -> None:
    assert render(preview(*CHANGE), "dev", ("slave-2",)) == COMMENT


EIP = Step("create", "aws:ec2/eip:Eip", "nat", "", {}, {}, frozenset())


@pytest.mark.parametrize(
    ("steps", "same", "verdict"),
    [
        ((), 0, "no change"),
        ((), 7, "no change"),
        ((EIP,), 7, "1 change, the gate passes"),
        ((EIP, EIP), 0, "2 changes, the gate passes"),
    ],
)
def test_a_comment_begins_with_how_much_changes_and_ends_early_where_no_host_does(
    steps: tuple[Step, ...], same: int, verdict: str
) -> None:
    about = preview(*steps)
    about.counts["same"] = same
    lines = render(about, "prod").splitlines()
    assert lines[:4] == ["<!-- apollo-preview prod -->", f"### Preview of `prod`: {verdict}", "", "**Address plan**: unchanged"]
    table = ["", f"<details><summary>{len(steps)} resources</summary>", "", "| what | type | how many |", "|---|---|---|"]
    assert lines[4:] == ([*table, f"| create | Eip | {len(steps)} |", "", "</details>"] if steps else [])


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("no zone <b> & c", "no zone &lt;b&gt; &amp; c"),
        ("x\n" * 6_000, "x\n" * 6_000),
        ("x\n" * 6_000 + "y", "x\n" * 6_000 + "\n…"),
    ],
)
def test_a_failed_preview_is_a_comment_with_the_beginning_of_its_reason(reason: str, shown: str) -> None:
    expected = f"<!-- apollo-preview dev -->\n### Preview of `dev`: failed\n\n<pre>\n{shown}\n</pre>\n"
    assert render_failure("dev", reason) == expected


URN = "urn:pulumi:dev::apollo::apollo:compute:Slaves$apollo:compute:Host"
INPUTS: dict[str, Any] = {"generation": 2.0, "privateIp": "10.0.0.33", "bridgeAddress": "", "dockerSubnet": None}
DOCUMENT = json.dumps(
    {
        "config": {"apollo:slaves": '{"retired": [1]}', "apollo:zones": '["a"]', "aws:region": "eu-west-1", "apollo:odd": "{x"},
        "steps": [
            {"op": "same", "urn": "urn:pulumi:dev::apollo::pulumi:pulumi:Stack::apollo-dev"},
            *({"op": op, "urn": f"{URN}::slave-9"} for op in ("read", "refresh")),
            {"op": "update", "urn": f"{URN}::slave-1", "oldState": {"inputs": {**INPUTS, "generation": 3}}, "newState": {"inputs": INPUTS}},
            {
                "op": "create-replacement", "urn": f"{URN}$aws:ec2/instance:Instance::slave-1-instance", "diffReasons": ["userData"],
                "detailedDiff": {"tags.Name": {}, "disks[0].size": {}}, "oldState": {"parent": f"{URN}::slave-1"},
            },
            {"op": "delete-replaced", "urn": f"{URN}$aws:ebs/volume:Volume::slave-1-data", "newState": {"parent": "p"}},
        ],
        "changeSummary": {"same": 1, "update": 1, "replace": 2},
    }
)  # fmt: skip


def test_a_previews_json_is_its_steps_its_configuration_and_its_counts() -> None:
    found = parse(DOCUMENT)
    assert found.stack == "dev"
    assert found.config == {
        "apollo:slaves": {"retired": [1]},
        "apollo:zones": ["a"],
        "aws:region": "eu-west-1",
        "apollo:odd": "{x",
    }
    assert found.counts == {"same": 1, "update": 1, "replace": 2}
    assert found.steps == (
        Step("update", "apollo:compute:Host", "slave-1", "", {**INPUTS, "generation": 3}, INPUTS, frozenset()),
        Step("replace", INSTANCE, "slave-1-instance", f"{URN}::slave-1", {}, {}, frozenset({"userData", "tags", "disks"})),
        Step("replace", VOLUME, "slave-1-data", "p", {}, {}, frozenset()),
    )


def test_a_comment_is_about_the_previews_own_stack_or_the_one_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "preview.json"
    path.write_text(DOCUMENT)
    for options, stack, verdict in (
        ((), "dev", "refused by the gate"),
        (("--stack", "prod"), "prod", "refused by the gate"),
        (("--allow", "slave-2", "--allow", "slave-1"), "dev", "3 changes, the gate passes"),
    ):
        assert main(["comment", str(path), *options]) == 0
        out = capsys.readouterr().out
        lines = out.splitlines()
        assert out == "".join(f"{line}\n" for line in lines)
        assert lines[:2] == [f"<!-- apollo-preview {stack} -->", f"### Preview of `{stack}`: {verdict}"]
    path.write_text("no preview")
    assert main(["comment", str(path), "--stack", "dev"]) == 0
    reason = f"{path} is no preview: it is not JSON; make one with: pulumi preview --json > preview.json"
    assert capsys.readouterr().out == render_failure("dev", reason)
    # Floats are the state's numbers; what is empty is not shown.
    assert "| slave-1 | replaced | 3 → 2 | 10.0.0.33 |  |  |" in lines
