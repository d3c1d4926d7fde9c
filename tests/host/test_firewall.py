"""The packet rules of a host, loaded by the real nft into network namespaces that play a slave and what is around it.

Each attack is a packet that arrives as soon as the rule against it is taken away.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from host.apollo import firewall, local, metrics
from host.apollo.mesh import routed, vxlan
from host.render import node_facts
from localcloud.machines.namespaces import Namespace
from plan.ports import METRICS
from tests.host.support import PATIENCE, STACK, environment, namespaces, needs, until
from tests.plan.support import cluster

pytestmark = pytest.mark.machines
PREFIX = "apollo-fw"
PLAN = cluster(overlay={"mesh": "vxlan"}, slaves={"count": 3}, control={"count": 3})
FACTS = node_facts(PLAN, PLAN.slaves[0], STACK)
WEB, COMPOSE, CONTROL, DATABASE, RESOLVER = "10.2.1.5", "172.18.0.2", "10.0.0.11", "10.0.0.200", "10.0.0.2"
INTERNET, METADATA = "198.51.100.7", "169.254.169.254"
# Ports of every program of a host, and some of none.
PORTS = (
    22, 53, 80, 443, 2181, 2375, 2888, 3888, 4789, 5050, 5051, 5052, 5432, 6783, 6784, 7946, 8080, 8081, 8300, 8301, 8302, 8404,
    8444, 8500, 8510, 8520, 8600, 9100, 31000, 32768, 51820,
)  # fmt: skip
# ADDRESS SECONDS PORT …: which let the packet through. Where nobody listens the port refuses then, else it is silent.
SCAN = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def open_(port):
    try:
        socket.create_connection((sys.argv[1], port), float(sys.argv[2])).close()
    except ConnectionRefusedError:
        pass
    except OSError:
        return False
    return True
ports = [int(port) for port in sys.argv[3:]]
print(json.dumps([port for port, found in zip(ports, ThreadPoolExecutor(64).map(open_, ports)) if found]))
"""


# The program as systemd runs it, with its files somewhere else.
KEEPER = """
import sys
from pathlib import Path
from host.apollo import local, firewall
from host.apollo.mesh import routed
folder = Path(sys.argv[1])
local.NODE_ENV, firewall.LOADED, routed.TABLE = folder / "node.env", folder / "loaded", folder / "mesh.json"
firewall.SETTINGS, firewall.INTERVAL = folder, float(sys.argv[2])
firewall.keep()
"""


class Place:
    """A slave's namespaces: the host, the VPC around it with every address that matters, a container on `weave`, and one of a
    network that Compose made."""

    def __init__(self, host: Namespace, vpc: Namespace, web: Namespace, compose: Namespace) -> None:
        self.host, self.vpc, self.web, self.compose = host, vpc, web, compose
        private = FACTS["PRIVATE_IP"]
        self.host.sysctl({"net.ipv4.ip_forward": 1})
        self.vpc.sysctl({"net.ipv4.ip_nonlocal_bind": 1})
        self.host.ip(
            [
                f"link add eth0 type veth peer name eth0 netns {self.vpc.name}",
                f"address add {private}/16 dev eth0",
                "link set eth0 up",
                "link add weave type bridge",
                f"address add {FACTS['BRIDGE_ADDRESS']}/16 dev weave",
                "link set weave up",
                "link add br-compose type bridge",
                "address add 172.18.0.1/16 dev br-compose",
                "link set br-compose up",
                f"link add vethweb type veth peer name eth0 netns {self.web.name}",
                "link set vethweb master weave up",
                f"link add vethcompose type veth peer name eth0 netns {self.compose.name}",
                "link set vethcompose master br-compose up",
            ]
        )
        everyone = (CONTROL, DATABASE, RESOLVER, PEER, "10.0.0.35", "10.0.0.1", INTERNET, METADATA)
        self.vpc.ip([*(f"address add {address}/16 dev eth0" for address in everyone), "link set eth0 up"])
        self.host.ip(["route add default via 10.0.0.1"])
        gateway = FACTS["BRIDGE_ADDRESS"]
        self.web.ip([f"address add {WEB}/16 dev eth0", "link set eth0 up", f"route add default via {gateway}"])
        self.compose.ip([f"address add {COMPOSE}/16 dev eth0", "link set eth0 up", "route add default via 172.18.0.1"])

    def load(self, text: str) -> None:
        self.host.run(["nft", "-f", "-"], stdin=text)


