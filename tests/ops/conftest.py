"""The local stack without machines, for the day-two commands under the real engine."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from tests.localcloud.test_program import Stack, brought_up


class Clock:
    """In the place of the module time. slept: the seconds of each sleep."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Live(io.StringIO):
    """A stream that knows what was flushed, which is what a reader at a pipe's other end has by now."""

    shown = ""

    def flush(self) -> None:
        self.shown = self.getvalue()

    @property
    def late(self) -> str:
        return self.getvalue().removeprefix(self.shown)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from brought_up(tmp_path_factory.mktemp("ops") / "run")
