"""The edge's own files run on this machine's loopback, with the real Consul, consul-template and HAProxy."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from localcloud.paths import REPOSITORY
from tests.host.support import PATIENCE, Handler, free_ports, stand_in, text_of, until

CONFIG, LIVE, STATE = "/etc/haproxy/haproxy.cfg", "/etc/haproxy/live", "/var/lib/apollo"
# Where containers are in these tests, where clients and balancer are, who ask from 127.0.0.1, and a slave's address in the VPC.
OVERLAY, CONTAINERS, CONTAINER = "127.2.0.0/16", "127.2.1.0 127.2.239.255", "127.2.1.7"
# Where an edge has its VPC address.
PRIVATE = "127.1.0.2"
# Two networks, as a VPC that exists may have.
BALANCERS, SLAVE = "127.0.0.0/25 127.0.0.128/25", "127.0.32.33"
CONTROL = "127.0.0.11"
# The hosts' program, with the edge's files and sockets in its folder.
APOLLO = """#!/usr/bin/env -S PYTHONPATH={root} {python}
import sys
from pathlib import Path
from host.apollo import __main__
from host.apollo.edge import apply
folder = Path("{folder}")
vars(apply).update({{}})
apply.STATE, apply.LIVE, apply.CONFIG = folder / "state", folder / "live", str(folder / "haproxy.cfg")
apply.NEW = folder / "state/services.cfg"
apply.ADMIN, apply.MASTER = (str(folder / f"{{name}}.sock") for name in ("admin", "master"))
apply.LATER = (str(folder / "bin/apollo"), *apply.LATER[1:])
sys.exit(__main__.run(sys.argv[1:]))
"""


class Instance:
    """A small web server that says its name and what it was asked, after so many seconds."""

    def __init__(self, name: str, address: str = CONTAINER, seconds: float = 0) -> None:
        self.name = name
        seen = self.seen = list[dict[str, str]]()

        class Named(Handler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                seen.append({**{key.lower(): value for key, value in self.headers.items()}, ":path": self.path})
                time.sleep(seconds)
                self.answer(200, f"{name} {self.path}")

            def do_POST(self) -> None:
                left = int(self.headers["Content-Length"])
                while left:
                    left -= len(self.rfile.read(min(left, 65536)))
                self.do_GET()

            def handle(self) -> None:
                # A health check that only connects resets the connection.
                with contextlib.suppress(OSError):
                    super().handle()

        self.server = ThreadingHTTPServer((address, 0), Named)
        self.address, self.port = address, int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Tunnel:
    """A server that agrees to every upgrade, and then sends back what it gets. seen: the requests as they came."""

    def __init__(self) -> None:
        seen = self.seen = list[str]()

        class Echo(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    lines = [line.decode() for line in iter(lambda: self.rfile.readline().strip(), b"")]
                    if not lines:
                        return
                    seen.append("\n".join(lines))
                    keys = [line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-key:")]
                    proof = hashlib.sha1(f"{''.join(keys)}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False)
                    self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
                    # RFC 6455, section 4.2.2.
                    self.wfile.write(b"Sec-WebSocket-Accept: " + base64.b64encode(proof.digest()) + b"\r\n\r\n")
                    while data := self.rfile.readline():
                        self.wfile.write(data)

        self.server = socketserver.ThreadingTCPServer((CONTAINER, 0), Echo)
        self.server.daemon_threads = True
        self.address, self.port = CONTAINER, int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]


class Edge:
    """The edge's programs in a folder of their own. facts: what differs from an edge without settings in node.env."""

    def __init__(self, folder: Path, consul: Path, consul_template: Path, haproxy: str, facts: Mapping[str, str]) -> None:
        self.folder, self._consul, self._template, self._haproxy = folder, consul, consul_template, haproxy
        names = ("web", "balancer", "tls", "balancer_tls", "inside", "consul", "consul_rpc", "consul_serf", "consul_wan", "dns")
        self.port: dict[str, int] = dict(zip(names, free_ports(len(names)), strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **os.environ,
            "NODE_NAME": "edge-1",
            "OVERLAY_CIDR": OVERLAY,
            "PRIVATE_IP": PRIVATE,
            "EDGE_BALANCERS": BALANCERS,
            "CONTROL_ADDRESSES": f"127.0.0.10 {CONTROL}",
            "EDGE_CONTAINERS": CONTAINERS,
            "EDGE_DOMAIN": "apollo.test",
            "EDGE_PUBLISH": "",
            "EDGE_DEFAULT_SERVICE": "",
            "EDGE_TLS": "0",
            "EDGE_TLS_REDIRECT": "0",
            "EDGE_TLS_HSTS": "0",
            "EDGE_CLIENT_CONNECTIONS": "1000",
            "EDGE_CLIENT_REQUESTS": "10000",
            **facts,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}:/usr/sbin",
        }
        for place in ("bin", "live", "state"):
            (folder / place).mkdir(parents=True)
        (folder / "token").write_text("none")
        for source, target in (
            (f"{CONFIG[1:]}", "haproxy.cfg"),
            (f"{LIVE[1:]}/services.cfg", "live/services.cfg"),
            (f"{LIVE[1:]}/routes.map", "live/routes.map"),
            ("etc/apollo/services.ctmpl", "services.ctmpl"),
            ("etc/apollo/edge.hcl", "edge.hcl"),
        ):
            text = text_of("edge", f"/{source}")
            for old, new in self._places().items():
                text = text.replace(old, new)
            (folder / target).write_text(text)
        (folder / "bin/apollo").write_text(APOLLO.format(python=sys.executable, root=REPOSITORY, folder=folder))
        (folder / "bin/apollo").chmod(0o755)
        # In the place of systemd: a reload is this signal to the master.
        stand_in(folder / "bin/systemctl", f"kill -USR2 $(cat {folder}/master.pid)\necho >>{folder}/reloads")

    def _places(self) -> dict[str, str]:
        port, folder = self.port, self.folder
        return {
            "    user haproxy\n    group haproxy\n": "",
            "bind :8081 ": f"bind 127.0.0.1:{port['balancer']} ",
            "bind :8444 ": f"bind 127.0.0.1:{port['balancer_tls']} ",
            "bind :8404\n": f"bind 127.0.0.1:{port['inside']},{PRIVATE}:{port['inside']}\n",
            "bind :443 ": f"bind 127.0.0.1:{port['tls']} ",
            "bind :80\n": f"bind 127.0.0.1:{port['web']}\n",
            "/run/haproxy/admin.sock": str(folder / "admin.sock"),
            "/run/haproxy-master.sock": str(folder / "master.sock"),
            "/etc/apollo/secrets/edge/certificate": str(folder / "certificate"),
            "/etc/apollo/secrets/consul/template-token": str(folder / "token"),
            "/usr/local/bin/apollo": str(folder / "bin/apollo"),
            "/etc/apollo/services.ctmpl": str(folder / "services.ctmpl"),
            "127.0.0.1:8500": f"127.0.0.1:{port['consul']}",
            CONFIG: str(folder / "haproxy.cfg"),
            LIVE: str(folder / "live"),
            STATE: str(folder / "state"),
        }

    def tune(self, **constants: int) -> None:
        """Other constants of edge/apply.py, before the start."""
        apollo = self.folder / "bin/apollo"
        apollo.write_text(apollo.read_text().replace("update({})", f"update({constants!r})"))

    def start(self, *names: str) -> None:
        """consul, haproxy and template, or one of them."""
        for name in names or ("consul", "haproxy", "template"):
            self._start(name)

    def _start(self, name: str) -> None:
        folder, port = self.folder, self.port
        argv = {
            "consul": [
                self._consul, "agent", "-dev", "-bind=127.0.0.1", "-log-level=warn", "-node=agent",
                f"-http-port={port['consul']}", f"-server-port={port['consul_rpc']}", f"-serf-lan-port={port['consul_serf']}",
                f"-serf-wan-port={port['consul_wan']}", f"-dns-port={port['dns']}", "-grpc-port=-1", "-grpc-tls-port=-1",
                "-hcl=limits { http_max_conns_per_client = 4096 }",
            ],
            "haproxy": [
                self._haproxy, "-W", "-f", folder / "haproxy.cfg", "-p", folder / "master.pid", "-S", folder / "master.sock",
                "-C", folder / "live", "-f", "services.cfg",
            ],
            "template": [self._template, f"-config={folder / 'edge.hcl'}"],
        }[name]  # fmt: skip
        with (folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log, cwd=folder)
        if name == "consul":
            until(lambda: self._leads(), "Consul leads")
        if name == "haproxy":
            until(lambda: self.ask("/").status, "HAProxy listens")

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM if name != "template" else signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    def close(self) -> None:
        for name in list(self.processes):
            self.stop(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    @property
    def reloads(self) -> int:
        file = self.folder / "reloads"
        return len(file.read_text()) if file.exists() else 0

    @property
    def services(self) -> str:
        return (self.folder / "live/services.cfg").read_text()

    @property
    def routes(self) -> dict[str, str]:
        return dict(line.split() for line in (self.folder / "live/routes.map").read_text().splitlines() if line[:1] != "#")

    def as_balancer(self, source: str, port: str = "balancer", client: str = "203.0.113.9") -> socket.socket:
        """A connection from an address, which says that it is for the client. Raises OSError."""
        connection = socket.create_connection(("127.0.0.1", self.port[port]), 5, (source, 0))
        connection.sendall(f"PROXY TCP4 {client} 192.0.2.1 1234 80\r\n".encode())
        return connection

    def raw(self, request: bytes, seconds: float = 5) -> socket.socket:
        """A connection on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port["web"]), seconds)
        connection.sendall(request)
        return connection

    def ask_as_balancer(self, source: str, host: str, client: str = "203.0.113.9") -> bytes:
        """The whole answer to one request on such a connection; nothing where it is cut off."""
        try:
            with self.as_balancer(source, client=client) as connection:
                connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                return connection.makefile("rb").read()
        except ConnectionError:
            return b""

    def ask(self, path: str, host: str = "nobody", port: str = "web", **headers: str) -> Answer:
        """One request. Status 0: no answer."""
        return self._request("GET", path, None, {"Host": host, **headers}, port)

    def post(self, path: str, host: str, body: bytes) -> Answer:
        return self._request("POST", path, body, {"Host": host}, "web")

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], port: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port[port], timeout=5)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), dict(response.getheaders()))
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, str(error), {})
        finally:
            connection.close()

    def consul(self, path: str, method: str = "GET", body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port["consul"], timeout=10)
        try:
            connection.request(method, f"/v1/{path}", json.dumps(body) if body is not None else None)
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            return json.loads(content) if content else None
        finally:
            connection.close()

    def port_of(self, service: str) -> int:
        """The port of the instance that was registered without an id."""
        return next(
            int(entry["ServicePort"])
            for entry in self.consul(f"catalog/service/{service}")
            if entry["ServiceID"].startswith("apollo:")
        )

    def master(self, command: str) -> str:
        """What HAProxy's master answers."""
        with socket.socket(socket.AF_UNIX) as place:
            place.settimeout(5)
            # For a moment of each reload it refuses.
            until(lambda: place.connect_ex(str(self.folder / "master.sock")) == 0, "the master answers")
            place.sendall(command.encode() + b"\n")
            place.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: place.recv(65536), b"")).decode()

    def _leads(self) -> bool:
        try:
            return bool(self.consul("status/leader"))
        except (OSError, AssertionError):
            return False

    def register(
        self,
        service: str,
        instance: Instance | Tunnel | None,
        tags: Sequence[str] = ("public",),
        *,
        id: str = "",
        passing: bool = True,
    ) -> None:
        """Puts a service into the catalog, as another node's agent would. instance None: nothing listens there."""
        address, port = (instance.address, instance.port) if instance else (CONTAINER, 9)
        key = id or f"apollo:{service}:{port}"
        status = "passing" if passing else "critical"
        check = {"Node": "slave-1", "CheckID": f"check:{key}", "Name": "check", "Status": status, "ServiceID": key}
        self.consul(
            "catalog/register",
            "PUT",
            {
                "Node": "slave-1", "Address": "127.0.0.1", "Check": check,
                "Service": {"ID": key, "Service": service, "Tags": list(tags), "Address": address, "Port": port},
            },
        )  # fmt: skip

    def deregister(self, key: str) -> None:
        self.consul("catalog/deregister", "PUT", {"Node": "slave-1", "ServiceID": key})
