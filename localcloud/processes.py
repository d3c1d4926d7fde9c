"""Processes that end with us, and telling whether one still lives."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
# In front of a command, ends its whole family when the command does, when we do, and at SIGTERM; it then ends with STOPPED.
_FAMILY = (sys.executable, "-I", "-S", str(Path(__file__).with_name("supervise.py")))
STOPPED = 128 + signal.SIGTERM
# How often, in seconds, a socketserver looks whether it is to stop: whoever stops it waits for that.
LOOK_SECONDS = 0.05


def die_with_parent() -> None:
    """Asks the kernel to end this process by SIGTERM when its parent ends, however that ends."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot, or None where there is no such process (or only its remains).

    With the pid it names one process for good, as pids are used again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, ticks: int) -> bool:
    """Whether the very process that had this pid and start is still running."""
    return start_ticks(pid) == ticks


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Polls until the condition holds (True) or the time is over (False)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def with_family(argv: Sequence[str], **how: Any) -> subprocess.Popen[Any]:
    """Starts a command whose whole family ends when it does, and when we do, in a session of its own. how: Popen's own."""
    return subprocess.Popen([*_FAMILY, *argv], start_new_session=True, **how)


def supervised(argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts a command with its family. Its output goes to the end of the log.

    Ctrl-C on the terminal reaches only us. Send SIGINT to the returned process to pass it on, SIGTERM to end the family at
    once.
    """
    with log.open("ab") as out:
        return with_family(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(env), cwd=cwd)


def end(pid: int, ticks: int, seconds: float = 10.0) -> None:
    """SIGTERM, then SIGKILL where that is not enough within the given seconds; returns once the process is gone."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return
        if wait_until(lambda: not alive(pid, ticks), seconds, 0.02):
            return
