"""What a change of inputs means: nothing, an update, or a replacement. Each type says which (`kind.py`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

from .values import UNKNOWN, Props, is_unknown

Change = Literal["add", "delete", "update"]


@dataclass(frozen=True)
class Found:
    """One changed property. path: as in `rootBlockDevice.encrypted` or `ebsBlockDevices[0].deviceName`."""

    path: str
    change: Change
    replaces: bool

    @property
    def property(self) -> str:
        """The top-level property that the path starts at."""
        return self.path.split(".")[0].split("[")[0]


@dataclass(frozen=True)
class Rules:
    """How one type reacts. Names are property names, or `a.b` for b inside block a."""

    replace: frozenset[str] = frozenset()
    removal_no_change: frozenset[str] = frozenset()
    unordered: frozenset[str] = frozenset()  # lists that AWS keeps as sets
    json: frozenset[str] = frozenset()  # text that AWS compares as JSON
    nested: frozenset[str] = frozenset()  # blocks whose inner properties have rules of their own


def compare(old: Props, new: Props, how: Rules) -> list[Found]:
    """Every change between two sets of plain inputs, in order of name. An unknown new value counts as another value."""
    found: list[Found] = []
    for name in sorted(old.keys() | new.keys()):
        if name.startswith("__"):
            continue
        before, after = old.get(name), new.get(name)
        if not same(name, before, after, how):
            found.extend(_blocks(name, before, after, how) if name in how.nested else [_change(name, name, before, after, how)])
    return [f for f in found if f is not _NOTHING]


def same(name: str, before: Any, after: Any, how: Rules) -> bool:
    """Whether two values of a property mean the same to AWS."""
    if is_unknown(before) or is_unknown(after):
        return False
    if before == after or (before in (None, [], {}) and after in (None, [], {})):
        return True
    if name in how.unordered and isinstance(before, list) and isinstance(after, list):
        return _as_set(cast(list[Any], before)) == _as_set(cast(list[Any], after))
    if name in how.json and isinstance(before, str) and isinstance(after, str):
        try:
            return json.loads(before) == json.loads(after)
        except ValueError:
            return False
    return False


_NOTHING = Found("", "update", False)


def _as_set(values: list[Any]) -> list[str]:
    return sorted(json.dumps(value, sort_keys=True) for value in values)


def _change(rule: str, path: str, before: Any, after: Any, how: Rules) -> Found:
    if after is None and rule in how.removal_no_change:
        return _NOTHING
    change: Change = "add" if before is None else "delete" if after is None else "update"
    return Found(path, change, rule in how.replace)


def _blocks(name: str, before: Any, after: Any, how: Rules) -> list[Found]:
    """Changes inside a block, or inside each of a list of blocks where the count stays the same."""
    if before is UNKNOWN or after is UNKNOWN:
        return [_change(name, name, before, after, how)]
    if isinstance(before, list) or isinstance(after, list):
        olds, news = cast(list[Any], before or []), cast(list[Any], after or [])
        if len(olds) != len(news):
            return [_change(name, name, before, after, how)]
        pairs = [(f"{name}[{index}]", *pair) for index, pair in enumerate(zip(olds, news, strict=True))]
    else:
        pairs = [(name, before or {}, after or {})]
    return [
        _change(f"{name}.{key}", f"{path}.{key}", old.get(key), new.get(key), how)
        for path, old, new in pairs
        for key in sorted(old.keys() | new.keys())
        if not same(key, old.get(key), new.get(key), how)
    ]
