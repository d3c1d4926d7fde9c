"""Refuses a preview that would replace, delete or stop something that the change does not name.

A machine may go only if the same change raises its generation or puts its slot into `slaves.retired`. Subnets and the VPC never
go, no volume shrinks, no host moves. Only one control node may be touched at a time. The stack's record of its settings refuses
most of this at preview (components/record.py); a stack that has no record yet has the gate alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ops.preview import ATTACHMENT, INSTANCE, SUBNET, VOLUME, VPC, WAITING, HostChange, Preview, load
from plan.place import PLACE, SECTIONS

# Properties of a machine that AWS changes while it runs. Any other update may stop it.
_IN_PLACE = frozenset(("tags", "tagsAll", "vpcSecurityGroupIds", "iamInstanceProfile", "metadataOptions", "monitoring"))


@dataclass(frozen=True)
class Refusal:
    """kind: host, network or control, or waiting where nothing is lost but a host keeps what the change means to replace.

    name: of what it is about. fix: what to change so that it passes.
    """

    kind: str
    name: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}; {self.fix}"


def refusals(preview: Preview, allowed: Collection[str] = ()) -> list[Refusal]:
    """Why the preview must not be carried out; empty where it may. allowed: hosts that may go though nothing says so."""
    found = list(_network(preview))
    touched: list[str] = []
    for host in preview.hosts.values():
        loss = _loss(host)
        if host.role == "control" and loss and host.name not in allowed:
            touched.append(host.name)
        if host.name not in allowed:
            found += _host(preview, host, loss)
    if len(touched) > 1:
        away = ", ".join(touched)
        fix = "raise one generation, `up`, wait until it is back, then the next: python -m ops roll --role control does that"
        found.append(Refusal("control", away, f"{len(touched)} control nodes would be touched at once", fix))
    return found


def _network(preview: Preview) -> Iterator[Refusal]:
    for step in preview.steps:
        if step.type in (VPC, SUBNET) and step.op in ("replace", "delete"):
            what = "the VPC" if step.type == VPC else "a subnet"
            key = "network.cidr" if step.type == VPC or step.op == "replace" else "zones"
            ranges = " → ".join(str(side["cidrBlock"]) for side in (step.old, step.new) if side.get("cidrBlock"))
            reason = f"{what} would be {_past(step.op)} ({ranges})"
            fix = f"take {key} and the order of zones back; a zone is only ever appended, and another range is a new stack"
            yield Refusal("network", step.name, reason, fix)


def _loss(host: HostChange) -> str:
    """What would be taken from the host, in the past tense; empty where nothing is."""
    if host.op in ("replace", "delete"):
        return _past(host.op)
    for step in host.steps:
        if step.type == INSTANCE and step.op == "update" and not step.changed <= _IN_PLACE:
            return f"stopped, to change its {', '.join(sorted(step.changed - _IN_PLACE))}"
        if step.type == ATTACHMENT and step.op in ("replace", "delete"):
            return "stopped, to detach its volume"
    return ""


def _host(preview: Preview, host: HostChange, loss: str) -> Iterator[Refusal]:
    section = SECTIONS[host.role]
    raise_it = f"raise {section}.generations.{host.index} in the same change"
    if host.op == "delete":
        retired = preview.section("slaves").get("retired") or []
        if host.role == "slave" and host.index not in retired:
            fix = f"add {host.index} to slaves.retired in the same change, or take slaves.count back"
            yield Refusal("host", host.name, "would be deleted", fix)
        elif host.role != "slave":
            yield Refusal(
                "host", host.name, "would be deleted", f"take {section}.count back, or name it with --allow {host.name}"
            )
        return
    if loss and not host.raised:
        yield Refusal("host", host.name, f"would be {loss}", raise_it)
    if moved := host.differing(PLACE):
        fix = "take the ranges, the prefix and the zones back: a host keeps its place, and another plan is a new stack"
        yield Refusal("host", host.name, f"its {_listed(moved)} would change", fix)
    for step in host.steps:
        if step.type == VOLUME and step.op in ("replace", "delete"):
            yield Refusal("host", host.name, "its data volume would be lost", "take its zone and its address back")
        elif step.type == VOLUME and step.op == "update":
            # It is no number where it is unknown until `up`, or left to AWS.
            before, after = (side.get("size") for side in (step.old, step.new))
            if isinstance(before, int | float) and isinstance(after, int | float) and after < before:
                reason = f"its data volume would shrink from {before:g} to {after:g} GiB, which EBS does not do"
                yield Refusal("host", host.name, reason, f"take {section}.dataGib back")
    waiting = host.differing({name: title for name, title in WAITING.items() if name != "hostFiles"})
    if waiting and not host.raised:
        fix = f"{raise_it}, or roll it first: python -m ops roll --stack {preview.stack} --role {host.role}"
        yield Refusal("waiting", host.name, f"its {_listed(waiting)} would not reach the running machine", fix)


def _listed(changes: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{title} {old} → {new}" for title, (old, new) in changes.items())


def _past(op: str) -> str:
    return {"replace": "replaced", "delete": "deleted"}[op]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "preview", nargs="?", default="-", metavar="FILE", help="of `pulumi preview --json` (default: standard input)"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="HOST", help="this host may go; may be given several times"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(given: argparse.Namespace) -> int:
    preview = load(given.preview)
    found = refusals(preview, given.allow)
    if given.json:
        print(json.dumps({"passes": not found, "refusals": [asdict(refusal) for refusal in found]}, indent=2))
    elif found:
        print(f"refused, for {len(found)} {'reason' if len(found) == 1 else 'reasons'}:")
        print("".join(f"  {refusal}\n" for refusal in found), end="")
    else:
        changes = sum(count for op, count in preview.counts.items() if op != "same")
        print(f"passes: {changes} changes, none that takes a host or a network away")
    return 1 if found else 0
