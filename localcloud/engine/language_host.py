"""A Pulumi language host for Python: runs the program named by the engine, in a process of its own.

The Pulumi CLI's own does the same and more (plugins, virtual environments); it is a Go program that only comes with the
official download. The embedded cloud always uses this one, so that every machine takes the same path.

An engine starts it twice for each run, first to ask only which plugins the program needs: the SDK, which takes half a second
to import, comes with the program.
"""

from __future__ import annotations

import functools
import gc
import os
import runpy
import signal
import sys
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

_LOOK_SECONDS = 2.0
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_SERVICE = "pulumirpc.LanguageRuntime"
# Asked of every language host. Our answer is the empty message, which is no byte: plugins come from the embedded cloud.
_EMPTY = ("GetRequiredPlugins", "GetRequiredPackages", "GetPluginInfo")


def service(engine: str) -> grpc.GenericRpcHandler:
    """The language host's methods, on messages as bytes. engine: its address."""
    nothing = grpc.unary_unary_rpc_method_handler(lambda *_: b"")
    program = grpc.unary_unary_rpc_method_handler(functools.partial(run, engine))
    return grpc.method_handlers_generic_handler(_SERVICE, {"Run": program, **dict.fromkeys(_EMPTY, nothing)})


def run(engine: str, message: bytes, context: Any) -> bytes:
    """Runs the directory's __main__.py as the program, and gives the answer to Run."""
    from pulumi.automation._server import LanguageServer  # pyright: ignore[reportPrivateImportUsage]
    from pulumi.runtime.proto import language_pb2

    request: Any = language_pb2.RunRequest.FromString(message)
    directory = Path(request.info.program_directory or request.pwd)
    path = directory / (request.info.entry_point or request.program or ".")

    def program() -> None:
        os.chdir(directory)
        sys.path.insert(0, str(path if path.is_dir() else path.parent))
        runpy.run_path(str(path), run_name="__main__")

    request.args[:] = [engine]
    result: Any = LanguageServer(program).Run(request, context)
    if result.error:
        # The message has gone to the engine's log already; as an error of the run it would come twice.
        result.bail, result.error = True, ""
    return result.SerializeToString()


def main() -> None:
    # As a script we have our own folder first on the path, where the program must not find its modules.
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
    # Of what a program imports little is garbage. Looking for it at the usual rate takes a third as long as importing.
    gc.set_threshold(100_000)
    engine, parent = sys.argv[-1], os.getppid()
    sys.argv[1:] = []
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=_UNLIMITED)
    server.add_generic_rpc_handlers((service(engine),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    # An engine that was killed tells no one. (The kernel's signal for that counts threads, of which Go ends some in between.)
    while not done.wait(_LOOK_SECONDS):
        if os.getppid() != parent:
            os._exit(1)
    server.stop(0)


if __name__ == "__main__":
    main()
