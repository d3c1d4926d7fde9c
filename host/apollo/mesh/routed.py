"""What the meshes that route have in common: who is a peer, the table on disk, the routes, and the daemon that follows Consul.

How packets are wrapped is the driver's (vxlan.py, wireguard.py): its Link is a device and the tables that belong to it. For
each peer every driver has a route to its bridge address and one to its Docker subnet. Containers keep their /16 and find
remote addresses through their host, which answers ARP for what it has a route to. Nothing is flooded.

apollo mesh up    makes the device and loads the last table on disk; needs no Consul
apollo mesh sync  follows Consul's catalog, keeps the table on disk, repairs what was changed by hand
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.apollo import local, network
from host.apollo.addresses import host_at, planned

TABLE = Path("/var/lib/apollo/mesh.json")
# The public half of this host's key, where the driver has one. Consul's agent publishes it in the node's metadata.
PUBLIC_KEY = Path("/var/lib/apollo/mesh.pub")
# Seconds between looks at the kernel's tables, and for which a peer may be away from the catalog before it is dropped.
REPAIR, GRACE = 5, 120
# A Curve25519 key in base64: 32 bytes, so that the last character before the = has two bits of nothing.
KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")

Table = dict[str, str]
# A driver's tables by name. Each has `routes`: destination → gateway, empty where there is none.
Tables = Mapping[str, Table]
# A command and what it reads.
Command = tuple[Sequence[str], str]


@dataclass(frozen=True)
class Peer:
    """address: in the VPC. bridge: in the overlay. subnet: a slave's Docker subnet, or empty. key: its public key, or empty."""

    name: str
    address: str
    bridge: str
    subnet: str
    key: str = ""


class Link:
    """A driver: a device, and the tables in which the kernel knows its peers. keyed: whether a peer needs a public key."""

    name = device = ""
    keyed = False

    def make(self, facts: Mapping[str, str]) -> None:
        """Makes the device where it is missing, and sets it up. Called again and again."""
        raise NotImplementedError

    def wanted(self, peers: Sequence[Peer]) -> Tables:
        raise NotImplementedError

    def present(self) -> Tables:
        raise NotImplementedError

    def commands(self, now: Tables, then: Tables, source: str) -> list[Command]:
        """What leads from one to the other. source: the own bridge address."""
        raise NotImplementedError


class OtherMesh(str):
    """A line about an entry with which nothing is wrong but that its host runs another mesh, as while a stack is switched."""


def accepted(
    facts: Mapping[str, str], entries: Iterable[Any], keyed: bool = False, known: Mapping[str, Peer] | None = None
) -> tuple[dict[str, Peer], list[str]]:
    """(the catalog's entries that count, what is wrong with the others). A node's name alone says what it may claim.
    known: the table so far, which decides whose a key is."""
    peers: dict[str, Peer] = {}
    problems: list[str] = []
    for entry in entries:
        try:
            meta = entry["Meta"] or {}
            peer = Peer(entry["Node"], entry["Address"], meta.get("bridge", ""), meta.get("subnet", ""), meta.get("key", ""))
            # A node without a bridge claims nothing: its own agent has not yet registered it.
            if peer.name == facts["NODE_NAME"] or not peer.bridge:
                continue
            plan = planned(facts, peer.name)
            if (peer.bridge, peer.subnet) != plan:
                raise ValueError(f"has {plan} in the plan")
            # Which zone it is in only the stack knows. The rest is arithmetic, so no two hosts can claim one address.
            if host_at(facts, peer.address) != peer.name:
                raise ValueError(f"{peer.address} is no address of {peer.name} in {facts['VPC_CIDR']}")
            if meta.get("mesh") != facts["MESH"]:
                problems.append(OtherMesh(ignored(entry, f"its mesh is {meta.get('mesh')}, here it is {facts['MESH']}")))
                continue
            if keyed and not KEY.fullmatch(peer.key):
                raise ValueError("has no public key")
            peers[peer.name] = peer
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(ignored(entry, str(error)))
    if keyed:
        for peer in doubtful(peers.values(), known or {}):
            problems.append(ignored(peer, "has another host's public key"))
            del peers[peer.name]
    return peers, problems


