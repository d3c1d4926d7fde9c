"""Takes three costs out of Pulumi's Python SDK that were most of a large preview (docs/decisions/0039-sdk-shortcuts.md).

`pulumi.log.debug` makes a blocking call to the engine for each registration, whether anyone reads debug output or not. It is
replaced by nothing. `pulumi.runtime.stack.wait_for_rpcs` looks at all pending outputs again whenever one of them ends, which
is quadratic. It is replaced by one that looks at each output once; RPCs stay the SDK's own. The stack trace of each
registration reads every frame's source line, which it does not send: the same one is made of the frames alone.

Seen in SDK 3.250.0 and 3.272.0. Any other code is left alone, and is slower. APOLLO_SDK_SHORTCUTS=off leaves all
of it alone, and brings the SDK's lines back into `pulumi up --debug`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from pulumi import log
from pulumi.runtime import resource, settings, stack
from pulumi.runtime.proto import source_pb2

SWITCH = "APOLLO_SDK_SHORTCUTS"
# SHA-256 of each function's source.
KNOWN = {
    "debug": "381cd6115cca6ca19ddc9416014d9afb086d7b7a9cb3ca8d80f2be24bdb44d6f",
    "wait_for_rpcs": "c0f9027f85ad09255ded0a1908033b490f76d303a3e40b50d3cf47a69265469d",
    "_get_stack_trace": "3943b2273016925109e1c3a7bc603db06a44ea09ff3494c29544e44bccf8dd1f",
}


def install() -> list[str]:
    """Replaces what it knows, once, and gives the names of the functions that it replaced."""
    if os.environ.get(SWITCH) == "off":
        return []
    replaced: list[str] = []
    for module, name, make in (
        (log, "debug", _silent),
        (stack, "wait_for_rpcs", _each_output_once),
        (resource, "_get_stack_trace", _frames_alone),
    ):
        function: Any = getattr(module, name, None)
        if _digest(function) == KNOWN[name]:
            setattr(module, name, make(function))
            replaced.append(name)
    return replaced


def _digest(function: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):  # no source, or no function
        return ""


def _silent(_: Callable[..., None]) -> Callable[..., None]:
    def debug(msg: str, resource: Any = None, stream_id: int | None = None, ephemeral: bool | None = None) -> None:
        del msg, resource, stream_id, ephemeral

    return debug


def _each_output_once(sdk: Callable[..., Any]) -> Callable[..., Any]:
    async def wait_for_rpcs(await_all_outstanding_tasks: bool = True) -> None:
        while True:
            # Without outputs, the SDK's own function awaits the RPCs and raises what they raise.
            await sdk(await_all_outstanding_tasks=False)
            if not await_all_outstanding_tasks:
                return
            await _outputs()
            # An output may have begun another RPC.
            if not settings._get_rpc_manager().rpcs:  # pyright: ignore[reportPrivateUsage]
                return

    return wait_for_rpcs


async def _outputs() -> None:
    """Returns when no output is pending. What one raises is raised as soon as it does, whatever the others still wait for."""
    ended: list[asyncio.Future[Any]] = []
    wake = asyncio.Event()
    waiting = 0
    # The SDK's descriptors for what each run has of its own have no types.
    run: Any = settings.SETTINGS

    def end(output: asyncio.Future[Any]) -> None:
        ended.append(output)
        wake.set()

    while True:
        with run.lock:
            fresh: list[asyncio.Future[Any]] = list(run.outputs)
            run.outputs.clear()
        for output in fresh:
            output.add_done_callback(end)
        waiting += len(fresh)
        if not waiting:
            return
        await wake.wait()
        wake.clear()
        done, ended = ended, []
        waiting -= len(done)
        for output in done:
            await output


def _frames_alone(_: Callable[..., Any]) -> Callable[[], Any]:
    def _get_stack_trace() -> Any:
        frame: FrameType | None = sys._getframe()  # pyright: ignore[reportPrivateUsage]
        # Below the constructors of the resource, of its kind and of its own class comes who made it.
        constructors = 0
        while frame is not None and constructors < 3:
            constructors += frame.f_code.co_name == "__init__"
            frame = frame.f_back
        trace: Any = source_pb2.StackTrace()
        while frame is not None:
            uri = _uri(frame.f_code.co_filename)
            trace.frames.add(pc=source_pb2.SourcePosition(uri=uri, line=frame.f_lineno) if uri else None)
            frame = frame.f_back
        return trace

    return _get_stack_trace


@functools.cache
def _uri(filename: str) -> str:
    """Empty where the code comes from no file."""
    try:
        return Path(filename).as_uri()
    except ValueError:
        return ""
