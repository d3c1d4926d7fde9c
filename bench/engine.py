"""Preview and `up` of a stack on the embedded cloud, against the same number of bare resources in the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from localcloud.paths import REPOSITORY
from plan.addresses import OverlayPlan
from plan.settings import Overlay

BARE = Path(__file__).with_name("bare")
# What differs between two runs is the machine's noise; a preview is cheap enough to take the median of some.
PREVIEWS = 3
# The slots of the local stack's overlay; this one, beside the same VPC, has 8,160.
NARROW, WIDE = OverlayPlan(Overlay().cidr).last_slot, "overlay.cidr=10.32.0.0/11"
# A preview of so many slaves is to take at most so many times what its bare resources take under the SDK as it is.
GOAL_SLAVES, GOAL = 250, 0.8


def previews(slaves: int) -> list[dict[str, Any]]:
    """Seconds of our stack and of the yardstick, interleaved, and their ratio. RuntimeError: a run failed."""
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as folder:
        ours, bare, resources = _programs(Path(folder), slaves)
        pairs = [(ours.preview()[0], bare.preview()[0]) for _ in range(PREVIEWS)]
        row = _row("preview", slaves, resources, median(p[0] for p in pairs), median(p[1] for p in pairs))
        return [{**row, "goal, at most": GOAL} if slaves == GOAL_SLAVES else row]


def ups(slaves: int) -> list[dict[str, Any]]:
    """The same for an `up`, and for one that changes nothing."""
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as folder:
        ours, bare, resources = _programs(Path(folder), slaves)
        rows: list[dict[str, Any]] = []
        try:
            rows.append(_row("up", slaves, resources, ours.up(), bare.up()))
            rows.append(_row("up again", slaves, resources, ours.up(), bare.up()))
        finally:
            for program in (ours, bare):
                program.down()
    return rows


def _programs(folder: Path, slaves: int) -> tuple[_Program, _Program, int]:
    """Ours, the yardstick, and how many resources each has."""
    ours = _Program(REPOSITORY, folder / "ours", sets(slaves))
    resources = ours.preview()[1]
    return ours, _Program(BARE, folder / "bare", ["--set", f"count={resources}"]), resources


def sets(slaves: int) -> list[str]:
    """The options that make the local stack one of so many slaves, 0 to 8,158."""
    return ["--set", f"slaves.count={slaves}", *(["--set", WIDE] if slaves > NARROW else [])]


def _row(what: str, slaves: int, resources: int, ours: float, bare: float) -> dict[str, Any]:
    return {
        "what": f"{what}, {slaves} slaves",
        "resources": resources,
        "seconds": round(ours, 1),
        "bare seconds": round(bare, 1),
        "ratio": round(ours / bare, 2),
    }


class _Program:
    def __init__(self, folder: Path, run_dir: Path, sets: list[str]) -> None:
        self._env = {**os.environ, "APOLLO_PROGRAM": str(folder), "APOLLO_RUN_DIR": str(run_dir)}
        self._sets = sets

    def preview(self) -> tuple[float, int]:
        """(seconds, resources of any provider to create; components are none)."""
        taken, result = self._run("preview", *self._sets)
        return taken, sum(1 for step in result["steps"] if not step["type"].startswith(("apollo:", "pulumi:")))

    def up(self) -> float:
        return self._run("up", "--no-machines", *self._sets)[0]

    def down(self) -> None:
        self._run("down")

    def _run(self, *arguments: str) -> tuple[float, dict[str, Any]]:
        argv = [sys.executable, "-m", "localcloud", *arguments, "--json"]
        begun = time.perf_counter()
        done = subprocess.run(argv, cwd=REPOSITORY, env=self._env, capture_output=True, text=True, check=False)
        taken = time.perf_counter() - begun
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr[-2000:]}")
        return taken, json.loads(done.stdout)
