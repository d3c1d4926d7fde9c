"""Takes a host out of use: no new request reaches it, its containers end, the others forget it.

`pulumi` runs it before it deletes a machine (components/drain.py). The machine may go whatever happens: a host that does not
answer is taken out of Consul by a control node, and nothing else. It needs nothing but Python and ssh.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Sequence

from ops.errors import OpsError
from ops.reach import DIAL, Deadline, Ssh, Unreachable, access_arguments, addresses, given_access, opened
from ops.text import safe

# `off` skips every drain, such as before a `pulumi destroy`.
SWITCH = "APOLLO_DRAIN"
SECONDS = 60.0
# Seconds of these for the edges to take the host out.
_QUIET = 15.0
# For Mesos to say how long its tasks may take to start elsewhere, and the longest that counts.
_MESOS, _MESOS_LONGEST = 10.0, 600.0
# Seconds until a load balancer knows of an edge that goes or has come: two of its checks and some (components/edge.py). Nothing
# here can see what it knows.
BALANCER = 15.0
# An instance of a service, as a host names its own.
_INSTANCE = re.compile(r"[0-9.]{7,15}:[0-9]{1,5}")
# Seconds beyond those, in which the others learn that the host is gone.
_CLOSING = 20.0


def drain(
    ssh: Ssh, host: str, address: str, edges: Sequence[str], control: Sequence[str], seconds: float, instance: str = ""
) -> None:
    """Drains one host. Raises Unreachable where it, or what it needs, does not answer in time.

    instance: the machine's id; another machine at the address is left as it is.
    """
    begun, deadline = time.monotonic(), Deadline(seconds)

    def say(line: str) -> None:
        print(f"{host}: {safe(line, 1000)} ({time.monotonic() - begun:.1f} s)", flush=True)

    try:
        ssh.knock(min(DIAL, seconds))
    except Unreachable as error:
        # The others are behind the same edge.
        say(f"not drained, and the others do not know that it goes: {error}")
        raise
    ports = _ports(ssh, address, *edges, *control)
    edges, control = ([node for node in nodes if not ports.get(node)] for nodes in (edges, control))
    try:
        if ports.get(address):
            raise Unreachable(ports[address], "down")
        found = ssh.ask(address, "leave", "begin", "0", instance, seconds=min(30.0, deadline.left))
        if "other" in found:
            say(f"nothing to drain: {instance} is gone, and {found['other']} is at its address by now")
            return
        services = [entry for entry in found["services"] if _INSTANCE.fullmatch(entry)]
        say("in maintenance")
        if host.startswith("edge-") and edges:
            time.sleep(min(BALANCER, deadline.left))
            say("out of the load balancer")
        _quiet(ssh, edges, services, deadline, say)
        left = deadline.left
        _move_tasks(ssh, host, address, control)
        # What its tasks need comes on top.
        deadline = Deadline(left)
        # The verb ends by itself before that: connections and containers have shorter limits of their own.
        for line in ssh.run(address, "leave", "end", f"{deadline.left:.0f}", seconds=deadline.left).splitlines():
            say(line)
    except (Unreachable, TypeError, KeyError) as error:
        why = str(error) if isinstance(error, Unreachable) else f"its answer makes no sense ({type(error).__name__})"
        say(f"not drained: {why}")
        _close(ssh, host, address, control)
        raise Unreachable(why) from None
    _close(ssh, host, address, control)


def _ports(ssh: Ssh, *nodes: str) -> dict[str, str]:
    """The silent hosts, so that no time is spent on them. Where that is unknown, none counts as silent."""
    try:
        return ssh.probe(nodes)
    except Unreachable:
        return {}


def _quiet(ssh: Ssh, edges: Sequence[str], services: Sequence[str], deadline: Deadline, say: Callable[[str], None]) -> None:
    """Waits until no edge sends requests to these instances (address:port) any more."""
    for edge in edges if services else ():
        try:
            waits = min(_QUIET, deadline.left)
            ssh.run(edge, "edge", "quiet", f"{waits:.0f}", *services, seconds=waits + 2)
        except Unreachable as error:
            say(f"edge {edge} may still send requests: {error}")
    if services:
        say(f"{len(services)} services out of {len(edges)} edges")


def _close(ssh: Ssh, host: str, address: str, control: Sequence[str]) -> None:
    """After the agent stopped, or the machine went down: its successor has the same address and must be let in."""
    deadline = Deadline(_CLOSING)
    tell_mesos(ssh, host, address, control, "up", seconds=deadline.left / 2)
    forget(ssh, host, address, control, seconds=deadline.left)


def _move_tasks(ssh: Ssh, host: str, address: str, control: Sequence[str]) -> None:
    """Has Mesos start its tasks elsewhere, and waits as long as they need by what their applications say."""
    said = tell_mesos(ssh, host, address, control, "needs", seconds=_MESOS)
    if needed := re.match(r"(\d+) s\b", said):
        tell_mesos(ssh, host, address, control, "down", seconds=min(float(needed[1]), _MESOS_LONGEST) + 15)


def tell_mesos(ssh: Ssh, host: str, address: str, control: Sequence[str], order: str, seconds: float) -> str:
    """Has a control node tell the Mesos masters that the machine goes, so that tasks start elsewhere first, or is back; returns
    what it said.

    seconds: for all of them.
    """
    said = ""
    if host.startswith("slave-"):
        said = (_first_answer(ssh, host, control, seconds, "mesos", order, address) or "").strip()
        for line in said.splitlines():
            print(f"{host}: Mesos: {safe(line)}", flush=True)
    return said


def forget(ssh: Ssh, host: str, address: str, control: Sequence[str], seconds: float = _CLOSING) -> bool:
    """Has the first control node that answers take the host out of Consul, where it still is, and out of the mesh.

    seconds: for all of them. Gives whether one answered.
    """
    others = [node for node in control if node != address]
    said = _first_answer(ssh, host, others, seconds, "forget", host, address)
    for line in (said or "").splitlines():
        print(f"{safe(host)}: {safe(line)}", flush=True)
    return said is not None


def _first_answer(ssh: Ssh, host: str, control: Sequence[str], seconds: float, program: str, *arguments: str) -> str | None:
    """What a program says on the first control node that answers; None, after saying why, where none does in time."""
    deadline = Deadline(seconds)
    for node in control:
        if not deadline.left:
            break
        try:
            return ssh.run(node, program, *arguments, seconds=deadline.left)
        except Unreachable as error:
            if program == "mesos" and str(error).startswith("failed: "):
                return str(error)  # so says the verb, and on another control node it would ask the same masters
            print(f"{safe(host)}: control node {node} does not answer: {error}", flush=True)
    return None


def arguments(parser: argparse.ArgumentParser) -> None:
    access_arguments(parser)
    parser.add_argument("--host", required=True, help="such as slave-2")
    parser.add_argument("--address", help="the host's address in the VPC; empty for the first edge itself")
    parser.add_argument("--instance", default="", help="the machine's id: another one at the address is left as it is")
    parser.add_argument("--edges", default="", help="addresses of the edges in the VPC, with commas between")
    parser.add_argument("--control", default="", help="addresses of the control nodes in the VPC, with commas between")
    parser.add_argument("--forget", action="store_true", help="the host is gone: only remove it from Consul and the mesh")
    parser.add_argument("--undo", action="store_true", help="put a drained host back to work")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"how long it may take beside what Mesos's tasks need (default: {SECONDS:.0f})",
    )


def run(given: argparse.Namespace) -> int:
    host = str(given.host)
    if os.environ.get(SWITCH) == "off":
        print(f"{host}: not drained, as {SWITCH}=off")
        return 0
    if given.stack:
        from ops.stack import Stack

        stack = Stack(given.stack)
        plan, access = stack.plan, stack.access()
        planned = next((h for h in plan.hosts if h.name == host), None)
        if planned is None and not given.forget:
            raise OpsError(f"{host} is no host of stack {given.stack}; there are: {', '.join(h.name for h in plan.hosts)}")
        address = str(planned.private_ip) if planned else given.address or ""
        edges = [str(h.private_ip) for h in plan.edges]
        control = [str(h.private_ip) for h in plan.control]
    else:
        access = given_access(given)
        address, edges, control = given.address or "", addresses(given.edges), addresses(given.control)
    if access is None:
        print(f"{host}: not drained: no administrators' key (admin.allowedCidrs and apollo:adminPrivateKey, or admin.agent)")
        return 1
    try:
        with opened(access) as ssh:
            if given.forget or given.undo:
                ssh.knock()
            if given.forget:
                if not forget(ssh, host, address, control):
                    raise Unreachable("no control node answers, so Consul still knows it")
            elif given.undo:
                print(f"{host}: {ssh.run(address, 'leave', 'undo', '0', seconds=given.seconds).strip()}")
            else:
                drain(ssh, host, address, edges, control, given.seconds, given.instance)
    except Unreachable as error:
        what = "forgotten" if given.forget else "put back to work" if given.undo else "drained"
        print(f"{safe(host)} was not {what}: {error}", file=sys.stderr)
        return 1
    return 0
