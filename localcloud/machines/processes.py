"""Commands, and children that cannot outlive this process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from localcloud.machines.errors import MachineError
from localcloud.processes import start_ticks, wait_until


def run(argv: Sequence[str], stdin: str | None = None, timeout: float = 60) -> str:
    """Runs a command to its end and returns what it printed. Raises MachineError with its own words if it fails."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise MachineError(f"{argv[0]} is not installed; run: python -m localcloud.machines.prepare") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"{' '.join(argv)}: no end after {timeout:g} s") from None
    if done.returncode:
        raise MachineError(f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class Children:
    """Starts long-lived children and keeps a record of them, so that a later run can end what a killed one left.

    The kernel ends a child with the *thread* that started it (PR_SET_PDEATHSIG), hence the one thread that lives as long
    as this object. records: a folder with one file for each child, named pid-ticks.
    """

    def __init__(self, records: Path) -> None:
        self._records = records
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="children")
        records.mkdir(parents=True, exist_ok=True)

    def start(self, argv: Sequence[str], output: int | IO[bytes], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts argv in a session of its own with both outputs to `output`."""

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

        child = self._starter.submit(start).result()
        (self._records / f"{child.pid}-{start_ticks(child.pid)}").touch()
        return child

    def stop(self, child: subprocess.Popen[bytes], seconds: float = 5) -> None:
        """Asks the child to end, then insists. Returns when it is gone."""
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.forget(child)

    def forget(self, child: subprocess.Popen[bytes]) -> None:
        for record in self._records.glob(f"{child.pid}-*"):
            record.unlink(missing_ok=True)

    def close(self) -> None:
        self._starter.shutdown()


def end_recorded(records: Path) -> None:
    """Kills what an earlier run recorded and this one did not start; a pid that now means another process is left alone."""
    for record in records.glob("*-*"):
        pid, _, started = record.name.partition("-")
        if str(start_ticks(int(pid))) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
            wait_until(lambda pid=pid, started=started: str(start_ticks(int(pid))) != started, 5)
        record.unlink(missing_ok=True)
