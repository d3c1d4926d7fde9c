"""What a drain does in which order, and what becomes of it where a host does not answer. The hosts are played by a table."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import drain, reach
from ops.reach import Access, Ssh, Unreachable
from tests.ops.conftest import Clock, Live

HOST, EDGE, CONTROL = "10.0.32.34", "10.0.224.11", ("10.0.0.11", "10.0.32.12")
Answer = str | Exception


class Hosts(Ssh):
    """Answers by (address, program, verb); what is not in the table answers with nothing. calls: in order. words, seconds: all
    that each was given, and how long it may take."""

    def __init__(self, folder: Path, answers: dict[tuple[str, ...], Answer | Callable[[], str]]) -> None:
        super().__init__(Access("203.0.113.2", "", "ssh-ed25519 AAAA"), folder)
        self.answers = {
            (HOST, "leave", "begin"): json.dumps({"services": ["10.2.2.0:80"]}),
            ("", "probe", "10"): json.dumps(dict.fromkeys((HOST, EDGE, *CONTROL), "")),
        } | answers
        self.calls: list[tuple[str, ...]] = []
        self.words: list[tuple[str, ...]] = []
        self.access: Access | None = None
        self.seconds: list[float] = []

    def knock(self, seconds: float = 0) -> None:
        del seconds
        if isinstance(answer := self.answers.get(("", "knock")), Exception):
            raise answer

    def run(self, address: str, program: str, *arguments: str, seconds: float) -> str:
        assert seconds >= 0  # Ssh makes a second of it
        self.seconds.append(seconds)
        call = (address, program, arguments[0])
        self.words.append((address, program, *arguments))
        if program != "probe":
            self.calls.append(call)
        answer = self.answers.get(call, "")
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, str) else answer()


def drained(hosts: Hosts, instance: str = "i-1") -> None:
    drain.drain(hosts, "slave-2", HOST, [EDGE], CONTROL, 60, instance)


def test_each_program_is_given_what_it_needs_and_each_step_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drain.time, "monotonic", lambda: 0.0)
    waits: list[float] = []
    monkeypatch.setattr(drain.time, "sleep", waits.append)
    hosts = Hosts(
        tmp_path,
        {(CONTROL[0], "mesos", "needs"): "0 s for 0 tasks", (HOST, "leave", "end"): "2 containers stopped\nleft Consul"},
    )
    drained(hosts)
    assert hosts.words == [
        ("", "probe", "10", HOST, EDGE, *CONTROL),
        (HOST, "leave", "begin", "0", "i-1"),
        (EDGE, "edge", "quiet", "15", "10.2.2.0:80"),
        (CONTROL[0], "mesos", "needs", HOST),
        (CONTROL[0], "mesos", "down", HOST),
        (HOST, "leave", "end", "60"),
        (CONTROL[0], "mesos", "up", HOST),
        (CONTROL[0], "forget", "slave-2", HOST),
    ]
    assert capsys.readouterr().out.splitlines() == [
        "slave-2: in maintenance (0.0 s)",
        "slave-2: 1 services out of 1 edges (0.0 s)",
        "slave-2: Mesos: 0 s for 0 tasks",
        "slave-2: 2 containers stopped (0.0 s)",
        "slave-2: left Consul (0.0 s)",
    ]
    # An edge is no machine of Mesos's, and its load balancer is waited for where there are others.
    other = Hosts(tmp_path, {("10.0.224.12", "leave", "begin"): '{"services": []}'})
    drain.drain(other, "edge-2", "10.0.224.12", [EDGE], CONTROL[1:], 60)
    assert other.words == [
        ("", "probe", "10", "10.0.224.12", EDGE, CONTROL[1]),
        ("10.0.224.12", "leave", "begin", "0", ""),
        ("10.0.224.12", "leave", "end", "60"),
        (CONTROL[1], "forget", "edge-2", "10.0.224.12"),
    ]
    assert capsys.readouterr().out.splitlines() == [
        "edge-2: in maintenance (0.0 s)",
        "edge-2: out of the load balancer (0.0 s)",
    ]
    assert waits == [drain.BALANCER]


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ("95 s for 2 tasks: 2 of /web with 47 s each", 110),
        # A host that asks for hours is one that was taken over.
        ("99999 s for 1 tasks", 615),
        ("failed: master/slaves: 500", None),
        ("", None),
    ],
)
def test_mesos_has_as_long_as_its_tasks_need_and_the_rest_has_what_it_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str, given: int | None
) -> None:
    hosts = Hosts(tmp_path, {(CONTROL[0], "mesos", "needs"): said})
    drained(hosts)
    down = (CONTROL[0], "mesos", "down", HOST)
    orders = [round(seconds) for words, seconds in zip(hosts.words, hosts.seconds, strict=True) if words == down]
    assert orders == ([given] if given else [])
    assert not said or f"slave-2: Mesos: {said}" in capsys.readouterr().out


def test_each_step_has_what_is_left_of_the_time_and_a_limit_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", live := Live())
    clock = Clock()
    monkeypatch.setattr(drain, "time", clock)
    monkeypatch.setattr(reach, "time", clock)

    def steps(host: str, seconds: float, takes: dict[str, float]) -> list[tuple[str, float]]:
        """What each verb was given to end. takes: how long it does."""
        given: list[tuple[str, float]] = []

        class Timed(Hosts):
            def knock(self, seconds: float = 0) -> None:
                given.append(("knock", seconds))

            def run(self, address: str, program: str, *arguments: str, seconds: float) -> str:
                verb = program if program in ("probe", "forget") else arguments[0]
                if verb != "probe":
                    given.append((verb, round(seconds, 3)))
                clock.now += takes.get(verb, 0)
                assert not live.late, "pulumi shows a line when it is said"
                return super().run(address, program, *arguments, seconds=seconds)

        hosts = Timed(tmp_path, {(CONTROL[0], "mesos", "needs"): "95 s for 2 tasks", (CONTROL[0], "forget", host): "forgotten"})
        drain.drain(hosts, host, HOST, [EDGE], CONTROL, seconds)
        return given

    assert steps("slave-2", 60, {"begin": 10, "quiet": 12, "needs": 4, "down": 90, "end": 30, "up": 3}) == [
        ("knock", 20), ("begin", 30), ("quiet", 17), ("needs", 10), ("down", 110), ("end", 38), ("up", 10), ("forget", 17),
    ]  # fmt: skip
    assert live.shown.splitlines()[0] == "slave-2: in maintenance (10.0 s)" and not live.late
    # A host that may take 12 s has no step of 15.
    assert steps("slave-2", 12, {"begin": 4}) == [
        ("knock", 12), ("begin", 12), ("quiet", 10), ("needs", 10), ("down", 110), ("end", 8), ("up", 10), ("forget", 20),
    ]  # fmt: skip
    # The load balancer's time is of the same 60 s, and all of it where there is less.
    assert dict(steps("edge-2", 60, {})) == {"knock": 20, "begin": 30, "quiet": 17, "end": 45, "forget": 20}
    before = clock.now
    assert dict(steps("edge-2", 9, {"begin": 1})) == {"knock": 9, "begin": 9, "quiet": 2, "end": 0, "forget": 20}
    assert clock.now - before == 9


def test_of_control_nodes_the_next_is_asked_while_there_is_time_and_mesos_own_refusal_is_final(tmp_path: Path) -> None:
    refusal = Unreachable("failed: master/slaves: 500")
    hosts = Hosts(
        tmp_path, {(CONTROL[0], program, verb): refusal for program, verb in (("mesos", "needs"), ("forget", "slave-2"))}
    )
    drained(hosts)
    assert [call for call in hosts.calls if call[1] != "edge" and call[0] != HOST] == [
        (CONTROL[0], "mesos", "needs"), (CONTROL[0], "mesos", "up"), (CONTROL[0], "forget", "slave-2"), (CONTROL[1], "forget", "slave-2"),
    ]  # fmt: skip
    assert not drain.forget(hosts, "slave-2", HOST, CONTROL, seconds=0)
    # A control node that goes is not asked to forget itself.
    hosts.calls.clear()
    assert drain.forget(hosts, "control-2", CONTROL[1], CONTROL[1:]) is False and hosts.calls == []


def test_a_host_that_goes_down_in_its_drain_does_not_keep_its_successor_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = Hosts(tmp_path, {(HOST, "leave", "end"): Unreachable("no route"), (CONTROL[0], "mesos", "up"): Unreachable("busy")})
    with pytest.raises(Unreachable):
        drained(hosts)
    assert hosts.calls[-3:] == [
        (CONTROL[0], "mesos", "up"),
        (CONTROL[1], "mesos", "up"),
        (CONTROL[0], "forget", "slave-2"),
    ]
    assert "slave-2: not drained: no route" in capsys.readouterr().out


def test_silent_hosts_cost_no_time_and_a_silent_control_node_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silence = {HOST: "no answer at port 22 within 10 s", CONTROL[0]: "port 22: No route to host", EDGE: "", CONTROL[1]: ""}
    hosts = Hosts(tmp_path, {("", "probe", "10"): json.dumps(silence)})
    with pytest.raises(Unreachable, match="no answer at port 22"):
        drained(hosts)
    assert hosts.calls == [(CONTROL[1], "mesos", "up"), (CONTROL[1], "forget", "slave-2")]
    assert "slave-2: not drained: no answer at port 22 within 10 s" in capsys.readouterr().out


def test_where_no_way_leads_in_that_is_said_once_and_nothing_else_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = Hosts(tmp_path, {("", "knock"): Unreachable("the first edge does not answer", "edge")})
    with pytest.raises(Unreachable):
        drained(hosts)
    assert hosts.calls == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("slave-2: not drained, and the others do not know that it goes: the first edge does not answer")


@pytest.mark.parametrize("answer", ["[]", "{}", '{"services": [7]}', '{"services": "x"}', "null", "no JSON", "[" * 100_000])
def test_an_answer_of_the_wrong_form_ends_a_drain_like_silence(tmp_path: Path, answer: str) -> None:
    hosts = Hosts(tmp_path, {(HOST, "leave", "begin"): answer})
    if answer == '{"services": "x"}':  # a text is a list of its characters, none of which is an instance
        drained(hosts)
        assert (EDGE, "edge", "quiet") not in hosts.calls
        return
    with pytest.raises(Unreachable):
        drained(hosts)
    assert hosts.calls[-1] == (CONTROL[0], "forget", "slave-2")


def test_only_addresses_of_instances_reach_an_edges_command_line(tmp_path: Path) -> None:
    services = ["10.2.2.0:80", "$(reboot)", "--x", "10.2.2.1:99999999"]
    hosts = Hosts(tmp_path, {(HOST, "leave", "begin"): json.dumps({"services": services})})
    drained(hosts)
    (quiet,) = [words for words in hosts.words if words[1] == "edge"]
    assert quiet == (EDGE, "edge", "quiet", "15", "10.2.2.0:80")


def test_another_machine_at_the_address_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = Hosts(tmp_path, {(HOST, "leave", "begin"): json.dumps({"other": "i-2"})})
    drained(hosts)
    assert hosts.calls == [(HOST, "leave", "begin")]
    assert "nothing to drain: i-1 is gone, and i-2 is at its address by now" in capsys.readouterr().out
