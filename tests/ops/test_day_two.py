"""Rolling, doctor, map and the consumer under the real engine, without machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcloud.paths import REPOSITORY
from tests.host.support import stand_in
from tests.localcloud.test_program import DEADLINE, Stack

pytestmark = pytest.mark.engine
ROLL = ("ops", "roll", "--unchecked", "--json")


def started(stack: Stack, *arguments: str) -> subprocess.Popen[str]:
    return stack.start(*arguments)


def finished(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    out, err = process.communicate(timeout=DEADLINE)
    return process.returncode, json.loads(out) if out.strip() else {}, err


def slaves(stack: Stack) -> dict[str, int]:
    status, out, err = stack.run("outputs", "--json")
    assert status == 0, err
    return {name: slave["generation"] for name, slave in json.loads(out)["slaves"].items()}


def fault(stack: Stack, **what: Any) -> None:
    stack.cloud.ask("fault", what)


def instances(calls: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What was done to machines and drains, in order."""
    return [
        (call["operation"], call["name"])
        for call in calls
        if call["operation"] in ("create", "delete") and call["name"].endswith(("-instance", "-drain"))
    ]


def test_a_drain_that_cannot_reach_its_host_lets_it_go_and_says_so(stack: Stack) -> None:
    del stack
    done = subprocess.run(
        ["/bin/sh", "-c", "python3 -m ops drain --host slave-1 --address 192.0.2.1 --jump '' --host-key x || echo goes"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "goes"
    assert "not drained: no administrators' key" in done.stdout


def test_a_drain_needs_no_package_of_the_project() -> None:
    code = "import sys; sys.path.insert(0, '.'); from ops.__main__ import main; main(['drain', '--host', 'x'])"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("x: not drained"), done.stderr


def test_a_silent_host_costs_a_drain_seconds_and_no_more(tmp_path: Path) -> None:
    """An ssh that never answers: the drain ends by its own limit."""
    silent = stand_in(tmp_path / "ssh", "exec sleep 600")
    env = {**os.environ, "APOLLO_SSH": str(silent), "APOLLO_ADMIN_KEY": "key"}
    argv = [sys.executable, "-m", "ops", "drain", "--host", "slave-1", "--address", "10.0.0.33", "--jump", "192.0.2.1"]
    argv += ["--host-key", "ssh-ed25519 AAAA", "--seconds", "2", "--control", ""]
    done = subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "slave-1: not drained, and the others do not know that it goes: no end after 2 s" in done.stdout


def test_a_roll_that_failed_goes_on_where_it_was_and_replaces_nothing_twice(stack: Stack) -> None:
    before = slaves(stack)
    fault(stack, operation="create", type="aws:ec2/instance:Instance", name="slave-2-instance", message="no capacity")
    status, told, err = finished(started(stack, *ROLL, "--slots", "1,2"))
    assert (status, told["result"]) == (1, "failed")
    assert "no capacity" in err
    assert "left: slave-2. The same command goes on with them." in err
    refused, _, err = finished(started(stack, *ROLL, "--slots", "3"))
    assert refused == 1
    assert "a roll of slave-1, slave-2 is unfinished, with slave-2 left" in err
    seen = len(stack.calls())
    status, told, err = finished(started(stack, *ROLL, "--slots", "1,2"))
    assert status == 0, err
    assert ("create", "slave-1-instance") not in instances(stack.calls()[seen:])
    assert slaves(stack) == before | {"slave-1": before["slave-1"] + 1, "slave-2": before["slave-2"] + 1}


def test_a_new_instance_type_is_rolled_out_host_by_host_each_drained_terminated_and_created(stack: Stack) -> None:
    seen, before = len(stack.calls()), slaves(stack)
    try:
        status, told, err = finished(
            started(stack, "ops", "--set", "slaves.instanceType=t3.large", *ROLL[1:], "--slots", "1,2")
        )
        assert status == 0, err
        assert [(turn["host"], turn["done"]) for turn in told["hosts"]] == [("slave-1", True), ("slave-2", True)]
        assert instances(stack.calls()[seen:]) == [
            (operation, f"slave-{slot}-{part}")
            for slot in (1, 2)
            for operation, part in (("delete", "drain"), ("delete", "instance"), ("create", "instance"), ("create", "drain"))
        ]
        running = stack.running()
        assert [running[f"slave-{slot}"]["InstanceType"] for slot in (1, 2, 3)] == ["t3.large", "t3.large", "t3.medium"]
    finally:
        finished(started(stack, *ROLL, "--slots", "1,2"))
    assert slaves(stack) == before | {"slave-1": before["slave-1"] + 2, "slave-2": before["slave-2"] + 2}
    # Its generations hold like those of a stack file.
    assert set(stack.up()["changes"]) == {"same"}


def test_a_roll_that_was_killed_goes_on(stack: Stack) -> None:
    before = slaves(stack)
    fault(stack, operation="create", type="aws:ec2/instance:Instance", name="slave-3-instance", delay=2.0)
    process = started(stack, *ROLL, "--slots", "3")
    assert process.stderr is not None
    for line in process.stderr:
        if "slave-3 terminated" in line:
            break
    # Everything at once, as when the terminal is gone.
    subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=DEADLINE)
    stack.up()
    status, told, err = finished(started(stack, *ROLL, "--slots", "3"))
    assert status == 0, err
    assert told["hosts"][0]["generation"] == before["slave-3"] + 1
    assert slaves(stack) == before | {"slave-3": before["slave-3"] + 1}


def test_two_people_at_once_are_told_of_each_other(stack: Stack) -> None:
    # A colleague with a checkout of their own: only the engine's lock and the state are between us.
    other = stack.run_dir / "other"
    other.mkdir()
    for file in (stack.run_dir / "local" / "work").glob("Pulumi*.yaml"):
        (other / file.name).write_text(file.read_text())
    env = {**environment(stack), "APOLLO_WORK": str(other)}
    argv = [sys.executable, "-m", "ops", "roll", "--unchecked", "--stack", "local", "--slots", "2"]

    def colleague() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)

    fault(stack, operation="update", type="aws:ec2/vpc:Vpc", delay=600.0)
    ours = stack.start("up", "--no-machines", "--json", "--set", "tags.team=web")
    until(lambda: any((stack.run_dir / "local" / "state" / ".pulumi" / "locks").rglob("*.json")), "our update holds the lock")
    theirs = colleague()
    ours.send_signal(signal.SIGINT)
    ours.communicate(timeout=DEADLINE)
    assert theirs.returncode == 1, theirs.stderr
    assert "somebody else is updating the stack" in theirs.stderr
    stack.up()
    # Later, with a stack file that does not know what we have rolled meanwhile.
    status, _, err = finished(started(stack, *ROLL, "--slots", "1"))
    assert status == 0, err
    late = colleague()
    assert late.returncode == 1
    assert "slave-1 is at generation" in late.stderr
    assert "git pull" in late.stderr


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.05)