PEER = str(PLAN.slaves[1].private_ip)
OTHER = str(PLAN.slaves[2].private_ip)


def peers() -> dict[str, routed.Peer]:
    hosts = [PLAN.slaves[1], PLAN.slaves[2], PLAN.control[0]]
    return {h.name: routed.Peer(h.name, str(h.private_ip), str(h.bridge_address.ip), str(h.docker_subnet or "")) for h in hosts}


@pytest.fixture(scope="module", autouse=True)
def nft() -> None:
    needs("nft", "nftables")


@contextmanager
def at(module: Any, name: str, place: Path) -> Generator[None]:
    """Has a module find a file of its own at another place, for a while."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, name, place)
        yield


@pytest.fixture(scope="module")
def senders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    with at(routed, "TABLE", tmp_path_factory.mktemp("mesh") / "mesh.json"):
        routed.save(FACTS, peers())
        return firewall.senders(FACTS)


@pytest.fixture(scope="module")
def slave(senders: dict[str, list[str]]) -> Generator[Place]:
    """slave-1 with the vxlan mesh as its driver makes it, and the rules of the program."""
    with namespaces(PREFIX, "host", "vpc", "web", "compose") as spaces:
        place = Place(**spaces)
        place.host.call(lambda: vxlan.LINK.make(FACTS))
        place.host.call(lambda: routed.apply(vxlan.LINK, peers(), FACTS["BRIDGE_ADDRESS"]))
        assert place.host.call(lambda: firewall.uplink(FACTS)) == "eth0"
        place.load(firewall.packets(FACTS, "eth0", senders))
        yield place


def scan(source: Namespace, address: str, ports: Iterable[int] = PORTS) -> list[int]:
    return json.loads(source.run([sys.executable, "-c", SCAN, address, "1", *map(str, ports)]))


def arrived(
    receiver: Namespace, at: str, port: int, send: Callable[[], None], then: Callable[[], None]
) -> list[tuple[str, bytes]]:
    """(sender, text) of the UDP packets that come to a socket, up to one that says `last`, which `then` sends."""

    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((at, port))
        listener.settimeout(10)
        return listener

    with receiver.call(listen) as listener:
        send()
        then()
        found: list[tuple[str, bytes]] = []
        while True:
            text, (sender, _) = listener.recvfrom(100)
            if text == b"last":
                return found
            found.append((sender, text))


def say(source: Namespace, text: bytes, address: str, port: int, own: str = "") -> None:
    """Sends a UDP packet, from an address of its own where one is given."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((own, 0))
            sender.sendto(text, (address, port))

    source.call(send)


def answers_ping(source: Namespace, address: str) -> bool:
    """Whether an ICMP echo is answered, within a second."""

    def ask() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.settimeout(1)
            # Type 8, identifier 4242, sequence 1; the checksum is that of these words.
            raw.sendto(struct.pack("!BBHHH", 8, 0, ~(0x0800 + 4242 + 1) & 0xFFFF, 4242, 1), (address, 0))
            try:
                while True:
                    answer, _ = raw.recvfrom(100)
                    if answer[20] == 0 and struct.unpack("!H", answer[24:26]) == (4242,):
                        return True
            except TimeoutError:
                return False

    return source.call(ask)


@pytest.mark.parametrize("container", ["web", "compose"])
def test_a_container_reaches_names_on_its_host_and_nothing_else(slave: Place, container: str) -> None:
    inside = getattr(slave, container)
    for address in (FACTS["BRIDGE_ADDRESS"], FACTS["PRIVATE_IP"], "172.18.0.1"):
        assert scan(inside, address) == [53], address
        assert answers_ping(inside, address)