def ignored(entry: Any, why: str) -> str:
    return f"ignored {str(entry)[:300]!r}: {why}"


def doubtful(peers: Iterable[Peer], known: Mapping[str, Peer]) -> list[Peer]:
    """Those with a key that is, or may be, another's. A key belongs to the host that had it in the table so far; where no
    host had it, no claimant gets it: the catalog's order must not decide, or a host that publishes its neighbour's key cuts
    that neighbour off."""
    peers = list(peers)
    owners = {peer.key: peer.name for peer in known.values()}
    if PUBLIC_KEY.exists():
        owners[PUBLIC_KEY.read_text().strip()] = ""  # this host's own
    claims = Counter(peer.key for peer in peers)
    return [p for p in peers if (owners[p.key] != p.name if p.key in owners else claims[p.key] > 1)]


def routes(peers: Iterable[Peer], through_bridge: bool) -> Table:
    """Destination → gateway. through_bridge: whether the link needs a next hop, as one that has MACs does."""
    peers = list(peers)
    # The addresses first: a subnet's route goes through one.
    subnets = {peer.subnet: peer.bridge if through_bridge else "" for peer in peers if peer.subnet}
    return {peer.bridge: "" for peer in peers} | subnets


def present_routes(device: str) -> Table:
    return {entry["dst"]: entry.get("gateway", "") for entry in shown("ip -j -4 route", device)}


def shown(command: str, device: str) -> list[dict[str, Any]]:
    """What a tool shows of a device. Where it has nothing to show, iproute2 prints [], [{}] or nothing at all."""
    return [entry for entry in json.loads(run(*command.split(), "show", "dev", device) or "[]") if entry]


def differ(now: Table, then: Table) -> tuple[list[str], list[tuple[str, str]]]:
    """(keys to take away, entries to set)."""
    return sorted(now.keys() - then.keys()), [(key, value) for key, value in then.items() if now.get(key) != value]


def route_lines(device: str, now: Table, then: Table, source: str) -> tuple[list[str], list[str]]:
    """Lines for `ip -batch`: (routes to take away, routes to set)."""
    gone, new = differ(now, then)
    lines = [
        f"route replace {route} {f'via {gateway} onlink ' if gateway else ''}dev {device} src {source}"
        for route, gateway in new
    ]
    return [f"route del {route} dev {device}" for route in gone], lines


def apply(link: Link, peers: Mapping[str, Peer], source: str) -> None:
    """Brings the kernel in line with the peers, each tool in one batch."""
    now, then = link.present(), link.wanted(list(peers.values()))
    for argv, lines in link.commands(now, then, source):
        run(*argv, lines=lines)
    changed = sum(len(gone) + len(new) for gone, new in (differ(now[name], then[name]) for name in then))
    if changed:
        print(f"{len(peers)} peers, {changed} entries changed", flush=True)


def run(*argv: str, lines: str = "") -> str:
    done = subprocess.run(argv, input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(argv)[:200]}: {done.stderr.strip()}", flush=True)
    return done.stdout


def answer_for_others() -> None:
    """Makes the bridge answer its containers' ARP for every address that this host has a route to."""
    Path("/proc/sys/net/ipv4/conf/weave/proxy_arp").write_text("1")
    # The kernel delays proxied answers by up to 0.8 s, and with them every first packet.
    Path("/proc/sys/net/ipv4/neigh/weave/proxy_delay").write_text("0")


def load(facts: Mapping[str, str], keyed: bool = False) -> dict[str, Peer]:
    """The table of the last sync; empty where there is none or it cannot be read."""
    try:
        return accepted(facts, json.loads(TABLE.read_text()), keyed)[0]
    except (OSError, ValueError, TypeError):
        return {}


def save(facts: Mapping[str, str], peers: Mapping[str, Peer]) -> None:
    table = [
        {
            "Node": peer.name,
            "Address": peer.address,
            "Meta": {"bridge": peer.bridge, "subnet": peer.subnet, "mesh": facts["MESH"], "key": peer.key},
        }
        for _, peer in sorted(peers.items())
    ]
    local.write(TABLE, json.dumps(table, indent=0) + "\n")


