"""What a hostile container tries, on booted hosts: as root in it, with the capabilities that Docker gives by default.

REACHED is the table of docs/architecture.md, "What a container reaches".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator

import pytest

from localcloud.apollo.demo import IMAGE
from localcloud.paths import REPOSITORY
from tests.booted.clients import address_of, pid_of, scan
from tests.booted.conftest import Stack, until
from tests.host.test_firewall import PORTS

# TCP ports open to a container, by the host's role, on the host's overlay address; "own" is its own slave.
REACHED = {"own": [53], "slave": [], "control": [], "edge": [80, 443]}
# Name, VPC address, overlay address.
HOSTS = [
    *((f"slave-{n}", address, f"10.2.0.{n}") for n, address in ((1, "10.0.0.33"), (2, "10.0.32.34"), (3, "10.0.0.35"))),
    *((f"control-{n}", f"10.0.{32 * (n + 1) % 64}.{10 + n}", f"10.2.0.{249 + n}") for n in (1, 2, 3)),
    ("edge-1", "10.0.224.11", "10.2.0.240"),
]
COMPOSE = "apollo-test"


class Inside:
    """A container's network namespace on slave-1, from where a program of the host attacks."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack = stack
        self.pid = pid_of(stack, "slave-1", name)

    def out(self, *argv: str) -> str:
        return self._stack.out("slave-1", "nsenter", "-t", self.pid, "-n", *argv)

    def scan(self, address: str, ports: tuple[int, ...] = PORTS) -> list[int]:
        return scan(self._stack, "slave-1", address, *ports, pid=self.pid)


@pytest.fixture(scope="module")
def networks(stack: Stack) -> Generator[dict[str, Inside]]:
    """A container of the overlay and one of a network such as Compose makes."""
    try:
        stack.out("slave-1", "docker", "network", "create", COMPOSE)
        for name, options in (("attacker", []), ("composed", ["--network", COMPOSE])):
            stack.out("slave-1", "docker", "run", "-d", "--name", name, *options, "--entrypoint", "sleep", IMAGE, "3600")
        yield {name: Inside(stack, name) for name in ("attacker", "composed")}
    finally:
        stack.run("slave-1", "docker", "rm", "-f", "attacker", "composed")
        stack.run("slave-1", "docker", "network", "rm", COMPOSE)


def role_of(host: str) -> str:
    return "own" if host == "slave-1" else host.partition("-")[0]


def test_the_table_in_the_documents_is_the_one_that_is_tested() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text()
    section = text.partition("\n## What a container reaches\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (its own slave|another slave|a control node|an edge) \| ([^|]*) \|", section, re.MULTILINE)
    roles = {"its own slave": "own", "another slave": "slave", "a control node": "control", "an edge": "edge"}
    assert {roles[name]: [int(port) for port in re.findall(r"\b\d+\b", ports)] for name, ports in rows} == REACHED


@pytest.mark.parametrize(("host", "private", "overlay"), HOSTS)
def test_a_scan_of_each_host_from_a_container_finds_what_the_documents_list(
    stack: Stack, networks: dict[str, Inside], host: str, private: str, overlay: str
) -> None:
    role = role_of(host)
    assert f"inet {private}/" in stack.out(host, "ip", "-4", "addr") and f"inet {overlay}/" in stack.out(
        host, "ip", "-4", "addr"
    )
    assert networks["attacker"].scan(overlay) == REACHED[role]
    # Security groups let a slave and what is behind it to an edge's web ports, and to gossip, which the slave refuses.
    by_vpc = {"own": [53], "edge": [80, 443]}.get(role, [])
    assert networks["attacker"].scan(private) == by_vpc
    assert networks["composed"].scan(private) == by_vpc
    # Of the overlay another network of Docker's has its own slave alone.
    assert networks["composed"].scan(overlay) == (REACHED["own"] if role == "own" else [])


