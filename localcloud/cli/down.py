"""`down`: destroys everything and ends the cloud."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="give the cloud up without destroying its resources")


def run(args: argparse.Namespace) -> int:
    from localcloud import operations
    from localcloud.cli.report import report

    return report(operations.down(operations.Request(args.stack), force=args.force), args.json)
