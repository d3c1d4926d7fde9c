"""`stop`, `start`, `reboot`, `kill`, `cut` and `heal`: treats one host well or badly."""

from __future__ import annotations

import argparse

from localcloud.cli.arguments import host
from localcloud.errors import LocalCloudError
from localcloud.stack.running import cloud_of


def arguments(parser: argparse.ArgumentParser) -> None:
    host(parser)


def run(args: argparse.Namespace) -> int:
    answer = cloud_of(args.stack).ask("machine", {"order": args.command, "host": args.host})
    if "failed" in answer:
        raise LocalCloudError(answer["failed"])
    return 0