@pytest.mark.parametrize("container", ["web", "compose"])
def test_a_container_reaches_no_control_node_no_credentials_and_no_port_between_hosts(slave: Place, container: str) -> None:
    inside = getattr(slave, container)
    assert scan(inside, CONTROL) == []
    assert scan(inside, METADATA, [80]) == []
    assert scan(inside, DATABASE) == [port for port in PORTS if port not in firewall.HOST_TCP]
    assert scan(inside, INTERNET) == list(PORTS)


def test_what_each_guard_dropped_is_among_the_metrics(slave: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "output", lambda *argv: slave.host.run(list(argv)))

    def dropped() -> dict[str, float]:
        return {sample.labels["guard"]: sample.value for sample in metrics.guards(FACTS)}

    before = dropped()
    assert before.keys() == {"metadata", "control", "host-tcp", "host-udp", "host-esp"}
    assert scan(slave.web, METADATA, [80]) == scan(slave.web, DATABASE, [METRICS]) == []
    after = dropped()
    assert {guard for guard in after if after[guard] > before[guard]} == {"metadata", "host-tcp"}


@pytest.mark.parametrize("container", ["web", "compose"])
@pytest.mark.parametrize("address", [CONTROL, PEER, DATABASE])
def test_no_packet_of_a_container_reaches_a_mesh(slave: Place, container: str, address: str) -> None:
    inside = getattr(slave, container)
    for port in (4789, 6783, 6784, 51820, 8301):
        local = lambda port=port: say(slave.vpc, b"last", address, port)  # noqa: E731
        assert arrived(slave.vpc, address, port, lambda port=port: say(inside, b"attack", address, port), local) == []
    esp = socket.IPPROTO_ESP
    received = slave.vpc.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, esp))
    with received:
        received.settimeout(10)
        for namespace, text in ((inside, b"attack"), (slave.vpc, b"last")):
            with namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, esp)) as raw:
                raw.sendto(text, (address, 0))
        assert received.recv(100)[20:] == b"last"


@pytest.mark.parametrize(
    ("address", "port"), [(DATABASE, 5432), (RESOLVER, 53)], ids=["to a database", "to another server for names"]
)
def test_what_leaves_has_the_address_of_the_slave(slave: Place, address: str, port: int) -> None:
    for inside in (slave.web, slave.compose):
        seen = arrived(
            slave.vpc, address, port,
            lambda inside=inside: say(inside, b"hello", address, port), lambda: say(slave.vpc, b"last", address, port),
        )  # fmt: skip
        assert seen == [(FACTS["PRIVATE_IP"], b"hello")]


def test_a_network_of_compose_does_not_reach_the_overlay_nor_is_it_reached(slave: Place) -> None:
    assert scan(slave.compose, WEB) == []
    assert scan(slave.web, COMPOSE) == []
    assert scan(slave.vpc, COMPOSE) == []
    assert set(scan(slave.host, WEB)) == set(scan(slave.host, COMPOSE)) == set(PORTS)


def wrapped(source: str, target: str, port: int, text: bytes, kind: int = 0x0800) -> bytes:
    """A VXLAN packet's payload: a UDP packet inside a frame to slave-1's device."""

    def sum_of(data: bytes) -> int:
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return ~total & 0xFFFF

    udp = struct.pack("!4H", 4000, port, 8 + len(text), 0) + text
    ends = IPv4Address(source).packed + IPv4Address(target).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0) + ends
    header = header[:10] + struct.pack("!H", sum_of(header)) + header[12:]
    macs = bytes.fromhex(vxlan.mac(FACTS["BRIDGE_ADDRESS"]).replace(":", "") + "020000000001")
    return struct.pack("!II", 0x08000000, 42 << 8) + macs + struct.pack("!H", kind) + header + udp


def send_wrapped(place: Place, outer: str, inner: bytes) -> None:
    say(place.vpc, inner, FACTS["PRIVATE_IP"], 4789, outer)


