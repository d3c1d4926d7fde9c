"""`ops`: runs `python -m ops` on the stack, on this terminal; the exit status is its own."""

from __future__ import annotations

import argparse
import sys

from localcloud.cli.arguments import settings

# Day-two commands that read a file and no stack.
_WITHOUT_STACK = ("gate", "comment")


def arguments(parser: argparse.ArgumentParser) -> None:
    settings(parser)
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="ARGUMENT")


def run(args: argparse.Namespace) -> int:
    if not args.argv or {"-h", "--help"} & set(args.argv):
        from ops.__main__ import main

        return main(args.argv)
    from localcloud.cli.terminal import call
    from localcloud.engine.programs import pulumi
    from localcloud.engine.run import environment
    from localcloud.engine.workspace import keep_generations
    from localcloud.operations import Request, alone, workspace_of
    from localcloud.paths import REPOSITORY
    from localcloud.stack.running import cloud_of

    with alone(args.stack, f"ops {' '.join(args.argv[:1])}") as folder:
        cloud = cloud_of(args.stack)
        workspace = workspace_of(folder, Request(args.stack, args.sets), cloud.edge_port is not None)
        stack = [] if args.argv[:1] and args.argv[0] in _WITHOUT_STACK else ["--stack", args.stack]
        with keep_generations(workspace):
            argv = [sys.executable, "-m", "ops", *args.argv, *stack]
            return call(argv, environment(cloud, workspace, pulumi()), REPOSITORY, own_group=True)
