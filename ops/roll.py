"""Replaces hosts one at a time, each by its generation, and goes on only when the host and the published services are well.

What is to be done is kept in a file beside the stack file, with the generation that each host is to reach. So a roll that was
stopped at any point continues: a host at its generation is not replaced a second time.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops import gate
from ops.drain import BALANCER
from ops.errors import OpsError
from ops.interrupts import Pressed, counted
from ops.preview import VOLUME
from ops.reach import Access, Ssh, Unreachable, opened
from plan.place import SECTIONS

if TYPE_CHECKING:
    from ops.stack import Stack
    from plan.cluster import PlannedHost

# Seconds for services to be healthy again once the host is.
PATIENCE = 300.0
# What an `up` may do to other hosts meanwhile: nothing, or what the gate lets happen to a running machine, such as its tags.
_HARMLESS = ("same", "update")
# Seconds of each look at them, so that Ctrl-C works in between.
_LOOK = 20.0


@dataclass
class Turn:
    """One host of a roll. seconds: how long it took, once done.

    healthy: service → its healthy instances before the host went, None until that was looked at. Kept, since a roll that was
    stopped while it waited for them would else take what is left for what should be.
    """

    host: str
    generation: int
    done: bool = False
    seconds: float = 0.0
    healthy: dict[str, int] | None = None


class Stopped(Exception):
    """Ctrl-C, or the engine was asked to stop."""


class Roll:
    """A roll and its file."""

    def __init__(self, path: Path, turns: list[Turn]) -> None:
        self.path, self.turns = path, turns

    @property
    def left(self) -> list[Turn]:
        return [turn for turn in self.turns if not turn.done]

    def save(self) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps({"turns": [asdict(turn) for turn in self.turns]}, indent=1) + "\n")
        draft.replace(self.path)

    @classmethod
    def load(cls, path: Path) -> Roll | None:
        """The unfinished roll in the file, None where there is none. OpsError: it cannot be read."""
        try:
            return cls(path, [Turn(**turn) for turn in json.loads(path.read_text())["turns"]])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise OpsError(f"{path} is damaged ({error}); remove it to begin again") from None


def roll(stack: Stack, wanted: Sequence[PlannedHost], *, unchecked: bool, patience: float, say: Say) -> Roll:
    """Continues the roll in the file, or begins one of the wanted hosts. Raises OpsError, and Stopped."""
    path = stack.folder / f".apollo-roll-{stack.name}.json"
    access = stack.access()
    if access is None and not unchecked:
        raise OpsError(
            "no host of this stack can be checked: set admin.allowedCidrs and apollo:adminPrivateKey (or admin.agent: true), "
            "or roll without checks, with --unchecked"
        )
    with _alone(path.with_suffix(".lock"), stack.name):
        if access:
            _let_in(access)
        found = Roll.load(path)
        if found is None:
            found = Roll(path, [Turn(host.name, host.generation + 1) for host in wanted])
            found.save()
            say.line(f"rolling {_hosts(found.turns)} of stack {stack.name}")
        elif {turn.host for turn in found.turns} != {host.name for host in wanted}:
            raise OpsError(
                f"a roll of {_hosts(found.turns)} is unfinished, with {_hosts(found.left)} left; "
                f"finish it by naming the same hosts, or remove {path.name} to give it up"
            )
        else:
            say.line(f"going on with the roll of stack {stack.name}: {_hosts(found.left)} left")

        def press(count: int) -> None:
            """The first ends the roll after the host under way; the second asks the engine to stop."""
            if count == 1:
                say.line("stopping when this host is done; Ctrl-C again stops at once")
            else:
                stack.cli.interrupt()

        with opened(access) if access else nullcontext() as ssh, counted(press) as pressed:
            for number, turn in enumerate(found.turns, 1):
                if turn.done:
                    continue
                if pressed():
                    raise Stopped
                if number > 1 and turn.host.startswith("edge-") and found.turns[number - 2].host.startswith("edge-"):
                    say.line(f"  {BALANCER:.0f} s for the load balancer to send to {found.turns[number - 2].host} again")
                    time.sleep(BALANCER)
                say.line(f"{number} of {len(found.turns)}: {turn.host}, generation {turn.generation}")
                begun = time.monotonic()
                _turn(stack, found, turn, ssh, patience, say, pressed)
                turn.done, turn.seconds = True, round(time.monotonic() - begun, 1)
                found.save()
                say.line(f"  {turn.host} is done, {turn.seconds:.0f} s")
        path.unlink()
        return found


def _let_in(access: Access) -> None:
    """OpsError where no host can be reached from this machine: each would go undrained, and its check would never pass."""
    try:
        with opened(access) as ssh:
            ssh.knock()
    except Unreachable as error:
        raise OpsError(f"no host can be reached, so nothing was touched: {error}") from None


def _turn(stack: Stack, roll: Roll, turn: Turn, ssh: Ssh | None, patience: float, say: Say, pressed: Pressed) -> None:
    """One host, from whatever an earlier run left."""
    stack.reread()
    plan = stack.plan
    # Of a stack with two meshes an edge reaches the containers on one side alone.
    edge = None if plan.settings.overlay.switch_from else ssh
    _same_as_state(stack, plan.hosts)
    host = next((host for host in plan.hosts if host.name == turn.host), None)
    if host is None:
        raise OpsError(f"{turn.host} is no host of {stack.file} any more; remove the roll's file to give it up")
    if edge and turn.healthy is None:
        try:
            before = _published(edge, {}, 0)
        except Unreachable as error:
            raise OpsError(f"the edge does not say what it serves, so nothing was touched: {error}") from None
        for service, (healthy, _, nodes) in before.items():
            if nodes and set(nodes) == {turn.host}:
                say.line(f"  {service} has {healthy} healthy instances, all on {turn.host}: it is away meanwhile")
        turn.healthy = {service: healthy for service, (healthy, _, _) in before.items()}
        roll.save()
    if host.generation != turn.generation:
        stack.set_generation(host.role, host.index, turn.generation)
    _only(stack, turn)
    begun = time.monotonic()
    try:
        stack.up(lambda event: say.event(event, begun))
    except OpsError as error:
        if pressed() > 1:
            raise Stopped from None
        raise OpsError(f"{turn.host}: the update failed: {error}") from None
    say.line(f"  replaced and checked, {time.monotonic() - begun:.0f} s")
    if edge:
        _healthy(edge, turn.healthy or {}, patience, say, pressed)


def _same_as_state(stack: Stack, hosts: Sequence[PlannedHost]) -> None:
    """OpsError where another person has rolled a host and our stack file does not know it: an `up` would replace it again."""
    deployed = stack.hosts
    ahead = [
        f"{host.name} is at generation {deployed[host.name].generation} and {stack.file} says {host.generation}"
        for host in hosts
        if host.name in deployed and deployed[host.name].generation > host.generation
    ]
    if ahead:
        raise OpsError(f"{'; '.join(ahead)}: somebody else rolled it. Bring their {stack.file} in first (git pull)")


def _only(stack: Stack, turn: Turn) -> None:
    """OpsError where an `up` would do more to hosts or networks than replace this one.

    The roll names this host itself, as after a failed `up` nothing in the preview shows its generation any more.
    """
    change = stack.preview()
    meanwhile = "or somebody else is updating the stack just now: then wait for that"
    # Other hosts may wait for their turn: that is how a new instance type is rolled out.
    found = [refusal for refusal in gate.refusals(change, [turn.host]) if refusal.kind != "waiting"]
    own = change.hosts.get(turn.host)
    if own and any(step.type == VOLUME and step.op in ("replace", "delete") for step in own.steps):
        raise OpsError(f"{turn.host}: its data volume would be lost; take its zone and its address back")
    if found:
        refused = "\n".join(f"  {refusal}" for refusal in found)
        raise OpsError(f"the change is more than {turn.host}, {meanwhile}:\n{refused}")
    others = [f"{name} ({host.op})" for name, host in change.hosts.items() if host.op not in _HARMLESS and name != turn.host]
    if others:
        bring_up = f"bring the stack up first: pulumi up -s {stack.name}"
        raise OpsError(f"an `up` would also touch {', '.join(others)}; {bring_up}; {meanwhile}")


def _published(ssh: Ssh, wanted: dict[str, int], seconds: float) -> dict[str, tuple[int, int, list[str]]]:
    """Of each published service: instances that are healthy, all, the nodes of the healthy. Raises Unreachable."""
    answer = ssh.ask("", "edge", "published", f"{seconds:.0f}", json.dumps(wanted), seconds=seconds + 10)
    try:
        return {name: (int(entry[0]), int(entry[1]), [str(node) for node in entry[2]]) for name, entry in answer.items()}
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise Unreachable(f"its answer makes no sense ({type(error).__name__})") from None


def _healthy(ssh: Ssh, wanted: dict[str, int], patience: float, say: Say, pressed: Pressed) -> None:
    """Waits until each service has as many healthy instances as wanted. OpsError with those that have not."""
    begun = time.monotonic()
    trouble = ""
    while True:
        try:
            now = _published(ssh, wanted, min(_LOOK, patience))
            short = [
                f"{service} ({now.get(service, (0, 0, []))[0]} of {count})"
                for service, count in wanted.items()
                if now.get(service, (0, 0, []))[0] < count
            ]
            trouble = ", ".join(short)
        except Unreachable as error:
            trouble = f"the edge does not tell: {error}"
        seconds = time.monotonic() - begun
        if not trouble:
            healthy = ", ".join(f"{service} {count}" for service, count in wanted.items()) or "none published"
            say.line(f"  services healthy: {healthy}, {seconds:.0f} s")
            return
        if pressed() > 1:
            raise Stopped
        if seconds > patience:
            raise OpsError(f"services are not healthy after {seconds:.0f} s: {trouble}")
        say.line(f"  waiting for {trouble}, {seconds:.0f} s so far")


def _hosts(turns: Sequence[Turn]) -> str:
    return ", ".join(turn.host for turn in turns) or "no host"


# What the engine's steps of a replacement mean, in their order.
_WORDS = {
    ("command:local:Command", "delete-replaced"): "drained",
    ("aws:ec2/instance:Instance", "delete-replaced"): "terminated",
    ("aws:ec2/instance:Instance", "create-replacement"): "created",
    ("command:remote:Command", "create-replacement"): "passed its check",
}


class Say:
    """Progress on standard error, so that --json has standard output to itself."""

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def event(self, event: dict[str, Any], begun: float) -> None:
        """The engine's steps that are about machines, as they end."""
        ended = event.get("resOutputsEvent") or event.get("resOpFailedEvent")
        about = ended["metadata"] if ended else {}
        word = _WORDS.get((str(about.get("type")), str(about.get("op"))))
        if word:
            name = about["urn"].split("::")[-1].rpartition("-")[0]
            failed = ": that failed" if "resOpFailedEvent" in event else ""
            self.line(f"    {name} {word}{failed}, {time.monotonic() - begun:.0f} s")


