"""Tables in the documents that are made from the code: the settings in docs/settings.md (plan/settings.py) and the rules of
the security groups in docs/architecture.md (plan/rules.py).

python -m scripts.tables            prints them
python -m scripts.tables --write    puts each into its document
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args

from netaddr import IPNetwork
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from plan.rules import ADMINISTRATORS, INTERNET, TABLE, Rule
from plan.settings import Settings, Zone

_ROOT = Path(__file__).resolve().parent.parent


class TableError(ValueError):
    """The document has no place for the table."""


@dataclass(frozen=True)
class Table:
    """A Markdown table. document: which has it, between two lines of its own. made: its lines."""

    name: str
    document: Path
    made: Callable[[], list[str]]

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: made by python -m scripts.tables --write -->"

    @property
    def end(self) -> str:
        return f"<!-- end of {self.name} -->"

    def put(self, text: str) -> str:
        """The document with the table in it. Raises TableError where the two lines are not there once each, in order."""
        before, begin, rest = text.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end or self.begin in after or self.end in after:
            raise TableError(
                f"{self.document.name} needs these two lines, once each and in this order: {self.begin} and {self.end}"
            )
        return "\n".join([f"{before}{self.begin}", *self.made(), f"{self.end}{after}"])


def settings() -> list[str]:
    """Every setting: its key in the stack file, its default, what it does."""
    rows = ["| key | default | what it does |", "|---|---|---|"]
    for key, field in _fields(Settings, ""):
        required = field.is_required()
        default = "must be given" if required else _shown(field.get_default(call_default_factory=True, validated_data={}))
        rows.append(f"| `{key}` | {default} | {_cell(field.description or '')} |")
    return rows


def rules() -> list[str]:
    """Every rule of the security groups: from whom, to whom, on which ports, why and when."""
    rows = ["| to | from | ports | why | when |", "|---|---|---|---|---|"]
    return rows + [
        f"| {rule.to} | {_source(rule)} | {_ports(rule)} | {rule.flow.purpose} | {' and '.join(rule.when) or 'always'} |"
        for rule in TABLE
    ]


def _source(rule: Rule) -> str:
    return {INTERNET: "the internet", ADMINISTRATORS: "administrators"}.get(rule.source, rule.source)


def _ports(rule: Rule) -> str:
    flow = rule.flow
    if not flow.ported:
        return f"IP protocol {flow.protocol}"
    last = f"–{flow.last_port}" if flow.last_port != flow.first_port else ""
    return f"{flow.protocol.upper()} {flow.first_port}{last}"


TABLES = (
    Table("settings", _ROOT / "docs" / "settings.md", settings),
    Table("rules", _ROOT / "docs" / "architecture.md", rules),
)


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        # `Existing | None` too: its keys are in the table and not that it is there at all.
        parts = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
        sections = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        if sections:
            yield from _fields(sections[0], f"{key}.")
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
    if list(arguments) in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    if list(arguments) == ["--write"]:
        try:
            for table in TABLES:
                table.document.write_text(table.put(table.document.read_text()))
        except TableError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0
    if arguments:
        print("usage: python -m scripts.tables [--write]", file=sys.stderr)
        return 2
    for table in TABLES:
        print("\n".join(table.made()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