@pytest.mark.parametrize("name", ["attacker", "composed"])
def test_names_answer_in_every_network_of_docker(stack: Stack, networks: dict[str, Inside], name: str) -> None:
    del networks
    ask = ("docker", "exec", name, "busybox", "nslookup", "consul.service.consul")
    until(lambda: "10.0.0.11" in stack.run("slave-1", *ask).stdout, "the name has its addresses")
    metadata = stack.run(
        "slave-1", "docker", "exec", name, "busybox", "timeout", "3", "wget", "-qO-", "http://169.254.169.254/"
    )
    assert metadata.returncode != 0


# Sends UDP packets inside VXLAN to the mesh port of control-1, one for each pair of inner target and inner source: the critical
# attack of a container.
TUNNEL = """
import socket, struct, sys
def total(data):
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return ~value & 0xFFFF
udp = struct.pack("!4H", 4000, 9999, 14, 0) + b"attack"
mac = bytes([2, 0x78]) + socket.inet_aton("10.2.0.250") + bytes([2, 0, 0, 0, 0, 1])
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for pair in sys.argv[1:]:
    inner, source = pair.split("<")
    ends = socket.inet_aton(source) + socket.inet_aton(inner)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + ends
    header = header[:10] + struct.pack("!H", total(header)) + header[12:]
    packet = struct.pack("!II", 0x08000000, 42 << 8) + mac + b"\\x08\\x00" + header + udp
    out.sendto(packet, ("10.0.0.11", 4789))
"""
# A target of the control node's own, in the VPC and in the overlay, in the name of a container, another's and the slave.
PAIRS = [f"{inner}<{source}" for inner in ("10.0.0.11", "10.2.0.250") for source in ("10.2.1.9", "10.2.2.2", "10.0.0.33")]
# Counts what comes to a port until the word that is sent last.
LISTEN = """
import socket
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("0.0.0.0", 9999))
listener.settimeout(600)
open("/run/listens", "w").close()
found = []
while not found or found[-1] != "last":
    found.append(listener.recv(100).decode())
print(found[:-1])
"""


def heard(stack: Stack, run: Callable[..., str]) -> str:
    """What control-1 hears when slave-1 sends the packets. run: runs a command there, in a network of its own or not."""
    stack.out("control-1", "rm", "-f", "/run/listens", "/run/heard")
    stack.out("control-1", "systemd-run", "-q", "-p", "StandardOutput=file:/run/heard", "python3", "-c", LISTEN)
    until(lambda: stack.run("control-1", "test", "-e", "/run/listens").returncode == 0, "control-1 listens")
    run("python3", "-c", TUNNEL, *PAIRS)
    last = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'last', ('127.0.0.1', 9999))"
    stack.out("control-1", "python3", "-c", last)
    until(lambda: stack.run("control-1", "test", "-s", "/run/heard").returncode == 0, "control-1 has heard")
    return stack.out("control-1", "cat", "/run/heard")


@pytest.mark.parametrize("name", ["attacker", "composed"])
def test_a_container_that_speaks_vxlan_to_a_control_node_is_not_heard(
    stack: Stack, networks: dict[str, Inside], name: str
) -> None:
    assert heard(stack, networks[name].out) == "[]"


def test_a_slave_that_was_taken_over_reaches_no_port_by_the_mesh_either(stack: Stack) -> None:
    assert heard(stack, lambda *argv: stack.out("slave-1", *argv)) == "[]"


def test_a_flushed_firewall_is_back_by_itself_and_no_container_is_restarted(stack: Stack, networks: dict[str, Inside]) -> None:
    before = {name: pid_of(stack, "slave-1", name) for name in networks}
    for damage in (("nft", "flush", "ruleset"), ("iptables", "-F"), ("iptables", "-t", "nat", "-F")):
        stack.out("slave-1", *damage)
        stack.await_well("slave-1")
        assert networks["attacker"].scan("10.0.0.33", (22, 53)) == [53]
        assert networks["attacker"].scan("10.2.0.240", (22, 80)) == [80]
    assert {name: pid_of(stack, "slave-1", name) for name in networks} == before
    stack.assert_all_reachable()


def test_a_published_port_answers_on_the_slaves_address(stack: Stack) -> None:
    try:
        stack.out("slave-2", "docker", "run", "-d", "--name", "published", "-p", "31999:80", IMAGE)
        until(
            lambda: stack.run("slave-2", "curl", "-fsS", "-m", "3", "http://10.0.32.34:31999/").returncode == 0,
            "the port answers",
        )
    finally:
        stack.run("slave-2", "docker", "rm", "-f", "published")


