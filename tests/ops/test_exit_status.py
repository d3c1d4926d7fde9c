"""How each day-two command ends, for each way that it can end: 0 done, 1 failed or refused, 2 wrong usage, 130 stopped."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from localcloud.cli import VERBS
from localcloud.cli import main as apollo
from ops import comment, doctor, drain, gate, pin_images, secrets, stack, survey
from ops import map as drawing
from ops.__main__ import COMMANDS, EXAMPLES, main, parser
from ops.doctor import Finding
from ops.errors import OpsError
from ops.reach import Access, Ssh, Unreachable
from tests.host.support import raising
from tests.ops.test_drain import CONTROL, EDGE, HOST, Answer
from tests.ops.test_drain import Hosts as Answering
from tests.plan.support import cluster

WAY = ("--jump", "203.0.113.2", "--host-key", "ssh-ed25519 AAAA", "--agent")
DRAIN = ("drain", "--host", "slave-2", "--address", HOST, "--edges", EDGE, "--control", ",".join(CONTROL), *WAY)
GONE = Unreachable("no route to host")
Table = dict[tuple[str, ...], Answer]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No switch and no key of whoever runs the tests, and no waiting."""
    for name in (drain.SWITCH, "APOLLO_ADMIN_KEY", "APOLLO_WORK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(drain.time, "sleep", lambda _: None)


def reached(monkeypatch: pytest.MonkeyPatch, folder: Path, answers: Table, module: Any = drain) -> Answering:
    hosts = Answering(folder, dict(answers))

    @contextmanager
    def opened(access: Access) -> Generator[Ssh]:
        hosts.access = access
        yield hosts

    monkeypatch.setattr(module, "opened", opened)
    return hosts


@pytest.mark.parametrize(
    ("options", "answers", "status", "said"),
    [
        ((), {}, 0, "in maintenance"),
        ((), {("", "knock"): GONE}, 1, "slave-2 was not drained: no route to host"),
        ((), {(HOST, "leave", "begin"): GONE}, 1, "slave-2 was not drained: no route to host"),
        ((), {(HOST, "leave", "begin"): "no JSON"}, 1, "slave-2 was not drained"),
        ((), {(HOST, "leave", "end"): GONE}, 1, "slave-2 was not drained: no route to host"),
        # Whoever else is silent keeps no host from going in order, and costs no time where that is known.
        ((), {("", "probe", "10"): GONE}, 0, "1 services out of 1 edges"),
        ((), {("", "probe", "10"): json.dumps({EDGE: "no answer"})}, 0, "1 services out of 0 edges"),
        ((), {(EDGE, "edge", "quiet"): GONE}, 0, "may still send requests"),
        ((), {(CONTROL[0], "forget", "slave-2"): GONE, (CONTROL[1], "forget", "slave-2"): GONE}, 0, "does not answer"),
        ((), {(HOST, "leave", "begin"): '{"other": "i-2"}'}, 0, "nothing to drain"),
        (("--forget",), {}, 0, ""),
        (("--forget",), {(CONTROL[0], "forget", "slave-2"): GONE}, 0, "10.0.0.11 does not answer"),
        (
            ("--forget",),
            {(node, "forget", "slave-2"): GONE for node in CONTROL},
            1,
            "slave-2 was not forgotten: no control node answers",
        ),
        (("--forget",), {("", "knock"): GONE}, 1, "slave-2 was not forgotten: no route to host"),
        (("--undo",), {(HOST, "leave", "undo"): "back"}, 0, "slave-2: back"),
        (("--undo",), {(HOST, "leave", "undo"): GONE}, 1, "slave-2 was not put back to work: no route to host"),
        (("--undo",), {("", "knock"): GONE}, 1, "slave-2 was not put back to work: no route to host"),
    ],
)  # fmt: skip
def test_a_drain_ends_0_only_when_it_is_done(
    options: tuple[str, ...], answers: Table, status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hosts = reached(monkeypatch, tmp_path, answers)
    assert main([*DRAIN, *options]) == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
    assert hosts.access == Access("203.0.113.2", "", "ssh-ed25519 AAAA")
    if said == "slave-2: back":
        assert hosts.words == [(HOST, "leave", "undo", "0")] and hosts.seconds == [60]
    if options == ("--forget",) and not status:
        assert hosts.words[-1][1:] == ("forget", "slave-2", HOST) and len(hosts.words) == len(answers) + 1


def test_a_drain_without_a_way_to_the_host_is_none_unless_drains_are_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for lacking in (WAY[:-1], WAY[2:], (*WAY[:2], "--agent")):
        assert main(["reach", *lacking]) == 1
        assert main(["drain", "--host", "slave-2", *lacking]) == 1
    monkeypatch.setenv(drain.SWITCH, "off")
    assert main(["drain", "--host", "slave-2"]) == 0


PLAN = cluster()
FINDING = Finding("plan and mesh", "slave-1", "has no entry of slave-2", "restart it")


class Deployed:
    """A stack without an engine. hosts: those of the state."""

    def __init__(self, name: str) -> None:
        if name == "none":
            raise OpsError("no stack named 'none' found")
        self.name, self.plan, self.folder, self.file = name, PLAN, Path(), f"Pulumi.{name}.yaml"
        self.hosts: dict[str, Any] = {"slave-1": SimpleNamespace(instance_id="i-1")} if name == "deployed" else {}

    def access(self) -> Access | None:
        return Access("203.0.113.2", "", "ssh-ed25519 AAAA") if self.name == "deployed" else None


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "Stack", Deployed)
    for module in (drain, drawing):
        reached(monkeypatch, tmp_path, {}, module)
    monkeypatch.setattr(survey, "survey", lambda *_: survey.Survey(unreachable="no route to host"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (("drain", "--host", "slave-2", "--stack", "deployed"), 0),
        (("drain", "--host", "slave-9", "--stack", "deployed"), 1),
        (("drain", "--host", "slave-9", "--stack", "deployed", "--forget"), 0),
        (("drain", "--host", "slave-1", "--stack", "bare"), 1),
        (("drain", "--host", "slave-1", "--stack", "none"), 1),
        (("reach", "--stack", "bare"), 1),
        (("reach", "--stack", "none"), 1),
        (("map", "--stack", "bare", "--out", "."), 0),
        # The network that cannot be looked at is left out of the picture.
        (("map", "--stack", "deployed", "--out", "."), 0),
        (("map", "--stack", "none", "--out", "."), 1),
        (("map", "--stack", "bare", "--out", "nowhere"), 2),
        (("roll", "--stack", "bare", "--slots", "9"), 2),
        (("roll", "--stack", "bare", "--slots", "x"), 2),
        (("roll", "--stack", "none"), 1),
        (("doctor", "--stack", "none"), 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_command_about_a_stack_ends_as_its_stack_allows(argv: tuple[str, ...], status: int) -> None:
    assert main(argv) == status


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize(
    ("found", "unseen", "status"), [([], [], 0), ([], ["the network: no key"], 0), ([FINDING], [], 1), ([FINDING], ["x"], 1)]
)
def test_the_doctor_ends_1_where_anything_disagrees(
    found: list[Finding], unseen: list[str], status: int, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        doctor, "examine", lambda stack, plan: (found, unseen) if (stack.name, plan) == ("bare", PLAN) else None
    )
    assert main(["doctor", "--stack", "bare", *options]) == status
    out, err = capsys.readouterr()
    if options:
        assert json.loads(out) == {"stack": "bare", "findings": [asdict(one) for one in found], "notLookedAt": unseen}
        return
    listed = ["slave-1: has no entry of slave-2 (plan and mesh)", "    restart it"] if found else []
    count = (
        "1 disagreements of 7 hosts"
        if found
        else f"7 hosts, {'no disagreement in what was looked at' if unseen else 'all agree'}"
    )
    assert (out.splitlines(), err.splitlines()) == ([*listed, count], [f"not looked at: {line}" for line in unseen])


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize(("module", "function"), [(secrets, "store"), (pin_images, "pin")])
@pytest.mark.parametrize(("ending", "status"), [(None, 0), (OpsError("pulumi is not on PATH"), 1), (KeyboardInterrupt(), 130)])
def test_what_changes_the_configuration_ends_0_when_it_is_changed(
    module: Any, function: str, ending: BaseException | None, status: int, options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(secrets, "missing", lambda _: ["gossipKey"])
    monkeypatch.setattr(module, function, raising(ending) if ending else lambda *_: {})
    verb = {"store": "secrets", "pin": "pin-images"}[function]
    assert main([verb, "--stack", "dev", *options]) == status


PREVIEW = json.dumps({"steps": [{"op": "same", "urn": "urn:pulumi:dev::apollo::pulumi:pulumi:Stack::x"}], "changeSummary": {}})


@pytest.mark.parametrize(
    ("text", "options", "status"),
    [(PREVIEW, (), 0), (PREVIEW, ("--stack", "dev"), 0), ("none", ("--stack", "dev"), 0), ("none", (), 2)],
)
def test_a_comment_is_written_about_a_failed_preview_too_where_its_stack_is_known(
    text: str, options: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    (tmp_path / "preview.json").write_text(text)
    assert main(["comment", str(tmp_path / "preview.json"), *options]) == status


# What may be left out, and what it is then.
LEFT_OUT: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "secrets": (("--stack", "dev"), {"stack": "dev", "rotate": [], "json": False}),
    "roll": (("--stack", "dev"), {"stack": "dev", "role": None, "slots": None, "patience": 300.0, "unchecked": False, "json": False}),
    "drain": (
        ("--host", "slave-2"),
        {"host": "slave-2", "stack": None, "jump": None, "host_key": None, "agent": False, "address": None, "instance": "",
         "edges": "", "control": "", "forget": False, "undo": False, "seconds": 60.0},
    ),
    "doctor": (("--stack", "dev"), {"stack": "dev", "json": False}),
    "reach": ((), {"stack": None, "jump": None, "host_key": None, "agent": False, "patience": 180.0}),
    "map": (("--stack", "dev"), {"stack": "dev", "out": "."}),
    "gate": ((), {"preview": "-", "allow": [], "json": False}),
    "pin-images": (("--stack", "dev"), {"stack": "dev", "json": False}),
    "comment": ((), {"preview": "-", "stack": None, "allow": []}),
}  # fmt: skip
GIVEN: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    ("secrets", ("--rotate", "gossipKey", "--rotate", "meshPassword"), {"rotate": ["gossipKey", "meshPassword"]}),
    ("roll", ("--role", "edge", "--role", "slave", "--slots", "1,2"), {"role": ["edge", "slave"], "slots": "1,2"}),
    ("roll", ("--patience", "7.5", "--unchecked", "--json"), {"patience": 7.5, "unchecked": True, "json": True}),
    ("drain", ("--seconds", "7.5", "--agent", "--forget", "--undo"), {"seconds": 7.5, "agent": True, "forget": True, "undo": True}),
    ("drain", ("--jump", "a", "--host-key", "b", "--stack", "c"), {"jump": "a", "host_key": "b", "stack": "c"}),
    ("drain", ("--address", "a", "--instance", "b", "--edges", "c", "--control", "d"), {"address": "a", "instance": "b", "edges": "c", "control": "d"}),
    ("doctor", ("--json",), {"json": True}),
    ("reach", ("--patience", "7.5", "--stack", "c"), {"patience": 7.5, "stack": "c"}),
    ("map", ("--out", "x"), {"out": "x"}),
    ("gate", ("x.json", "--allow", "a", "--allow", "b", "--json"), {"preview": "x.json", "allow": ["a", "b"], "json": True}),
    ("pin-images", ("--json",), {"json": True}),
    ("comment", ("x.json", "--allow", "a", "--allow", "b", "--stack", "c"), {"preview": "x.json", "allow": ["a", "b"], "stack": "c"}),
)  # fmt: skip


@pytest.mark.parametrize("verb", COMMANDS)
def test_what_may_be_left_out_has_its_default_and_what_is_needed_is_asked_for(verb: str) -> None:
    needed, expected = LEFT_OUT[verb]

    def parsed(*words: str) -> dict[str, Any]:
        found = vars(parser([verb]).parse_args([verb, *words]))
        return {name: value for name, value in found.items() if name not in ("command", "run")}

    assert parsed(*needed) == expected
    for _, words, given in (row for row in GIVEN if row[0] == verb):
        assert parsed(*needed, *words) == expected | given
    if needed:
        with pytest.raises(SystemExit) as ended:
            parsed()
        assert ended.value.code == 2


@pytest.mark.parametrize("verb", COMMANDS)
def test_each_command_has_wrong_usage_and_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, status in (([verb, "--nonsense"], 2), ([verb, "--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == status
    shown = " ".join(capsys.readouterr().out.split())
    assert COMMANDS[verb].split(",")[0].split(":")[0][1:30] in shown
    assert f"Example: python -m ops {verb} {EXAMPLES[verb]}" in shown
    words = [verb, *EXAMPLES[verb].split()]
    parser(words).parse_args(words)


@pytest.mark.parametrize(("module", "verb"), [(gate, "gate"), (comment, "comment")])
def test_a_command_that_is_interrupted_ends_130(module: Any, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", raising(KeyboardInterrupt()))
    assert main([verb]) == 130


@pytest.mark.parametrize(("program", "names"), [(main, COMMANDS), (apollo, VERBS)])
def test_called_bare_it_lists_its_commands_and_ends_0(
    program: Callable[[list[str]], int], names: Iterable[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        program([])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(f"\n    {name}" in said for name in names)
