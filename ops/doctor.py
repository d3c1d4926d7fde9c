"""Lists what disagrees between plan, state, AWS, Consul's catalog and the mesh, each with the command that fixes it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ops.errors import OpsError
from ops.preview import ATTACHMENT, INSTANCE, parse
from ops.reach import opened
from ops.text import argument

if TYPE_CHECKING:
    from ops.stack import Stack
    from ops.survey import Survey
    from plan.cluster import Cluster, PlannedHost

# What apollo-check says of these is compared here, host with host; its other checks are passed on.
_COMPARED = ("mesh", "consul")


@dataclass(frozen=True)
class Finding:
    """between: the two that disagree. host: the name of a host or a resource. fix: the command to run."""

    between: str
    host: str
    found: str
    fix: str


def examine(stack: Stack, plan: Cluster) -> tuple[list[Finding], list[str]]:
    """(what disagrees, what could not be looked at)."""
    from ops.survey import on_terminal, survey

    found = list(_plan_and_state(stack, plan))
    unseen: list[str] = []
    lost = {finding.host for finding in found if finding.between == "plan and state"}
    try:
        found += _state_and_aws(stack)
    except OpsError as error:
        unseen.append(f"AWS: {error}")
    lost |= {finding.host for finding in found if finding.between == "state and AWS"}
    access = stack.access()
    if access is None:
        unseen.append("Consul and the mesh: no administrators' key (apollo:adminPrivateKey, or admin.agent: true)")
        return found, unseen
    deployed = stack.hosts
    with opened(access) as ssh:
        seen = survey(ssh, plan, [host for host in plan.hosts if host.name in deployed], on_terminal())
    if seen.unreachable:
        edge = plan.edges[0]
        found.append(
            Finding("this machine and the edge", edge.name, seen.unreachable, f"python -m ops reach --stack {stack.name}")
        )
        unseen.append("Consul and the mesh: no host was asked")
        return found, unseen
    found += _live(stack.name, plan, seen, lost, access.jump)
    again = f"a busy host is no dead one, so ask again: python -m ops doctor --stack {stack.name}"
    unseen += [f"{name}: answers at its SSH port, but {why}; {again}" for name, why in seen.slow.items()]
    if seen.nodes is None:
        unseen.append("Consul: no control node and no edge could tell its catalog")
    return found, unseen


def _roll(stack: str, host: PlannedHost) -> str:
    return f"python -m ops roll --stack {stack} --role {host.role} --slots {host.index}"


def _plan_and_state(stack: Stack, plan: Cluster) -> Iterator[Finding]:
    from host.render import user_data_base64

    between, deployed, bring_up = "plan and state", stack.hosts, f"pulumi up -s {stack.name}"
    machines = {r["urn"].split("::")[-1]: r.get("inputs") or {} for r in stack.resources if r["type"] == INSTANCE}
    for host in plan.hosts:
        there = deployed.get(host.name)
        if there is None or not there.instance_id:
            yield Finding(between, host.name, "is planned and not deployed", bring_up)
        elif there.generation < host.generation:
            yield Finding(between, host.name, f"is at generation {there.generation}, planned {host.generation}", bring_up)
        elif there.generation > host.generation:
            said = f"is at generation {there.generation}, and {stack.file} says {host.generation}: somebody else rolled it"
            yield Finding(between, host.name, said, f"git pull, before any pulumi up -s {stack.name}")
        else:
            if there.running_type and there.running_type != host.instance_type:
                said = f"runs on {there.running_type}, planned {host.instance_type}"
                yield Finding("plan and machine", host.name, said, _roll(stack.name, host))
            booted = machines.get(f"{host.name}-instance", {}).get("userDataBase64")
            if booted and booted != user_data_base64(plan, host, stack.name):
                yield Finding("plan and machine", host.name, "was made with other host files", _roll(stack.name, host))
    for name in deployed.keys() - {host.name for host in plan.hosts}:
        yield Finding(between, name, "is deployed and not planned", bring_up)


def _state_and_aws(stack: Stack) -> Iterator[Finding]:
    """Drift, as the provider sees it: nothing is written."""
    change = parse(stack.pulumi("refresh", "--preview-only", "--json"), "the refresh")
    gone = {step.name.removesuffix("-instance") for step in change.steps if step.type == INSTANCE and step.op == "delete"}
    fix = f"pulumi refresh -s {stack.name} && pulumi up -s {stack.name}"
    for step in change.steps:
        host = step.name.removesuffix("-instance") if step.type == INSTANCE else step.name
        if step.type == ATTACHMENT and host.removesuffix("-data") in gone:
            continue
        if step.op == "delete":
            yield Finding("state and AWS", host, f"is gone from AWS ({step.type.rpartition(':')[2]})", fix)
        elif step.op == "update":
            what = ", ".join(sorted(step.changed)) or "something"
            yield Finding("state and AWS", host, f"was changed by hand: {what} ({step.type.rpartition(':')[2]})", fix)


def _live(stack: str, plan: Cluster, seen: Survey, lost: set[str], jump: str) -> Iterator[Finding]:
    """What the hosts say, without hosts that are known to be lost, as the rest follows from that. jump: the edge's address."""
    planned = {host.name: host for host in plan.hosts}
    away = lost | seen.silent.keys()
    drain = f"python -m ops drain --stack {stack} --host"
    mesh_units = "apollo-mesh" if plan.mesh.name == "weave" else "apollo-mesh apollo-mesh-sync"

    def on(name: str, command: str) -> str:
        at = f"admin@{jump}" if planned[name] is plan.edges[0] else f"-J admin@{jump} admin@{planned[name].private_ip}"
        return f"ssh {at} sudo {command}"

    def again(name: str, units: str) -> str:
        """The host answers, so it needs no new machine."""
        return on(name, f"systemctl restart {units}") if name in seen.consul else _roll(stack, planned[name])

    for name, reason in seen.silent.items():
        if name not in lost:
            yield Finding("plan and machine", name, f"does not answer: {reason}", _roll(stack, planned[name]))
    for name, reason in seen.odd.items():
        if name not in lost:
            yield Finding(
                "plan and machine", name, f"answers, but does not report its state: {reason}", on(name, "apollo-check")
            )
    for name, checks in seen.checks.items():
        for check in checks:
            if name not in lost and check["check"] not in _COMPARED:
                room = check["check"] == "disks"
                look = on(name, "du -xhd2 / /data" if room else "apollo-check")
                yield Finding("plan and machine", name, f"apollo-check, {check['check']}: {check['detail']}", look)
    for name, exporter in seen.metrics.items():
        # One that should run and does not is among what apollo-check finds.
        if name not in lost and exporter in ("", "inactive"):
            silent = "serves no metrics: it was made before hosts did, or of an image without prometheus-node-exporter"
            yield Finding("plan and machine", name, silent, _roll(stack, planned[name]))
    for name, node in (seen.nodes or {}).items():
        host = planned.get(name)
        if name in away:
            continue
        elif host is None:
            forget = f"{drain} {argument(name)} --forget --address {argument(node['address'])}"
            yield Finding("plan and Consul", name, "is in the catalog and not planned", forget)
        elif node["maintenance"]:
            yield Finding("plan and Consul", name, "is in maintenance, left by a drain", f"{drain} {name} --undo")
        elif not node["alive"]:
            yield Finding("plan and Consul", name, "its agent does not answer the others", again(name, "consul"))
        elif (node["address"], node["bridge"]) != (str(host.private_ip), str(host.bridge_address.ip)):
            yield Finding("plan and Consul", name, f"registered {node['address']}, bridge {node['bridge']}", _roll(stack, host))
    if seen.nodes is not None:
        for name in planned.keys() - seen.nodes.keys() - away:
            if seen.consul.get(name) == "inactive":
                yield Finding("plan and Consul", name, "has left Consul, as a drain does", f"{drain} {name} --undo")
            else:
                yield Finding("plan and Consul", name, "is not in the catalog", again(name, "consul"))
    for name, reason in seen.lost.items():
        found = f"cannot read its mesh's table: {reason}"
        yield Finding("plan and mesh", name, found, on(name, f"systemctl restart {mesh_units}"))
    for name, peers in seen.mesh.items():
        missing = sorted(planned.keys() - {name, *peers} - away)
        # A routed mesh drops a host two minutes after it left the catalog.
        extra = sorted(set(peers) - planned.keys()) if plan.mesh.name == "weave" else []
        if missing:
            lacks = f"has no entry of {', '.join(missing)}"
            yield Finding("plan and mesh", name, lacks, on(name, f"systemctl restart {mesh_units}"))
        if extra:
            gone = " && ".join(f"{drain} {argument(peer)} --forget" for peer in extra)
            yield Finding("plan and mesh", name, f"still has an entry of {', '.join(extra)}", gone)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", required=True, help="which Pulumi.<stack>.yaml, such as dev")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(given: argparse.Namespace) -> int:
    from ops.stack import Stack

    stack = Stack(given.stack)
    plan = stack.plan
    found, unseen = examine(stack, plan)
    if given.json:
        report = {"stack": stack.name, "findings": [asdict(finding) for finding in found], "notLookedAt": unseen}
        print(json.dumps(report, indent=2))
        return 1 if found else 0
    for finding in found:
        print(f"{finding.host}: {finding.found} ({finding.between})\n    {finding.fix}")
    for line in unseen:
        print(f"not looked at: {line}", file=sys.stderr)
    agree = f"{len(plan.hosts)} hosts, {'no disagreement in what was looked at' if unseen else 'all agree'}"
    print(f"{len(found)} disagreements of {len(plan.hosts)} hosts" if found else agree)
    return 1 if found else 0
