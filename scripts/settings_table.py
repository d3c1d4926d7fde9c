"""The README's table of settings, made from the models that check them (plan/settings.py).

python -m scripts.settings_table            prints it
python -m scripts.settings_table --write    puts it into README.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from netaddr import IPNetwork
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from plan.settings import Settings, Zone

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- settings: made by python -m scripts.settings_table --write -->"
END = "<!-- end of settings -->"


class TableError(ValueError):
    """The document has no place for the table."""


def table() -> str:
    """A Markdown table of every setting: its key in the stack file, its default, what it does."""
    rows = ["| key | default | what it does |", "|---|---|---|"]
    for key, field in _fields(Settings, ""):
        required = field.is_required()
        default = "must be given" if required else _shown(field.get_default(call_default_factory=True, validated_data={}))
        rows.append(f"| `{key}` | {default} | {_cell(field.description or '')} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """The document with the table between the two markers. Raises TableError where they are not there once each, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise TableError(f"README.md needs these two lines, once each and in this order: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{key}.")
        else:
            yield key, field


def _shown(value: Any) -> str:
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, list):
        return f"`[{', '.join(_plain(part) for part in cast(list[object], value))}]`"
    return f"`{_plain(value)}`"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Zone):
        return value.name
    if isinstance(value, str | int | IPNetwork):
        return str(value)
    raise TypeError(f"a default of type {type(value).__name__} has no form in the table yet")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--write"]:
        try:
            README.write_text(with_table(README.read_text()))
        except TableError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0
    if arguments:
        print("usage: python -m scripts.settings_table [--write]", file=sys.stderr)
        return 2
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
