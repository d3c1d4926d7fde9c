"""The command line of the embedded cloud, a module a verb: `./apollo VERB` (underneath: `python -m localcloud VERB`).

Exit status: 0 done; 1 it failed, and what failed was said; 2 wrong usage; 130 stopped by Ctrl-C (the state is complete).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from localcloud import show
from localcloud.cli.arguments import common
from localcloud.errors import LocalCloudError

INTERRUPTED = 130
# Each verb is a module with run(arguments), and where it has any arguments(parser). Only the one that is wanted is imported.
VERBS = {
    "up": "make the stack's cloud what the program says",
    "preview": "show what `up` would do; needs no running cloud",
    "refresh": "bring the state to what the cloud holds",
    "down": "destroy everything and end the cloud",
    "serve": "run the cloud alone, for any AWS client, until Ctrl-C",
    "status": "list the hosts",
    "outputs": "show the stack's exports",
    "check": "try every way through the booted network",
    "pulumi": "run the Pulumi CLI on the stack",
    "ops": "run a day-two command (`python -m ops`) on the stack",
    "exec": "run a command as root on a host",
    "shell": "open a root shell on a host",
    "logs": "show a host's console",
    "open": "bring a page that only the VPC reaches to 127.0.0.1, until Ctrl-C",
    "completion": "print a shell script that completes these commands",
}
# Verbs of one module, `orders`: what each does to a host.
ORDERS = {
    "stop": "shut a host down; it keeps its disks",
    "start": "boot a stopped host",
    "reboot": "shut a host down and boot it again",
    "kill": "end a host at once, as a power cut does; `start` boots it again",
    "cut": "drop every packet from and to a host",
    "heal": "let a cut host's packets through again",
}
EXAMPLES = {
    "up": "--set slaves.count=5",
    "preview": "--stack prod",
    "refresh": "--json",
    "down": "--stack dev",
    "serve": "--no-machines",
    "status": "--json",
    "outputs": "--json",
    "check": "--flows 50",
    "pulumi": "preview --json",
    "ops": "roll --slots 2,3",
    "exec": "slave-1 -- docker ps",
    "shell": "slave-1",
    "logs": "slave-1 --follow",
    "open": "consul --port 8500",
    "completion": "bash",
    **dict.fromkeys(ORDERS, "slave-2"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; gives its exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["complete"]:  # a shell asks, with words that may be options of another verb
        return importlib.import_module("localcloud.cli.completion").complete(given[1:])
    args = parser(given).parse_args(given or ["--help"])
    try:
        return args.run(args)
    except LocalCloudError as error:
        if args.json:
            show.document({"operation": args.command, "stack": args.stack, "result": "failed", "errors": [str(error)]})
        show.problem(str(error))
        return error.status
    except KeyboardInterrupt:
        show.problem("stopped")
        return INTERRUPTED


def parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for a command line; it knows the arguments of the verb that comes first, and the names of the others."""
    found = argparse.ArgumentParser(
        prog="./apollo",
        description="Runs the program with the real Pulumi engine on an AWS that lives on this machine.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.",
    )
    verbs = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in {**VERBS, **ORDERS}.items():
        sentence = f"{about[0].upper()}{about[1:]}."
        verb = verbs.add_parser(name, help=about, description=sentence, epilog=f"Example: ./apollo {name} {EXAMPLES[name]}")
        if given[:1] == [name]:
            fill(name, verb)
    return found


def fill(name: str, verb: argparse.ArgumentParser) -> None:
    """Gives a verb's parser its arguments."""
    module = importlib.import_module(f"localcloud.cli.{'orders' if name in ORDERS else name}")
    common(verb)
    if hasattr(module, "arguments"):
        module.arguments(verb)
    verb.set_defaults(run=module.run)
