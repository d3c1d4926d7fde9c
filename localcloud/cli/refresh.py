"""`refresh`: brings the state to what the cloud holds."""

from __future__ import annotations

import argparse


def run(args: argparse.Namespace) -> int:
    from localcloud import operations
    from localcloud.cli.report import report

    return report(operations.refresh(operations.Request(args.stack)), args.json)
