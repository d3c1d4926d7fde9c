"""What the live stack says of itself, gathered over SSH: Consul's catalog, the mesh's table of each host, an edge's routes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ops.reach import Deadline, Ssh, Unreachable
from plan.cluster import Cluster, PlannedHost

# Seconds for one host, whose cores may all be busy, and for all hosts together.
EACH, ALL = 60.0, 300.0
_AT_ONCE = 8
# Seconds between two lines of progress.
_PACE = 5.0


class Node(TypedDict):
    address: str
    bridge: str
    subnet: str
    alive: bool
    maintenance: bool


class Service(TypedDict):
    name: str
    node: str
    address: str
    port: int
    healthy: bool


class Check(TypedDict):
    check: str
    detail: str


class _Answer(TypedDict):
    """What `apollo survey` prints. A host may have been taken over, so its answer is checked against this."""

    consul: str
    metrics: NotRequired[str]
    checks: NotRequired[list[Check]]
    slow: NotRequired[str]
    mesh: NotRequired[list[str]]
    meshProblem: NotRequired[str]
    routes: NotRequired[dict[str, str]]
    nodes: NotRequired[dict[str, Node]]
    services: NotRequired[list[Service]]


_ANSWER = TypeAdapter(_Answer)


@dataclass
class Survey:
    """nodes, services: Consul's, None where no host could tell. mesh: peers by host. silent: host → why it did not answer.

    slow: host → how it is known to be up, though it did not tell in time. odd: host → what is wrong with its answer.
    lost: host → why it cannot read its mesh's table. consul: host → the state of its agent's unit. metrics: host → that of its
    exporter, "" where its programs know of none. checks: host → what its
    apollo-check fails or warns of. routes: host name and path at the edge, with a slash at the end (`web.example.com/`,
    `*/api/`), → service. unreachable: why no host could be asked at all.
    """

    nodes: dict[str, Node] | None = None
    services: list[Service] = field(default_factory=list[Service])
    mesh: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    silent: dict[str, str] = field(default_factory=dict[str, str])
    slow: dict[str, str] = field(default_factory=dict[str, str])
    odd: dict[str, str] = field(default_factory=dict[str, str])
    lost: dict[str, str] = field(default_factory=dict[str, str])
    consul: dict[str, str] = field(default_factory=dict[str, str])
    metrics: dict[str, str] = field(default_factory=dict[str, str])
    checks: dict[str, list[Check]] = field(default_factory=dict[str, list[Check]])
    routes: dict[str, str] = field(default_factory=dict[str, str])
    unreachable: str = ""


def survey(
    ssh: Ssh, plan: Cluster, hosts: Iterable[PlannedHost] | None = None, progress: Callable[[int, int], None] | None = None
) -> Survey:
    """Asks all hosts of the plan, or those given, a few at a time; ends after ALL seconds. progress: (asked, all)."""
    found, deadline = Survey(), Deadline(ALL)
    asked = list(plan.hosts if hosts is None else hosts)
    # A server has the catalog itself; the edge is where one gets in anyway.
    tellers = {host.name for host in (*plan.control, *plan.edges)}

    def at(host: PlannedHost) -> str:
        return "" if host is plan.edges[0] else str(host.private_ip)

    try:
        ssh.knock()
        ports = ssh.probe(at(host) for host in asked)
    except Unreachable as error:
        found.unreachable = str(error)
        return found

    def ask(host: PlannedHost) -> tuple[PlannedHost, _Answer | Unreachable]:
        if why := ports.get(at(host)):
            return host, Unreachable(why, "down")
        if not deadline.left:
            return host, Unreachable(f"not asked within {ALL:.0f} s", "slow")
        try:
            wanted = ["catalog"] if host.name in tellers else []
            return host, _ANSWER.validate_python(ssh.ask(at(host), "survey", *wanted, seconds=min(EACH, deadline.left)))
        except Unreachable as error:
            return host, error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            return host, Unreachable(f"its answer makes no sense: {place}: {first['msg']}", "failed")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for number, (host, answer) in enumerate(pool.map(ask, asked), 1):
            if progress:
                progress(number, len(asked))
            if isinstance(answer, Unreachable):
                {"down": found.silent, "slow": found.slow}.get(answer.kind, found.odd)[host.name] = str(answer)
            else:
                _keep(found, host, answer, host.name in tellers)
    return found


def _keep(found: Survey, host: PlannedHost, answer: _Answer, teller: bool) -> None:
    """Keeps what a host says of itself. Only what control nodes and edges say of other hosts is believed."""
    name = host.name
    if "mesh" in answer:
        found.mesh[name] = answer["mesh"]
    else:
        found.lost[name] = answer.get("meshProblem", "it does not say why")
    found.consul[name] = answer["consul"]
    found.metrics[name] = answer.get("metrics", "")
    found.checks[name] = answer.get("checks", [])
    if "slow" in answer:
        found.slow[name] = answer["slow"]
    if host.role == "edge":
        found.routes = found.routes or answer.get("routes", {})
    if teller and "nodes" in answer and found.nodes is None:
        found.nodes, found.services = answer["nodes"], answer.get("services", [])


def on_terminal() -> Callable[[int, int], None]:
    """Progress on standard error, a line every few seconds."""
    last = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal last
        if done < of and time.monotonic() - last > _PACE:
            last = time.monotonic()
            print(f"{done} of {of} hosts asked", file=sys.stderr, flush=True)

    return tell
