"""Whom a survey asks what, for how long, and whom it believes; and how ssh is called to ask. With ssh itself: test_reach.py."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host.apollo.__main__ import UNKNOWN, VERSION
from ops import reach, survey
from ops.__main__ import main
from ops.reach import DIAL, KNOCK, Access, Ssh, Unreachable, given_access, opened
from ops.survey import Survey, on_terminal
from tests.host.support import stand_in
from tests.ops.conftest import Clock
from tests.ops.test_drain import Hosts
from tests.plan.support import cluster

PLAN = cluster(slaves={"count": 2}, control={"count": 1}, edge={"count": 2, "domain": "apollo.example.com"})
AT = {one.name: "" if one.name == "edge-1" else str(one.private_ip) for one in PLAN.hosts}
NODE = {"address": "10.0.0.33", "bridge": "10.2.0.1", "subnet": "", "alive": True, "maintenance": False}
SERVICE = {"name": "web", "node": "slave-1", "address": "10.2.1.0", "port": 80, "healthy": True}


def told(**other: Any) -> dict[str, Any]:
    """What a host says that is well."""
    return {"consul": "active", "metrics": "active", "mesh": [], "checks": [], **other}


class Answers(Hosts):
    """By the host's name, told() where nothing else is given; a text is the answer as it is. asked: what of whom, and how many
    seconds it may take."""

    def __init__(self, folder: Path, ports: dict[str, str] | Exception | None = None, **answers: Any) -> None:
        closed = (
            ports
            if isinstance(ports, Exception)
            else json.dumps(dict.fromkeys(AT.values(), "") | {AT[k]: v for k, v in (ports or {}).items()})
        )
        super().__init__(folder, {("", "probe", "10"): closed})
        self.told = {AT[name.replace("_", "-")]: answer for name, answer in answers.items()}
        self.asked: dict[str, tuple[tuple[str, ...], float]] = {}

    def run(self, address: str, program: str, *arguments: str, seconds: float) -> str:
        if program == "probe":
            return super().run(address, program, *arguments, seconds=seconds)
        assert program == "survey"
        self.asked[address] = (arguments, seconds)
        answer = self.told.get(address, told())
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, str) else json.dumps(answer)


class Limit:
    """A deadline with so much left at each look."""

    def __init__(self, *left: float) -> None:
        self.values = list(left)

    @property
    def left(self) -> float:
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


def test_every_host_is_asked_and_who_knows_the_catalog_for_that_too(tmp_path: Path) -> None:
    ssh = Answers(tmp_path)
    seen = survey.survey(ssh, PLAN)
    # The first probe is of all of them, at the addresses that the edge reaches.
    assert ssh.words == [("", "probe", "10", *(at for at in AT.values() if at))]
    assert {at: arguments for at, (arguments, _) in ssh.asked.items()} == {
        at: () if name.startswith("slave") else ("catalog",) for name, at in AT.items()
    }
    assert {seconds for _, seconds in ssh.asked.values()} == {60.0}
    assert seen == Survey(
        mesh={name: [] for name in AT}, consul=dict.fromkeys(AT, "active"), metrics=dict.fromkeys(AT, "active"), checks={name: [] for name in AT}
    )  # fmt: skip


def test_those_that_are_named_are_asked_alone_and_each_answer_is_progress(tmp_path: Path) -> None:
    ssh, progress = Answers(tmp_path), list[tuple[int, int]]()
    survey.survey(ssh, PLAN, PLAN.slaves, lambda done, of: progress.append((done, of)))
    assert sorted(ssh.asked) == sorted((AT["slave-1"], AT["slave-2"]))
    assert progress == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("answer", "port", "kept"),
    [
        (told(), "no answer at port 22", {"silent": "no answer at port 22"}),
        (Unreachable("refused", "down"), "", {"silent": "refused"}),
        (Unreachable("no end after 60 s", "slow"), "", {"slow": "no end after 60 s"}),
        (Unreachable("Permission denied", "denied"), "", {"odd": "Permission denied"}),
        (Unreachable("Traceback"), "", {"odd": "Traceback"}),
        ({"consul": 1}, "", {"odd": "its answer makes no sense: consul: Input should be a valid string"}),
        (told(checks=[{"check": "x"}]), "", {"odd": "its answer makes no sense: checks.0.detail: Field required"}),
        (told(slow="its apollo-check"), "", {"slow": "its apollo-check", "mesh": []}),
        ({"consul": "inactive"}, "", {"lost": "it does not say why", "consul": "inactive", "metrics": "", "checks": []}),
        ({"consul": "active", "meshProblem": "no JSON"}, "", {"lost": "no JSON"}),
        (told(checks=[{"check": "x", "detail": "y"}], metrics="failed"), "", {"checks": [{"check": "x", "detail": "y"}], "metrics": "failed"}),
    ],
)  # fmt: skip
def test_what_a_host_says_or_fails_to_say_is_kept_as_what_it_is(
    answer: Any, port: str, kept: dict[str, Any], tmp_path: Path
) -> None:
    ssh = Answers(tmp_path, {"slave-2": port}, slave_2=answer)
    seen = survey.survey(ssh, PLAN)
    assert {name: getattr(seen, name).get("slave-2") for name in kept} == kept
    for name in {"silent", "slow", "odd", "lost"} - kept.keys():
        assert getattr(seen, name) == {}
    assert (AT["slave-2"] in ssh.asked) is not bool(port)
    assert seen.mesh.keys() >= AT.keys() - {"slave-2"}


NONSENSE = ("[]", "null", "7", "{}", json.dumps(told(nodes={"slave-1": {}})), json.dumps(told(mesh={"a": 1})), "no")


@pytest.mark.parametrize("answer", NONSENSE)
def test_a_host_that_tells_nonsense_hides_no_other(answer: str, tmp_path: Path) -> None:
    seen = survey.survey(Answers(tmp_path, slave_2=answer), PLAN)
    assert list(seen.odd) == ["slave-2"]
    assert seen.consul.keys() == AT.keys() - {"slave-2"}


def test_the_first_control_node_or_edge_that_tells_is_believed_and_the_first_edges_routes(tmp_path: Path) -> None:
    lie = {"nodes": {"x": NODE}, "services": [SERVICE], "routes": {"bank/": "mine"}}
    ssh = Answers(
        tmp_path,
        slave_1=told(**lie),
        control_1=told(nodes={"slave-1": NODE}, services=[SERVICE], routes={"no/": "no"}),
        edge_1=told(**lie | {"routes": {"web/": "web"}}),
        edge_2=told(nodes={}, routes={"web/": "other"}),
    )
    seen = survey.survey(ssh, PLAN)
    assert (seen.nodes, seen.services, seen.routes) == ({"slave-1": NODE}, [SERVICE], {"web/": "web"})
    # The next one speaks where the first cannot.
    seen = survey.survey(
        Answers(tmp_path, control_1=told(), edge_1=Unreachable("x"), edge_2=told(nodes={}, routes={"a/": "b"})), PLAN
    )
    assert (seen.nodes, seen.services, seen.routes) == ({}, [], {"a/": "b"})


@pytest.mark.parametrize("fails", ["knock", "probe"])
def test_where_no_way_leads_in_no_host_is_asked(fails: str, tmp_path: Path) -> None:
    ssh = Answers(tmp_path, Unreachable("no way") if fails == "probe" else None)
    ssh.answers[("", "knock")] = Unreachable("no way") if fails == "knock" else ""
    assert survey.survey(ssh, PLAN) == Survey(unreachable="no way")
    assert ssh.asked == {}


def test_a_survey_ends_in_time_and_whom_it_did_not_ask_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    monkeypatch.setattr(survey, "Deadline", lambda seconds: limits.append(seconds) or Limit(7.5, 7.5, 0.0))
    ssh = Answers(tmp_path)
    seen = survey.survey(ssh, PLAN, PLAN.slaves[:1])
    assert (limits, ssh.asked) == ([300.0], {AT["slave-1"]: ((), 7.5)})
    monkeypatch.setattr(survey, "Deadline", lambda _: Limit(0.0))
    seen = survey.survey(ssh, PLAN, PLAN.slaves[1:])
    assert (seen.slow, list(ssh.asked)) == ({"slave-2": "not asked within 300 s"}, [AT["slave-1"]])


def test_progress_is_a_line_every_few_seconds_and_none_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(survey, "time", clock := Clock())
    tell = on_terminal()
    for done, now in enumerate((1.0, 5.0, 5.1, 10.0, 10.2, 99.0), 1):
        clock.now = now
        tell(done, 6)
    assert capsys.readouterr() == ("", "3 of 6 hosts asked\n5 of 6 hosts asked\n")


# How ssh is called.


class Called(Ssh):
    """An ssh that ends as given, one time after the other, and the last for good. calls: its words, the seconds it has."""

    def __init__(self, folder: Path, *ends: tuple[int, str, str]) -> None:
        super().__init__(Access("203.0.113.2", "", "ssh-ed25519 AAAA"), folder)
        self.ends = list(ends)
        self.calls: list[tuple[str, float]] = []

    def _ssh(self, argv: Sequence[str], seconds: float, stdin: bytes = b"") -> tuple[int, str, str]:
        self.calls.append((" ".join(argv) + (" <" if stdin else ""), seconds))
        return self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]


DONE = (0, "", "")
SLOW = (255, "", "Connection timed out during banner exchange")
SHUT = (255, "", "ssh: connect to host 203.0.113.2 port 22: Connection timed out")
REFUSED = (255, "", "ssh: connect to host 203.0.113.2 port 22: Connection refused")
DENIED = (255, "", "admin@apollo: Permission denied (publickey).")


def test_the_configuration_is_what_ssh_takes_it_for(tmp_path: Path) -> None:
    """Asked of ssh itself."""

    def means(host: str) -> dict[str, str]:
        argv = ["ssh", "-F", str(tmp_path / "config"), "-G", host]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)

    common = {
        "user": "admin", "hostkeyalias": "apollo", "stricthostkeychecking": "true", "batchmode": "yes", "connecttimeout": "20",
        "userknownhostsfile": str(tmp_path / "known"), "globalknownhostsfile": "/dev/null", "loglevel": "ERROR",
        "serveraliveinterval": "5", "serveralivecountmax": "2",
    }  # fmt: skip
    for key, identity in (
        ("the key\n\n", {"identityfile": str(tmp_path / "key"), "identitiesonly": "yes"}),
        ("", {"identitiesonly": "no"}),
    ):
        Ssh(Access("203.0.113.2", key, "ssh-ed25519 AAAA"), tmp_path)
        for host, way in (("jump", "none"), ("203.0.113.2", "none"), ("10.0.0.33", "jump")):
            found = means(host)
            assert {name: found[name] for name in (*common, *identity)} == common | identity
            assert found.get("proxyjump", "none") == way
            assert found["hostname"] == ("203.0.113.2" if way == "none" else host)
    assert (tmp_path / "known").read_text() == "apollo ssh-ed25519 AAAA\n"
    assert (tmp_path / "key").read_text() == "the key\n"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("ends", "seconds", "limits", "kind"),
    [
        ([DONE], DIAL, [5], ""),
        ([SLOW, DONE], DIAL, [5, 20], ""),
        ([SLOW], DIAL, [5, 20], "slow"),
        ([(124, "", "")], DIAL, [5, 20], "slow"),
        ([SHUT], DIAL, [5], "edge"),
        ([DENIED], DIAL, [5], "denied"),
        ([SLOW], 2.2, [3, 3], "slow"),
        ([SLOW], 0.2, [1, 1], "slow"),
    ],
)  # fmt: skip
def test_a_slow_edge_is_knocked_at_twice_and_any_other_once(
    ends: list[tuple[int, str, str]], seconds: float, limits: list[int], kind: str, tmp_path: Path
) -> None:
    ssh = Called(tmp_path, *ends)
    if kind:
        with pytest.raises(Unreachable) as failed:
            ssh.knock(seconds)
        assert failed.value.kind == kind
    else:
        ssh.knock(seconds)
    knocks = [call for call in ssh.calls if call[0].endswith("jump true") and "-p" not in call[0]]
    assert [words for words, _ in knocks] == [f"-o ConnectTimeout={limit} jump true" for limit in limits]
    assert [limit for _, limit in knocks] == [min(limit, seconds) + KNOCK for limit in limits]


@pytest.mark.parametrize(
    ("first", "web", "words"),
    [
        (SHUT, DONE, "it is up, as its port 80 answers, so admin.allowedCidrs does not have the address that this machine's connections come from; run this from"),
        (SHUT, SHUT, "Connection timed out: it is down, or admin.allowedCidrs does not have the address that this machine's"),
        (REFUSED, DONE, ""),
        (DENIED, DONE, ""),
    ],
)  # fmt: skip
def test_a_silent_edges_most_frequent_cause_is_named(first: Any, web: Any, words: str, tmp_path: Path) -> None:
    ssh = Called(tmp_path, first, web)
    with pytest.raises(Unreachable) as failed:
        ssh.knock()
    assert words in str(failed.value)
    assert ("admin.allowedCidrs" in str(failed.value)) is bool(words)
    assert ssh.calls[1:] == ([("-o ConnectTimeout=5 -p 80 jump true", 25)] if words else [])


@pytest.mark.parametrize(
    ("end", "why"),
    [(DONE, ""), (REFUSED, ""), (SHUT, "Connection timed out"), ((1, "", SHUT[2]), ""), ((255, "", "Connection closed"), "")],
)
def test_a_port_is_silent_where_no_connection_comes_about_and_none_is_refused(end: Any, why: str, tmp_path: Path) -> None:
    ssh = Called(tmp_path, end)
    assert ssh.silence() == why
    assert ssh.calls == [("-o ConnectTimeout=5 -p 22 jump true", 25)]


def test_a_verb_is_run_as_root_with_a_limit_at_the_hosts_end_and_here(tmp_path: Path) -> None:
    ssh = Called(tmp_path, (0, "a\x1b\r\nb", "noise"))
    assert ssh.run("10.0.0.33", "edge", "quiet", "a b", seconds=7.6) == "a\\x1b\nb"
    assert ssh.run("", "forget", seconds=0) == "a\\x1b\nb"
    apollo = f"/usr/local/bin/apollo --needs {VERSION}"
    assert ssh.calls == [
        (f"10.0.0.33 sudo timeout 8 {apollo} edge quiet 'a b'", 27.6), (f"203.0.113.2 sudo timeout 1 {apollo} forget", 21.0),
    ]  # fmt: skip
    assert Called(tmp_path, (0, '{"10.0.0.33": ""}', "")).probe(["10.0.0.33", ""]) == {"10.0.0.33": ""}
    asked = Called(tmp_path, (0, "{}", ""))
    assert asked.probe(["", ""]) == {} and not asked.calls
    asked.probe(["10.0.0.33", "", "10.0.0.34"])
    assert asked.calls == [(f"203.0.113.2 sudo timeout 30 {apollo} probe 10 10.0.0.33 10.0.0.34", 50)]


def test_a_host_that_was_too_old_once_is_brought_the_program_at_once_the_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ssh = Called(tmp_path, (UNKNOWN, "", ""), (0, "1", ""), (0, "2", ""), (127, "", ""), (1, "", "x\nlast words"))
    assert [ssh.run("10.0.0.33", "survey", seconds=5) for _ in range(2)] == ["1", "2"]
    with pytest.raises(Unreachable, match=r"^last words$"):
        ssh.run("10.0.0.34", "survey", seconds=5)
    own = [words.split("timeout 5 ")[1].startswith("/usr/local/bin/apollo ") for words, _ in ssh.calls]
    assert own == [True, False, False, True, False]
    assert [words.endswith(" <") for words, _ in ssh.calls] == [not one for one in own]
    assert all(
        "sh -c " in words and f" apollo --needs {VERSION} survey" in words for words, _ in ssh.calls if words.endswith(" <")
    )
    said = "{} has no `apollo survey` yet, so it was brought along; roll the host\n"
    assert capsys.readouterr() == ("", said.format("10.0.0.33") + said.format("10.0.0.34"))


def test_ssh_that_cannot_be_run_or_does_not_end_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = stand_in(tmp_path / "silent", "exec cat /dev/zero >/dev/null")
    echo = stand_in(tmp_path / "echo", "echo \"$*\"; cat; printf '\\377' >&2; exit 3")
    with opened(Access("203.0.113.2", "", "ssh-ed25519 AAAA")) as ssh:
        folder = Path(ssh._config).parent  # pyright: ignore[reportPrivateUsage]
        assert folder.stat().st_mode & 0o777 == 0o700
        call = ssh._ssh  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setenv("APOLLO_SSH", f"{echo} 'of two'")
        assert call(["host", "true"], 60, b"given") == (3, f"of two -F {folder}/config host true\ngiven", "\ufffd")
        monkeypatch.setenv("APOLLO_SSH", str(silent))
        assert call(["host"], 0.01) == (124, "", "")
        monkeypatch.setenv("APOLLO_SSH", str(tmp_path / "none"))
        with pytest.raises(Unreachable, match=r"^ssh cannot be run: No such file or directory$"):
            call(["host"], 60)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("jump", "key", "host_key", "agent", "access"),
    [
        ("203.0.113.2", "k", "h", False, Access("203.0.113.2", "k", "h")),
        ("203.0.113.2", "k", "h", True, Access("203.0.113.2", "k", "h")),
        ("203.0.113.2", "", "h", True, Access("203.0.113.2", "", "h")),
        ("203.0.113.2", "", "h", False, None),
        ("", "k", "h", True, None),
        ("203.0.113.2", "k", "", True, None),
    ],
)
def test_access_is_given_whole_or_not_at_all(
    jump: str, key: str, host_key: str, agent: bool, access: Access | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APOLLO_ADMIN_KEY", key)
    assert given_access(argparse.Namespace(jump=jump, host_key=host_key, agent=agent)) == access


LONGER = ["--patience", "180"]


@pytest.mark.parametrize(
    ("silences", "web", "patience", "said"),
    [
        ([""], [], LONGER, ["203.0.113.2 answers"]),
        (["shut", ""], ["shut"], LONGER, ["203.0.113.2 does not answer at port 22 (shut); 180 s more for its boot", "203.0.113.2 answers"]),
        # Its web port may come a moment before the other.
        (["shut", "shut", ""], ["", "shut"], LONGER, [f"203.0.113.2 does not answer at port 22 (shut); {left} s more for its boot" for left in (180, 150)] + ["203.0.113.2 answers"]),
        (["shut"], [""], LONGER, ["203.0.113.2 does not answer at port 22: shut: it is up, as its port 80 answers"]),
        (["shut"], ["shut"], [], ["203.0.113.2 does not answer at port 22: shut: it is down, or admin.allowedCidrs"]),
    ],
)  # fmt: skip
def test_an_edge_is_waited_for_while_it_may_boot(
    silences: list[str], web: list[str], patience: list[str], said: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    clock = Clock()
    left = {22: silences, 80: web}
    looks = {22: 0, 80: 0}

    class Edge(Called):
        def silence(self, port: int = 22) -> str:
            clock.now += 30 * (port == 80)
            looks[port] += 1
            return left[port].pop(0) if len(left[port]) > 1 else left[port][0]

    @contextmanager
    def given(_: Access) -> Generator[Ssh]:
        yield Edge(tmp_path, DONE)

    monkeypatch.setattr(reach, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(reach, "opened", given)
    monkeypatch.setenv("APOLLO_ADMIN_KEY", "k")
    monkeypatch.setenv("APOLLO_PATIENCE", "30")
    status = main(["reach", "--jump", "203.0.113.2", "--host-key", "h", *patience])
    out, err = capsys.readouterr()
    if silences[-1] == "":
        assert (status, out.splitlines(), err) == (0, said, "")
    else:
        assert status == 1 and f"error: {said[0]}" in err
        # Up at the second answer of its web port, or its time is over; and a look for the cause.
        assert looks == ({22: 2, 80: 3} if web == [""] else {22: 1, 80: 2})
