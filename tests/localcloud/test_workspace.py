"""The generated stack file: the checkout's configuration, overrides on top, secrets of the cloud's own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from localcloud.engine.workspace import DEFAULT_REGION, prepare
from localcloud.errors import LocalCloudError
from localcloud.stack.state import read_state, resources

CONFIG = """
config:
  aws:region: eu-west-1
  small:hosts: {count: 3, tags: {a: b}}
  small:mesh: vxlan
  small:foreign: {secure: v1:abc:def}
encryptionsalt: v1:other:v1:other:other
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "program"
    folder.mkdir()
    project = "name: small\nruntime: {name: python, options: {virtualenv: .venv}}\nconfig: {small:given: {default: 1}}\n"
    (folder / "Pulumi.yaml").write_text(project)
    (folder / "Pulumi.local.yaml").write_text(CONFIG)
    return folder


def generate() -> dict[str, str]:
    return {"gossipKey": "hush", "token": "quiet"}


def stack_file(tmp_path: Path, program: Path, sets: Sequence[str] = ()) -> dict[str, Any]:
    workspace = prepare(tmp_path / "cloud", program, "local", sets, generate)
    return yaml.safe_load((workspace.work / "Pulumi.local.yaml").read_text())


def opened(cloud: Path, salt: str, sealed: str) -> str:
    """Decrypts as the engine does, from its documented format: PBKDF2 with a million rounds, AES-256-GCM."""
    key = hashlib.pbkdf2_hmac(
        "sha256", (cloud / "passphrase").read_bytes(), base64.b64decode(salt.split(":")[1]), 1_000_000, 32
    )
    _, nonce, text = sealed.split(":")
    return AESGCM(key).decrypt(base64.b64decode(nonce), base64.b64decode(text), None).decode()


def test_overrides_hold_for_one_run(tmp_path: Path, program: Path) -> None:
    sets = ["hosts.count=5", "hosts.tags.c=[1, x]", "mesh=weave", "aws:region=us-east-1", "new.deep.key=true"]
    config = stack_file(tmp_path, program, sets)["config"]
    assert config["small:hosts"] == {"count": 5, "tags": {"a": "b", "c": [1, "x"]}}
    assert (config["small:mesh"], config["aws:region"]) == ("weave", "us-east-1")
    assert config["small:new"] == {"deep": {"key": True}}
    assert stack_file(tmp_path, program)["config"]["small:hosts"]["count"] == 3
    assert (program / "Pulumi.local.yaml").read_text() == CONFIG


def test_secrets_are_made_once_and_encrypted_as_the_engine_does(tmp_path: Path, program: Path) -> None:
    first = stack_file(tmp_path, program)
    secrets = first["config"]["small:secrets"]
    cloud = tmp_path / "cloud"
    assert opened(cloud, first["encryptionsalt"], first["encryptionsalt"].split(":", 2)[2]) == "pulumi"
    assert opened(cloud, first["encryptionsalt"], secrets["gossipKey"]["secure"]) == "hush"
    assert stack_file(tmp_path, program)["config"]["small:secrets"] == secrets
    for name in ("passphrase", "secrets.json"):
        assert (cloud / name).stat().st_mode & 0o777 == 0o600
    assert "hush" not in (cloud / "secrets.json").read_text()


def test_a_secret_that_is_new_is_added_and_the_others_stay(tmp_path: Path, program: Path) -> None:
    before = stack_file(tmp_path, program)["config"]["small:secrets"]
    workspace = prepare(tmp_path / "cloud", program, "local", (), lambda: {**generate(), "added": "new"})
    after = yaml.safe_load((workspace.work / "Pulumi.local.yaml").read_text())["config"]["small:secrets"]
    assert {**after, **before} == after
    assert set(after) - set(before) == {"added"}


def test_a_rotated_secret_is_made_anew_for_good_and_the_others_stay(tmp_path: Path, program: Path) -> None:
    before = stack_file(tmp_path, program)["config"]["small:secrets"]
    prepare(tmp_path / "cloud", program, "local", (), generate, rotate=["token"])
    after = stack_file(tmp_path, program)["config"]["small:secrets"]
    assert {key for key in before if before[key] != after[key]} == {"token"}


def test_ciphertext_of_another_passphrase_is_replaced(tmp_path: Path, program: Path) -> None:
    made = stack_file(tmp_path, program)
    sealed = made["config"]["small:foreign"]["secure"]
    assert sealed != "v1:abc:def"
    assert opened(tmp_path / "cloud", made["encryptionsalt"], sealed)


def test_the_project_keeps_all_but_its_runtime(tmp_path: Path, program: Path) -> None:
    workspace = prepare(tmp_path / "cloud", program, "local", (), generate)
    project = yaml.safe_load((workspace.work / "Pulumi.yaml").read_text())
    assert project == {"name": "small", "config": {"small:given": {"default": 1}}, "runtime": "python", "main": str(program)}


def test_a_region_is_added_to_no_stack_that_names_none(tmp_path: Path, program: Path) -> None:
    (program / "Pulumi.local.yaml").write_text("")
    assert "aws:region" not in stack_file(tmp_path, program)["config"]
    assert prepare(tmp_path / "cloud", program, "local", (), generate).region == DEFAULT_REGION


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config: [", "is not YAML"),
        ("just words", "holds str, not keys and values"),
    ],
)
def test_a_stack_file_that_cannot_be_read_is_named(text: str, words: str, tmp_path: Path, program: Path) -> None:
    (program / "Pulumi.local.yaml").write_text(text)
    with pytest.raises(LocalCloudError, match=words) as caught:
        stack_file(tmp_path, program)
    assert str(program / "Pulumi.local.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["hosts"], "give it as key=value"),
        (["=1"], "give it as key=value"),
        (["hosts..x=1"], "give it as key=value"),
        (["hosts.count={"], "is not YAML"),
        (["mesh.name=x"], "mesh is 'vxlan', which has no parts"),
    ],
)
def test_an_override_that_does_not_fit_is_named(sets: list[str], words: str, tmp_path: Path, program: Path) -> None:
    with pytest.raises(LocalCloudError, match=words):
        stack_file(tmp_path, program, sets)


def test_an_unknown_stack_names_those_there_are(tmp_path: Path, program: Path) -> None:
    with pytest.raises(LocalCloudError, match=r"there is no stack 'prod'.*stacks here: local"):
        prepare(tmp_path / "cloud", program, "prod", (), generate)


def test_a_state_that_is_no_state_is_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "local.json"
    assert resources(path) == []
    for text in ("", "{", "[]", "{}", json.dumps({"checkpoint": {"latest": {"resources": [{}]}}})):
        path.write_text(text)
        with pytest.raises(LocalCloudError, match=r"is damaged .* nothing was changed"):
            read_state(path)
        assert path.read_text() == text
