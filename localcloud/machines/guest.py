"""A command in a virtual machine, by the guest agent that Debian has for QEMU (package qemu-guest-agent).

python guest.py SOCKET COMMAND…    runs it with this process's input, and prints and ends as it does

Not for terminals: the agent takes all input at once, and gives the output when the command has ended. Only Python's own
library is used, as this file also runs alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

# Seconds for one answer of the agent, which waits for other callers and for a machine whose processor is emulated.
ANSWER = 60.0
# Seconds between two questions whether a command has ended: at first, and at most.
FIRST_LOOK, LAST_LOOK = 0.05, 0.5
# Bytes of input in one message. An emulated machine that is kept from the processors reads megabytes for longer than ANSWER.
MESSAGE = 1 << 17
# Seconds between two attempts to be served.
TURN = 0.02
# In front of an answer to guest-sync-delimited, so that what an earlier caller did not wait for is told from it.
DELIMITER = b"\xff"


class GuestError(OSError):
    """The agent does not answer (yet, or any more), or refuses."""


def run(agent: Path, argv: list[str], stdin: bytes = b"", seconds: float | None = None) -> tuple[int, bytes, bytes]:
    """Runs a command as root and returns its exit status and outputs; 128 and the signal where one ended it.

    seconds: until GuestError, None for no limit; the command goes on then.
    """
    if len(stdin) > MESSAGE:
        argv, stdin = ["sh", "-c", 'exec <"$0"; rm "$0"; exec "$@"', _put(agent, stdin), *argv], b""
    wanted = {"path": argv[0], "arg": argv[1:], "capture-output": True, "input-data": base64.b64encode(stdin).decode()}
    deadline = None if seconds is None else time.monotonic() + seconds
    pid = ask(agent, "guest-exec", wanted)["pid"]
    look = FIRST_LOOK
    while not (status := ask(agent, "guest-exec-status", {"pid": pid}))["exited"]:
        if deadline is not None and time.monotonic() > deadline:
            raise GuestError(f"{' '.join(argv)}: no end after {seconds:g} s")
        time.sleep(look)
        look = min(look * 1.5, LAST_LOOK)
    out, err = (base64.b64decode(status.get(key, "")) for key in ("out-data", "err-data"))
    return status["exitcode"] if "exitcode" in status else 128 + status["signal"], out, err


def _put(agent: Path, content: bytes) -> str:
    """Puts content into a new file of the machine, which only root may read, and returns its path."""
    status, path, err = run(agent, ["mktemp", "-p", "/run"], seconds=ANSWER)
    if status:
        raise GuestError(err.decode(errors="replace").strip())
    file = path.decode().strip()
    handle = ask(agent, "guest-file-open", {"path": file, "mode": "w"})
    for start in range(0, len(content), MESSAGE):
        part = base64.b64encode(content[start : start + MESSAGE]).decode()
        ask(agent, "guest-file-write", {"handle": handle, "buf-b64": part})
    ask(agent, "guest-file-close", {"handle": handle})
    return file


def ask(agent: Path, execute: str, arguments: dict[str, Any], seconds: float = ANSWER) -> Any:
    """One order to the agent and what it returns. Raises GuestError."""
    mark = time.monotonic_ns() & 0x7FFFFFFF
    try:
        with connected(agent, seconds) as talk, talk.makefile("rb") as answers:
            talk.sendall(DELIMITER)
            send(talk, "guest-sync-delimited", {"id": mark})
            while True:
                line = answers.readline()
                if not line:
                    raise GuestError("it hung up")
                if DELIMITER in line and json.loads(line.rpartition(DELIMITER)[2]).get("return") == mark:
                    break
            send(talk, execute, arguments)
            answer = json.loads(answers.readline() or b"{}")
    except (OSError, ValueError) as error:
        raise GuestError(f"the machine's agent does not answer: {error}") from None
    if "return" not in answer:
        raise GuestError(f"the machine's agent refuses {execute}: {answer.get('error', {}).get('desc', 'it hung up')}")
    return answer["return"]


@contextlib.contextmanager
def connected(path: Path, seconds: float) -> Generator[socket.socket]:
    """A connection to a socket of a virtual machine. seconds: for each thing done with it. Raises OSError."""
    # The address of a socket has 108 characters at most, and the folder's may have more.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(seconds)
            deadline = time.monotonic() + seconds
            while True:
                try:
                    talk.connect(f"/proc/self/fd/{folder}/{path.name}")
                    break
                except BlockingIOError:
                    # One caller is served at a time and one waits; any other is sent away at once.
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(TURN)
            yield talk
    finally:
        os.close(folder)


def send(talk: socket.socket, execute: str, arguments: dict[str, Any]) -> None:
    talk.sendall(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")


def main() -> int:
    agent, *argv = sys.argv[1:]
    stdin = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    try:
        status, out, err = run(Path(agent), argv, stdin)
    except GuestError as error:
        print(error, file=sys.stderr)
        return 255
    sys.stdout.buffer.write(out)
    sys.stderr.buffer.write(err)
    return status


if __name__ == "__main__":
    sys.exit(main())
