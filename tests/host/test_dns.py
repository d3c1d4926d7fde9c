"""What containers are answered: the real dnsmasq before names.py before a real Consul, each configured as on a slave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host.apollo import local
from host.apollo.consul import acl, names
from localcloud.machines.namespaces import Namespace
from tests.booted.names_watch import addresses, query
from tests.host.conftest import PLAN, Agent
from tests.host.support import files_of, free_ports, namespaces, needs, stand_in, until
from tests.host.test_verbs import Clock, Over


@dataclass(frozen=True)
class Slave:
    """What answers names on a slave. port: dnsmasq's, where containers ask."""

    port: int
    server: Agent
    agent: Agent

    def ask(self, name: str) -> str:
        return addresses("127.0.0.1", name, self.port)

    def memory(self) -> int:
        """Bytes that the slave's agent and the server hold."""
        status = [Path(f"/proc/{one.process.pid}/status").read_text() for one in (self.server, self.agent)]
        return sum(int(text.split("VmRSS:")[1].split()[0]) * 1024 for text in status)


@pytest.fixture
def slave(agent: Agent, consul: Path, host: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Slave]:
    management = local.secret("consul/management-token")
    acl.stand(agent.facts, management)
    acl.create_node(agent.facts, management, "slave-1")
    join = [f"127.0.0.1:{agent.ports['serf_lan']}"]
    own = Agent(consul, host / "own", monkeypatch, PLAN.slaves[0], join=join)
    port, between = free_ports(2)
    config = files_of(PLAN, PLAN.slaves[0])["/etc/dnsmasq.d/apollo.conf"].content
    assert f"127.0.0.1#{names.PORT}\n" in config
    (host / "dnsmasq.conf").write_text(config.replace(f"#{names.PORT}", f"#{between}"))
    program = f"""
from pathlib import Path
from host.apollo import local
from host.apollo.consul import names
local.SECRETS, local.CONSUL = Path({str(local.SECRETS)!r}), {local.CONSUL!r}
local.facts = lambda: {own.facts!r}
names.load_limits = lambda: None
names.AGENT, names.PORT = ("127.0.0.1", {own.ports["dns"]}), {between}
names.main()
"""
    dnsmasq = [needs("dnsmasq", "dnsmasq-base"), "--keep-in-foreground", f"--conf-file={host}/dnsmasq.conf", f"--port={port}"]
    programs = [[sys.executable, "-c", program], [*dnsmasq, "--pid-file", "--user=root", "--log-facility=-"]]
    running: list[subprocess.Popen[bytes]] = []
    try:
        running.extend(map(subprocess.Popen, programs))
        found = Slave(port, agent, own)
        until(lambda: found.ask("consul.service.consul") == "127.0.0.1", "the server is found")
        until(lambda: found.ask("slave-1.node.consul") != "none", "the slave is found")
        monkeypatch.setattr(local, "CONSUL", f"http://127.0.0.1:{agent.ports['http']}")
        yield found
    finally:
        for process in running:
            process.terminate()
            process.wait(30)
        own.close()


def register(name: str, *found: str, tags: tuple[str, ...] = ()) -> None:
    for address in found:
        service = {"ID": f"apollo:{name}:{address}", "Service": name, "Port": 80, "Address": address, "Tags": tags}
        body = {"Node": "slave-2", "Address": "10.0.0.34", "Service": service}
        local.consul("catalog/register", local.secret("consul/management-token"), "PUT", body)


def by_tcp(connection: socket.socket, name: str) -> int:
    """How many records a name has."""
    asked = query(name)
    connection.sendall(struct.pack("!H", len(asked)) + asked)
    with connection.makefile("rb") as answers:
        answer = answers.read(int.from_bytes(answers.read(2), "big"))
    return int.from_bytes(answer[6:8], "big")


