"""What Weave's router says of its connections, against the hosts that Consul says are alive, for apollo-check.

Format of /status/connections, a line each: `->` or `<-`, address:port, state (established, pending, retrying, failed …), words.
"""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import apollo

CONNECTIONS = "http://127.0.0.1:6784/status/connections"
ALIVE = "health/state/passing?stale=&filter=" + urllib.parse.quote('CheckID == "serfHealth"')


def hosts(facts: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """(address → name of the other hosts that are alive and in this mesh, names of those in another). Raises ConsulError."""
    token = apollo.secret(f"consul/{facts['ROLE']}-token")
    nodes: list[Any] = apollo.consul("catalog/nodes?stale=", token)[0] or []
    # Consul keeps a host that died for three days, and only its own check says that it did.
    alive = {check["Node"] for check in apollo.consul(ALIVE, token)[0] or []}
    others = [node for node in nodes if node["Node"] in alive and node["Node"] != facts["NODE_NAME"] and node["Meta"]]
    meshes = {node["Node"]: node["Meta"].get("mesh", facts["MESH"]) for node in others if node["Meta"].get("bridge")}
    own = {node["Address"]: node["Node"] for node in others if meshes.get(node["Node"]) == facts["MESH"]}
    return own, sorted(name for name, mesh in meshes.items() if mesh != facts["MESH"])


def check(facts: Mapping[str, str]) -> tuple[str, list[str]]:
    """(what stands, what an operator should look at). Raises ValueError where this host is cut off, and
    ConsulError where only the catalog could tell."""
    try:
        with urllib.request.urlopen(CONNECTIONS, timeout=5) as answer:
            lines = [line for line in answer.read().decode().splitlines() if len(line.split()) > 2]
    except OSError as error:
        why = "see journalctl -u apollo-mesh"
        raise ValueError(f"Weave's router does not answer: containers reach their own host only; {why} ({error})") from None
    made = [line for line in lines if state(line) == "established"]
    try:
        others, strangers = hosts(facts)
    except apollo.ConsulError:
        if not made:
            raise
        others, strangers = dict[str, str](), list[str]()  # the check of Consul says so
    linked = {address(line) for line in made} | {facts["PRIVATE_IP"]}
    # A seed that the catalog does not have is a control node that does not exist: the router asks all five for ever.
    nobody = set(facts["CONTROL_ADDRESSES"].split()) - others.keys()
    tried = {address(line): line for line in lines if address(line) not in linked | nobody}
    missing = [f"{others[host]} ({host})" for host in sorted(others) if host not in linked]
    why = " ".join(next(iter(tried.values()), "the router tries none").split())
    if missing and not made:
        raise ValueError(
            f"no connection to any of {len(missing)} hosts, such as {missing[0]}: {why}. Is its password this host's, and are "
            "tcp 6783, udp 6783-6784 and ESP open? See journalctl -u apollo-mesh"
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
    return f"{len(made)} connections", warnings


def address(line: str) -> str:
    return line.split()[1].rpartition(":")[0]


def state(line: str) -> str:
    return line.split()[2]
