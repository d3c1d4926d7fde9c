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

from tests.components import recording
from tests.host.support import stand_in
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


def test_a_workflow_calls_commands_and_imports_nothing_of_ours() -> None:
    """Names inside may change with any commit; the base's checkout and the change's have different ones."""
    packages = "|".join(path.parent.name for path in ROOT.glob("*/__init__.py"))
    for name, text in scripts():
        assert not re.search(rf"\b(import|from) ({packages})\b|python3? -c|<<", text), f"{name}: {text}"


def test_every_command_of_the_embedded_cloud_that_is_run_exists_with_its_options() -> None:
    found = 0
    for _, text in scripts():
        for verb, rest in re.findall(r"\./apollo ([a-z]+)([^\n|]*)", text):
            done = subprocess.run(["./apollo", verb, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            # What follows the CLI's own verb is Pulumi's.
            options = set(re.findall(r"--[a-z-]+", rest.partition(" preview")[0]))
            assert options and options <= set(re.findall(r"--[a-z-]+", done.stdout))
            found += 1
    assert found


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
    jobs = workflow("deploy.yml")["jobs"]
    assert {name for name, job in jobs.items() if job["permissions"].get("id-token") == "write"} == {"preview", "up"}


def test_forks_are_served_without_a_secret_and_kept_from_the_jobs_that_have_one() -> None:
    checks = (ROOT / ".github" / "workflows" / "checks.yml").read_text()
    assert "secrets." not in checks
    assert "id-token" not in checks
    for job in ("preview", "judge"):
        condition = workflow("deploy.yml")["jobs"][job]["if"]
        assert "github.event.pull_request.head.repo.full_name == github.repository" in condition


def test_no_text_of_a_pull_request_reaches_a_script_but_by_the_environment() -> None:
    for name, text in scripts():
        assert not re.search(r"\$\{\{\s*(github\.event\.pull_request\.(title|body|labels|head)|github\.head_ref)", text), name


def test_an_up_runs_only_on_main_in_the_environment_that_may_ask_for_approval() -> None:
    up = workflow("deploy.yml")["jobs"]["up"]
    assert up["if"] == "github.event_name == 'push' && github.ref == 'refs/heads/main'"
    assert up["environment"] == "${{ matrix.stack }}"
    assert up["strategy"]["max-parallel"] == 1
    assert workflow("deploy.yml")[True]["push"] == {"branches": ["main"]}


# What a branch's code gets hold of.


def test_every_action_is_pinned_by_its_commit_and_says_which_release_that_is() -> None:
    for path in FILES:
        used = re.findall(r"uses: (.*)", path.read_text())
        assert used
        for action in used:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), f"{path.name}: {action}"


def test_one_action_has_one_commit_everywhere() -> None:
    found = {action for path in FILES for action in re.findall(r"uses: (\S+)", path.read_text())}
    names = [action.partition("@")[0] for action in found]
    assert sorted(names) == sorted(set(names))


def test_no_token_stays_in_a_checkout_that_a_branchs_code_can_read() -> None:
    for path in FILES:
        for job in workflow(path.name)["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False


def test_the_workflow_that_has_secrets_is_the_base_branchs_and_gives_each_job_its_own_rights() -> None:
    deploy = workflow("deploy.yml")
    assert "pull_request" not in deploy[True]
    assert deploy[True]["pull_request_target"]["branches"] == ["main"]
    assert deploy["permissions"] == {}
    assert {name: job["permissions"] for name, job in deploy["jobs"].items()} == {
        "preview": {"contents": "read", "id-token": "write"},
        "judge": {"contents": "read", "pull-requests": "write"},
        "up": {"contents": "read", "id-token": "write"},
    }


def test_a_branchs_code_runs_only_where_reviewers_were_asked_and_at_the_commit_that_they_saw() -> None:
    jobs = workflow("deploy.yml")["jobs"]
    assert jobs["preview"]["environment"] == "${{ matrix.stack }}-preview"
    for name, job in jobs.items():
        checkouts = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        refs = {
            "preview": "${{ github.event.pull_request.head.sha }}",
            "judge": "${{ github.event.pull_request.base.sha }}",
            "up": None,
        }
        assert [checkout.get("ref") for checkout in checkouts] == [refs[name]]


def test_the_gate_and_the_comment_are_the_base_branchs_and_have_no_secret() -> None:
    judge = workflow("deploy.yml")["jobs"]["judge"]
    assert "environment" not in judge
    assert "secrets." not in str(judge)
    (download,) = [step["with"] for step in judge["steps"] if step.get("uses", "").startswith("actions/download-artifact@")]
    # What the branch puts into its artifact must not take the place of a program of ours.
    assert download["path"] == "of-the-branch"
    for name in ("Comment", "Gate"):
        assert "python3 -m ops" in script("deploy.yml", "judge", name)
    for step in ("Say what it does", "Gate"):
        steps = workflow("checks.yml")["jobs"]["preview-without-account"]["steps"]
        assert next(entry for entry in steps if entry.get("name") == step)["working-directory"] == "base"


@pytest.mark.parametrize("command", ["comment", "gate"])
def test_what_judges_a_preview_needs_no_package(command: str, tmp_path: Path) -> None:
    (tmp_path / "preview.json").write_text(json.dumps({**LOST, "steps": []}))
    code = f"import sys; sys.path.insert(0, '.'); from ops.__main__ import main; sys.exit(main(['{command}', sys.argv[1]]))"
    argv = [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "preview.json")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "ModuleNotFoundError" not in done.stderr, done.stderr


def test_no_pull_request_runs_on_a_machine_of_ours_and_an_up_runs_where_the_edge_lets_it_in() -> None:
    for path in FILES:
        for name, job in workflow(path.name)["jobs"].items():
            own = "self-hosted" in job["runs-on"]
            assert own == ((path.name, name) == ("deploy.yml", "up"))
    order = [step.get("run", "") for step in workflow("deploy.yml")["jobs"]["up"]["steps"]]
    reach, up = (next(n for n, text in enumerate(order) if words in text) for words in ("ops reach", "pulumi up"))
    assert reach < up


def test_the_header_says_what_to_set_up() -> None:
    head = (ROOT / ".github/workflows/deploy.yml").read_text().partition("\nname:")[0]
    for words in (
        "dev, prod, dev-preview, prod-preview",
        "Deployment branches: `main` only",
        "Required reviewers",
        "OIDC provider",
        "trusts exactly that environment",
        "PULUMI_CONFIG_PASSPHRASE",
        "runner of your own",
        "admin.allowedCidrs",
    ):
        assert words in head, words


def policies() -> dict[str, list[dict[str, Any]]]:
    """The statements of the IAM policies in docs/operations.md, by the Sid of their first."""
    text = (ROOT / "docs/operations.md").read_text()
    found = [json.loads(block)["Statement"] for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if "Sid" in block]
    return {statements[0]["Sid"]: statements for statements in found}


def test_a_role_trusts_one_environment_of_one_repository() -> None:
    (statement,) = policies()["OneEnvironment"]
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert statement["Condition"] == {
        "StringEquals": {
            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
            "token.actions.githubusercontent.com:sub": "repo:OWNER/REPOSITORY:environment:ENVIRONMENT",
        }
    }


# What the program looks up while it previews, by Pulumi's name, and the permission that takes.
LOOKUPS = {"aws:ec2/getAmi:getAmi": "ec2:DescribeImages"}


def test_the_preview_role_reads_the_state_and_looks_up_what_the_program_does_and_nothing_else() -> None:
    looked: set[str] = set()

    def look(token: str, _: object) -> None:
        looked.add(token)

    for stack in ("dev", "prod"):
        recording.run_program(stack, lookups=look)
    statements = policies()["State"]
    allowed = [action for statement in statements for action in statement["Action"]]
    assert sorted(allowed) == sorted(["s3:ListBucket", "s3:GetObject", *(LOOKUPS[name] for name in looked)])
    for statement in statements:
        assert statement["Effect"] == "Allow"
        # EC2 knows no narrower resource for a look-up.
        narrow = all("*" not in resource.removesuffix("/.pulumi/*") for resource in statement["Resource"])
        assert narrow or statement["Action"] == ["ec2:DescribeImages"]


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
    """Runs steps of deploy.yml's judge in a folder of their own, and keeps what gh was called with."""

    def __init__(self, folder: Path, preview: dict[str, Any] | None, allowed: str = "") -> None:
        self.folder = folder
        if preview is not None:
            (folder / "of-the-branch").mkdir()
            (folder / "of-the-branch/preview.json").write_text(json.dumps(preview))
        (folder / "allowed").write_text(allowed)
        stand_in(folder / "bin/python3", f'PYTHONPATH={ROOT} exec {sys.executable} "$@"')
        stand_in(folder / "bin/gh", f'printf "%s\\n" "$*" >> {folder}/calls')

    def step(self, name: str) -> int:
        env = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "STACK": "dev", "PR": "7", "REPOSITORY": "o/r", "RUN": "URL"}
        argv = ["bash", "-eo", "pipefail", "-c", script("deploy.yml", "judge", name)]
        return subprocess.run(argv, cwd=self.folder, env=env, capture_output=True, timeout=60, check=False).returncode

    @property
    def comment(self) -> str:
        assert "pr comment 7 --repo o/r --body-file comment.md" in (self.folder / "calls").read_text()
        return (self.folder / "comment.md").read_text()


def test_a_label_starts_the_preview_and_the_comment_says_what_the_gate_does(tmp_path: Path) -> None:
    triggers = workflow("deploy.yml")[True]  # YAML 1.1 takes the key `on` for a truth value
    assert {"labeled", "unlabeled", "opened", "synchronize", "reopened"} == set(triggers["pull_request_target"]["types"])
    for allowed, status, verdict in (("", 1, "refused by the gate"), ("--allow=edge-2\n", 0, "1 change, the gate passes")):
        (tmp_path / str(status)).mkdir()
        runner = Runner(tmp_path / str(status), LOST, allowed)
        assert runner.step("Comment") == 0
        assert f"### Preview of `dev`: {verdict}" in runner.comment
        assert runner.step("Gate") == status


@pytest.mark.parametrize(("file", "job"), [("deploy.yml", "judge"), ("checks.yml", "preview-without-account")])
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
    stand_in(tmp_path / "bin/python3", "exit 127")
    assert runner.step("Comment") == 0
    assert runner.comment == "<!-- apollo-preview dev -->\n### Preview of dev: failed before it began, see URL\n"


def test_an_up_does_not_begin_where_its_preview_fails() -> None:
    assert workflow("deploy.yml")["defaults"]["run"]["shell"] == "bash"  # which GitHub runs with -o pipefail


@pytest.mark.engine
def test_without_an_account_the_changes_own_cloud_previews_against_the_state_of_the_base(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    stack = Stack(run_dir)
    stack.up()
    try:
        before = stack.cloud
        text = script("checks.yml", "preview-without-account", "Preview the change")
        found: list[dict[str, int]] = []
        for more in ("", " --set slaves.count=4"):
            command = text.replace(" --empty-cloud", f"{more} --empty-cloud").replace("../preview", f"{tmp_path}/preview")
            env = {**stack.env, "STACK": "local"}
            subprocess.run(["bash", "-ec", command], cwd=ROOT, env=env, timeout=120, check=True)
            found.append(json.loads((tmp_path / "preview.json").read_text())["changeSummary"])
        assert set(found[0]) == {"same"}
        assert set(found[1]) == {"same", "create"}
        assert before.alive(), "the base's own cloud was asked for nothing"
        assert not list(run_dir.glob("preview-*"))
        refused = stack.run("pulumi", "--empty-cloud", "up", "--yes")
        assert (refused[0], "--empty-cloud is for `preview`, not for `up`" in refused[2]) == (1, True)
    finally:
        status, _, err = stack.run("down", "--force")
        assert status == 0, err
