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
from pathlib import Path
from typing import Any, ClassVar, cast

from ..processes import STOPPED, with_family
from .diff import Found
from .kind import Aws, CloudError, Kind
from .values import Props

# The text to run, and for ssh the environment too, comes by standard input, so that neither is ever visible in a list of
# processes; the command's own standard input is empty.
_RUNNER = 'script=$(cat; echo .); eval "${script%.}"'
# ssh's own exit status where the connection fails or ends.
SSH_FAILED = 255


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
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
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

    def start(self, argv: Sequence[str], **how: Any) -> subprocess.Popen[str]:
        """Starts argv. stop() ends it with its family, and so does our own end, however that comes. how: Popen's own."""
        with self._lock:
            self.check()
            process = with_family(argv, text=True, **how)
            self._running.add(process)
        return process

    def stop(self, process: subprocess.Popen[str]) -> None:
        """Ends what start() began, if it still runs; returns when it is gone."""
        process.terminate()
        process.wait()
        self._running.discard(process)

    def run(self, argv: Sequence[str], script: str, env: dict[str, str]) -> tuple[int, str, str]:
        """Runs argv with the script on its standard input. Returns status, stdout, stderr."""
        pipe = subprocess.PIPE
        process = self.start(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        left = getattr(self._limit, "deadline", math.inf) - time.monotonic()
        alarm = threading.Timer(min(left, threading.TIMEOUT_MAX), process.terminate)
        alarm.daemon = True
        alarm.start()
        try:
            out, err = process.communicate(script)
        finally:
            alarm.cancel()
            self.stop(process)
        if process.returncode == STOPPED:
            self.check()
        return process.returncode, out.removesuffix("\n"), err.removesuffix("\n")

    def cancel(self) -> None:
        """Ends what runs, and lets nothing start until `cancelled` is cleared."""
        with self._lock:
            self.cancelled.set()
            for process in list(self._running):
                process.terminate()


class Command(Kind):
    """What local and remote commands share: when which text runs."""

    inputs: ClassVar[Collection[str]] = ("create", "delete", "environment", "triggers", "addPreviousOutputInEnv")
    defaults = {"addPreviousOutputInEnv": True}

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        return [Found(f.path, f.change, f.property == "triggers") for f in found]

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
            tail = "\n".join((err or out).splitlines()[-20:])
            raise CloudError(masked(f"its {step} command ended with status {status}: {tail}", inputs))
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
    parts = {"connection": (*_PLACE, "proxy")}
    secret_outputs = ("connection",)

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        return [f for f in super().reclassify(found, old, new) if f.property != "connection" or _moved(old, new)]

    def execute(self, inputs: Props, text: str, environment: dict[str, str]) -> tuple[int, str, str]:
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        script = exports + text
        remote = "exec /bin/sh -c " + shlex.quote(_RUNNER)
        connection = cast(Props, inputs["connection"])
        with ssh_session(self.runner, connection) as argv:
            status, out, err = self.runner.run([*argv, remote], script, dict(os.environ))
        if status == SSH_FAILED:
            _look(self.runner, connection)
        return status, out, err


def _moved(old: Props, new: Props) -> bool:
    """Whether the command is for another machine or user; how to get there may change without running it again."""
    before, after = old.get("connection") or {}, new.get("connection") or {}
    if not isinstance(before, dict) or not isinstance(after, dict):
        return True
    first, second = cast(Props, before), cast(Props, after)
    return any(first.get(name) != second.get(name) for name in ("host", "port", "user"))


# --- ssh --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ssh_session(runner: Runner, connection: Props) -> Generator[list[str]]:
    """An open connection: the argv to put a command behind. CloudError when it cannot be made.

    Keys and the configuration live in a folder of mode 0700 for as long as the connection does.
    """
    runner.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ssh-", dir=runner.folder) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        config = folder / "config"
        # A socket's path has 108 characters at most, and a run directory may have more: so it is named by way of this process.
        stack.callback(os.close, handle := os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        _private(config, _configuration(folder, connection, f"/proc/{os.getpid()}/fd/{handle}/c"))
        base = [*runner.ssh_prefix(), "ssh", "-F", str(config)]
        master = _dial(runner, connection, base, folder)
        try:
            yield [*base, "target"]
        finally:
            runner.stop(master)


def _dial(runner: Runner, connection: Props, base: list[str], folder: Path) -> subprocess.Popen[str]:
    """Opens the master connection, trying as often as `dialErrorLimit` allows (-1: as long as the deadline does)."""
    limit = int(connection.get("dialErrorLimit") or 10)
    seconds = int(connection.get("perDialTimeout") or 15)
    attempt, pause = 0, 0.25
    while True:
        attempt += 1
        # In the foreground (no -f): a master that left its family would outlive a cloud that is killed. Its words go to a
        # file, as it holds standard error for as long as the connection lasts.
        with (folder / "log").open("w+") as words:
            master = runner.start(
                [*base, "-M", "-N", "target"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words
            )
            try:
                problem = _joined(runner, connection, master, folder / "c", 2 * seconds + 5)
            except BaseException:
                runner.stop(master)
                raise
            if problem is None:
                return master
            runner.stop(master)
            words.seek(0)
            problem = words.read().strip() or problem
        if "Host key verification failed" in problem or (limit >= 0 and attempt >= limit):
            last = problem.splitlines()[-1] if problem else "no reason given"
            raise CloudError(
                f"no connection to {connection['host']} as {connection.get('user', 'root')} after {attempt} attempts: {last}"
            )
        again = time.monotonic() + pause
        while time.monotonic() < again:
            _look(runner, connection)
            time.sleep(0.05)
        # A host that boots is to be reached soon after its sshd is there.
        pause = min(pause * 2, 2.0)


def _joined(runner: Runner, connection: Props, master: subprocess.Popen[str], control: Path, seconds: float) -> str | None:
    """Waits for the master to be in, which is when it takes others at its control socket; else the reason why it is not."""
    deadline = time.monotonic() + seconds
    while not control.exists():
        if master.poll() is not None:
            return ""
        if time.monotonic() > deadline:
            return f"no answer within {seconds:.0f} s"
        _look(runner, connection)
        time.sleep(0.05)
    return None


def _look(runner: Runner, connection: Props) -> None:
    """Raises CloudError where waiting is of no use: cancelled, too late, or a host of the connection ended by itself."""
    runner.check()
    for place in (connection, cast(Props, connection.get("proxy") or {})):
        if place and (words := runner.ended(str(place["host"]))):
            raise CloudError(words)


def _configuration(folder: Path, connection: Props, control: str) -> str:
    """The ssh configuration with a section for the target and one for its proxy."""
    sections = [_section(folder, "target", connection)]
    if connection.get("proxy"):
        sections[0] += ["ProxyJump jump"]
        sections.append(_section(folder, "jump", connection["proxy"]))
    sections[0] += [f"ControlPath {control}", "ControlPersist no"]
    return "\n".join("\n  ".join(section) for section in sections) + "\n"


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
