"""Runs and clouds that are killed while hosts boot: `down` takes all of it away, and says so in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator

import pytest

from localcloud import cloud as clouds
from localcloud.paths import REPOSITORY
from tests.booted.conftest import Stack, traces, until

SMALL = ("--set", "slaves.count=1", "--set", "control.count=1")
# Seconds for `down` after a kill: more than destroying takes, less than any command's own patience with a host.
DOWN = 550


@pytest.fixture
def small(unbooted: Callable[[], Stack]) -> Generator[Stack]:
    """A stack that is still to be booted, and is gone afterwards whatever the test did."""
    made = unbooted()
    yield made
    if made.run_dir.exists():
        made.cli("down", "--force", timeout=600)


def booting(stack: Stack) -> bool:
    return any((stack.run_dir / "local" / "machines").glob("*/machine.json"))


def checking(stack: Stack) -> bool:
    """Whether a host's readiness is being asked for: the question waits on the host itself."""
    return booting(stack) and stack.run("slave-1", "pgrep", "-f", "(status|check) --wait").returncode == 0


@pytest.mark.parametrize("moment", [booting, checking])
@pytest.mark.parametrize("cloud_too", [False, True], ids=["the-run", "the-run-and-its-cloud"])
def test_down_after_a_kill_leaves_nothing(small: Stack, moment: Callable[[Stack], bool], cloud_too: bool) -> None:
    env = {**os.environ, "APOLLO_RUN_DIR": str(small.run_dir)}
    argv = [sys.executable, "-m", "localcloud", "up", "--edge-port", str(small.edge_port), *SMALL]
    with subprocess.Popen(argv, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            until(lambda: moment(small) or run.poll() is not None, moment.__name__, 900)
            assert run.poll() is None, "the run came to its end before it could be killed"
        finally:
            run.kill()
    found = clouds.find(small.run_dir / "local")
    assert found is not None and found.alive(), "the cloud outlives the run"
    if cloud_too:
        os.kill(found.pid, signal.SIGKILL)
        until(lambda: not found.alive(), "the cloud is gone")
        # Machines, connections and helpers go by themselves; namespaces, groups and folders wait for the sweep.
        until(lambda: not any(line.startswith("process") for line in traces(small.run_dir)), "no process is left")
    begun = time.monotonic()
    small.down()
    assert time.monotonic() - begun < DOWN
