"""What a drain does in which order, and what becomes of it where a host does not answer. The hosts are played by a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import drain
from ops.reach import Reach, Unreachable, Way

HOST, EDGE, CONTROL = "10.0.32.34", "10.0.224.11", ("10.0.0.11", "10.0.32.12")
Answer = str | Exception


class Hosts(Reach):
    """Answers by (address, program, verb); what is not in the table answers with nothing. calls: in order."""

    def __init__(self, folder: Path, answers: dict[tuple[str, ...], Answer | Callable[[], str]]) -> None:
        super().__init__(Way("203.0.113.2", "", "ssh-ed25519 AAAA"), folder)
        self.answers = {(HOST, "leave", "begin"): json.dumps({"services": ["10.2.2.0:80"]})} | answers
        self.calls: list[tuple[str, ...]] = []

    def run(self, address: str, program: str, *arguments: str, seconds: float) -> str:
        assert seconds > 0
        call = (address, program, arguments[0])
        self.calls.append(call)
        answer = self.answers.get(call, "")
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, str) else answer()


def drained(hosts: Hosts, instance: str = "i-1") -> None:
    drain.drain(hosts, "slave-2", HOST, [EDGE], CONTROL, 60, instance)


def test_a_host_is_emptied_before_it_ends_and_forgotten_last(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, {})
    drained(hosts)
    assert hosts.calls == [
        (HOST, "leave", "begin"),
        (EDGE, "edge", "quiet"),
        (CONTROL[0], "mesos", "down"),
        (HOST, "leave", "end"),
        (CONTROL[0], "mesos", "up"),
        (CONTROL[0], "forget", "slave-2"),
    ]


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


def test_another_machine_at_the_address_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = Hosts(tmp_path, {(HOST, "leave", "begin"): json.dumps({"other": "i-2"})})
    drained(hosts)
    assert hosts.calls == [(HOST, "leave", "begin")]
    assert "nothing to drain: i-1 is gone, and i-2 is at its address by now" in capsys.readouterr().out
