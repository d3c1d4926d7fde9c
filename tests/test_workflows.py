"""The workflows for pull requests and merges: what they run exists, and no long-lived key is in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.__main__ import main
from ops.comment import render_failure
from tests.localcloud.test_program import Stack

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def workflow(name: str) -> dict[Any, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def scripts() -> Iterator[tuple[str, str]]:
    for path in FILES:
        for job in workflow(path.name)["jobs"].values():
            yield from ((path.name, step["run"]) for step in job["steps"] if "run" in step)


def script(file: str, job: str, step: str) -> str:
    return next(entry["run"] for entry in workflow(file)["jobs"][job]["steps"] if entry.get("name") == step)


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


# A preview on AWS: what becomes of its comment and of the gate.

LOST = {
    "steps": [
        {
            "op": "delete",
            "urn": "urn:pulumi:dev::apollo::apollo:edge:Edge$apollo:compute:Host$aws:ec2/instance:Instance::edge-2-instance",
            "oldState": {"parent": "urn:pulumi:dev::apollo::apollo:edge:Edge$apollo:compute:Host::edge-2"},
        }
    ],
    "changeSummary": {"delete": 1},
}
FAILED = {"diagnostics": [{"severity": "error", "message": "slaves.count: true is not a whole number </pre> @all"}]}


class Runner:
    """Runs steps of deploy.yml's preview in a folder of their own, and keeps what gh was called with."""

    def __init__(self, folder: Path, preview: dict[str, Any] | None, allowed: str = "") -> None:
        self.folder = folder
        if preview is not None:
            (folder / "preview.json").write_text(json.dumps(preview))
        (folder / "allowed").write_text(allowed)
        self._program(".venv/bin/python", f'PYTHONPATH={ROOT} exec {sys.executable} "$@"')
        self._program("bin/gh", f'printf "%s\\n" "$*" >> {folder}/calls')

    def _program(self, name: str, body: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def step(self, name: str) -> int:
        env = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "STACK": "dev", "PR": "7", "REPOSITORY": "o/r", "RUN": "URL"}
        argv = ["bash", "-eo", "pipefail", "-c", script("deploy.yml", "preview", name)]
        return subprocess.run(argv, cwd=self.folder, env=env, capture_output=True, timeout=60, check=False).returncode

    @property
    def comment(self) -> str:
        assert "pr comment 7 --body-file comment.md" in (self.folder / "calls").read_text()
        return (self.folder / "comment.md").read_text()


def test_a_label_starts_the_preview_and_the_comment_says_what_the_gate_does(tmp_path: Path) -> None:
    triggers = workflow("deploy.yml")[True]  # YAML 1.1 takes the key `on` for a truth value
    assert {"labeled", "unlabeled", "opened", "synchronize", "reopened"} == set(triggers["pull_request"]["types"])
    for allowed, status, verdict in (("", 1, "refused by the gate"), ("--allow=edge-2\n", 0, "1 change, the gate passes")):
        (tmp_path / str(status)).mkdir()
        runner = Runner(tmp_path / str(status), LOST, allowed)
        assert runner.step("Comment") == 0
        assert f"### Preview of `dev`: {verdict}" in runner.comment
        assert runner.step("Gate") == status


@pytest.mark.parametrize(("file", "job"), [("deploy.yml", "preview"), ("checks.yml", "preview-without-account")])
def test_the_labels_are_asked_for_and_not_read_from_an_event_that_may_be_old(file: str, job: str) -> None:
    assert "/labels" in script(file, job, "Ask what the labels allow")
    assert "event.pull_request.labels" not in (ROOT / ".github" / "workflows" / file).read_text()


@pytest.mark.parametrize(("preview", "said"), [(FAILED, "slaves.count: true is not a whole number"), (None, "cannot read")])
def test_a_preview_that_failed_has_a_comment_in_the_place_of_the_last_ones(
    tmp_path: Path, preview: dict[str, Any] | None, said: str
) -> None:
    runner = Runner(tmp_path, preview)
    assert runner.step("Comment") == 0
    assert runner.comment.startswith("<!-- apollo-preview dev -->\n### Preview of `dev`: failed\n")
    assert said in runner.comment


def test_a_comment_is_made_where_even_python_is_missing(tmp_path: Path) -> None:
    runner = Runner(tmp_path, None)
    (tmp_path / ".venv/bin/python").unlink()
    assert runner.step("Comment") == 0
    assert runner.comment == "<!-- apollo-preview dev -->\n### Preview of dev: failed before it began, see URL\n"


def test_the_words_of_a_failure_end_no_tag_and_fit_into_a_comment() -> None:
    text = render_failure("dev", "</pre>" + "&" * 100_000)
    assert text.count("</pre>") == 1
    assert len(text) < 65_536


def test_a_failed_preview_of_no_known_stack_is_an_error_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "preview.json"
    path.write_text(json.dumps(FAILED))
    assert main(["comment", str(path)]) == 2
    assert "of a preview that failed" in capsys.readouterr().err


def test_an_up_does_not_begin_where_its_preview_fails() -> None:
    assert workflow("deploy.yml")["defaults"]["run"]["shell"] == "bash"  # which GitHub runs with -o pipefail


@pytest.mark.engine
def test_without_an_account_the_changes_own_cloud_previews_against_the_state_of_the_base(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "run")
    stack.up()
    try:
        before = stack.cloud
        for step in ("End the base's cloud, and leave its state", "Start the change's cloud on it"):
            text = script("checks.yml", "preview-without-account", step)
            subprocess.run(["bash", "-ec", text], cwd=ROOT, env={**stack.env, "STACK": "local"}, timeout=120, check=True)
        assert not before.alive()
        assert stack.client("ec2").describe_instances()["Reservations"] == []
        found: list[dict[str, int]] = []
        for change in ([], ["--set", "slaves.count=4"]):
            status, out, err = stack.run("pulumi", *change, "preview", "--json")
            assert status == 0, err
            found.append(json.loads(out)["changeSummary"])
        assert set(found[0]) == {"same"}
        assert set(found[1]) == {"same", "create"}
    finally:
        status, _, err = stack.run("down", "--force")
        assert status == 0, err
