"""Arguments that several verbs have, and what they may be."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", default="local", help="which Pulumi.<stack>.yaml (default: local)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE",
        help="a setting for this run only, such as slaves.count=5; values in YAML; may be given several times",
    )  # fmt: skip


def endpoint_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=port, default=0, help="port of the AWS endpoint on 127.0.0.1 (default: any)")


def machine_kind(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--machines", choices=("container", "vm"),
        help="what hosts are: containers on this machine's kernel (default), or virtual machines with Debian's, in minutes",
    )  # fmt: skip
    parser.add_argument(
        "--accel", choices=("tcg", "kvm"),
        help="with --machines vm: the processor is emulated (tcg, default), or this machine's by its KVM (unproved)",
    )  # fmt: skip


def host(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", metavar="HOST", help="a name that `status` shows, such as slave-1")


def port(text: str) -> int:
    return within(text, 0, 65535)


def within(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text} is not a number from {least} to {most}")
    return int(text)


def folder(text: str) -> Path:
    """A path as its user means it: `./apollo` may be called from another folder than the checkout, where it goes to."""
    return Path(os.environ.get("APOLLO_CALLED_FROM", "."), text).absolute()
