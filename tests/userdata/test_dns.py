"""What containers are answered: the real dnsmasq before names.py before a real Consul, each configured as on a slave."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.booted.names_watch import addresses, query
from tests.userdata.conftest import PLAN, Agent, free_ports
from tests.userdata.support import LIBRARY, USERDATA, files_of, host_module, needs

apollo = host_module("apollo")
consul_acl = host_module("consul_acl")
names = host_module("names")


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


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def slave(agent: Agent, consul: Path, host: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Slave]:
    management = apollo.secret("consul/management-token")
    consul_acl.stand(agent.facts, management)
    consul_acl.create_node(agent.facts, management, "slave-1")
    join = [f"127.0.0.1:{agent.ports['serf_lan']}"]
    own = Agent(consul, host / "own", monkeypatch, PLAN.slaves[0], join=join)
    port, between = free_ports(2)
    config = files_of(PLAN, PLAN.slaves[0])["/etc/dnsmasq.d/apollo.conf"].content
    assert f"127.0.0.1#{names.PORT}\n" in config
    (host / "dnsmasq.conf").write_text(config.replace(f"#{names.PORT}", f"#{between}"))
    program = f"""
import sys; sys.path[:0] = {[str(USERDATA / layer / LIBRARY) for layer in ("boot", "roles/slave")]!r}
from pathlib import Path
import apollo, names
apollo.SECRETS, apollo.CONSUL = Path({str(apollo.SECRETS)!r}), {apollo.CONSUL!r}
apollo.facts = lambda: {own.facts!r}
names.AGENT, names.PORT = ("127.0.0.1", {own.ports["dns"]}), {between}
names.main()
"""
    dnsmasq = [needs("dnsmasq", "dnsmasq-base"), "--keep-in-foreground", f"--conf-file={host}/dnsmasq.conf", f"--port={port}"]
    programs = [[sys.executable, "-c", program], [*dnsmasq, "--pid-file", "--user=root", "--log-facility=-"]]
    running: list[subprocess.Popen[bytes]] = []
    try:
        running.extend(map(subprocess.Popen, programs))
        found = Slave(port, agent, own)
        until(lambda: found.ask("consul.service.consul") == "127.0.0.1" and found.ask("slave-1.node.consul") != "none")
        monkeypatch.setattr(apollo, "CONSUL", f"http://127.0.0.1:{agent.ports['http']}")
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
        apollo.consul("catalog/register", apollo.secret("consul/management-token"), "PUT", body)


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
        until(lambda count=count: slave.ask(f"big{count}.service.consul") != "none")
        answers = [slave.ask(f"big{count}.service.consul").split(",") for _ in range(40)]
        assert {len(found) for found in answers} == {min(count, 8)}
        # Not the same ones each time.
        seen = {address for found in answers for address in found}
        assert seen <= set(every) and len(seen) >= min(count, 25)
        with socket.create_connection(("127.0.0.1", slave.port), 5) as connection:
            assert by_tcp(connection, f"big{count}.service.consul") == count


def test_what_the_catalog_has_is_found_in_every_form_that_consul_knows(slave: Slave) -> None:
    register("web", "10.2.1.7", tags=("V1.2", "blue"))
    until(lambda: slave.ask("web.service.consul") == "10.2.1.7", 3)
    for name in ("WEB.service.Consul", "web.service.dc1.consul", "blue.web.service.consul", "v1.2.web.service.consul"):
        assert slave.ask(name) == "10.2.1.7", name
    for name in ("_web._tcp.service.consul", "_web._blue.service.consul"):
        assert slave.ask(name) == "10.2.1.7", name
    assert slave.ask("control-1.node.consul") == slave.ask("control-1.node.dc1.consul") == "127.0.0.1"
    for name in ("green.web.service.consul", "web.service.dc2.consul", "web.query.consul", "web.consul", "slave-9.node.consul"):
        assert slave.ask(name) == "none", name


def test_made_up_names_cost_neither_agent_nor_server_memory_and_take_no_name_away(slave: Slave) -> None:
    register("web", "10.2.1.7")
    until(lambda: slave.ask("web.service.consul") == "10.2.1.7")
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
    until(lambda: slave.ask("web.service.consul") == "10.2.1.7")
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
        return judge.answer(message)[3] & 15

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
