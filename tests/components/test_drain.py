"""What is registered so that a host is drained before its machine goes."""

from __future__ import annotations

from typing import Any

import pytest

from ops.drain import BALANCER
from tests.components.recording import Recording, run_program
from tests.components.test_program import INSTANCE, merged

COMMAND = "command:local:Command"
HOSTS = ("slave-1", "slave-2", "slave-3", "control-1", "control-2", "control-3", "edge-1")


@pytest.fixture(scope="module")
def dev() -> Recording:
    return run_program("dev")


def test_every_host_has_a_drain_that_runs_at_its_deletion_alone(dev: Recording) -> None:
    drains = dev.of(COMMAND)
    assert sorted(drains) == sorted(f"{host}-drain" for host in HOSTS)
    for drain in drains.values():
        assert "create" not in drain.inputs
        assert "update" not in drain.inputs


def test_a_drain_goes_when_its_machine_is_replaced_and_before_the_volume_is_detached(dev: Recording) -> None:
    drain = dev.named(COMMAND, "slave-2-drain")
    assert drain.inputs["triggers"] == ["slave-2-instance-id"]
    assert dev.named(INSTANCE, "slave-2-instance").urn in drain.dependencies
    attachment = dev.named("aws:ec2/volumeAttachment:VolumeAttachment", "slave-2-data")
    assert attachment.urn in drain.dependencies
    assert drain.request.deleteBeforeReplace


def test_a_drain_stands_behind_the_edge_that_it_goes_through(dev: Recording) -> None:
    assert dev.named(INSTANCE, "edge-1-instance").urn in dev.named(COMMAND, "slave-2-drain").dependencies


def test_the_command_never_fails_and_names_the_way_to_the_host(dev: Recording) -> None:
    text = dev.named(COMMAND, "slave-2-drain").inputs["delete"]
    assert text.endswith("|| echo 'slave-2 goes as it is'")
    assert "python3 -m ops drain --host slave-2 --instance slave-2-instance-id --address 10.0.32.34 --jump 203.0.113.10" in text
    assert "--edges 10.0.224.11" in text
    assert "--control 10.0.0.11,10.0.32.12,10.0.0.13" in text


def test_the_first_edge_is_reached_without_a_jump_and_asks_no_edge(dev: Recording) -> None:
    text = dev.named(COMMAND, "edge-1-drain").inputs["delete"]
    assert "--address ''" in text
    assert "--edges ''" in text


def test_the_key_is_in_the_commands_environment_and_secret() -> None:
    config: dict[str, Any] = {**merged(), "apollo:adminPrivateKey": "the key"}
    drain = run_program("dev", config).named(COMMAND, "slave-1-drain")
    assert drain.inputs["environment"] == {"APOLLO_ADMIN_KEY": "the key"}
    assert "the key" not in drain.inputs["delete"]
    # How the engine's protocol marks a secret.
    assert "4dabf18193072939515e22adb298388d" in str(drain.request.object.fields["environment"])


def test_a_drain_waits_until_the_load_balancer_knows() -> None:
    groups = run_program("dev", merged(edge={"count": 2})).of("aws:lb/targetGroup:TargetGroup").values()
    checks = [group.inputs["healthCheck"] for group in groups]
    assert checks
    for check in checks:
        assert check["interval"] * max(check["healthyThreshold"], check["unhealthyThreshold"]) < BALANCER


def test_growing_control_changes_no_drain(dev: Recording) -> None:
    grown = run_program("dev", merged(control={"count": 5}))
    for name, drain in dev.of(COMMAND).items():
        assert grown.named(COMMAND, name).inputs == drain.inputs
