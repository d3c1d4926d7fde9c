"""Hosts as virtual machines, whose boot on an emulated processor takes minutes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import pytest

from tests.booted.conftest import Stack, until
from tests.host.support import free_ports
from tests.labs import needs_machines

# Seconds. For what hangs: where others work on this machine too, a boot takes many times what it takes on a quiet one.
HANG = 1500


@contextlib.contextmanager
def made(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """A stack that is still to be booted."""
    needs_machines(tmp_path_factory.getbasetemp(), "the virtual machines", "vm")
    (port,) = free_ports(1)
    stack = Stack(tmp_path_factory.mktemp("cloud"), port)
    try:
        yield stack
    finally:
        stack.down()


def said(stack: Stack, host: str, *argv: str) -> str:
    """What a command that only looks printed, once it succeeds: the way in answers late on a machine that is busy."""
    found: list[str] = []

    def succeeds() -> bool:
        done = stack.run(host, *argv, timeout=HANG)
        found[:] = [done.stdout.strip(), done.stderr]
        return done.returncode == 0

    until(succeeds, f"{' '.join(argv)} on {host}", HANG, lambda: "\n".join(found))
    return found[0]


def settled(stack: Stack, host: str) -> None:
    """Waits until the host has booted with nothing failed, and passes its check."""

    def state() -> str:
        return stack.run(host, "systemctl", "is-system-running", timeout=HANG).stdout.strip()

    def units() -> str:
        return said(stack, host, "sh", "-c", "systemctl --failed --no-legend; systemctl list-jobs --no-legend")

    until(lambda: state() in ("running", "degraded"), f"{host} has booted", HANG, units)
    # What systemd starts again may have failed at first.
    until(lambda: state() == "running", f"{host} runs with no unit failed", why=units)
    said(stack, host, "apollo-check")
    assert said(stack, host, "sh", "-c", "journalctl -b -o cat _PID=1 | grep -i ordering.cycle || true") == ""
