"""How long planning takes, and rendering the user-data of the planned hosts."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from host.render import user_data
from plan.cluster import Cluster, plan_cluster
from plan.parse import parse

ROUNDS = 5


def settings(slaves: int) -> dict[str, Any]:
    """A stack of that many slaves: the default overlay where it holds them, else 10.0.0.0/8."""
    if slaves <= 239:
        return {"region": "eu-west-1", "slaves": {"count": slaves}}
    return {
        "region": "eu-west-1",
        "network": {"cidr": "172.16.0.0/12"},
        "overlay": {"cidr": "10.0.0.0/8", "mesh": "vxlan"},
        "slaves": {"count": slaves},
    }


def plan(slaves: int) -> Cluster:
    return plan_cluster(parse(settings(slaves)))


def measure() -> list[dict[str, Any]]:
    """Seconds, median of several rounds, and what one host costs beside the smallest plan's."""
    small, large = plan(239), plan(65_000)
    cases: list[tuple[str, int, Callable[[], object]]] = [
        ("plan 239 slaves", 239, lambda: plan(239)),
        ("plan 65,000 slaves", 65_000, lambda: plan(65_000)),
        ("user-data of 239 slaves", 239, lambda: [user_data(small, host, "bench") for host in small.slaves]),
        ("user-data of 239 of 65,000 slaves", 239, lambda: [user_data(large, host, "bench") for host in large.slaves[:239]]),
    ]
    rows: list[dict[str, Any]] = [
        {"what": what, "hosts": hosts, "seconds": _median_seconds(work)} for what, hosts, work in cases
    ]
    for row, base in ((rows[1], rows[0]), (rows[3], rows[2])):
        row["each host ÷ small plan's"] = round((row["seconds"] / row["hosts"]) / (base["seconds"] / base["hosts"]), 2)
    return rows


def _median_seconds(work: Callable[[], object]) -> float:
    taken: list[float] = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return round(median(taken), 4)
