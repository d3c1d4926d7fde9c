"""What a roll does to which host, when it goes on, stops or refuses, and what it then says and keeps. With the engine:
test_day_two.py. Here the engine and the edge are played, on a clock of their own."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops import roll, stack
from ops.__main__ import main
from ops.drain import BALANCER
from ops.errors import OpsError
from ops.preview import INSTANCE, VOLUME, Preview, Step
from ops.reach import Access, Ssh, Unreachable
from ops.roll import selected
from plan.cluster import Cluster
from plan.place import SECTIONS
from tests.ops.conftest import Clock, Live
from tests.ops.test_drain import Hosts
from tests.ops.test_judgements import host, part, preview
from tests.plan.support import cluster

WAY = Access("203.0.113.2", "", "ssh-ed25519 AAAA")
GONE = Unreachable("no route to host")


class Played:
    """A stack and its edge. An `up` takes 100 s and brings what the stack file says; each look at the edge takes 20 s.

    done: what was done, in order. at_up: called in each `up`. more: what a preview has besides. looks: what the edge answers, one
    after the other, the last for good.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.name, self.file, self.folder, self.clock = "dev", "Pulumi.dev.yaml", folder, clock
        self.settings: dict[str, Any] = {"slaves": {"count": 3}, "control": {"count": 1}, "edge": {"count": 1}}
        self.done: list[str] = []
        self.way: Access | None = WAY
        self.more: tuple[Step, ...] = ()
        self.at_up: Callable[[], object] = lambda: None
        self.cli = SimpleNamespace(interrupt=lambda: self.done.append("interrupt"))
        self.there: dict[str, int] = {}
        self.knock: Exception | str = ""
        self.looks: list[Exception | str] = ['{"web": [2, 2, ["slave-1", "slave-2"]]}']

    @property
    def plan(self) -> Cluster:
        return cluster(**self.settings)

    @property
    def hosts(self) -> dict[str, Any]:
        return {one.name: SimpleNamespace(generation=self.there.get(one.name, 1)) for one in self.plan.hosts}

    @property
    def kept(self) -> Path:
        return self.folder / ".apollo-roll-dev.json"

    def access(self) -> Access | None:
        return self.way

    def reread(self) -> None:
        self.done.append("reread")

    def set_generation(self, role: str, index: int, generation: int) -> None:
        self.done.append(f"{role}-{index} to {generation}")
        self.settings[SECTIONS[role]].setdefault("generations", {})[str(index)] = generation

    def preview(self) -> Preview:
        raised = [one.name for one in self.plan.hosts if one.generation > self.there.get(one.name, 1)]
        steps = [step for name in raised for step in (host(name, generation=2), part(name, INSTANCE, "replace"))]
        return preview(*steps, *self.more)

    def up(self, on_event: Callable[[dict[str, Any]], object]) -> None:
        self.done.append("up")
        self.clock.now += 100
        self.at_up()
        for one in self.plan.hosts:
            if one.generation > self.there.get(one.name, 1):
                self.there[one.name] = one.generation
                for type_, op in EVENTS:
                    urn = f"urn:pulumi:dev::apollo::{type_}::{one.name}-part"
                    on_event({"resOutputsEvent": {"metadata": {"type": type_, "op": op, "urn": urn}}})

    def published(self) -> str:
        self.clock.now += 20
        answer = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


EVENTS = (
    ("command:local:Command", "delete-replaced"),
    ("aws:ec2/instance:Instance", "delete-replaced"),
    ("aws:ebs/volume:Volume", "same"),
    ("aws:ec2/instance:Instance", "create-replacement"),
    ("command:remote:Command", "create-replacement"),
)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    clock = Clock()
    found = Played(tmp_path, clock)

    class Edge(Hosts):
        def run(self, address: str, program: str, *arguments: str, seconds: float) -> str:
            verb, waits, wanted = arguments
            assert verb == "published"
            found.done.append(f"{waits} of {seconds:g} s: {wanted}")
            return super().run(address, program, *arguments, seconds=seconds)

    @contextmanager
    def opened(_: Access) -> Generator[Ssh]:
        yield Edge(tmp_path, {("", "knock"): found.knock, ("", "edge", "published"): found.published})

    monkeypatch.setattr(roll, "time", clock)
    monkeypatch.setattr(roll, "opened", opened)
    monkeypatch.setattr(stack, "Stack", lambda _: found)
    return found


