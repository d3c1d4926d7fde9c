"""Property values on the wire: secrets and unknowns are marked by signatures inside protobuf structs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from google.protobuf import struct_pb2

Props = dict[str, Any]

_SIGNATURE_KEY: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"
_ASSETS: Final = {"c44067f5952c0a294b673a41bacd8c17", "0def7320c3a5731c473e5ecbe6d01bc7"}
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

    def __repr__(self) -> str:
        return "<unknown>"

    def __deepcopy__(self, memo: object) -> Unknown:
        return self


UNKNOWN: Final = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that the engine must encrypt wherever it stores or shows it."""

    value: Any


def decode(struct: struct_pb2.Struct) -> Props:
    """A wire struct as Python values, with Secret and UNKNOWN in place. ValueError: an asset or archive."""
    return {key: _decode(value) for key, value in struct.fields.items()}


def _decode(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return UNKNOWN if value.string_value in _UNKNOWNS else value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decode(item) for item in value.list_value.values]
    if kind == "struct_value":
        fields = value.struct_value.fields
        signature = fields[_SIGNATURE_KEY].string_value if _SIGNATURE_KEY in fields else ""
        if signature == _SECRET:
            return Secret(_decode(fields["value"]))
        if signature in _ASSETS:
            raise ValueError("assets and archives are not supported by the embedded cloud")
        return decode(value.struct_value)
    return None


def encode(props: Props) -> struct_pb2.Struct:
    """The reverse of `decode`. A None in a map is dropped: to the engine, absent and null are the same."""
    struct = struct_pb2.Struct()
    for key, value in props.items():
        if value is not None:
            struct.fields[key].CopyFrom(_encode(value))
    return struct


def _encode(value: Any) -> struct_pb2.Value:
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if value is UNKNOWN:
        return struct_pb2.Value(string_value=_UNKNOWN_STRING)
    if isinstance(value, Secret):
        inner = encode({_SIGNATURE_KEY: _SECRET})
        inner.fields["value"].CopyFrom(_encode(value.value))
        return struct_pb2.Value(struct_value=inner)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, (int, float)):
        return struct_pb2.Value(number_value=value)
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, dict):
        return struct_pb2.Value(struct_value=encode(cast(Props, value)))
    if isinstance(value, (list, tuple)):
        items = [_encode(item) for item in cast(list[Any], value)]
        return struct_pb2.Value(list_value=struct_pb2.ListValue(values=items))
    raise TypeError(f"a {type(value).__name__} cannot be a property value")


def plain(value: Any) -> Any:
    """The value without Secret wrappers and without null map entries; UNKNOWN stays."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in cast(Props, value).items() if item is not None}
    if isinstance(value, list):
        return [plain(item) for item in cast(list[Any], value)]
    return value


def contains(value: Any, wanted: Callable[[Any], bool]) -> bool:
    """Whether the value, or anything inside it, is wanted."""
    if wanted(value):
        return True
    if isinstance(value, Secret):
        return contains(value.value, wanted)
    if isinstance(value, dict):
        return any(contains(item, wanted) for item in cast(Props, value).values())
    if isinstance(value, list):
        return any(contains(item, wanted) for item in cast(list[Any], value))
    return False


def is_secret(value: Any) -> bool:
    """Whether the value holds a secret anywhere."""
    return contains(value, lambda item: isinstance(item, Secret))


def is_unknown(value: Any) -> bool:
    """Whether the value holds something unknown anywhere."""
    return contains(value, lambda item: item is UNKNOWN)
