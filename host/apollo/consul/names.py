"""Answers DNS between dnsmasq and the Consul agent: passes on questions for names that the catalog has, and refuses all others.

The agent keeps what it was asked for, whether it exists or not, for at least 20 minutes, and has a server tell it of changes:
3,000 made-up names cost 55 MiB here and 44 MiB on every server. What the catalog has is known from two questions that wait for
changes, and bounds what containers can make the agent keep. While no server answers both stay: the lists, and what it keeps.

How much one container may ask is said by packet rules, which this program loads, and again when they were flushed.
"""

from __future__ import annotations

import asyncio
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from host.apollo import local
from plan import ports

AGENT = ("127.0.0.1", ports.CONSUL_DNS)
PORT = ports.CONSUL_NAMES
LIMITS, TABLE = Path("/etc/apollo/names.nft"), ("ip", "apollo_names")
# Seconds between looks at the rules.
LOOK = 10
# Seconds between two answers of the catalog's, so that a restless catalog does not load every host; for which a
# question about it waits; after which one that the agent did not answer is forgotten; for which a connection may be idle.
PAUSE, WAIT, PATIENCE, IDLE = 0.5, 20, 10, 30
# Questions that the agent may have unanswered.
MOST = 4096
SRV = 33
NXDOMAIN, SERVFAIL, FORMERR = 3, 2, 1
# Consul's words that say what is before them (agent/dns.go, dispatch).
KINDS = ("service", "node", "query", "connect", "virtual", "ingress", "addr")


class Catalog:
    """What there is, in lower case. services: name → tags; None before the first answer, as nodes."""

    def __init__(self) -> None:
        self.services: Mapping[str, Collection[str]] | None = None
        self.nodes: Collection[str] | None = None

    def took_services(self, answer: Mapping[str, Sequence[str]]) -> None:
        self.services = {name.lower(): {tag.lower() for tag in tags} for name, tags in answer.items()}

    def took_nodes(self, answer: Sequence[Mapping[str, Any]]) -> None:
        self.nodes = {node["Node"].lower() for node in answer}


def question(message: bytes) -> tuple[list[str], int, int]:
    """(labels in lower case, type, where the question ends) of a query. Raises ValueError for what is none."""
    try:
        if struct.unpack_from("!HHH", message)[2] != 1:
            raise ValueError("not one question")
        labels: list[str] = []
        place = 12
        while length := message[place]:
            if length > 63:
                raise ValueError("a compressed name in a question")
            labels.append(message[place + 1 : place + 1 + length].decode("latin-1").lower())
            place += length + 1
        if len(message) < place + 5:
            raise ValueError("half a question")
        return labels, struct.unpack_from("!H", message, place + 1)[0], place + 5
    except (IndexError, struct.error) as error:
        raise ValueError(str(error)) from None


def exists(labels: Sequence[str], kind: int, catalog: Catalog, datacenter: str) -> bool | None:
    """Whether the catalog has such a name. labels: without the domain's. kind: the question's type. None: not known yet."""
    if not labels:
        return True
    for place in reversed(range(len(labels))):
        if labels[place] in KINDS:
            word, parts, where = labels[place], labels[:place], labels[place + 1 :]
            break
        if kind == SRV and labels[place].startswith("_"):
            word, parts, where = "service", labels[: place + 1], labels[place + 1 :]
            break
    else:
        return False
    if not parts or list(where) not in ([], [datacenter.lower()]):
        return False
    if word == "node":
        return None if catalog.nodes is None else ".".join(parts) in catalog.nodes
    if word != "service":
        return False
    if catalog.services is None:
        return None
    name, tag = parts[-1], ".".join(parts[:-1])
    if len(parts) == 2 and all(part.startswith("_") for part in parts):
        # RFC 2782: _name._tag, where tcp is any.
        name, tag = (part[1:] for part in parts)
        tag = "" if tag == "tcp" else tag
    return name in catalog.services and (not tag or tag in catalog.services[name])


def refusal(query: bytes, end: int, code: int) -> bytes:
    """The answer without a record. end: where the question ends; 0 for none."""
    key, flags = struct.unpack_from("!HH", query)
    # An answer, authoritative, to the same opcode, with recursion as it was wished.
    head = struct.pack("!6H", key, 0x8400 | flags & 0x7900 | code, 1 if end else 0, 0, 0, 0)
    return head + query[12:end]


class Judge:
    """Which queries go to the agent. domain: Consul's."""

    def __init__(self, catalog: Catalog, domain: str, datacenter: str) -> None:
        self._catalog, self._datacenter = catalog, datacenter
        self._domain = domain.lower().strip(".").split(".")

    def answer(self, query: bytes) -> bytes | None:
        """The answer to a query that does not go to the agent. Raises ValueError where there is nothing to answer."""
        if len(query) < 12 or query[2] & 0x80:
            raise ValueError("no query")
        try:
            labels, kind, end = question(query)
        except ValueError:
            return refusal(query, 0, FORMERR)
        own = len(labels) - len(self._domain)
        if own < 0 or labels[own:] != self._domain:
            return refusal(query, end, NXDOMAIN)
        found = exists(labels[:own], kind, self._catalog, self._datacenter)
        if found is None:
            return refusal(query, end, SERVFAIL)
        return None if found else refusal(query, end, NXDOMAIN)


