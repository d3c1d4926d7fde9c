"""Booted hosts as their operator sees them: by name and role, and with a way to run a command on each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LocalCloudError
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

    def check(self, host: str, argv: Sequence[str], *, stdin: bytes = b"") -> str:
        """Runs a command and gives what it printed. Raises FleetError if it failed."""
        done = self.run(host, argv, stdin=stdin)
        if done.returncode:
            words = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise FleetError(f"{host}: {' '.join(argv[:3])} … ended with {done.returncode}: {words}")
        return done.stdout.decode(errors="replace")


def overlay_ip(row: HostRow) -> str:
    """The host's bridge address without its prefix."""
    return row.bridgeAddress.partition("/")[0]


def fleet(folder: Path, rows: Sequence[HostRow]) -> Fleet:
    """The booted hosts of the cloud in `folder`, to run commands on."""

    from ..machines.machine import entry

    def command(host: str, argv: Sequence[str]) -> list[str]:
        return entry(_facts(folder, rows, host), list(argv))

    return Fleet(tuple(rows), command)


def console(folder: Path, rows: Sequence[HostRow], host: str) -> Path:
    """The host's console log. FleetError where there is no such host."""
    return folder / "machines" / _row(rows, host).instanceId / "console.log"


def network_of(folder: Path, rows: Sequence[HostRow], host: str) -> Path:
    """The network namespace of a booted host. FleetError where it does not run, or has none of this machine's."""
    facts = _facts(folder, rows, host)
    if "leader" not in facts:
        raise FleetError(f"{host} is a virtual machine: what listens inside it alone cannot be reached from here")
    return Path(f"/proc/{facts['leader']}/ns/net")


def last_words(folder: Path, rows: Sequence[HostRow], host: str) -> str:
    """The last lines on the host's console."""
    from ..machines.machine import tail

    return tail(console(folder, rows, host), 20)


def _row(rows: Sequence[HostRow], host: str) -> HostRow:
    for row in rows:
        if host in (row.name, row.instanceId):
            return row
    raise FleetError(f"no host {host}; there are: {', '.join(row.name for row in rows) or 'none'}")


def _facts(folder: Path, rows: Sequence[HostRow], host: str) -> dict[str, Any]:
    row = _row(rows, host)
    try:
        facts = json.loads((folder / "machines" / row.instanceId / "machine.json").read_text())
        return {"agent": str(facts["agent"])} if "agent" in facts else {"leader": int(facts["leader"])}
    except FileNotFoundError:
        raise FleetError(f"{host} is not running; start it with: ./apollo start {host}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LocalCloudError(f"{folder}/machines/{row.instanceId}/machine.json is damaged: {error}") from None