def rolled(*options: str) -> int:
    return main(["roll", "--stack", "dev", *options])


def test_each_host_is_replaced_by_itself_and_the_services_are_waited_for(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[str] = []
    played.at_up = lambda: kept.append((played.folder / ".apollo-roll-dev.lock").read_text())
    played.looks = ['{"web": [2, 2, ["slave-1", "slave-2"]], "one": [1, 1, ["slave-1"]], "off": [0, 1, []]}']
    assert rolled("--slots", "1,3", "--json") == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "rolling slave-1, slave-3 of stack dev",
        "1 of 2: slave-1, generation 2",
        "  one has 1 healthy instances, all on slave-1: it is away meanwhile",
        *(f"    slave-1 {word}, 100 s" for word in ("drained", "terminated", "created", "passed its check")),
        "  replaced and checked, 100 s",
        "  services healthy: web 2, one 1, off 0, 20 s",
        "  slave-1 is done, 140 s",
        "2 of 2: slave-3, generation 2",
        *(f"    slave-3 {word}, 100 s" for word in ("drained", "terminated", "created", "passed its check")),
        "  replaced and checked, 100 s",
        "  services healthy: web 2, one 1, off 0, 20 s",
        "  slave-3 is done, 140 s",
        "done: 2 of 2 hosts rolled in 280 s",
        "Pulumi.dev.yaml has the new generations; commit it.",
    ]
    turn = {"generation": 2, "done": True, "seconds": 140.0, "healthy": {"web": 2, "one": 1, "off": 0}}
    hosts = [{"host": "slave-1", **turn}, {"host": "slave-3", **turn}]
    assert json.loads(out) == {"stack": "dev", "result": "done", "error": "", "hosts": hosts, "seconds": 280.0}
    before, after = "0 of 10 s: {}", '20 of 30 s: {"web": 2, "one": 1, "off": 0}'
    assert played.done == [step for slot in (1, 3) for step in ("reread", before, f"slave-{slot} to 2", "up", after)]
    # While it runs no other does; afterwards there is nothing to go on with.
    assert kept == [str(os.getpid())] * 2
    assert not list(played.folder.glob(".apollo*"))


