"""A host that goes, or stays after all, and what it says of itself when `ops` asks: what is stopped, in which order, and what
is waited for. On booted hosts: tests/booted/test_living.py."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host.apollo import leave, local, probe, survey
from host.apollo.consul import forget
from host.apollo.edge import apply
from tests.host.support import free_ports, raising, stand_in
from tests.host.test_verbs import FACTS, Clock, saying

# What each role's program may ask its agent with.
OWN = {"slave": "consul/node-token", "control": "consul/management-token", "edge": "consul/node-token"}
SERVICES = {
    "apollo:one:80": {"Address": "10.2.1.5", "Port": 80},
    "apollo:two:9": {"Address": "10.2.1.6", "Port": 9},
    "apollo-metrics": {"Address": "", "Port": 8520},
}
MAINTENANCE = "agent/maintenance?enable=true&reason=draining", "agent/maintenance?enable=false"


class Host:
    """One of a role, whose programs, processes, agent and clock are here. did: what was done to it, in order. processes: its
    containers' first ones."""

    def __init__(self, role: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.role, self.folder, self.did = role, folder, list[str]()
        self.facts = FACTS | {"ROLE": role, "NODE_NAME": f"{role}-1", "DOCKER_SUBNET": "10.2.1.0/24" if role == "slave" else ""}
        self.clock, self.processes, self.says = Clock(), dict[int, int](), dict[str, Callable[[], str]]()
        self.connections, self.agent = list[int](), saying([(SERVICES, None)])
        patch.setattr(local, "facts", lambda: self.facts)
        patch.setattr(local, "secret", lambda name: f"the value of {name}")
        patch.setattr(local, "consul", self._consul)
        for module in (leave, forget):
            patch.setattr(module, "time", self.clock)
        patch.setattr(leave, "run", self._run)
        patch.setattr(leave, "Path", lambda place: folder / place.lstrip("/"))
        patch.setattr(leave.os, "kill", self._kill)
        patch.setattr(leave, "LOCK", folder / "lock")
        patch.setattr(leave, "INSTANCE", folder / "instance")
        patch.setattr(apply, "ask", self._ask)

    def start(self, pid: int, ends: int) -> None:
        """ends: the signal at which it ends; 0 for a process that ended already."""
        self.processes[pid] = ends
        if ends:
            (self.folder / f"proc/{pid}").mkdir(parents=True)

    def _kill(self, pid: int, number: int) -> None:
        self.did.append(f"{signal.Signals(number).name} {pid}")
        if number in (self.processes[pid], signal.SIGKILL):
            (self.folder / f"proc/{pid}").rmdir()

    def _run(self, *argv: str) -> str:
        words = " ".join(argv)
        if words == "docker ps -q":
            return "".join(f"c{pid}\n" for pid in self.processes)
        if argv[:2] == ("docker", "inspect"):
            assert argv[2:4] == ("-f", "{{.Id}} {{.State.Pid}}")
            return "\n".join([*(f"{name} {name[1:]}" for name in argv[4:]), "c9 0", "c8", ""])
        if argv[0] == "nsenter":
            assert words == f"nsenter -t {argv[2]} -n ss -Htn state established"
            left = self.connections.pop(0) if self.connections else 0
            others = "".join(f"0 0 10.2.1.5:80 10.2.0.{240 + place}:1\n" for place in range(left))
            return f"0 0 10.2.1.5:80 {FACTS['BRIDGE_ADDRESS']}:33\nhalf a line\n{others}"
        self.did.append(words)
        return self.says[words]() if words in self.says else ""

    def _ask(self, command: str) -> str:
        self.did.append(f"haproxy: {command}")
        return self.says[command]() if command in self.says else ""

    def _consul(self, path: str, token: str = "", method: str = "GET", body: Any = None) -> Any:
        assert body is None
        if method == "GET":
            assert (path, token) == ("agent/services", f"the value of consul/{self.role}-token")
        else:
            self.did.append(f"{method} {path} with {token.removeprefix('the value of ')}")
        return self.agent()


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(getattr(request, "param", "slave"), tmp_path, monkeypatch)


ROLES = pytest.mark.parametrize("host", ["slave", "control", "edge"], indirect=True)


@ROLES
def test_who_begins_to_leave_takes_no_new_work_and_says_where_its_services_are(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    # As on every machine that cloud-init has not told its name.
    assert leave.main("begin", "0", "i-1") == 0
    edge = ["systemctl stop apollo-edge", "haproxy: del map routes.map live/"] if host.role == "edge" else []
    assert host.did == [f"PUT {MAINTENANCE[0]} with {OWN[host.role]}", *edge]
    assert json.loads(capsys.readouterr().out) == {"node": f"{host.role}-1", "services": ["10.2.1.5:80", "10.2.1.6:9"]}


@pytest.mark.parametrize(
    ("verb", "asked", "own", "changes"),
    [
        ("begin", "i-1", "i-2\n", False),
        ("begin", "i-2", "i-2\n", True),
        ("begin", "", "i-2\n", True),
        ("undo", "i-1", "i-2\n", True),
    ],
)
def test_another_machine_than_the_one_that_was_meant_stays_as_it_is(
    verb: str, asked: str, own: str, changes: bool, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    (host.folder / "instance").write_text(own)
    assert leave.main(verb, "0", asked) == 0
    assert bool(host.did) is changes
    assert (capsys.readouterr().out == '{"other": "i-2"}\n') is not changes


DOCKER = "systemctl stop apollo-register.service docker.socket docker.service"


@ROLES
def test_who_leaves_stops_its_work_then_its_names_and_then_its_agent(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.start(11, signal.SIGTERM)
    host.start(12, 0)
    host.says["show stat"] = lambda: "# pxname,svname,scur\nweb,BACKEND,4\nother,FRONTEND,3\nweb,FRONTEND,0\n"
    agent = host.folder / "proc/700"
    agent.mkdir(parents=True)
    host.says["systemctl show -p MainPID --value consul"] = saying(["700\n", "0\n"])
    assert leave.main("end", "60") == 0
    registration = "consul/registration-token" if host.role == "slave" else f"consul/{host.role}-token"
    work = {
        "slave": ["systemctl stop mesos-agent.service", DOCKER, "SIGTERM 11"],
        "control": [],
        "edge": ["haproxy: disable frontend web", "haproxy: show stat"],
    }
    ends = (
        f"PUT agent/leave with {OWN['control']}"
        if host.role == "control"
        else "systemctl kill --kill-who=main --signal=INT consul.service"
    )
    assert host.did == [
        *work[host.role],
        *(f"PUT agent/service/deregister/{key} with {registration}" for key in ("apollo:one:80", "apollo:two:9")),
        f"PUT {MAINTENANCE[1]} with {OWN[host.role]}",
        ends,
        *2 * ["systemctl show -p MainPID --value consul"],
        "systemctl stop consul.service",
    ]
    stopped = {
        "slave": "2 containers stopped",
        "control": "no containers here",
        "edge": "takes no requests any more, 0 connections left",
    }
    assert capsys.readouterr().out.splitlines() == [stopped[host.role], "2 services deregistered", "left Consul"]


@pytest.mark.parametrize(("seconds", "quiet", "killed"), [(60.0, 10, 10), (4.0, 4, 0), (13.0, 10, 3)])
def test_connections_and_then_containers_have_ten_seconds_each_and_no_more_than_there_are(
    seconds: float, quiet: float, killed: float, host: Host
) -> None:
    host.start(11, signal.SIGTERM)
    host.start(12, signal.SIGKILL)
    host.connections = [1] * 1000
    assert leave.stop(host.facts, seconds) == "2 containers stopped, 1 by force"
    assert host.did[-3:] == ["SIGTERM 11", "SIGTERM 12", "SIGKILL 12"]
    waits = host.clock.waits
    assert (sum(wait for wait in waits if wait == 0.2), sum(wait for wait in waits if wait == 0.1)) == pytest.approx(
        (quiet, killed), abs=0.25
    )


def test_a_slave_waits_for_connections_of_other_nodes_alone(host: Host) -> None:
    host.start(11, signal.SIGTERM)
    host.start(12, signal.SIGTERM)
    host.connections = [2, 1, 0, 1, 0, 0]
    assert leave.connections(host.facts, [11, 12]) == 3
    assert leave.stop(host.facts, 60) == "2 containers stopped"
    assert host.clock.waits == [0.2]
    host.processes.clear()
    assert leave.stop(host.facts, 60) == "0 containers stopped"


@pytest.mark.parametrize(("seconds", "left", "waited"), [(60, ["7", "3", "0"], 0.4), (60, ["7"], 10), (3, ["7"], 3)])
@pytest.mark.parametrize("host", ["edge"], indirect=True)
def test_an_edge_ends_the_requests_that_it_has_within_ten_seconds(
    seconds: int, left: list[str], waited: float, host: Host
) -> None:
    host.says["show stat"] = saying(f"# pxname,svname,scur\nweb,FRONTEND,{count}\n" for count in left)
    assert leave.stop(host.facts, seconds) == f"takes no requests any more, {left[-1]} connections left"
    assert host.clock.now == pytest.approx(waited, abs=0.25) and set(host.clock.waits) == {0.2}


@pytest.mark.parametrize(("pid", "there", "waited"), [("0\n", True, 0), ("700\n", False, 0), ("700\n", True, leave.LEAVE)])
def test_an_agent_that_does_not_end_is_stopped_after_a_while(pid: str, there: bool, waited: float, host: Host) -> None:
    if there:
        (host.folder / "proc/700").mkdir(parents=True)
    host.says["systemctl show -p MainPID --value consul"] = lambda: pid
    assert leave.leave(host.facts, "token") == "left Consul"
    assert host.clock.now == pytest.approx(waited, abs=0.15) and set(host.clock.waits) <= {0.1}
    assert host.did[-1] == "systemctl stop consul.service"


@ROLES
def test_who_stays_after_all_works_again_once_its_agent_answers(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.agent = saying([local.ConsulError("starts"), local.ConsulError("starts"), (None, None)])
    assert leave.main("undo", "0") == 0
    edge = ["systemctl reload haproxy.service", "systemctl start apollo-edge.service"] if host.role == "edge" else []
    assert host.did == [
        "systemctl start consul.service docker.service apollo-register.service",
        "systemctl start mesos-agent.service",
        *edge,
        *3 * [f"PUT {MAINTENANCE[1]} with {OWN[host.role]}"],
    ]
    assert host.clock.waits == [0.5, 0.5] and capsys.readouterr().out == "works again\n"
    host.agent = saying([local.ConsulError("away")])
    with pytest.raises(local.ConsulError, match="away"):
        leave.main("undo", "0")
    assert 30 < host.clock.now - 1 < 31.5


def test_a_program_that_fails_says_what_it_has() -> None:
    assert leave.run("sh", "-c", "echo some; echo more >&2; exit 3") == "some\n"


# -- a node that is gone


@pytest.mark.parametrize("mesh", ["vxlan", "weave"])
@pytest.mark.parametrize(("node", "known"), [("slave-2", True), ("slave-2", False), ("control-2", True), ("odd name/2", True)])
def test_a_node_that_is_gone_leaves_neither_entry_nor_token_nor_peer(
    mesh: str, node: str, known: bool, host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.facts["MESH"] = mesh
    path = {"odd name/2": "odd%20name%2F2"}.get(node, node)
    tokens = [
        {"AccessorID": f"of {of}", "Description": of} for of in (f"node {node}", "node slave-3", "apollo-slave", f"node {node}")
    ]
    answers = {f"catalog/node/{path}": {"Node": {}} if known else None, f"health/node/{path}": [], "acl/tokens": tokens}
    asked: list[tuple[str, str]] = []

    def consul(path: str, token: str, method: str = "GET") -> Any:
        assert token == "the value of consul/management-token"
        asked.append((method, path))
        return (answers[path] if method == "GET" else None), None

    def router(url: str, body: bytes, timeout: float) -> Any:
        assert timeout == 5
        asked.append((url, body.decode()))
        return io.BytesIO()

    monkeypatch.setattr(local, "consul", consul)
    monkeypatch.setattr(forget.urllib.request, "urlopen", router)
    assert forget.main(node, "10.0.0.34") == 0
    gone, tokened = known, not node.startswith("control-")
    assert [one for one in asked if one[0] != "GET"] == [
        *([("PUT", f"agent/force-leave/{path}?prune")] if gone else []),
        *(2 * [("DELETE", f"acl/token/of node {node}")] if tokened else []),
        *([("http://127.0.0.1:6784/forget", "peer=10.0.0.34")] if mesh == "weave" else []),
    ]
    said = (
        [f"{node} taken out of Consul"] * gone
        + [f"{node}'s own token deleted"] * tokened
        + ["10.0.0.34 forgotten by the mesh"] * (mesh == "weave")
    )
    assert capsys.readouterr().out.splitlines() == said
    monkeypatch.setattr(forget.urllib.request, "urlopen", raising(OSError("refused")))
    tokens.clear()
    assert forget.main(node, "10.0.0.34") == 0
    assert ("10.0.0.34 not forgotten by the mesh: refused" in capsys.readouterr().out) is (mesh == "weave")


@pytest.mark.parametrize(
    ("checks", "alive"),
    [
        ([], False),
        ([{"CheckID": "serfHealth", "Status": "critical"}, {"CheckID": "web", "Status": "passing"}], False),
        ([{"CheckID": "web", "Status": "critical"}, {"CheckID": "serfHealth", "Status": "passing"}], True),
    ],
)
def test_a_node_is_alive_whose_agent_is_heard_for_as_long_as_a_dead_one_may_seem_so(
    checks: list[dict[str, str]], alive: bool, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "consul", lambda *_: (checks, None))
    assert forget.alive("slave-2", "token") is alive
    assert host.clock.waits == (17 if alive else 0) * [0.5]


# -- what a host says of itself


@pytest.fixture
def surveyed(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Its mesh has two peers, and its agent and its exporter run."""
    monkeypatch.setattr(survey, "ROUTES", host.folder / "routes.map")
    monkeypatch.setattr(survey, "Path", lambda place: host.folder / place.lstrip("/"))
    local.write(host.folder / "var/lib/apollo/mesh.json", json.dumps([{"Node": name} for name in ("slave-3", "slave-2")]))
    stand_in(
        host.folder / "bin/systemctl",
        """[ "$*" = "is-active consul apollo-exporter" ] && printf 'active\\nfailed\\n'; exit 3""",
    )
    results = [
        {"check": "a", "ok": True, "detail": "x"},
        {"check": "b", "ok": True, "warning": True, "detail": "y"},
        {"check": "c", "ok": False, "detail": "z"},
    ]
    stand_in(host.folder / "bin/apollo-check", f"""[ "$*" = "--json" ] && echo '{json.dumps({"checks": results})}'; exit 1""")
    monkeypatch.setenv("PATH", f"{host.folder}/bin:{os.environ['PATH']}")
    return host


SAID = {
    "host": "slave-1", "consul": "active", "metrics": "failed", "mesh": ["slave-2", "slave-3"],
    "checks": [{"check": "b", "detail": "y"}, {"check": "c", "detail": "z"}],
}  # fmt: skip


def said(capsys: pytest.CaptureFixture[str], *wanted: str) -> dict[str, Any]:
    assert survey.main(*wanted) == 0
    return json.loads(capsys.readouterr().out)


def test_a_host_says_how_its_agent_exporter_mesh_and_checks_are(surveyed: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == SAID
    survey.ROUTES.write_text("web.example.com/ web\n\ngone/ -\nbank/api bank extra\n")
    assert said(capsys) == SAID | {"routes": {"web.example.com/": "web", "bank/api": "bank"}}
    (surveyed.folder / "var/lib/apollo/mesh.json").unlink()
    answer = said(capsys)
    assert "mesh" not in answer and "No such file" in answer["meshProblem"]
    stand_in(surveyed.folder / "bin/apollo-check", "printf '%0400d the end\\n' 0 >&2; exit 1")
    (check,) = said(capsys)["checks"]
    assert (
        check["check"] == "apollo-check"
        and check["detail"].endswith("0 the end")
        and len(check["detail"]) == 300 + len("failed: ")
    )


def test_weaves_peers_are_those_of_its_router(
    surveyed: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    surveyed.facts["MESH"] = "weave"
    known = json.dumps({"Router": {"Peers": [{"NickName": name} for name in ("slave-3", "slave-1", "edge-1")]}}).encode()

    def router(url: str, timeout: float) -> Any:
        assert (url, timeout) == ("http://127.0.0.1:6784/report", 5)
        return io.BytesIO(known)

    monkeypatch.setattr(survey.urllib.request, "urlopen", router)
    assert said(capsys)["mesh"] == ["edge-1", "slave-3"]
    known = b'{"Router": {}}'
    assert said(capsys)["meshProblem"] == "'Peers'"


def test_a_check_that_does_not_end_is_given_up() -> None:
    done: list[Any] = []

    def communicate(timeout: float) -> Any:
        done.append(timeout)
        raise subprocess.TimeoutExpired("apollo-check", timeout)

    check: Any = SimpleNamespace(communicate=communicate, kill=lambda: done.append("killed"))
    assert survey.complaints(check) == {"slow": "its apollo-check did not end within 40 s"}
    assert done == [40, "killed"]


@pytest.mark.usefixtures("surveyed")
def test_the_catalog_is_told_with_who_lives_and_what_is_healthy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    well, ill = {"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "serfHealth", "Status": "critical"}
    other, paused = {"CheckID": "web", "Status": "critical"}, {"CheckID": "_node_maintenance", "Status": "critical"}
    meta = {"bridge": "10.2.0.1", "subnet": "10.2.1.0/24"}
    nodes = [
        {"Node": "slave-1", "Address": "10.0.0.33", "Meta": meta},
        {"Node": "odd/2", "Address": "10.0.0.34", "Meta": None},
        {"Node": "bank", "Address": "192.0.2.1", "Meta": {"external-node": "true"}},
    ]
    instances = [
        {"Node": {"Node": "slave-1", "Address": "10.0.0.33"}, "Service": {"Address": "10.2.1.5", "Port": 80}, "Checks": [well]},
        {"Node": {"Node": "odd/2", "Address": "10.0.0.34"}, "Service": {"Address": "", "Port": 81}, "Checks": [well, other]},
    ]
    answers: dict[str, Any] = {
        "catalog/nodes": nodes, "health/node/slave-1": [well, other], "health/node/odd%2F2": [ill, paused],
        "catalog/services": {"web/1": [], "apollo-metrics": [], "bank": []},
        "health/service/web%2F1": instances, "health/service/bank": [],
    }  # fmt: skip

    def consul(path: str, token: str) -> Any:
        assert token == "the value of consul/slave-token"
        return answers[path], None

    monkeypatch.setattr(local, "consul", consul)
    alone, odd = (
        {"address": "10.0.0.33", **meta, "alive": True, "maintenance": False},
        {"address": "10.0.0.34", "bridge": "", "subnet": "", "alive": False, "maintenance": True},
    )
    assert said(capsys, "catalog") == SAID | {
        "nodes": {"slave-1": alone, "odd/2": odd},
        "services": [
            {"name": "web/1", "node": "slave-1", "address": "10.2.1.5", "port": 80, "healthy": True},
            {"name": "web/1", "node": "odd/2", "address": "10.0.0.34", "port": 81, "healthy": False},
        ],
    }
    monkeypatch.setattr(local, "consul", raising(local.ConsulError("no leader")))
    assert said(capsys, "catalog") == SAID | {"catalogProblem": "no leader"}


def test_a_probe_says_of_each_address_why_its_port_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(probe, "SSH", port)
    with socket.create_server(("127.0.0.1", port)):
        assert probe.main("9", "127.0.0.1", "127.0.0.2") == 0
        assert json.loads(capsys.readouterr().out) == {"127.0.0.1": "", "127.0.0.2": f"port {port}: Connection refused"}
    asked: list[Any] = []
    connect = raising(TimeoutError("timed out"))
    monkeypatch.setattr(probe.socket, "create_connection", lambda *given: (asked.append(given), connect())[0])
    assert probe.silence("10.0.0.9", 2.5) == f"no answer at port {port} within 2.5 s"
    assert asked == [(("10.0.0.9", port), 2.5)]
    monkeypatch.setattr(probe.socket, "create_connection", raising(OSError("no words")))
    assert probe.silence("10.0.0.9", 2.5) == f"port {port}: no words"
