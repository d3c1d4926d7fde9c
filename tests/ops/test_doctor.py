"""What the doctor finds between plan, state and AWS, and what it says where it could not look. With hosts: test_day_two.py."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from host.render import user_data_base64
from ops import doctor, survey
from ops.doctor import Finding, examine
from ops.errors import OpsError
from ops.preview import ATTACHMENT, INSTANCE
from ops.reach import Access
from ops.survey import Survey
from tests.plan.support import cluster

PLAN = cluster(slaves={"count": 2, "generations": {"2": 2}}, control={"count": 1})
UP, ROLL = "pulumi up -s dev", "python -m ops roll --stack dev --role slave --slots 1"
REFRESH = f"pulumi refresh -s dev && {UP}"


def deployed(**changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The state's hosts as they are planned, but for what is changed of one; None takes it away."""
    found: dict[str, Any] = {}
    for host in PLAN.hosts:
        change = changes.get(host.name.replace("-", "_"), {})
        if change is not None:
            known = {"instance_id": "i-1", "generation": host.generation, "running_type": host.instance_type}
            found[host.name] = SimpleNamespace(**known | dict(change))
    return found


def stack(hosts: dict[str, Any] | None = None, refresh: Any = None, access: Access | None = None, **user_data: str) -> Any:
    """refresh: its steps, or the error that it ends with. user_data: what a host was made with where not by the plan."""
    resources = [
        {
            "urn": f"urn:pulumi:dev::apollo::{INSTANCE}::{host.name}-instance",
            "type": INSTANCE,
            "inputs": {"userDataBase64": user_data.get(host.name.replace("-", "_"), user_data_base64(PLAN, host, "dev"))},
        }
        for host in PLAN.hosts
    ]

    def pulumi(*argv: str) -> str:
        assert argv == ("refresh", "--preview-only", "--json")
        if isinstance(refresh, Exception):
            raise refresh
        return json.dumps({"steps": refresh or [], "changeSummary": {}})

    known = {"name": "dev", "file": "Pulumi.dev.yaml", "pulumi": pulumi, "access": lambda: access}
    return SimpleNamespace(hosts=deployed() if hosts is None else hosts, resources=resources, **known)


NO_KEY = "Consul and the mesh: no administrators' key (apollo:adminPrivateKey, or admin.agent: true)"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (stack(), []),
        (stack(deployed(slave_1=None)), [Finding("plan and state", "slave-1", "is planned and not deployed", UP)]),
        (stack(deployed(slave_1={"instance_id": ""})), [Finding("plan and state", "slave-1", "is planned and not deployed", UP)]),
        (stack(deployed(slave_2={"generation": 1})), [Finding("plan and state", "slave-2", "is at generation 1, planned 2", UP)]),
        (
            stack(deployed(slave_1={"generation": 3})),
            [Finding("plan and state", "slave-1", "is at generation 3, and Pulumi.dev.yaml says 1: somebody else rolled it", f"git pull, before any {UP}")],
        ),
        (stack(deployed(slave_1={"running_type": "t3.nano"})), [Finding("plan and machine", "slave-1", "runs on t3.nano, planned t3.medium", ROLL)]),
        # A machine of which the state does not say what it runs on.
        (stack(deployed(slave_1={"running_type": ""})), []),
        (stack(slave_1="b2xk"), [Finding("plan and machine", "slave-1", "was made with other host files", ROLL)]),
        (stack(slave_1=""), []),
        (stack(deployed() | {"slave-9": SimpleNamespace()}), [Finding("plan and state", "slave-9", "is deployed and not planned", UP)]),
    ],
)  # fmt: skip
def test_between_plan_and_state_each_difference_has_its_command(given: Any, expected: list[Finding]) -> None:
    assert examine(given, PLAN) == (expected, [NO_KEY])


def step(op: str, type: str, name: str, *changed: str) -> dict[str, Any]:
    return {"op": op, "urn": f"urn:pulumi:dev::apollo::{type}::{name}", "diffReasons": list(changed)}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([step("same", INSTANCE, "slave-1-instance")], []),
        ([step("delete", INSTANCE, "slave-1-instance")], [("slave-1", "is gone from AWS (Instance)")]),
        # What was attached to a machine goes with it, and to another does not.
        ([step("delete", INSTANCE, "slave-1-instance"), step("delete", ATTACHMENT, "slave-1-data")], [("slave-1", "is gone from AWS (Instance)")]),
        (
            [step("delete", INSTANCE, "slave-1-instance"), step("delete", ATTACHMENT, "slave-2-data")],
            [("slave-1", "is gone from AWS (Instance)"), ("slave-2-data", "is gone from AWS (VolumeAttachment)")],
        ),
        ([step("update", INSTANCE, "slave-1-instance", "tags", "ebsOptimized")], [("slave-1", "was changed by hand: ebsOptimized, tags (Instance)")]),
        ([step("update", "aws:ec2/eip:Eip", "nat")], [("nat", "was changed by hand: something (Eip)")]),
    ],
)  # fmt: skip
def test_what_aws_lost_or_somebody_changed_by_hand_is_found(steps: list[Any], expected: list[tuple[str, str]]) -> None:
    found = [Finding("state and AWS", name, words, REFRESH) for name, words in expected]
    assert examine(stack(refresh=steps), PLAN) == (found, [NO_KEY])


