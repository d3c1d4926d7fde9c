"""Booted hosts as their operator sees them: by name and role, and with a way to run a command on each."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .errors import LocalCloudError
from .hosts import HostRow


class FleetError(LocalCloudError):
    """A command on a host failed. The message names the host and has the command's own words."""


@dataclass(frozen=True)
class Fleet:
    """rows: every host. command: what runs `argv` as root inside a host, as an argument list on this machine."""

    rows: tuple[HostRow, ...]
    command: Callable[[str, Sequence[str]], list[str]]
    # Seconds, for a command that names none.
    timeout: float = 60.0

    def of(self, role: str) -> list[HostRow]:
        """The running hosts of a role, lowest slot first."""
        return sorted((row for row in self.rows if row.role == role and row.state == "running"), key=lambda row: row.slot)

    def run(
        self, host: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a command and gives its result whatever it is. timeout: seconds; running over it counts as status 124."""
        limit = timeout or self.timeout
        try:
            return subprocess.run(self.command(host, argv), input=stdin, capture_output=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"") + f"\nno end after {limit:g} s".encode()
            return subprocess.CompletedProcess(list(argv), 124, error.stdout or b"", said)

    def check(self, host: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float | None = None) -> str:
        """Runs a command and gives what it printed. Raises FleetError if it failed."""
        done = self.run(host, argv, stdin=stdin, timeout=timeout)
        if done.returncode:
            words = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise FleetError(f"{host}: {' '.join(argv[:3])} … ended with {done.returncode}: {words}")
        return done.stdout.decode(errors="replace")


def overlay_ip(row: HostRow) -> str:
    """The host's bridge address without its prefix."""
    return row.bridgeAddress.partition("/")[0]
