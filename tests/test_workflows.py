"""The workflows for pull requests and merges: what they run exists, and no long-lived key is in them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def scripts() -> Iterator[tuple[str, str]]:
    for path in FILES:
        for job in workflow(path.name)["jobs"].values():
            yield from ((path.name, step["run"]) for step in job["steps"] if "run" in step)


def test_every_ops_command_that_is_run_exists_with_its_options() -> None:
    found = 0
    for _, text in scripts():
        for command, rest in re.findall(r"-m ops ([a-z]+)([^\n|]*)", text):
            argv = [sys.executable, "-m", "ops", command, "--help"]
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0
            for option in re.findall(r"--[a-z-]+", rest):
                assert option in done.stdout, f"{command} has no {option}"
            found += 1
    assert found >= 5


@pytest.mark.parametrize("text", sorted({text for _, text in scripts() if "\n" in text}))
def test_every_longer_script_is_valid_bash(text: str) -> None:
    # GitHub's own expressions are not the shell's.
    done = subprocess.run(
        ["bash", "-n"], input=re.sub(r"\$\{\{.*?\}\}", "x", text), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_key_of_an_aws_user_is_in_a_workflow_and_oidc_is() -> None:
    for path in FILES:
        assert "AWS_SECRET_ACCESS_KEY" not in path.read_text()
    assert workflow("deploy.yml")["permissions"]["id-token"] == "write"


def test_forks_are_served_without_a_secret_and_kept_from_the_jobs_that_have_one() -> None:
    checks = (ROOT / ".github" / "workflows" / "checks.yml").read_text()
    assert "secrets." not in checks
    assert "id-token" not in checks
    preview = workflow("deploy.yml")["jobs"]["preview"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in preview["if"]


def test_no_text_of_a_pull_request_reaches_a_script_but_by_the_environment() -> None:
    for name, text in scripts():
        assert not re.search(r"\$\{\{\s*(github\.event\.pull_request\.(title|body|labels|head)|github\.head_ref)", text), name


def test_an_up_runs_only_on_merge_in_the_environment_that_may_ask_for_approval() -> None:
    up = workflow("deploy.yml")["jobs"]["up"]
    assert up["if"] == "github.event_name == 'push'"
    assert up["environment"] == "${{ matrix.stack }}"
    assert up["strategy"]["max-parallel"] == 1
