"""`python -m bench`: the benchmarks, as tables or with --json as one document. Ten minutes by default; --write puts them into
docs/speed.md, dated.

Exit status: 0 measured, whether goals hold or not; 1 a run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from bench import engine, mesh, planning, start
from localcloud import show
from localcloud.paths import REPOSITORY

Rows = list[dict[str, Any]]
PAGE = REPOSITORY / "docs" / "speed.md"
# What follows on the page is the command's.
BEGIN = "<!-- What follows is written by `python -m bench --write`. -->\n\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Ratios, measured side by side in one run.",
        epilog="Example: python -m bench --only preview --slaves 10",
    )
    parser.add_argument("--runs", type=int, default=mesh.RUNS, help="of each way through the mesh, on the booted local stack")
    parser.add_argument("--slaves", type=int, nargs="+", default=[10, 50, 250], help="sizes of stack for preview and up")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--write", action="store_true", help=f"puts the tables into {PAGE.relative_to(REPOSITORY)} too")
    parts: dict[str, Callable[[argparse.Namespace], Rows]] = {
        "start": lambda _: start.commands(),
        "bytes": lambda _: start.bytes_of_user_data(),
        "planning": lambda _: planning.measure(),
        "preview": lambda args: [row for slaves in args.slaves for row in engine.previews(slaves)],
        "members": lambda _: mesh.members(),
        "mesh": lambda args: mesh.peers(args.runs),
        # Ten minutes for 250 slaves.
        "up": lambda args: [row for slaves in args.slaves for row in engine.ups(slaves)],
    }
    parser.add_argument("--only", choices=list(parts), help="one part (default: all but up, and mesh where a stack is booted)")
    args = parser.parse_args(argv)
    wanted = [args.only] if args.only else [name for name in parts if name != "up" and not _left_out(name)]
    found: dict[str, Rows] = {}
    for name in wanted:
        measure = parts[name]
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            found[name] = [_judged(row) for row in measure(args)]
        except RuntimeError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 1
    if args.write:
        PAGE.write_text(written(PAGE.read_text(), found))
    if args.json:
        show.document(found)
        return 0
    for rows in found.values():
        show.table(*_table(rows))
        print()
    return 0


def _left_out(name: str) -> bool:
    """Whether a part cannot be measured here and now; says why."""
    reason = mesh.missing() if name == "mesh" else ""
    if reason:
        print(f"{name}: left out, as {reason}", file=sys.stderr)
        print(
            "kernel WireGuard to the underlay: a stack with overlay.mesh=wireguard on machines whose kernel has it",
            file=sys.stderr,
        )
    return bool(reason)


def _table(rows: Rows) -> tuple[list[str], list[list[str]]]:
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    return headings, [[_cell(row.get(heading, "")) for heading in headings] for row in rows]


def written(page: str, found: dict[str, Rows]) -> str:
    """The page with these parts' tables in place of the earlier ones; the other parts stay as they are."""
    head, _, kept = page.partition(BEGIN.strip())
    parts = {part.split(",")[0]: part for part in re.split(r"^## ", kept, flags=re.MULTILINE)[1:]}
    now, cores, load = datetime.now(UTC), os.cpu_count(), os.getloadavg()[1]
    for name, rows in found.items():
        headings, cells = _table(rows)
        lines = ["| " + " | ".join(line) + " |" for line in (headings, ["---"] * len(headings), *cells)]
        parts[name] = f"{name}, {now:%Y-%m-%d}, {cores} cores at a load of {load:.0f}\n\n" + "\n".join(lines) + "\n\n"
    return head + BEGIN + "\n\n".join(f"## {part.strip()}" for part in parts.values()) + "\n"


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """The row, and whether its goal holds: for its ratio, or what it counts instead."""
    for word, holds in (("at most", lambda value, goal: value <= goal), ("at least", lambda value, goal: value >= goal)):
        if (goal := row.get(f"goal, {word}")) is not None:
            value = float(next(row[key] for key in ("ratio", "bytes", "packets", "to bare VXLAN") if key in row))
            return {**row, "holds": "yes" if holds(value, goal) else "NO"}
    return row


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
