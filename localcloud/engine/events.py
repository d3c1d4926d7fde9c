"""The engine's event log: what it did, in what order, and what went wrong."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

Event = dict[str, Any]

# One replacement comes as three steps; only the one that names it counts. The rest are bookkeeping.
_COUNTED = {"create", "update", "replace", "delete", "same", "read", "import"}
_PARTS = {"create-replacement": "create", "delete-replaced": "delete", "discard": "", "discard-replaced": ""}


@dataclass
class Step:
    """One thing the engine did or would do. op: create, update, replace, delete, same, read, import or refresh."""

    op: str
    urn: str
    type: str
    name: str
    inputs: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)


@dataclass
class Report:
    """All that one run of the engine said.

    changes: number of resources by op, each resource once. steps: all but `same`, in the order in which they ended.
    planned: all, in the order in which they began. errors: messages for the user, each once.
    """

    changes: Counter[str] = field(default_factory=Counter[str])
    steps: list[Step] = field(default_factory=list[Step])
    planned: list[Step] = field(default_factory=list[Step])
    errors: list[str] = field(default_factory=list[str])
    seen: int = 0
    ended: int = 0

    def take(self, event: Event) -> Step | None:
        """Adds an event. Returns the step that it ended, if it did and changed anything."""
        if "summaryEvent" in event:
            counts = cast(dict[str, int], event["summaryEvent"].get("resourceChanges") or {})
            self.changes = Counter({op: n for op, n in counts.items() if n and op in _COUNTED})
        elif "diagnosticEvent" in event:
            self._diagnose(event["diagnosticEvent"])
        elif "resourcePreEvent" in event:
            step = _step(event["resourcePreEvent"]["metadata"])
            self.seen += step.op not in _PARTS
            self.planned.append(step)
        elif "resOutputsEvent" in event:
            step = _step(event["resOutputsEvent"]["metadata"])
            self.ended += step.op not in _PARTS
            if step.op != "same":
                self.steps.append(step)
                return step
        elif "resOpFailedEvent" in event:
            self.ended += 1
        return None

    def _diagnose(self, event: Event) -> None:
        text = _plain(str(event.get("message", ""))).strip()
        text = re.sub(r"^(error: )?(python inline source runtime error: )?", "", text)
        if event.get("severity") != "error" or not text or text in self.errors:
            return
        urn = str(event.get("urn", ""))
        type, name = _type_and_name(urn)
        about = "" if not urn or type == "pulumi:pulumi:Stack" else f"{name} ({type}): "
        if text not in ("update failed", "preview failed", "resource deletion failed"):
            self.errors.append(about + _shorter(text))


def follow(path: Path) -> Iterator[Event | None]:
    """The events in the file as they come; None whenever there is no more just now."""
    offset, rest = 0, b""
    while True:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(offset)
            chunk = file.read()
            offset += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)
        yield None


def _step(metadata: Event) -> Step:
    urn = str(metadata["urn"])
    type, name = _type_and_name(urn)
    inputs = (metadata.get("new") or {}).get("inputs") or {}
    return Step(str(metadata["op"]), urn, type, name, inputs)


def _type_and_name(urn: str) -> tuple[str, str]:
    parts = urn.split("::")
    return (parts[2].split("$")[-1], parts[-1]) if len(parts) >= 4 else ("", urn)


def _plain(text: str) -> str:
    """Without the engine's colour marks."""
    return re.sub(r"<\{%.*?%\}>|\x1b\[[0-9;]*m", "", text)


def _shorter(text: str) -> str:
    """Without what the engine puts around a provider's own words."""
    text = re.sub(r"rpc error: code = \w+ desc = ", "", text)
    text = re.sub(r"\d+ errors? occurred:\s*\n\s*\* ", "", text)
    return text.strip()