def carried(place: Place, outer: str, source: str) -> list[tuple[str, bytes]]:
    """What the container hears of a packet from this source that a mesh's sender wraps: nothing, or (source, hello)."""
    return arrived(
        place.web, WEB, 9999,
        lambda: send_wrapped(place, outer, wrapped(source, WEB, 9999, b"hello")),
        lambda: send_wrapped(place, PEER, wrapped("10.2.2.7", WEB, 9999, b"last")),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outer", "source"),
    [
        # A container's answer to this host would come back over the mesh: the attack of a slave's container, as it arrives.
        (OTHER, "10.2.2.7"),
        *((PEER, source) for source in ("10.2.3.7", "10.2.0.250", "10.2.1.9", "10.2.9.9", "10.0.0.11", "203.0.113.5")),
        *((CONTROL, "10.2.2.7"), (DATABASE, "10.2.2.7"), (DATABASE, "10.2.77.7")),
    ],
)
def test_the_mesh_carries_what_its_senders_own_and_nothing_else(slave: Place, outer: str, source: str) -> None:
    assert carried(slave, outer, source) == []


@pytest.mark.parametrize(
    ("outer", "source"), [(PEER, "10.2.2.0"), (PEER, "10.2.2.255"), (PEER, "10.2.0.2"), (CONTROL, "10.2.0.250")]
)
def test_the_mesh_carries_what_each_host_has(slave: Place, outer: str, source: str) -> None:
    assert carried(slave, outer, source) == [(source, b"hello")]


@pytest.mark.parametrize("target", [FACTS["PRIVATE_IP"], FACTS["BRIDGE_ADDRESS"], "172.18.0.1", "127.0.0.1"])
def test_the_mesh_does_not_lead_to_the_host(slave: Place, target: str) -> None:
    """The attack by which control nodes answered a container on every port: the inner packet's target is the host itself."""
    seen = arrived(
        slave.host, "0.0.0.0", 9999,
        lambda: send_wrapped(slave, PEER, wrapped("10.2.2.7", target, 9999, b"attack")),
        lambda: say(slave.vpc, b"last", FACTS["PRIVATE_IP"], 9999),
    )  # fmt: skip
    assert seen == []


def test_nothing_of_the_vpc_passes_for_the_overlay(slave: Place) -> None:
    slave.vpc.ip(["address add 10.2.2.9/32 dev lo"])

    attack = lambda: say(slave.vpc, b"attack", FACTS["PRIVATE_IP"], 9999, "10.2.2.9")  # noqa: E731
    last = lambda: say(slave.vpc, b"last", FACTS["PRIVATE_IP"], 9999)  # noqa: E731
    try:
        assert arrived(slave.host, "0.0.0.0", 9999, attack, last) == []
    finally:
        slave.vpc.ip(["address del 10.2.2.9/32 dev lo"])


# -- What enters a bridge

MAC = {"web": "02:42:0a:02:01:05", "victim": "02:42:0a:02:01:06", "bridge": "02:77:0a:02:00:01", "other": "02:42:0a:02:01:09"}
VICTIM, FREE = "10.2.1.6", "10.2.1.9"
# In every frame of these tests, so that the kernel's own do not count.
MARK = b"attack"


def packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def arp(sender: str, mac: str, frame_mac: str = "", operation: int = 2) -> bytes:
    """A broadcast ARP packet that says where the sender is."""
    ends = packed(mac) + IPv4Address(sender).packed + bytes(6) + IPv4Address(sender).packed
    return (
        bytes([255] * 6) + packed(frame_mac or mac) + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation) + ends + MARK
    )


def ip(source: str, mac: str, target: str = VICTIM) -> bytes:
    """A UDP packet in a broadcast frame."""
    packet = wrapped(source, target, 9999, MARK)[22:]
    return bytes([255] * 6) + packed(mac) + b"\x08\x00" + packet


def ip6(mac: str) -> bytes:
    """An IPv6 packet with nothing in it but the mark, from a local address to all nodes."""
    ends = bytes.fromhex("fe80" + "00" * 13 + "05" + "ff02" + "00" * 13 + "01")
    return bytes([255] * 6) + packed(mac) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(MARK), 59, 64) + ends + MARK


