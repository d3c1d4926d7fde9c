"""What a change of inputs means: nothing, an update, or a replacement.

Which property replaces is not in the Python SDK. `replace-properties.json` was read off the plans of the real AWS
provider (its "source" says which, its "reading" what each list means).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from .values import UNKNOWN, Props, is_unknown

Change = Literal["add", "delete", "update"]
RULES_FILE = Path(__file__).with_name("replace-properties.json")


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
    no_change: frozenset[str] = frozenset()
    removal_no_change: frozenset[str] = frozenset()
    unordered: frozenset[str] = frozenset()  # lists that AWS keeps as sets
    json: frozenset[str] = frozenset()  # text that AWS compares as JSON
    nested: frozenset[str] = frozenset()  # blocks whose inner properties have rules of their own


@functools.cache
def _file() -> dict[str, dict[str, Any]]:
    return json.loads(RULES_FILE.read_text())["types"]


@functools.cache
def rules(token: str, unordered: frozenset[str] = frozenset(), json_text: frozenset[str] = frozenset()) -> Rules:
    """The rules of a type; one that the file does not name (as those of `command`) replaces on nothing."""
    entry = _file().get(token, {})
    every = {name for key in ("replace", "update", "no_change", "removal_no_change") for name in entry.get(key, [])}
    return Rules(
        replace=frozenset(entry.get("replace", [])),
        no_change=frozenset(entry.get("no_change", [])),
        removal_no_change=frozenset(entry.get("removal_no_change", [])),
        unordered=unordered,
        json=json_text,
        nested=frozenset(name.split(".")[0] for name in every if "." in name),
    )


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
    if rule in how.no_change or (after is None and rule in how.removal_no_change):
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
