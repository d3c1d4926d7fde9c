"""How long commands take to start, beside Python itself, and how large user-data is."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import Any

from host.render import MAX_BYTES, user_data
from localcloud.paths import REPOSITORY
from plan.cluster import plan_cluster
from plan.parse import parse

ROUNDS = 15
COMMANDS = {"localcloud --help": ["-m", "localcloud", "--help"], "ops --help": ["-m", "ops", "--help"]}
# A command's imports may take so many starts of Python. exec, status and outputs import what the help text does.
GOAL = 10.0


def commands() -> list[dict[str, Any]]:
    """Each command's start ÷ that of `python -c pass`, turn by turn, as the machine's speed changes."""
    rows: list[dict[str, Any]] = []
    for name, argv in COMMANDS.items():
        pairs = [(_seconds(argv), _seconds(["-c", "pass"])) for _ in range(ROUNDS)]
        rows.append(
            {
                "what": f"start of {name}",
                "seconds": round(median(ours for ours, _ in pairs), 3),
                "ratio": round(median(ours / bare for ours, bare in pairs), 1),
                "goal, at most": GOAL,
            }
        )
    return rows


def bytes_of_user_data() -> list[dict[str, Any]]:
    """The largest user-data of each role, over all meshes, of images with packages and without."""
    largest: dict[str, int] = {}
    for mesh in ("weave", "vxlan", "wireguard"):
        for baked in (True, False):
            settings = {"region": "eu-west-1", "slaves": {"count": 1}, "overlay": {"mesh": mesh}, "image": {"baked": baked}}
            plan = plan_cluster(parse(settings))
            for host in plan.hosts:
                largest[host.role] = max(largest.get(host.role, 0), len(user_data(plan, host, "bench")))
    return [{"what": f"user-data of {role}", "bytes": size, "goal, at most": MAX_BYTES} for role, size in largest.items()]


def _seconds(argv: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *argv], cwd=REPOSITORY, capture_output=True, check=True)
    return time.perf_counter() - begun
