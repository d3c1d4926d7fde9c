"""`python -m ops`: day-two commands of a stack.

Exit status: 0 done, 1 failed or refused, 2 wrong usage or unusable input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ops.errors import OpsError

# Each command is a module with arguments(parser) and run(arguments). Only the one that is wanted is imported: `drain` has to
# run under any Python, without the project's packages.
COMMANDS = {
    "secrets": "make the stack's missing secrets, encrypted in its configuration",
    "roll": "replace hosts one at a time, each by its generation",
    "drain": "take a host out of use: no new request reaches it, its containers end, the others forget it",
    "doctor": "list what disagrees between plan, state, AWS, Consul and the mesh, with the command that fixes it",
    "reach": "say whether the hosts can be reached from this machine, and why not",
    "map": "draw the stack as a picture and as a page",
    "gate": "refuse a preview that would take a host, a subnet or the VPC away by accident",
    "pin-images": "put the digest behind every image that the configuration names by its tag",
    "comment": "render a preview as one Markdown comment",
}
EXAMPLES = {
    "secrets": "--stack dev --rotate templateToken",
    "roll": "--stack dev --role slave --slots 2,3",
    "drain": "--stack dev --host slave-2",
    "doctor": "--stack dev",
    "reach": "--stack dev",
    "map": "--stack dev --out .",
    "gate": "preview.json --allow edge-2",
    "pin-images": "--stack dev",
    "comment": "preview.json --stack dev",
}


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = parser(given).parse_args(given or ["--help"])
    try:
        return arguments.run(arguments)
    except OpsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for a command line; it knows the arguments of the command that comes first, and the names of the others."""
    found = argparse.ArgumentParser(
        prog="python -m ops",
        description="Day-two commands of a stack.",
        epilog="Exit status: 0 done, 1 failed or refused, 2 wrong usage, 130 stopped by Ctrl-C.",
    )
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        example = f"Example: python -m ops {name} {EXAMPLES[name]}"
        command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=example)
        if given[:1] == [name]:
            module = importlib.import_module(f"ops.{name.replace('-', '_')}")
            module.arguments(command)
            command.set_defaults(run=module.run)
    return found


if __name__ == "__main__":
    sys.exit(main())