def environment(stack: Stack) -> dict[str, str]:
    """What `./apollo ops` gives its commands."""
    from localcloud.engine.programs import pulumi
    from localcloud.engine.run import environment as found
    from localcloud.engine.workspace import Workspace

    folder = stack.run_dir / "local"
    workspace = Workspace(folder, REPOSITORY, "apollo", "local", "eu-west-1")
    return found(stack.cloud, workspace, pulumi())


def test_secrets_that_a_stack_has_are_not_made_again(stack: Stack) -> None:
    env = {**environment(stack), "APOLLO_WORK": str(stack.run_dir / "local" / "work")}

    def made(*rotate: str) -> list[str]:
        argv = [sys.executable, "-m", "ops", "secrets", "--stack", "local", "--json", *rotate]
        done = subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["made"]

    assert made() == []
    file = stack.run_dir / "local" / "work" / "Pulumi.local.yaml"
    kept = file.read_text()
    config = yaml.safe_load(kept)
    del config["config"]["apollo:secrets"]["marathonPassword"]
    try:
        file.write_text(yaml.safe_dump(config))
        assert made() == ["marathonPassword"]
        assert (
            yaml.safe_load(file.read_text())["config"]["apollo:secrets"]["gossipKey"]
            == (config["config"]["apollo:secrets"]["gossipKey"])
        )
    finally:
        file.write_text(kept)


