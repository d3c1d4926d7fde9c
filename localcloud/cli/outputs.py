"""`outputs`: shows the stack's exports."""

from __future__ import annotations

import argparse

from localcloud import show
from localcloud.stack import running


def run(args: argparse.Namespace) -> int:
    found = running.stack_outputs(args.stack)
    if args.json:
        show.document(found)
    else:
        show.table(("output", "value"), [(name, show.text(value)) for name, value in sorted(found.items())])
    return 0
