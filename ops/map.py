"""Draws a stack: zones, hosts, addresses, subnets, mesh links, services and the edge's routes, as an SVG and as a page.

The plan gives the places, and the state says what is deployed. Where hosts answer, Consul's catalog and the meshes' tables say
what is alive.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from ops.errors import OpsError
from ops.reach import opened
from ops.text import safe

if TYPE_CHECKING:
    from ops.survey import Service, Survey
    from plan.cluster import Cluster, PlannedHost

# With more hosts than this, single links are left out: the picture would be a grey mass.
_LINKS = 16
_CARD, _LINE, _GAP, _PAD = 236, 15, 16, 16
_COLOURS = {"slave": "#2563eb", "control": "#7c3aed", "edge": "#c2410c"}
_GOOD, _BAD, _IDLE = "#15803d", "#b91c1c", "#94a3b8"


@dataclass
class Card:
    """One host in the picture. state: planned, deployed, alive or away."""

    host: PlannedHost
    state: str
    lines: list[str] = field(default_factory=list[str])
    services: list[Service] = field(default_factory=list)
    x: float = 0
    y: float = 0

    @property
    def height(self) -> float:
        return 34 + _LINE * (len(self.lines) + len(self.services)) + 6


@dataclass
class Picture:
    """All that is drawn. routes: host name and path at the edge → the healthy instances behind it, as address:port."""

    stack: str
    plan: Cluster
    cards: dict[str, Card]
    links: dict[tuple[str, str], bool | None]
    routes: dict[str, list[str]]
    published: frozenset[str]
    outside: list[Service]
    live: bool


def picture(stack: str, plan: Cluster, deployed: dict[str, str], seen: Survey | None) -> Picture:
    """Arranges what is known. deployed: host → instance id. seen: None where no host could be asked."""
    services = seen.services if seen else []
    cards: dict[str, Card] = {}
    for host in plan.hosts:
        card = cards[host.name] = Card(host, _state(host, deployed, seen))
        card.lines = [f"VPC {host.private_ip}", f"bridge {host.bridge_address}"]
        if host.docker_subnet:
            card.lines.append(f"containers {host.docker_subnet}")
        card.lines.append(f"generation {host.generation}" + (f", {deployed[host.name]}" if deployed.get(host.name) else ""))
        card.services = [entry for entry in services if entry["node"] == host.name and entry["name"] != "consul"]
    links: dict[tuple[str, str], bool | None] = {}
    for one, other in combinations(cards, 2):
        known = [peer in seen.mesh[host] for host, peer in ((one, other), (other, one)) if seen and host in seen.mesh]
        links[one, other] = all(known) if known else None
    behind: dict[str, list[str]] = {}
    for entry in services:
        behind.setdefault(entry["name"], []).extend([f"{entry['address']}:{entry['port']}"] if entry["healthy"] else [])
    published = seen.routes if seen else {}
    routes = {key.removesuffix("/"): behind.get(service, []) for key, service in published.items()}
    outside = [entry for entry in services if entry["node"] not in cards]
    live = seen is not None and seen.nodes is not None
    return Picture(stack, plan, cards, links, routes, frozenset(published.values()), outside, live)


def _state(host: PlannedHost, deployed: dict[str, str], seen: Survey | None) -> str:
    if not deployed.get(host.name):
        return "planned"
    if seen is None:
        return "deployed"
    node = (seen.nodes or {}).get(host.name)
    return "alive" if host.name not in seen.silent and node and node["alive"] else "away"


def svg(drawn: Picture) -> str:
    """The picture as one SVG that needs nothing beside it."""
    plan = drawn.plan
    width, column = _PAD * 3 + len(plan.zones) * (_CARD + 3 * _PAD), _CARD + 2 * _PAD
    body: list[str] = []
    top = 96.0 + _LINE * max(1, len(drawn.routes) + len(drawn.outside))
    # Public subnets in one row, private ones in the next, so that zones line up.
    rows = [
        (
            kind,
            [
                [card for card in drawn.cards.values() if card.host.zone is zone and card.host.public is public]
                for zone in plan.zones
            ],
        )
        for kind, public in (("public", True), ("private", False))
    ]
    y = top + 40
    for kind, columns in rows:
        tallest = max((sum(card.height + _GAP for card in cards) for cards in columns), default=0)
        height = max(tallest, _LINE) + 34
        for number, (zone, cards) in enumerate(zip(plan.zones, columns, strict=True)):
            x = _PAD * 2 + number * (column + _PAD)
            subnet = zone.public_subnet if kind == "public" else zone.private_subnet
            body.append(f'<rect x="{x}" y="{y}" width="{column}" height="{height}" rx="8" class="subnet"/>')
            body.append(_text(x + _PAD, y + 20, f"{zone.name} {kind}, {subnet}", "small"))
            at = y + 30
            for card in cards:
                card.x, card.y = x + _PAD, at
                at += card.height + _GAP
        y += height + _GAP
    head = [
        _text(_PAD, 30, f"Apollo stack {drawn.stack}", "title"),
        _text(_PAD, 50, f"overlay {plan.overlay.network} over {plan.mesh.name}, MTU {plan.mtu}; {_said(drawn)}", "small"),
        _text(_PAD, 74, f"edge routes, *.{plan.settings.edge.domain}", "strong"),
    ]
    lines = [f"{name} → {', '.join(behind) or 'no healthy instance'}" for name, behind in drawn.routes.items()]
    lines += [f"outside the overlay: {entry['name']} at {entry['address']}:{entry['port']}" for entry in drawn.outside]
    for number, line in enumerate(lines or ["none published, or no host could be asked"]):
        head.append(_text(_PAD, 74 + _LINE * (number + 1), line, "small"))
    frame = [f'<rect x="{_PAD}" y="{top}" width="{width - 2 * _PAD}" height="{y - top + 2}" rx="10" class="vpc"/>']
    frame.append(_text(_PAD * 2, top + 22, f"VPC {plan.vpc.network}, {plan.settings.region}", "strong"))
    total = y + 40
    parts = [*head, *frame, *body, *_links(drawn), *(part for card in drawn.cards.values() for part in _card(card))]
    parts.append(_legend(total - 14))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total:g}" width="{width}" height="{total:g}" '
        f'role="img" aria-label="Apollo stack {escape(drawn.stack)}">\n<style>{_STYLE}</style>\n'
        f'<rect width="100%" height="100%" class="page"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#0f172a}.title{font-size:20px;font-weight:700}.strong{font-weight:600}"
    ".small{font-size:11.5px;fill:#334155}.page{fill:#ffffff}.vpc{fill:#f8fafc;stroke:#475569}"
    ".subnet{fill:#eef2f7;stroke:#cbd5e1}.card{fill:#ffffff;stroke-width:2}.link{stroke-width:1.2;fill:none}"
)


def _said(drawn: Picture) -> str:
    alive = sum(card.state == "alive" for card in drawn.cards.values())
    count = len(drawn.cards)
    return f"{alive} of {count} hosts alive" if drawn.live else f"{count} hosts, {_counts(drawn)}"


def _counts(drawn: Picture) -> str:
    states = [card.state for card in drawn.cards.values()]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _links(drawn: Picture) -> Iterator[str]:
    if len(drawn.cards) > _LINKS:
        return
    for (one, other), good in drawn.links.items():
        a, b = drawn.cards[one], drawn.cards[other]
        xa, ya, xb, yb = a.x + _CARD / 2, a.y + a.height / 2, b.x + _CARD / 2, b.y + b.height / 2
        # Hosts in one column would have their links behind the cards between them: those go around.
        bend = _CARD * 0.62 if abs(xa - xb) < 1 else 0
        colour = {True: _GOOD, False: _BAD, None: _IDLE}[good]
        path = f"M{xa:g},{ya:g} Q{(xa + xb) / 2 + bend:g},{(ya + yb) / 2:g} {xb:g},{yb:g}"
        state = {True: "in the mesh", False: "missing in the mesh", None: "planned"}[good]
        title = f"<title>{escape(one)} to {escape(other)}: {state}</title>"
        yield f'<path d="{path}" class="link" stroke="{colour}" opacity="{0.9 if good is False else 0.35}">{title}</path>'


def _card(card: Card) -> Iterator[str]:
    host, colour = card.host, _COLOURS[card.host.role]
    yield f'<g id="{escape(host.name)}"><title>{escape(host.name)}: {card.state}</title>'
    yield f'<rect x="{card.x}" y="{card.y:g}" width="{_CARD}" height="{card.height:g}" rx="7" class="card" stroke="{colour}"/>'
    dot = {"alive": _GOOD, "away": _BAD}.get(card.state, _IDLE)
    yield f'<circle cx="{card.x + _CARD - 14}" cy="{card.y + 15:g}" r="5" fill="{dot}"/>'
    yield _text(card.x + 10, card.y + 20, host.name, "strong")
    y = card.y + 22
    for line in card.lines:
        y += _LINE
        yield _text(card.x + 10, y, line, "small")
    for entry in card.services:
        y += _LINE
        mark = _GOOD if entry["healthy"] else _BAD
        yield f'<circle cx="{card.x + 14}" cy="{y - 4:g}" r="3.5" fill="{mark}"/>'
        yield _text(card.x + 24, y, f"{entry['name']} {entry['address']}:{entry['port']}", "small")
    yield "</g>"


def _legend(y: float) -> str:
    return _text(_PAD, y, "dot: green alive, red away, grey not asked; line: a mesh link, red where a host lacks it", "small")


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(safe(text))}</text>'


def page(drawn: Picture) -> str:
    """A page with the picture and the same as tables, which a reader can copy from."""
    hosts = [
        (
            card.host.name,
            card.state,
            card.host.zone.name,
            str(card.host.private_ip),
            str(card.host.bridge_address),
            str(card.host.docker_subnet or ""),
            str(card.host.generation),
        )
        for card in drawn.cards.values()
    ]
    listed = [(entry, card.host.name) for card in drawn.cards.values() for entry in card.services]
    listed += [(entry, entry["node"]) for entry in drawn.outside]
    services = [
        (
            entry["name"],
            where,
            f"{entry['address']}:{entry['port']}",
            "yes" if entry["healthy"] else "no",
            "yes" if entry["name"] in drawn.published else "no",
        )
        for entry, where in listed
    ]
    routes = [(name, ", ".join(behind) or "none") for name, behind in drawn.routes.items()]
    headings = ("host", "state", "zone", "VPC address", "bridge address", "Docker subnet", "generation")
    tables = [("Hosts", headings, hosts)]
    tables += [("Services", ("service", "on", "address", "healthy", "published"), services)] if services else []
    tables += [("Edge routes", ("name", "healthy instances"), routes)] if routes else []
    title, shown = f"Apollo stack {escape(drawn.stack)}", "".join(_table(*table) for table in tables)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body{font:15px system-ui,sans-serif;margin:24px;color:#0f172a;background:#fff}svg{max-width:100%;height:auto}"
        "table{border-collapse:collapse;margin:8px 0 24px}th,td{border:1px solid #cbd5e1;padding:4px 10px;text-align:left}"
        f"th{{background:#eef2f7}}</style></head><body>\n{svg(drawn)}"
        f"{shown}</body></html>\n"
    )


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(safe(cell))}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<h2>{title}</h2>\n<table><tr>{head}</tr>\n{body}</table>\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", required=True, help="which Pulumi.<stack>.yaml, such as dev")
    parser.add_argument("--out", default=".", metavar="DIR", help="where the two files go (default: here)")


def run(given: argparse.Namespace) -> int:
    from ops.stack import Stack
    from ops.survey import on_terminal, survey

    folder = Path(given.out)
    if not folder.is_dir():
        raise OpsError(f"--out {folder}: there is no such folder", 2)
    stack = Stack(given.stack)
    plan = stack.plan
    deployed = {name: host.instance_id for name, host in stack.hosts.items()}
    seen = None
    access = stack.access() if deployed else None
    if access is None:
        print("drawn from plan and state alone: nothing is deployed, or there is no administrators' key", file=sys.stderr)
    else:
        with opened(access) as ssh:
            seen = survey(ssh, plan, [host for host in plan.hosts if host.name in deployed], on_terminal())
        if seen.unreachable:
            print(f"drawn from plan and state alone: {seen.unreachable}", file=sys.stderr)
            seen = None
        else:
            for host, reason in {**seen.silent, **seen.slow, **seen.odd}.items():
                print(f"{host} does not report its state: {reason}", file=sys.stderr)
    drawn = picture(stack.name, plan, deployed, seen)
    for suffix, text in (("svg", svg(drawn)), ("html", page(drawn))):
        path = folder / f"apollo-{stack.name}.{suffix}"
        path.write_text(text)
        print(path)
    return 0
