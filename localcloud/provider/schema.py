"""Types, property names and required properties, read off the installed Pulumi SDKs, so that the check is the SDK's own."""

from __future__ import annotations

import collections.abc
import difflib
import enum
import functools
import importlib
import inspect
import re
import threading
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from pulumi import _types as sdk_types  # pyright: ignore[reportPrivateUsage]  # the SDK's own introspection

from .values import UNKNOWN, Props, Secret

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

    token: str
    inputs: Shape
    outputs: frozenset[str]


@dataclass(frozen=True)
class Failure:
    """One thing wrong with a resource's inputs. path: as the program writes it, such as `tags` or `ingress[0].fromPort`."""

    path: str
    reason: str


class UnknownTypeError(Exception):
    """The SDK has no such resource type; the message names the closest one."""


# The SDKs load their modules lazily, and two threads that load one at once can see it half-made.
_loading = threading.RLock()


def schema(token: str) -> Schema:
    """The schema of a type token such as aws:ec2/vpc:Vpc. UnknownTypeError: the SDK has no such type."""
    with _loading:
        return _schema(token)


@functools.cache
def _schema(token: str) -> Schema:
    package, module, name = _split(token)
    try:
        home = importlib.import_module(module)
    except ImportError:
        raise UnknownTypeError(f"the {package} provider has no type {token}") from None
    resource = getattr(home, name, None)
    arguments = getattr(home, f"{name}Args", None)
    if resource is None or arguments is None:
        names = [n.removesuffix("Args") for n in dir(home) if n.endswith("Args")]
        raise UnknownTypeError(f"the {package} provider has no type {token}{closest(name, names)}")
    outputs = frozenset(cast(dict[str, Any], sdk_types.resource_types(resource)))
    return Schema(token, _object(arguments), outputs)


def function(token: str) -> Shape:
    """The arguments of a look-up such as aws:ec2/getAmi:getAmi, as one object shape. UnknownTypeError: no such look-up."""
    with _loading:
        return _function(token)


@functools.cache
def _function(token: str) -> Shape:
    package, module, name = _split(token)
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", lambda m: "_" + m.group(1).lower(), name)
    try:
        call = getattr(importlib.import_module(module), snake)
    except (ImportError, AttributeError):
        raise UnknownTypeError(f"the {package} provider has no look-up {token}") from None
    parameters = {
        _camel(key): (typing.get_type_hints(call, vars(inspect.getmodule(call))).get(key, Any), parameter)
        for key, parameter in inspect.signature(call).parameters.items()
        if key != "opts"
    }
    required = frozenset(k for k, (_, p) in parameters.items() if p.default is inspect.Parameter.empty)
    return Shape("object", None, {k: _shape(hint) for k, (hint, _) in parameters.items()}, required)


def provider_config(package: str) -> Shape:
    """The inputs of the provider resource itself, such as aws:region. Nested values arrive as JSON text."""
    with _loading:
        return _provider_config(package)


@functools.cache
def _provider_config(package: str) -> Shape:
    return _object(importlib.import_module(_PACKAGES[package]).ProviderArgs)


def check(props: Props, shape: Shape, owner: str) -> list[Failure]:
    """Everything about props that the SDK's types do not allow: unknown and missing names, values of another type."""
    return list(_check_object(props, shape, "", owner))


def coerce(value: Any, shape: Shape) -> Any:
    """The value with "80" for 80 and the like made right, as the AWS provider does; what does not fit stays."""
    if isinstance(value, Secret):
        return Secret(coerce(value.value, shape))
    if shape.kind == "object" and isinstance(value, dict):
        props = cast(Props, value)
        return {k: coerce(v, shape.fields[k]) if k in shape.fields else v for k, v in props.items()}
    if shape.kind == "map" and shape.item and isinstance(value, dict):
        item = shape.item
        return {k: coerce(v, item) for k, v in cast(Props, value).items()}
    if shape.kind == "list" and shape.item and isinstance(value, list):
        item = shape.item
        return [coerce(v, item) for v in cast(list[Any], value)]
    if isinstance(value, str) and shape.kind == "integer" and re.fullmatch(r"-?\d+", value):
        return int(value)
    if isinstance(value, str) and shape.kind == "boolean" and value in ("true", "false"):
        return value == "true"
    if isinstance(value, bool) and shape.kind == "string":
        return "true" if value else "false"
    if isinstance(value, (int, float)) and shape.kind == "string":
        return str(value)
    return value


def closest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean …?" for the nearest of the names, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _split(token: str) -> tuple[str, str, str]:
    package, _, rest = token.partition(":")
    home, _, name = rest.rpartition(":")
    if package not in _PACKAGES or not name:
        raise UnknownTypeError(f"{token} is no type of the aws or command provider")
    folder = home.split("/")[0]
    module = _PACKAGES[package] if folder in ("", "index") else f"{_PACKAGES[package]}.{folder}"
    return package, module, name


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


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


_PYTHON = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "list": list, "map": dict}


def _check(value: Any, shape: Shape, path: str, owner: str) -> Iterable[Failure]:
    if isinstance(value, Secret):
        value = value.value
    if value is UNKNOWN or value is None or shape.kind == "any":
        return
    if shape.kind == "object":
        if isinstance(value, dict):
            yield from _check_object(cast(Props, value), shape, path, owner)
        else:
            yield Failure(path, f"is {value!r}, but {owner} takes an object here")
        return
    wanted = _PYTHON[shape.kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and shape.kind in ("integer", "number")):
        yield Failure(path, f"is {value!r}, but {owner} takes a {shape.kind} here")
    elif shape.kind == "list" and shape.item:
        for index, item in enumerate(cast(list[Any], value)):
            yield from _check(item, shape.item, f"{path}[{index}]", owner)
    elif shape.kind == "map" and shape.item:
        for key, item in cast(Props, value).items():
            yield from _check(item, shape.item, f"{path}.{key}", owner)


def _check_object(props: Props, shape: Shape, path: str, owner: str) -> Iterable[Failure]:
    prefix = f"{path}." if path else ""
    for key, value in props.items():
        if key.startswith("__"):
            continue
        if key not in shape.fields:
            yield Failure(prefix + key, f"unknown property of {owner}{closest(key, shape.fields)}")
        else:
            yield from _check(value, shape.fields[key], prefix + key, owner)
    for key in sorted(shape.required):
        if props.get(key) is None:
            yield Failure(prefix + key, f"missing: {owner} requires it")
