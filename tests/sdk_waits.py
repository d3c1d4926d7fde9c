"""Waits for outputs, and asks for stack traces, with the SDK's own functions and then with ours, in one process; prints what
came of each as JSON.

python -m tests.sdk_waits
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pulumi
from pulumi.runtime import resource, settings, stack

import sdk_shortcuts

Future = asyncio.Future[Any]


def outcome(program: Callable[[list[Future]], None]) -> dict[str, Any]:
    """What a program's outputs came to: the error that it ended with, and how many outputs were made and left pending."""
    made: list[Future] = []
    track = pulumi.Output._track  # pyright: ignore[reportPrivateUsage]

    def counted(self: pulumi.Output[Any]) -> None:
        made.append(self._data)  # pyright: ignore[reportPrivateUsage]
        track(self)

    async def run() -> str:
        settings.SETTINGS.outputs.clear()  # pyright: ignore[reportAttributeAccessIssue]
        try:
            # Where nothing fails, whoever never ends would be waited for without end.
            await asyncio.wait_for(stack.run_pulumi_func(lambda: program(endless)), 20)
        except (Exception, asyncio.CancelledError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    endless: list[Future] = []
    pulumi.Output._track = counted  # pyright: ignore[reportPrivateUsage]
    try:
        with asyncio.Runner() as runner:
            error = runner.run(run())
            return {"error": error, "made": len(made), "pending": sum(not future.done() for future in made)}
    finally:
        pulumi.Output._track = track  # pyright: ignore[reportPrivateUsage]


async def turns(number: int) -> None:
    """Waits for turns of the event loop, whose order no busy machine changes, as it does that of seconds."""
    for _ in range(number):
        await asyncio.sleep(0)


def later(value: int, after: int) -> pulumi.Output[int]:
    """after: turns."""

    async def wait() -> int:
        await turns(after)
        return value

    return pulumi.Output.from_input(wait())


def deep(left: int) -> pulumi.Output[int]:
    """An output that makes another one, late, and so on."""
    return later(left, 10).apply(lambda value: deep(value - 1) if value else 0)


def all_end(_: list[Future]) -> None:
    for number in range(20):
        pulumi.Output.all(deep(number % 5), later(number, 10 * number)).apply(sum)


def one_fails_beside_an_endless_one(endless: list[Future]) -> None:
    endless.append(asyncio.get_event_loop().create_future())
    pulumi.Output.from_input(endless[0])
    later(0, 50).apply(lambda value: 1 // value)


def a_late_one_fails_beside_an_endless_one(endless: list[Future]) -> None:
    endless.append(asyncio.get_event_loop().create_future())
    pulumi.Output.from_input(endless[0])
    # The one that fails does not exist when the waiting begins.
    later(1, 50).apply(lambda value: [later(value - 1, 50).apply(lambda zero: 1 // zero), value][1])
    later(1, 500)


def one_is_cancelled(_: list[Future]) -> None:
    async def wait() -> int:
        raise asyncio.CancelledError

    pulumi.Output.from_input(wait())


def an_rpc_fails_beside_an_output(_: list[Future]) -> None:
    async def refused() -> None:
        await turns(50)
        raise RuntimeError("refused")

    rpc = settings._get_rpc_manager().do_rpc("test", refused)  # pyright: ignore[reportPrivateUsage]
    pulumi.Output.from_input(rpc())
    pulumi.Output.from_input(0).apply(lambda zero: 1 // zero)


def an_apply_begins_an_rpc_that_fails(_: list[Future]) -> None:
    async def refused() -> None:
        await turns(50)
        raise RuntimeError("refused late")

    later(0, 50).apply(
        lambda _: settings._get_rpc_manager().do_rpc("test", refused)()  # pyright: ignore[reportPrivateUsage]
    )


class Level:
    """As the SDK's resources are: constructors below constructors. Keeps the trace that the innermost one asks for."""

    def __init__(self, below: int) -> None:
        self.trace = Level(below - 1).trace if below else str(resource._get_stack_trace())  # pyright: ignore[reportPrivateUsage]


def traces() -> list[str]:
    """From as deep as a resource is, from deeper, from too near the top, and through code that is in no file."""
    made = {"Level": Level}
    exec(compile("found = Level(2).trace", "<nowhere>", "exec"), made)
    return [*(Level(below).trace for below in range(4)), str(made["found"])]


PROGRAMS = (
    all_end,
    one_fails_beside_an_endless_one,
    a_late_one_fails_beside_an_endless_one,
    one_is_cancelled,
    an_rpc_fails_beside_an_output,
    an_apply_begins_an_rpc_that_fails,
)


def main() -> None:
    def every() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for program in PROGRAMS:
            settings._get_rpc_manager().clear()  # pyright: ignore[reportPrivateUsage]
            found[program.__name__] = outcome(program)
        return found

    found: dict[str, Any] = {}
    for who in ("sdk", "ours"):
        if who == "ours":
            found |= {"replaced": sdk_shortcuts.install(), "again": sdk_shortcuts.install()}
        # From one line, as the line is in the trace.
        found[who], found[f"traces, {who}"] = every(), traces()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
