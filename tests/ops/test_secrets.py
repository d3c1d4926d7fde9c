"""The secrets' values: all of them, each in the form its reader takes, never two alike."""

from __future__ import annotations

import base64
import re
import subprocess
import uuid
from pathlib import Path

import pytest

from ops import secrets
from ops.__main__ import main
from plan.secrets import SECRETS


def test_every_secret_of_the_plan_gets_a_value_of_its_own() -> None:
    first, second = secrets.generate(), secrets.generate()
    assert list(first) == [secret.key for secret in SECRETS]
    assert len({*first.values(), *second.values()}) == 2 * len(SECRETS)


def test_values_have_the_form_that_consul_and_ssh_take() -> None:
    values = secrets.generate()
    assert len(base64.b64decode(values["gossipKey"], validate=True)) == 32
    for key, value in values.items():
        if key.endswith("Token"):
            assert (str(uuid.UUID(value)), uuid.UUID(value).version) == (value, 4)
        if key.endswith("Password"):
            assert re.fullmatch(r"[A-Za-z0-9_-]{43}", value), "32 bytes, in characters that no file or shell reads as its own"
    assert values["sshHostKey"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")


@pytest.mark.parametrize(("given", "names"), [({}, "dc1.consul"), ({"datacenter": "dc9", "domain": "example"}, "dc9.example")])
def test_consuls_certificates_are_signed_by_the_stacks_authority_for_its_own_names_and_made_together(
    given: dict[str, str], names: str, tmp_path: Path
) -> None:
    values = secrets.generate(**given)
    (tmp_path / "ca.pem").write_text(values["consulCa"])
    for key, name in (("consulServerCertificate", f"server.{names}"), ("consulAgentCertificate", f"client.{names}")):
        (tmp_path / "own.pem").write_text(values[key])
        check = ["openssl", "verify", "-CAfile", "ca.pem", "-verify_hostname", name, "own.pem"]
        done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "PRIVATE KEY" in values[key] and len(values[key]) < 4096  # what SSM takes
    assert "PRIVATE KEY" not in values["consulCa"]


def test_without_pulumi_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["secrets", "--stack", "dev"]) == 1
    assert "error: pulumi is not on PATH" in capsys.readouterr().err
