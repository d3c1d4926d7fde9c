"""Each verb of the hosts' program as its unit or an operator runs it: how it starts, goes on, is stopped, and ends."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host.apollo import bridge_ports, check, firewall, images, leave, local, parameters, register, zookeeper
from host.apollo.__main__ import UNKNOWN, VERSION, run
from host.apollo.consul import acl, configure, forget, names
from host.apollo.edge import apply
from host.apollo.mesh.weave import programs
from host.apollo.mesos import control, scheduler
from tests.host.conftest import Agent
from tests.host.support import Handler, served, until
from tests.host.test_register import Docker, event

FACTS = {
    "NODE_NAME": "slave-1", "ROLE": "slave", "INDEX": "1", "GENERATION": "1", "MESH": "vxlan", "PRIVATE_IP": "10.0.0.33",
    "DOCKER_SUBNET": "10.2.1.0/24", "WEAVE_FROM": "example.com/weave:1", "CONSUL_TLS": "0",
    "CONTROL_ADDRESSES": "10.0.0.11 10.0.32.12 10.0.0.13 10.0.32.14 10.0.0.15",
    "CONSUL_DATACENTER": "dc1", "CONSUL_DOMAIN": "consul", "ZONE": "eu-west-1a", "BRIDGE_ADDRESS": "10.2.0.1",
}  # fmt: skip


class Over(BaseException):
    """Ends what goes on for ever."""


class Clock:
    """Time that passes only where someone waits. left: waits until Over."""

    def __init__(self, left: int = 1000) -> None:
        self.now, self.left, self.waits = 0.0, left, list[float]()

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        self.left -= 1
        if self.left < 0:
            raise Over


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = dict(FACTS)
    monkeypatch.setattr(local, "facts", lambda: found)
    return found


def saying(answers: Iterable[Any]) -> Any:
    """A function that gives, or raises, one of these after the other, and the last for ever."""
    left = list(answers)

    def function(*_: Any, **__: Any) -> Any:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return function


# -- which verb runs what, and ends how

VERBS: list[tuple[str, str, str, tuple[Any, ...], dict[str, Any]]] = [
    ("programs", "parameters", "main", ("programs",), {}),
    ("secrets", "parameters", "main", ("secrets",), {}),
    ("check --json --wait 5", "check", "main", (["--json", "--wait", "5"],), {}),
    ("firewall", "firewall", "keep", (), {}),
    ("firewall check", "firewall", "check", (), {}),
    ("mesh up", "mesh.routed", "up", (), {}),
    ("mesh sync", "mesh.routed", "follow", (), {}),
    ("mesh programs", "mesh.weave.programs", "main", (), {}),
    ("consul configure", "consul.configure", "main", (), {}),
    ("consul acl", "consul.acl", "main", (), {}),
    ("consul acl revoke", "consul.acl", "main", (), {"revoke": True}),
    ("consul tokens", "consul.acl", "serve", (FACTS,), {}),
    ("names", "consul.names", "main", (), {}),
    ("register", "register", "main", (), {}),
    ("servers", "mesos.scheduler", "main", (), {}),
    ("mesos agent", "mesos.agent", "run", (FACTS,), {}),
    ("mesos agent-stopped", "mesos.agent", "end", (), {}),
    ("mesos down 10.0.0.33 5", "mesos.control", "main", (["down", "10.0.0.33", "5"],), {}),
    ("zookeeper members", "zookeeper", "main", (["members"],), {}),
    ("edge apply", "edge.apply", "main", (), {}),
    ("edge apply later", "edge.apply", "main", (), {"later": True}),
    ("edge quiet 5 10.2.1.7:80", "edge.serving", "main", ("quiet", "5", "10.2.1.7:80"), {}),
    ("leave begin 0 i-1", "leave", "main", ("begin", "0", "i-1"), {}),
    ("forget slave-2 10.0.0.34", "consul.forget", "main", ("slave-2", "10.0.0.34"), {}),
    ("survey catalog", "survey", "main", ("catalog",), {}),
    ("probe 5 10.0.0.34", "probe", "main", ("5", "10.0.0.34"), {}),
]
# What runs for ever, or has no failure of its own but an exception.
ENDLESS = {"firewall", "mesh up", "mesh sync", "consul tokens", "names", "servers", "mesos agent", "mesos agent-stopped"}


@pytest.mark.usefixtures("facts")
@pytest.mark.parametrize(("words", "module", "function", "positional", "named"), VERBS, ids=[verb[0] for verb in VERBS])
def test_a_verb_runs_its_program_and_ends_as_that_does(
    words: str, module: str, function: str, positional: tuple[Any, ...], named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def program(*args: Any, **more: Any) -> Any:
        given.append((args, more))
        return 3

    monkeypatch.setattr(f"host.apollo.{module}.{function}", program)
    status = run(words.split())
    assert given == [(positional, named)]
    assert status == (None if words in ENDLESS else 3)
    assert run(["--needs", str(VERSION), *words.split()]) == status
    with pytest.raises(AssertionError):
        monkeypatch.setattr(f"host.apollo.{module}.{function}", saying([AssertionError()]))
        run(words.split())


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("", UNKNOWN),
        ("nonsense", UNKNOWN),
        ("mesh", UNKNOWN),
        ("leave begin", UNKNOWN),
        ("leave begin 0 i-1 i-2", UNKNOWN),
        ("forget slave-2", UNKNOWN),
        ("edge quiet", UNKNOWN),
        (f"--needs {VERSION + 1} version", UNKNOWN),
        (f"--needs {VERSION} version", None),
        ("version", None),
        ("mesos nonsense", 2),
        ("mesos down", 2),
        ("zookeeper nonsense", 2),
        # A node does not take itself out of the ensemble.
        ("zookeeper remove 1", 2),
        ("zookeeper remove x", 2),
    ],
)
@pytest.mark.usefixtures("facts")
def test_an_unknown_verb_is_wrong_usage_and_says_what_there_is(
    words: str, status: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words.split()) == status
    out, err = capsys.readouterr()
    assert (f"{VERSION}\n" == out and not err) if status is None else (not out and err)


@pytest.mark.usefixtures("facts")
@pytest.mark.parametrize(
    ("module", "function", "words", "error"),
    [
        (control, "leading", ["up", "10.0.0.33"], control.MesosError("no answer")),
        (control, "leading", ["up", "10.0.0.33"], local.ConsulError("no answer")),
        (zookeeper, "members", ["members"], zookeeper.ZooKeeperError("no answer")),
        (zookeeper, "members", ["members"], OSError("no answer")),
    ],
)
def test_what_a_server_refuses_an_operator_ends_with_its_words(
    module: Any, function: str, words: list[str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, function, saying([error]))
    assert str(module.main(words)).endswith("no answer")


@pytest.mark.parametrize(
    ("copies", "problem", "ends"),
    [
        (True, "", ""),
        (False, "", ""),
        (True, "SSM is silent", ""),
        (False, "SSM is silent", "the secrets cannot be had, and there is no copy of all"),
    ],
)
def test_secrets_fail_only_where_there_is_neither_ssm_nor_a_copy(
    copies: bool, problem: str, ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECRETS", "ETC", "SSH_KEY", "NO_SSH"):
        monkeypatch.setattr(parameters, name, tmp_path / name)
    (tmp_path / "ETC/apollo").mkdir(parents=True)
    (tmp_path / "ETC/apollo/parameters").write_text("ssh/host-key\n")
    (tmp_path / "NO_SSH").touch()
    if copies:
        local.write(tmp_path / "SECRETS/ssh/host-key", "key of the last boot")
    waits: list[float] = []

    def persistently(function: Any, seconds: float) -> str:
        assert function is parameters.secrets
        waits.append(seconds)
        if not problem:
            local.write(tmp_path / "SECRETS/ssh/host-key", "key")
        return problem

    monkeypatch.setattr(parameters, "persistently", persistently)
    assert parameters.main("secrets") == ends
    # A host with copies boots soon without SSM.
    assert waits == [parameters.PATIENCE_WITH_COPIES if copies else parameters.PATIENCE]
    assert (tmp_path / "NO_SSH").exists() is bool(ends)
    if not ends:
        assert (tmp_path / "SSH_KEY").read_text() == ("key of the last boot" if problem else "key")
        assert (tmp_path / "SSH_KEY").stat().st_mode & 0o777 == 0o600


# -- checks


@pytest.mark.usefixtures("facts")
@pytest.mark.parametrize(
    ("result", "word", "status"),
    [
        ("well", "ok    ", 0),
        (check.Warned("soon full"), "WARN  ", 0),
        (check.Failed("full"), "FAILED", 1),
        (local.ConsulError("no answer"), "FAILED", 1),
        (OSError("no tool"), "FAILED", 1),
        (ZeroDivisionError("odd"), "FAILED", 1),
    ],
)
def test_a_check_ends_1_where_anything_fails_and_0_with_a_warning(
    result: Any, word: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "checks", lambda _: {"disks": saying([result]), "mesh": saying(["well"])})
    assert check.main([]) == status
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{word} disks")
    assert check.main(["--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert (told["host"], told["ok"], len(told["checks"])) == ("slave-1", not status, 2)


@pytest.mark.usefixtures("facts")
def test_a_check_that_may_wait_ends_with_the_first_look_at_which_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(check, "time", clock)
    broken = check.Failed("not yet")
    monkeypatch.setattr(check, "checks", lambda _: {"mesh": mesh})
    mesh = saying([broken, broken, "well"])
    assert check.main(["--wait", "10"]) == 0 and clock.now == 2
    mesh = saying([broken])
    assert check.main(["--wait", "10"]) == 1 and 12 <= clock.now <= 14


# -- what goes on until it is stopped


class Events:
    """Docker, as register's main asks it. Its stream of events does what a test says, then ends."""

    def __init__(self, docker: Docker, then: Any) -> None:
        self.api, self._then = docker, then
        docker.events = self._events  # pyright: ignore[reportAttributeAccessIssue]

    def _events(self, **_: Any) -> Generator[Any]:
        yield from self._then()


