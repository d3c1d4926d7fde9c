"""The hooks that compare a run with the last `up`. The real engine calls them in tests/localcloud/test_program.py."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pulumi
import pytest
from pulumi.resource_hooks import ResourceHookArgs, ResourceHookOptions
from pulumi.runtime import resource

from components import record
from plan.record import recorded
from tests.components.recording import run_program
from tests.components.test_program import merged
from tests.plan.support import settings

Comparison = record._Comparison  # pyright: ignore[reportPrivateUsage]
HOOKS: dict[str, Any] = {}


class Hook(pulumi.ResourceHook):
    """One that needs no engine."""

    def __init__(self, name: str, func: Callable[[ResourceHookArgs], Any], opts: ResourceHookOptions | None = None) -> None:
        self.name, self.callback, self.opts = name, func, opts
        self._registered: asyncio.Future[None] = asyncio.get_event_loop().create_future()
        self._registered.set_result(None)
        HOOKS[name] = self


def test_settings_and_hosts_are_compared_before_an_update_in_a_preview_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def supported() -> bool:
        return True

    monkeypatch.setattr(record, "ResourceHook", Hook)
    monkeypatch.setattr(record, "MockMonitor", Hook)
    monkeypatch.setattr(resource, "monitor_supports_resource_hooks", supported)
    registered = run_program("dev", merged(), lookups=lambda *_: None)
    calls: dict[str, str] = {}
    for one in registered.resources.values():
        if one.request.hooks.ListFields():
            (hook,) = [HOOKS[name] for name in one.request.hooks.before_update]
            assert (hook.opts.on_dry_run, hook.opts.ignore_errors, hook.callback.__self__._source) == (
                True,
                False,
                "Pulumi.dev.yaml",
            )
            calls[one.name] = hook.callback.__name__
    assert (
        calls == {"settings": "of_settings", **dict.fromkeys(registered.of("apollo:compute:Host"), "of_host")}
        and len(calls) == 8
    )


def refusal(call: Callable[[ResourceHookArgs], None], before: Any, after: Any = None) -> str:
    try:
        call(ResourceHookArgs("urn", "id", "slave-3", "type", old_inputs=before, new_inputs=after))
    except ValueError as error:
        return str(error)
    return ""


PLACED = {"privateIp": "10.0.0.35", "bridgeAddress": "10.2.0.3/16", "dockerSubnet": "10.2.3.0/24", "zone": "eu-west-1a"}
MOVED = PLACED | {"privateIp": "10.0.64.35", "zone": "eu-west-1c"}
WOULD_MOVE = (
    "a.yaml: zones: slave-3 would move (VPC address 10.0.0.35 → 10.0.64.35, zone eu-west-1a → eu-west-1c), and a host keeps "
    "its place; give an appended zone a fromSlot above the highest slot ever used"
)


@pytest.mark.parametrize(
    ("kept", "of_settings", "of_host"),
    [
        ({"input": recorded(settings())}, "", WOULD_MOVE),
        ({"input": {**recorded(settings()), "consul.domain": "old"}}, "consul.domain: consul is not what this stack was made with, old", WOULD_MOVE),
        # Records had less once, the mesh alone was text, and there were none.
        ({"input": {"consul.datacenter": "dc2"}}, "consul.datacenter: dc1 is not what this stack was made with, dc2", ""),
        ({"input": "weave"}, "", ""),
        ({"input": "vxlan"}, "overlay.mesh: weave is not what this stack runs, vxlan", ""),
        ({}, "", ""),
        (None, "", ""),
    ],
)  # fmt: skip
def test_another_record_is_refused_and_a_host_that_would_move_where_the_record_knows_zones(
    kept: Any, of_settings: str, of_host: str
) -> None:
    comparison = Comparison(settings(), "a.yaml")
    said = refusal(comparison.of_settings, kept)
    assert said.startswith("a.yaml: ") and of_settings in said if of_settings else not said
    assert refusal(comparison.of_host, PLACED, MOVED) == of_host


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        # An unchanged record has no update, so that nobody compares it.
        (PLACED, MOVED, WOULD_MOVE),
        (PLACED, {**PLACED, "generation": 2}, ""),
        ({"generation": 1}, PLACED, ""),
        (None, PLACED, ""),
    ],
)
def test_a_host_that_the_state_has_elsewhere_would_move(before: Any, after: Any, said: str) -> None:
    assert refusal(Comparison(settings(), "a.yaml").of_host, before, after) == said
