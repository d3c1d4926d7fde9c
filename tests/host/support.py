"""Rendered hosts, and the host's own Python, for the tests of user-data."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest

from host.render import HostFile, host_files
from localcloud.machines.namespaces import Namespace
from plan.cluster import Cluster, PlannedHost
from tests.plan.support import cluster

USERDATA = Path(__file__).resolve().parents[2] / "host/files"
STACK = "dev"
# Seconds: longer than anything takes that works.
PATIENCE = 300
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


# A planned host of each kind.
HOSTS = [
    pytest.param(plan, host, id=f"{name}-{host.name}")
    for name, plan in EXAMPLES.items()
    for host in (plan.slaves[0], plan.control[0], plan.edges[0])
]
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


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.02)


class Handler(BaseHTTPRequestHandler):
    """What a server's handlers have in common: whole answers, and nothing in a log."""

    def answer(self, status: int, content: str | bytes = b"", headers: dict[str, str] | None = None) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextlib.contextmanager
def served(handler: Callable[..., BaseHTTPRequestHandler]) -> Generator[str]:
    """A web server on the loopback; its address and port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def raising(error: BaseException) -> Any:
    """A function that raises it, whatever it is given."""

    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


def stand_in(path: Path, text: str) -> Path:
    """Makes a shell script in the place of a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def needs(tool: str, package: str) -> str:
    """The tool's path. Without it the test is left out by name, and in CI fails."""
    beside = Path(sys.executable).parent / tool
    found = str(beside) if beside.exists() else shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        left_out(f"{tool} is not here; install {package}")
    return found


@contextlib.contextmanager
def namespaces(prefix: str, *names: str) -> Generator[dict[str, Namespace]]:
    """Network namespaces by their names, until they are done with."""
    if os.geteuid() != 0:
        left_out("network namespaces need root")
    made = {name: Namespace(f"{prefix}-{name}") for name in names}
    try:
        yield made
    finally:
        for namespace in made.values():
            namespace.delete()


def left_out(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"left out, which CI does not take: {reason}")
    pytest.skip(reason)
