"""Rendered hosts, and the host's own Python, for the tests of user-data."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from host.render import HostFile, host_files
from plan.cluster import Cluster, PlannedHost
from tests.plan.support import cluster

USERDATA = Path(__file__).resolve().parents[2] / "host/files"
LIBRARY = "usr/local/lib/apollo"
STACK = "dev"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtleSBvZiB0aGUgdGVzdHMsIG5vYm9keSBoYXMgaXQh ops@example.com"
LAYERS = (
    *("boot", "rootfs", "roles/slave", "roles/control", "roles/edge"),
    *("mesh/routed", "mesh/vxlan", "mesh/wireguard", "mesh/weave"),
)

# One of each role, with each mesh: first boot from packages with Weave and WireGuard, a baked image with vxlan.
EXAMPLES: dict[str, Cluster] = {
    "weave": cluster(admin={"publicKey": PUBLIC_KEY}),
    "vxlan-baked": cluster(
        overlay={"mesh": "vxlan"},
        image={"baked": True},
        admin={"publicKey": PUBLIC_KEY},
        awsEndpoint="http://169.254.169.250:4566",
    ),
    "wireguard": cluster(overlay={"mesh": "wireguard"}, admin={"publicKey": PUBLIC_KEY}),
}


_places = itertools.count(os.getpid() * 131)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free, and stay so until they are used: other tests of this process are given others, and who
    lets the kernel choose gets one from 32,768 on (ip_local_port_range)."""
    found = list[int]()
    while len(found) < count:
        port = 10_000 + next(_places) % 20_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


def one_of_each(plan: Cluster) -> list[PlannedHost]:
    return [plan.slaves[0], plan.control[0], plan.edges[0]]


def files_of(plan: Cluster, host: PlannedHost) -> dict[str, HostFile]:
    return {file.path: file for file in host_files(plan, host, STACK)}


def text_of(role: str, path: str) -> str:
    """A file of a host of this role, with mesh weave."""
    (host,) = [host for host in one_of_each(EXAMPLES["weave"]) if host.role == role]
    return files_of(EXAMPLES["weave"], host)[path].content


def environment(**more: str) -> dict[str, str]:
    """For a Python of its own that imports the hosts' program, wherever it is started."""
    return {**os.environ, "PYTHONPATH": str(USERDATA.parents[1]), **more}


def needs(tool: str, package: str) -> str:
    """The tool's path. Without it the test is left out by name, and in CI fails."""
    beside = Path(sys.executable).parent / tool
    found = str(beside) if beside.exists() else shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        left_out(f"{tool} is not here; install {package}")
    return found


def left_out(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"left out, which CI does not take: {reason}")
    pytest.skip(reason)
