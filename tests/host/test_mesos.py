"""How Mesos's programs are run on a host: from where, with what, and what is done when they cannot be. Mesos itself is in no
registry that the tests reach, so its HTTP API is played here by a stand-in that keeps what Mesos's documentation promises."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host.apollo import check, images, local, zookeeper
from host.apollo.mesos import agent, control, mesos, scheduler
from host.render import node_facts
from localcloud import paths
from tests.host.support import EXAMPLES, STACK, Handler, files_of, raising, served, stand_in
from tests.host.test_verbs import Clock
from tests.plan.support import cluster

PLAN = EXAMPLES["weave"]
# A file of that name.
IMAGES = 'MASTER="m:1"\nMARATHON="n:1"\nAGENT="a:1"\n'
CONTROL, SLAVE = (node_facts(PLAN, host, STACK) for host in (PLAN.control[0], PLAN.slaves[0]))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's folders somewhere else, with the passwords."""
    monkeypatch.setattr(local, "SECRETS", tmp_path / "secrets")
    for user in ("marathon", "operator", "agent", "zookeeper"):
        local.write(tmp_path / f"secrets/mesos/{user}-password", f"{user}-secret\n", 0o600)
    local.write(tmp_path / "secrets/control/count", "3\n")
    for module, name in (
        *((mesos, name) for name in ("OWN", "USR", "IMAGES", "PACKAGES", "RUN")),
        *((agent, name) for name in ("WORK", "LATEST", "FAILURES", "CGROUPS")),
        *((control, name) for name in ("LOG", "QUORUM", "MARATHON_LOG")),
    ):
        monkeypatch.setattr(module, name, tmp_path / str(getattr(module, name)).lstrip("/"))
    mesos.RUN.mkdir(parents=True)
    return tmp_path


# -- from where


def test_somebodys_own_build_goes_before_an_image_and_an_image_before_the_hosts(host: Path) -> None:
    def first() -> str:
        return mesos.command("agent", ["--x"])[0]

    with pytest.raises(SystemExit):
        first()
    assert mesos.complaint("agent").startswith(f"there is no {host}/usr/sbin/mesos-agent")
    local.write(mesos.USR / "sbin/mesos-agent", "")
    assert first() == f"{host}/usr/sbin/mesos-agent"
    local.write(mesos.IMAGES, 'AGENT="example/mesos:1"\n')
    assert first() == "docker"
    local.write(mesos.OWN / "sbin/mesos-agent", "")
    assert first() == f"{host}/opt/mesos/sbin/mesos-agent"


REPOSITORY = {
    "repository": "https://apt.example.com/mesos bookworm main",
    "repositoryKey": "https://apt.example.com/key",
    "repositoryFingerprint": "A" * 40,
}


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({}, {"/etc/apollo/mesos-images.env"}),
        ({"source": "host"}, set[str]()),
        ({"source": "packages", **REPOSITORY}, {"/etc/apollo/mesos-packages.env"}),
    ],
)
def test_user_data_says_where_mesos_comes_from_and_nothing_where_the_host_has_it(
    settings: dict[str, Any], files: set[str]
) -> None:
    plan = cluster(mesos=settings)
    for planned in (plan.control[0], plan.slaves[0]):
        assert {path for path in files_of(plan, planned) if path.startswith("/etc/apollo/mesos-")} == files
    assert not [path for path in files_of(plan, plan.edges[0]) if path.startswith("/etc/apollo/mesos-")]


@pytest.mark.usefixtures("host")
def test_no_container_of_ours_has_a_name_that_the_agent_takes_for_a_task() -> None:
    local.write(mesos.IMAGES, IMAGES)
    for name in mesos.PROGRAMS:
        (container,) = [word for word in mesos.command(name, []) if word.startswith("--name=")]
        assert not container.removeprefix("--name=").startswith("mesos-")


def test_clients_of_zookeeper_are_told_the_planned_control_nodes_as_more_silent_ones_would_end_their_sessions(
    host: Path,
) -> None:
    assert mesos.zookeeper(CONTROL, "mesos") == "zk://10.0.0.11:2181,10.0.32.12:2181,10.0.0.13:2181/mesos"
    local.write(host / "secrets/control/count", "5\n")
    assert mesos.zookeeper(SLAVE, "mesos").count(":2181") == 5


@pytest.mark.usefixtures("host")
def test_a_program_that_would_be_the_first_process_of_its_container_gets_an_init() -> None:
    local.write(mesos.IMAGES, IMAGES)
    assert "--init" in mesos.command("master", []) and "--init" in mesos.command("marathon", [])
    # With the host's processes it is none.
    assert "--init" not in mesos.command("agent", [], agent.DOCKER_OPTIONS)


