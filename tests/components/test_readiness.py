"""The readiness gate: when it exists, how it reaches a host, and whom it believes."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from components.readiness import public_half
from ops.secrets import generate
from tests.components.recording import TEST_SECRETS, Recording, run_program

COMMAND = "command:remote:Command"
ADMIN = {"apollo:admin": {"allowedCidrs": ["203.0.113.7/32"], "publicKey": "ssh-ed25519 AAAA"}}


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


def test_a_replaced_machine_is_checked_again(checked: Recording) -> None:
    assert checked.named(COMMAND, "slave-1-ready").inputs["triggers"] == ["slave-1-instance-id"]


def test_the_host_key_made_with_the_secrets_is_pinned(checked: Recording, secrets: dict[str, str]) -> None:
    connection: dict[str, Any] = checked.named(COMMAND, "slave-1-ready").inputs["connection"]
    assert connection["hostKey"] == connection["proxy"]["hostKey"] == public_half(secrets["sshHostKey"])


@pytest.mark.parametrize("config", [{}, {"apollo:adminPrivateKey": "the-private-half"}, ADMIN])
def test_without_a_key_or_a_network_to_come_from_there_is_no_gate(config: dict[str, Any]) -> None:
    assert not run_program("dev", config).of(COMMAND)


def test_the_agents_keys_serve_where_the_stack_says_so(secrets: dict[str, str]) -> None:
    admin = {"apollo:admin": {**ADMIN["apollo:admin"], "agent": True}}
    connection = run_program("dev", admin, secrets=secrets).named(COMMAND, "slave-1-ready").inputs["connection"]
    assert "privateKey" not in connection


def test_the_public_half_is_what_ssh_keygen_says(secrets: dict[str, str], tmp_path: Any) -> None:
    path = tmp_path / "key"
    path.write_text(secrets["sshHostKey"])
    path.chmod(0o600)
    shown = subprocess.run(["ssh-keygen", "-y", "-f", str(path)], check=True, capture_output=True, text=True).stdout
    assert public_half(secrets["sshHostKey"]).split() == shown.split()[:2]


@pytest.mark.parametrize(
    "text", ["", "not a key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"]
)
def test_a_malformed_host_key_is_refused_with_the_command_that_makes_one(text: str) -> None:
    with pytest.raises(ValueError, match="python -m ops secrets"):
        public_half(text)