def in_vlan(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\x00\x00\x05" + frame[12:]


@pytest.fixture(scope="module")
def bridge() -> Generator[dict[str, Namespace]]:
    """A bridge with two containers, their ends named as Docker does, and the port of Weave's router."""
    ends = {"attacker": ("vethaaaaaaa", MAC["web"]), "victim": ("vethbbbbbbb", MAC["victim"]), "router": ("vethwe-bridge", "")}
    with namespaces(PREFIX, "bridge", "attacker", "victim", "router") as spaces:
        lines = [
            f"link add weave address {MAC['bridge']} type bridge",
            "address add 10.2.0.1/16 dev weave",
            "link set weave up",
        ]
        for name, (port, mac) in ends.items():
            inner = f"address {mac} " if mac else ""
            lines.append(f"link add {port} type veth peer name eth0 {inner}netns {spaces[name].name}")
            lines.append(f"link set {port} master weave up")
        spaces["bridge"].ip(lines)
        for name, address in (("attacker", WEB), ("victim", VICTIM)):
            spaces[name].ip([f"address add {address}/16 dev eth0", "link set eth0 up"])
        spaces["router"].ip(["link set eth0 up"])
        yield spaces


def passes(spaces: dict[str, Namespace], source: str, *packets: bytes) -> list[bool]:
    """Which of the frames come from the source to the victim. Each is seen before the next is sent, or lost."""

    def raw() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        opened.bind(("eth0", 0))
        opened.settimeout(10)
        return opened

    results: list[bool] = []
    last = b"\xff" * 6 + packed("02:00:00:00:00:01") + b"\x88\xb5" + b"last".ljust(46)
    with (
        spaces["victim"].call(raw) as listener,
        spaces[source].call(raw) as sender,
        spaces["bridge"].call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as host,
    ):
        host.bind(("vethbbbbbbb", 0))
        for frame in packets:
            # The bridge knows again where the victim is, whatever the last attack has taught it.
            listener.send(arp(VICTIM, MAC["victim"]).removesuffix(MARK))
            sender.send(frame)
            host.send(last)
            seen = False
            while (got := listener.recv(2000)) != last:
                seen = seen or MARK in got
            results.append(seen)
    return results


ATTACKS = {
    "the bridge's address, by ARP": arp("10.2.0.1", MAC["web"]),
    "an edge's address, by ARP": arp("10.2.0.240", MAC["web"]),
    "a foreign container's address, by ARP": arp("10.2.2.7", MAC["web"]),
    "the neighbour's address, by ARP": arp(VICTIM, MAC["web"]),
    "the neighbour's address, in a question": arp(VICTIM, MAC["web"], operation=1),
    "the neighbour's MAC, by ARP": arp(VICTIM, MAC["victim"]),
    "the neighbour's MAC in the frame": arp(WEB, MAC["web"], MAC["victim"]),
    "the gateway as source": ip("10.2.0.1", MAC["web"]),
    "a foreign container as source": ip("10.2.2.7", MAC["web"]),
    "the neighbour as source": ip(VICTIM, MAC["web"]),
    "the neighbour's MAC as source": ip(WEB, MAC["victim"]),
    "IPv6": ip6(MAC["web"]),
    "a VLAN": in_vlan(ip(VICTIM, MAC["web"])),
    "a free address": ip(FREE, MAC["web"]),
    "a free address, by ARP": arp(FREE, MAC["other"]),
    "the own address at another MAC": arp(WEB, MAC["other"], MAC["web"]),
}
HONEST = [arp(WEB, MAC["web"]), arp(WEB, MAC["web"], operation=1), ip(WEB, MAC["web"])]
PLACES = {"vethaaaaaaa": ("vethaaaaaaa", MAC["web"], WEB), "vethbbbbbbb": ("vethbbbbbbb", MAC["victim"], VICTIM)}


def test_each_port_of_a_bridge_sends_with_what_docker_gave_it_and_nothing_else(bridge: dict[str, Namespace]) -> None:
    bridge["bridge"].run(["nft", "-f", "-"], stdin=firewall.frames(FACTS, PLACES.values(), ["10.2.0.1"]))
    got = dict(zip(ATTACKS, passes(bridge, "attacker", *ATTACKS.values()), strict=True))
    assert [name for name, seen in got.items() if seen] == []
    assert passes(bridge, "attacker", *HONEST) == [True] * 3


def test_until_docker_has_told_a_port_sends_with_addresses_that_are_free_on_its_slave(bridge: dict[str, Namespace]) -> None:
    text = firewall.frames(FACTS, [PLACES["vethbbbbbbb"]], ["10.2.0.1"])
    bridge["bridge"].run(["nft", "-f", "-"], stdin=text)
    got = dict(zip(ATTACKS, passes(bridge, "attacker", *ATTACKS.values()), strict=True))
    free = {"a free address", "a free address, by ARP", "the own address at another MAC"}
    assert {name for name, seen in got.items() if seen} == free
    assert passes(bridge, "attacker", *HONEST) == [True] * 3
    # One that takes the address of a container that is known, before it is known itself.
    assert passes(bridge, "attacker", arp(VICTIM, MAC["other"]), ip(VICTIM, MAC["other"])) == [False, False]


def test_by_weaves_router_come_other_hosts_containers_and_go_to_the_overlay(bridge: dict[str, Namespace]) -> None:
    plan = cluster(overlay={"mesh": "weave"})
    facts = node_facts(plan, plan.slaves[0], STACK)
    bridge["bridge"].run(["nft", "-f", "-"], stdin=firewall.frames(facts, PLACES.values(), ["10.2.0.1"]))
    away = "02:42:0a:02:02:07"
    honest = [arp("10.2.2.7", away), ip("10.2.2.7", away), ip("10.2.0.250", away)]
    assert passes(bridge, "router", *honest) == [True] * 3
    false = [
        *(arp(address, away) for address in ("10.2.0.1", "10.2.1.77", "10.0.0.11", "169.254.169.254")),
        *(ip(address, away) for address in ("10.2.0.1", "10.2.1.77", "10.0.0.11")),
        ip("10.2.2.7", away, "10.0.0.33"),
        ip6(away),
    ]
    assert passes(bridge, "router", *false) == [False] * len(false)


@pytest.mark.parametrize("name", ["vxlan", "wireguard", "weave"])
@pytest.mark.parametrize("role", ["slave", "control", "edge"])
def test_from_the_overlay_a_host_answers_pings_and_an_edge_the_web(name: str, role: str) -> None:
    plan = cluster(overlay={"mesh": name}, slaves={"count": 3}, control={"count": 3})
    (planned,) = [host for host in plan.hosts if host.name == f"{role}-1"]
    facts = node_facts(plan, planned, STACK)
    own, private = facts["BRIDGE_ADDRESS"], facts["PRIVATE_IP"]
    with namespaces(PREFIX, "node", "nodevpc", "overlay") as spaces:
        host, vpc, overlay = spaces.values()
        device = firewall.DEVICES.get(name, "vethwe-bridge")
        host.ip(
            [
                f"link add eth0 type veth peer name eth0 netns {vpc.name}",
                f"address add {private}/16 dev eth0",
                "link set eth0 up",
                "link add weave type bridge",
                f"address add {own}/16 dev weave",
                "link set weave up",
                # A mesh is played by a cable, whose other end is a container of slave-2.
                f"link add {device} type veth peer name eth0 netns {overlay.name}",
                f"link set {device} up" + ("" if name in firewall.DEVICES else " master weave"),
                *([f"route add 10.2.2.0/24 dev {device} src {own}"] if name in firewall.DEVICES else []),
            ]
        )
        vpc.ip([f"address add {CONTROL[:-1]}9/16 dev eth0", "link set eth0 up"])
        overlay.ip(["address add 10.2.2.7/16 dev eth0", "link set eth0 up", f"route add default via {own}"])
        host.run(["nft", "-f", "-"], stdin=firewall.packets(facts, "eth0", firewall.senders(facts | {"MESH": "none"})))
        assert scan(overlay, own) == ([80, 443] if role == "edge" else [])
        assert answers_ping(overlay, own)
        # By the mesh one reaches the overlay only.
        assert scan(overlay, private, [22, 80]) == [] and not answers_ping(overlay, private)
        assert scan(vpc, private) == list(PORTS)
        assert scan(host, "10.2.2.7") == list(PORTS)


class Kept:
    """The program at work on slave-1, and what it is told. interval: seconds between looks that no event asks for."""

    def __init__(self, place: Place, folder: Path, interval: float) -> None:
        (folder / "node.env").write_text("".join(f'{key}="{value}"\n' for key, value in FACTS.items()))
        self.place, self.folder = place, folder
        (folder / "60-apollo.conf").write_text("# a comment\nnet.ipv4.ip_forward = 1\nnet.ipv4.no_such_key = 1\n")
        self.save(peers())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(folder / "notify"))
            notified.settimeout(PATIENCE)
            argv = place.host.command([sys.executable, "-c", KEEPER, str(folder), str(interval)])
            # A group of its own, as its followers end with it.
            self.process = subprocess.Popen(argv, env=environment(NOTIFY_SOCKET=str(folder / "notify")), start_new_session=True)
            assert notified.recv(20) == b"READY=1"

    def save(self, table: dict[str, routed.Peer]) -> None:
        with at(routed, "TABLE", self.folder / "mesh.json"):
            routed.save(FACTS, table)

    def complaint(self) -> str:
        with at(firewall, "LOADED", self.folder / "loaded"):
            return self.place.host.call(firewall.complaint)

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def kept(slave: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Generator[Kept]:
    # What comes back within PATIENCE came back by an event.
    keeper = Kept(slave, tmp_path, getattr(request, "param", 10 * PATIENCE))
    try:
        yield keeper
    finally:
        keeper.end()


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "delete table inet apollo",
        "flush table inet apollo",
        "flush chain inet apollo arriving",
        "flush set inet apollo blocks",
        "insert rule inet apollo entering accept",
        "add chain inet apollo other",
        "delete table bridge apollo",
        "add element bridge apollo taken { 10.2.1.77 }",
    ],
)
def test_rules_that_somebody_changes_come_back_at_once_and_the_check_says_so_until_then(kept: Kept, damage: str) -> None:
    assert kept.complaint() == ""
    kept.signal(signal.SIGSTOP)
    kept.place.host.run(["nft", *damage.split()])
    wrong = kept.complaint()
    assert ("bridge apollo" if "bridge" in damage else "inet apollo") in wrong and "systemctl restart apollo-firewall" in wrong
    kept.signal(signal.SIGCONT)
    # By the kernel's word, and not by the look that is taken anyway.
    until(lambda: kept.complaint() == "", "the rules are back")
    assert scan(kept.place.web, FACTS["PRIVATE_IP"]) == [53]