class Agent(asyncio.DatagramProtocol):
    """The agent's side of UDP. Two callers may use one id, so each question goes under one of ours."""

    def __init__(self) -> None:
        self.asked: dict[int, tuple[bytes, Callable[[bytes], None], float]] = {}
        self._last = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def ask(self, query: bytes, reply: Callable[[bytes], None]) -> None:
        now = time.monotonic()
        while self.asked and (len(self.asked) >= MOST or next(iter(self.asked.values()))[2] < now - PATIENCE):
            del self.asked[next(iter(self.asked))]
        self._last = (self._last + 1) % 65536
        self.asked.pop(self._last, None)
        self.asked[self._last] = query[:2], reply, now
        self._transport.sendto(struct.pack("!H", self._last) + query[2:])

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002
        if len(data) >= 12 and (waiting := self.asked.pop(int.from_bytes(data[:2], "big"), None)):
            waiting[1](waiting[0] + data[2:])

    def error_received(self, exc: Exception) -> None:
        """The agent is away: the caller asks again."""


class Callers(asyncio.DatagramProtocol):
    """dnsmasq's side of UDP."""

    def __init__(self, judge: Judge, agent: Agent) -> None:
        self._judge, self._agent = judge, agent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            answer = self._judge.answer(data)
        except ValueError:
            return
        if answer is None:
            self._agent.ask(data, lambda found: self._transport.sendto(found, addr))
        else:
            self._transport.sendto(answer, addr)


async def converse(judge: Judge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of dnsmasq's, which it keeps for as long as its own caller does."""
    agent: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def message(source: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(IDLE):
            return await source.readexactly(int.from_bytes(await source.readexactly(2), "big"))

    try:
        while True:
            query = await message(reader)
            answer = judge.answer(query)
            if answer is None:
                agent = agent or await asyncio.open_connection(*AGENT)
                agent[1].write(len(query).to_bytes(2, "big") + query)
                answer = await message(agent[0])
            writer.write(len(answer).to_bytes(2, "big") + answer)
            await writer.drain()
    except (OSError, EOFError, ValueError):  # also when its time is over
        pass
    finally:
        for one in (writer, *agent[1:]) if agent else (writer,):
            one.close()


def watch(path: str, take: Callable[[Any], None], secret: str) -> None:
    """Hands on each answer of the catalog's, as soon as it changes. Never returns. secret: which token to ask with."""
    index, trouble = "0", "not asked yet"
    while True:
        problem = ""
        try:
            answer, headers = local.consul(f"{path}?stale&wait={WAIT}s&index={index}", local.secret(secret))
            # A server that begins anew has nothing yet, and answers all the same, until it hears of a leader.
            if headers["X-Consul-KnownLeader"] == "false":
                raise local.ConsulError(f"{path}: no server leads")
            # What Consul advises: one that goes back begins anew.
            index = headers["X-Consul-Index"] if int(headers["X-Consul-Index"]) >= int(index) else "0"
            take(answer)
        except (local.ConsulError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            problem, index = str(error), "0"
        # Why not differs from one try to the next; that it is known, or not, is what matters.
        if bool(problem) != bool(trouble):
            print(problem or f"{path} is known", flush=True)
        trouble = problem
        time.sleep(PAUSE)


def load_limits() -> None:
    """Loads the packet rules where they are not."""
    if subprocess.run(["nft", "list", "table", *TABLE], capture_output=True, check=False).returncode:
        done = subprocess.run(["nft", "-f", str(LIMITS)], capture_output=True, text=True, check=False)
        print(f"loaded {LIMITS}" if done.returncode == 0 else done.stderr.strip(), flush=True)


def keep_limits() -> None:
    while True:
        time.sleep(LOOK)
        load_limits()


async def serve(judge: Judge) -> None:
    loop = asyncio.get_running_loop()
    _, agent = await loop.create_datagram_endpoint(Agent, remote_addr=AGENT)
    await loop.create_datagram_endpoint(lambda: Callers(judge, agent), local_addr=("127.0.0.1", PORT))
    server = await asyncio.start_server(lambda *streams: converse(judge, *streams), "127.0.0.1", PORT)
    await server.serve_forever()


def main() -> None:
    load_limits()
    threading.Thread(target=keep_limits, daemon=True).start()
    facts, catalog = local.facts(), Catalog()
    for path, take in (("catalog/services", catalog.took_services), ("catalog/nodes", catalog.took_nodes)):
        argv = (path, take, f"consul/{facts['ROLE']}-token")
        threading.Thread(target=watch, args=argv, daemon=True).start()
    asyncio.run(serve(Judge(catalog, facts["CONSUL_DOMAIN"], facts["CONSUL_DATACENTER"])))
