"""The cloud itself, one process: a moto server, and the `aws` and `command` providers in front of it.

`python -m localcloud.daemon --folder DIR` writes DIR/cloud.json once it serves, and DIR/calls.jsonl as it goes. Everything
is on 127.0.0.1. GET and POST under /apollo-cloud/ are for the command line and for tests.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

CONTROL = "/apollo-cloud/"
IMAGES = Path(__file__).with_name("images.json")

# Read by moto when it is imported.
os.environ |= {
    "MOTO_AMIS_PATH": str(IMAGES),
    "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "1",
    "MOTO_ENABLE_AMI_VALIDATION": "1",
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "1",
}

import grpc  # noqa: E402
from moto.moto_server.werkzeug_app import (  # noqa: E402
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from pulumi.runtime.proto import provider_pb2_grpc  # noqa: E402
from werkzeug.serving import BaseWSGIServer, make_server  # noqa: E402

from . import moto_addresses, moto_policies  # noqa: E402
from .hosts import live_hosts  # noqa: E402
from .inventory import inventory  # noqa: E402
from .machines.errors import MachineError  # noqa: E402
from .processes import die_with_parent, start_ticks  # noqa: E402
from .provider import balancing, command, compute, identity, keys, logs, network, security, storage  # noqa: E402
from .provider.desk import Desk, Fault  # noqa: E402
from .provider.kind import Aws  # noqa: E402
from .provider.servicer import Servicer  # noqa: E402

if TYPE_CHECKING:
    from .machinery import Machinery

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_LOOK_SECONDS = 2.0
_MODULES = (network, security, compute, storage, identity, keys, logs, balancing)


class Daemon:
    """Everything that serves. port: moto's, 0 for any free one. edge_port: where the booted edge is offered on 127.0.0.1; None
    boots no machines. OSError: the port is taken. MachineError: the machines cannot be had."""

    def __init__(self, folder: Path, port: int, region: str, edge_port: int | None = None) -> None:
        self.folder = folder
        self.desk = Desk(folder / "calls.jsonl")
        self.http = _serve_moto(port, self._control)
        self.endpoint = f"http://127.0.0.1:{self.http.server_port}"
        self.runner = command.Runner(
            folder / "ssh",
            lambda: self.desk.machines.ssh_prefix if self.desk.machines else (),
            lambda address: self.desk.machines.ended(address) if self.desk.machines else "",
        )
        kinds = [kind() for module in _MODULES for kind in module.KINDS]
        self.aws = Servicer("aws", kinds, self.desk, self.endpoint)
        self.commands = Servicer("command", command.kinds(self.runner), self.desk, self.endpoint)
        self.commands.cancel = self.runner.cancel
        self.commands.begin = self.runner.cancelled.clear
        self.commands.within = self.runner.within
        self.aws.cancel = self.desk.cancelled.set
        self.aws.begin = self.desk.cancelled.clear
        self.region = region
        self.api = Aws(self.endpoint, region)
        self.baseline: frozenset[str] = frozenset()
        self._servers: list[grpc.Server] = []
        self.edge_port = edge_port
        self.machinery: Machinery | None = None
        if edge_port is not None:
            from .machinery import Machinery

            self.machinery = self.desk.machines = Machinery(self.endpoint, folder, region, edge_port)
            self.edge_port = self.machinery.driver.edge_port
        self.stopped = threading.Event()

    def start(self) -> None:
        """Begins to serve and says so in cloud.json. The engine may come at once: its calls wait until all is loaded."""
        threading.Thread(target=self.http.serve_forever, name="moto", daemon=True).start()
        ports = [self._serve_provider(servicer) for servicer in (self.aws, self.commands)]
        about = {
            "pid": os.getpid(),
            "ticks": start_ticks(os.getpid()),
            "started": time.time(),
            "endpoint": self.endpoint,
            "region": self.region,
            "aws": ports[0],
            "command": ports[1],
            "edge_port": self.edge_port,
        }
        draft = self.folder / "cloud.json.draft"
        draft.write_text(json.dumps(about))
        draft.chmod(0o600)
        draft.rename(self.folder / "cloud.json")
        self.baseline = inventory(self.api)
        self.desk.ready.set()

    def close(self) -> None:
        self.runner.cancel()
        for server in self._servers:
            server.stop(0)
        self.desk.close()
        self.http.shutdown()

    def _serve_provider(self, servicer: Servicer) -> int:
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=128), options=_UNLIMITED)
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._servers.append(server)
        return port

    def _control(self, method: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the command line and the tests ask: status, hosts, leftovers, fault, cancel, begin, orphans, stop."""
        if name == "status":
            return self.desk.status()
        # `begin` and `cancel` do not wait for moto, so that the engine starts while moto loads.
        if name not in ("begin", "cancel"):
            self.desk.ready.wait()
        if name == "hosts":
            return {"hosts": [row.public() for row in live_hosts(self.api)]}
        if name == "leftovers":
            live = inventory(self.api)
            return {"leftovers": sorted(live - self.baseline)}
        if method != "POST":
            return {"error": f"no such question: {name}"}
        if name == "fault":
            self.desk.inject(Fault(**body))
            return {}
        if name == "cancel":
            self.runner.cancel()
            self.desk.cancelled.set()
            return {}
        if name == "begin":
            self._uncancel()
            self.runner.environment = body.get("environment") or {}
            if self.machinery is not None:
                self.machinery.driver.ending = bool(body.get("ending"))
            return {}
        if name == "orphans":
            # Removing one may run its command.
            self._uncancel()
            known = {(item["type"], item["id"]) for item in body["known"]}
            orphans = self.desk.orphans(known)
            for made in orphans:
                (self.commands if made.type.startswith("command:") else self.aws).remove(made)
            return {"removed": [made.public() for made in orphans]}
        if name == "machine":
            if self.machinery is None:
                return {"failed": "this cloud has no machines; end it with `down` and start it without --no-machines"}
            return self.machinery.answer(body)
        if name == "stop":
            self.stopped.set()
            return {}
        return {"error": f"no such order: {name}"}

    def _uncancel(self) -> None:
        self.runner.cancelled.clear()
        self.desk.cancelled.clear()