def test_who_looks_between_a_load_and_its_record_complains_of_nothing(kept: Kept) -> None:
    kept.signal(signal.SIGSTOP)
    record = kept.folder / "loaded/inet.nft"
    text = record.read_text()
    record.write_text("the rules before")
    late = threading.Timer(0.5, lambda: local.write(record, text))
    late.start()
    assert kept.complaint() == ""
    late.join()


@pytest.mark.parametrize("kept", [1], indirect=True)
def test_a_setting_of_the_kernel_comes_back_and_one_that_this_kernel_lacks_is_left_alone(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall, "SETTINGS", kept.folder)
    assert [path.name for path in kept.place.host.call(firewall.limits)] == ["ip_forward"]
    kept.signal(signal.SIGSTOP)
    kept.place.host.sysctl({"net.ipv4.ip_forward": 0})
    assert kept.place.host.call(firewall.off_limits) == ["net/ipv4/ip_forward is 0, planned 1"]
    kept.signal(signal.SIGCONT)
    until(lambda: not kept.place.host.call(firewall.off_limits), "it is back")


def test_one_container_fills_its_share_of_connections_and_takes_none_from_another(
    slave: Place, senders: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall, "connections", lambda: 20 * firewall.SHARE)
    slave.load(firewall.packets(FACTS, "eth0", senders))

    def flood(inside: Namespace) -> None:
        for _ in range(40):
            say(inside, b"hello", DATABASE, 5555)

    for inside in (slave.web, slave.compose):
        seen = arrived(
            slave.vpc, DATABASE, 5555, lambda inside=inside: flood(inside), lambda: say(slave.vpc, b"last", DATABASE, 5555)
        )
        # The kernel counts the one that is being made, too.
        assert len(seen) in (20, 21)

    def ask() -> None:
        for _ in range(40):
            say(slave.web, b"name", FACTS["BRIDGE_ADDRESS"], 53)

    last = lambda: say(slave.host, b"last", FACTS["BRIDGE_ADDRESS"], 53)  # noqa: E731
    # Names do not count.
    asked = arrived(slave.host, FACTS["BRIDGE_ADDRESS"], 53, ask, last)
    assert len(asked) == 40


