"""Between what the program wrote, what the state holds and what AWS says: the same thing, spelt in three ways."""

from __future__ import annotations

import json
from typing import Any, cast

from . import diff
from .values import Props


def unpacked(inputs: Props) -> Props:
    """The provider's inputs with their nested values, which travel as JSON text, unpacked, and the engine's own left out."""
    config: Props = {}
    for name, value in inputs.items():
        if name.startswith("__") or name in ("version", "pluginDownloadURL"):
            continue
        if isinstance(value, str) and value[:1] in ("{", "["):
            value = json.loads(value)
        config[name] = value == "true" if value in ("true", "false") else value
    return config


def after_change(working: Props, live: Props) -> Props:
    """The state after a change: what was asked for, under what AWS says. Of the tags, `tags` are the program's own."""
    known = {**working, **given(live)}
    if "tags" in live:
        known["tagsAll"] = live["tags"]
        known["tags"] = working.get("tags")
    return known


def given(props: Props) -> Props:
    return {k: v for k, v in props.items() if v is not None}


def as_known(name: str, known: Any, live: Any, rules: diff.Rules) -> Any:
    """The live value, spelt as we know it where both mean the same; of a block, only the parts we know."""
    if known is None or diff.same(name, known, live, rules):
        return live if known is None else known
    if isinstance(known, dict) and isinstance(live, dict) and name != "tags":
        before, now = cast(Props, known), cast(Props, live)
        return {k: as_known(k, v, now.get(k), rules) if k in now else v for k, v in before.items()}
    if isinstance(known, list) and isinstance(live, list):
        olds, news = cast(list[Any], known), cast(list[Any], live)
        if len(olds) == len(news) and all(isinstance(item, dict) for item in (*olds, *news)):
            return [as_known(name, old, new, rules) for old, new in zip(olds, news, strict=True)]
    if isinstance(known, str) and isinstance(live, (int, float)) and known == str(live).lower():
        return known
    return live
