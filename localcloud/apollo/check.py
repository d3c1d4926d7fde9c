"""The connectivity check: every way a packet must go through the network, tried for real on the booted hosts.

Probes are containers of the demo's image, one on each slave, started for the check and removed after it.
"""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from . import demo
from .fleet import Fleet, FleetError, overlay_ip
from .hosts import HostRow

PROBE = "apollo-probe"
# IPv4 and ICMP headers, which a ping's -s does not count.
_PING_HEADERS = 28
# Seconds. Names and routes need a moment after a host or a container came.
PATIENCE = 20.0
_PARALLEL = 8


@dataclass(frozen=True)
class Result:
    """One thing tried. kind: which promise of the network; seconds: how long the last try took."""

    kind: str
    source: str
    target: str
    passed: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class _Try:
    kind: str
    source: str
    target: str
    # Empty when all is well, else what was seen instead.
    action: Callable[[], str]


@dataclass(frozen=True)
class Expectations:
    """mtu: bytes in the overlay. domain: the edge's. edge: host and port of this machine that lead to the edge's :80.

    demo: the demo's containers that run.
    """

    mtu: int
    domain: str
    consul_domain: str
    edge: tuple[str, int]
    demo: tuple[demo.DemoContainer, ...]


def standing(fleet: Fleet, planned: Sequence[str], patience: float = PATIENCE) -> tuple[Fleet, list[Result]]:
    """The fleet without the hosts that are not up, and a failed result for each of these. planned: every host's name."""
    states = {row.name: row.state for row in fleet.rows}

    def look(name: str) -> str:
        done = fleet.run(name, ["true"], timeout=60)
        return "" if done.returncode == 0 else f"no command runs on it: {done.stderr.decode(errors='replace').strip()}"

    def result(name: str) -> Result:
        if states.get(name) == "running":
            return _settle(_Try("host is up", "this machine", name, lambda: look(name)), patience)
        seen = f"its instance is {states[name]}" if name in states else "it has no instance"
        return Result("host is up", "this machine", name, passed=False, detail=seen, seconds=0)

    names = sorted({*planned, *states})
    with ThreadPoolExecutor(_PARALLEL) as pool:
        results = list(pool.map(result, names))
    up = {result.target for result in results if result.passed}
    return replace(fleet, rows=tuple(row for row in fleet.rows if row.name in up)), [r for r in results if not r.passed]


def run(
    fleet: Fleet,
    expected: Expectations,
    *,
    flows: int = 1,
    patience: float = PATIENCE,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Tries everything and gives every result, failures too. flows: how many requests of each kind at the same time.

    Raises FleetError only where the check itself cannot be set up (no Docker on a slave, say).
    """
    with _probes(fleet) as addresses:
        tries = list(_matrix(fleet, expected, addresses, flows))
        results: list[Result] = []
        with ThreadPoolExecutor(_PARALLEL) as pool:
            for result in pool.map(lambda one: _settle(one, patience), tries):
                results.append(result)
                if progress:
                    progress(len(results), len(tries))
        return results


def published(
    edge: tuple[str, int], domain: str, containers: Sequence[demo.DemoContainer], patience: float
) -> Iterator[Result]:
    """Whether every instance of each service answers at the edge, as results. Arguments: those of Expectations."""
    for service, answers in _by_service(containers).items():
        name = f"{service}.{domain}"
        yield _settle(_Try("web through the edge", edge[0], name, _edge(edge, name, answers)), patience)


def _by_service(containers: Sequence[demo.DemoContainer]) -> dict[str, set[str]]:
    """How the answers of each service's instances begin."""
    services = sorted({container.service for container in containers})
    return {service: {f"{service} on {c.host}" for c in containers if c.service == service} for service in services}


def _settle(one: _Try, patience: float) -> Result:
    """Tries until it passes or patience is over: convergence is allowed time, a wrong answer at the end is not."""
    deadline = time.monotonic() + patience
    while True:
        begun = time.monotonic()
        try:
            seen = one.action()
        except FleetError as error:
            seen = str(error)
        ended = time.monotonic()
        if not seen or ended >= deadline:
            return Result(one.kind, one.source, one.target, not seen, seen or "ok", round(ended - begun, 3))
        time.sleep(min(0.5, max(0.0, deadline - ended)))


@contextmanager
def _probes(fleet: Fleet) -> Generator[dict[str, str]]:
    """A probe container on every slave; gives slave → the probe's overlay address."""
    slaves = [slave.name for slave in fleet.of("slave")]

    def gone(slave: str) -> None:
        fleet.run(slave, ["docker", "rm", "-f", PROBE])

    def made(slave: str) -> str:
        demo.load_image(fleet, slave)
        gone(slave)
        fleet.check(slave, ["docker", "run", "-d", "--name", PROBE, demo.IMAGE, "probe"])
        inspect = ["docker", "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", PROBE]
        return fleet.check(slave, inspect).strip()

    try:
        # Its end waits for all of them, also where one failed.
        with ThreadPoolExecutor(_PARALLEL) as pool:
            addresses = dict(zip(slaves, pool.map(made, slaves), strict=True))
        yield addresses
    finally:
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(gone, slaves))


