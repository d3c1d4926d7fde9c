"""`python -m localcloud`: the embedded cloud on the command line.

Exit status: 0 done; 1 it failed, and what failed was said; 2 wrong usage; 130 stopped by Ctrl-C (the state is complete).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import operate, running, show
from .cloud import EDGE_PORT
from .errors import LocalCloudError

if TYPE_CHECKING:
    from .operations import Outcome

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return _perform(args)
    except LocalCloudError as error:
        if args.json:
            show.document({"operation": args.command, "stack": args.stack, "result": "failed", "errors": [str(error)]})
        show.problem(str(error))
        return error.status
    except KeyboardInterrupt:
        show.problem("stopped")
        return _INTERRUPTED


def _perform(args: argparse.Namespace) -> int:
    if args.command in ("up", "preview", "refresh", "down", "pulumi", "ops"):
        return _with_the_engine(args)
    if args.command == "status":
        rows = running.status(args.stack)
        if args.json:
            show.document([row.public() for row in rows])
        else:
            from . import mesos

            show.hosts(rows)
            if words := mesos.line(rows):
                print(f"\n{words}")
        return 0
    if args.command == "outputs":
        found = running.stack_outputs(args.stack)
        if args.json:
            show.document(found)
        else:
            show.table(("output", "value"), [(name, _text(value)) for name, value in sorted(found.items())])
        return 0
    if args.command == "exec":
        return operate.execute(args.stack, args.host, args.argv)
    if args.command == "shell":
        return operate.shell(args.stack, args.host)
    if args.command == "logs":
        return operate.logs(args.stack, args.host, follow=args.follow)
    if args.command == "open":
        return operate.open_inside(args.stack, args.what, args.port if args.port is not None else operate.INSIDE[args.what][1])
    if args.command == "check":
        return operate.run_check(args.stack, flows=args.flows, as_json=args.json)
    operate.order(args.stack, args.command, args.host)
    return 0


def _with_the_engine(args: argparse.Namespace) -> int:
    # The engine's side takes a second to import, which no other command has to wait for.
    from . import day_two, operations

    request = operations.Request(args.stack, getattr(args, "sets", ()), getattr(args, "port", 0) or 0)
    if args.command == "pulumi":
        return day_two.pulumi(request, args.argv, args.program)
    if args.command == "ops":
        return day_two.ops(request, args.argv)
    if args.command == "up":
        request = replace(
            request,
            machines=not args.no_machines and operations.boots_machines(args.stack),
            edge_port=args.edge_port,
            demo=not args.no_demo,
            rotate=args.rotate,
            mesos_root=args.mesos_root,
        )
        outcome = operations.up(request)
    elif args.command == "preview":
        outcome = operations.preview(request)
    elif args.command == "refresh":
        outcome = operations.refresh(request)
    else:
        outcome = operations.down(request, force=args.force)
    return _report(outcome, args.json)


def _report(outcome: Outcome, as_json: bool) -> int:
    if as_json:
        show.document(outcome.public())
    for error in outcome.errors:
        show.problem(error)
    if not as_json:
        _describe(outcome)
    if outcome.result == "interrupted":
        return _INTERRUPTED
    return 0 if outcome.result == "succeeded" else 1


def _describe(outcome: Outcome) -> None:
    if outcome.operation == "preview" and outcome.result == "succeeded":
        ops = [op for op in ("create", "update", "replace", "delete") if outcome.changes.get(op)]
        rows = [(type, *(str(by.get(op, "")) for op in ops)) for type, by in sorted(outcome.types.items())]
        if rows:
            show.table(("type", *(f"to {op}" for op in ops)), rows)
            print()
    elif outcome.operation == "up" and outcome.result == "succeeded":
        show.table(("output", "value"), [(name, _text(value)) for name, value in sorted(outcome.outputs.items())])
        print()
    if outcome.hosts and outcome.result == "succeeded":
        show.hosts(outcome.hosts)
        print()
    for name in outcome.urls.values():
        print(f"  curl -H 'Host: {name}' http://127.0.0.1:{outcome.edge_port}/")
    if outcome.urls:
        print()
    done = show.counts(outcome.changes, future=outcome.operation == "preview")
    verdict = {"succeeded": "", "failed": "failed: ", "interrupted": "stopped: "}[outcome.result]
    print(f"{outcome.operation} of stack {outcome.stack}: {verdict}{done} in {outcome.seconds:.1f} s")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _port(text: str) -> int:
    return _within(text, 0, 65535)


def _secret(text: str) -> str:
    from plan.secrets import SECRETS

    if text not in (keys := [secret.key for secret in SECRETS]):
        raise argparse.ArgumentTypeError(f"{text} is no secret of the stack; there are: {', '.join(keys)}")
    return text


def _count(text: str) -> int:
    return _within(text, 1, 1000)


def _within(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text} is not a number from {least} to {most}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m localcloud",
        description="Runs the program with the real Pulumi engine on an AWS that lives on this machine.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = {
        "up": "make the stack's cloud what the program says",
        "preview": "show what `up` would do; needs no running cloud",
        "refresh": "bring the state to what the cloud holds",
        "down": "destroy everything and end the cloud",
        "status": "list the hosts",
        "outputs": "show the stack's exports",
        "check": "try every way through the booted network",
        "pulumi": "run the Pulumi CLI on the stack: pulumi preview --json",
        "ops": "run `python -m ops` on the stack: ops doctor",
        "exec": "run a command as root on a host: exec HOST -- COMMAND …",
        "shell": "open a root shell on a host",
        "logs": "show a host's console",
        "open": "bring a page that only the inside reaches to 127.0.0.1, until Ctrl-C",
        **operate.ORDERS,
    }
    for name, help in about.items():
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument("--stack", default="local", help="which Pulumi.<stack>.yaml (default: local)")
        command.add_argument("--json", action="store_true", help="one JSON document on standard output")
        if name in ("up", "preview", "pulumi", "ops"):
            command.add_argument(
                "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE",
                help="a setting for this run only, such as slaves.count=5; values in YAML; may be given several times",
            )  # fmt: skip
        if name in ("up", "preview"):
            command.add_argument("--port", type=_port, default=0, help="port of the AWS endpoint on 127.0.0.1 (default: any)")
        if name == "up":
            command.add_argument(
                "--no-machines", action="store_true", help="instances exist in the AWS API only; needs no root"
            )
            command.add_argument("--no-demo", action="store_true", help="boot the hosts, and start nothing on them")
            command.add_argument(
                "--mesos-root", type=Path, metavar="DIR",
                help="a build of Mesos for hosts that boot from now on: sbin/mesos-master, sbin/mesos-agent, bin/marathon",
            )  # fmt: skip
            command.add_argument(
                "--edge-port", type=_port, metavar="PORT",
                help=f"port of 127.0.0.1 that leads to the edge's 80 (default: {EDGE_PORT}; 0: any)",
            )  # fmt: skip
            command.add_argument(
                "--rotate", action="append", default=[], type=_secret, metavar="KEY",
                help="make this secret of the stack anew, such as templateToken; may be given several times",
            )  # fmt: skip
        if name == "open":
            command.add_argument("what", choices=sorted(operate.INSIDE))
            command.add_argument("--port", type=_port, help="of 127.0.0.1 (default: the port it has inside; 0: any)")
        if name in ("exec", "shell", "logs", *operate.ORDERS):
            command.add_argument("host", metavar="HOST", help="a name that `status` shows, such as slave-1")
        if name == "pulumi":
            command.add_argument("--program", metavar="DIR", help="another program on this cloud, such as examples/consumer")
        if name in ("pulumi", "ops"):
            command.add_argument("argv", nargs=argparse.REMAINDER, metavar="ARGUMENT")
        if name == "exec":
            command.add_argument("argv", nargs="+", metavar="COMMAND")
        if name == "logs":
            command.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
        if name == "check":
            command.add_argument("--flows", type=_count, default=1, help="requests of each kind at the same time (default: 1)")
        if name == "down":
            command.add_argument("--force", action="store_true", help="give the cloud up without destroying its resources")
    return parser


if __name__ == "__main__":
    sys.exit(main())
