"""`serve`: the cloud alone, for any client: an AWS API on this machine whose instances boot. Leaves nothing behind."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import sys
import threading

from localcloud import cloud as clouds
from localcloud.cli.arguments import endpoint_port, port
from localcloud.errors import LocalCloudError
from localcloud.show import say

# Its cloud's place beside those of stacks.
NAME = "serve"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(stack=NAME)
    endpoint_port(parser)
    parser.add_argument("--region", default="eu-west-1", help="the cloud's own region (default: eu-west-1)")
    parser.add_argument("--no-machines", action="store_true", help="instances exist in the AWS API only; needs no root")
    parser.add_argument(
        "--edge-port", type=port, default=0, metavar="PORT",
        help="port of 127.0.0.1 that leads to port 80 of what the internet may reach (default: any)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from localcloud.apollo import boot
    from localcloud.operations import alone

    edge_port = None if args.no_machines else args.edge_port
    with alone(args.stack, "serve") as folder:
        running = clouds.find(folder)
        if running and running.alive():
            raise LocalCloudError(f"a cloud of stack {args.stack} runs already; leave --stack out, or end it with `down`")
        if edge_port is not None:
            boot.prepare_machine(folder, edge_port)
        boot.sweep(folder)
        cloud = clouds.start(folder, args.region, port=args.port, ephemeral=True, edge_port=edge_port)
        try:
            stopped = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stopped.set())
            if args.json:
                print(json.dumps({**cloud.credentials(), "edgePort": cloud.edge_port}), flush=True)
            else:
                for name, value in cloud.credentials().items():
                    print(f"export {name}={shlex.quote(value)}")
                if cloud.edge_port is not None:
                    print(f"# port 80 of what the internet may reach: http://127.0.0.1:{cloud.edge_port}/")
                sys.stdout.flush()
                say("serving until Ctrl-C; in another terminal, with the lines above: aws ec2 describe-images")
            while not stopped.wait(1):
                if not cloud.alive():
                    raise LocalCloudError(f"the cloud (process {cloud.pid}) ended; see {cloud.log}")
            say("stopping")
        finally:
            cloud.stop()
            boot.sweep(folder)
            shutil.rmtree(folder, ignore_errors=True)
    return 0
