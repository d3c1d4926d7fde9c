"""What a change of inputs means: nothing, an update, or a replacement. Each type says which (`kind.py`).

And what of AWS's answer is a change: the program, the state and AWS spell the same thing in three ways.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from .values import UNKNOWN, Props, is_unknown

if TYPE_CHECKING:
    from .kind import Kind

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


def compare(old: Props, new: Props, kind: Kind) -> list[Found]:
    """Every change between two sets of plain inputs, in order of name. An unknown new value counts as another value."""
    found: list[Found] = []
    nested = {name.partition(".")[0] for name in (*kind.replaces, *kind.computed) if "." in name}
    for name in sorted(old.keys() | new.keys()):
        if name.startswith("__"):
            continue
        before, after = old.get(name), new.get(name)
        if not same(name, before, after, kind):
            found += _blocks(name, before, after, kind) if name in nested else _change(name, name, before, after, kind)
    return found


def same(name: str, before: Any, after: Any, kind: Kind) -> bool:
    """Whether two values of a property mean the same to AWS."""
    if is_unknown(before) or is_unknown(after):
        return False
    if before == after or (before in (None, [], {}) and after in (None, [], {})):
        return True
    if name in kind.unordered and isinstance(before, list) and isinstance(after, list):
        return _as_set(cast(list[Any], before)) == _as_set(cast(list[Any], after))
    if name in kind.json_text and isinstance(before, str) and isinstance(after, str):
        try:
            return json.loads(before) == json.loads(after)
        except ValueError:
            return False
    return False


def _as_set(values: list[Any]) -> list[str]:
    return sorted(json.dumps(value, sort_keys=True) for value in values)


def _change(rule: str, path: str, before: Any, after: Any, kind: Kind) -> list[Found]:
    if after is None and rule in kind.computed:
        return []
    change: Change = "add" if before is None else "delete" if after is None else "update"
    return [Found(path, change, rule in kind.replaces)]


def _blocks(name: str, before: Any, after: Any, kind: Kind) -> list[Found]:
    """Changes inside a block, or inside each of a list of blocks where the count stays the same."""
    if before is UNKNOWN or after is UNKNOWN:
        return _change(name, name, before, after, kind)
    if isinstance(before, list) or isinstance(after, list):
        olds, news = cast(list[Any], before or []), cast(list[Any], after or [])
        if len(olds) != len(news):
            return _change(name, name, before, after, kind)
        pairs = [(f"{name}[{index}]", *pair) for index, pair in enumerate(zip(olds, news, strict=True))]
    else:
        pairs = [(name, before or {}, after or {})]
    return [
        found
        for path, old, new in pairs
        for key in sorted(old.keys() | new.keys())
        if not same(key, old.get(key), new.get(key), kind)
        for found in _change(f"{name}.{key}", f"{path}.{key}", old.get(key), new.get(key), kind)
    ]


def as_known(name: str, known: Any, live: Any, kind: Kind) -> Any:
    """The live value, spelt as we know it where both mean the same; of a block, only the parts we know."""
    if known is None or same(name, known, live, kind):
        return live if known is None else known
    if isinstance(known, dict) and isinstance(live, dict) and name != "tags":
        before, now = cast(Props, known), cast(Props, live)
        return {k: as_known(k, v, now.get(k), kind) if k in now else v for k, v in before.items()}
    if isinstance(known, list) and isinstance(live, list):
        olds, news = cast(list[Any], known), cast(list[Any], live)
        if len(olds) == len(news) and all(isinstance(item, dict) for item in (*olds, *news)):
            return [as_known(name, old, new, kind) for old, new in zip(olds, news, strict=True)]
    if isinstance(known, str) and isinstance(live, (int, float)) and known == str(live).lower():
        return known
    return live
