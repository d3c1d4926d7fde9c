"""A Pulumi language host for Python: runs the program named by the engine, in a process of its own.

The Pulumi CLI's own does the same and more (plugins, virtual environments); it is a Go program that only comes with the
official download. The embedded cloud always uses this one, so that every machine takes the same path.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from pulumi.automation._server import LanguageServer  # pyright: ignore[reportPrivateImportUsage]
from pulumi.runtime.proto import language_pb2_grpc

_LOOK_SECONDS = 2.0
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Host(LanguageServer):
    """Runs the directory's __main__.py as the program. engine: its address."""

    def __init__(self, engine: str) -> None:
        super().__init__(lambda: None)
        self.engine = engine

    def Run(self, request: Any, context: Any) -> Any:
        directory = Path(request.info.program_directory or request.pwd)
        path = directory / (request.info.entry_point or request.program or ".")

        def program() -> None:
            os.chdir(directory)
            sys.path.insert(0, str(path if path.is_dir() else path.parent))
            runpy.run_path(str(path), run_name="__main__")

        self.program = program
        request.args[:] = [self.engine]
        result = super().Run(request, context)
        if result.error:
            # The message has gone to the engine's log already; as an error of the run it would come twice.
            result.bail, result.error = True, ""
        return result


def main() -> None:
    # As a script we have our own folder first on the path, where the program must not find its modules.
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
    engine, parent = sys.argv[-1], os.getppid()
    sys.argv[1:] = []
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=_UNLIMITED)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(Host(engine), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    # An engine that was killed tells nobody. (The kernel's signal for that counts threads, of which Go ends some in between.)
    while not done.wait(_LOOK_SECONDS):
        if os.getppid() != parent:
            os._exit(1)
    server.stop(0)


if __name__ == "__main__":
    main()
