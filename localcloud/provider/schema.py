"""Types, property names and required properties, read off the installed Pulumi SDKs, so that the check is the SDK's own."""

from __future__ import annotations

import collections.abc
import difflib
import enum
import functools
import importlib
import inspect
import threading
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pulumi import _types as sdk_types  # pyright: ignore[reportPrivateUsage]  # the SDK's own introspection

from .values import UNKNOWN, Props, Secret

# Names, and where one is a block, the names inside it.
Acted = Mapping[str, Collection[str] | None] | None

_PACKAGES = {"aws": "pulumi_aws", "command": "pulumi_command"}


@dataclass(frozen=True)
class Shape:
    """What a property may hold. kind: string, integer, number, boolean, list, map, object or any."""

    kind: str
    item: Shape | None = None
    fields: dict[str, Shape] = field(default_factory=dict[str, "Shape"])
    required: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Schema:
    """A resource type: its inputs as one object shape, and the names of all its outputs."""

    inputs: Shape
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
    return Schema(_object(getattr(module, f"{name}Args")), frozenset(outputs))


def provider_config(package: str) -> Shape:
    """The inputs of the provider resource itself, such as aws:region. Nested values arrive as JSON text."""
    with _loading:
        return _object(importlib.import_module(_PACKAGES[package]).ProviderArgs)


def check(props: Props, shape: Shape, owner: str, acted: Acted = None) -> list[Failure]:
    """Everything about props that the SDK's types do not allow: unknown and missing names, values of another type.

    acted: the names that are acted on, and for a block those inside it; the SDK's others are refused. None: all are.
    """
    return list(_check_object(props, shape, "", owner, acted))


def closest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean …?" for the nearest of the names, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


@functools.cache
def _object(arguments: type) -> Shape:
    names = sdk_types.input_type_py_to_pulumi_names(arguments)
    hints = sdk_types.input_type_types(arguments)
    parameters = inspect.signature(arguments.__init__).parameters
    required = frozenset(names[key] for key, p in parameters.items() if key in names and p.default is inspect.Parameter.empty)
    return Shape("object", None, {name: _shape(hint) for name, hint in hints.items()}, required)


def _shape(hint: Any) -> Shape:
    """The shape of a type hint. Wrappers that say "now or later" (Output, Awaitable, Optional) are looked through."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        choices = [a for a in arguments if a is not type(None) and not _is_later(a)]
        plain_types = [a for a in choices if not (isinstance(a, type) and issubclass(a, enum.Enum))]
        return _shape((plain_types or choices)[0]) if choices else Shape("any")
    if origin in (collections.abc.Sequence, list):
        return Shape("list", _shape(arguments[0]) if arguments else Shape("any"))
    if origin in (collections.abc.Mapping, dict):
        return Shape("map", _shape(arguments[1]) if arguments else Shape("any"))
    if isinstance(hint, type):
        if hint is bool:
            return Shape("boolean")
        if issubclass(hint, enum.Enum):
            return Shape("string" if issubclass(hint, str) else "any")
        simple = {str: "string", int: "integer", float: "number"}.get(hint)
        if simple:
            return Shape(simple)
        if sdk_types.is_input_type(hint):
            return _object(hint)
    return Shape("any")


def _is_later(hint: Any) -> bool:
    name = getattr(typing.get_origin(hint) or hint, "__name__", "")
    return name in ("Output", "Awaitable")


_PYTHON: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "list": list,
    "map": dict,
    "object": dict,
}


def _check(value: Any, shape: Shape, path: str, owner: str, acted: Acted) -> Iterable[Failure]:
    if isinstance(value, Secret):
        value = value.value
    if value is UNKNOWN or value is None or shape.kind == "any":
        return
    if not isinstance(value, _PYTHON[shape.kind]) or (isinstance(value, bool) and shape.kind in ("integer", "number")):
        yield Failure(path, f"is {value!r}, but {owner} takes a {shape.kind} here")
    elif shape.kind == "object":
        yield from _check_object(cast(Props, value), shape, path, owner, acted)
    elif shape.kind == "list" and shape.item:
        for index, item in enumerate(cast(list[Any], value)):
            yield from _check(item, shape.item, f"{path}[{index}]", owner, acted)
    elif shape.kind == "map" and shape.item:
        for key, item in cast(Props, value).items():
            yield from _check(item, shape.item, f"{path}.{key}", owner, None)


def _check_object(props: Props, shape: Shape, path: str, owner: str, acted: Acted) -> Iterable[Failure]:
    prefix = f"{path}." if path else ""
    for key, value in props.items():
        if key.startswith("__"):
            continue
        if key not in shape.fields:
            yield Failure(prefix + key, f"unknown property of {owner}{closest(key, shape.fields)}")
        elif acted is not None and key not in acted:
            yield Failure(prefix + key, f"is a property of {owner}, but the embedded cloud does not implement it")
        else:
            inside = acted[key] if acted else None
            yield from _check(value, shape.fields[key], prefix + key, owner, None if inside is None else dict.fromkeys(inside))
    for key in sorted(shape.required):
        if props.get(key) is None:
            yield Failure(prefix + key, f"missing: {owner} requires it")
