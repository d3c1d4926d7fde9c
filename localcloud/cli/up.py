"""`up`: makes the stack's cloud what the program says."""

from __future__ import annotations

import argparse

from localcloud.cli.arguments import endpoint_port, folder, machine_kind, port, settings
from localcloud.cloud import EDGE_PORT, PROMETHEUS_PORT
from localcloud.errors import LocalCloudError


def arguments(parser: argparse.ArgumentParser) -> None:
    settings(parser)
    endpoint_port(parser)
    parser.add_argument("--no-machines", action="store_true", help="instances exist in the AWS API only; needs no root")
    machine_kind(parser)
    parser.add_argument(
        "--image", type=folder, metavar="FILE",
        help="with --machines vm: a disk that hosts boot from instead of ours, such as Debian's image for clouds",
    )  # fmt: skip
    parser.add_argument("--no-demo", action="store_true", help="boot the hosts, and start nothing on them")
    parser.add_argument(
        "--host-files", type=folder, metavar="DIR",
        help="a folder to lay over the root of every host that is made from now on: opt/mesos, usr/local/bin/…",
    )  # fmt: skip
    parser.add_argument(
        "--provider", choices=("own", "real"), default="own",
        help="real: Pulumi's own plugin for AWS, which is to be on PATH, makes the stack and calls the cloud (unproved)",
    )  # fmt: skip
    parser.add_argument(
        "--edge-port", type=port, metavar="PORT",
        help=f"port of 127.0.0.1 that leads to the edge's 80 (default: {EDGE_PORT}; 0: any)",
    )  # fmt: skip
    parser.add_argument(
        "--metrics", nargs="?", type=port, const=PROMETHEUS_PORT, metavar="PORT",
        help=f"show examples/monitoring in Prometheus, at a port of 127.0.0.1 (default: {PROMETHEUS_PORT}; 0: any)",
    )  # fmt: skip
    parser.add_argument(
        "--rotate", action="append", default=[], type=_secret, metavar="KEY",
        help="make this secret of the stack anew, such as templateToken; may be given several times",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from localcloud import operations
    from localcloud.cli.report import report

    if args.accel and args.machines != "vm":
        raise LocalCloudError(f"--accel {args.accel} is for virtual machines; give --machines vm with it")
    request = operations.Request(
        args.stack,
        args.sets,
        args.port,
        machines=not args.no_machines and operations.boots_machines(args.stack),
        kind="kvm" if args.accel == "kvm" else args.machines,
        edge_port=args.edge_port,
        demo=not args.no_demo,
        rotate=args.rotate,
        host_files=args.host_files,
        image=args.image,
        metrics=args.metrics,
        real_provider=args.provider == "real",
    )
    return report(operations.up(request), args.json)


def secret_keys() -> list[str]:
    from plan.secrets import SECRETS

    return [secret.key for secret in SECRETS]


def _secret(text: str) -> str:
    if text not in (keys := secret_keys()):
        raise argparse.ArgumentTypeError(f"{text} is no secret of the stack; there are: {', '.join(keys)}")
    return text
