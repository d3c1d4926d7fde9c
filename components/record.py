"""What a stack cannot change in its life, kept in its state and compared with the settings of each run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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

from plan.parse import refuse
from plan.place import PLACE
from plan.record import changes, recorded
from plan.settings import Settings


def keep(settings: Settings, check: Callable[[], Awaitable[Any]] | None = None) -> Output[Any]:
    """Keeps the settings' record in the state, and lets no resource be registered before it was compared with the last `up`'s.

    check: what is asked of the cloud before that. The output has its answer; where it raises, nothing is created, nor recorded:
    a record of settings that never held would refuse the right ones.

    Creates: settings (Stash: plan.record.recorded, nothing outside the state; named `mesh` when it held the mesh alone). Its
    update fails where plan.record.changes finds a problem, at preview as in `up`, and the record stays as it was. Which slots
    were ever used is not in it: there a host's own component fails, if it would move. The output is for what waits for no
    resource: look-ups. Without a check it has the record.
    """

    source = f"Pulumi.{pulumi.get_stack()}.yaml"
    # Pulumi's mocks call nothing back, and have no earlier state to compare with.
    mocked = isinstance(get_monitor(), MockMonitor)
    comparison = _Comparison(settings, source)
    always = ResourceHookOptions(on_dry_run=True)
    hooks = [] if mocked else [ResourceHook("settings of a running stack", comparison.of_settings, always)]
    stays = [] if mocked else [ResourceHook("place of a running host", comparison.of_host, always)]
    checked = None if check is None else Output.from_input(True).apply(lambda _: check())
    record = Stash(
        "settings",
        input=recorded(settings) if checked is None else checked.apply(lambda _: recorded(settings)),
        opts=ResourceOptions(aliases=[Alias(name="mesh")], hooks=ResourceHookBinding(before_update=[*hooks])),
    )

    def wait(args: ResourceTransformationArgs) -> ResourceTransformationResult:
        opts = ResourceOptions.merge(args.opts, ResourceOptions(depends_on=[record]))
        if args.type_ == "apollo:compute:Host":
            opts.hooks = ResourceHookBinding(before_update=[*stays])
        return ResourceTransformationResult(args.props, opts)

    pulumi.runtime.register_stack_transformation(wait)
    return record.input if checked is None else Output.all(record.input, checked).apply(lambda both: both[1])


class _Comparison:
    """What the state's inputs say against the settings, as hooks of the engine. It calls the record's before any host's."""

    def __init__(self, settings: Settings, source: str) -> None:
        self._settings, self._source = settings, source
        # A record of the mesh alone does not say where the zones were, so a host may still move.
        self._zones_recorded = True

    def of_settings(self, args: ResourceHookArgs) -> None:
        before = (args.old_inputs or {}).get("input")
        kept = {"overlay.mesh": before} if isinstance(before, str) else before or {}
        self._zones_recorded = "zones" in kept
        refuse(changes(kept, self._settings), self._source)

    def of_host(self, args: ResourceHookArgs) -> None:
        before, after = args.old_inputs or {}, args.new_inputs or {}
        moved = [f"{PLACE[key]} {before[key]} → {after[key]}" for key in PLACE.keys() & before if before[key] != after[key]]
        if self._zones_recorded and moved:
            raise ValueError(
                f"{self._source}: zones: {args.name} would move ({', '.join(sorted(moved))}), and a host keeps its place; give "
                "an appended zone a fromSlot above the highest slot ever used"
            )
