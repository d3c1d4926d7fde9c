"""Refusals of the plan: every problem of an input at once, each with its key, its value and what would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """key: dotted path in the stack configuration. text: the value, what is wrong with it, what would be valid."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


class PlanError(ValueError):
    """The input cannot be planned. `problems` has all of them, in the order of the configuration's keys."""

    def __init__(self, problems: Sequence[Problem], source: str = "configuration") -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'' if len(self.problems) == 1 else 's'}"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {count}, nothing was created.{lines}")
