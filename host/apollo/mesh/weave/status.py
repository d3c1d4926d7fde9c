"""What Weave's router says of its connections, against the hosts that Consul says are alive, for apollo-check. And whether
packets cross them: a connection stands while they are lost, as where ESP is closed.

Format of /status/connections, a line each: `->` or `<-`, address:port, state (established, pending, retrying, failed …), words.
"""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from host.apollo import local, network
from plan import ports

CONNECTIONS = f"http://127.0.0.1:{ports.WEAVE_HTTP}/status/connections"
ALIVE = "health/state/passing?stale=&filter=" + urllib.parse.quote('CheckID == "serfHealth"')


class Host(NamedTuple):
    """bridge: its address in the overlay, empty where it claims one that is not there."""

    name: str
    bridge: str


def hosts(facts: Mapping[str, str]) -> tuple[dict[str, Host], list[str]]:
    """(the other hosts that are alive and in this mesh, by address; names of those in another). Raises ConsulError."""
    token = local.secret(f"consul/{facts['ROLE']}-token")
    nodes: list[Any] = local.consul("catalog/nodes?stale=", token)[0] or []
    # Consul keeps a host that died for three days, and only its own check says that it did.
    alive = {check["Node"] for check in local.consul(ALIVE, token)[0] or []}
    found: dict[str, Host] = {}
    strangers: list[str] = []
    for node in nodes:
        name, meta = node["Node"], node["Meta"] or {}
        if name not in alive or name == facts["NODE_NAME"] or not meta.get("bridge"):
            continue
        if meta.get("mesh", facts["MESH"]) == facts["MESH"]:
            found[node["Address"]] = Host(name, bridge(facts, meta["bridge"]))
        else:
            strangers.append(name)
    return found, sorted(strangers)


def bridge(facts: Mapping[str, str], claimed: str) -> str:
    """What a host claims, if it is an address of the overlay: it becomes an argument of a command."""
    try:
        return claimed if IPv4Address(claimed) in IPv4Network(facts["OVERLAY_CIDR"]) else ""
    except ValueError:
        return ""


def connections() -> list[str]:
    """The router's lines. Raises OSError where it does not answer."""
    with urllib.request.urlopen(CONNECTIONS, timeout=5) as answer:
        return [line for line in answer.read().decode().splitlines() if len(line.split()) > 2]


def linked(lines: Iterable[str]) -> set[str]:
    """The addresses to which a connection stands."""
    return {address(line) for line in lines if state(line) == "established"}


def check(facts: Mapping[str, str]) -> tuple[str, list[str]]:
    """(what stands, what an operator should look at). Raises ValueError where this host is cut off, and
    ConsulError where only the catalog could tell."""
    try:
        lines = connections()
    except OSError as error:
        why = "see journalctl -u apollo-mesh"
        raise ValueError(f"Weave's router does not answer: containers reach their own host only; {why} ({error})") from None
    made = [line for line in lines if state(line) == "established"]
    try:
        others, strangers = hosts(facts)
    except local.ConsulError:
        if not made:
            raise
        others, strangers = dict[str, Host](), list[str]()  # the check of Consul says so
    reached = linked(lines) | {facts["PRIVATE_IP"]}
    # A seed that the catalog does not have is a control node that does not exist: the router asks all five for ever.
    absent = set(facts["CONTROL_ADDRESSES"].split()) - others.keys()
    tried = {address(line): line for line in lines if address(line) not in reached | absent}
    missing = [f"{others[host].name} ({host})" for host in sorted(others) if host not in reached]
    why = " ".join(next(iter(tried.values()), "the router tries none").split())
    if missing and not made:
        raise ValueError(
            f"no connection to any of {len(missing)} hosts, such as {missing[0]}: {why}. Is its password this host's, and are "
            f"tcp {ports.WEAVE}, udp {ports.WEAVE}-{ports.WEAVE_DATA} and ESP open? See journalctl -u apollo-mesh"
        )
    warnings: list[str] = []
    slow = sum("sleeve" in line.split() for line in made)
    if slow:
        warnings.append(f"{slow} of {len(made)} connections are on the slow sleeve; see weave status connections")
    if missing:
        warnings.append(f"no connection to {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''}: {why}")
    elif tried:
        warnings.append(f"{len(tried)} connections do not come about, such as: {why}")
    if strangers:
        warnings.append(f"{len(strangers)} hosts of another mesh, such as {strangers[0]}")
    stand = f"{len(made)} connections"
    asked = {host.name: host.bridge for place, host in others.items() if place in reached and host.bridge}
    if not asked:
        return stand, warnings
    try:
        answer, silent = network.answers(asked, facts["NODE_NAME"], "weave")
    except ValueError as error:
        raise ValueError(f"{error}, though there are {stand}: is ESP open? See weave status connections") from None
    return f"{stand}, {answer}", warnings + silent


def address(line: str) -> str:
    return line.split()[1].rpartition(":")[0]


def state(line: str) -> str:
    return line.split()[2]