def test_aws_that_cannot_be_asked_is_not_looked_at() -> None:
    assert examine(stack(refresh=OpsError("no credentials")), PLAN) == ([], ["AWS: no credentials", NO_KEY])


NODES: dict[str, Any] = {
    host.name: {"address": str(host.private_ip), "bridge": str(host.bridge_address.ip), "maintenance": False, "alive": True}
    for host in PLAN.hosts
}
MESH = {host.name: [other.name for other in PLAN.hosts if other != host] for host in PLAN.hosts}
WELL = Survey(nodes=NODES, mesh=MESH)
SSH = "ssh -J admin@203.0.113.2 admin@10.0.0.33 sudo"
DRAIN = "python -m ops drain --stack dev --host"


def node(**change: Any) -> Survey:
    return replace(WELL, nodes={**NODES, "slave-1": {**NODES["slave-1"], **change}})


@pytest.mark.parametrize(
    ("seen", "between", "name", "words", "fix"),
    [
        (replace(WELL, silent={"slave-1": "no route"}), "plan and machine", "slave-1", "does not answer: no route", ROLL),
        (replace(WELL, odd={"slave-1": "no JSON"}), "plan and machine", "slave-1", "answers, but does not report its state: no JSON", f"{SSH} apollo-check"),
        (
            replace(WELL, odd={"edge-1": "no JSON"}), "plan and machine", "edge-1", "answers, but does not report its state: no JSON",
            "ssh admin@203.0.113.2 sudo apollo-check",
        ),
        (replace(WELL, checks={"slave-1": [{"check": "docker", "detail": "off"}]}), "plan and machine", "slave-1", "apollo-check, docker: off", f"{SSH} apollo-check"),
        (replace(WELL, checks={"slave-1": [{"check": "disks", "detail": "full"}]}), "plan and machine", "slave-1", "apollo-check, disks: full", f"{SSH} du -xhd2 / /data"),
        (replace(WELL, metrics={"slave-1": ""}), "plan and machine", "slave-1", "serves no metrics: it was made before hosts did, or of an image without prometheus-node-exporter", ROLL),
        (replace(WELL, metrics={"slave-1": "inactive"}), "plan and machine", "slave-1", "serves no metrics: it was made before hosts did, or of an image without prometheus-node-exporter", ROLL),
        (node(maintenance=True), "plan and Consul", "slave-1", "is in maintenance, left by a drain", f"{DRAIN} slave-1 --undo"),
        (node(alive=False), "plan and Consul", "slave-1", "its agent does not answer the others", ROLL),
        (replace(node(alive=False), consul={"slave-1": "active"}), "plan and Consul", "slave-1", "its agent does not answer the others", f"{SSH} systemctl restart consul"),
        (node(address="10.0.0.99"), "plan and Consul", "slave-1", "registered 10.0.0.99, bridge 10.2.0.1", ROLL),
        (node(bridge="10.2.0.9"), "plan and Consul", "slave-1", "registered 10.0.0.33, bridge 10.2.0.9", ROLL),
        (
            replace(WELL, nodes={**NODES, "slave 9": NODES["slave-1"]}), "plan and Consul", "slave 9", "is in the catalog and not planned",
            f"{DRAIN} 'slave 9' --forget --address 10.0.0.33",
        ),
        (replace(WELL, nodes={k: v for k, v in NODES.items() if k != "slave-1"}), "plan and Consul", "slave-1", "is not in the catalog", ROLL),
        (
            replace(WELL, nodes={k: v for k, v in NODES.items() if k != "slave-1"}, consul={"slave-1": "active"}), "plan and Consul", "slave-1",
            "is not in the catalog", f"{SSH} systemctl restart consul",
        ),
        (
            replace(WELL, nodes={k: v for k, v in NODES.items() if k != "slave-1"}, consul={"slave-1": "inactive"}), "plan and Consul", "slave-1",
            "has left Consul, as a drain does", f"{DRAIN} slave-1 --undo",
        ),
        (replace(WELL, lost={"slave-1": "no JSON"}), "plan and mesh", "slave-1", "cannot read its mesh's table: no JSON", f"{SSH} systemctl restart apollo-mesh"),
        (replace(WELL, mesh={"slave-1": ["edge-1"]}), "plan and mesh", "slave-1", "has no entry of control-1, slave-2", f"{SSH} systemctl restart apollo-mesh"),
        (
            replace(WELL, mesh={"slave-1": [*MESH["slave-1"], "slave-8", "slave-9"]}), "plan and mesh", "slave-1", "still has an entry of slave-8, slave-9",
            f"{DRAIN} slave-8 --forget && {DRAIN} slave-9 --forget",
        ),
        (replace(WELL, unreachable="timed out"), "this machine and the edge", "edge-1", "timed out", "python -m ops reach --stack dev"),
    ],
)  # fmt: skip
def test_what_hosts_say_against_the_plan_has_its_command(
    seen: Survey, between: str, name: str, words: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = surveyed(monkeypatch, seen)
    found, unseen = examine(stack(access=Access("203.0.113.2", "", "ssh-ed25519 AAAA")), PLAN)
    assert found == [Finding(between, name, words, fix)]
    assert unseen == (["Consul and the mesh: no host was asked"] if seen.unreachable else [])
    assert asked == [[host.name for host in PLAN.hosts]]


@pytest.mark.parametrize(
    "seen",
    [
        replace(WELL, slow={"slave-1": "no end after 60 s"}),
        # Found by apollo-check, and what follows from another host.
        *(replace(WELL, metrics={"slave-1": "failed"}), replace(WELL, checks={"slave-1": [{"check": "mesh", "detail": "x"}]})),
    ],
)
def test_a_slow_host_and_what_is_said_elsewhere_are_no_findings(seen: Survey, monkeypatch: pytest.MonkeyPatch) -> None:
    surveyed(monkeypatch, seen)
    assert examine(stack(access=Access("203.0.113.2", "", "ssh-ed25519 AAAA")), PLAN)[0] == []


def test_a_routed_mesh_has_two_units_and_drops_a_host_that_is_gone_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    surveyed(monkeypatch, replace(WELL, lost={"slave-1": "no JSON"}, mesh={"slave-1": [*MESH["slave-1"], "slave-9"]}))
    plan = cluster(slaves={"count": 2, "generations": {"2": 2}}, control={"count": 1}, overlay={"mesh": "vxlan"})
    fixes = [
        finding.fix
        for finding in examine(stack(access=Access("203.0.113.2", "", "x")), plan)[0]
        if finding.between == "plan and mesh"
    ]
    assert fixes == [f"{SSH} systemctl restart apollo-mesh apollo-mesh-sync"]


def surveyed(monkeypatch: pytest.MonkeyPatch, seen: Survey) -> list[list[str]]:
    """What every survey finds; gives whom it was to ask."""
    asked: list[list[str]] = []

    @contextmanager
    def opened(_: Access) -> Generator[None]:
        yield

    def look(_ssh: Any, _plan: Any, hosts: Any, *_: Any) -> Survey:
        asked.append([host.name for host in hosts])
        return seen

    monkeypatch.setattr(doctor, "opened", opened)
    monkeypatch.setattr(survey, "survey", look)
    return asked


def test_of_a_host_that_is_lost_nothing_else_is_said_and_a_slow_one_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = replace(
        WELL,
        nodes=None,
        slow={"slave-2": "not in 20 s"},
        silent={"slave-1": "no route"},
        odd={"slave-1": "no JSON"},
        checks={"slave-1": [{"check": "docker", "detail": "off"}]},
        mesh={"slave-2": ["control-1", "edge-1"]},
    )
    asked = surveyed(monkeypatch, seen)
    way = Access("203.0.113.2", "", "ssh-ed25519 AAAA")
    gone = [step("delete", INSTANCE, "slave-1-instance")]
    lost = Finding("state and AWS", "slave-1", "is gone from AWS (Instance)", REFRESH)
    slow = (
        "slave-2: answers at its SSH port, but not in 20 s; a busy host is no dead one, so ask again: "
        "python -m ops doctor --stack dev"
    )
    catalog = "Consul: no control node and no edge could tell its catalog"
    assert examine(stack(refresh=gone, access=way), PLAN) == ([lost], [slow, catalog])
    missing = Finding("plan and state", "slave-1", "is planned and not deployed", UP)
    assert examine(stack(deployed(slave_1=None), access=way), PLAN) == ([missing], [slow, catalog])
    assert "slave-1" in asked[0] and "slave-1" not in asked[1]
