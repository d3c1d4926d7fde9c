"""`status`: lists the hosts."""

from __future__ import annotations

import argparse

from localcloud import show
from localcloud.stack import running


def run(args: argparse.Namespace) -> int:
    rows = running.status(args.stack)
    if args.json:
        show.document([row.public() for row in rows])
        return 0
    from localcloud.apollo import mesos

    show.hosts(rows)
    if words := mesos.line(rows):
        print(f"\n{words}")
    return 0