def test_a_new_peer_is_heard_and_one_that_left_no_more_as_soon_as_the_mesh_knows(kept: Kept) -> None:
    def heard() -> bool:
        return carried(kept.place, new.address, "10.2.4.7") == [("10.2.4.7", b"hello")]

    new = routed.Peer("slave-4", "10.0.32.36", "10.2.0.4", "10.2.4.0/24")
    kept.place.vpc.ip([f"address add {new.address}/16 dev eth0"])
    assert not heard()
    for table, then in ((peers() | {new.name: new}, True), (peers(), False)):
        # As the mesh does it: the table first, then the routes.
        kept.save(table)
        kept.place.host.call(lambda table=table: routed.apply(vxlan.LINK, table, FACTS["BRIDGE_ADDRESS"]))
        until(lambda then=then: heard() == then, f"heard: {then}")


def test_a_table_replaces_itself_in_one_step_and_a_bad_one_changes_nothing(slave: Place, senders: dict[str, list[str]]) -> None:
    text = firewall.packets(FACTS, "eth0", senders)
    slave.load(text)
    once = slave.host.call(lambda: firewall.listed("inet"))
    slave.load(text)
    assert slave.host.call(lambda: firewall.listed("inet")) == once != ""
    # Connections of containers are no change of the rules.
    for inside in (slave.web, slave.compose):
        say(inside, b"hello", DATABASE, 5555)
    assert "elements" in slave.host.run(["nft", "list", "set", "inet", "apollo", "flows"])
    assert slave.host.call(lambda: firewall.listed("inet")) == once
    with pytest.raises(firewall.FirewallError, match="nft -f -: "):
        slave.host.call(lambda: firewall.run("nft", "-f", "-", text=firewall.table("inet", "chain broken { }\nno rule\n")))
    assert slave.host.call(lambda: firewall.listed("inet")) == once


