"""The readiness gate: when it exists, how it reaches a host, and whom it believes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.readiness import CHECK_SECONDS, DEADLINE, READY
from ops.secrets import generate
from plan.admin import ADMIN_KEY
from plan.secrets import public_half
from tests.components.recording import TEST_SECRETS, Recording, run_program
from tests.host.support import stand_in

COMMAND = "command:remote:Command"
REGION = {"aws:region": "eu-west-1"}
ADMIN: dict[str, Any] = {**REGION, "apollo:admin": {"allowedCidrs": ["203.0.113.7/32"], "publicKey": "ssh-ed25519 AAAA"}}


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    return {**TEST_SECRETS, **generate()}


@pytest.fixture(scope="module")
def checked(secrets: dict[str, str]) -> Recording:
    return run_program("dev", {**ADMIN, "apollo:adminPrivateKey": "the-private-half"}, secrets=secrets)


def test_every_host_is_checked_through_the_first_edge(checked: Recording) -> None:
    commands = checked.of(COMMAND)
    assert sorted(commands) == sorted(
        f"{host}-ready" for host in ("slave-1", "slave-2", "slave-3", "control-1", "control-2", "control-3", "edge-1")
    )
    slave = commands["slave-2-ready"].inputs["connection"]
    assert (slave["host"], slave["proxy"]["host"]) == ("10.0.32.34", "203.0.113.10")
    edge = commands["edge-1-ready"].inputs["connection"]
    assert edge["host"] == "203.0.113.10"
    assert "proxy" not in edge


def test_no_host_is_waited_for_before_the_edge_has_answered_from_here(checked: Recording, secrets: dict[str, str]) -> None:
    way = checked.named("command:local:Command", "readiness-way")
    assert way.inputs["create"] == f"python3 -m ops reach --jump 203.0.113.10 --host-key '{public_half(secrets['sshHostKey'])}'"
    assert all(way.urn in command.dependencies for command in checked.of(COMMAND).values())
    # An edge has to be there, or its boot would be waited for before anyone starts it.
    assert checked.named("aws:ec2/instance:Instance", "edge-1-instance").urn in way.dependencies


def test_the_way_is_looked_at_again_for_any_new_machine_and_replaces_nothing(checked: Recording) -> None:
    way = checked.named("command:local:Command", "readiness-way").inputs
    assert not way.get("triggers")
    machines = way["environment"]["APOLLO_MACHINES"].split(",")
    assert sorted(machines) == sorted(f"{name.removesuffix('-ready')}-instance-id" for name in checked.of(COMMAND))
    assert way["environment"][ADMIN_KEY] == "the-private-half"


def test_a_replaced_machine_is_checked_again(checked: Recording) -> None:
    assert checked.named(COMMAND, "slave-1-ready").inputs["triggers"][0] == "slave-1-instance-id"


def test_other_ports_for_the_mesh_have_every_host_checked_again(checked: Recording, secrets: dict[str, str]) -> None:
    config = {**ADMIN, "apollo:adminPrivateKey": "the-private-half", "apollo:overlay": {"mesh": "wireguard"}}
    other = run_program("dev", config, secrets=secrets)
    for name in checked.of(COMMAND):
        before, after = (run.named(COMMAND, name).inputs["triggers"] for run in (checked, other))
        assert before[0] == after[0] and before[1] != after[1]


def test_one_deadline_holds_for_dialing_and_waiting_together(checked: Recording) -> None:
    command = checked.named(COMMAND, "slave-1-ready")
    assert command.request.customTimeouts.create == command.request.customTimeouts.update == f"{DEADLINE}s"
    connection = command.inputs["connection"]
    assert connection["dialErrorLimit"] == connection["proxy"]["dialErrorLimit"] == -1
    assert f"apollo-check --wait {CHECK_SECONDS}" not in command.inputs["create"], "waiting twice"
    assert CHECK_SECONDS < DEADLINE


@pytest.mark.parametrize(("status", "checks"), [(0, True), (2, True), (1, False), (124, False)])
def test_cloud_init_is_waited_for_and_its_failure_fails_with_its_words(tmp_path: Path, status: int, checks: bool) -> None:
    programs = {
        "sudo": 'exec "$@"',
        "timeout": 'shift; exec "$@"',
        "cloud-init": f'echo "detail: $* went wrong"; exit {status}',
        "tail": '[ "$3" ] && echo "the log\'s end" || exec /usr/bin/tail "$@"',
        "apollo-check": f'echo "$*" > {tmp_path}/checked; echo "all well"',
    }
    for name, text in programs.items():
        stand_in(tmp_path / name, text)
    env = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["/bin/sh", "-c", READY], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is checks, done.stderr
    assert (tmp_path / "checked").exists() is checks
    if checks:
        assert (tmp_path / "checked").read_text().split()[0] == "--wait" and done.stdout == "all well\n"
    else:
        assert "detail: status --wait --long went wrong" in done.stderr and f"status {status}" in done.stderr


@pytest.mark.parametrize("config", [REGION, {**REGION, "apollo:adminPrivateKey": "the-private-half"}, ADMIN])
def test_without_a_key_or_a_network_to_come_from_there_is_no_gate(config: dict[str, Any]) -> None:
    assert not run_program("dev", config).of(COMMAND)


def test_the_agents_keys_serve_where_the_stack_says_so(secrets: dict[str, str]) -> None:
    admin = {**REGION, "apollo:admin": {**ADMIN["apollo:admin"], "agent": True}}
    connection = run_program("dev", admin, secrets=secrets).named(COMMAND, "slave-1-ready").inputs["connection"]
    assert "privateKey" not in connection