def test_what_a_roll_says_is_seen_at_once(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", live := Live())

    def up() -> None:
        assert not live.late
        signal.raise_signal(signal.SIGINT)
        assert not live.late

    played.at_up = up
    assert rolled() == 130 and "stopping when this host is done" in live.shown


@pytest.mark.parametrize(
    ("roles", "slots", "expected"),
    [
        (["slave"], None, ["slave-1", "slave-2", "slave-3"]),
        (["edge", "control"], None, ["control-1", "edge-1"]),
        (["edge", "slave"], "1", ["slave-1", "edge-1"]),
        (["slave"], "3,1", ["slave-1", "slave-3"]),
        (["slave"], "1,9,8", "--slots 1,9,8: no slave has number 8, 9; there are: slave-1, slave-2, slave-3"),
        (["control", "edge"], "0", "--slots 0: no control or edge has number 0; there are: control-1, edge-1"),
        (["slave"], "1;2", "--slots 1;2: give numbers with commas between, such as 1,3"),
    ],
)  # fmt: skip
def test_roles_and_slots_name_the_hosts(roles: list[str], slots: str | None, expected: list[str] | str, played: Played) -> None:
    if isinstance(expected, list):
        assert [one.name for one in selected(played.plan.hosts, roles, slots)] == expected
        return
    with pytest.raises(OpsError) as refused:
        selected(played.plan.hosts, roles, slots)
    assert (str(refused.value), refused.value.status) == (expected, 2)


def test_slaves_are_rolled_where_no_role_is_named_and_no_host_is_wrong_usage(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rolled("--unchecked") == 0
    assert [word for word in played.done if " to " in word] == ["slave-1 to 2", "slave-2 to 2", "slave-3 to 2"]
    played.settings["slaves"] = {"count": 0}
    assert rolled() == 2
    assert "there is no host to roll" in capsys.readouterr().err


def changed(name: str, op: str = "replace") -> tuple[Step, ...]:
    return (host(name, "update" if op == "replace" else op, generation=2), part(name, INSTANCE, op))


UP_FIRST = "bring the stack up first: pulumi up -s dev; or somebody else is updating the stack just now: then wait for that"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"way": None}, "no host of this stack can be checked: set admin.allowedCidrs and apollo:adminPrivateKey"),
        ({"knock": GONE}, "no host can be reached, so nothing was touched: no route to host"),
        ({"looks": [GONE]}, "the edge does not say what it serves, so nothing was touched: no route to host"),
        *(
            ({"looks": [answer]}, f"so nothing was touched: its answer makes no sense ({kind})")
            for answer, kind in (('{"web": 1}', "TypeError"), ('{"web": ["x", 1, []]}', "ValueError"), ('{"web": [1]}', "IndexError"), ("[]", "AttributeError"))
        ),
        ({"there": {"slave-3": 5}}, "slave-3 is at generation 5 and Pulumi.dev.yaml says 1: somebody else rolled it. Bring their Pulumi.dev.yaml in first (git pull)"),
        ({"more": (part("slave-2", INSTANCE, "replace"),)}, "the change is more than slave-1, or somebody else is updating the stack just now: then wait for that:\n  slave-2: would be replaced"),
        ({"more": changed("slave-2")}, f"an `up` would also touch slave-2 (replace); {UP_FIRST}"),
        ({"more": changed("slave-4", "create")}, f"an `up` would also touch slave-4 (create); {UP_FIRST}"),
        ({"more": (part("slave-1", VOLUME, "replace"),)}, "slave-1: its data volume would be lost; take its zone and its address back"),
        ({"more": (part("slave-1", VOLUME, "delete"),)}, "slave-1: its data volume would be lost; take its zone and its address back"),
    ],
)  # fmt: skip
def test_a_roll_refuses_before_any_host_is_touched(
    given: dict[str, Any], words: str, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in given.items():
        setattr(played, name, value)
    assert rolled() == 1
    err = capsys.readouterr().err
    assert f"error: {words}" in err or (words.startswith("so nothing") and words in err)
    assert "up" not in played.done
    assert err.splitlines()[-1] != "Pulumi.dev.yaml has the new generations; commit it."


@pytest.mark.parametrize(
    "more",
    [
        (host("slave-2", instanceType="t3.large"),),
        (part("slave-2", INSTANCE, "update", tags={"a": "b"}),),
        (part("slave-1", VOLUME, "update", {"size": 4}, size=6),),
        (part("slave-1", VOLUME, "create"),),
    ],
    ids=("another waits for its turn", "other tags", "a larger volume of its own", "a first volume of its own"),
)  # fmt: skip
def test_a_roll_goes_on_beside_what_takes_no_other_host(more: tuple[Step, ...], played: Played) -> None:
    played.more = more
    assert rolled("--slots", "1") == 0


def test_while_the_mesh_is_switched_no_service_is_waited_for_as_an_edge_reaches_one_side_alone(played: Played) -> None:
    played.settings["overlay"] = {"mesh": "wireguard", "switchFrom": "vxlan"}
    played.looks = ['{"web": [2, 2, ["slave-1", "slave-2"]]}', '{"web": [0, 2, []]}']
    assert rolled("--slots", "1") == 0
    assert played.done == ["reread", "slave-1 to 2", "up"]


def test_without_checks_no_host_is_asked(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    played.way, played.looks = None, [GONE]
    assert rolled("--unchecked", "--slots", "2") == 0
    assert played.done == ["reread", "slave-2 to 2", "up"]
    assert "services" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("patience", "looks", "status", "said", "asked"),
    [
        # The first look is before the host goes.
        (300, [2, 1, 2], 0, ["  waiting for web (1 of 2), 20 s so far", "  services healthy: web 2, 40 s"], "20"),
        (300, [2, 3], 0, ["  services healthy: web 2, 20 s"], "20"),
        (300, [2, GONE, 2], 0, ["  waiting for the edge does not tell: no route to host, 20 s so far", "  services healthy: web 2, 40 s"], "20"),
        # Whose name is gone has none.
        (300, [2, None, 2], 0, ["  waiting for web (0 of 2), 20 s so far"], "20"),
        (40, [2, 1], 1, ["  waiting for web (1 of 2), 40 s so far", "error: services are not healthy after 60 s: web (1 of 2)"], "20"),
        (7, [2, 0], 1, ["error: services are not healthy after 20 s: web (0 of 2)"], "7"),
    ],
)  # fmt: skip
def test_a_roll_waits_for_the_services_as_long_as_it_is_to(
    patience: int, looks: list[int | Exception | None], status: int, said: list[str], asked: str, played: Played,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    played.looks = [
        look if isinstance(look, Exception) else "{}" if look is None else json.dumps({"web": [look, 2, []]}) for look in looks
    ]
    assert rolled("--slots", "2", "--patience", str(patience)) == status
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if line in said] == said
    assert played.done[-1] == f'{asked} of {int(asked) + 10} s: {{"web": 2}}'
    # The host is at its generation, and its services are not there yet.
    assert played.kept.exists() is bool(status)


def test_a_roll_that_waited_in_vain_goes_on_by_what_was_there_before(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.looks = ['{"web": [3, 3, []]}', '{"web": [2, 3, []]}']
    assert rolled("--slots", "1,2", "--patience", "0") == 1
    assert "left: slave-1, slave-2. The same command goes on with them." in capsys.readouterr().err
    assert json.loads(played.kept.read_text())["turns"][0] == {
        "host": "slave-1", "generation": 2, "done": False, "seconds": 0.0, "healthy": {"web": 3},
    }  # fmt: skip
    played.done.clear()
    played.looks = ['{"web": [3, 3, []]}']
    assert rolled("--slots", "2,1") == 0
    assert "going on with the roll of stack dev: slave-1, slave-2 left" in capsys.readouterr().err
    wanted = '20 of 30 s: {"web": 3}'
    # slave-1 is at its generation: it is brought up as it is, and counts by what there was.
    assert played.done == ["reread", "up", wanted, "reread", "0 of 10 s: {}", "slave-2 to 2", "up", wanted]
    assert not played.kept.exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("presses", "fails", "status", "done", "left"),
    [
        (1, False, 130, ["slave-1"], ["slave-2", "slave-3"]),
        (1, True, 1, [], ["slave-1", "slave-2", "slave-3"]),
        (2, True, 130, [], ["slave-1", "slave-2", "slave-3"]),
        (0, True, 1, [], ["slave-1", "slave-2", "slave-3"]),
    ],
)
def test_the_first_ctrl_c_lets_the_host_under_way_end_and_the_second_stops_the_engine(
    sent: signal.Signals, presses: int, fails: bool, status: int, done: list[str], left: list[str], played: Played,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = signal.getsignal(sent)

    def up() -> None:
        for _ in range(presses):
            signal.raise_signal(sent)
        if fails:
            raise OpsError("no capacity")

    played.at_up = up
    assert rolled("--json") == status
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [turn["host"] for turn in told["hosts"] if turn["done"]] == done
    assert told["error"] == ("slave-1: the update failed: no capacity" if status == 1 else "")
    assert err.count("stopping when this host is done; Ctrl-C again stops at once") == min(presses, 1)
    assert f"{'failed' if status == 1 else 'stopped'}: {len(done)} of 3 hosts rolled in " in err
    assert f"left: {', '.join(left)}. The same command goes on with them." in err
    assert ("has the new generations" in err) is bool(done)
    assert ("interrupt" in played.done) is (presses > 1)
    assert signal.getsignal(sent) is before


def test_a_second_ctrl_c_ends_the_wait_for_services_too(played: Played) -> None:
    def up() -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    played.at_up = up
    played.looks = ['{"web": [2, 2, []]}', '{"web": [1, 2, []]}']
    assert rolled() == 130
    assert played.clock.now == 140, "one look at the services before, and one after"


@pytest.mark.parametrize(
    ("roles", "done", "slept"),
    [
        (("edge",), [], [BALANCER, BALANCER]),
        # An edge of an earlier run may be as new to the balancer.
        (("edge",), ["edge-1"], [BALANCER, BALANCER]),
        (("control", "edge"), [], [BALANCER, BALANCER]),
        (("slave",), [], []),
    ],
)
def test_the_load_balancer_has_time_to_know_an_edge_before_the_next_one_goes(
    roles: Iterable[str], done: list[str], slept: list[float], played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.settings["edge"] = {"count": 3, "domain": "apollo.example.com"}
    if done:
        turns = [{"host": f"edge-{n}", "generation": 2, "done": f"edge-{n}" in done} for n in (1, 2, 3)]
        played.kept.write_text(json.dumps({"turns": turns}))
    assert rolled(*(word for role in roles for word in ("--role", role))) == 0
    assert played.clock.slept == slept
    assert ("  15 s for the load balancer to send to edge-1 again" in capsys.readouterr().err) is bool(slept)


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"turns": [{"host": "slave-1"}]}', "is damaged"),
        ('{"turns": [{"host": "slave-1", "generation": 2, "who": "x"}]}', "is damaged"),
        (
            '{"turns": [{"host": "slave-1", "generation": 2, "done": true}, {"host": "slave-2", "generation": 2}]}',
            "a roll of slave-1, slave-2 is unfinished, with slave-2 left; finish it by naming the same hosts, or remove "
            ".apollo-roll-dev.json to give it up",
        ),
    ],
)
def test_an_unfinished_roll_of_other_hosts_is_not_lost(
    kept: str, words: str, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.kept.write_text(kept)
    if words == "is damaged":
        with pytest.raises(OpsError, match=r"\.apollo-roll-dev\.json is damaged .*; remove it to begin again"):
            roll.Roll.load(played.kept)
        return
    assert rolled() == 1
    assert words in capsys.readouterr().err
    assert played.kept.read_text() == kept and "up" not in played.done


def test_a_host_that_the_plan_has_no_more_is_named(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    played.at_up = lambda: played.settings.update(slaves={"count": 1, "generations": {"1": 2}})
    assert rolled() == 1
    assert "slave-2 is no host of Pulumi.dev.yaml any more; remove the roll's file to give it up" in capsys.readouterr().err


def test_two_rolls_of_a_stack_do_not_run_in_one_checkout(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    with (played.folder / ".apollo-roll-dev.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("4242\n")
        other.flush()
        assert rolled() == 1
    assert "another roll of stack dev runs here (process 4242); wait for it, or stop it" in capsys.readouterr().err
    assert played.done == []
    assert rolled() == 0


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"resOpFailedEvent": {"metadata": {"type": INSTANCE, "op": "create-replacement", "urn": "u::slave-2-instance"}}}, "    slave-2 created: that failed, 30 s\n"),
        ({"resOutputsEvent": {"metadata": {"type": INSTANCE, "op": "update", "urn": "u::slave-2-instance"}}}, ""),
        ({"diagnosticEvent": {"message": "x"}}, ""),
    ],
)  # fmt: skip
def test_of_the_engines_steps_those_of_machines_are_said(
    event: dict[str, Any], said: str, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.clock.now = 130.0
    roll.Say().event(event, 100.0)
    assert capsys.readouterr() == ("", said)
