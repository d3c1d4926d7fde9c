"""`exec`: runs a command as root on a host, on this terminal; its exit status is the command's."""

from __future__ import annotations

import argparse
import subprocess

from localcloud.apollo.fleet import fleet
from localcloud.cli.arguments import host
from localcloud.stack.running import booted_cloud


def arguments(parser: argparse.ArgumentParser) -> None:
    host(parser)
    parser.add_argument("argv", nargs="+", metavar="COMMAND")


def run(args: argparse.Namespace) -> int:
    cloud = booted_cloud(args.stack)
    return subprocess.call(fleet(cloud.folder, cloud.hosts()).command(args.host, args.argv))