def test_marathon_is_given_no_password_by_a_variable_that_it_logs(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local.write(mesos.OWN / "bin/marathon", "")
    given: dict[str, str] = {}
    monkeypatch.setattr(mesos, "start", lambda *given_: given.update(given_[-1]))
    monkeypatch.setattr(zookeeper, "CLAIMED", host / "claimed")
    local.write(host / "claimed", "")
    control.marathon(CONTROL)
    logged = {name: value for name, value in given.items() if name.startswith("MARATHON_")}
    assert list(logged) == ["MARATHON_ZK"] and "marathon-secret" not in logged["MARATHON_ZK"]
    assert given["MESOSPHERE_HTTP_CREDENTIALS"] == "marathon:marathon-secret"
    # Without it Marathon 1.7.50 ends at once on the hosts' Java 17; an image has its own Java.
    assert given["JDK_JAVA_OPTIONS"] == "--add-opens=java.base/java.lang=ALL-UNNAMED"
    assert "JDK_JAVA_OPTIONS" not in control.MARATHON_VARIABLES
    # What hides that one's login has its own test by hand, with the real Logback (docs/mesos.md).
    assert f"-Dlogback.configurationFile={control.MARATHON_LOG}" in given["JAVA_OPTS"]
    assert "%n%ex){'zk://[^@ ]*@', 'zk://'}%nopex" in control.MARATHON_LOG.read_text()


def test_no_password_is_on_a_command_line(host: Path) -> None:
    local.write(mesos.IMAGES, IMAGES)
    passwords = [(host / f"secrets/mesos/{user}-password").read_text().strip() for user in ("marathon", "operator", "agent")]
    flags = {
        "master": control.master_flags(CONTROL, 2),
        "marathon": control.marathon_flags(CONTROL),
        "agent": agent.flags(SLAVE, "cpus:1"),
    }
    line = " ".join(word for name in flags for word in mesos.command(name, flags[name])).replace("/marathon-secret", "")
    assert not [password for password in passwords if password in line]


# -- how a program gets there and is started


class Started(BaseException):
    """In the place of the program that a process becomes. argv, environment: what it is started with."""


@pytest.fixture
def became(host: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The command lines with which processes became other programs, each with its environment. Docker is a script that has the
    image `here:1`, gets `new:1`, and keeps what it is told; the installer one that fails."""
    became: list[Any] = []

    def execvpe(file: str, argv: list[str], environment: dict[str, str]) -> None:
        assert file == argv[0]
        became.append((argv, {name: value for name, value in environment.items() if name not in os.environ}))
        raise Started

    monkeypatch.setattr(mesos.os, "execvpe", execvpe)
    docker = f"""echo "$*" >> {host}/docker.log; case "$*" in
        "image inspect here:1" | "pull -q new:1" | rm*) ;;
        "pull -q silent:1") exit 1 ;;
        *) echo "no such image" >&2; exit 1 ;; esac"""
    stand_in(host / "bin/docker", docker)
    monkeypatch.setattr(mesos, "INSTALL", str(stand_in(host / "bin/install", "echo 'E: no'; echo 'such  package' >&2; exit 1")))
    monkeypatch.setenv("PATH", f"{host}/bin:{os.environ['PATH']}")
    return became


def docker_log(host: Path) -> list[str]:
    log = host / "docker.log"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("image", "asked", "said", "problem"),
    [
        ("here:1", ["image inspect here:1"], "", ""),
        ("new:1", ["image inspect new:1", "pull -q new:1"], "pulling new:1", ""),
        ("none:1", ["image inspect none:1", "pull -q none:1"], "pulling none:1", "cannot pull none:1: no such image"),
        (
            "silent:1",
            ["image inspect silent:1", "pull -q silent:1"],
            "pulling silent:1",
            "cannot pull silent:1: docker pull failed",
        ),
    ],
)
@pytest.mark.usefixtures("became")
def test_an_image_that_is_not_here_is_pulled(
    image: str, asked: list[str], said: str, problem: str, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local.write(mesos.IMAGES, f'AGENT="{image}"\n')
    # An image goes before packages.
    local.write(mesos.PACKAGES, "")
    with pytest.raises(SystemExit) if problem else contextlib.nullcontext() as ended:
        mesos.fetch("agent")
    assert docker_log(host) == asked and capsys.readouterr().out.splitlines() == [line for line in (said, problem) if line]
    assert mesos.complaint("agent") == (problem or said)
    if problem:
        assert ended and ended.value.code == mesos.NOT_YET
        # Its reason stays while it is tried again.
        mesos.say("agent", "why")
        with pytest.raises(SystemExit):
            mesos.fetch("agent")
        assert capsys.readouterr().out.splitlines()[:2] == ["why", "why"]


@pytest.mark.usefixtures("became")
def test_an_image_by_digest_comes_by_the_stacks_bucket(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, loaded = f"example.com/mesos@sha256:{'a' * 64}", list[Any]()
    local.write(mesos.IMAGES, f'AGENT="{source}"\n')
    monkeypatch.setattr(images, "load", lambda *given: loaded.append(given))
    mesos.fetch("agent")
    assert loaded == [(source, mesos.TURN)] and docker_log(host) == [f"image inspect apollo/mesos:{'a' * 16}"]
    for error in (images.Refused("another digest"), OSError("away"), ValueError("odd"), KeyError("layers")):
        monkeypatch.setattr(images, "load", raising(error))
        with pytest.raises(SystemExit):
            mesos.fetch("agent")
        assert mesos.complaint("agent") == f"cannot pull {source}: {error}"


@pytest.mark.usefixtures("became")
def test_packages_are_installed_where_no_image_is_named_and_the_program_is_not_there(host: Path) -> None:
    mesos.fetch("agent")
    local.write(mesos.PACKAGES, "")
    with pytest.raises(SystemExit):
        mesos.fetch("agent")
    assert mesos.complaint("agent") == "cannot install Mesos: E: no such package"
    local.write(mesos.USR / "sbin/mesos-agent", "")
    mesos.fetch("agent")
    (mesos.USR / "sbin/mesos-agent").unlink()
    stand_in(host / "bin/install", "exit 0")
    mesos.say("agent", "")
    mesos.fetch("agent")
    assert mesos.complaint("agent") == "installing its package" and docker_log(host) == []


@pytest.mark.parametrize(
    ("argv", "removes", "libraries"),
    [
        (["{}/opt/mesos/sbin/mesos-agent", "--x"], False, True),
        (["{}/usr/sbin/mesos-agent", "--x"], False, False),
        (["docker", "run", "a:1"], True, False),
    ],
)
def test_a_process_becomes_the_program_with_its_libraries_and_without_the_container_of_before(
    argv: list[str], removes: bool, libraries: bool, host: Path, became: list[Any]
) -> None:
    mesos.say("agent", "why it did not run")
    argv = [word.format(host) for word in argv]
    with pytest.raises(Started):
        mesos.start("agent", argv, {"OWN": "1"})
    own = {"LD_LIBRARY_PATH": f"{host}/opt/mesos/lib", "MESOS_NATIVE_JAVA_LIBRARY": f"{host}/opt/mesos/lib/libmesos.so"}
    assert became == [(argv, {"OWN": "1"} | (own if libraries else {}))]
    assert docker_log(host) == (["rm -f apollo-agent"] if removes else []) and mesos.complaint("agent") == ""
    with pytest.raises(Started):
        mesos.start("agent", argv)


def test_an_agent_starts_with_what_the_machine_has_and_a_password_that_root_alone_reads(
    host: Path, became: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    local.write(mesos.OWN / "sbin/mesos-agent", "")
    local.write(host / "meminfo", "MemFree: 1 kB\nMemTotal:        4000000 kB\n")
    monkeypatch.setattr(agent, "MEMORY", host / "meminfo")
    monkeypatch.setattr(agent.os, "cpu_count", lambda: None)
    monkeypatch.setattr(
        agent.shutil, "disk_usage", lambda place: SimpleNamespace(total=40 << 30) if place == agent.WORK else None
    )
    with pytest.raises(SystemExit):
        agent.run(SLAVE)
    assert mesos.complaint("agent").startswith("no control group hierarchy for cpu, cpuacct, memory below")
    for name in ("cpu", "cpuacct", "memory"):
        (agent.CGROUPS / name).mkdir(parents=True)
    agent.WORK.parent.mkdir()
    local.write(agent.FAILURES, "1\n2\n3\n")
    with pytest.raises(Started):
        agent.run(SLAVE)
    ((argv, _),) = became
    assert argv == [
        f"{host}/opt/mesos/sbin/mesos-agent",
        *agent.flags(SLAVE, "cpus:0.75;mem:3136;disk:36864;ports:[31000-32000]"),
    ]
    assert agent.WORK.is_dir() and not agent.FAILURES.exists()
    credential = {"principal": "agent", "secret": "agent-secret"}
    for name, content in (("credential", credential), ("credentials", {"credentials": [credential]})):
        file = mesos.RUN / f"{name}.json"
        assert json.loads(file.read_text()) == content and file.stat().st_mode & 0o777 == 0o600


def test_a_master_and_marathon_start_with_files_of_passwords_that_root_alone_reads(
    master: dict[str, Any], became: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del master
    login = "zk://mesos:zookeeper-secret@10.0.0.11:2181,10.0.32.12:2181,10.0.0.13:2181"
    for name in ("credentials.json", "acls.json", "zookeeper", "quorum"):
        assert ((mesos.RUN / name).stat().st_mode & 0o777 == 0o600) is (name != "quorum")
    assert (mesos.RUN / "zookeeper").read_text() == f"{login}/mesos" and (mesos.RUN / "quorum").read_text() == "2\n"
    users = ("marathon", "agent", "operator")
    given = json.loads((mesos.RUN / "credentials.json").read_text())
    assert given == {"credentials": [{"principal": user, "secret": f"{user}-secret"} for user in users]}
    monkeypatch.setattr(mesos, "start", lambda *given: became.append(given))
    local.write(mesos.OWN / "bin/marathon", "")
    control.master(CONTROL)
    control.marathon(CONTROL)
    (one, argv), (other, argv2, environment) = became
    assert (one, argv) == ("master", [f"{mesos.OWN}/sbin/mesos-master", *control.master_flags(CONTROL, 2)])
    assert (other, argv2) == ("marathon", [f"{mesos.OWN}/bin/marathon", *control.marathon_flags(CONTROL)])
    secret = mesos.RUN / "marathon-secret"
    assert secret.read_text() == "marathon-secret" and secret.stat().st_mode & 0o777 == 0o600
    assert environment["MARATHON_ZK"] == f"{login}/marathon"
    assert (environment["LIBPROCESS_IP"], environment["LIBPROCESS_PORT"]) == (
        CONTROL["PRIVATE_IP"],
        str(mesos.MARATHON_SCHEDULER_PORT),
    )


@pytest.mark.usefixtures("became")
def test_a_master_without_a_log_waits_for_consul_and_for_masters_with_a_smaller_quorum(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zookeeper, "CLAIMED", host / "claimed")
    local.write(zookeeper.CLAIMED, "")
    local.write(host / "secrets/consul/control-token", "x", 0o600)
    local.write(mesos.OWN / "sbin/mesos-master", "")
    answers: list[Any] = [local.ConsulError("away"), [{"Node": "control-2", "ServiceMeta": {"quorum": "1"}}], []]

    def consul(path: str, token: str) -> Any:
        assert (path, token) == ("catalog/service/mesos-master", "x")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, None

    monkeypatch.setattr(local, "consul", consul)
    for words in (
        "cannot ask which masters there are: away",
        "waits: control-2 must run with the quorum 2 first; see docs/operations.md",
    ):
        with pytest.raises(SystemExit):
            control.master(CONTROL)
        assert mesos.complaint("master") == words
    with pytest.raises(Started):
        control.master(CONTROL)
    # One that has a log is asked for nothing.
    control.LOG.mkdir(parents=True)
    with pytest.raises(Started):
        control.master(CONTROL)
    assert answers == []


def test_a_server_is_asked_with_a_login_and_its_refusal_is_an_answer() -> None:
    class Echo(Handler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            told = [self.command, body, self.headers.get("Authorization"), self.headers.get("Content-Type")]
            self.answer(404 if self.path == "/no" else 200, json.dumps(told))

        do_GET = do_POST = do_DELETE = handle_any

    with served(Echo) as place:

        def got(path: str, *given: Any, **more: Any) -> tuple[int, Any]:
            status, answer = mesos.get(f"http://{place}{path}", *given, **more)
            return status, json.loads(answer)

        assert got("/") == (200, ["GET", "", None, None])
        assert got("/no", "user:password") == (404, ["GET", "", "Basic dXNlcjpwYXNzd29yZA==", None])
        assert got("/", "", b"{}") == (200, ["POST", "{}", None, "application/json"])
        assert got("/", method="DELETE") == (200, ["DELETE", "", None, None])
    with pytest.raises(OSError):
        mesos.get(f"http://{place}/")


# -- who may what at the master


def allowed(acls: dict[str, Any], principal: str | None, action: str) -> bool:
    """As Mesos's local authorizer decides it for an object that no rule names: the first rule that matches, else `permissive`.
    principal: None for somebody without a login."""
    for rule in acls.get(action, []):
        (on,) = (entity for name, entity in rule.items() if name != "principals")
        who = rule["principals"]
        if (principal in who.get("values", []) or "type" in who) and "type" in on:
            return "NONE" not in (who.get("type"), on["type"])
    return acls.get("permissive", True)


@pytest.fixture
def master(host: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The ACLs that a master starts with."""
    local.write(mesos.OWN / "sbin/mesos-master", "")
    control.LOG.mkdir(parents=True)
    monkeypatch.setattr(mesos, "start", lambda *_: None)
    monkeypatch.setattr(zookeeper, "CLAIMED", host / "claimed")
    for program in (control.master, control.marathon):
        with pytest.raises(SystemExit) as ended:
            program(CONTROL)
        assert ended.value.code == mesos.NOT_YET, "else it would make a tree that is open to all"
    local.write(zookeeper.CLAIMED, "")
    control.master(CONTROL)
    return json.loads((mesos.RUN / "acls.json").read_text())