def test_an_unknown_stack_is_named(stack: Stack) -> None:
    argv = [sys.executable, "-m", "ops", "doctor", "--stack", "nosuch"]
    env = {**environment(stack), "APOLLO_WORK": str(stack.run_dir / "local" / "work")}
    done = subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no stack nosuch in this backend; `pulumi stack ls` lists them")


def findings(stack: Stack, *sets: str) -> list[dict[str, Any]]:
    status, out, err = stack.run("ops", *sets, "doctor", "--json")
    assert out, err
    told = json.loads(out)
    assert status == (1 if told["findings"] else 0)
    assert [line.partition(":")[0] for line in told["notLookedAt"]] == ["Consul and the mesh"]
    return told["findings"]


def test_the_doctor_finds_nothing_where_all_agree(stack: Stack) -> None:
    stack.up()
    assert findings(stack) == []


def test_the_doctor_names_what_the_plan_and_the_state_do_not_share(stack: Stack) -> None:
    found = {
        (f["host"], f["found"], f["fix"])
        for f in findings(stack, "--set", "slaves.count=4", "--set", "slaves.instanceType=t3.large")
    }
    assert ("slave-4", "is planned and not deployed", "pulumi up -s local") in found
    roll = "python -m ops roll --stack local --role slave --slots 1"
    assert ("slave-1", "runs on t3.medium, planned t3.large", roll) in found


def test_the_doctor_names_a_machine_that_aws_lost_and_its_commands_bring_it_back(stack: Stack) -> None:
    ec2 = stack.client("ec2")
    reservations = ec2.describe_instances(Filters=[{"Name": "tag:apollo:host", "Values": ["slave-2"]}])["Reservations"]
    lost = [i["InstanceId"] for r in reservations for i in r["Instances"] if i["State"]["Name"] == "running"]
    ec2.terminate_instances(InstanceIds=lost)
    (finding,) = findings(stack)
    assert (finding["host"], finding["between"]) == ("slave-2", "state and AWS")
    assert finding["fix"] == "pulumi refresh -s local && pulumi up -s local"
    status, _, err = stack.run("refresh")
    assert status == 0, err
    stack.up()
    assert findings(stack) == []


def test_a_map_without_a_key_is_drawn_from_plan_and_state(stack: Stack, tmp_path: Path) -> None:
    status, out, err = stack.run("ops", "map", "--out", str(tmp_path))
    assert status == 0, err
    assert out.split() == [str(tmp_path / "apollo-local.svg"), str(tmp_path / "apollo-local.html")]
    assert "drawn from plan and state alone" in err
    assert "7 hosts, 7 deployed" in (tmp_path / "apollo-local.svg").read_text()


def test_the_consumer_reads_all_it_needs_and_goes_before_the_stack_it_builds_on(stack: Stack) -> None:
    status, out, err = stack.run("pulumi", "--program", "examples/consumer", "up", "--yes", "--skip-preview", "--json")
    assert status == 0, err + out
    ec2 = stack.client("ec2")
    (group,) = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["database-*"]}])["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    slaves_group = json.loads(stack.run("outputs", "--json")[1])["securityGroupIds"]["slaves"]
    assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [slaves_group]
    assert (rule["FromPort"], rule["IpRanges"]) == (5432, [])
    # Not taken for something that a killed run left behind.
    assert set(stack.up()["changes"]) == {"same"}
    assert ec2.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
