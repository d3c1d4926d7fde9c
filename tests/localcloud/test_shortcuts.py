"""Runs of the real engine with the SDK's shortcuts and without: the same steps, outputs, errors and exit status."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import sdk_shortcuts
from localcloud import cloud as clouds
from localcloud.engine.programs import pulumi
from localcloud.engine.run import environment
from localcloud.operations import Request, workspace_of
from localcloud.paths import REPOSITORY
from tests.host.support import until

from .support import PROGRAMS, REGION, CommandLine, end

pytestmark = pytest.mark.engine

OFF = {sdk_shortcuts.SWITCH: "off"}


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    line = CommandLine(tmp_path_factory.mktemp("failing") / "run", PROGRAMS / "failing")
    assert line.up().status == 0
    yield line
    line.run("down", "--force")
    line.close()


def both(line: CommandLine, how: str) -> Iterator[tuple[CommandLine, str]]:
    """The command line without the shortcuts and with them, and a word that is new for each run."""
    for word, extra in (("sdk", OFF), ("ours", {})):
        yield CommandLine(line.run_dir, line.program, extra), f"{how}-{word}"


def said(document: dict[str, Any], run: str) -> dict[str, Any]:
    """What an operation came to, without what differs between any two runs."""
    kept = {key: document[key] for key in ("result", "changes", "errors", "outputs")}
    # A program that is interrupted or fails ends while the SDK still sends: which of its calls come too late is chance.
    chance = ("cannot schedule new futures after", "Exception calling application: invalid state")
    kept["errors"] = [error for error in kept["errors"] if not error.startswith(chance)]
    if kept["result"] != "succeeded":
        # What stays as it is makes no step; how much of it the engine has counted when the run is ended is chance.
        kept["changes"] = {op: count for op, count in kept["changes"].items() if op != "same"}
    kept["steps"] = sorted((step["op"], step["type"], step["name"]) for step in document["steps"])
    text = re.sub(r"\b(vpc|subnet|rtb)-[0-9a-f]{8,}", r"\1-ID", json.dumps(kept).replace(run, "RUN"))
    # The frames of a traceback are each function's own business; its first and its last line are not.
    return json.loads(re.sub(r"(Traceback \(most recent call last\):).*?\\n(?! )", r"\1 … ", text))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("program", "the program fails"),
        ("refusal", "the program refuses"),
        ("apply", "integer division or modulo by zero"),
        ("apply-in-apply", "integer division or modulo by zero"),
        ("coroutine", "the coroutine fails"),
        ("provider", "192.168.0.0/24"),
    ],
)
def test_a_failure_ends_the_run_as_without_the_shortcuts(failing: CommandLine, how: str, words: str) -> None:
    found: list[tuple[int, dict[str, Any]]] = []
    for line, run in both(failing, how):
        done = line.up(f"how={how}", f"run={run}")
        found.append((done.status, said(done.json, run)))
    sdk, ours = found
    assert sdk[0] == ours[0] == 1
    assert words in " ".join(ours[1]["errors"])
    assert ours == sdk


def test_ctrl_c_ends_the_run_as_without_the_shortcuts(failing: CommandLine) -> None:
    found: list[tuple[int, dict[str, Any], list[str]]] = []
    for line, run in both(failing, "slow"):
        cloud = line.cloud
        cloud.ask("fault", {"operation": "create", "name": f"slow-{run}", "delay": 60, "when": "after"})
        process = line.start("up", "--json", "--set", "how=slow", "--set", f"run={run}")
        # Made, and not yet answered for: at the call's begin, a cancellation may still come before it is made.
        until(lambda cloud=cloud, run=run: f"::slow-{run}'" in str(cloud.ask("status")["made"]), "the slow one")
        done = end(process, signal.SIGINT)
        left = sorted(name.replace(run, "RUN") for name in line.resources() if name.endswith(run))
        found.append((done.status, said(done.json, run), left))
    sdk, ours = found
    assert ours[0] == 130 and ours[2] == ["made-RUN", "slow-RUN"], "what was under way is recorded, and nothing begun after it"
    assert ours == sdk


@pytest.mark.parametrize("name", [path.name.split(".")[1] for path in sorted(REPOSITORY.glob("Pulumi.*.yaml"))])
def test_each_stack_file_plans_the_same_goals_and_outputs(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    cloud = clouds.start(folder, REGION, ephemeral=True)
    try:
        workspace = workspace_of(folder, Request(name))
        env = {**environment(cloud, workspace, pulumi()), "PULUMI_EXPERIMENTAL": "true"}
        argv = ["pulumi", "preview", "--stack", name, "--non-interactive"]
        subprocess.run([argv[0], "stack", "init", name], env=env, cwd=workspace.work, check=True, capture_output=True)
        plans: list[Any] = []
        for word, extra in (("sdk", OFF), ("ours", {})):
            plan = tmp_path / f"{word}.json"
            done = subprocess.run(
                [*argv, "--save-plan", str(plan)],
                env={**env, **extra},
                cwd=workspace.work,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            plans.append(json.loads(plan.read_text())["resourcePlans"])
    finally:
        cloud.stop()
    sdk, ours = (without_chance(plan) for plan in plans)
    assert len(ours) > 100
    assert ours == sdk


def without_chance(value: Any) -> Any:
    """A saved plan without what is drawn anew in each run, and with lists of names in one order."""
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return {key: without_chance(item) for key, item in fields.items() if key not in ("ciphertext", "seed")}
    if isinstance(value, list):
        items = [without_chance(item) for item in cast(list[Any], value)]
        return sorted(items) if all(isinstance(item, str) for item in items) else items
    return re.sub(r"-[0-9a-f]{7}$", "-CHANCE", value) if isinstance(value, str) else value
