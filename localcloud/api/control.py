"""The way in for our own command line: a socket in the cloud's folder, which only its owner can open.

One JSON object a connection, {"name": …, "body": …}, and one for an answer. No host, no page in a browser and no other user of
this machine can reach it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..processes import LOOK_SECONDS

_NAME = "control"
Ask = Callable[[str, dict[str, Any] | None], dict[str, Any]]


@contextmanager
def address(folder: Path, name: str = _NAME) -> Generator[str]:
    """A path of the socket that is short enough: it has 108 characters at most, and the folder's may have more."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/{os.getpid()}/fd/{handle}/{name}"
    finally:
        os.close(handle)


class Control(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers from threads of its own. answer: what does the work; an exception becomes {"error": …}."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, answer: Ask) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    asked = json.loads(self.rfile.readline())
                    said = answer(str(asked["name"]), asked.get("body"))
                except Exception as error:
                    logging.exception("a question to the cloud failed")
                    said = {"error": f"{error}"}
                self.wfile.write(json.dumps(said).encode() + b"\n")

        (folder / _NAME).unlink(missing_ok=True)
        with address(folder) as path:
            super().__init__(path, Handler, bind_and_activate=False)
            self.server_bind()
            Path(path).chmod(0o600)
            self.server_activate()
        threading.Thread(target=self.serve_forever, args=(LOOK_SECONDS,), name="control", daemon=True).start()


def ask(folder: Path, name: str, body: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
    """What the cloud in the folder answers. OSError: it cannot be reached, or not in time. ValueError: that was no answer."""
    with socket.socket(socket.AF_UNIX) as connection, address(folder) as path:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(json.dumps({"name": name, "body": body}).encode() + b"\n")
        with connection.makefile("rb") as answer:
            return json.loads(answer.readline())