def _serve_moto(port: int, control: Callable[[str, str, dict[str, Any]], dict[str, Any]]) -> BaseWSGIServer:
    """moto behind one lock (its data is not made for several threads), with our own paths beside it."""
    moto_addresses.install()
    moto_policies.install()
    moto = DomainDispatcherApplication(create_backend_app)
    turn = threading.Lock()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", ""))
        if not path.startswith(CONTROL):
            with turn:
                return cast(Iterable[bytes], list(moto(environ, start_response)))
        size = int(environ.get("CONTENT_LENGTH") or 0)
        try:
            body = json.loads(environ["wsgi.input"].read(size) or b"{}")
            answer, status = control(environ["REQUEST_METHOD"], path.removeprefix(CONTROL), body), "200 OK"
        except Exception as error:
            logging.exception("a question to the cloud failed")
            answer, status = {"error": str(error)}, "500 Internal Server Error"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    return make_server("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m localcloud.daemon")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--region", required=True)
    parser.add_argument("--edge-port", type=int, help="boot the hosts, and offer the edge's port 80 here on 127.0.0.1")
    parser.add_argument("--ephemeral", action="store_true", help="end with the parent, and remove the folder then")
    args = parser.parse_args()
    if args.ephemeral:
        die_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    try:
        daemon = Daemon(args.folder, args.port, args.region, args.edge_port)
    except MachineError as error:
        print(error, file=sys.stderr)
        os._exit(3)
    except (OSError, SystemExit):
        print(f"port {args.port} is in use by another program; name a free one with --port, or leave it out", file=sys.stderr)
        sys.exit(3)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stopped.set())
    daemon.start()
    # A cloud whose folder was taken away can be found by nobody any more, so it ends by itself.
    while not daemon.stopped.wait(_LOOK_SECONDS):
        if not (args.folder / "cloud.json").exists():
            break
    daemon.close()
    (args.folder / "cloud.json").unlink(missing_ok=True)
    if args.ephemeral:
        # The engine may be writing its last words: a folder that fills up again is removed again.
        for _ in range(20):
            shutil.rmtree(args.folder, ignore_errors=True)
            if not args.folder.exists():
                break
            time.sleep(0.1)
    # Threads in the middle of a call would hold an ordinary exit up.
    os._exit(0)


if __name__ == "__main__":
    main()
