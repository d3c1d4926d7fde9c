"""`pulumi`: runs the Pulumi CLI on the stack, on this terminal; the exit status is its own."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from localcloud.cli.arguments import folder, settings
from localcloud.errors import LocalCloudError


def arguments(parser: argparse.ArgumentParser) -> None:
    settings(parser)
    parser.add_argument(
        "--program", type=folder, metavar="DIR", help="another program on this cloud, such as examples/consumer"
    )
    parser.add_argument(
        "--empty-cloud", action="store_true",
        help="preview against the stack's state with a cloud of this checkout that has nothing in it and ends with the "
        "command; the stack's own may be of another version",
    )  # fmt: skip
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="ARGUMENT")


def run(args: argparse.Namespace) -> int:
    from localcloud import cloud as clouds
    from localcloud.cli.terminal import call
    from localcloud.engine.programs import pulumi
    from localcloud.engine.run import begin_stack, environment
    from localcloud.operations import Request, alone, passing_folder, workspace_of
    from localcloud.stack.running import cloud_of

    if args.empty_cloud and args.argv[:1] != ["preview"]:
        raise LocalCloudError(f"--empty-cloud is for `preview`, not for `{' '.join(args.argv[:1]) or 'nothing'}`")
    # Another program's stack of the same name lives in the same cloud.
    request = Request(args.stack, args.sets)
    with ExitStack() as held:
        place = held.enter_context(alone(args.stack, f"pulumi {' '.join(args.argv[:1])}"))
        own = None if args.empty_cloud else cloud_of(args.stack)
        workspace = workspace_of(place, request, own is not None and own.edge_port is not None, args.program)
        if args.empty_cloud and not workspace.state_file.exists():
            raise LocalCloudError(f"stack {args.stack} has no state here to preview against; `./apollo preview` needs none")
        cloud = own or clouds.start(held.enter_context(passing_folder()), workspace.region, ephemeral=True)
        binary = pulumi()
        begin_stack(binary, workspace)
        cloud.ask("begin", {})
        env = environment(cloud, workspace, binary)
        return call(["pulumi", *args.argv, "--stack", args.stack], env, workspace.work, own_group=False)
