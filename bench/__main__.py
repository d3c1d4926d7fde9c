"""`python -m bench`: the benchmarks, as tables or with --json as one document. Ten minutes by default.

Exit status: 0 measured, whether goals hold or not; 1 a run failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bench import engine, mesh, planning, start
from localcloud import show

Rows = list[dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios, measured side by side in one run.")
    parser.add_argument("--runs", type=int, default=mesh.RUNS, help="of each way through the mesh, on the booted local stack")
    parser.add_argument("--slaves", type=int, nargs="+", default=[10, 50, 250], help="sizes of stack for preview and up")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parts: dict[str, Callable[[argparse.Namespace], Rows]] = {
        "start": lambda _: start.commands(),
        "bytes": lambda _: start.bytes_of_user_data(),
        "planning": lambda _: planning.measure(),
        "preview": lambda args: [row for slaves in args.slaves for row in engine.previews(slaves)],
        "members": lambda _: mesh.members(),
        # Takes a booted local stack.
        "mesh": lambda args: mesh.peers(args.runs),
        # Ten minutes for 250 slaves.
        "up": lambda args: [row for slaves in args.slaves for row in engine.ups(slaves)],
    }
    longer = ("mesh", "up")
    parser.add_argument("--only", choices=list(parts), help=f"one part (default: all but {' and '.join(longer)})")
    args = parser.parse_args(argv)
    found: dict[str, Rows] = {}
    for name, measure in parts.items():
        if args.only != name and (args.only or name in longer):
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            found[name] = [_judged(row) for row in measure(args)]
        except RuntimeError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 1
    if args.json:
        show.document(found)
        return 0
    for rows in found.values():
        headings = list(dict.fromkeys(heading for row in rows for heading in row))
        show.table(headings, [[_cell(row.get(heading, "")) for heading in headings] for row in rows])
        print()
    return 0


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
