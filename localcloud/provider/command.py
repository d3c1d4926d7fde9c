"""`command:local:Command` and `command:remote:Command`: a shell here, and one at the far end of the system's ssh."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from ..api.client import Aws
from ..processes import STOPPED, with_family
from .kind import CloudError, Kind
from .values import Props

# The text to run, and for ssh the environment too, comes by standard input, so that neither is ever visible in a list of
# processes; the command's own standard input is empty.
_RUNNER = 'script=$(cat; echo .); eval "${script%.}"'
# ssh's own exit status where the connection fails or ends, and what the far end prints once there is one.
SSH_FAILED, _CONNECTED = 255, "apollo-connected:"
_LOOK_SECONDS = 0.1
# Characters of a command's last words: gRPC may drop an error of more than 8 KiB.
_SHOWN = 4000


class Runner:
    """Starts commands, and ends them with us, at a deadline, or when cancelled; each with all that it started.

    ssh_prefix: argv in front of ssh, such as one that enters a namespace. ended: why the host at an address will not answer,
    as far as that is known; "" where it may.
    """

    def __init__(
        self,
        folder: Path,
        ssh_prefix: Callable[[], Sequence[str]] = tuple,
        ended: Callable[[str], str] = lambda _: "",
    ) -> None:
        self.folder = folder
        self.ssh_prefix = ssh_prefix
        self.ended = ended
        self.cancelled = threading.Event()
        # What local commands find in their environment, besides ours.
        self.environment: dict[str, str] = {}
        self._limit = threading.local()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Generator[None]:
        """Gives what this thread runs a deadline; 0 seconds for none."""
        self._limit.deadline = time.monotonic() + seconds if seconds else math.inf
        self._limit.seconds = seconds
        try:
            yield
        finally:
            self._limit.deadline = math.inf

    def check(self) -> None:
        """Raises CloudError once what this thread runs is cancelled or over its deadline."""
        if self.cancelled.is_set():
            raise CloudError("stopped before its end, as the run was cancelled")
        if time.monotonic() > getattr(self._limit, "deadline", math.inf):
            raise CloudError(f"stopped: it took longer than the {self._limit.seconds:.0f} s of its custom timeout")

    def run(
        self,
        argv: Sequence[str],
        script: str,
        env: dict[str, str],
        look: Callable[[], None] | None = None,
        silence: float = math.inf,
    ) -> tuple[int, str, str]:
        """Runs argv with the script on its standard input. Returns status, stdout, stderr.

        It ends with its family, and so it does where we end, where `look` (else `check`), called meanwhile, raises, and, with
        status STOPPED, where it printed nothing for the first `silence` seconds.
        """
        look, pipe, text, begun = look or self.check, subprocess.PIPE, script, time.monotonic()
        look()
        with with_family(argv, text=True, stdin=pipe, stdout=pipe, stderr=pipe, env=env) as process:
            try:
                while True:
                    try:
                        out, err = process.communicate(text, timeout=_LOOK_SECONDS)
                        return process.returncode, out.removesuffix("\n"), err.removesuffix("\n")
                    except subprocess.TimeoutExpired as late:
                        text = None  # given at the first call only
                        look()
                        if not late.output and time.monotonic() - begun > silence:
                            process.terminate()
            finally:
                process.terminate()


class Command(Kind):
    """What local and remote commands share: when which text runs."""

    inputs: ClassVar[Collection[str]] = ("create", "delete", "environment", "triggers", "addPreviousOutputInEnv")
    replaces = ("triggers",)

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def make(self, aws: Aws, inputs: Props) -> tuple[str, Props]:
        return f"{uuid.uuid4()}", self._run("create", inputs, {})

    def change(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> Props:
        previous = {name: old.get(name, "") for name in ("stdout", "stderr")}
        return self._run("create", new, previous) if changed - {"delete"} else previous

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        return {name: known[name] for name in ("stdout", "stderr") if name in known}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if known.get("delete"):
            self._run("delete", known, {name: known.get(name, "") for name in ("stdout", "stderr")})

    def _run(self, step: str, inputs: Props, previous: Props) -> Props:
        text = inputs.get(step)
        if not text:
            return {"stdout": "", "stderr": ""}
        environment = {k: str(v) for k, v in (inputs.get("environment") or {}).items()}
        if previous and inputs.get("addPreviousOutputInEnv", True):
            environment |= {f"PULUMI_COMMAND_{name.upper()}": str(value) for name, value in previous.items()}
        status, out, err = self.execute(inputs, text, environment)
        if status != 0:
            tail = masked("\n".join((err or out).splitlines()[-20:]), inputs)
            raise CloudError(f"its {step} command ended with status {status}: {tail[-_SHOWN:]}")
        return {"stdout": out, "stderr": err}

    def execute(self, inputs: Props, text: str, environment: dict[str, str]) -> tuple[int, str, str]:
        raise NotImplementedError


def masked(text: str, inputs: Props) -> str:
    """The text without the values of the command's environment and the keys of its connection."""
    hidden = [str(v) for v in (inputs.get("environment") or {}).values()]
    connection = cast(Props, inputs.get("connection") or {})
    hidden += [str(place.get("privateKey") or "") for place in (connection, cast(Props, connection.get("proxy") or {}))]
    for value in sorted(hidden, key=len, reverse=True):
        if len(value) >= 4:
            text = text.replace(value, "[secret]")
    return text