# Says by ARP, as an answer and as a question, that an address is at the MAC of this container's own interface.
ARP = """
import socket, struct, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0x0806))
mac = raw.getsockname()[4]
for operation in (2, 1, 2):
    ends = mac + socket.inet_aton(sys.argv[1]) + bytes(6) + socket.inet_aton(sys.argv[2])
    raw.send(bytes([255] * 6) + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation) + ends)
"""


def neighbour(inside: Inside, address: str) -> str:
    """The MAC under which a container knows an address, which it asks for if it does not."""
    inside.out("ping", "-c", "1", "-W", "5", address)
    return json.loads(inside.out("ip", "-j", "neigh", "show", address))[0]["lladdr"]


def settled(stack: Stack, host: str = "slave-1") -> bool:
    """Whether the rules know the port of every container that has one."""
    done = stack.run(host, "nft", "-j", "list", "set", "bridge", "apollo", "ports")
    # Flushed rules may not be there again.
    known = json.loads(done.stdout)["nftables"][1]["set"].get("elem", []) if done.returncode == 0 else None
    attached = stack.out(host, "sh", "-c", "ls /sys/class/net/*/brif | grep ^veth || true").split()
    return known is not None and sorted(known) == sorted(attached)


@pytest.mark.parametrize("when", ["running", "restarted", "after a restart of Docker", "started while rules were flushed"])
def test_no_container_takes_the_address_of_its_bridge_an_edge_or_a_neighbour(
    stack: Stack, networks: dict[str, Inside], when: str
) -> None:
    if when == "restarted":
        stack.out("slave-1", "docker", "restart", "-t", "0", "attacker", "composed")
    if when == "after a restart of Docker":
        stack.out("slave-1", "systemctl", "restart", "docker")
    if when == "started while rules were flushed":
        stack.out("slave-1", "docker", "stop", "-t", "0", "attacker", "composed")
        stack.out("slave-1", "nft", "flush", "ruleset")
        stack.out("slave-1", "docker", "start", "attacker", "composed")
    until(lambda: settled(stack), "the rules know all ports")
    networks.update({name: Inside(stack, name) for name in networks})
    victim = Inside(stack, "demo-web")
    away, near = address_of(stack, "slave-3", "demo-api"), address_of(stack, "slave-1", "demo-web")
    taken = [("10.2.0.1", victim), ("10.2.0.240", victim), (away, victim)]
    before = [neighbour(who, address) for address, who in taken]
    for address, _ in taken:
        networks["attacker"].out("python3", "-c", ARP, address, near)
    # What comes after them comes later.
    assert [neighbour(who, address) for address, who in taken] == before
    own = stack.out("slave-1", "docker", "inspect", "-f", "{{.NetworkSettings.MacAddress}}", "attacker")
    assert own not in before
    composed = json.loads(networks["composed"].out("ip", "-j", "route", "show", "default"))[0]["gateway"]
    stack.out(
        "slave-1", "docker", "run", "-d", "--name", "beside", "--network", COMPOSE, "--entrypoint", "sleep", IMAGE, "3600"
    )
    try:
        until(lambda: settled(stack), "the rules know all ports")
        beside = Inside(stack, "beside")
        before = [neighbour(beside, composed)]
        networks["composed"].out("python3", "-c", ARP, composed, "172.18.0.3")
        assert [neighbour(beside, composed)] == before
    finally:
        stack.run("slave-1", "docker", "rm", "-f", "beside")


def test_a_container_is_known_as_soon_as_it_runs_and_forgotten_with_its_end(stack: Stack) -> None:
    """Its first packet goes out at once: a name is asked for by the first program that it runs."""
    for _ in range(5):
        ask = ("--entrypoint", "busybox", IMAGE, "nslookup", "consul.service.consul")
        assert "10.0.0.11" in stack.out("slave-1", "docker", "run", "--rm", *ask)
    until(lambda: settled(stack), "the rules know all ports and no other")
