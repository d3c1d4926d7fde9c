"""The booted stack's hosts, what is asked of them and of their containers, and clients on the internet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from localcloud.machines.driver import prefix
from localcloud.paths import REPOSITORY
from tests.booted.conftest import Stack
from tests.host.test_firewall import SCAN

# Each host's address in the VPC.
SLAVES = {"slave-1": "10.0.0.33", "slave-2": "10.0.32.34", "slave-3": "10.0.0.35"}
CONTROL = {"control-1": "10.0.0.11", "control-2": "10.0.32.12", "control-3": "10.0.0.13"}
HOSTS = {**SLAVES, **CONTROL, "edge-1": "10.0.224.11"}


def address_of(stack: Stack, host: str, container: str) -> str:
    return stack.out(host, "docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)


def pid_of(stack: Stack, host: str, container: str) -> str:
    return stack.out(host, "docker", "inspect", "-f", "{{.State.Pid}}", container)


def scan(stack: Stack, host: str, address: str, *ports: int, pid: str = "", seconds: int = 1) -> list[int]:
    """The ports to which packets get through from a host. pid: of a process there whose network they are sent from.

    seconds: for each.
    """
    enter = ("nsenter", "-t", pid, "-n") if pid else ()
    return json.loads(stack.out(host, *enter, "python3", "-c", SCAN, address, str(seconds), *map(str, ports)))


def check_of(stack: Stack, host: str, name: str) -> dict[str, Any]:
    """What apollo-check on a host says of one thing."""
    return next(c for c in json.loads(stack.run(host, "apollo-check", "--json").stdout)["checks"] if c["check"] == name)


def on_the_internet(stack: Stack, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", f"{prefix(stack.run_dir / 'local')}-internet", *argv]


def curl(stack: Stack, url: str, *options: str) -> str:
    """What curl says on a machine of the internet. The edge's names lead to its public address."""
    address = stack.exports["edge"]["publicIps"][0]
    argv = on_the_internet(stack, "curl", "-s", "-m", "5", "--cacert", str(stack.run_dir / "local/edge.pem"))
    resolve = [part for port in (80, 443) for part in ("--connect-to", f"::{address}:{port}") if f":{port}" in url]
    return subprocess.run([*argv, *resolve, *options, url], capture_output=True, text=True, check=False).stdout


@contextmanager
def changed(stack: Stack, host: str, program: str, line: str, other: str, unit: str = "") -> Generator[None]:
    """A host's program with another line in place of this one, such as a time that is long to wait for. unit: restarted."""

    def change(old: str, new: str) -> None:
        find = f"program=$(grep -rlx --include={program} '{old}' /usr/local/lib/apollo)"
        restart = f"; systemctl restart {unit}" if unit else ""
        stack.out(host, "sh", "-ec", f"{find}; sed -i 's/^{old}$/{new}/' $program{restart}")

    change(line, other)
    try:
        yield
    finally:
        change(other, line)


class Running:
    """A steady load on the edge while it runs. rate: requests a second. longest: seconds after which it ends by itself.

    balanced: from this machine, by the port that leads to the load balancer before several edges.
    """

    def __init__(self, stack: Stack, host: str, rate: int, longest: int, *, balanced: bool = False) -> None:
        place = ["127.0.0.1", str(stack.edge_port)]
        if not balanced:
            place = [stack.exports["edge"]["publicIps"][0], "80"]
        argv = [sys.executable, "-m", "tests.booted.load", *place, host, str(rate), str(longest)]
        where = argv if balanced else on_the_internet(stack, *argv)
        self._process = subprocess.Popen(where, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end(self) -> dict[str, Any]:
        """What load.py saw. It must have gone on until now."""
        assert self._process.poll() is None, "the load ended before what it was to accompany"
        said, _ = self._process.communicate("", timeout=300)
        return json.loads(said)
