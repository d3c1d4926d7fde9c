"""Reaching a host as an administrator does: SSH through the first edge, host keys pinned. Needs nothing but Python and ssh.

As a command it says whether this machine reaches the first edge, so that no one waits for hosts in vain.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from host import package
from host.apollo.__main__ import UNKNOWN, VERSION
from ops.errors import OpsError
from ops.text import cleaned, lines, safe
from plan.admin import ADMIN_KEY, ADMIN_USER
from plan.ports import HTTP, SSH

# Seconds for two logins, one through the other, on machines whose cores are all busy.
DIAL = 20
# Seconds until an address that does not even answer a TCP handshake counts as silent. Its requests go out at 0, 1 and 3 s.
KNOCK = 5
# Seconds for a new edge to answer at all: EC2 starts it, and its kernel brings the network up. Its programs come later.
PATIENCE = 180.0
# The hosts' program, and what runs ours where theirs is older: Python takes a folder's archive as the folder.
_APOLLO = "/usr/local/bin/apollo"
_BROUGHT = 'f=$(mktemp) && trap "rm -f $f" EXIT TERM && cat >"$f" && /usr/bin/python3 "$f" "$@"'
# ssh's words where no connection came about: to the edge from here, and to a host from the edge.
_NO_WAY = re.compile(r"connect to host \S+ port \d+: (.*)")
_NO_HOST = re.compile(r"open failed: (?:connect failed: )?(.*)")
_DENIED = re.compile(r"(?:.*Permission denied.*|Host key verification failed.*|.*Too many authentication failures.*)")
# Exit statuses: ssh's own where it fails, timeout's where it ends what it runs, and where there is nothing to run.
_SSH_FAILED, _TIMED_OUT, _NO_PROGRAM = 255, 124, 127

Kind = Literal["edge", "down", "slow", "denied", "failed"]


class Unreachable(Exception):
    """A command on a host failed. The text, safe to print, says what was seen.

    kind: edge (the first edge does not answer from here), down (the host answers no connection, or refuses it), slow (no end in
    time: it may be busy), denied (it answers and does not let us in, or is not the one it should be), failed (it let us in).
    """

    def __init__(self, text: str, kind: Kind = "failed") -> None:
        super().__init__(safe(text, 1000))
        self.kind: Kind = kind


@dataclass(frozen=True)
class Access:
    """How the hosts are reached.

    jump: the first edge's public address. key: the administrators' private key, empty for the SSH agent's.

    host_key: the public half of the key that all hosts of the stack show, as `type base64`.
    """

    jump: str
    key: str
    host_key: str
    user: str = ADMIN_USER


class Ssh:
    """Runs programs on the hosts, by ssh through the first edge. `APOLLO_SSH`: how to call ssh, where not just `ssh`."""

    def __init__(self, access: Access, folder: Path) -> None:
        self._config = folder / "config"
        known, key = folder / "known", folder / "key"
        _private(known, f"apollo {access.host_key}\n")
        identity = "BatchMode yes"
        if access.key:
            _private(key, access.key.rstrip("\n") + "\n")
            identity = f"IdentityFile {key}\n  IdentitiesOnly yes\n  BatchMode yes"
        both = (
            f"  User {access.user}\n  HostKeyAlias apollo\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n"
            f"  StrictHostKeyChecking yes\n  {identity}\n  ConnectTimeout {DIAL}\n  ServerAliveInterval {KNOCK}\n"
            "  ServerAliveCountMax 2\n  LogLevel ERROR\n"
        )
        text = f"Host jump {access.jump}\n  HostName {access.jump}\n  ProxyJump none\n{both}\nHost *\n  ProxyJump jump\n{both}"
        _private(self._config, text)
        self._jump = access.jump
        self._older = set[str]()

    def run(self, address: str, program: str, *arguments: str, seconds: float) -> str:
        """Runs `apollo PROGRAM …` as root on the host with this address (empty: the first edge); gives what it printed, each
        line of it safe, and as long as the host made it. A host whose own program is too old for that runs ours, and that is
        said: a roll drains hosts before they have the new one.

        Raises Unreachable, after the given seconds and at most DIAL more for getting there.
        """
        seconds = max(1.0, seconds)  # `timeout 0` has no limit
        host, words = address or self._jump, ["--needs", str(VERSION), program, *arguments]

        def ask(*program: str, stdin: bytes = b"") -> tuple[int, str, str]:
            command = ["sudo", "timeout", f"{seconds:.0f}", *map(shlex.quote, (*program, *words))]
            return self._ssh([host, *command], seconds + DIAL, stdin)

        status, out, err = (UNKNOWN, "", "") if host in self._older else ask(_APOLLO)
        if status in (UNKNOWN, _NO_PROGRAM):
            if host not in self._older:
                print(
                    f"{host} has no `apollo {program}` yet, so it was brought along; roll the host", file=sys.stderr, flush=True
                )
            self._older.add(host)
            status, out, err = ask("sh", "-c", _BROUGHT, "apollo", stdin=_archive())
        if status:
            raise _problem(status, err or out, seconds)
        return lines(out, None)

    def ask(self, address: str, program: str, *arguments: str, seconds: float) -> Any:
        """As run, for a verb that prints JSON: that value, every string in it safe."""
        said = self.run(address, program, *arguments, seconds=seconds)
        try:
            return cleaned(json.loads(said))
        except (ValueError, RecursionError):
            raise Unreachable(f"{program} printed no JSON: {said[:80] or 'nothing'}") from None

    def knock(self, seconds: float = DIAL) -> None:
        """Raises Unreachable where the first edge does not let us in: after KNOCK seconds where it is silent or refuses, after
        the given seconds more where it is slow."""
        problem = None
        for limit in (min(KNOCK, seconds), seconds):
            status, _, err = self._ssh(["-o", f"ConnectTimeout={math.ceil(max(1.0, limit))}", "jump", "true"], limit + KNOCK)
            if not status:
                return
            problem = _problem(status, err, limit)
            if problem.kind != "slow":
                break
        assert problem
        raise self.explained(problem)

    def silence(self, port: int = SSH) -> str:
        """Why this port of the first edge gives no answer to a TCP connection from here; empty where it does, or refuses.

        Asked of ssh, as that is what goes this way (APOLLO_SSH); whether it then finds its protocol does not matter.
        """
        argv = ["-o", f"ConnectTimeout={KNOCK}", "-p", str(port), "jump", "true"]
        status, _, err = self._ssh(argv, KNOCK + DIAL)
        found = _NO_WAY.search(err) if status == _SSH_FAILED else None
        return safe(found[1].strip()) if found and "refused" not in found[1] else ""

    def probe(self, addresses: Iterable[str]) -> dict[str, str]:
        """Address → why its SSH port does not answer the first edge, or "". Raises Unreachable."""
        asked = [address for address in addresses if address]
        return self.ask("", "probe", str(2 * KNOCK), *asked, seconds=2 * KNOCK + DIAL) if asked else {}

    def _ssh(self, argv: Sequence[str], seconds: float, stdin: bytes = b"") -> tuple[int, str, str]:
        """Status (timeout's own where it took longer), output and errors of ssh."""
        program = shlex.split(os.environ.get("APOLLO_SSH", "ssh"))
        # Apart from us a hang-up of the terminal does not reach it. Else it shares our group, and so a Ctrl-C.
        group = 0 if signal.getsignal(signal.SIGHUP) is _unheard else None
        try:
            done = subprocess.run(
                [*program, "-F", str(self._config), *argv],
                input=stdin, capture_output=True, timeout=seconds, check=False, process_group=group,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return _TIMED_OUT, "", ""
        except OSError as error:
            raise Unreachable(f"ssh cannot be run: {error.strerror}") from None
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def explained(self, problem: Unreachable) -> Unreachable:
        """The error with its most frequent cause, where the edge gives no answer at all."""
        if problem.kind != "edge" or "refused" in str(problem):
            return problem
        lacks = "admin.allowedCidrs does not have the address that this machine's connections come from"
        # One edge serves the world at port 80; of several, the load balancer alone.
        cause = f"it is up, as its port {HTTP} answers, so {lacks}" if not self.silence(HTTP) else f"it is down, or {lacks}"
        out = "run this from a machine inside admin.allowedCidrs, or add its address and `up` again (docs/operations.md)"
        return Unreachable(f"{problem}: {cause}; {out}", "edge")


@functools.cache
def _archive() -> bytes:
    """The hosts' program of this repository, as Python runs it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, source in package.sources().items():
            archive.write(source, path)
    return buffer.getvalue()


def _problem(status: int, words: str, seconds: float) -> Unreachable:
    """What ssh, or what ran at its end, meant by a status and its last words."""
    answer = [line.strip() for line in words.splitlines() if line.strip()]
    if status == _SSH_FAILED:
        for line in answer:
            if found := _NO_WAY.search(line):
                return Unreachable(f"the first edge does not answer: {line.removeprefix('ssh: ')}", "edge")
            if found := _NO_HOST.search(line):
                return Unreachable(found[1], "down")
            if found := _DENIED.fullmatch(line):
                return Unreachable(found[0], "denied")
        if any("timed out" in line for line in answer):
            return Unreachable(f"no login within {DIAL} s", "slow")
    if status == _TIMED_OUT:
        return Unreachable(f"no end after {seconds:.0f} s", "slow")
    return Unreachable(answer[-1] if answer else f"ended with {status}")


@contextmanager
def opened(access: Access) -> Generator[Ssh]:
    """Access whose key lies in a folder of mode 0700 for as long as it is open. To be called in the main thread."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _unheard)
    with tempfile.TemporaryDirectory(prefix="apollo-ssh-") as folder:
        yield Ssh(access, Path(folder))


def _unheard(*_: object) -> None:
    """In the place of an ignored hang-up, as under nohup. That would be inherited by the second ssh, through which the first
    one goes, and which the first ends by a hang-up: to a silent host it would go on for minutes. A handler is not inherited."""


class Deadline:
    """A number of seconds from now on."""

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


def given_access(given: argparse.Namespace) -> Access | None:
    """What the options and the environment name; None where a part of it is missing."""
    key = os.environ.get(ADMIN_KEY, "")
    return Access(given.jump, key, given.host_key) if given.jump and given.host_key and (key or given.agent) else None


def access_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", help="find all of it in this stack; needs pulumi")
    parser.add_argument("--jump", help="the first edge's public address")
    parser.add_argument("--host-key", help="the hosts' public key, as `type base64`")
    parser.add_argument("--agent", action="store_true", help="with the SSH agent's keys")


def arguments(parser: argparse.ArgumentParser) -> None:
    access_arguments(parser)
    # The variable is for what runs inside an `up`.
    patience = os.environ.get("APOLLO_PATIENCE", PATIENCE)
    parser.add_argument(
        "--patience", type=float, default=patience, help=f"seconds for an edge that boots (default: {PATIENCE:.0f})"
    )


def run(given: argparse.Namespace) -> int:
    """Ends as soon as the edge answers, and with OpsError as soon as it is known that it will not."""
    if given.stack:
        from ops.stack import Stack

        access = Stack(given.stack).access()
    else:
        access = given_access(given)
    if access is None:
        raise OpsError("no access: no administrators' key (admin.allowedCidrs and apollo:adminPrivateKey, or admin.agent)")
    deadline, served = Deadline(given.patience), 0
    try:
        with opened(access) as ssh:
            while why := ssh.silence():
                print(
                    f"{access.jump} does not answer at port {SSH} ({why}); {deadline.left:.0f} s more for its boot", flush=True
                )
                # An edge that boots answers at both ports at about the same time.
                served += not ssh.silence(HTTP)
                if served > 1 or not deadline.left:
                    raise ssh.explained(Unreachable(f"{access.jump} does not answer at port {SSH}: {why}", "edge"))
    except Unreachable as error:
        raise OpsError(str(error)) from None
    print(f"{access.jump} answers", flush=True)
    return 0
