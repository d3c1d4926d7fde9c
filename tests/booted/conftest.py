"""The whole local stack, booted once for all tests in this folder that a worker runs. Each leaves it as it found it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localcloud import cloud as clouds
from localcloud.apollo.fleet import Fleet, fleet
from localcloud.cloud import Cloud
from localcloud.errors import LocalCloudError
from localcloud.machines import namespaces
from localcloud.machines.cgroups import hierarchies
from localcloud.machines.driver import prefix
from localcloud.paths import REPOSITORY
from localcloud.stack.running import state_file
from localcloud.stack.state import outputs
from tests.host.support import free_ports
from tests.labs import needs_machines

pytestmark = [pytest.mark.machines]
# Seconds: longer than anything takes that works, also where it takes ten times as long as on a quiet machine.
PATIENCE = 600
# Seconds that one way through the network may take until it passes, and what is enough where some are to fail.
SETTLED, SOON = 180, 20


@dataclass(frozen=True)
class Stack:
    """The booted stack, through its command line. edge_port: of 127.0.0.1, leading to the edge."""

    run_dir: Path
    edge_port: int

    def cli(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "APOLLO_RUN_DIR": str(self.run_dir)}
        argv = [sys.executable, "-m", "localcloud", *arguments]
        return subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=timeout, check=False)

    @property
    def cloud(self) -> Cloud:
        """As it runs now."""
        found = clouds.find(self.run_dir / "local")
        assert found is not None, "no cloud runs"
        return found

    def up(self, *arguments: str, timeout: float = 1500) -> dict[str, Any]:
        done = self.cli("up", "--json", "--edge-port", str(self.edge_port), *arguments, timeout=timeout)
        document: dict[str, Any] = json.loads(done.stdout or "{}")
        assert done.returncode == 0, f"{document.get('errors')}\n{done.stderr[-3000:]}"
        return document

    def down(self) -> None:
        """Takes the stack away, by force where it must, and fails unless that was in order and left nothing."""
        down = self.cli("down", timeout=600)
        if down.returncode:
            self.cli("down", "--force", timeout=600)
        assert down.returncode == 0, down.stderr
        # What was killed may still be on its way out of the kernel.
        until(lambda: not traces(self.run_dir), "nothing is left", why=lambda: "\n".join(traces(self.run_dir)))

    def run(self, host: str, *argv: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """What `exec` does, in this process: tests run hundreds of commands, an interpreter for each is most of it."""
        try:
            command = self.fleet.command(host, argv)
        except LocalCloudError as error:
            return subprocess.CompletedProcess([host, *argv], error.status, "", f"error: {error}\n")
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)

    @property
    def exports(self) -> dict[str, Any]:
        """What `outputs` prints."""
        return outputs(state_file(self.run_dir / "local", "apollo", "local"))

    @property
    def fleet(self) -> Fleet:
        """The hosts as they are now."""
        cloud = self.cloud
        return fleet(cloud.folder, cloud.hosts())

    def out(self, host: str, *argv: str) -> str:
        """What a command on a host printed; it must succeed."""
        done = self.run(host, *argv)
        assert done.returncode == 0, f"{host}: {argv}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def metrics(self, host: str, begin: str) -> list[str]:
        """What the host finds now for Prometheus, the lines that begin so."""
        # systemd refuses a sixth start within ten seconds: then it is what was found before.
        self.run(host, "systemctl", "start", "apollo-metrics")
        text = self.out(host, "cat", "/run/apollo/metrics/apollo.prom")
        return [line for line in text.splitlines() if line.startswith(begin)]

    def order(self, what: str, host: str) -> None:
        done = self.cli(what, host)
        assert done.returncode == 0, done.stderr

    def checked(self, flows: int = 1, patience: int = SETTLED, timeout: float = 1500) -> list[dict[str, Any]]:
        """The check's results, failures too. patience: seconds for each to pass."""
        done = self.cli("check", "--json", "--flows", str(flows), "--patience", str(patience), timeout=timeout)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def await_well(self, *hosts: str) -> None:
        """Returns once each of them says that it is what the plan says and has its place in the network."""
        for host in hosts:
            until(
                lambda host=host: self.run(host, "apollo-check").returncode == 0,
                f"{host} is well",
                why=lambda host=host: self.run(host, "apollo-check").stdout,
            )

    def leader(self, asked: str = "slave-1", but: str = "") -> str:
        """The control node that leads Consul, by a host's word, once there is one. but: no longer this one."""
        names = {row.privateIp: row.name for row in self.fleet.rows}
        found = [""]

        def leads() -> bool:
            said = self.run(asked, "curl", "-s", "http://127.0.0.1:8500/v1/status/leader").stdout
            found[0] = names.get(said.strip('"').partition(":")[0], "")
            return found[0] not in ("", but)

        until(leads, "a server leads Consul")
        return found[0]

    def assert_all_reachable(self, flows: int = 1) -> None:
        results = self.checked(flows)
        failed = [f"{r['kind']}: {r['source']} to {r['target']}: {r['detail']}" for r in results if not r["passed"]]
        assert not failed, "\n".join(failed)
        assert len(results) > 50

    def curl(self, host: str, path: str = "/") -> str:
        url = f"http://127.0.0.1:{self.edge_port}{path}"
        argv = ["curl", "-s", "--noproxy", "*", "--max-time", "5", "-H", f"Host: {host}", url]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