def test_only_marathon_registers_as_a_framework_and_runs_tasks(master: dict[str, Any]) -> None:
    for action in ("register_frameworks", "run_tasks"):
        may = [who for who in ("marathon", "agent", "operator", "zookeeper", None) if allowed(master, who, action)]
        assert may == ["marathon"], action


@pytest.mark.parametrize(
    "action",
    [
        "teardown_frameworks", "update_maintenance_schedules", "start_maintenances", "stop_maintenances", "mark_agents_gone",
        "drain_agents", "get_endpoints", "view_flags", "access_mesos_logs", "update_quotas",
    ],
)  # fmt: skip
def test_the_password_that_every_slave_has_opens_nothing_of_the_operators(master: dict[str, Any], action: str) -> None:
    assert [who for who in ("marathon", "agent", "operator", None) if allowed(master, who, action)] == ["operator"]


def test_an_agent_may_register_and_that_is_all(master: dict[str, Any]) -> None:
    assert [action for action in master if action != "permissive" and allowed(master, "agent", action)] == ["register_agents"]
    assert not allowed(master, None, "register_agents") and not allowed(master, "agent", "an_action_of_a_later_version")


def test_frameworks_log_in_whichever_way_they_come() -> None:
    flags = control.master_flags(CONTROL, 2)
    assert {"--authenticate_frameworks=true", "--authenticate_http_frameworks=true"} < set(flags)
    # A master that is not told how to check them does not start.
    assert "--http_framework_authenticators=basic" in flags


# -- the masters' quorum


