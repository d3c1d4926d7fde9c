"""The whole local stack, booted once for all tests in this folder. Each test leaves it as it found it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localcloud.paths import REPOSITORY
from tests.labs import needs_machines

pytestmark = [pytest.mark.machines]
# Seconds: longer than anything takes that works.
PATIENCE = 240


@dataclass(frozen=True)
class Stack:
    """The booted stack, through its command line. edge_port: of 127.0.0.1, leading to the edge."""

    run_dir: Path
    edge_port: int

    def cli(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "APOLLO_RUN_DIR": str(self.run_dir)}
        argv = [sys.executable, "-m", "localcloud", *arguments]
        return subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=timeout, check=False)

    def up(self, *arguments: str) -> dict[str, Any]:
        done = self.cli("up", "--json", "--edge-port", str(self.edge_port), *arguments, timeout=1500)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return json.loads(done.stdout)

    def run(self, host: str, *argv: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        return self.cli("exec", host, "--", *argv, timeout=timeout)

    def out(self, host: str, *argv: str) -> str:
        """What a command on a host printed; it must succeed."""
        done = self.run(host, *argv)
        assert done.returncode == 0, f"{host}: {argv}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def order(self, what: str, host: str) -> None:
        done = self.cli(what, host)
        assert done.returncode == 0, done.stderr

    def checked(self, flows: int = 1) -> list[dict[str, Any]]:
        """The check's results, failures too."""
        done = self.cli("check", "--json", "--flows", str(flows), timeout=600)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def assert_all_reachable(self, flows: int = 1) -> None:
        results = self.checked(flows)
        failed = [f"{r['kind']}: {r['source']} to {r['target']}: {r['detail']}" for r in results if not r["passed"]]
        assert not failed, "\n".join(failed)
        assert len(results) > 50

    def curl(self, host: str, path: str = "/") -> str:
        url = f"http://127.0.0.1:{self.edge_port}{path}"
        argv = ["curl", "-s", "--noproxy", "*", "--max-time", "5", "-H", f"Host: {host}", url]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Waits for a condition, and fails the test by its name where it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.2)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.machines)


@pytest.fixture(scope="session")
def unbooted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Stack]:
    """Makes command lines of stacks that are still to be booted. Skips, or in CI fails, where this machine can boot none."""
    needs_machines(tmp_path_factory.getbasetemp(), "the booted network")

    def make() -> Stack:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return Stack(tmp_path_factory.mktemp("cloud"), probe.getsockname()[1])

    return make


@pytest.fixture(scope="session")
def stack(unbooted: Callable[[], Stack]) -> Generator[Stack]:
    booted = unbooted()
    try:
        booted.up()
        yield booted
    finally:
        down = booted.cli("down", timeout=600)
        if down.returncode:
            booted.cli("down", "--force", timeout=600)
    assert down.returncode == 0, down.stderr
