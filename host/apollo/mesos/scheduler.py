"""Keeps what this control node runs known: ZooKeeper, Mesos master and Marathon as services in Consul, and ZooKeeper itself
as a voter of its ensemble.

A service is in Consul while its unit is up, with a check that this program renews: passing while the server does its work
(ZooKeeper with a majority, a master that stands by or leads with a majority of logs, a Marathon that answers), critical with
the reason otherwise, and critical too when this program is gone. The leading master has the tag `leader`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from host.apollo import local, zookeeper
from host.apollo.mesos import control, mesos

# Seconds between two looks, and how long a look holds: longer than that and what the slowest look may take.
PERIOD = 5
TTL = "20s"
TOKEN = "consul/control-token"
# Names of services that the edge is to publish.
PUBLISHED = Path("/etc/apollo/mesos-published")


@dataclass(frozen=True)
class State:
    """What a look at a server found. detail: in words, for the check's output."""

    passing: bool
    detail: str
    tags: list[str] = field(default_factory=list[str])
    meta: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Service:
    """look: asks the running server. port: where its clients find it."""

    name: str
    unit: str
    port: int
    look: Callable[[Mapping[str, str]], State]


def look_at_zookeeper(facts: Mapping[str, str]) -> State:
    mode = zookeeper.mode(facts["PRIVATE_IP"])
    if not mode:
        return State(False, f"does not serve: {zookeeper.silence()}")
    if mode == "observer" or zookeeper.members(facts["PRIVATE_IP"]).get(int(facts["INDEX"]), ("", ""))[1] != "participant":
        zookeeper.add(facts)
        print("made a voter of the ensemble", flush=True)
    zookeeper.claim(facts)
    return State(True, mode)


def look_at_master(facts: Mapping[str, str]) -> State:
    quorum = control.QUORUM.read_text().strip()
    # Registered in every state: masters with a larger quorum wait for it.
    meta = {"quorum": quorum}
    url = f"http://{facts['PRIVATE_IP']}:{mesos.MASTER_PORT}/metrics/snapshot"
    try:
        status, answer = mesos.get(url, control.login(control.OPERATOR), seconds=mesos.LOOK_SECONDS)
    except OSError as problem:
        return State(False, f"{url}: {problem}", meta=meta)
    if status != 200:
        return State(False, f"{url}: {status}", meta=meta)
    metrics = json.loads(answer)
    if not metrics.get("master/elected"):
        return State(True, f"stands by, quorum {quorum}", meta=meta)
    # It leads before its log has a majority, and can do nothing until then.
    recovered = bool(metrics.get("registrar/log/recovered", 1))
    detail = f"leads, quorum {quorum}" if recovered else f"leads, and its log has no majority of {quorum}"
    return State(recovered, detail, ["leader", *published("mesos-master")], meta)


def look_at_marathon(facts: Mapping[str, str]) -> State:
    url = f"http://{facts['PRIVATE_IP']}:{mesos.MARATHON_PORT}/ping"
    status, _ = mesos.get(url, control.login(control.MARATHON), seconds=mesos.LOOK_SECONDS)
    return State(status == 200, "answers" if status == 200 else f"{url}: {status}", published("marathon"))


def published(name: str) -> list[str]:
    """The tags that the edge asks for, where the stack publishes this service."""
    return ["public"] if PUBLISHED.exists() and name in PUBLISHED.read_text().split() else []


SERVICES = (
    Service("zookeeper", "apollo-zookeeper.service", zookeeper.CLIENT_PORT, look_at_zookeeper),
    Service("mesos-master", mesos.UNITS["master"], mesos.MASTER_PORT, look_at_master),
    Service("marathon", mesos.UNITS["marathon"], mesos.MARATHON_PORT, look_at_marathon),
)


def running(unit: str) -> bool:
    return subprocess.run(["systemctl", "-q", "is-active", unit], check=False, timeout=20).returncode == 0


def registration(service: Service, facts: Mapping[str, str], state: State) -> dict[str, Any]:
    return {
        "ID": service.name,
        "Name": service.name,
        "Address": facts["PRIVATE_IP"],
        "Port": service.port,
        "Tags": state.tags,
        "Meta": state.meta,
        "Check": {"TTL": TTL, "Status": "critical"},
    }


def differs(known: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    return known is None or any((known.get(key) or []) != wanted[key] for key in ("Address", "Port", "Tags")) or (
        (known.get("Meta") or {}) != wanted["Meta"]
    )  # fmt: skip


def step(facts: Mapping[str, str], service: Service) -> str:
    """Looks at a server once and reports it to Consul. Returns a line about it, empty where it does not run. Raises
    ConsulError."""
    token = local.secret(TOKEN)
    up = running(service.unit)
    known, _ = local.consul("agent/services", token)
    if not up:
        if service.name in known:
            local.consul(f"agent/service/deregister/{service.name}", token, "PUT")
        return ""
    try:
        state = service.look(facts)
    except (zookeeper.ZooKeeperError, OSError, ValueError, subprocess.SubprocessError) as problem:
        state = State(False, str(problem))
    wanted = registration(service, facts, state)
    # A service is bound to the token that registered it, so a rotated one registers it anew.
    wanted["Meta"] = {**wanted["Meta"], "token": hashlib.sha256(token.encode()).hexdigest()[:16]}
    if differs(known.get(service.name), wanted):
        local.consul("agent/service/register", token, "PUT", wanted)
    status = {"Status": "passing" if state.passing else "critical", "Output": state.detail}
    local.consul(f"agent/check/update/service:{service.name}", token, "PUT", status)
    return state.detail


def watch(facts: Mapping[str, str], service: Service) -> NoReturn:
    """Looks at one server for ever."""
    last = ""
    while True:
        try:
            said = step(facts, service)
        except local.ConsulError as problem:
            said = f"Consul: {problem}"
        except Exception as problem:
            # No one would notice a thread that ended. The next look may succeed, and Consul knows when none did.
            said = f"cannot look: {problem!r}"
        if said and said != last:
            print(f"{service.name}: {said}", flush=True)
        last = said
        time.sleep(PERIOD)


def main() -> None:
    facts = local.facts()
    # A thread for each, so that one server that hangs makes no other look dead.
    threads = [threading.Thread(target=watch, args=(facts, service), daemon=True) for service in SERVICES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
