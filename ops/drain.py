"""Lets a host go in order: nobody is sent there, what runs there ends, the others forget it.

`pulumi` runs it before it deletes a machine (components/drain.py). Whatever comes of it, the machine may go: a host that does
not answer is taken out of Consul from a control node, and that is all. It needs nothing but Python and ssh.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence

from ops.errors import OpsError
from ops.reach import Deadline, Reach, Unreachable, Way, addresses, opened

# Where the administrators' private key stands, so that it is in no list of processes.
KEY = "APOLLO_ADMIN_KEY"
# `off` lets machines go as they are, such as before a `pulumi destroy`.
SWITCH = "APOLLO_DRAIN"
SECONDS = 60.0
# Of these, for the edges to take the host out.
_QUIET = 15.0
# And for Mesos to start its tasks elsewhere.
_MESOS = 30.0
# Seconds until a load balancer knows of an edge that goes or has come: two of its checks and some (components/edge.py). Nothing
# here can see what it knows.
BALANCER = 25.0
# Seconds beyond those, in which the others are told that the host is gone.
_CLOSING = 20.0


def drain(
    reach: Reach, host: str, address: str, edges: Sequence[str], control: Sequence[str], seconds: float, instance: str = ""
) -> None:
    """Drains one host. Raises Unreachable where it, or what it needs, does not answer in time.

    instance: the machine's id; another machine at the address is left as it is.
    """
    begun, deadline = time.monotonic(), Deadline(seconds)

    def say(line: str) -> None:
        print(f"{host}: {line} ({time.monotonic() - begun:.1f} s)", flush=True)

    try:
        found = json.loads(reach.run(address, "leave", "begin", "0", instance, seconds=min(20.0, deadline.left)))
        if "other" in found:
            say(f"nothing to drain: {instance} is gone, and {found['other']} is at its address by now")
            return
        say("in maintenance")
        if host.startswith("edge-") and edges:
            time.sleep(min(BALANCER, deadline.left))
            say("out of the load balancer")
        _quiet(reach, edges, found["services"], deadline, say)
        waits = min(_MESOS, deadline.left / 2)
        tell_mesos(reach, host, address, control, "down", f"{waits:.0f}", seconds=waits + 5)
        # It ends by itself before that: connections and containers have their own, shorter limits.
        for line in reach.run(address, "leave", "end", f"{deadline.left:.0f}", seconds=deadline.left).splitlines():
            say(line)
    except Unreachable as error:
        say(f"not drained: {error}")
        _close(reach, host, address, control)
        raise
    _close(reach, host, address, control)


def _quiet(reach: Reach, edges: Sequence[str], services: Sequence[str], deadline: Deadline, say: Callable[[str], None]) -> None:
    """Waits until no edge sends requests to these instances (address:port) any more."""
    for edge in edges if services else ():
        try:
            waits = min(_QUIET, deadline.left)
            reach.run(edge, "edge", "quiet", f"{waits:.0f}", *services, seconds=waits + 2)
        except Unreachable as error:
            say(f"edge {edge} may still send requests: {error}")
    if services:
        say(f"{len(services)} services out of {len(edges)} edges")


def _close(reach: Reach, host: str, address: str, control: Sequence[str]) -> None:
    """Its agent has stopped, or the machine went down in the middle: its successor has the same address and must be let in."""
    deadline = Deadline(_CLOSING)
    tell_mesos(reach, host, address, control, "up", seconds=deadline.left / 2)
    forget(reach, host, address, control, seconds=deadline.left)


def tell_mesos(reach: Reach, host: str, address: str, control: Sequence[str], *order: str, seconds: float) -> None:
    """Has a control node tell the Mesos masters that the machine goes, so that tasks start elsewhere first, or is back.

    seconds: for all of them.
    """
    if host.startswith("slave-"):
        said = _first_answer(reach, host, control, seconds, "mesos", order[0], address, *order[1:]).strip()
        if said:
            print(f"{host}: Mesos: {said}", flush=True)


def forget(reach: Reach, host: str, address: str, control: Sequence[str], seconds: float = _CLOSING) -> None:
    """Has the first control node that answers take the host out of Consul, where it still is, and out of the mesh.

    seconds: for all of them.
    """
    others = [node for node in control if node != address]
    for line in _first_answer(reach, host, others, seconds, "forget", host, address).splitlines():
        print(f"{host}: {line}", flush=True)


def _first_answer(reach: Reach, host: str, control: Sequence[str], seconds: float, program: str, *arguments: str) -> str:
    """What a program says on the first control node that answers; nothing, and why is told, where none does in that time."""
    deadline = Deadline(seconds)
    for node in control:
        if not deadline.left:
            break
        try:
            return reach.run(node, program, *arguments, seconds=deadline.left)
        except Unreachable as error:
            print(f"{host}: control node {node} does not answer: {error}", flush=True)
    return ""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", help="find everything below in this stack; needs pulumi")
    parser.add_argument("--host", required=True, help="such as slave-2")
    parser.add_argument("--address", help="the host's address in the VPC; empty for the first edge itself")
    parser.add_argument("--instance", default="", help="the machine's id: another one at the address is left as it is")
    parser.add_argument("--jump", help="the first edge's public address")
    parser.add_argument("--host-key", help="the hosts' public key, as `type base64`")
    parser.add_argument("--agent", action="store_true", help="with the SSH agent's keys")
    parser.add_argument("--edges", default="", help="addresses of the edges in the VPC, with commas between")
    parser.add_argument("--control", default="", help="addresses of the control nodes in the VPC, with commas between")
    parser.add_argument("--forget", action="store_true", help="only take it out of Consul and the mesh: it is gone already")
    parser.add_argument("--undo", action="store_true", help="put a drained host that stays to work again")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long it may take (default: {SECONDS:.0f})")


def run(given: argparse.Namespace) -> int:
    host = str(given.host)
    if os.environ.get(SWITCH) == "off":
        print(f"{host}: not drained, as {SWITCH}=off")
        return 0
    if given.stack:
        from ops.stack import Stack

        stack = Stack(given.stack)
        plan, way = stack.plan, stack.way()
        planned = next((h for h in plan.hosts if h.name == host), None)
        if planned is None and not given.forget:
            raise OpsError(f"{host} is no host of stack {given.stack}; there are: {', '.join(h.name for h in plan.hosts)}")
        address = str(planned.private_ip) if planned else given.address or ""
        edges = [str(h.private_ip) for h in plan.edges]
        control = [str(h.private_ip) for h in plan.control]
    else:
        key = os.environ.get(KEY, "")
        way = Way(given.jump, key, given.host_key) if given.jump and given.host_key and (key or given.agent) else None
        address, edges, control = given.address or "", addresses(given.edges), addresses(given.control)
    if way is None:
        print(f"{host}: not drained: no administrators' key (admin.allowedCidrs and apollo:adminPrivateKey, or admin.agent)")
        return 1
    try:
        with opened(way) as reach:
            if given.forget:
                forget(reach, host, address, control)
            elif given.undo:
                print(f"{host}: {reach.run(address, 'leave', 'undo', '0', seconds=given.seconds).strip()}")
            else:
                drain(reach, host, address, edges, control, given.seconds, given.instance)
    except Unreachable as error:
        print(f"{host} was not drained: {error}", file=sys.stderr)
        return 1
    return 0
