"""A preview as one Markdown comment: what becomes of the hosts and of the address plan, and what the gate says.

A failed preview is a comment too: the earlier one, which says that all is well, must not stay.
"""

from __future__ import annotations

import argparse
import html
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ops.errors import OpsError
from ops.gate import refusals
from ops.preview import HOST, SUBNET, VPC, WAITING, HostChange, Preview, load
from ops.text import lines, safe
from plan.place import PLACE

_VERBS = {"create": "created", "replace": "replaced", "delete": "deleted", "update": "updated"}
# GitHub takes 65,536 characters, some of which become five when they are escaped.
_MOST = 12_000
# A stack's name, as Pulumi takes it.
_STACK = re.compile(r"[A-Za-z0-9_.-]{1,100}")
# What is nothing but text in Markdown, wherever it stands. All else is shown as code, in which no name is notified.
_PLAIN = re.compile(r"[A-Za-z0-9 .,;:/()→…-]*")
_LINK = re.compile(r"//|www|mailto|xmpp", re.IGNORECASE)


def render(preview: Preview, stack: str, allowed: Collection[str] = ()) -> str:
    """The comment. Its first line is a mark by which the next run finds it again. OpsError: the stack's name is none."""
    return "\n".join([_mark(stack), *_body(preview, stack, allowed)]) + "\n"


def render_failure(stack: str, reason: str) -> str:
    """The comment where there is no preview to render. reason: why, in the engine's words."""
    shown = lines(reason if len(reason) <= _MOST else f"{reason[:_MOST]}\n…")
    # The words may be a pull request's own: between these tags nothing of them is Markdown, HTML or somebody's name.
    words = f"<pre>\n{html.escape(shown, quote=False)}\n</pre>"
    return f"{_mark(stack)}\n### Preview of `{stack}`: failed\n\n{words}\n"


def _mark(stack: str) -> str:
    if not _STACK.fullmatch(stack):
        raise OpsError(f"{safe(stack)} is no name of a stack", 2)
    return f"<!-- apollo-preview {stack} -->"


def _body(preview: Preview, stack: str, allowed: Collection[str]) -> Iterator[str]:
    found = refusals(preview, allowed)
    changes = sum(count for op, count in preview.counts.items() if op != "same")
    yield f"### Preview of `{stack}`: {_verdict(changes, bool(found))}"
    if found:
        yield ""
        yield from (f"- {_cell(refusal.name)}: {_cell(refusal.reason)}. To pass: {_cell(refusal.fix)}" for refusal in found)
    hosts = [host for host in preview.hosts.values() if _fate(host)]
    if hosts:
        yield ""
        counts = Counter(_fate(host) for host in hosts)
        yield f"**Hosts**: {', '.join(f'{count} {fate}' for fate, count in counts.items())}"
        yield ""
        yield from _table(
            ("host", "what", "generation", "VPC address", "bridge address", "Docker subnet"),
            [(host.name, _what(host), _arrow(host, "generation"), *_addresses(host)) for host in hosts],
        )
    plan = list(_plan(preview))
    yield ""
    if plan:
        yield "**Address plan**"
        yield ""
        yield from _table(("of", "what", "before", "after"), plan)
    else:
        yield "**Address plan**: unchanged"
    rest = Counter((step.op, step.type.rpartition(":")[2]) for step in preview.steps if step.type != HOST)
    if rest:
        yield ""
        yield f"<details><summary>{sum(rest.values())} resources</summary>"
        yield ""
        yield from _table(("what", "type", "how many"), [(op, kind, str(count)) for (op, kind), count in sorted(rest.items())])
        yield ""
        yield "</details>"


def _verdict(changes: int, refused: bool) -> str:
    if refused:
        return "refused by the gate"
    return f"{changes} {'change' if changes == 1 else 'changes'}, the gate passes" if changes else "no change"


def _fate(host: HostChange) -> str:
    """What becomes of the machine; empty where a reviewer need not know."""
    if host.op in ("create", "replace", "delete"):
        return _VERBS[host.op]
    return "waiting for a roll" if host.differing(WAITING) else ""


def _what(host: HostChange) -> str:
    waits = [
        f"{title} {old} → {new}" if title != WAITING["hostFiles"] else title
        for title, (old, new) in host.differing(WAITING).items()
    ]
    return _fate(host) + (f" ({', '.join(waits)})" if waits else "")


def _arrow(host: HostChange, name: str) -> str:
    sides = [side[name] for side in (host.old, host.new) if side.get(name) not in (None, "")]
    return " → ".join(dict.fromkeys(_number(side) for side in sides))


def _addresses(host: HostChange) -> tuple[str, ...]:
    return tuple(_arrow(host, name) for name in ("privateIp", "bridgeAddress", "dockerSubnet"))


def _plan(preview: Preview) -> Iterator[tuple[str, ...]]:
    """Addresses that come, go or move: those of the VPC, of subnets and of hosts."""
    for step in preview.steps:
        if step.type in (VPC, SUBNET) and step.old.get("cidrBlock") != step.new.get("cidrBlock"):
            kind = "VPC" if step.type == VPC else "subnet"
            yield step.name, kind, str(step.old.get("cidrBlock") or ""), str(step.new.get("cidrBlock") or "")
    for host in preview.hosts.values():
        for title, (old, new) in host.differing(PLACE).items():
            yield host.name, title, str(old), str(new)
        for side, gone in ((host.old, True), (host.new, False)):
            if side and not (host.new if gone else host.old):
                text = ", ".join(str(side[name]) for name in ("privateIp", "bridgeAddress", "dockerSubnet") if side.get(name))
                yield (host.name, "addresses", text, "") if gone else (host.name, "addresses", "", text)


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    yield from (f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)


def _cell(text: str) -> str:
    """Names and values come from a pull request: none may be Markdown or HTML, lead anywhere, or notify anyone."""
    text = safe(text)
    if _PLAIN.fullmatch(text) and not _LINK.search(text):
        return text
    coded = "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)
    return f"<code>{coded}</code>"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "preview", nargs="?", default="-", metavar="FILE", help="of `pulumi preview --json` (default: standard input)"
    )
    parser.add_argument(
        "--stack", help="the environment's name (default: the preview's own); with it, a preview that failed is a comment too"
    )
    parser.add_argument("--allow", action="append", default=[], metavar="HOST", help="as in `gate`")


def run(given: argparse.Namespace) -> int:
    try:
        preview = load(given.preview)
    except OpsError as error:
        # Without --stack only the preview itself has the stack's name.
        if given.stack is None:
            raise
        print(render_failure(given.stack, str(error)), end="")
        return 0
    print(render(preview, given.stack or preview.stack, given.allow), end="")
    return 0
