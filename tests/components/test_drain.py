"""What is registered so that a host is drained before its machine goes; its command: tests/components/test_registered.py."""

from __future__ import annotations

from ops.drain import BALANCER
from tests.components.recording import run_program
from tests.components.test_program import merged

COMMAND = "command:local:Command"
HOSTS = ("slave-1", "slave-2", "slave-3", "control-1", "control-2", "control-3", "edge-1")


def test_every_host_has_a_drain_and_growing_control_changes_none() -> None:
    drains, grown = run_program("dev").of(COMMAND), run_program("dev", merged(control={"count": 5})).of(COMMAND)
    assert sorted(drains) == sorted(f"{host}-drain" for host in HOSTS)
    assert {name: grown[name].inputs for name in drains} == {name: drain.inputs for name, drain in drains.items()}


def test_a_drain_waits_until_the_load_balancer_knows() -> None:
    groups = run_program("dev", merged(edge={"count": 2})).of("aws:lb/targetGroup:TargetGroup").values()
    checks = [group.inputs["healthCheck"] for group in groups]
    assert checks
    for check in checks:
        assert check["interval"] * max(check["healthyThreshold"], check["unhealthyThreshold"]) < BALANCER