def services() -> set[str]:
    known, _ = local.consul("agent/services", local.secret("consul/registration-token"))
    return {key for key in known if key.startswith(configure.CONTAINERS)}


@pytest.fixture
def registered(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Generator[Docker]:
    """A container that is registered by the time Docker's events begin."""
    acl.stand(agent.facts, local.secret("consul/management-token"))
    docker = Docker()
    docker.run(1, "SERVICE_NAME=hello")
    monkeypatch.setattr(local, "facts", lambda: FACTS)
    monkeypatch.setattr(register, "SETTLED", 0.1)
    before = signal.getsignal(signal.SIGTERM)
    yield docker
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("state", "left"), [("stopping", 0), ("running", 1), ("degraded", 1)])
def test_a_host_that_shuts_down_takes_its_names_along_and_a_mere_restart_leaves_them(
    state: str, left: int, registered: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def systemctl(argv: Any, **_: Any) -> Any:
        asked.append(argv)
        return SimpleNamespace(stdout=f"{state}\n")

    def events() -> Generator[Any]:
        until(services, "a service is there")
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(20)
        yield event("start", "never")

    monkeypatch.setattr(register.subprocess, "run", systemctl)
    monkeypatch.setattr(register.docker, "DockerClient", lambda **_: Events(registered, events))
    assert register.main() == 0
    assert asked == [["systemctl", "is-system-running"]]
    assert len(services()) == left


def test_names_follow_dockers_events_and_the_program_ends_with_its_stream(
    registered: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def events() -> Generator[Any]:
        until(lambda: len(services()) == 1, "services: 1")
        key = registered.run(2, "SERVICE_NAME=other")
        yield event("start", key)
        until(lambda: len(services()) == 2, "services: 2")
        yield event("die", key)
        until(lambda: len(services()) == 1, "services: 1")

    monkeypatch.setattr(register.docker, "DockerClient", lambda **_: Events(registered, events))
    # By its unit it starts again, with Docker.
    assert register.main() == 1
    assert len(services()) == 1


def test_a_catalog_that_is_away_or_without_a_leader_is_said_once_and_asked_for_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, asked, taken = Clock(8), list[str](), list[Any]()
    away = local.ConsulError("no answer")

    def found(what: list[str], index: int, led: str = "true") -> Any:
        return what, {"X-Consul-Index": str(index), "X-Consul-KnownLeader": led}

    # After a restart of all servers one has nothing before it hears from the one that leads.
    answers = saying([away, away, found(["a"], 7), found(["b"], 5), found([], 1, "false"), found(["c"], 9), away, away])

    def consul(path: str, token: str) -> Any:
        assert token == "token"
        asked.append(path.partition("index=")[2])
        return answers()

    monkeypatch.setattr(names, "time", clock)
    monkeypatch.setattr(local, "consul", consul)
    monkeypatch.setattr(local, "secret", lambda _: "token")
    with pytest.raises(Over):
        names.watch("catalog/nodes", taken.append, "consul/slave-token")
    assert taken == [["a"], ["b"], ["c"]]
    # One that goes back begins anew, and so does one that was away.
    assert asked == ["0", "0", "0", "7", "0", "0", "9", "0", "0"]
    known, unled = "catalog/nodes is known", "catalog/nodes: no server leads"
    assert capsys.readouterr().out.splitlines() == [known, unled, known, "no answer"]
    assert set(clock.waits) == {names.PAUSE}


def test_no_look_at_a_server_ends_the_next_ones(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(4)
    monkeypatch.setattr(scheduler, "time", clock)
    odd = ZeroDivisionError("odd")
    monkeypatch.setattr(scheduler, "step", saying([local.ConsulError("away"), local.ConsulError("away"), odd, "leads"]))
    with pytest.raises(Over):
        scheduler.watch(FACTS, scheduler.SERVICES[0])
    name = scheduler.SERVICES[0].name
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: Consul: away", f"{name}: cannot look: ZeroDivisionError('odd')", f"{name}: leads",
    ]  # fmt: skip


@pytest.mark.usefixtures("facts")
def test_weaves_programs_are_asked_for_until_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, refused = Clock(), images.Refused("another digest")
    monkeypatch.setattr(programs, "time", clock)
    monkeypatch.setattr(programs, "install", saying([OSError("away"), refused, "installed"]))
    assert programs.main() == 0 and clock.waits == [2, 2]
    monkeypatch.setattr(programs, "install", saying([refused]))
    assert programs.main() == 1 and clock.now > programs.PATIENCE


def test_packet_rules_are_kept_whatever_goes_wrong_and_ready_is_said_once_they_stand(
    facts: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts["DOCKER_SUBNET"] = ""
    looks, waits, told, followed = [0], list[float](), list[int](), list[Any]()

    def thread(target: Any, args: Any, daemon: bool) -> Any:
        assert daemon, "it ends with the program"
        return SimpleNamespace(start=lambda: followed.append((target, *args[1:])))

    class Changed(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            if len(waits) == 4:
                raise Over
            return True

    def uplink(_: Any) -> str:
        looks[0] += 1
        if looks[0] in (1, 3):
            raise firewall.FirewallError("no route")
        return "eth0"

    monkeypatch.setattr(firewall.threading, "Event", Changed)
    monkeypatch.setattr(firewall.threading, "Thread", thread)
    monkeypatch.setattr(firewall, "uplink", uplink)
    monkeypatch.setattr(firewall, "senders", lambda of: of["NODE_NAME"])
    monkeypatch.setattr(firewall, "packets", lambda of, *given: (of["NODE_NAME"], *given))
    monkeypatch.setattr(firewall, "frames", lambda of, *given: (of["NODE_NAME"], *given))
    monkeypatch.setattr(firewall, "keep_limits", lambda: None)
    monkeypatch.setattr(firewall, "ready", lambda: told.append(looks[0]))
    tables = {"inet": ("slave-1", "eth0", "slave-1"), "bridge": ("slave-1", [], [])}
    monkeypatch.setattr(firewall.Keeper, "keep", lambda _, given: ["inet"] if given == tables else [])
    with pytest.raises(Over):
        firewall.keep()
    followers = [(firewall.follow, "nft", "monitor"), (firewall.follow, "ip", "monitor", "link", "route")]
    assert followed == followers
    assert told == [2] and waits == 4 * [firewall.INTERVAL]
    stand = ["loaded: inet", "all rules stand"]
    assert capsys.readouterr().out.splitlines() == ["no route", *stand, "no route", *stand]


def test_a_slaves_rules_follow_docker_too(facts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[Any] = []
    kept: list[Any] = []
    ports = SimpleNamespace(follow="Docker", look=lambda: (["a place"], ["a bridge"]))
    monkeypatch.setattr(bridge_ports, "Ports", lambda: ports)
    monkeypatch.setattr(
        firewall.threading, "Thread", lambda target, **_: SimpleNamespace(start=lambda: followed.append(target))
    )
    monkeypatch.setattr(firewall, "uplink", lambda _: "eth0")
    monkeypatch.setattr(firewall, "senders", lambda _: None)
    monkeypatch.setattr(firewall, "packets", lambda *_: "rules")
    monkeypatch.setattr(firewall, "frames", lambda *given: given)
    monkeypatch.setattr(firewall, "ready", saying([Over()]))
    monkeypatch.setattr(firewall.Keeper, "keep", lambda _, given: kept.append(given))
    with pytest.raises(Over):
        firewall.keep()
    assert followed == ["Docker", firewall.follow, firewall.follow]
    assert kept == [{"inet": "rules", "bridge": (facts, ["a place"], ["a bridge"])}]


# -- what is done once


@pytest.mark.parametrize(
    ("leader", "revoke", "unread", "node", "status", "stood"),
    [
        (["10.0.0.11:8300"], False, [], {"bridge": "10.2.0.250"}, 0, True),
        (["10.0.0.11:8300"], False, [], {}, acl.TRY_AGAIN, True),
        (["10.0.0.11:8300"], False, [], None, acl.TRY_AGAIN, True),
        (["10.0.32.12:8300"], False, [], {"bridge": "10.2.0.250"}, 0, False),
        (["10.0.32.12:8300"], True, [], {"bridge": "10.2.0.250"}, 0, True),
        (["10.0.0.11:8300"], True, ["consul/edge-token"], {"bridge": "10.2.0.250"}, 1, True),
        # One that starts, and is elected.
        ([local.ConsulError("away"), "", "10.0.0.11:8300"], False, [], {"bridge": "10.2.0.250"}, 0, True),
        ([local.ConsulError("away")], False, [], {}, acl.TRY_AGAIN, False),
        ([""], False, [], {}, acl.TRY_AGAIN, False),
    ],
)
def test_who_leads_makes_the_tokens_and_everyone_tries_again_until_it_is_known(
    leader: list[Any], revoke: bool, unread: list[str], node: Any, status: int, stood: bool, facts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    facts |= {"PRIVATE_IP": "10.0.0.11", "NODE_NAME": "control-1"}
    graces: list[float] = []
    monkeypatch.setattr(local, "secret", lambda _: "6b0e2f7e-5c5b-4b57-9d3c-0a4b7c1de000")
    says = saying(leader)
    monkeypatch.setattr(local, "consul", lambda _: (says(), None))
    monkeypatch.setattr(acl, "time", Clock())
    monkeypatch.setattr(acl, "from_ssm", dict)
    monkeypatch.setattr(acl, "unread", lambda _: unread)
    monkeypatch.setattr(acl, "stand", lambda _f, _m, grace, _s: graces.append(grace))
    monkeypatch.setattr(acl, "ask", lambda *_: node if node is None else {"Node": {"Meta": node}})
    assert acl.main(revoke) == status
    assert graces == ([0 if revoke else acl.GRACE] if stood else [])


@pytest.mark.parametrize(
    ("later", "there", "outcomes", "status", "after"),
    [
        (False, False, [], 0, 0),
        (False, True, [True], 0, 0),
        # What has to wait is left to a process of its own.
        (False, True, [False], 0, 1),
        (False, True, [apply.ApplyError("refused")], 1, 0),
        (True, True, [False, False, True], 0, 0),
        (True, True, [apply.ApplyError("refused")], 1, 0),
        (True, True, [BlockingIOError()], 0, 0),
    ],
)
def test_a_new_configuration_is_applied_now_or_soon_and_a_refused_one_is_a_failure(
    later: bool, there: bool, outcomes: list[Any], status: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(apply, "STATE", tmp_path)
    monkeypatch.setattr(apply, "NEW", tmp_path / "services.cfg")
    monkeypatch.setattr(apply, "wait", lambda: 0)
    monkeypatch.setattr(apply, "apply", saying(outcomes or [AssertionError("nothing is there")]))
    monkeypatch.setattr(apply.subprocess, "Popen", started.append)
    if there:
        (tmp_path / "services.cfg").touch()
    assert apply.main(later) == status
    assert started == after * [apply.LATER]


# -- what the programs share


def test_a_hosts_facts_are_the_lines_of_its_file_and_its_secrets_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "NODE_ENV", tmp_path / "node.env")
    monkeypatch.setattr(local, "SECRETS", tmp_path)
    local.write(tmp_path / "node.env", 'ROLE="slave"\nOPTIONS="--a=1 --b=2"\nEMPTY=""\n')
    assert local.facts() == {"ROLE": "slave", "OPTIONS": "--a=1 --b=2", "EMPTY": ""}
    (tmp_path / "node.env.new").write_text("of a write that broke off")
    local.write(tmp_path / "node.env", " secret\n", 0o600)
    assert local.secret("node.env") == "secret" and (tmp_path / "node.env").stat().st_mode & 0o777 == 0o600
    assert [place.name for place in tmp_path.iterdir()] == ["node.env"]


def test_consul_is_asked_with_a_token_and_what_it_refuses_is_told_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    class Consul(Handler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked = json.dumps([self.command, self.path, self.headers["X-Consul-Token"], body])
            answers = {"/v1/no": (403, "x" * 400), "/v1/odd": (200, "{"), "/v1/none": (200, "")}
            self.answer(*answers.get(self.path, (200, asked)), {"X-Consul-Index": "7"})

        do_GET = do_PUT = handle_any

    with served(Consul) as place:
        monkeypatch.setattr(local, "CONSUL", f"http://{place}")
        answer, headers = local.consul("a?b=1")
        assert (answer, headers["X-Consul-Index"]) == (["GET", "/v1/a?b=1", "", ""], "7")
        assert local.consul("a", "token", "PUT", {"b": []})[0] == ["PUT", "/v1/a", "token", '{"b": []}']
        assert local.consul("none")[0] is None
        with pytest.raises(local.ConsulError, match=r"^no: 403 x{300}$") as refused:
            local.consul("no")
        with pytest.raises(local.ConsulError, match=r"^odd: ") as odd:
            local.consul("odd")
    with pytest.raises(local.ConsulError, match=r"^a: .*refused") as away:
        local.consul("a")
    assert (refused.value.status, odd.value.status, away.value.status) == (403, 0, 0)


# -- who is joined, whom a control node forgets


@pytest.mark.parametrize(("role", "own"), [("slave", "10.0.0.33"), ("control", "10.0.32.12"), ("edge", "10.0.224.11")])
@pytest.mark.parametrize("found", [[], ["10.0.0.13"]])
def test_an_agent_joins_all_five_control_addresses_but_its_own_or_those_that_answer(
    role: str, own: str, found: list[str], host: Path, facts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts |= {"ROLE": role, "PRIVATE_IP": own, "NODE_NAME": f"{role}-2", "INDEX": "2"}
    asked: list[list[str]] = []

    def obtain(_: Any, servers: list[str], *__: Any) -> Any:
        asked.append(servers)
        return configure.Answer("token", ""), found

    monkeypatch.setattr(configure, "TARGET", host / "node.json")
    monkeypatch.setattr(configure, "CERTIFICATES", host / "tls")
    monkeypatch.setattr(configure, "starts_cluster", lambda *_: False)
    monkeypatch.setattr(configure, "obtain", obtain)
    monkeypatch.setattr(configure.shutil, "chown", lambda *_: None)
    monkeypatch.delenv("MAINPID", raising=False)
    assert configure.main() == ""
    five = ["10.0.0.11", "10.0.32.12", "10.0.0.13", "10.0.32.14", "10.0.0.15"]
    others = [address for address in five if address != own]
    assert asked == [others]
    assert json.loads((host / "node.json").read_text())["retry_join"] == (found or others)


@pytest.mark.parametrize("comes_back", [False, True])
def test_who_is_alive_is_not_forgotten_though_it_was_to_go(
    comes_back: bool, agent: Agent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    management = local.secret("consul/management-token")
    acl.stand(agent.facts, management)
    token = acl.create_node(agent.facts, management, "slave-7")
    monkeypatch.setattr(local, "facts", lambda: agent.facts)
    asked: list[str] = []
    consul = local.consul

    def entry(status: str) -> None:
        health = {"Node": "slave-7", "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": status}
        consul("catalog/register", management, "PUT", {"Node": "slave-7", "Address": "10.0.0.39", "Check": health})

    def recorded(path: str, *more: Any) -> Any:
        asked.append(path)
        if "force-leave" in path:  # it is no member of this one's gossip
            return None, None
        return consul(path, *more)

    # The one that went is still heard for some seconds; then it is dead, or its successor is there.
    clock = Clock()
    clock.sleep = lambda seconds: (setattr(clock, "now", clock.now + seconds), entry("passing" if comes_back else "critical"))[
        0
    ]
    monkeypatch.setattr(forget, "time", clock)
    monkeypatch.setattr(local, "consul", recorded)
    entry("passing")
    assert run(["forget", "slave-7", "10.0.0.39"]) == 0
    said = capsys.readouterr().out
    assert ("slave-7 is alive in Consul: nothing to forget" in said) is comes_back
    assert (clock.now >= forget.NOTICED) is comes_back
    assert ("agent/force-leave/slave-7?prune" in asked) is not comes_back
    monkeypatch.setattr(local, "consul", consul)
    if comes_back:
        assert consul("acl/token/self", token)[0]["SecretID"] == token
    else:
        with pytest.raises(local.ConsulError):
            consul("acl/token/self", token)


@pytest.mark.usefixtures("facts")
def test_two_drains_of_one_host_do_not_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leave, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(local, "secret", lambda _: "a token")
    answers: list[Any] = []
    # While the first one is at work a second one begins.
    monkeypatch.setattr(leave, "end", lambda *_: answers.append(run(["leave", "undo", "0"])))
    monkeypatch.setattr(leave, "undo", lambda *_: answers.append("undone"))
    assert run(["leave", "end", "5"]) == 0
    assert len(answers) == 1 and "another `apollo leave` runs on this host" in answers[0]
    assert run(["leave", "undo", "0"]) == 0 and answers[1:] == ["undone"]