class LocalCommand(Command):
    token = "command:local:Command"

    def execute(self, inputs: Props, text: str, environment: dict[str, str]) -> tuple[int, str, str]:
        env = {**os.environ, **self.runner.environment, **environment}
        prefix = self.runner.ssh_prefix()
        if prefix:
            # A command here that logs into a host does so from the administrators' computer.
            env["APOLLO_SSH"] = shlex.join([*prefix, "ssh"])
        return self.runner.run(["/bin/sh", "-c", _RUNNER], text, env)


_PLACE = ("host", "port", "user", "privateKey", "hostKey", "dialErrorLimit", "perDialTimeout")


class RemoteCommand(Command):
    token = "command:remote:Command"
    inputs = (*Command.inputs, "connection")
    parts = {"connection": (*_PLACE, "proxy"), "proxy": _PLACE}
    secret_outputs = ("connection",)

    def same(self, name: str, before: Any, after: Any) -> bool:
        """How to get to the machine may change without running the command again."""
        if name == "connection" and isinstance(before, dict) and isinstance(after, dict):
            first, second = cast(Props, before), cast(Props, after)
            return all(first.get(part) == second.get(part) for part in ("host", "port", "user"))
        return super().same(name, before, after)

    def execute(self, inputs: Props, text: str, environment: dict[str, str]) -> tuple[int, str, str]:
        """Dials as often as `dialErrorLimit` allows (-1: as long as the deadline does). CloudError: no connection was made.

        Keys and the configuration live in a folder of mode 0700 for as long as that takes.
        """
        connection = cast(Props, inputs["connection"])
        limit, seconds = int(connection.get("dialErrorLimit") or 10), int(connection.get("perDialTimeout") or 15)
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        remote = f"printf %s {_CONNECTED}; exec /bin/sh -c {shlex.quote(_RUNNER)}"
        self.runner.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="ssh-", dir=self.runner.folder) as folder:
            config = _configuration(Path(folder), connection)
            argv = [*self.runner.ssh_prefix(), "ssh", "-F", str(config), "target", remote]
            look = partial(self._look, connection)
            attempt = 0
            while True:
                attempt += 1
                status, out, err = self.runner.run(argv, exports + text, dict(os.environ), look, 2 * seconds + 5)
                _, connected, own = out.partition(_CONNECTED)
                if connected or status not in (SSH_FAILED, STOPPED):
                    if status == SSH_FAILED:
                        look()
                    return status, own, err
                if "Host key verification failed" in err or attempt == limit:
                    who = f"{connection['host']} as {connection.get('user', 'root')}"
                    last = err.splitlines()[-1] if err else "no answer"
                    raise CloudError(f"no connection to {who} after {attempt} attempts: {last}")
                # A host that boots is to be reached soon after its sshd is there.
                again = time.monotonic() + min(0.25 * 2 ** min(attempt - 1, 3), 2.0)
                while time.monotonic() < again:
                    look()
                    time.sleep(0.05)

    def _look(self, connection: Props) -> None:
        """Raises CloudError where waiting is of no use: cancelled, too late, or a host of the connection ended by itself."""
        self.runner.check()
        for place in (connection, cast(Props, connection.get("proxy") or {})):
            if place and (words := self.runner.ended(str(place["host"]))):
                raise CloudError(words)


def _configuration(folder: Path, connection: Props) -> Path:
    """An ssh configuration with a section for the target and one for its proxy."""
    sections = [_section(folder, "target", connection)]
    if connection.get("proxy"):
        sections[0] += ["ProxyJump jump"]
        sections.append(_section(folder, "jump", connection["proxy"]))
    config = folder / "config"
    _private(config, "\n".join("\n  ".join(section) for section in sections) + "\n")
    return config


def _section(folder: Path, name: str, place: Props) -> list[str]:
    host, port = str(place["host"]), int(place.get("port") or 22)
    lines = [f"Host {name}", f"HostName {host}", f"Port {port}", f"User {place.get('user') or 'root'}"]
    lines += [
        f"ConnectTimeout {int(place.get('perDialTimeout') or 15)}",
        "ServerAliveInterval 15",
        "LogLevel ERROR",
        "BatchMode yes",
    ]
    known = folder / f"known-{name}"
    if place.get("hostKey"):
        _private(known, f"{host if port == 22 else f'[{host}]:{port}'} {str(place['hostKey']).strip()}\n")
        lines += [f"UserKnownHostsFile {known}", "GlobalKnownHostsFile /dev/null", "StrictHostKeyChecking yes"]
    else:
        lines += ["UserKnownHostsFile /dev/null", "StrictHostKeyChecking no"]
    if place.get("privateKey"):
        key = folder / f"key-{name}"
        _private(key, str(place["privateKey"]).rstrip("\n") + "\n")
        lines += [f"IdentityFile {key}", "IdentitiesOnly yes"]
    return lines


def _private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def kinds(runner: Runner) -> list[Any]:
    return [LocalCommand(runner), RemoteCommand(runner)]
