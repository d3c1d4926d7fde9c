"""`preview`: shows what `up` would do."""

from __future__ import annotations

import argparse

from localcloud.cli.arguments import endpoint_port, settings


def arguments(parser: argparse.ArgumentParser) -> None:
    settings(parser)
    endpoint_port(parser)


def run(args: argparse.Namespace) -> int:
    from localcloud import operations
    from localcloud.cli.report import report

    return report(operations.preview(operations.Request(args.stack, args.sets, args.port)), args.json)
