"""A network load balancer between the internet and two targets, in real namespaces and with real rules; nothing boots."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Generator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from localcloud.machines import namespaces
from localcloud.machines.balancer import LOCAL, Balancers
from localcloud.machines.namespaces import Namespace
from localcloud.machines.network import INTERNET_ADDRESS, Internet, VpcNetwork
from localcloud.machines.processes import Children
from localcloud.machines.wanted import Balancer, Nic, Route, Subnet, Target, TargetGroup, Vpc, Wanted
from tests.host.support import until
from tests.labs import needs_machines
from tests.localcloud.machines.test_pure import EGRESS_ALL, VPC, WORLD, ingress, instance, nic

PREFIX = "aptestlb"
PUBLIC = IPv4Network("10.0.224.0/24")
FRONT, BEHIND = 80, 8081


def public_nic(number: int, group: str, public: str) -> Nic:
    return replace(nic(number, group, "subnet-public", public), address=PUBLIC[number], subnet=PUBLIC)


NODE = public_nic(254, "balancer", "192.0.2.9")
EDGES = [public_nic(number, "edge", f"203.0.113.{number}") for number in (11, 12)]


class Edge:
    """A target: takes PROXY v2, answers health checks as told, and others with its own number and the client it was told."""

    def __init__(self, namespace: Namespace, number: int) -> None:
        self.healthy = True
        self.checks = 0
        self._number = number
        self.listener = namespace.listen("0.0.0.0", BEHIND)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(20)
            data = b""
            while b"HTTP/1.1\r\n" not in data:
                data += connection.recv(4096)
            if data.startswith(LOCAL):
                self.checks += 1
                status, body = ("200 OK" if self.healthy else "503 No"), b""
            else:
                status, body = "200 OK", f"{self._number} {IPv4Address(data[16:20])}".encode()
            connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


class World:
    def __init__(self, folder: Path) -> None:
        self._children = Children(folder / "pids")
        self.internet = Internet(PREFIX)
        self.network = VpcNetwork(Vpc("vpc-1", VPC), PREFIX, self.internet, self._children, folder / "vpc", "eu-west-1")
        self.hosts: list[Namespace] = []
        self.edges: list[Edge] = []
        self._balancers = Balancers(PREFIX)
        subnet = Subnet("subnet-public", "vpc-1", PUBLIC, "eu-west-1a", (Route(WORLD, "igw-1"),))
        self.network.apply(Wanted("eu-west-1", vpcs={"vpc-1": self.network.vpc}, subnets={subnet.id: subnet}), ())
        for edge in EDGES:
            self.hosts.append(Namespace(f"{PREFIX}-edge{edge.address.packed[3]}"))
            self.network.attach(edge, self.hosts[-1].name, "eth0")
            lines = [f"address add {edge.address}/24 dev eth0", "link set eth0 up", f"route add default via {PUBLIC[1]}"]
            self.hosts[-1].ip(lines)
            self.edges.append(Edge(self.hosts[-1], edge.address.packed[3]))
        group = TargetGroup(
            "g", tuple(Target(edge.address, BEHIND) for edge in EDGES), True, BEHIND, "/health", 0.1, 1, 2, 2
        )  # fmt: skip
        self.wanted = Wanted(
            region="eu-west-1",
            vpcs={"vpc-1": Vpc("vpc-1", VPC)},
            subnets={subnet.id: subnet},
            instances={edge.instance_id: instance(edge) for edge in EDGES},
            rules={
                "balancer": (ingress("tcp", (FRONT, FRONT), cidrs=[str(WORLD)]), EGRESS_ALL),
                "edge": (ingress("tcp", (BEHIND, BEHIND), groups=["balancer"]), EGRESS_ALL),
            },
            group_members={"balancer": (NODE.address,), "edge": tuple(edge.address for edge in EDGES)},
            balancers={"b": Balancer("b", (NODE,), ((FRONT, group),))},
        )

    def apply(self, wanted: Wanted) -> None:
        self.network.apply(wanted, ())
        self._balancers.apply(wanted, {"vpc-1": self.network})

    def ask(self, address: str = str(NODE.public_address), port: int = FRONT) -> str:
        argv = ["curl", "-s", "--noproxy", "*", "-m", "2", f"http://{address}:{port}/"]
        return subprocess.run(self.internet.namespace.command(argv), capture_output=True, text=True, check=False).stdout

    def begin(self) -> socket.socket:
        """A connection with half a request."""

        def connect() -> socket.socket:
            return socket.create_connection((str(NODE.public_address), FRONT), 5)

        connection = self.internet.namespace.call(connect)
        connection.sendall(b"GET / ")
        return connection

    def close(self) -> None:
        self.apply(replace(self.wanted, balancers={}))
        for edge in self.edges:
            edge.listener.shutdown(socket.SHUT_RDWR)
            edge.listener.close()
        self.network.delete()
        for host in self.hosts:
            host.delete()
        self.internet.delete()
        self._children.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    needs_machines(tmp_path_factory.getbasetemp(), "the load balancer's traffic")
    world = World(tmp_path_factory.mktemp("world"))
    try:
        world.apply(world.wanted)
        yield world
    finally:
        world.close()
    assert not namespaces.existing(PREFIX)


def test_the_internet_reaches_both_targets_through_the_balancer_and_they_know_the_client(world: World) -> None:
    until(lambda: all(edge.checks for edge in world.edges), "both are checked")
    assert {world.ask() for _ in range(4)} == {f"11 {INTERNET_ADDRESS}", f"12 {INTERNET_ADDRESS}"}


def test_nothing_but_the_balancer_reaches_a_target(world: World) -> None:
    for edge in EDGES:
        assert world.ask(str(edge.public_address), BEHIND) == ""
    assert world.ask(port=BEHIND) == ""


def test_an_unhealthy_target_gets_nothing_and_if_all_are_so_all_do(world: World) -> None:
    first, second = world.edges
    first.healthy = False
    until(lambda: {world.ask()[:2] for _ in range(4)} == {"12"}, "edge 12 alone serves")
    second.healthy = False
    until(lambda: {world.ask()[:2] for _ in range(4)} == {"11", "12"}, "both serve again")
    first.healthy = second.healthy = True


def test_an_unhealthy_target_loses_what_it_has_under_way_unless_the_group_keeps_it(world: World) -> None:
    balancer, first = world.wanted.balancers["b"], world.edges[0]
    ((port, group),) = balancer.listeners
    # With 12 alone for a moment, it is known to be healthy; so from here on 11 gets something only while it is, too.
    first.healthy = False
    until(lambda: {world.ask()[:2] for _ in range(4)} == {"12"}, "edge 12 alone serves")
    first.healthy = True
    for resets, answered in ((True, {"12"}), (False, {"11", "12"})):
        listeners = ((port, replace(group, resets=resets)),)
        world.apply(replace(world.wanted, balancers={"b": replace(balancer, listeners=listeners)}))
        until(lambda: {world.ask()[:2] for _ in range(4)} == {"11", "12"}, "both serve")
        begun = [world.begin() for _ in EDGES]
        first.healthy = False
        until(lambda: {world.ask()[:2] for _ in range(4)} == {"12"}, "edge 12 alone gets what is new")
        assert {number for connection in begun if (number := finish(connection))} == answered
        first.healthy = True
    world.apply(world.wanted)


def finish(connection: socket.socket) -> str:
    """The number of the edge that answers the request which was begun; nothing where the connection was reset."""
    with connection:
        try:
            connection.sendall(b"HTTP/1.1\r\n\r\n")
            return connection.recv(4096).partition(b"\r\n\r\n")[2][:2].decode()
        except ConnectionError:
            return ""


def test_a_balancer_that_lost_a_listener_or_is_gone_takes_no_connection(world: World) -> None:
    balancer = world.wanted.balancers["b"]
    world.apply(replace(world.wanted, balancers={"b": replace(balancer, listeners=())}))
    assert world.ask() == ""
    world.apply(world.wanted)
    until(lambda: world.ask() != "", "the listener is back")
    world.apply(replace(world.wanted, balancers={}))
    assert world.ask() == ""
    assert not [name for name in namespaces.existing(PREFIX) if NODE.link in name]
    world.apply(world.wanted)
    until(lambda: world.ask() != "", "the balancer is back")
