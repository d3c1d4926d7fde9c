"""Ctrl-C for work that has to come to an end in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

# How often Ctrl-C was pressed.
Pressed = Callable[[], int]


@contextmanager
def counted(each: Callable[[int], object] = lambda _: None) -> Generator[Pressed]:
    """Counts Ctrl-C instead of raising. SIGTERM counts as one too, so that whoever stops us gets a complete state.

    each: called at once, with the count.
    """
    count = 0

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal count
        del number, frame
        count += 1
        each(count)

    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: count
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