def test_a_name_has_addresses_over_udp_however_many_instances_there_are(slave: Slave) -> None:
    for count in (1, 4, 8, 25, 200):
        every = [f"10.2.1.{number}" for number in range(count)]
        register(f"big{count}", *every)
        until(lambda count=count: slave.ask(f"big{count}.service.consul") != "none", "it is found")
        answers = [slave.ask(f"big{count}.service.consul").split(",") for _ in range(40)]
        assert {len(found) for found in answers} == {min(count, 8)}
        # Not the same ones each time.
        seen = {address for found in answers for address in found}
        assert seen <= set(every) and len(seen) >= min(count, 25)
        with socket.create_connection(("127.0.0.1", slave.port), 5) as connection:
            assert by_tcp(connection, f"big{count}.service.consul") == count


def test_what_the_catalog_has_is_found_in_every_form_that_consul_knows(slave: Slave) -> None:
    register("web", "10.2.1.7", tags=("V1.2", "blue"))
    until(lambda: slave.ask("web.service.consul") == "10.2.1.7", "it is found")
    for name in ("WEB.service.Consul", "web.service.dc1.consul", "blue.web.service.consul", "v1.2.web.service.consul"):
        assert slave.ask(name) == "10.2.1.7", name
    for name in ("_web._tcp.service.consul", "_web._blue.service.consul"):
        assert slave.ask(name) == "10.2.1.7", name
    assert slave.ask("control-1.node.consul") == slave.ask("control-1.node.dc1.consul") == "127.0.0.1"
    for name in ("green.web.service.consul", "web.service.dc2.consul", "web.query.consul", "web.consul", "slave-9.node.consul"):
        assert slave.ask(name) == "none", name


def test_made_up_names_cost_neither_agent_nor_server_memory_and_take_no_name_away(slave: Slave) -> None:
    register("web", "10.2.1.7")
    until(lambda: slave.ask("web.service.consul") == "10.2.1.7", "it is found")
    before = slave.memory()
    for number in range(1000):
        for made_up in (
            "x{}.service.consul",
            "x{}.web.service.consul",
            "web.service.x{}.consul",
            "x{}.node.consul",
            "x{}.query.consul",
        ):
            assert slave.ask(made_up.format(number)) == "none"
        if number % 100 == 0:
            assert slave.ask("web.service.consul") == "10.2.1.7"
    grown = (slave.memory() - before) / 2**20
    print(f"FIGURE 5,000 made-up names: {grown:.1f} MiB")
    assert grown < 16


def test_names_are_answered_while_no_server_is_there_and_made_up_ones_still_refused(slave: Slave) -> None:
    register("web", "10.2.1.7")
    until(lambda: slave.ask("web.service.consul") == "10.2.1.7", "it is found")
    slave.server.process.terminate()
    slave.server.process.wait(30)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert slave.ask("web.service.consul") == "10.2.1.7"
        assert slave.ask("x1.service.consul") == "none"


def test_what_is_no_question_is_refused_and_ends_nothing() -> None:
    asked, catalog = query("web.service.consul"), names.Catalog()
    judge = names.Judge(catalog, "consul", "dc1")

    def refused(message: bytes) -> int:
        answer = judge.answer(message)
        assert answer is not None
        return answer[3] & 15

    # Nothing is said of what is not known yet.
    assert refused(asked) == refused(query("slave-1.node.consul")) == names.SERVFAIL
    catalog.took_services({"web": []})
    assert judge.answer(asked) is None
    assert refused(query("www.example.com")) == names.NXDOMAIN
    half, two, pointer = asked[:-1], asked[:4] + b"\0\2" + asked[6:], asked[:12] + b"\xc0\x0c" + asked[14:]
    for message in (asked[:12], half, two, pointer, asked[:12] + b"\x3f" * 200):
        assert refused(message) == names.FORMERR
    for message in (b"", asked[:11], asked[:2] + b"\x81" + asked[3:]):
        with pytest.raises(ValueError, match="no query"):
            judge.answer(message)


# -- the program alone, before an agent that is played


