"""Property values on the wire: secrets and unknowns are marked by signatures inside protobuf structs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from google.protobuf import json_format, struct_pb2

Props = dict[str, Any]

_SIGNATURE_KEY: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"
_UNKNOWN_STRING: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
# The engine has one sentinel for each kind of value that it does not know yet.
_UNKNOWNS: Final = {
    _UNKNOWN_STRING,
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
    "030794c1-ac77-496b-92df-f27374a8bd58",
    "e48ece36-62e2-4504-bad9-02848725956a",
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
}


class Unknown:
    """A value that a preview does not have yet. One instance, UNKNOWN; compare with `is`."""


UNKNOWN: Final = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that the engine must encrypt wherever it stores or shows it."""

    value: Any


def decode(struct: struct_pb2.Struct) -> Props:
    """A wire struct as Python values, with Secret and UNKNOWN in place."""
    return {key: _decode(value) for key, value in json_format.MessageToDict(struct).items()}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        fields = cast(Props, value)
        if fields.get(_SIGNATURE_KEY) == _SECRET:
            return Secret(_decode(fields["value"]))
        return {key: _decode(item) for key, item in fields.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return UNKNOWN if isinstance(value, str) and value in _UNKNOWNS else value


def encode(props: Props) -> struct_pb2.Struct:
    """The reverse of `decode`. A None in a map is dropped: to the engine, absent and null are the same."""
    struct = struct_pb2.Struct()
    struct.update(_encode(props))
    return struct


def _encode(value: Any) -> Any:
    if value is UNKNOWN:
        return _UNKNOWN_STRING
    if isinstance(value, Secret):
        return {_SIGNATURE_KEY: _SECRET, "value": _encode(value.value)}
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in cast(Props, value).items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in cast(list[Any], value)]
    return value


def plain(value: Any) -> Any:
    """The value without Secret wrappers and without null map entries; UNKNOWN stays."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in cast(Props, value).items() if item is not None}
    if isinstance(value, list):
        return [plain(item) for item in cast(list[Any], value)]
    return value


def is_secret(value: Any) -> bool:
    """Whether the value holds a secret anywhere."""
    return isinstance(value, Secret) or any(is_secret(item) for item in _inside(value))


def is_unknown(value: Any) -> bool:
    """Whether the value holds something unknown anywhere."""
    return value is UNKNOWN or any(is_unknown(item) for item in _inside(value))


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Secret):
        return [value.value]
    return cast(Props, value).values() if isinstance(value, dict) else cast(list[Any], value) if isinstance(value, list) else ()