@pytest.mark.parametrize("prefix", [20, 24, 27])
def test_a_block_of_any_size_is_its_hosts_to_the_last_address(slave: Place, tmp_path: Path, prefix: int) -> None:
    plan = cluster(overlay={"mesh": "vxlan", "hostPrefix": prefix}, slaves={"count": 2})
    facts, peer = node_facts(plan, plan.slaves[0], STACK), plan.slaves[1]
    entry = routed.Peer(peer.name, str(peer.private_ip), str(peer.bridge_address.ip), str(peer.docker_subnet))
    with at(routed, "TABLE", tmp_path / "mesh.json"):
        routed.save(facts, {peer.name: entry})
        slave.load(firewall.packets(facts, "eth0", firewall.senders(facts)))
    assert peer.docker_subnet is not None

    def has(address: int) -> bool:
        part = f"{address:#x}" if prefix % 8 else f"{address >> 32 - prefix:#x}"
        argv = ["nft", "get", "element", "inet", "apollo", "blocks", f"{{ {peer.private_ip} . {part} }}"]
        return subprocess.run(slave.host.command(argv), capture_output=True, check=False).returncode == 0

    first, last = peer.docker_subnet.first, peer.docker_subnet.last
    assert has(first) and has(last) and not has(first - 1) and not has(last + 1)
