"""`open`: offers a page of the inside on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading

from localcloud.apollo.fleet import fleet, network_of
from localcloud.cli.arguments import port
from localcloud.errors import LocalCloudError
from localcloud.show import say
from localcloud.stack.running import booted_cloud
from plan.ports import CONSUL_HTTP, EDGE_STATS, HTTPS

# Name → the role of the hosts that have it, and its port and page. Only the inside reaches consul and edge; edge-tls the
# internet reaches too, and `up` brings the edge's port 80 alone.
INSIDE = {
    "consul": ("control", CONSUL_HTTP, "/ui/"),
    "edge": ("edge", EDGE_STATS, "/"),
    "edge-tls": ("edge", HTTPS, "/"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=sorted(INSIDE))
    parser.add_argument("--port", type=port, help="of 127.0.0.1 (default: the port it has inside; 0: any)")


def run(args: argparse.Namespace) -> int:
    """A connection goes to the first host of the role that takes it."""
    from localcloud.machines.errors import MachineError
    from localcloud.machines.namespaces import socket_inside
    from localcloud.machines.relay import Relay, listen_on_loopback

    cloud = booted_cloud(args.stack)
    role, far_port, page = INSIDE[args.what]
    hosts = [row.name for row in fleet(cloud.folder, cloud.hosts()).of(role)]

    def dial() -> list[tuple[socket.socket, str, int]]:
        found: list[tuple[socket.socket, str, int]] = []
        rows = cloud.hosts()
        for host in hosts:
            with contextlib.suppress(OSError, LocalCloudError):
                found.append((socket_inside(network_of(cloud.folder, rows, host)), "127.0.0.1", far_port))
        return found

    try:
        listener = listen_on_loopback(far_port if args.port is None else args.port, args.what, "--port")
    except MachineError as error:
        raise LocalCloudError(str(error)) from None
    relay = Relay()
    try:
        relay.add(listener, dial)
        print(f"{'https' if far_port == HTTPS else 'http'}://127.0.0.1:{listener.getsockname()[1]}{page}", flush=True)
        if args.what == "consul":
            say(f"it asks for a token: ./apollo exec {hosts[0]} -- cat /etc/apollo/secrets/consul/management-token")
        say("Ctrl-C ends it")
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        relay.close()
    return 0
