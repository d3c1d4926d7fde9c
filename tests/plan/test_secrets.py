"""What follows from the secrets without their values, and the public half of the one that has one."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from plan.secrets import CERTIFICATES, SECRETS, public_half, together


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ([], []),
        (["gossipKey"], ["gossipKey"]),
        # In the order of the table, and none that there is not.
        (["sshHostKey", "gossipKey", "x"], ["gossipKey", "sshHostKey"]),
        *((["gossipKey", one], ["gossipKey", *CERTIFICATES]) for one in CERTIFICATES),
        ([secret.key for secret in SECRETS], [secret.key for secret in SECRETS]),
    ],
)
def test_certificates_are_made_anew_together_and_everything_else_alone(asked: list[str], made: list[str]) -> None:
    assert together(asked) == made


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_the_public_half_is_what_ssh_keygen_says(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "a comment", "-f", str(path)], check=True)
    assert public_half(path.read_text()).split() == path.with_suffix(".pub").read_text().split()[:2]


def framed(blob: bytes) -> str:
    return f"-----BEGIN X-----\n{base64.b64encode(blob).decode()}\n-----END X-----\n"


@pytest.mark.parametrize(
    "text",
    [
        *("", "not a key", framed(b"\0\0\0"), framed(b"openssh-key-v2\0" + bytes(24))),
        # One that ends in the middle, and one whose kind is no text.
        *(framed(b"openssh-key-v1\0"), framed(b"openssh-key-v1\0" + bytes(16) + b"\0\0\0\6\0\0\0\2\xff\xff")),
    ],
)
def test_a_malformed_host_key_is_refused_with_the_command_that_makes_one(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        public_half(text)
    why = "secrets.sshHostKey is not an OpenSSH private key; make one with: python -m ops secrets"
    assert str(refused.value) == why
