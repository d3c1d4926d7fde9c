"""What the live stack says of itself, gathered over SSH: Consul's catalog, the mesh's table of each host, an edge's routes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ops.reach import Reach, Unreachable
from plan.cluster import Cluster, PlannedHost

# Seconds for one host.
_EACH = 20.0
_AT_ONCE = 8


@dataclass
class Survey:
    """nodes, services: Consul's, None where no host could tell. mesh: peers by host. silent: host → why it did not answer.

    lost: host → why it cannot tell its mesh's table. consul: host → the state of its agent's unit. routes: host name and path
    at the edge, with a slash at the end (`web.example.com/`, `*/api/`), → service.
    """

    nodes: dict[str, dict[str, Any]] | None = None
    services: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    mesh: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    silent: dict[str, str] = field(default_factory=dict[str, str])
    lost: dict[str, str] = field(default_factory=dict[str, str])
    consul: dict[str, str] = field(default_factory=dict[str, str])
    routes: dict[str, str] = field(default_factory=dict[str, str])


def survey(reach: Reach, plan: Cluster, hosts: Iterable[PlannedHost] | None = None) -> Survey:
    """Asks all hosts of the plan, or those given, a few at a time."""
    found = Survey()
    asked = list(plan.hosts if hosts is None else hosts)
    # A server has the catalog itself; the edge is where one gets in anyway.
    tellers = {host.name for host in (*plan.control, *plan.edges)}

    def ask(host: PlannedHost) -> tuple[str, dict[str, Any] | str]:
        address = "" if host is plan.edges[0] else str(host.private_ip)
        try:
            wanted = ["catalog"] if host.name in tellers else []
            return host.name, json.loads(reach.run(address, "survey", *wanted, seconds=_EACH))
        except (Unreachable, ValueError) as error:
            return host.name, str(error)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, seen in pool.map(ask, asked):
            if isinstance(seen, str):
                found.silent[name] = seen
                continue
            if "mesh" in seen:
                found.mesh[name] = seen["mesh"]
            else:
                found.lost[name] = seen["meshProblem"]
            found.consul[name] = seen["consul"]
            found.routes = found.routes or seen.get("routes", {})
            if "nodes" in seen and found.nodes is None:
                found.nodes, found.services = seen["nodes"], seen["services"]
    return found
