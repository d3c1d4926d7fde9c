"""Commands import what they use: a help text and a question to the cloud wait for no library that they do not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from localcloud import cloud as clouds
from localcloud.paths import REPOSITORY
from ops.__main__ import COMMANDS

from .support import REGION

# Each takes a fifth of a second or more to import, or brings one that does.
SLOW = {
    *("boto3", "botocore", "moto", "pulumi", "pulumi_aws", "pulumi_command"),
    *("grpc", "pydantic", "netaddr", "rich", "cryptography"),
    *("plan.settings", "localcloud.machines.driver", "localcloud.provider.kind"),
}

# Runs command lines of a package one after the other, and prints what each had loaded at its end, after what it printed itself.
PROBE = """
import contextlib, importlib, json, os, sys
main = importlib.import_module(sys.argv[1] + ".__main__").main
loaded = {}
for line in json.loads(sys.argv[2]):
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        try:
            status = main(line)
        except SystemExit as end:
            status = end.code
    loaded[" ".join(line)] = [status, sorted(sys.modules)]
print(json.dumps(loaded))
"""


def slow_modules(package: str, lines: list[list[str]], run_dir: Path | None = None) -> dict[str, tuple[int, set[str]]]:
    """Each command line → its exit status, and which of SLOW were loaded when it ended."""
    env = {**os.environ, **({"APOLLO_RUN_DIR": str(run_dir)} if run_dir else {})}
    argv = [sys.executable, "-c", PROBE, package, json.dumps(lines)]
    done = subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {line: (status, SLOW & set(modules)) for line, (status, modules) in found.items()}


def test_no_help_text_of_the_embedded_cloud_waits_for_a_library() -> None:
    argv = [sys.executable, "-m", "localcloud", "no-such-verb"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    verbs = [word.strip("' \n)") for word in done.stderr.partition("choose from")[2].split(",")]
    assert "up" in verbs and len(verbs) >= 15, done.stderr
    lines = [["--help"], *([verb, "--help"] for verb in verbs)]
    assert slow_modules("localcloud", lines) == {" ".join(line): (0, set()) for line in lines}


def test_no_completion_of_the_embedded_clouds_commands_waits_for_a_library(tmp_path: Path) -> None:
    asked = (["up"], ["up", "--"], ["exec", "sl"], ["status", "--stack", ""], ["ops", ""])
    lines = [["complete", *words] for words in asked]
    assert slow_modules("localcloud", lines, tmp_path) == {" ".join(line): (0, set()) for line in lines}


def test_no_help_text_of_the_day_two_commands_waits_for_a_library() -> None:
    lines = [["--help"], *([verb, "--help"] for verb in COMMANDS)]
    assert slow_modules("ops", lines) == {" ".join(line): (0, set()) for line in lines}


def test_questions_to_a_cloud_wait_for_no_library(tmp_path: Path) -> None:
    cloud = clouds.start(tmp_path / "local", REGION, ephemeral=True)
    try:
        lines = [["status"], ["outputs", "--json"]]
        assert slow_modules("localcloud", lines, tmp_path) == {" ".join(line): (0, set()) for line in lines}
        refused = ["exec", "slave-1", "--", "true"]
        assert slow_modules("localcloud", [refused], tmp_path) == {" ".join(refused): (1, set())}, "it has no machines"
    finally:
        cloud.stop()


def test_what_enters_a_booted_host_waits_for_no_library() -> None:
    code = "import json, sys; import localcloud.cli.exec, localcloud.machines.machine; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert SLOW & set(json.loads(done.stdout)) == set()
