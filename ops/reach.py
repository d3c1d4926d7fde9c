"""Reaching a host as an administrator does: SSH through the first edge, host keys pinned. Needs nothing but Python and ssh."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Seconds until a silent host counts as away.
DIAL = 5
_REMOTE = Path(__file__).with_name("remote")


class Unreachable(Exception):
    """The host did not let us in, or what ran there did not end well. The text says what was seen."""


@dataclass(frozen=True)
class Way:
    """jump: the first edge's public address. key: the administrators' private key, empty for the SSH agent's.

    host_key: the public half of the key that all hosts of the stack show, as `type base64`.
    """

    jump: str
    key: str
    host_key: str
    user: str = "admin"


class Reach:
    """An open way. `APOLLO_SSH` says how to call ssh, where that is not just `ssh`."""

    def __init__(self, way: Way, folder: Path) -> None:
        self._config = folder / "config"
        known, key = folder / "known", folder / "key"
        _private(known, f"apollo {way.host_key}\n")
        identity = "BatchMode yes"
        if way.key:
            _private(key, way.key.rstrip("\n") + "\n")
            identity = f"IdentityFile {key}\n  IdentitiesOnly yes\n  BatchMode yes"
        both = (
            f"  User {way.user}\n  HostKeyAlias apollo\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n"
            f"  StrictHostKeyChecking yes\n  {identity}\n  ConnectTimeout {DIAL}\n  ServerAliveInterval {DIAL}\n"
            "  ServerAliveCountMax 2\n  LogLevel ERROR\n"
        )
        text = f"Host jump {way.jump}\n  HostName {way.jump}\n  ProxyJump none\n{both}\nHost *\n  ProxyJump jump\n{both}"
        _private(self._config, text)
        self._jump = way.jump

    def run(self, address: str, program: str, *arguments: str, seconds: float) -> str:
        """Runs ops/remote/<program>.py as root on the host with this address (empty: the first edge); gives what it printed.

        Raises Unreachable, after the given seconds and at most DIAL more for getting there.
        """
        seconds = max(1.0, seconds)  # `timeout 0` has no limit
        argv = [*shlex.split(os.environ.get("APOLLO_SSH", "ssh")), "-F", str(self._config), address or self._jump]
        command = ["sudo", "timeout", f"{seconds:.0f}", "/usr/bin/python3", "-", *(shlex.quote(a) for a in arguments)]
        source = (_REMOTE / f"{program}.py").read_bytes()
        try:
            done = subprocess.run([*argv, *command], input=source, capture_output=True, timeout=seconds + DIAL, check=False)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"no end after {seconds:.0f} s") from None
        except OSError as error:
            raise Unreachable(f"ssh cannot be run: {error.strerror}") from None
        if done.returncode:
            words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise Unreachable(words[-1] if words else f"ended with {done.returncode}")
        return done.stdout.decode(errors="replace")


@contextmanager
def opened(way: Way) -> Generator[Reach]:
    """A way whose key lies in a folder of mode 0700 for as long as it is open."""
    with tempfile.TemporaryDirectory(prefix="apollo-ssh-") as folder:
        yield Reach(way, Path(folder))


class Deadline:
    """So many seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


def _private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def addresses(text: str) -> Sequence[str]:
    return [part for part in text.split(",") if part]
