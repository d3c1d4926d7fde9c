"""Day two on booted hosts: rolling, retiring and losing hosts, with users on the edge all the while."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from localcloud.paths import REPOSITORY
from tests.booted.clients import Running
from tests.booted.conftest import Stack, until
from tests.localcloud.support import Local, keep_record

# Requests a second, of which the demo's web servers, a process for each request, are promised to keep up 200.
RATE, LONGEST = 220, 3600
DEADLINE = 1500


@contextmanager
def users(stack: Stack) -> Generator[None]:
    """Users of `web` at a steady rate; not one may be failed."""
    until(lambda: len({stack.curl("web.apollo.test") for _ in range(6)}) == 2, "two instances of web answer")
    load = Running(stack, "web.apollo.test", RATE, LONGEST)
    try:
        yield
    finally:
        seen = load.end()
    print(f"FIGURE {seen['answers']} requests at {seen['rate']:.0f}/s, {len(seen['failures'])} failed: {seen['names']}")
    assert seen["failures"] == []
    assert seen["rate"] >= 200


def roll(stack: Stack, *slots: str) -> subprocess.Popen[str]:
    return Local(stack.run_dir).start("ops", "roll", "--json", *(("--slots", ",".join(slots)) if slots else ()))


def doctor(stack: Stack, *sets: str) -> dict[str, dict[str, Any]]:
    """What the doctor found, by host; and what it could not look at, such as a host that was too busy to answer in time."""
    done = stack.cli("ops", *sets, "doctor", "--json")
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["findings"] else 0)
    return {finding["host"]: finding for finding in told["findings"]} | {line: {"fix": ""} for line in told["notLookedAt"]}


def all_agree(stack: Stack, *sets: str) -> None:
    """Waits until the doctor finds nothing: what a host saw of another one that just came or went is soon past."""
    found = dict[str, dict[str, Any]]()

    def nothing() -> bool:
        found.clear()
        found.update(doctor(stack, *sets))
        return not found

    until(nothing, "the doctor finds nothing", why=lambda: str(found))


def test_a_roll_of_all_slaves_loses_no_request_and_goes_on_after_ctrl_c(stack: Stack) -> None:
    with users(stack):
        process = roll(stack)
        assert process.stderr and process.stdout
        for line in process.stderr:
            if "slave-1 drained" in line:
                process.send_signal(signal.SIGINT)
                break
        err, out = process.stderr.read(), process.stdout.read()
        assert process.wait(DEADLINE) == 130, err
        told = json.loads(out)
        assert (told["result"], [turn["done"] for turn in told["hosts"]]) == ("stopped", [True, False, False])
        assert "left: slave-2, slave-3. The same command goes on with them." in err
        out, err = roll(stack).communicate(timeout=DEADLINE)
        told = json.loads(out)
        assert told["result"] == "done", err
        assert [turn["host"] for turn in told["hosts"]] == ["slave-1", "slave-2", "slave-3"]
    print("FIGURE seconds for each slave: " + ", ".join(f"{turn['seconds']:.0f}" for turn in told["hosts"]))
    all_agree(stack)
    assert set(stack.up()["changes"]) == {"same"}


def test_retiring_a_slave_under_load_drains_it_and_another_slot_takes_over(stack: Stack) -> None:
    retired = ("--set", "slaves.retired=[2]")
    try:
        with users(stack):
            result = stack.up(*retired)
            changed = {(step["op"], step["name"]) for step in result["steps"] if step["op"] != "same"}
            assert {name for op, name in changed if op == "delete"} == {
                "slave-2", "slave-2-instance", "slave-2-data", "slave-2-ready", "slave-2-drain",
            }  # fmt: skip
            assert {name.rpartition("-")[0] for op, name in changed if op == "create"} == {"slave", "slave-4"}
            until(lambda: len({stack.curl("web.apollo.test") for _ in range(6)}) == 2, "another slave serves web")
        all_agree(stack, *retired)
        stack.assert_all_reachable()
    finally:
        # The demo's containers went to the first two of the slaves there were.
        stack.run("slave-3", "docker", "rm", "-f", "demo-web")
        # Out of use for ever, else.
        keep_record(stack.run_dir, {})
        stack.up()
    all_agree(stack)


def pasted(stack: Stack, page: str) -> list[str]:
    """What the blocks of a page print that are said to be run here, pasted into one shell. The port is this stack's own."""
    text = (REPOSITORY / page).read_text()
    blocks = re.findall(r"<!-- run by tests/booted/test_living.py -->\n```bash\n(.*?)```", text, re.DOTALL)
    script = "".join(blocks).replace(":8080/", f":{stack.edge_port}/")
    env = {**os.environ, "APOLLO_RUN_DIR": str(stack.run_dir)}
    done = subprocess.run(["bash", "-ec", script], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_readmes_lines_bring_a_newcomers_container_behind_the_edge(stack: Stack) -> None:
    said = pasted(stack, "README.md")
    assert len([line for line in said if line.startswith("hello on a slave, container address 10.2.3.")]) == 3, said


def test_the_quickstarts_service_has_a_name_and_a_host_name_and_outlives_one_of_its_containers(stack: Stack) -> None:
    # Its last line asks once.
    all_agree(stack)
    said = pasted(stack, "docs/quickstart.md")
    answers = [line.partition(",")[0] for line in said if line.startswith("shop on ")]
    assert len(answers) == 4 and set(answers) <= {"shop on slave-1", "shop on slave-3"}, said
    assert answers[-1] == "shop on slave-3", "the one that was stopped gets no request"
    assert said[-1].endswith("all agree"), said


def test_a_drained_host_is_named_by_the_doctor_and_works_again_after_its_undo(stack: Stack) -> None:
    drain = ("ops", "drain", "--host", "slave-2", "--seconds", "300")
    done = stack.cli(*drain)
    assert done.returncode == 0, done.stderr
    assert "left Consul" in done.stdout
    try:
        assert {stack.curl("web.apollo.test").split(",")[0] for _ in range(6)} == {"web on slave-1"}
        assert doctor(stack)["slave-2"]["fix"] == "python -m ops drain --stack local --host slave-2 --undo"
    finally:
        undone = stack.cli(*drain, "--undo")
    assert undone.returncode == 0, undone.stderr
    all_agree(stack)
    until(lambda: len({stack.curl("web.apollo.test") for _ in range(6)}) == 2, "both instances of web answer")


def test_a_machine_that_aws_lost_comes_back_and_one_that_died_is_named_and_brought_back_by_its_command(stack: Stack) -> None:
    cloud = stack.cloud
    ec2 = cloud.api().client("ec2")
    (lost,) = [row.instanceId for row in stack.fleet.rows if row.name == "slave-3"]
    ec2.terminate_instances(InstanceIds=[lost])
    assert doctor(stack)["slave-3"]["fix"] == "pulumi refresh -s local && pulumi up -s local"
    refreshed = stack.cli("refresh", timeout=300)
    assert refreshed.returncode == 0, refreshed.stderr
    stack.up()
    # The old machine's drain left the new one alone.
    stack.await_well("slave-3")
    stack.order("kill", "slave-3")
    found: dict[str, dict[str, Any]] = {}

    def alone() -> bool:
        found.clear()
        found.update(doctor(stack))
        return set(found) == {"slave-3"}

    # What has just come back may still be on its way into the others' tables.
    until(alone, "the doctor finds nothing but slave-3")
    assert found["slave-3"]["fix"] == "python -m ops roll --stack local --role slave --slots 3"
    out, err = roll(stack, "3").communicate(timeout=DEADLINE)
    assert json.loads(out)["result"] == "done", err
    all_agree(stack)
    stack.assert_all_reachable()


def test_containers_reach_the_consumers_database_by_its_name_and_nobody_else_does(stack: Stack) -> None:
    consumer = ("pulumi", "--program", "examples/consumer")
    done = stack.cli(*consumer, "up", "--yes", "--skip-preview", timeout=DEADLINE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    try:
        ask = "printf 'SET place here\nGET place\n' | timeout 5 nc database.service.consul 5432"
        until(
            lambda: stack.run("slave-1", "docker", "exec", "demo-web", "sh", "-c", ask).stdout.split() == ["here", "here"],
            "a container reads what it wrote",
        )
        other = "exec 3<>/dev/tcp/database.service.consul/5432"
        assert stack.run("control-1", "timeout", "3", "bash", "-c", other).returncode != 0
        all_agree(stack)
    finally:
        gone = stack.cli(*consumer, "destroy", "--yes", "--skip-preview", timeout=DEADLINE)
    assert gone.returncode == 0, gone.stdout[-3000:] + gone.stderr[-3000:]
    gone_too = ("getent", "hosts", "database.service.consul")
    until(lambda: stack.run("slave-1", *gone_too).returncode != 0, "the name goes with it")
