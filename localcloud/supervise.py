"""Runs one command and sees to it that its whole family ends: with the command, and with whoever started us.

Used as a script, without the rest of the package, so that it starts at once. It becomes the reaper of its descendants:
one that outlives its own parent (say, a language host of a killed engine) comes to us and is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def children() -> list[int]:
    """The pids of our children, remains excluded."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if int(fields[1]) == os.getpid() and fields[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def end_family() -> None:
    """Kills every child until none is left; grandchildren become our children when their parents die."""
    while True:
        for pid in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def main(argv: list[str]) -> int:
    parent = os.getppid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        end_family()
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM

    command = os.fork()
    if command == 0:
        # Should we be killed ourselves, the command goes too.
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            print(f"cannot run {argv[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)

    signal.signal(signal.SIGINT, lambda *_: os.kill(command, signal.SIGINT))
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == command:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            end_family()
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