def catalog(facts: Mapping[str, str], query: str = "") -> tuple[Any, str]:
    """(every node of the catalog, its index). Raises ConsulError, also where the token does not show all of them."""
    entries, headers = local.consul(f"catalog/nodes?stale={query}", local.secret(f"consul/{facts['ROLE']}-token"))
    if headers.get("X-Consul-Results-Filtered-By-ACLs") == "true":
        raise local.ConsulError("the token does not yet show the whole catalog")
    return entries or [], headers.get("X-Consul-Index", "0")


def sync(link: Link, facts: Mapping[str, str]) -> None:
    """Never returns. Consul's absence changes nothing; a peer's does after GRACE seconds of a complete catalog without it."""
    peers = load(facts, link.keyed)
    missing: dict[str, float] = {}
    reported: list[str] = []
    index, trouble = "0", None
    while True:
        try:
            entries, index = catalog(facts, f"&index={index}&wait={REPAIR}s")
            found, problems = accepted(facts, entries, link.keyed, peers)
            for line in problems:
                if line not in reported:
                    print(line, flush=True)
            reported = problems
            now = time.monotonic()
            missing = {name: missing.get(name, now) for name in peers.keys() - found.keys()}
            new = {name: peer for name, peer in peers.items() if now - missing.get(name, now) < GRACE} | found
            if new != peers:
                peers = new
                save(facts, peers)
            problem = ""
        except (local.ConsulError, OSError) as error:
            index, problem = "0", f"the table on disk serves: {error}"
            time.sleep(2)
        if problem != trouble:
            trouble = problem
            print(problem or "follows the catalog", flush=True)
        link.make(facts)
        apply(link, peers, facts["BRIDGE_ADDRESS"])


def check(link: Link, facts: Mapping[str, str]) -> tuple[str, list[str]]:
    """(what stands, what an operator should look at), for apollo-check. Raises ValueError where this host is cut off, and
    ConsulError where only the catalog could tell."""
    mtu = network.mtu(link.device)
    if mtu != int(facts["BRIDGE_MTU"]):
        raise ValueError(f"the MTU of {link.device} is {mtu or 'unknown: it is not up'}, planned {facts['BRIDGE_MTU']}")
    peers = load(facts, link.keyed)
    if link.present() != link.wanted(list(peers.values())):
        raise ValueError(f"the kernel does not have the {len(peers)} peers on disk; see journalctl -u apollo-mesh-sync")
    problems: list[str] = []
    try:
        found, problems = accepted(facts, catalog(facts)[0], link.keyed, peers)
    except local.ConsulError:
        if not peers:
            raise
        found = peers  # the check of Consul says so
    others = [line for line in problems if isinstance(line, OtherMesh)]
    false = [line for line in problems if not isinstance(line, OtherMesh)]
    if not peers and found:
        raise ValueError(f"none of the catalog's {len(found)} peers is on disk; see journalctl -u apollo-mesh-sync")
    if not peers and false:
        raise ValueError(f"no peers: {len(problems)} of the catalog's entries ignored, such as: {false[0]}")
    warnings: list[str] = []
    if others:
        warnings.append(f"{len(others)} hosts of another mesh, such as: {others[0]}")
    if false:
        warnings.append(f"{len(false)} of the catalog's entries ignored, such as: {false[0]}")
    if not peers:
        return "no other host in the catalog" if not problems else "no peers", warnings
    bridges = {name: peer.bridge for name, peer in peers.items()}
    answer, silent = network.answers(bridges, facts["NODE_NAME"], link.device)
    return f"{len(peers)} peers, {answer}", warnings + silent


def link(facts: Mapping[str, str]) -> Link:
    """That of this host's mesh. Raises ValueError for one that has none."""
    from host.apollo.mesh import vxlan, wireguard

    for known in (vxlan.LINK, wireguard.LINK):
        if known.name == facts["MESH"]:
            return known
    raise ValueError(f"the mesh {facts['MESH']} has no device that apollo makes")


def up() -> None:
    facts = local.facts()
    own = link(facts)
    own.make(facts)
    apply(own, load(facts, own.keyed), facts["BRIDGE_ADDRESS"])


def follow() -> None:
    facts = local.facts()
    sync(link(facts), facts)
