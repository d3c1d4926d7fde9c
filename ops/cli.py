"""The Pulumi CLI, for all day-two commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ops.errors import OpsError
from ops.text import lines as safe_lines

# How the engine says that it read the state in a file backend just while another engine wrote it. It has done nothing then, and
# the next look finds the file whole; what stays damaged is reported after _LOOKS looks, _BETWEEN seconds apart.
_TORN, _LOOKS, _BETWEEN = "failed to load checkpoint", 10, 0.3
# How a file backend and Pulumi's service say that somebody else's engine is at work.
_BUSY = ("the stack is currently locked by", "Conflict: Another update is currently in progress")


class CliError(OpsError):
    """The CLI failed; the message is its own. printed: what it had printed. complaint: standard error."""

    def __init__(self, printed: str, complaint: str, command: str, status: int) -> None:
        super().__init__(words(complaint) or f"pulumi {command} ended with {status}")
        self.printed = printed
        self.complaint = complaint


class Cli:
    """Runs `pulumi` in the folder with Pulumi.yaml: the one that APOLLO_WORK names, else the current one.

    It has a process group of its own: Ctrl-C on the terminal reaches only us, and we decide what the CLI does.
    """

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("APOLLO_WORK") or ".").resolve()
        self._running: subprocess.Popen[str] | None = None

    def interrupt(self) -> None:
        """Asks what runs to stop: it ends what is under way and records it."""
        if self._running is not None:
            self._running.send_signal(signal.SIGINT)

    def run(self, *arguments: str, stdin: str = "", on_line: Callable[[str], object] = lambda _: None) -> str:
        """What the CLI prints. on_line: called with each line of it as it comes.

        Raises CliError, and OpsError where there is no CLI on PATH.
        """
        for look in range(_LOOKS):
            status, printed, complaint = self._once(arguments, stdin, on_line)
            if not status:
                return printed
            if _TORN not in complaint or look == _LOOKS - 1:
                raise CliError(printed, complaint, arguments[0], status)
            time.sleep(_BETWEEN)
        raise AssertionError("the last look returns or raises")

    def _once(self, arguments: tuple[str, ...], stdin: str, on_line: Callable[[str], object]) -> tuple[int, str, str]:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                ["pulumi", *arguments, "--non-interactive"],
                cwd=self.folder, stdin=pipe, stdout=pipe, stderr=pipe, text=True, process_group=0,
            )  # fmt: skip
        except FileNotFoundError:
            raise OpsError("pulumi is not on PATH; https://www.pulumi.com/docs/install/ says how to install it") from None
        assert process.stdin and process.stdout and process.stderr
        self._running = process
        printed: list[str] = []
        with process, ThreadPoolExecutor(1) as aside:
            complaint = aside.submit(process.stderr.read)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(stdin)
                process.stdin.close()
            for line in process.stdout:
                printed.append(line)
                on_line(line)
        self._running = None
        return process.returncode, "".join(printed), complaint.result()


def words(text: str) -> str:
    """The engine's own error, of all that it printed. Hosts' words may be in it, so it is made safe to print."""
    said = [line.strip() for line in safe_lines(text).splitlines() if line.strip()]
    if any(busy in text for busy in _BUSY):
        owner = next((line for line in said if "created by" in line), "")
        return f"somebody else is updating the stack{f' ({owner})' if owner else ''}"
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error:")]
    return "\n  ".join(dict.fromkeys(errors or said[-5:]))
