"""Which mesh the stack runs, kept in its state, so that nobody changes it without meaning to."""

from __future__ import annotations

import pulumi
from pulumi import Output, ResourceOptions, Stash

from plan.settings import Overlay


def guarded(value: Output[str], overlay: Overlay) -> Output[str]:
    """The value, if the stack runs the mesh that its settings name; what is made from it is not made otherwise.

    Creates: mesh (Stash: the mesh of the last `up`, nothing outside the state). It takes a new value only with
    overlay.switchFrom; without, the old one stands and a difference raises pulumi.RunError, at preview as in `up`.
    """
    kept = Stash("mesh", input=overlay.mesh, opts=ResourceOptions(ignore_changes=[] if overlay.switch_from else ["input"]))

    def check(both: list[str]) -> str:
        standing, passed = both
        if standing == overlay.mesh:
            return passed
        text = (
            f"{overlay.mesh} is not what this stack runs, {standing}, and hosts of two meshes do not reach each other; "
            f'to change it set overlay.switchFrom: {standing} and follow docs/operations.md, "Switch the mesh"'
        )
        raise pulumi.RunError(f"Pulumi.{pulumi.get_stack()}.yaml: overlay.mesh: {text}")

    return Output.all(kept.input, value).apply(check)
