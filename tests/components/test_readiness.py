"""The readiness gate: when it exists, and what it waits for. How it reaches a host: tests/components/test_registered.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.readiness import CHECK_SECONDS, DEADLINE, READY
from plan.admin import ADMIN_KEY
from tests.components.recording import run_program
from tests.components.test_drain import HOSTS
from tests.host.support import stand_in

COMMAND = "command:remote:Command"
REGION = {"aws:region": "eu-west-1"}
ADMIN: dict[str, Any] = {**REGION, "apollo:admin": {"allowedCidrs": ["203.0.113.7/32"], "publicKey": "ssh-ed25519 AAAA"}}


ADMIN_AND_KEY = {**ADMIN, "apollo:adminPrivateKey": "the-private-half"}


def test_every_host_is_checked_and_other_ports_for_the_mesh_have_every_host_checked_again() -> None:
    before = run_program("dev", ADMIN_AND_KEY).of(COMMAND)
    after = run_program("dev", {**ADMIN_AND_KEY, "apollo:overlay": {"mesh": "wireguard"}}).of(COMMAND)
    assert sorted(before) == sorted(after) == sorted(f"{host}-ready" for host in HOSTS)
    for name, check in before.items():
        (machine, ports), (same, other) = check.inputs["triggers"], after[name].inputs["triggers"]
        assert machine == same == name.replace("-ready", "-instance-id") and ports != other


def test_a_check_has_time_to_say_what_is_wrong_before_its_deadline() -> None:
    assert f"apollo-check --wait {CHECK_SECONDS}" not in READY, "waiting twice"
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


def test_the_agents_keys_serve_where_the_stack_says_so() -> None:
    found = run_program("dev", {**REGION, "apollo:admin": {**ADMIN["apollo:admin"], "agent": True}})
    assert "privateKey" not in found.named(COMMAND, "slave-1-ready").inputs["connection"]
    for name, when in (("readiness-way", "create"), ("slave-1-drain", "delete")):
        command = found.named("command:local:Command", name).inputs
        assert "--agent" in command[when].split() and ADMIN_KEY not in command.get("environment", {})
