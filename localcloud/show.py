"""What the terminal shows: progress on standard error, results on standard output; tables and colour only on a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .apollo.hosts import HEADINGS, HostRow, cells

if TYPE_CHECKING:
    from rich.status import Status

    from .engine.events import Report, Step

_VERBS = {
    "create": "created",
    "update": "updated",
    "replace": "replaced",
    "delete": "deleted",
    "create-replacement": "created again",
    "delete-replaced": "deleted, to be made again",
    "read": "read",
    "import": "imported",
    "refresh": "read",
}
_ORDER = ("create", "update", "replace", "delete", "import", "read", "same")


class Progress:
    """Shows a run: a line for each change (unless `each` is off), and on a terminal a last line that counts."""

    def __init__(self, what: str, *, each: bool = True) -> None:
        # Drawing is for few commands, and its library slow to import.
        from rich.console import Console

        self._what, self._each = what, each
        self._console = Console(stderr=True, highlight=False)
        self._started = time.monotonic()
        self._status: Status | None = self._console.status(what) if self._console.is_terminal else None

    def __enter__(self) -> Callable[[Report, Step | None], None]:
        if self._status:
            self._status.start()
        else:
            print(f"{self._what} …", file=sys.stderr, flush=True)
        return self._update

    def __exit__(self, *exc: object) -> None:
        if self._status:
            self._status.stop()

    def _update(self, report: Report, step: Step | None) -> None:
        seconds = time.monotonic() - self._started
        if step is not None and self._each and step.op in _VERBS and step.op not in ("refresh", "read"):
            self._console.print(f"  {_VERBS[step.op]:<10} {step.name} ({step.type}), {seconds:.1f} s", soft_wrap=True)
        if self._status:
            self._status.update(f"{self._what}: {report.ended} of {report.seen} resources so far, {seconds:.0f} s")


def counts(changes: Counter[str], future: bool = False) -> str:
    """ "3 created, 12 unchanged", or "3 to create" for a preview."""
    words = {"same": "unchanged"}
    parts = [f"{changes[op]} {words.get(op) or (f'to {op}' if future else _VERBS[op])}" for op in _ORDER if changes.get(op)]
    return ", ".join(parts) or "nothing to do"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; plain columns where that is no terminal."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        drawn = Table(*headings)
        for row in rows:
            drawn.add_row(*row)
        Console().print(drawn)
        return
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def hosts(rows: Sequence[HostRow]) -> None:
    table(HEADINGS, [cells(row) for row in rows])


def document(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2))


def text(value: object) -> str:
    """An export's value, in a table."""
    return value if isinstance(value, str) else json.dumps(value)


def say(line: str) -> None:
    """A line of progress. Standard output is kept for results."""
    print(line, file=sys.stderr, flush=True)


def problem(message: str) -> None:
    """An error, on standard error."""
    say(f"error: {message}")
