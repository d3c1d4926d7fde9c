"""Rendered hosts, and the host's own Python, for the tests of user-data."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from host import HostFile, host_files
from plan.cluster import Cluster, PlannedHost
from tests.plan.support import cluster

USERDATA = Path(__file__).resolve().parents[2] / "host/files"
# Where the programs of hosts are, which are in one folder there.
PROGRAMS = [
    str(USERDATA.parent / "apollo" / folder)
    for folder in (".", "consul", "mesos", "zookeeper", "registration", "edge", "mesh", "mesh/weave")
]
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


def one_of_each(plan: Cluster) -> list[PlannedHost]:
    return [plan.slaves[0], plan.control[0], plan.edges[0]]


def files_of(plan: Cluster, host: PlannedHost) -> dict[str, HostFile]:
    return {file.path: file for file in host_files(plan, host, STACK)}


def host_module(name: str) -> Any:
    """A Python file of the hosts as a module, from the repository."""
    for folder in PROGRAMS:
        if folder not in sys.path:
            sys.path.append(folder)
    return importlib.import_module(name)


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