def _matrix(fleet: Fleet, expected: Expectations, addresses: dict[str, str], flows: int) -> Iterator[_Try]:
    slaves = fleet.of("slave")
    for a, b in itertools.product(slaves, slaves):
        target = addresses[b.name]
        yield _Try(
            "container → container", a.name, f"{b.name} {target}", _container_http(fleet, a, target, addresses[a.name], flows)
        )
    for node in [*slaves, *fleet.of("control"), *fleet.of("edge")]:
        for b in slaves:
            target = addresses[b.name]
            yield _Try("node → container", node.name, f"{b.name} {target}", _node_http(fleet, node, target, flows))
    for node in [*slaves, *fleet.of("control"), *fleet.of("edge")]:
        for peer in [*fleet.of("control"), *fleet.of("edge"), *slaves]:
            if peer is not node:
                yield _Try(
                    "node → node", node.name, f"{peer.name} {overlay_ip(peer)}", _ping(fleet, node, overlay_ip(peer), 56)
                )
    for a, b in itertools.permutations(slaves, 2):
        target = addresses[b.name]
        yield _Try(f"{expected.mtu} bytes unfragmented", a.name, f"{b.name} {target}", _mtu(fleet, a, target, expected.mtu))
    for slave in slaves:
        name = f"consul.service.{expected.consul_domain}"
        yield _Try("name from a container", slave.name, name, _name(fleet, slave, name, None))
        yield _Try("no role credentials", f"container on {slave.name}", "169.254.169.254", _no_metadata(fleet, slave))
    if expected.demo:
        yield from _demo(fleet, expected)


def _demo(fleet: Fleet, expected: Expectations) -> Iterator[_Try]:
    for service, answers in _by_service(expected.demo).items():
        for slave in fleet.of("slave"):
            name = f"{service}.service.{expected.consul_domain}"
            yield _Try("name from a container", slave.name, name, _name(fleet, slave, name, len(answers)))
        host = f"{service}.{expected.domain}"
        yield _Try("web through the edge", "127.0.0.1", host, _edge(expected.edge, host, answers))
    yield _Try("unpublished is hidden", "127.0.0.1", f"nothing.{expected.domain}", _hidden(expected))


def _in_probe(*argv: str) -> list[str]:
    return ["docker", "exec", PROBE, *argv]


def _at_once(flows: int, command: str) -> str:
    """A shell script that runs the command so many times at the same time, in one process of the host's, not so many."""
    return f"i=0; while [ $i -lt {flows} ]; do ({command} || echo failed) & i=$((i + 1)); done; wait"


def _container_http(fleet: Fleet, host: HostRow, target: str, own: str, flows: int) -> Callable[[], str]:
    # busybox's own wget -T crashes in Debian 12; its timeout applet around it does the same.
    script = _at_once(flows, f"timeout 10 wget -q -O - http://{target}{demo.CLIENT_PATH}")

    def once() -> str:
        seen = _answers(fleet, host, _in_probe("sh", "-c", script), flows)
        # Inside the overlay nothing may rewrite who is calling.
        strangers = [address for address in seen if address not in (own, "failed")]
        return f"came from {strangers[0]}, not from the container's own {own}" if strangers else _lost(seen)

    return once