@pytest.mark.parametrize(("count", "quorum"), [(1, 1), (3, 2), (5, 3)])
def test_the_quorum_is_the_majority_of_the_planned_masters(count: int, quorum: int) -> None:
    assert control.quorum(count) == quorum


def test_a_new_master_waits_for_old_ones_with_a_smaller_quorum() -> None:
    catalog = [
        {"Node": "control-1", "ServiceMeta": {"quorum": "2"}},
        {"Node": "control-2", "ServiceMeta": {"quorum": "3"}},
        {"Node": "control-3", "ServiceMeta": None},
    ]
    assert control.smaller(3, catalog) == ["control-1"]
    assert control.smaller(2, catalog) == []


# -- the agent


@pytest.mark.parametrize(
    ("memory_mib", "cpus", "gib", "expected"),
    [
        (3839, 2, 40, "cpus:1.75;mem:3008;disk:36864;ports:[31000-32000]"),
        (3800, 2, 40, "cpus:1.75;mem:3008;disk:36864;ports:[31000-32000]"),
        (512, 1, 4, "cpus:0.75;mem:128;disk:1024;ports:[31000-32000]"),
    ],
)
def test_tasks_get_what_the_hosts_own_daemons_leave(memory_mib: int, cpus: int, gib: int, expected: str) -> None:
    assert agent.resources(memory_mib * 1024, cpus, gib << 30) == expected


@pytest.fixture
def old_state(host: Path) -> Path:
    """The state of an agent that ran here."""
    old = agent.WORK / "meta/slaves/one"
    old.mkdir(parents=True)
    agent.LATEST.symlink_to(old)
    assert host in agent.LATEST.parents
    return agent.LATEST


Ended = Callable[..., None]
USELESS = (
    "E1127 slave.cpp:7311] EXIT with status 1: Failed to perform recovery: Incompatible agent info detected.\nTo restart this\n"
)


