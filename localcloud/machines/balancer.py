"""Network load balancers: each of their nodes is a namespace with an interface of its own in a subnet, as an instance has.

So security groups, routes and public addresses hold for it by the same rules. It passes connections on to a healthy target,
in turn, and says in the PROXY protocol (version 2) for whom, where the target group asks for that.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import IPv4Address

from localcloud.machines.namespaces import Namespace
from localcloud.machines.network import VpcNetwork
from localcloud.machines.relay import Relay
from localcloud.machines.wanted import Balancer, Nic, Target, TargetGroup, Wanted

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
# Version 2 with the command LOCAL: a connection of the balancer's own, such as a health check.
LOCAL = _SIGNATURE + b"\x20\x00\x00\x00"
# Seconds between looks at whether a check is due.
TICK = 0.2

Address = tuple[str, int]


def proxy_header(client: Address, server: Address) -> bytes:
    """Version 2, command PROXY, TCP over IPv4."""
    addresses = IPv4Address(client[0]).packed + IPv4Address(server[0]).packed + struct.pack("!HH", client[1], server[1])
    return _SIGNATURE + b"\x21\x11" + struct.pack("!H", len(addresses)) + addresses


class Health:
    """What one node knows of the targets. The first check decides at once, later ones by the group's thresholds.

    lost: called with each target that was healthy and is not any more.
    """

    def __init__(self, connect: Callable[[], socket.socket], lost: Callable[[TargetGroup, Target], None]) -> None:
        self._connect = connect
        self._lost = lost
        self._healthy: dict[tuple[str, Target], bool] = {}
        self._run: dict[tuple[str, Target], int] = {}
        self._due: dict[str, float] = {}

    def usable(self, group: TargetGroup) -> list[Target]:
        """The healthy targets; all of them where none is, as a balancer fails open."""
        return [target for target in group.targets if self._healthy.get((group.arn, target))] or list(group.targets)

    def look(self, groups: list[TargetGroup]) -> None:
        """Carries out the checks that are due."""
        known = {(group.arn, target) for group in groups for target in group.targets}
        for key in self._healthy.keys() - known:
            del self._healthy[key], self._run[key]
        for group in groups:
            if time.monotonic() < self._due.get(group.arn, 0) and all((group.arn, t) in self._healthy for t in group.targets):
                continue
            self._due[group.arn] = time.monotonic() + group.interval
            for target in group.targets:
                self._note((group.arn, target), self._passes(group, target), group)

    def _note(self, key: tuple[str, Target], passed: bool, group: TargetGroup) -> None:
        if self._healthy.setdefault(key, passed) == passed:
            self._run[key] = 0
            return
        self._run[key] += 1
        if self._run[key] >= (group.healthy_threshold if passed else group.unhealthy_threshold):
            self._healthy[key], self._run[key] = passed, 0
            if not passed:
                self._lost(group, key[1])

    def _passes(self, group: TargetGroup, target: Target) -> bool:
        port = target.port if group.check_port is None else group.check_port
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.settimeout(group.timeout)
                connection.connect((str(target.address), port))
                if group.proxy_protocol:
                    connection.sendall(LOCAL)
                if group.check_path is None:
                    return True
                request = f"GET {group.check_path} HTTP/1.1\r\nHost: {target.address}\r\nConnection: close\r\n\r\n"
                connection.sendall(request.encode())
                response = http.client.HTTPResponse(connection)
                response.begin()
                return 200 <= response.status < 400
        except (OSError, http.client.HTTPException):
            return False


class Node:
    """One balancer's node in one subnet. namespace: for its interface, already addressed."""

    def __init__(self, nic: Nic, namespace: Namespace) -> None:
        self.nic = nic
        self.namespace = namespace
        self._groups: dict[int, TargetGroup] = {}
        self._turn = itertools.count()
        self._relays: dict[int, Relay] = {}
        # Held while relays come, go or are asked to reset.
        self._changing = threading.Lock()
        self._ended = threading.Event()
        connect = partial(namespace.call, partial(socket.socket, socket.AF_INET, socket.SOCK_STREAM))
        self._health = Health(connect, self._reset)
        self._thread = threading.Thread(target=self._watch, name=f"health-{nic.id}", daemon=True)
        self._thread.start()

    def apply(self, balancer: Balancer) -> None:
        """Listens on the balancer's ports, and on no others. Connections of a port that stays go on."""
        self._groups = dict(balancer.listeners)
        with self._changing:
            for port in self._relays.keys() - self._groups.keys():
                self._relays.pop(port).close()
            for port in self._groups.keys() - self._relays.keys():
                self._relays[port] = relay = Relay()
                relay.add(self.namespace.listen(str(self.nic.address), port), self._dial(port), self._preamble(port))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        for relay in self._relays.values():
            relay.close()
        self.namespace.delete()

    def _reset(self, group: TargetGroup, target: Target) -> None:
        with self._changing:
            for port, relay in self._relays.items():
                if group.resets and self._groups[port] == group:
                    relay.reset((str(target.address), target.port))

    def _watch(self) -> None:
        while not self._ended.wait(TICK):
            self._health.look(list(self._groups.values()))

    def _dial(self, port: int) -> Callable[[], list[tuple[socket.socket, str, int]]]:
        def dial() -> list[tuple[socket.socket, str, int]]:
            targets = self._health.usable(self._groups[port])
            if not targets:
                return []
            target = targets[next(self._turn) % len(targets)]
            end = self.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            return [(end, str(target.address), target.port)]

        return dial

    def _preamble(self, port: int) -> Callable[[Address, Address], bytes]:
        return lambda client, server: proxy_header(client, server) if self._groups[port].proxy_protocol else b""


class Balancers:
    """Every node of every load balancer of one cloud. prefix: what the names of their namespaces begin with."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._nodes: dict[str, Node] = {}

    def apply(self, wanted: Wanted, networks: Mapping[str, VpcNetwork]) -> None:
        """Makes nodes what the API says, in the VPCs that there is a network for. After the networks' own apply()."""
        nics = {nic.id: (nic, balancer) for balancer in wanted.balancers.values() for nic in balancer.nics}
        for key in [key for key in self._nodes if key not in nics]:
            node = self._nodes.pop(key)
            if network := networks.get(node.nic.vpc_id):
                network.detach(node.nic)
            node.close()
        for key, (nic, balancer) in nics.items():
            network = networks.get(nic.vpc_id)
            if network is None:
                continue
            if key not in self._nodes:
                self._nodes[key] = Node(nic, self._plugged(nic, network))
            self._nodes[key].apply(balancer)

    def _plugged(self, nic: Nic, network: VpcNetwork) -> Namespace:
        namespace = Namespace(f"{self._prefix}-{nic.link}")
        network.attach(nic, namespace.name, "eth0")
        namespace.ip(
            [
                f"address add {nic.address}/{nic.subnet.prefixlen} dev eth0",
                "link set eth0 up",
                f"route add default via {nic.subnet[1]}",
            ]
        )
        return namespace