def _node_http(fleet: Fleet, host: HostRow, target: str, flows: int) -> Callable[[], str]:
    script = _at_once(flows, f"curl -sS --noproxy '*' --max-time 10 http://{target}{demo.CLIENT_PATH}")
    return lambda: _lost(_answers(fleet, host, ["sh", "-c", script], flows))


def _answers(fleet: Fleet, host: HostRow, argv: list[str], flows: int) -> list[str]:
    """The caller's address as each flow's answer gives it, or `failed`."""
    lines = fleet.run(host.name, argv, timeout=60).stdout.decode(errors="replace").split()
    seen = [line.strip("[]").removeprefix("::ffff:") for line in lines]
    return seen + ["failed"] * (flows - len(seen))


def _lost(seen: list[str]) -> str:
    failed = seen.count("failed")
    return f"{failed} of {len(seen)} flows without an answer" if failed else ""


def _ping(fleet: Fleet, host: HostRow, target: str, size: int) -> Callable[[], str]:
    def once() -> str:
        done = fleet.run(host.name, ["ping", "-n", "-q", "-c", "1", "-W", "2", "-M", "do", "-s", str(size), target], timeout=60)
        words = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()
        return "" if done.returncode == 0 else f"no reply: {words[-1] if words else done.returncode}"

    return once


def _mtu(fleet: Fleet, host: HostRow, target: str, mtu: int) -> Callable[[], str]:
    fits, over = _ping(fleet, host, target, mtu - _PING_HEADERS), _ping(fleet, host, target, mtu - _PING_HEADERS + 1)

    def once() -> str:
        seen = fits()
        if seen:
            return seen
        return "" if over() else f"{mtu + 1} bytes passed too: the MTU is not the planned one"

    return once


def _name(fleet: Fleet, host: HostRow, name: str, members: int | None) -> Callable[[], str]:
    def once() -> str:
        done = fleet.run(host.name, _in_probe("timeout", "5", "nslookup", name), timeout=60)
        answer = done.stdout.decode(errors="replace").partition("Name:")[2]
        found = {line.split()[-1] for line in answer.splitlines() if line.startswith("Address")}
        if not found:
            return f"not resolved: {(done.stdout + done.stderr).decode(errors='replace').strip()[-200:]}"
        if members is not None and len(found) != members:
            return f"{len(found)} addresses instead of {members}: {', '.join(sorted(found))}"
        return ""

    return once


def _no_metadata(fleet: Fleet, host: HostRow) -> Callable[[], str]:
    # A refusal and silence are both right; any answer, even "401", means a container can ask.
    command = _in_probe("timeout", "3", "wget", "-q", "-O", "-", "http://169.254.169.254/latest/meta-data/")

    def once() -> str:
        done = fleet.run(host.name, command, timeout=60)
        said = done.stderr.decode(errors="replace")
        return "the metadata service answers a container" if done.returncode == 0 or "server returned" in said else ""

    return once


def _request(edge: tuple[str, int], host: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*edge, timeout=5)
    try:
        connection.request("GET", "/", headers={"Host": host})
        response = connection.getresponse()
        return response.status, response.read(4096).decode(errors="replace").strip()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


def _edge(edge: tuple[str, int], host: str, answers: set[str]) -> Callable[[], str]:
    def once() -> str:
        seen = [_request(edge, host) for _ in range(4 * len(answers))]
        failed = [f"{status} {text[:80]}" for status, text in seen if status != 200]
        if failed:
            return f"{len(failed)} of {len(seen)} failed: {failed[0]}"
        absent = {answer for answer in answers if not any(text.startswith(answer) for _, text in seen)}
        return f"never answered: {', '.join(sorted(absent))}" if absent else ""

    return once


def _hidden(expected: Expectations) -> Callable[[], str]:
    def once() -> str:
        status, _ = _request(expected.edge, f"nothing.{expected.domain}")
        return "" if status == 404 else f"status {status} instead of 404"

    return once
