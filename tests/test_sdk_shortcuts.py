"""What replaces functions of Pulumi's SDK: it waits, raises and traces alike, and leaves alone what it does not know."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pulumi import log
from pulumi.runtime import resource, stack

import sdk_shortcuts
from localcloud.paths import REPOSITORY


def test_outputs_end_and_fail_as_under_the_sdks_own_functions() -> None:
    argv = [sys.executable, "-m", "tests.sdk_waits"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["replaced"] == ["debug", "wait_for_rpcs", "_get_stack_trace"], (
        "the SDK's functions are no longer those that the shortcuts know"
    )
    assert found["again"] == []
    assert found["ours"] == found["sdk"]
    assert found["ours"]["all_end"]["error"] == "" and found["ours"]["all_end"]["pending"] == 0
    assert len([name for name, outcome in found["ours"].items() if outcome["error"]]) == len(found["ours"]) - 1
    assert found["traces, ours"] == found["traces, sdk"]
    assert ["uri" in trace for trace in found["traces, ours"]] == [False, False, True, True, True], found["traces, ours"]


def test_functions_that_it_does_not_know_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_for_rpcs() -> None: ...
    def debug(msg: str) -> None: ...

    monkeypatch.setattr(stack, "wait_for_rpcs", wait_for_rpcs)
    monkeypatch.setattr(log, "debug", debug)
    monkeypatch.setattr(resource, "_get_stack_trace", debug)
    assert sdk_shortcuts.install() == []
    assert (stack.wait_for_rpcs, log.debug) == (wait_for_rpcs, debug)
    monkeypatch.delattr(stack, "wait_for_rpcs")
    monkeypatch.setattr(log, "debug", len)  # has no source
    assert sdk_shortcuts.install() == []


def test_a_variable_switches_it_off() -> None:
    code = f"import os; os.environ[{sdk_shortcuts.SWITCH!r}] = 'off'; import sdk_shortcuts; print(sdk_shortcuts.install())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
