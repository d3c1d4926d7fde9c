"""Network namespaces: making them, and doing something inside one from a thread of this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from localcloud.machines.errors import MachineError
from localcloud.machines.processes import run
from localcloud.processes import wait_until

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
FOLDER = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A named network namespace with its loopback up. It exists from construction to delete()."""

    def __init__(self, name: str, ipv6: bool = False) -> None:
        self.name = name
        self.path = FOLDER / name
        delete(name)
        run(["ip", "netns", "add", name])
        self._inside = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=self._enter)
        if not ipv6:
            self.sysctl({"net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1})
        self.ip(["link set lo up"])

    def _enter(self) -> None:
        enter(self.path)

    def call(self, function: Callable[[], T]) -> T:
        """Runs the function on a thread that lives in the namespace. Sockets it makes stay there for good."""
        return self._inside.submit(function).result()

    def ip(self, lines: Iterable[str]) -> None:
        """Runs `ip` commands in order, stopping at the first that fails."""
        run(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(lines) + "\n")

    def run(self, argv: list[str], stdin: str | None = None, timeout: float = 60) -> str:
        return run(self.command(argv), stdin, timeout)

    def command(self, argv: list[str]) -> list[str]:
        """The command line that runs argv in here."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def sysctl(self, values: dict[str, int]) -> None:
        def write() -> None:
            for key, value in values.items():
                Path("/proc/sys", *key.split(".")).write_text(str(value))

        self.call(write)

    def listen(self, address: str, port: int) -> socket.socket:
        """A TCP socket that listens in here."""

        def listen() -> socket.socket:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(128)
            return listener

        return self.call(listen)

    def delete(self) -> None:
        self._inside.shutdown()
        delete(self.name)


def enter(path: Path) -> None:
    """Moves the calling thread into a network namespace, for good. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if _libc.setns(handle, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter network namespace {path}")
    finally:
        os.close(handle)


def socket_inside(path: Path) -> socket.socket:
    """An unconnected TCP socket of a network namespace. Raises OSError where it is gone."""
    with ThreadPoolExecutor(1) as passing:

        def make() -> socket.socket:
            enter(path)
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

        return passing.submit(make).result()


def existing(prefix: str) -> list[str]:
    return sorted(path.name for path in FOLDER.glob(f"{prefix}-*")) if FOLDER.is_dir() else []


def delete(name: str) -> None:
    """Removes the namespace if it is there, with whatever processes hold no longer; returns when its name is free."""
    if not (FOLDER / name).exists():
        return
    with contextlib.suppress(MachineError):
        run(["ip", "netns", "delete", name])
    if not wait_until(lambda: not (FOLDER / name).exists(), 5):
        raise MachineError(f"network namespace {name} cannot be removed; see: ip netns pids {name}")
