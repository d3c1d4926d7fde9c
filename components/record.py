"""What a stack cannot change in its life, kept in its state and compared with the settings of each run."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi import (
    Alias,
    Output,
    ResourceHook,
    ResourceHookBinding,
    ResourceOptions,
    ResourceTransformationArgs,
    ResourceTransformationResult,
    Stash,
)
from pulumi.resource_hooks import ResourceHookArgs, ResourceHookOptions
from pulumi.runtime.mocks import MockMonitor
from pulumi.runtime.settings import get_monitor

from plan.record import changes, recorded
from plan.settings import Settings, refuse


def keep(settings: Settings) -> Output[Any]:
    """Keeps the settings' record in the state, and lets no resource be registered before it was compared with the last `up`'s.

    Creates: settings (Stash: plan.record.recorded, nothing outside the state; named `mesh` when it held the mesh alone). Its
    update fails where plan.record.changes finds a problem, at preview as in `up`, and the record stays as it was. The output
    is for what waits for no resource: look-ups.
    """

    def compare(args: ResourceHookArgs) -> None:
        before = (args.old_inputs or {}).get("input")
        refuse(changes({"overlay.mesh": before} if isinstance(before, str) else before or {}, settings), source)

    source = f"Pulumi.{pulumi.get_stack()}.yaml"
    # Pulumi's mocks call nothing back, and have no earlier state to compare with.
    mocked = isinstance(get_monitor(), MockMonitor)
    hooks = [] if mocked else [ResourceHook("settings of a running stack", compare, ResourceHookOptions(on_dry_run=True))]
    record = Stash(
        "settings",
        input=recorded(settings),
        opts=ResourceOptions(aliases=[Alias(name="mesh")], hooks=ResourceHookBinding(before_update=[*hooks])),
    )

    def wait(args: ResourceTransformationArgs) -> ResourceTransformationResult:
        opts = ResourceOptions.merge(args.opts, ResourceOptions(depends_on=[record]))
        return ResourceTransformationResult(args.props, opts)

    pulumi.runtime.register_stack_transformation(wait)
    return record.input