@dataclass(frozen=True)
class FirstUp:
    """What the stack's first `up` took. seconds: all of it; memory: bytes that the machines hold after it."""

    seconds: float
    memory: int


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE, why: Callable[[], str] = lambda: "") -> None:
    """Waits for a condition, and fails the test by its name where it does not come. why: what stands against it then."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}\n{why()}"
        time.sleep(0.2)


def traces(run_dir: Path) -> list[str]:
    """Everything on this machine that tells of the stack `local` in the run directory, as text."""
    folder, name = str(run_dir), prefix(run_dir / "local")
    found = [f"namespace {namespace}" for namespace in namespaces.existing(name)]
    found += [f"control group {root / name}" for root in hierarchies() if (root / name).exists()]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if folder in line]
    loops = subprocess.run(["losetup", "-n", "-O", "NAME,BACK-FILE"], capture_output=True, text=True, check=True).stdout
    found += [f"loop device {line}" for line in loops.splitlines() if folder in line]
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # gone meanwhile
            continue
        if folder in line or f"{name}-" in line:
            found.append(f"process {place.parent.name}: {line}")
    return found + ([f"folder {folder}"] if run_dir.exists() else [])


def machines_memory(run_dir: Path) -> int:
    """Bytes that the machines of the stack `local` hold, without the kernel's cache of files, which it gives up when asked."""
    for root in hierarchies():
        group = root / prefix(run_dir / "local")
        for usage, cache, shared in (
            ("memory.usage_in_bytes", "total_cache", "total_shmem"),
            ("memory.current", "file", "shmem"),
        ):
            if (group / usage).exists():
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                # Files in memory alone count as cache, and cannot be given up.
                return int((group / usage).read_text()) - int(stat[cache]) + int(stat.get(shared, 0))
    raise AssertionError("no hierarchy of control groups here counts memory")


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
        (port,) = free_ports(1)
        return Stack(tmp_path_factory.mktemp("cloud"), port)

    return make


@pytest.fixture(scope="package")
def booted(unbooted: Callable[[], Stack]) -> Generator[tuple[Stack, FirstUp]]:
    made = unbooted()
    try:
        begun = time.monotonic()
        made.up()
        yield made, FirstUp(time.monotonic() - begun, machines_memory(made.run_dir))
    finally:
        made.down()


@pytest.fixture(scope="package")
def stack(booted: tuple[Stack, FirstUp]) -> Stack:
    return booted[0]


@pytest.fixture(scope="package")
def first_up(booted: tuple[Stack, FirstUp]) -> FirstUp:
    return booted[1]