@contextmanager
def _alone(path: Path, stack: str) -> Generator[None]:
    """One roll of a stack at a time in one checkout. In another, Pulumi's own lock and the state's generations tell."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip()
            raise OpsError(f"another roll of stack {stack} runs here (process {who}); wait for it, or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def selected(hosts: Sequence[PlannedHost], roles: Sequence[str], slots: str | None) -> list[PlannedHost]:
    """The hosts to roll, in the plan's order. OpsError (status 2) for a number that no such host has."""
    chosen = [host for host in hosts if host.role in roles]
    if slots is None:
        return chosen
    try:
        numbers = {int(part) for part in slots.split(",")}
    except ValueError:
        raise OpsError(f"--slots {slots}: give numbers with commas between, such as 1,3", 2) from None
    missing = sorted(numbers - {host.index for host in chosen})
    if missing:
        there = ", ".join(host.name for host in chosen)
        numbers_of = f"no {' or '.join(roles)} has number {', '.join(map(str, missing))}"
        raise OpsError(f"--slots {slots}: {numbers_of}; there are: {there}", 2)
    return [host for host in chosen if host.index in numbers]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", required=True, help="which Pulumi.<stack>.yaml, such as dev")
    parser.add_argument("--role", action="append", choices=list(SECTIONS), help="default: slave; may be given several times")
    parser.add_argument("--slots", metavar="N,N", help="only these slots, or numbers of control nodes or edges")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help="seconds for services to be healthy again (default: 300)"
    )
    parser.add_argument("--unchecked", action="store_true", help="roll even if neither hosts nor services can be checked")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(given: argparse.Namespace) -> int:
    from ops.stack import Stack

    stack = Stack(given.stack)
    plan = stack.plan
    wanted = selected(plan.hosts, given.role or ["slave"], given.slots)
    if not wanted:
        raise OpsError("there is no host to roll", 2)
    path = stack.folder / f".apollo-roll-{stack.name}.json"
    begun = time.monotonic()
    result, problem, status = "done", "", 0
    try:
        done = roll(stack, wanted, unchecked=given.unchecked, patience=given.patience, say=Say())
    except Stopped:
        result, status = "stopped", 130
        done = Roll.load(path) or Roll(path, [])
    except OpsError as error:
        result, problem, status = "failed", str(error), error.status
        done = Roll.load(path) or Roll(path, [])
    seconds = round(time.monotonic() - begun, 1)
    if given.json:
        turns = [asdict(turn) for turn in done.turns]
        print(
            json.dumps({"stack": stack.name, "result": result, "error": problem, "hosts": turns, "seconds": seconds}, indent=2)
        )
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    finished = len(done.turns) - len(done.left)
    print(f"{result}: {finished} of {len(done.turns)} hosts rolled in {seconds:.0f} s", file=sys.stderr)
    if done.left and status:
        print(f"left: {_hosts(done.left)}. The same command goes on with them.", file=sys.stderr)
    if finished:
        print(f"{stack.file} has the new generations; commit it.", file=sys.stderr)
    return status
