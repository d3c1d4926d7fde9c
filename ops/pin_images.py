"""Pins the images that a stack's hosts fetch: asks each registry what a tag names, and writes the digest behind it."""

from __future__ import annotations

import argparse
import json

from host.apollo import images
from ops.cli import Cli
from ops.errors import OpsError


class ImagesError(OpsError):
    """An image could not be pinned. The message names it and has the registry's own words."""


def pin(stack: str, scheme: str = "https") -> dict[str, str]:
    """Key → what is now in the stack's configuration, for each image in use that is named by its tag.

    Raises ImagesError, also where the section of an image is malformed, and OpsError where `pulumi` cannot read or write it.
    """
    from plan.images import unpinned
    from plan.parse import examine

    shown = json.loads(Cli().run("config", "--stack", stack, "--json"))
    raw = {key.removeprefix("apollo:"): entry["objectValue"] for key, entry in shown.items() if "objectValue" in entry}
    settings, problems = examine(raw)
    if wrong := [problem for problem in problems if problem.key.startswith(("overlay", "mesos"))]:
        raise ImagesError("\n".join(map(str, wrong)))
    pinned: dict[str, str] = {}
    for key, source in unpinned(settings).items():
        tag = source.rpartition("/")[2].partition(":")[2]
        pinned[key] = f"{source.removesuffix(f':{tag}')}@{_digest(source, scheme)}"
        Cli().run("config", "set", "--stack", stack, "--path", f"apollo:{key}", pinned[key])
    return pinned


def _digest(source: str, scheme: str) -> str:
    try:
        # As hosts read registries, so that what is pinned here is what they compare.
        return images.Registry(images.Image.parse(source), scheme).digest()
    except (images.Refused, OSError, ValueError, KeyError) as error:
        raise ImagesError(f"{source}: {error}") from None


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", required=True, help="which Pulumi.<stack>.yaml, such as dev")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(given: argparse.Namespace) -> int:
    pinned = pin(given.stack)
    if given.json:
        print(json.dumps({"stack": given.stack, "pinned": pinned}))
    else:
        print("".join(f"  {key}: {value}\n" for key, value in pinned.items()) or "nothing to pin\n", end="")
    return 0
