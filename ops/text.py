"""Text that a host, a branch or a registry wrote, made safe to print. Needs nothing but Python."""

from __future__ import annotations

import shlex
from typing import Any, cast

# Characters of one line, which a terminal still shows as a few.
MOST = 400


def safe(text: str, most: int | None = MOST) -> str:
    """One line without anything that controls a terminal or changes how it reads: control characters, line ends, and characters
    of direction or no width become Python's escapes. Cut after `most` characters."""
    cut = f"{text[:most]}…" if most is not None and len(text) > most else text
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)


def lines(text: str, most: int | None = MOST) -> str:
    """Each line safe; only line feeds end one."""
    return "\n".join(safe(line.removesuffix("\r"), most) for line in text.split("\n"))


def argument(text: str) -> str:
    """One word of a command to paste, whatever the text."""
    return shlex.quote(safe(text))


def cleaned(value: Any, most: int | None = MOST) -> Any:
    """A JSON value, every string in it safe."""
    if isinstance(value, str):
        return safe(value, most)
    if isinstance(value, dict):
        return {safe(str(key), most): cleaned(entry, most) for key, entry in cast(dict[Any, Any], value).items()}
    if isinstance(value, list):
        return [cleaned(entry, most) for entry in cast(list[Any], value)]
    return value
