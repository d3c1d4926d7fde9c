"""What `pulumi preview --json` says, as hosts, networks and the rest."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from ops.errors import OpsError
from ops.text import cleaned, lines, safe

HOST = "apollo:compute:Host"
INSTANCE = "aws:ec2/instance:Instance"
VOLUME = "aws:ebs/volume:Volume"
ATTACHMENT = "aws:ec2/volumeAttachment:VolumeAttachment"
VPC = "aws:ec2/vpc:Vpc"
SUBNET = "aws:ec2/subnet:Subnet"
# What a host learns only when it is created: a change waits for its generation.
WAITING = {"instanceType": "instance type", "rootGib": "root disk (GiB)", "hostFiles": "host files"}
_READS = ("same", "read", "refresh")
_REPLACES = ("replace", "create-replacement", "delete-replaced")
_HOST_NAME = re.compile(r"^((?:slave|control|edge)-[1-9][0-9]*)-")
Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One resource that a preview would touch. op: create, update, replace or delete. old, new: its inputs, empty where none.

    A branch chose the names and values, so they are safe to print.

    changed: names of the properties that differ.
    """

    op: str
    type: str
    name: str
    parent: str
    old: Inputs
    new: Inputs
    changed: frozenset[str]


@dataclass
class HostChange:
    """All that a preview would do to one host. old, new: the Host component's inputs, empty where it comes or goes."""

    name: str
    old: Inputs = field(default_factory=dict[str, Any])
    new: Inputs = field(default_factory=dict[str, Any])
    steps: list[Step] = field(default_factory=list[Step])

    @property
    def role(self) -> str:
        return self.name.rpartition("-")[0]

    @property
    def index(self) -> int:
        return int(self.name.rpartition("-")[2])

    @property
    def op(self) -> str:
        """What becomes of the machine: create, replace, delete, update, or `same`."""
        ops = {step.op for step in self.steps if step.type == INSTANCE}
        return next((op for op in ("replace", "delete", "create", "update") if op in ops), "same")

    @property
    def raised(self) -> bool:
        """Whether the host's generation rises."""
        old, new = self.old.get("generation"), self.new.get("generation")
        return isinstance(old, int | float) and isinstance(new, int | float) and new > old

    def differing(self, names: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
        """Those of the named inputs of the component that change: title → (old, new)."""
        if not self.old or not self.new:
            return {}
        return {
            title: (self.old.get(name), self.new.get(name))
            for name, title in names.items()
            if name in self.old and self.old.get(name) != self.new.get(name)
        }


@dataclass(frozen=True)
class Preview:
    """steps: without those that change nothing. config: the stack's, structured values decoded, secrets masked."""

    stack: str
    steps: tuple[Step, ...]
    config: Mapping[str, Any]
    counts: Counter[str]

    @cached_property
    def hosts(self) -> dict[str, HostChange]:
        """The hosts that would be touched, by name, in the order of the plan."""
        found: dict[str, HostChange] = {}
        for step in self.steps:
            if step.type == HOST:
                host = found.setdefault(step.name, HostChange(step.name))
                host.old, host.new = step.old, step.new
                continue
            part = _HOST_NAME.match(f"{step.name}-")
            if part and ("apollo:compute:" in step.parent or "apollo:edge:" in step.parent):
                found.setdefault(part[1], HostChange(part[1])).steps.append(step)
        order = {"slave": 0, "control": 1, "edge": 2}
        return dict(sorted(found.items(), key=lambda item: (order[item[1].role], item[1].index)))

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the program's configuration, such as `slaves`; empty where it has its defaults."""
        for key, value in self.config.items():
            if key.endswith(f":{name}") and not key.startswith("aws:") and isinstance(value, dict):
                return cast(Mapping[str, Any], value)
        return {}


def load(source: str) -> Preview:
    """A preview from a file, or from standard input where source is `-`. OpsError (status 2): it is none, or not whole."""
    where = "standard input" if source == "-" else source
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise OpsError(f"cannot read {where}: {getattr(error, 'strerror', None) or error}", 2) from None
    return parse(text, where)


def parse(text: str, where: str = "the preview") -> Preview:
    """The preview in a text. OpsError (status 2), as of load."""
    made_by = "make one with: pulumi preview --json > preview.json"
    try:
        document = json.loads(text)
    except ValueError:
        raise OpsError(f"{where} is no preview: it is not JSON; {made_by}", 2) from None
    if not isinstance(document, dict) or not {"steps", "changeSummary", "diagnostics"} & document.keys():
        raise OpsError(f"{where} is no preview: it has neither steps nor a summary; {made_by}", 2)
    content = cast(dict[str, Any], document)
    entries: list[dict[str, Any]] = content.get("diagnostics") or []
    errors = [lines(str(entry.get("message", "")).strip()) for entry in entries if entry.get("severity") == "error"]
    if errors:
        raise OpsError(
            f"{where} is of a preview that failed, so it says nothing about the change:\n  " + "\n  ".join(errors), 2
        )
    if "steps" not in content or "changeSummary" not in content:
        raise OpsError(f"{where} is no whole preview: it has no steps or no summary; {made_by}", 2)
    try:
        steps = tuple(_step(entry) for entry in content["steps"] if entry["op"] not in _READS)
        config = {key: decoded(value) for key, value in (content.get("config") or {}).items()}
        first = next((str(entry["urn"]) for entry in content["steps"]), "urn:pulumi:::")
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise OpsError(
            f"{where} is no preview: a step has an unknown form ({type(error).__name__}: {error}); {made_by}", 2
        ) from None
    counts = Counter({str(op): int(count) for op, count in content["changeSummary"].items()})
    return Preview(first.split(":")[2].split("::")[0], steps, config, counts)


def _step(entry: dict[str, Any]) -> Step:
    urn = safe(str(entry["urn"]), None)
    kind, name = urn.split("::")[2:4]
    old, new = entry.get("oldState") or {}, entry.get("newState") or {}
    op = str(entry["op"])
    detailed = cast(dict[str, Any], entry.get("detailedDiff") or {})
    changed = {*(entry.get("diffReasons") or ()), *(re.split(r"[.\[]", path)[0] for path in detailed)}
    parent = str(new.get("parent") or old.get("parent") or "")
    inputs: tuple[Inputs, Inputs] = cleaned(old.get("inputs") or {}, None), cleaned(new.get("inputs") or {}, None)
    shown = "replace" if op in _REPLACES else op
    return Step(shown, kind.split("$")[-1], name, parent, *inputs, frozenset(changed))


def decoded(value: Any) -> Any:
    """A configuration value as an object, where Pulumi tells one as JSON text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
