"""`shell`: a root shell on a host."""

from __future__ import annotations

import argparse

from localcloud.cli import exec
from localcloud.cli.arguments import host


def arguments(parser: argparse.ArgumentParser) -> None:
    host(parser)


def run(args: argparse.Namespace) -> int:
    args.argv = ["bash", "-l"]
    return exec.run(args)
