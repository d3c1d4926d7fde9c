"""What the cloud's process is made of: its API with the machines behind it, and the `aws` and `command` providers before it."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent import futures
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from .api.client import Aws, Keys
from .api.control import Control, address
from .api.inventory import inventory
from .api.server import Api
from .apollo.hosts import live_hosts
from .machines.prepare import Kind
from .paths import cache_dir, write_private
from .processes import LOOK_SECONDS, start_ticks
from .provider import balancing, buckets, command, compute, identity, logs, network, security, storage
from .provider.journal import Fault, Journal
from .provider.servicer import Servicer

if TYPE_CHECKING:
    from .machines.driver import MachineDriver

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
MODULES = (network, security, compute, storage, identity, logs, balancing, buckets)


class Daemon:
    """Everything that serves. port: the API's, 0 for any free one. edge_port: where the booted edge is offered on 127.0.0.1;
    None boots no machines. kind: what makes the machines. OSError: the port is taken. MachineError: the machines
    cannot be had."""

    def __init__(self, folder: Path, port: int, region: str, edge_port: int | None = None, kind: Kind = "container") -> None:
        self.folder = folder
        owner, machines = Keys.new(), Keys.new()
        self.api = Api(port, owner, machines)
        self.aws = Aws(self.api.endpoint, region, owner)
        self.driver: MachineDriver | None = None
        self.edge_port = edge_port
        self.kind: Kind = kind
        if edge_port is not None:
            from .machines.driver import MachineDriver
            from .machines.orders import binaries

            aws = Aws(self.api.endpoint, region, machines)
            self.driver = MachineDriver(aws, folder, cache_dir(), binaries, edge_port, kind)
            self.edge_port = self.driver.edge_port
            self.api.settle = self.driver.settle
        self.runner = command.Runner(
            folder / "ssh",
            lambda: self.driver.ssh_prefix if self.driver else (),
            lambda address: self.driver.ended(address) if self.driver else "",
        )
        self.journal = Journal(folder / "calls.jsonl", self.runner.cancelled)
        kinds = [kind() for module in MODULES for kind in module.KINDS]
        self.resources = Servicer("aws", kinds, self.journal, self.aws, self.runner)
        self.commands = Servicer("command", command.kinds(self.runner), self.journal, self.aws, self.runner)
        self.baseline: frozenset[str] = frozenset()
        self._servers: list[grpc.Server] = []
        self.stopped = threading.Event()

    def start(self) -> None:
        """Begins to serve and says so in cloud.json. The engine may come at once: its calls wait until all is loaded."""
        threading.Thread(target=self.api.http.serve_forever, args=(LOOK_SECONDS,), name="moto", daemon=True).start()
        for servicer in (self.resources, self.commands):
            self._serve_provider(servicer)
        self.control = Control(self.folder, self._control)
        about = {
            "pid": os.getpid(),
            "ticks": start_ticks(os.getpid()),
            "started": time.time(),
            "endpoint": self.aws.endpoint,
            "region": self.aws.region,
            "keys": asdict(self.aws.keys),
            "edge_port": self.edge_port,
            "kind": self.kind,
        }
        write_private(self.folder / "cloud.json", json.dumps(about))
        self.baseline = inventory(self.aws)
        self.journal.ready.set()

    def close(self) -> None:
        self.runner.cancelled.set()
        for server in self._servers:
            server.stop(0)
        if self.driver is not None:
            self.driver.close()
        self.control.shutdown()
        self.api.http.shutdown()

    def _serve_provider(self, servicer: Servicer) -> None:
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=128), options=_UNLIMITED)
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
        with address(self.folder, servicer.package) as path:
            Path(path).unlink(missing_ok=True)
            server.add_insecure_port(f"unix:{path}")
            Path(path).chmod(0o600)
        server.start()
        self._servers.append(server)

    def _control(self, name: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """What the command line and the tests ask: status, hosts, leftovers, fault, cancel, begin, orphans, machine."""
        if name == "status":
            return self.journal.status()
        # What an engine asks before it starts does not wait for moto, which loads meanwhile. (No orphan was made before.)
        if name not in ("begin", "cancel", "orphans"):
            self.journal.ready.wait()
        if name == "hosts":
            return {"hosts": [row.public() for row in live_hosts(self.aws)]}
        if name == "leftovers":
            live = inventory(self.aws)
            return {"leftovers": sorted(live - self.baseline)}
        if body is None:
            return {"error": f"no such question: {name}"}
        if name == "fault":
            self.journal.inject(Fault(**body))
            return {}
        if name == "cancel":
            self.runner.cancelled.set()
            return {}
        if name == "begin":
            self.runner.cancelled.clear()
            self.runner.environment = body.get("environment") or {}
            if self.driver is not None:
                self.driver.ending = bool(body.get("ending"))
            return {}
        if name == "orphans":
            # Removing one may run its command.
            self.runner.cancelled.clear()
            known = {(item["type"], item["id"]) for item in body["known"]}
            orphans = self.journal.orphans(known)
            for made in orphans:
                (self.commands if made.type.startswith("command:") else self.resources).remove(made)
            return {"removed": [made.public() for made in orphans]}
        if name == "machine":
            if self.driver is None:
                return {"failed": "this cloud has no machines; end it with `down` and start it without --no-machines"}
            from .machines.orders import answer

            return answer(self.driver, body)
        return {"error": f"no such order: {name}"}
