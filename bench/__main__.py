"""`python -m bench`: the benchmarks, as a table or with --json as one document.

Exit status: 0 measured, 1 a run failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from bench import engine, mesh, planning
from localcloud import show


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios, measured side by side in one run.")
    parser.add_argument("--only", choices=["planning", "engine", "mesh"], help="one part (default: the first two)")
    parser.add_argument("--runs", type=int, default=mesh.RUNS, help="of each way through the mesh, on the booted local stack")
    parser.add_argument("--slaves", type=int, nargs="+", default=[10, 50, 250], help="sizes of stack for the engine")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    args = parser.parse_args(argv)
    found: dict[str, list[dict[str, Any]]] = {}
    if args.only in (None, "planning"):
        _say("planning: 239 and 65,000 slaves …")
        found["planning"] = planning.measure()
    if args.only in (None, "engine"):
        found["engine"] = []
        for place, slaves in enumerate(args.slaves, 1):
            _say(f"engine: {slaves} slaves ({place} of {len(args.slaves)}; 250 take about ten minutes) …")
            try:
                found["engine"] += engine.measure(slaves)
            except RuntimeError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
    if args.only == "mesh":
        try:
            found["members"] = mesh.members()
            found["mesh"] = mesh.peers(args.runs)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if args.json:
        show.document(found)
        return 0
    for rows in found.values():
        headings = list(dict.fromkeys(heading for row in rows for heading in row))
        show.table(headings, [[_cell(row.get(heading, "")) for heading in headings] for row in rows])
        print()
    return 0


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
