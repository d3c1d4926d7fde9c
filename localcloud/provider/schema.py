"""The names of properties, read off the installed Pulumi SDKs. What a value must be, the SDK's own types and AWS say."""

from __future__ import annotations

import difflib
import functools
import importlib
import threading
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pulumi import _types as sdk_types  # pyright: ignore[reportPrivateUsage]  # the SDK's own introspection

from .values import Props

# Property → the names inside where it is a block or a list of blocks; else none.
Names = Mapping[str, Any]
# Names, and where one is a block, the names inside it.
Acted = Mapping[str, Collection[str] | None] | None

_PACKAGES = {"aws": "pulumi_aws", "command": "pulumi_command"}


@dataclass(frozen=True)
class Schema:
    """The properties of a resource type."""

    inputs: Names
    outputs: frozenset[str]


@dataclass(frozen=True)
class Failure:
    """One thing wrong with a resource's inputs. path: as the program writes it, such as `tags` or `ingress[0].fromPort`."""

    path: str
    reason: str


# The SDKs load their modules lazily, and two threads that load one at once can see it half-made.
_loading = threading.RLock()


def schema(token: str) -> Schema:
    """The schema of a type token such as aws:ec2/vpc:Vpc, which the SDK has."""
    with _loading:
        return _schema(token)


@functools.cache
def _schema(token: str) -> Schema:
    package, home, name = token.split(":")
    module = importlib.import_module(f"{_PACKAGES[package]}.{home.split('/')[0]}")
    outputs = cast(dict[str, Any], sdk_types.resource_types(getattr(module, name)))
    return Schema(_names(getattr(module, f"{name}Args")), frozenset(outputs))


def provider_config(package: str) -> Names:
    """The inputs of the provider resource itself, such as aws:region."""
    with _loading:
        return _names(importlib.import_module(_PACKAGES[package]).ProviderArgs)


def check(props: Props, names: Names, owner: str, acted: Acted = None, path: str = "") -> Iterable[Failure]:
    """The properties that the SDK does not have, and those that are not acted on.

    acted: the names that are, and for a block those inside it; None: all. path: of the block, with a dot at its end.
    """
    for key, value in props.items():
        if key.startswith("__"):
            continue
        if key not in names:
            yield Failure(path + key, f"unknown property of {owner}{closest(key, names)}")
        elif acted is not None and key not in acted:
            yield Failure(path + key, f"is a property of {owner}, but the embedded cloud does not implement it")
        elif names[key]:
            inside = acted[key] if acted else None
            blocks = cast(list[Any], value) if isinstance(value, list) else None
            for index, block in enumerate([value] if blocks is None else blocks):
                if isinstance(block, dict):
                    place = f"{path}{key}." if blocks is None else f"{path}{key}[{index}]."
                    parts = None if inside is None else dict.fromkeys(inside)
                    yield from check(cast(Props, block), names[key], owner, parts, place)


def closest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean …?" for the nearest of the names, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


@functools.cache
def _names(arguments: type) -> Names:
    return {name: _inside(hint) for name, hint in sdk_types.input_type_types(arguments).items()}


def _inside(hint: Any) -> Names:
    """The names in the block that a type hint speaks of, whatever it is wrapped in."""
    if isinstance(hint, type) and sdk_types.is_input_type(hint):
        return _names(hint)
    return next(filter(None, map(_inside, typing.get_args(hint))), {})