@pytest.fixture
def ended(host: Path, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """Plays an end of the agent, of which the journal has this as its last words."""
    path = host / "bin"
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")

    def end(said: str, docker: str = "exit 0") -> None:
        local.write(host / "said", said)
        stand_in(path / "journalctl", f"case $* in *_SYSTEMD_INVOCATION_ID=run-1*) cat {host}/said;; esac")
        stand_in(path / "docker", docker)
        agent.stopped("run-1")

    return end


def test_state_that_the_agent_cannot_use_three_times_in_a_row_is_dropped_and_the_count_begins_anew(
    old_state: Path, ended: Ended
) -> None:
    for said in (USELESS, USELESS, "EXIT with status 1: Master refused authentication", USELESS, USELESS):
        ended(said)
        agent.drop_unusable_state()
        assert old_state.exists()
    ended(USELESS)
    agent.drop_unusable_state()
    assert not old_state.is_symlink() and (old_state.parent / "one").is_dir() and not agent.FAILURES.exists()


@pytest.mark.parametrize(
    ("said", "docker"),
    [
        ("EXIT with status 1: Master master@10.0.0.11:5050 refused authentication", "exit 0"),
        *((said, "exit 0") for said in ("Received SIGTERM; shutting down", "*** SIGABRT (@0x1) received by PID 1 ***", "")),
        ("Failed to detect a master: no leader", "exit 0"),
        ("Re-registered with master master@10.0.0.11:5050", "exit 0"),
        # It finds no Docker.
        (USELESS, "exit 1"),
    ],
)
def test_no_other_end_of_the_agent_costs_it_its_tasks(old_state: Path, ended: Ended, said: str, docker: str) -> None:
    for _ in range(9):
        ended(said, docker)
        agent.drop_unusable_state()
    assert old_state.exists()


@pytest.mark.usefixtures("old_state")
def test_a_refused_agent_says_so_where_apollo_check_reads_it(ended: Ended) -> None:
    ended("Received SIGTERM; shutting down")
    assert mesos.complaint("agent") == ""
    ended("slave.cpp:1463] EXIT with status 1: Master master@10.0.0.11:5050 refused authentication")
    assert mesos.complaint("agent").startswith("the leading master refuses its password")


def test_an_agent_with_more_resources_is_the_same_one_and_its_executors_find_a_builds_library(host: Path) -> None:
    assert "--reconfiguration_policy=additive" in agent.flags(SLAVE, "cpus:1")
    assert not [flag for flag in agent.flags(SLAVE, "cpus:1") if flag.startswith("--executor_environment_variables")]
    local.write(mesos.OWN / "sbin/mesos-agent", "")
    wanted = f'--executor_environment_variables={{"LD_LIBRARY_PATH": "{host}/opt/mesos/lib"}}'
    assert wanted in agent.flags(SLAVE, "cpus:1")
    # In its images there is no such library.
    local.write(mesos.IMAGES, 'AGENT="example/mesos:1"\n')
    assert not [flag for flag in agent.flags(SLAVE, "cpus:1") if flag.startswith("--docker_mesos_image")]


def test_control_groups_of_version_2_are_refused_with_what_to_boot_with(host: Path) -> None:
    agent.CGROUPS.mkdir(parents=True)
    for name in ("cpu", "cpuacct"):
        (agent.CGROUPS / name).mkdir()
    assert agent.control_groups().startswith("no control group hierarchy for memory below")
    (agent.CGROUPS / "memory").mkdir()
    assert agent.control_groups() == ""
    (agent.CGROUPS / "cgroup.controllers").touch()
    assert "boot with systemd.unified_cgroup_hierarchy=0" in agent.control_groups()
    assert host in agent.CGROUPS.parents


# Docker, of which these containers run.
DOCKER = """[ "$1" = stop ] && exec echo "$@" >> "$0.stopped"
printf '%s\\n' mesos-1b.executor mesos-1b apollo-mesos-1 demo-web"""


def test_what_docker_kept_over_its_own_restart_is_stopped_where_mesos_has_given_it_up(tmp_path: Path) -> None:
    """Its executor's `docker run` ended with Docker; the executor itself, in a container of its own, says so to the agent."""
    plan = cluster()
    unit = files_of(plan, plan.slaves[0])["/etc/systemd/system/docker.service.d/apollo.conf"].content
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStartPost=-")]
    stand_in(tmp_path / "docker", DOCKER)
    argv = shlex.split(line.removeprefix("ExecStartPost=-").replace("$$", "$"))
    subprocess.run(argv, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True, timeout=20)
    assert (tmp_path / "docker.stopped").read_text() == "stop mesos-1b\n"


def test_an_example_that_spreads_over_zones_says_over_how_many() -> None:
    # Without the number Marathon counts only the zones of which it has had an offer.
    apps = [json.loads(path.read_text()) for path in sorted((Path(__file__).parents[2] / "examples/apps").glob("*.json"))]
    grouped = [rule for app in apps for rule in app.get("constraints", []) if rule[1] == "GROUP_BY"]
    assert grouped and all(len(rule) == 3 and rule[2].isdecimal() for rule in grouped)


# -- draining, and what Consul is told, against a stand-in for both HTTP APIs


class Cluster:
    """A master and Marathon with one application of two tasks, and two agents. `broken`: nothing comes up elsewhere. `refuses`:
    a path that is answered with 500. The agent and the master have the same port here, and so the same metrics."""

    port = 0

    def __init__(self) -> None:
        self.agents = ["10.0.0.33", "10.0.32.34"]
        self.inactive: list[str] = []
        self.tasks = {"web.1": "10.0.0.33", "web.2": "10.0.32.34"}
        self.windows: list[dict[str, Any]] = []
        self.down: list[dict[str, str]] = []
        self.broken = False
        self.check: dict[str, int] = {}
        self.knows_health = True
        self.refuses = ""
        self.metrics: dict[str, float] = {"master/elected": 1.0, "registrar/log/recovered": 1.0, "slave/registered": 1.0}
        self.asked: list[str] = []

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if path == self.refuses:
            return 500, {"error": "refused"}
        match (method, path.partition("?")[0]):
            case ("GET", "/slaves"):
                return 200, {"slaves": [{"hostname": agent, "active": agent not in self.inactive} for agent in self.agents]}
            case ("GET", "/maintenance/schedule"):
                return 200, {"windows": self.windows}
            case ("POST", "/maintenance/schedule"):
                planned = [entry["ip"] for window in body["windows"] for entry in window["machine_ids"]]
                if any(entry["ip"] not in planned for entry in self.down):
                    return 400, {"error": "a machine that is down must stay in the schedule"}
                self.windows = body["windows"]
            case ("GET", "/maintenance/status"):
                return 200, {"down_machines": self.down}
            case ("POST", "/machine/down"):
                if not any(body[0] in window["machine_ids"] for window in self.windows):
                    return 400, {"error": "not in the schedule"}
                self.down += body
            case ("POST", "/machine/up"):
                self.down = [entry for entry in self.down if entry not in body]
                for window in self.windows:
                    window["machine_ids"] = [entry for entry in window["machine_ids"] if entry not in body]
                self.windows = [window for window in self.windows if window["machine_ids"]]
            case ("GET", "/v2/tasks"):
                return 200, {"tasks": [{"id": i, "appId": "/web", "host": h} for i, h in self.tasks.items()]}
            case ("GET", "/v2/apps/web"):
                tasks = [{"id": task, "state": "TASK_RUNNING"} for task in self.tasks]
                app = {"id": "/web", "instances": 2, "tasks": tasks, "healthChecks": [self.check]}
                return 200, {"app": {**app, "tasksHealthy": len(tasks) if self.knows_health else 0}}
            case ("DELETE", _):
                del self.tasks[path.rpartition("/")[2]]
                if not self.broken:
                    self.tasks["web.3"] = "10.0.32.34"
            case ("GET", "/metrics/snapshot"):
                return 200, self.metrics
            case ("GET", "/ping"):
                return 200, None
            case _:
                return 404, None
        return 200, None

    def api(self) -> Any:
        place = f"http://127.0.0.1:{self.port}"
        return control.Api({"master": place, "marathon": place}, {"master": "operator:x", "marathon": "marathon:x"})

    def drain(self, address: str, wait: Callable[[Callable[[], bool]], bool] = lambda condition: condition()) -> str:
        return control.down(self.api(), address, 1000.0, wait)


@pytest.fixture
def state() -> Generator[Cluster]:
    """The cluster, which answers at its port of 127.0.0.1."""
    state = Cluster()

    class Master(Handler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = 401, None
            if self.headers.get("Authorization"):
                status, answer = state.answer(self.command, self.path, json.loads(body) if body else None)
            self.answer(status, "" if answer is None else json.dumps(answer))

        do_GET = do_POST = do_DELETE = handle_any

    with served(Master) as place:
        state.port = int(place.partition(":")[2])
        yield state


def test_draining_moves_the_tasks_first_and_takes_the_machine_down_last(state: Cluster) -> None:
    said = state.drain("10.0.0.33")
    assert said == "moved 1 tasks; 10.0.0.33 is down until `up`"
    assert set(state.tasks.values()) == {"10.0.32.34"}
    assert [entry["ip"] for entry in state.down] == ["10.0.0.33"]
    changes = [asked for asked in state.asked if not asked.startswith("GET")]
    assert changes == ["POST /maintenance/schedule", "DELETE /v2/apps/web/tasks/web.1", "POST /machine/down"]
    control.up(state.api(), "10.0.0.33")
    assert (state.down, state.windows) == ([], [])


def test_draining_stops_where_a_task_does_not_come_up_elsewhere(state: Cluster) -> None:
    state.broken = True
    words = r"/web did not come up elsewhere in time \(1 of 2 run, 1 of 2 are healthy\); 10\.0\.0\.33 is still in use"
    with pytest.raises(control.MesosError, match=words):
        state.drain("10.0.0.33")
    assert (state.down, state.windows) == ([], [])


CHECK = {"gracePeriodSeconds": 60, "intervalSeconds": 5, "timeoutSeconds": 3}


@pytest.mark.parametrize(
    ("check", "tasks", "said"),
    [
        # Three seconds to end, thirty to start, and the check's own periods.
        (CHECK, 1, "101 s for 1 tasks: 1 of /web with 101 s each"),
        (CHECK, 2, "202 s for 2 tasks: 2 of /web with 101 s each"),
        ({}, 1, "413 s for 1 tasks: 1 of /web with 413 s each"),
        ({}, 2, "600 s for 2 tasks: 2 of /web with 413 s each"),
        ({}, 0, "0 s for 0 tasks"),
    ],
)
def test_a_drain_waits_as_long_as_the_tasks_say_that_they_need_and_no_longer_than_ten_minutes(
    state: Cluster, check: dict[str, int], tasks: int, said: str
) -> None:
    state.check, state.tasks = check, {f"web.{n}": "10.0.0.33" for n in range(tasks)}
    assert control.needs(state.api(), "10.0.0.33") == said


def test_draining_does_not_wait_for_a_health_of_which_marathon_knew_nothing(state: Cluster) -> None:
    state.knows_health = False
    assert state.drain("10.0.0.33").startswith("moved 1 tasks")


def test_draining_that_is_broken_off_leaves_no_window_in_which_nothing_would_be_started(state: Cluster) -> None:
    state.drain("10.0.32.34")
    others = list(state.windows)

    def interrupted(_: Callable[[], bool]) -> bool:
        raise KeyboardInterrupt

    state.tasks = {"web.1": "10.0.0.33"}
    with pytest.raises(KeyboardInterrupt):
        state.drain("10.0.0.33", interrupted)
    assert state.windows == others
    for state.refuses in ("/v2/tasks", "/machine/down"):
        with pytest.raises(control.MesosError, match=f"{state.refuses}: 500"):
            state.drain("10.0.0.33")
        assert state.windows == others


def test_without_a_marathon_there_is_no_task_to_move(state: Cluster, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = {"mesos-master?tag=leader&passing": [{"Service": {"Address": "127.0.0.1", "Port": state.port}}]}
    local.write(host / "secrets/consul/control-token", "x", 0o600)
    monkeypatch.setattr(local, "consul", lambda path, _: (catalog.get(path.removeprefix("health/service/"), []), {}))
    api = control.leading()
    assert api
    said = control.down(api, "10.0.0.33", 1000.0, lambda condition: condition())
    assert said == "no Marathon answers, so moved no task; 10.0.0.33 is down until `up`"
    assert [entry["ip"] for entry in state.down] == ["10.0.0.33"]


def test_draining_one_machine_leaves_anothers_window_alone(state: Cluster) -> None:
    state.drain("10.0.0.33")
    state.tasks = {}
    state.drain("10.0.32.34")
    control.up(state.api(), "10.0.32.34")
    assert [entry["ip"] for entry in state.down] == ["10.0.0.33"]
    assert [entry["ip"] for window in state.windows for entry in window["machine_ids"]] == ["10.0.0.33"]


def test_a_host_without_an_agent_has_nothing_to_drain(state: Cluster) -> None:
    assert state.drain("10.0.0.99") == "no agent at 10.0.0.99: nothing to drain"
    assert state.asked == ["GET /slaves"]


def test_a_leader_without_a_majority_of_logs_leads_in_name_only(
    state: Cluster, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesos, "MASTER_PORT", state.port)
    monkeypatch.setattr(scheduler, "PUBLISHED", host / "published")
    local.write(control.QUORUM, "2\n")
    facts = {"PRIVATE_IP": "127.0.0.1"}
    led = scheduler.look_at_master(facts)
    assert (led.passing, led.tags, led.meta, led.detail) == (True, ["leader"], {"quorum": "2"}, "leads, quorum 2")
    state.metrics["registrar/log/recovered"] = 0.0
    led = scheduler.look_at_master(facts)
    assert (led.passing, led.detail) == (False, "leads, and its log has no majority of 2")


def test_only_what_the_stack_publishes_has_the_edges_tag(state: Cluster, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesos, "MARATHON_PORT", state.port)
    monkeypatch.setattr(scheduler, "PUBLISHED", host / "published")
    assert scheduler.look_at_marathon({"PRIVATE_IP": "127.0.0.1"}).tags == []
    plan = cluster(mesos={"published": ["marathon"]})
    local.write(host / "published", files_of(plan, plan.control[0])["/etc/apollo/mesos-published"].content)
    assert scheduler.look_at_marathon({"PRIVATE_IP": "127.0.0.1"}).tags == ["public"]


@pytest.mark.usefixtures("host")
def test_a_master_that_hangs_is_given_up_soon_and_its_quorum_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesos, "LOOK_SECONDS", 0.2)
    local.write(control.QUORUM, "2\n")
    # It takes connections and never answers.
    with closing(socket.create_server(("127.0.0.1", 0))) as hung:
        monkeypatch.setattr(mesos, "MASTER_PORT", hung.getsockname()[1])
        begun = time.monotonic()
        state = scheduler.look_at_master({"PRIVATE_IP": "127.0.0.1"})
    assert time.monotonic() - begun < 30, "it would never answer"
    assert (state.passing, state.meta) == (False, {"quorum": "2"}) and "timed out" in state.detail


# Its threads are ended by an exception.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_hangs_makes_no_other_one_look_dead(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    well, ended = threading.Event(), threading.Event()

    def consul(path: str, *_: Any) -> tuple[Any, Any]:
        if path.startswith("agent/check/update/"):
            told.append(path.rpartition(":")[2])
            if told.count("well") == 3:
                well.set()
        return {}, {}

    def hangs(_: Any) -> Any:
        ended.wait(30)
        raise OSError("timed out")

    def running(_: Any) -> bool:
        # The only way out of a thread that watches for ever.
        if ended.is_set():
            raise SystemExit
        return True

    monkeypatch.setattr(local, "facts", lambda: {"PRIVATE_IP": "127.0.0.1"})
    monkeypatch.setattr(local, "consul", consul)
    monkeypatch.setattr(scheduler, "PERIOD", 0.01)
    monkeypatch.setattr(scheduler, "running", running)
    local.write(host / "secrets/consul/control-token", "x", 0o600)
    looks = {"hung": hangs, "well": lambda _: scheduler.State(True, "answers")}
    monkeypatch.setattr(scheduler, "SERVICES", [scheduler.Service(name, f"{name}.service", 1, looks[name]) for name in looks])
    watching = threading.Thread(target=scheduler.main, daemon=True)
    watching.start()
    try:
        assert well.wait(10) and "hung" not in told
    finally:
        ended.set()
        watching.join(10)


# -- what a control node tells Consul, and an operator asks


@pytest.mark.parametrize(
    ("seconds", "comes", "waited", "in_time"), [(10, 3, 3, True), (10, 0, 0, True), (10, 99, 11, False), (0, 99, 1, False)]
)
def test_all_conditions_together_have_so_many_seconds(
    seconds: int, comes: int, waited: int, in_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(control, "time", clock)
    wait = control.patience(seconds)
    assert wait(lambda: clock.now >= comes) is in_time
    assert (clock.now, set(clock.waits) - {1}) == (waited, set())
    assert wait(lambda: True) and not wait(lambda: clock.now > seconds + 1)


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of the leading servers, of which `asks[0]` decides whether there are any."""
    asks: list[Any] = ["an API"]
    monkeypatch.setattr(local, "facts", lambda: CONTROL)
    monkeypatch.setattr(control, "leading", lambda: asks[0])
    monkeypatch.setattr(control, "patience", lambda seconds: f"{seconds:g} s")
    monkeypatch.setattr(control.time, "time", lambda: 7.0)
    for name in ("needs", "down", "up"):
        monkeypatch.setattr(control, name, lambda *given, name=name: (asks.append((name, *given)), f"12 s by {name}")[1])
    for name in ("master", "marathon"):
        monkeypatch.setattr(control, name, lambda facts, name=name: asks.append((name, facts)))
    return asks


@pytest.mark.parametrize(
    ("words", "did", "said", "without"),
    [
        ("needs 10.0.0.33", [("needs", "an API", "10.0.0.33")], "12 s by needs", "0 s, as no Mesos master leads"),
        (
            "down 10.0.0.33",
            [("needs", "an API", "10.0.0.33"), ("down", "an API", "10.0.0.33", 7.0, "12 s")],
            "12 s by needs\n12 s by down",
            "0 s, as no Mesos master leads",
        ),
        ("up 10.0.0.33", [("up", "an API", "10.0.0.33")], "12 s by up", "no Mesos master leads: nothing to give back"),
        ("master", [("master", CONTROL)], "", ""),
        ("marathon", [("marathon", CONTROL)], "", ""),
    ],
)
def test_an_operator_is_told_what_was_done(
    words: str, did: list[Any], said: str, without: str, asks: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert control.main(words.split()) == 0
    assert asks[1:] == did and capsys.readouterr().out.rstrip("\n") == said
    asks[0] = None
    assert control.main(words.split()) == 0 and capsys.readouterr().out.rstrip("\n") == without


def test_the_leading_servers_are_those_that_consul_has_with_a_login_for_each(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"mesos-master?tag=leader&passing": ("10.0.0.11", 5050), "marathon?passing": ("10.0.0.13", 8080)}
    local.write(host / "secrets/consul/control-token", "x", 0o600)

    def consul(path: str, token: str) -> Any:
        assert token == "x"
        found = known.get(path.removeprefix("health/service/"))
        return [{"Service": {"Address": found[0], "Port": found[1]}}] if found else [], None

    asked: list[Any] = []
    monkeypatch.setattr(local, "consul", consul)
    monkeypatch.setattr(mesos, "get", lambda *given: (asked.append(given), (200, b' {"a": 1}'))[1])
    api = control.leading()
    assert api and api.has("marathon")
    assert api.ask("master", "/x") == {"a": 1}
    api.ask("marathon", "/y", [1], "PUT")
    assert asked == [
        ("http://10.0.0.11:5050/x", "operator:operator-secret", None, None),
        ("http://10.0.0.13:8080/y", "marathon:marathon-secret", b"[1]", "PUT"),
    ]
    for answer, found in (((200, b"OK"), None), ((299, b"[2]"), [2]), ((204, b""), None)):
        monkeypatch.setattr(mesos, "get", lambda *_, answer=answer: answer)
        assert api.ask("master", "/x") == found
    for answer in ((300, b"x" * 400), (199, b"x" * 400)):
        monkeypatch.setattr(mesos, "get", lambda *_, answer=answer: answer)
        with pytest.raises(control.MesosError, match=f"^master/x: {answer[0]} x{{300}}$"):
            api.ask("master", "/x")
    monkeypatch.setattr(mesos, "get", raising(OSError("away")))
    with pytest.raises(control.MesosError, match=r"^marathon/y: away$"):
        api.ask("marathon", "/y")
    del known["mesos-master?tag=leader&passing"]
    assert control.leading() is None


STATE = scheduler.State(True, "well", ["leader"], {"quorum": "2"})
# The first 16 hex digits of the SHA-256 of the token `x`.
STANDS = {"Address": "10.0.0.11", "Port": 5050, "Tags": ["leader"], "Meta": {"quorum": "2", "token": "2d711642b726b044"}}


@pytest.mark.parametrize(
    ("up", "known", "look", "did", "said"),
    [
        (False, None, STATE, [], ""),
        (False, STANDS, STATE, ["deregister"], ""),
        (True, None, STATE, ["register", "passing well"], "well"),
        (True, STANDS, STATE, ["passing well"], "well"),
        *((True, STANDS | change, STATE, ["register", "passing well"], "well") for change in (
            {"Address": "10.0.0.12"}, {"Port": 1}, {"Tags": None}, {"Meta": None}, {"Meta": {"quorum": "2", "token": "old"}},
        )),
        (True, STANDS, scheduler.State(False, "ill", ["leader"], {"quorum": "2"}), ["critical ill"], "ill"),
        *((True, STANDS, error, ["register", f"critical {error}"], str(error)) for error in (
            zookeeper.ZooKeeperError("no"), OSError("away"), ValueError("odd"), subprocess.SubprocessError("slow"),
        )),
    ],
)  # fmt: skip
def test_consul_has_a_server_while_it_runs_and_says_how_it_is(
    up: bool, known: Any, look: Any, did: list[str], said: str, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.write(host / "secrets/consul/control-token", "x", 0o600)
    done: list[str] = []
    wanted = {
        "ID": "mesos-master", "Name": "mesos-master", **STANDS, "Check": {"TTL": "20s", "Status": "critical"},
    }  # fmt: skip

    def consul(path: str, token: str, method: str = "GET", body: Any = None) -> Any:
        assert token == "x" and (method == "GET") is (path == "agent/services")
        match path:
            case "agent/services":
                return {"other": {}} | ({"mesos-master": known} if known else {}), None
            case "agent/service/register":
                if isinstance(look, scheduler.State):
                    assert body == wanted
                done.append("register")
            case "agent/service/deregister/mesos-master":
                done.append("deregister")
            case _:
                assert path == "agent/check/update/service:mesos-master"
                done.append(f"{body['Status']} {body['Output']}")
        return None, None

    monkeypatch.setattr(local, "consul", consul)
    monkeypatch.setattr(scheduler, "running", lambda unit: up if unit == "mesos-master.service" else None)

    def look_at(facts: Any) -> scheduler.State:
        assert facts is CONTROL
        if isinstance(look, Exception):
            raise look
        return look

    service = scheduler.Service("mesos-master", "mesos-master.service", 5050, look_at)
    assert scheduler.step(CONTROL, service) == said
    assert done == did


def test_a_unit_runs_that_systemd_calls_active(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(host / "bin/systemctl", '[ "$*" = "-q is-active a.service" ]')
    monkeypatch.setenv("PATH", f"{host}/bin:{os.environ['PATH']}")
    assert scheduler.running("a.service") and not scheduler.running("b.service")


@pytest.mark.parametrize(
    ("mode", "role", "adds", "passing"),
    [("", "participant", False, False), ("leader", "participant", False, True), ("observer", "participant", True, True),
     ("follower", "observer", True, True), ("follower", "", True, True)],
)  # fmt: skip
def test_a_zookeeper_that_serves_is_made_a_voter_and_closes_its_trees(
    mode: str, role: str, adds: bool, passing: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    did: list[Any] = []
    own = CONTROL["PRIVATE_IP"]
    monkeypatch.setattr(zookeeper, "mode", lambda at: mode if at == own else "elsewhere")
    monkeypatch.setattr(zookeeper, "members", lambda at: {1: (own, role), 2: ("", "participant")} if role and at == own else {})
    monkeypatch.setattr(zookeeper, "silence", lambda: "nobody is up")
    for name in ("add", "claim"):
        monkeypatch.setattr(zookeeper, name, lambda facts, name=name: did.append((name, facts)))
    state = scheduler.look_at_zookeeper(CONTROL)
    assert (state.passing, state.detail) == (passing, mode or "does not serve: nobody is up")
    assert did == [("add", CONTROL)] * adds + [("claim", CONTROL)] * passing
    assert capsys.readouterr().out == "made a voter of the ensemble\n" * adds


# -- what apollo-check says of them


@pytest.fixture
def asked(state: Cluster, host: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], tuple[str, str]]:
    """Runs the check as a host of these facts whose units of Mesos are up; returns ok or warning, and what it says. As Consul
    has it, the stand-in leads while `master/elected` of its metrics is not 0."""
    state.agents.append("127.0.0.1")
    leader = [{"Service": {"Address": "127.0.0.1", "Port": state.port}}]
    for name in ("MASTER_PORT", "AGENT_PORT", "MARATHON_PORT"):
        monkeypatch.setattr(mesos, name, state.port)
    monkeypatch.setattr(scheduler, "PUBLISHED", host / "published")
    monkeypatch.setattr(local, "consul", lambda *_: (leader if state.metrics["master/elected"] else [], {}))
    monkeypatch.setattr(check, "run", lambda *_: "ActiveState=active\nConditionResult=yes\nConditionTimestamp=today\n")
    for role in ("control", "slave"):
        local.write(host / f"secrets/consul/{role}-token", "x", 0o600)
    local.write(control.QUORUM, "2\n")

    def ask(facts: dict[str, str]) -> tuple[str, str]:
        try:
            return "ok", check.scheduler({**facts, "PRIVATE_IP": "127.0.0.1"})
        except check.Warned as warning:
            return "warning", str(warning)

    return ask


Asked = Callable[[dict[str, str]], tuple[str, str]]
NOT_NEEDED = ". The overlay does not need it"


def test_what_of_mesos_does_its_work_is_said_and_well(asked: Asked) -> None:
    assert asked(CONTROL) == ("ok", "master runs: leads, quorum 2, marathon runs: answers")
    assert asked(SLAVE) == ("ok", "agent runs: registered and active")


def test_an_image_that_cannot_be_pulled_is_a_warning_as_the_network_does_without(asked: Asked) -> None:
    mesos.say("agent", "cannot pull example/mesos:1: no such host")
    assert asked(SLAVE) == ("warning", f"agent does not run: cannot pull example/mesos:1: no such host{NOT_NEEDED}")


@pytest.mark.parametrize("last", ["inactive", "failed"])
def test_an_agent_whose_image_was_taken_away_is_off_however_its_last_attempt_ended(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """systemd keeps a unit `failed` that was stopped while its ExecStopPost ran, though its condition forbids the next."""
    monkeypatch.setattr(check, "run", lambda *_: f"ActiveState={last}\nConditionResult=no\nConditionTimestamp=today\n")
    assert asked(SLAVE) == ("ok", "agent off: there is no such program here")


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"registrar/log/recovered": 0.0}, "leads, and its log has no majority of 2"),
        ({"master/elected": 0.0}, "stands by, quorum 2, and no master leads with a majority"),
    ],
)
def test_a_quorum_of_masters_that_is_not_reached_is_said_on_each(
    asked: Asked, state: Cluster, metrics: dict[str, float], said: str
) -> None:
    state.metrics |= metrics
    assert asked(CONTROL) == ("warning", f"master runs: {said}; marathon runs: answers{NOT_NEEDED}")


def test_a_marathon_that_does_not_answer_is_said(asked: Asked, state: Cluster) -> None:
    state.refuses = "/ping"
    word, said = asked(CONTROL)
    assert word == "warning" and said.startswith("marathon runs: http://127.0.0.1:") and "/ping: 500; master runs" in said


def test_whether_an_agent_is_registered_and_active_the_leading_master_says(asked: Asked, state: Cluster) -> None:
    # What the agent itself says as soon as it knows of a master, and nothing is meant by it.
    assert state.metrics["slave/registered"] == 1.0
    state.inactive = ["127.0.0.1"]
    assert asked(SLAVE)[1].startswith("agent runs: registered by 127.0.0.1, which leads, and not active; see journalctl")
    state.agents.remove("127.0.0.1")
    word, said = asked(SLAVE)
    assert word == "warning" and said.startswith("agent runs: not registered by 127.0.0.1, which leads; see journalctl")
    state.refuses = "/slaves"
    assert asked(SLAVE)[1].endswith(f"/slaves: 500{NOT_NEEDED}")
    state.metrics["master/elected"] = 0.0
    assert asked(SLAVE) == ("warning", f"agent runs: registered nowhere, as no master leads{NOT_NEEDED}")


def test_a_server_that_does_not_answer_at_all_is_a_warning_too(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        free = probe.getsockname()[1]
    for name in ("MASTER_PORT", "AGENT_PORT", "MARATHON_PORT"):
        monkeypatch.setattr(mesos, name, free)
    for facts in (CONTROL, SLAVE):
        word, said = asked(facts)
        assert word == "warning" and "Connection refused" in said, said


@pytest.mark.parametrize(
    ("role", "version", "began", "done"),
    [
        ("slave", 2, False, ["update-grub", "systemctl reboot"]),
        # After its reboot, on a kernel that has version 1 by now or not.
        ("slave", 1, True, ["systemctl daemon-reload", "systemctl start apollo-secrets.service"]),
        ("slave", 2, True, ["systemctl daemon-reload", "systemctl start apollo-secrets.service"]),
        ("slave", 1, False, ["systemctl daemon-reload", "systemctl start apollo-secrets.service"]),
        ("control", 2, False, ["systemctl daemon-reload", "systemctl start apollo-secrets.service"]),
    ],
)
def test_a_slave_boots_with_the_control_groups_of_mesos_before_anyone_can_log_in(
    tmp_path: Path, role: str, version: int, began: bool, done: list[str]
) -> None:
    script = (paths.REPOSITORY / "host/files/boot/var/lib/cloud/scripts/per-boot/apollo-first-boot").read_text()
    for place in ("/etc/", "/sys/fs/", "/var/lib/", "/usr/local/"):
        (tmp_path / place.strip("/")).mkdir(parents=True)
        script = script.replace(place, f"{tmp_path}{place}")
    for name, text in (
        ("etc/apollo/node.env", f'ROLE="{role}"\nBAKED="1"\n'),
        ("etc/apollo/mesos-images.env", ""),
        ("etc/default/grub.d/other.cfg", ""),
        *([("sys/fs/cgroup/cgroup.controllers", "")] if version == 2 else []),
        *([("etc/default/grub.d/apollo.cfg", "")] if began else []),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("systemctl", "update-grub"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name}${{1:+ $*}}" >>{tmp_path}/done\n')
        (tmp_path / name).chmod(0o755)
    subprocess.run(["bash", "-c", script], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False, capture_output=True)
    assert (tmp_path / "done").read_text().splitlines()[:2] == done
    switch = tmp_path / "etc/default/grub.d/apollo.cfg"
    assert switch.exists() == (began or done[0] == "update-grub")
    if done[0] == "update-grub":
        # As update-grub reads it, beside what others have there.
        shell = f'GRUB_CMDLINE_LINUX=quiet; . {switch}; echo "$GRUB_CMDLINE_LINUX"'
        line = subprocess.run(["sh", "-c", shell], check=True, capture_output=True, text=True).stdout
        assert line == "quiet systemd.unified_cgroup_hierarchy=0\n"
