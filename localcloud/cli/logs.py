"""`logs`: the host's console, from its first line."""

from __future__ import annotations

import argparse
import sys
import time

from localcloud.apollo.fleet import console
from localcloud.cli.arguments import host
from localcloud.errors import LocalCloudError
from localcloud.stack.running import booted_cloud


def arguments(parser: argparse.ArgumentParser) -> None:
    host(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    cloud = booted_cloud(args.stack)
    path = console(cloud.folder, cloud.hosts(), args.host)
    if not path.exists():
        raise LocalCloudError(f"{args.host} has not printed anything yet")
    with path.open("rb") as log:
        while True:
            chunk = log.read(65536)
            if chunk:
                sys.stdout.buffer.write(chunk)
                sys.stdout.flush()
            elif not args.follow:
                return 0
            else:
                # A console says nothing for long; there is no condition to wait for but its next line.
                time.sleep(0.2)
