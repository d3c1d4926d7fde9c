"""Preview and `up` of a stack on the embedded cloud, against the same number of bare resources in the same run, and where
`terraform` is, a preview against its plan of the same registrations too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from localcloud.paths import REPOSITORY
from plan.addresses import OverlayPlan
from plan.settings import Overlay

BARE = Path(__file__).with_name("bare")
# What differs between two runs is the machine's noise; a preview is cheap enough to take the median of some, as many as begin
# in so many seconds.
PREVIEWS, SECONDS = 3, 90
# The slots of the local stack's overlay; this one, beside the same VPC, has 8,160.
NARROW, WIDE = OverlayPlan(Overlay().cidr).last_slot, "overlay.cidr=10.32.0.0/11"
# A preview of so many slaves is to take at most so many times what its bare resources take under the SDK as it is.
GOAL_SLAVES, GOAL = 250, 0.8
# And so many times Terraform's plan.
GOAL_TERRAFORM = 0.7


def previews(slaves: int) -> list[dict[str, Any]]:
    """Seconds of our stack and of the yardsticks, interleaved, and their ratios. RuntimeError: a run failed."""
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as folder:
        ours, bare, resources = _programs(Path(folder), slaves)
        others = {"bare": lambda: bare.preview()[0]}
        if terraform := _terraform(Path(folder) / "terraform", slaves):
            others["terraform plan"] = terraform
        rounds: list[dict[str, float]] = []
        begun = time.perf_counter()
        while len(rounds) < PREVIEWS and (not rounds or time.perf_counter() < begun + SECONDS):
            rounds.append({"ours": ours.preview()[0]} | {name: other() for name, other in others.items()})
        taken = {name: median(each[name] for each in rounds) for name in rounds[0]}
        goals = {"bare": GOAL, "terraform plan": GOAL_TERRAFORM} if slaves == GOAL_SLAVES else {}
        return [
            _row("preview", slaves, resources, taken["ours"], taken[name], name)
            | ({"goal, at most": goals[name]} if name in goals else {})
            for name in others
        ]


def _terraform(folder: Path, slaves: int) -> Callable[[], float] | None:
    """Times `terraform plan` of what our program registers, without a cloud to ask. None without Terraform and its provider."""
    # What translates registrations is the tests' own, and needs what they need.
    from tests.components.recording import run_program, stack_config
    from tests.terraform import Terraform, found_mirror

    if shutil.which("terraform") is None or found_mirror() is None:
        return None
    config = stack_config("local")
    for pair in sets(slaves)[1::2]:
        key, _, value = pair.partition("=")
        section, _, name = key.partition(".")
        given = config.get(f"apollo:{section}", {})
        config[f"apollo:{section}"] = {**given, name: int(value) if value.isdigit() else value}
    terraform = Terraform(folder, {"ours": run_program("local", config)})

    def plan() -> float:
        begun = time.perf_counter()
        try:
            terraform.changes("plan")
        except AssertionError as error:
            raise RuntimeError(f"terraform plan failed: {error}") from None
        return time.perf_counter() - begun

    return plan


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


def _row(what: str, slaves: int, resources: int, ours: float, other: float, to: str = "bare") -> dict[str, Any]:
    return {
        "what": f"{what}, {slaves} slaves",
        "resources": resources,
        "seconds": round(ours, 1),
        "beside": to,
        "its seconds": round(other, 1),
        "ratio": round(ours / other, 2),
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
