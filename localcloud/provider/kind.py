"""What every resource type has: the inputs that it acts on, what a change of them means, and its calls."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ..api.client import Aws
from .sdk import closest
from .values import Props, is_unknown


class CloudError(Exception):
    """AWS would refuse this, or moto did. The message names the thing, its value and what would do."""


@dataclass(frozen=True)
class Failure:
    """One thing wrong with a resource's inputs. path: as the program writes it, such as `tags` or `ingress[0].fromPort`."""

    path: str
    reason: str


class Kind:
    """One resource type. A subclass says which inputs it knows and how to create, read, update and delete."""

    token: ClassVar[str]
    # Inputs that are acted on. The SDK's other inputs are refused by name: nothing is ignored silently.
    inputs: ClassVar[Collection[str]] = ()
    # Of each group exactly one has to be given.
    required: ClassVar[Collection[Collection[str]]] = ()
    # Of inputs that are blocks, and of blocks inside them, the properties that are acted on.
    parts: ClassVar[dict[str, Collection[str]]] = {}
    # What a change means, read off the plans of the real AWS provider (hashicorp/aws 5.100.0): inputs whose other value
    # replaces the resource; and inputs that keep their value when the program stops giving one.
    replaces: ClassVar[Collection[str]] = ()
    computed: ClassVar[Collection[str]] = ()
    autoname: ClassVar[str | None] = None
    name_limit: ClassVar[int] = 255
    unordered: ClassVar[Collection[str]] = ()
    json_text: ClassVar[Collection[str]] = ()
    base64_text: ClassVar[Collection[str]] = ()
    secret_outputs: ClassVar[Collection[str]] = ()
    journaled: ClassVar[bool] = True  # whether one that no state knows is a leftover of a killed run

    # --- what is wrong with inputs ---

    def unknown(self, props: Props, names: Collection[str], path: str = "") -> Iterable[Failure]:
        """The properties that are not acted on, also inside blocks. path: of the block, with a dot at its end."""
        for key, value in props.items():
            if key.startswith("__"):
                continue
            if key not in names:
                reason = f"the embedded cloud does not implement this property of {self.token}{closest(key, names)}"
                yield Failure(path + key, reason)
            elif key in self.parts:
                blocks = cast(list[Any], value) if isinstance(value, list) else None
                for index, block in enumerate([value] if blocks is None else blocks):
                    if isinstance(block, dict):
                        place = f"{path}{key}." if blocks is None else f"{path}{key}[{index}]."
                        yield from self.unknown(cast(Props, block), self.parts[key], place)

    def validate(self, inputs: Props) -> Iterable[Failure]:
        """What the real provider refuses in a plan and the SDK's types allow. Values may be UNKNOWN."""
        for names in self.required:
            given = [name for name in names if inputs.get(name) not in (None, "", [])]
            if len(given) != 1:
                among = f"exactly one of {', '.join(names)} is needed; given: {', '.join(given) or 'none'}"
                yield Failure(next(iter(names)), among if len(names) > 1 else f"missing: {self.token} needs it")
        for name in self.base64_text:
            try:
                base64.b64decode("" if is_unknown(inputs.get(name)) else inputs.get(name) or "", validate=True)
            except ValueError as error:
                yield Failure(name, f"is not base64: {error}")

    # --- what a change means: the program, the state and AWS spell the same thing in three ways ---

    def compare(self, old: Props, new: Props) -> dict[str, str]:
        """Every changed input → add, delete or update, with _replace where it replaces. An unknown new value is another one."""
        found: dict[str, str] = {}
        for name in sorted(old.keys() | new.keys()):
            before, after = old.get(name), new.get(name)
            kept = after is None and name in self.computed
            if not name.startswith("__") and not kept and not self.same(name, before, after):
                change = "add" if before is None else "delete" if after is None else "update"
                found[name] = f"{change}_replace" if self.replacing(name, old, new) else change
        return found

    def replacing(self, name: str, old: Props, new: Props) -> bool:
        """Whether the change of an input replaces the resource."""
        return name in self.replaces

    def same(self, name: str, before: Any, after: Any) -> bool:
        """Whether two values of a property mean the same to AWS."""
        if is_unknown(before) or is_unknown(after):
            return False
        if before == after or (before in (None, [], {}) and after in (None, [], {})):
            return True
        if name in self.unordered and isinstance(before, list) and isinstance(after, list):
            return sorted(cast(list[str], before)) == sorted(cast(list[str], after))
        if name in self.json_text and isinstance(before, str) and isinstance(after, str):
            try:
                return json.loads(before) == json.loads(after)
            except ValueError:
                return False
        return False

    def as_known(self, name: str, known: Any, live: Any) -> Any:
        """The live value, spelt as we know it where both mean the same; of a block, only the parts we know."""
        if known is not None and self.same(name, known, live):
            return known
        if isinstance(known, dict) and isinstance(live, dict) and name != "tags":
            before, now = cast(Props, known), cast(Props, live)
            return {k: self.as_known(k, v, now.get(k)) if k in now else v for k, v in before.items()}
        if isinstance(known, list) and isinstance(live, list):
            olds, news = cast(list[Any], known), cast(list[Any], live)
            if len(olds) == len(news) and all(isinstance(item, dict) for item in (*olds, *news)):
                return [self.as_known(name, old, new) for old, new in zip(olds, news, strict=True)]
        if isinstance(known, str) and isinstance(live, (int, float)) and known == str(live).lower():
            return known
        return live

    # --- calls ---

    def make(self, aws: Aws, inputs: Props) -> tuple[str, Props]:
        """Creates the resource; its id and live properties."""
        raise NotImplementedError

    def change(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> Props:
        """Applies changed inputs; the live properties. old: the last outputs. CloudError where the resource is gone."""
        raise NotImplementedError

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        """The live properties, or None where the resource is gone. known: the last state."""
        raise NotImplementedError

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        """Removes the resource; one that is gone already is no error."""
        raise NotImplementedError
