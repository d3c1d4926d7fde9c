"""Apollo's exports as this program reads them: docs/contract.md, version 1."""

from __future__ import annotations

from typing import Any

import pulumi

KNOWN = 1


class Apollo:
    """The exports of the stack that the configuration names. Reading one waits until the version is known to be ours."""

    def __init__(self, stack: str) -> None:
        self._stack = pulumi.StackReference(stack)
        self._version = self._stack.require_output("contractVersion").apply(checked)

    def output(self, name: str, *path: str | int) -> pulumi.Output[Any]:
        """An export, or what stands at a path below it."""

        def inside(given: list[Any]) -> Any:
            value = given[1]
            for part in path:
                value = value[part]
            return value

        return pulumi.Output.all(self._version, self._stack.require_output(name)).apply(inside)


def checked(version: object) -> int:
    """The version, if it is the one that this program knows. Raises pulumi.RunError, which the engine shows as it is."""
    if version != KNOWN:
        shown = f"{version:g}" if isinstance(version, float) else str(version)
        raise pulumi.RunError(
            f"the apollo stack exports contract version {shown}, and this program knows {KNOWN}; "
            "see docs/contract.md there for what changed"
        )
    return KNOWN