class Played:
    """An agent that answers each question with the question, turned into an answer, and waits with those for `later`."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.connections = 0

    def answer(self, asked: bytes) -> bytes:
        self.asked.append(asked)
        return asked[:2] + b"\x84" + asked[3:]

    async def serve(self, port: int) -> None:
        played = self

        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                # One that nobody asked for, and half a one.
                for answer in (b"\xff\xfe" + data[2:], data[:11], played.answer(data)):
                    self.transport.sendto(answer, addr)

        async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            played.connections += 1
            with contextlib.suppress(EOFError):
                while True:
                    asked = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    answer = played.answer(asked)
                    writer.write(len(answer).to_bytes(2, "big") + answer)
            writer.close()

        await asyncio.get_running_loop().create_datagram_endpoint(Udp, local_addr=("127.0.0.1", port))
        await asyncio.start_server(tcp, "127.0.0.1", port)


def test_what_the_catalog_has_goes_to_the_agent_and_all_else_is_answered_here_over_udp_and_tcp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, agent = free_ports(2)
    monkeypatch.setattr(names, "PORT", own)
    monkeypatch.setattr(names, "AGENT", ("127.0.0.1", agent))
    catalog, played = names.Catalog(), Played()
    catalog.took_services({"Web": ["Public"]})
    catalog.took_nodes([{"Node": "Slave-1"}])
    known, unknown = query("web.service.consul"), query("nobody.service.consul")
    refused = unknown[:2] + b"\x85\x03" + unknown[4:12] + unknown[12:]

    def answered(asked: bytes) -> bytes:
        return asked[:2] + b"\x84" + asked[3:]

    async def by_udp(*messages: bytes) -> list[bytes]:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.setblocking(False)
            await loop.sock_connect(caller, ("127.0.0.1", own))
            for message in messages:
                await loop.sock_sendall(caller, message)
            return [await asyncio.wait_for(loop.sock_recv(caller, 4096), 30) for _ in messages if len(_) >= 12]

    async def run() -> None:
        await played.serve(agent)
        serving = asyncio.create_task(names.serve(names.Judge(catalog, "Consul.", "dc1")))
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", own)
                break
            assert time.monotonic() < deadline and not serving.done()
            await asyncio.sleep(0.01)
        # Two callers may have one id: each gets the answer to its own question.
        first, second = await asyncio.gather(by_udp(known), by_udp(query("slave-1.node.consul")))
        assert (first, second) == ([answered(known)], [answered(query("slave-1.node.consul"))])
        assert len({message[:2] for message in played.asked}) == 2
        assert (await by_udp(b"none", unknown))[0][:4] == refused[:4]
        assert len(played.asked) == 2
        for asked, answer in ((known, answered(known)), (unknown, None), (known, answered(known))):
            writer.write(len(asked).to_bytes(2, "big") + asked)
            got = await asyncio.wait_for(reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")), 30)
            assert got == answer if answer else got[3] & 15 == names.NXDOMAIN
        assert (len(played.asked), played.connections) == (4, 1)
        # What is no question ends the connection, and no other.
        writer.write(b"\0\3abc")
        assert await asyncio.wait_for(reader.read(), 30) == b""
        assert await by_udp(known) == [answered(known)]
        serving.cancel()

    asyncio.run(run())


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "IDLE", 0.01)

    async def run() -> None:
        closed: list[str] = []
        writer: Any = SimpleNamespace(close=lambda: closed.append("closed"))
        await asyncio.wait_for(
            names.converse(names.Judge(names.Catalog(), "consul", "dc1"), asyncio.StreamReader(), writer), 30
        )
        assert closed == ["closed"]

    asyncio.run(run())


def test_questions_without_an_answer_are_forgotten_in_time_and_are_never_more_than_a_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, sent, got = Clock(), list[bytes](), list[tuple[str, bytes]]()
    monkeypatch.setattr(names, "time", clock)
    monkeypatch.setattr(names, "MOST", 3)
    agent = names.Agent()
    transport: Any = SimpleNamespace(sendto=sent.append)
    agent.connection_made(transport)

    def ask(name: str) -> None:
        agent.ask(b"id" + name.encode().ljust(12), lambda answer: got.append((name, answer)))

    def answers(number: int) -> None:
        agent.datagram_received(number.to_bytes(2, "big") + b"answer".ljust(10), ("127.0.0.1", 1))

    for name in ("one", "two", "three", "four"):
        ask(name)
    assert [message[:2] for message in sent] == [b"\0\1", b"\0\2", b"\0\3", b"\0\4"] and sent[0][2:].strip() == b"one"
    assert sorted(agent.asked) == [2, 3, 4], "the oldest goes"
    for number in (1, 3, 3):
        answers(number)
    agent.datagram_received(b"\0\2" + b"x" * 9, ("127.0.0.1", 1))
    agent.error_received(ConnectionRefusedError())
    assert got == [("three", b"id" + b"answer".ljust(10))]
    clock.now += names.PATIENCE
    ask("five")
    assert sorted(agent.asked) == [2, 4, 5]
    clock.now += 0.5
    ask("six")
    assert sorted(agent.asked) == [5, 6]
    # The ids begin anew after the last.
    for _ in range(65536):
        ask("more")
    assert sent[-1][:2] == b"\0\6" and b"\0\0" in [message[:2] for message in sent]


def test_packet_rules_are_loaded_where_they_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nft = f"""cd {tmp_path}; case "$*" in
        "list table ip apollo_names") [ -e table ] ;;
        "-f {names.LIMITS}") [ -e broken ] && {{ echo 'no rule' >&2; exit 1; }}; touch table ;;
        *) exit 2 ;; esac"""
    stand_in(tmp_path / "nft", nft)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for said in (f"loaded {names.LIMITS}\n", ""):
        names.load_limits()
        assert capsys.readouterr().out == said
    (tmp_path / "table").unlink()
    (tmp_path / "broken").touch()
    names.load_limits()
    assert capsys.readouterr().out == "no rule\n"
    clock, looks = Clock(2), list[float]()
    monkeypatch.setattr(names, "time", clock)
    monkeypatch.setattr(names, "load_limits", lambda: looks.append(clock.now))
    with pytest.raises(Over):
        names.keep_limits()
    assert looks == [names.LOOK, 2 * names.LOOK]


def test_the_program_loads_rules_then_follows_both_lists_while_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"ROLE": "edge", "CONSUL_DOMAIN": "example", "CONSUL_DATACENTER": "dc9"}
    did: list[Any] = []
    followed: list[Any] = []

    def thread(target: Any, args: Any = (), daemon: bool = False) -> Any:
        assert daemon, "it ends with the program"
        return SimpleNamespace(start=lambda: followed.append((target, *args)))

    def run(serving: Any) -> None:
        did.append(serving)

    monkeypatch.setattr(local, "facts", lambda: facts)
    monkeypatch.setattr(names, "load_limits", lambda: did.append("rules"))
    monkeypatch.setattr(names.threading, "Thread", thread)
    monkeypatch.setattr(names, "serve", lambda judge: judge)
    monkeypatch.setattr(names.asyncio, "run", run)
    names.main()
    keeper, services, nodes = followed
    assert keeper == (names.keep_limits,)
    assert [(one[0], one[1], one[3]) for one in (services, nodes)] == [
        (names.watch, "catalog/services", "consul/edge-token"), (names.watch, "catalog/nodes", "consul/edge-token"),
    ]  # fmt: skip
    rules, judge = did
    assert rules == "rules"
    services[2]({"web": []})
    nodes[2]([{"Node": "slave-1"}])
    for name in ("web.service.example", "slave-1.node.dc9.example"):
        assert judge.answer(query(name)) is None


# -- one container and the others


class Resolver:
    """A slave's dnsmasq with its packet rules, two containers, and the VPC's resolver, which answers names with a b alone."""

    ADDRESS, GATEWAY = "10.0.0.2", "10.2.0.1"

    def __init__(self, folder: Path, host: Namespace, vpc: Namespace, *containers: Namespace) -> None:
        self.host, self.vpc, self.containers = host, vpc, containers
        self.host.ip(
            [
                f"link add eth0 type veth peer name eth0 netns {self.vpc.name}",
                "address add 10.0.0.33/16 dev eth0",
                "link set eth0 up",
                "link add weave type bridge",
                f"address add {self.GATEWAY}/16 dev weave",
                "link set weave up",
            ]
        )
        self.vpc.ip([f"address add {self.ADDRESS}/16 dev eth0", "link set eth0 up"])
        for number, container in enumerate(self.containers):
            self.host.ip(
                [
                    f"link add veth{number} type veth peer name eth0 netns {container.name}",
                    f"link set veth{number} master weave up",
                ]
            )
            container.ip([f"address add 10.2.1.{number}/16 dev eth0", "link set eth0 up"])
        files = files_of(PLAN, PLAN.slaves[0])
        self.limits = folder / "names.nft"
        self.limits.write_text(files["/etc/apollo/names.nft"].content)
        (folder / "dnsmasq.conf").write_text(files["/etc/dnsmasq.d/apollo.conf"].content)
        argv = ["dnsmasq", "--keep-in-foreground", f"--conf-file={folder}/dnsmasq.conf", "--pid-file", "--user=root"]
        # By TCP the resolver below answers nothing.
        argv.append("--address=/b.test/192.0.2.1")
        self._dnsmasq = subprocess.Popen(self.host.command(argv), stderr=subprocess.DEVNULL)
        self._socket = self.vpc.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.bind((self.ADDRESS, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                asked, caller = self._socket.recvfrom(4096)
                if asked[13:14] == b"b":
                    record = b"\xc0\x0c" + struct.pack("!2HIH", 1, 1, 0, 4) + socket.inet_aton("192.0.2.1")
                    self._socket.sendto(asked[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + asked[12:] + record, caller)

    def ask(self, container: Namespace, name: str) -> str:
        return container.call(lambda: addresses(self.GATEWAY, name))

    def close(self) -> None:
        self._socket.close()
        self._dnsmasq.terminate()
        self._dnsmasq.wait(30)


@pytest.fixture
def resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Resolver]:
    needs("dnsmasq", "dnsmasq-base")
    needs("nft", "nftables")
    with (
        namespaces("apollo-dns", "host", "vpc", "one", "other") as spaces,
        closing(Resolver(tmp_path, *spaces.values())) as made,
    ):
        monkeypatch.setattr(names, "LIMITS", made.limits)
        # Twice, the second time after somebody's flush.
        for _ in range(2):
            made.host.run(["nft", "flush", "ruleset"])
            made.host.call(names.load_limits)
        until(lambda: made.ask(made.containers[1], "b.example.com") == "192.0.2.1", "names are answered")
        yield made


@pytest.mark.machines
def test_no_container_takes_names_away_from_another_by_idle_connections(resolver: Resolver) -> None:
    one, other = resolver.containers

    def idle() -> socket.socket | None:
        with contextlib.suppress(OSError):
            return socket.create_connection((resolver.GATEWAY, 53), 5)
        return None

    held = [connection for connection in one.call(lambda: [idle() for _ in range(250)]) if connection]
    try:
        assert len(held) == 8
        with other.call(lambda: socket.create_connection((resolver.GATEWAY, 53), 5)) as connection:
            assert by_tcp(connection, "b.test") == 1
        assert resolver.ask(one, "b2.example.com") == "192.0.2.1"
    finally:
        for connection in held:
            connection.close()

    def again() -> bool:
        with contextlib.suppress(OSError), one.call(lambda: socket.create_connection((resolver.GATEWAY, 53), 5)) as connection:
            return by_tcp(connection, "b.test") == 1
        return False

    until(again, "it may ask again")


@pytest.mark.machines
def test_no_container_takes_names_away_from_another_by_questions_without_an_answer(resolver: Resolver) -> None:
    one, other = resolver.containers
    flood = one.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with flood:
        for number in range(20000):
            flood.sendto(query(f"x{number}.example.com"), (resolver.GATEWAY, 53))
            if number % 1000 == 999:
                # Whoever gets no answer asks again, as every resolver does.
                tries = (resolver.ask(other, f"b{number}.example.com") for _ in range(3))
                assert "192.0.2.1" in tries
    until(lambda: resolver.ask(one, "b.example.com") == "192.0.2.1", "it may ask again")
