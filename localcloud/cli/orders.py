"""`stop`, `start`, `reboot`, `kill`, `cut` and `heal`: treats one host well or badly."""

from __future__ import annotations

import argparse

from localcloud.cli.arguments import host
from localcloud.stack.running import cloud_of


def arguments(parser: argparse.ArgumentParser) -> None:
    host(parser)


def run(args: argparse.Namespace) -> int:
    cloud_of(args.stack).order(args.command, args.host)
    return 0
