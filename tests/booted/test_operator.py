"""What an operator sees of a stack that is not well, and of disks that were made larger.

On a small stack of its own, as a disk never shrinks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from localcloud import cloud as clouds
from tests.booted.clients import check_of
from tests.booted.conftest import Stack, until

LARGER = ("--set", "slaves.dataGib=6", "--set", "control.dataGib=5")
SMALL = ("--no-demo", "--set", "slaves.count=1", "--set", "control.count=1")
GIB = 1 << 30
# Linux's number of CAP_SYS_RESOURCE, without which no mounted ext4 grows.
RESOURCE = 24


@pytest.fixture(scope="module")
def small(unbooted: Callable[[], Stack]) -> Generator[Stack]:
    made = unbooted()
    try:
        made.up(*SMALL)
        yield made
    finally:
        made.down()


def doctor(stack: Stack, *sets: str) -> tuple[list[dict[str, Any]], list[str]]:
    """(findings, what was not looked at)"""
    done = stack.cli("ops", *SMALL[1:], *sets, "doctor", "--json")
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["findings"] else 0)
    return told["findings"], told["notLookedAt"]


def all_agree(stack: Stack, *sets: str) -> None:
    """Waits until the doctor has looked at all and finds nothing."""
    until(lambda: doctor(stack, *sets) == ([], []), "all is well", why=lambda: str(doctor(stack, *sets)))


def test_a_disk_that_fills_up_is_named_with_the_number_while_there_is_room(small: Stack) -> None:
    assert check_of(small, "slave-1", "disks")["ok"]
    all_agree(small)
    free, size = map(int, small.out("slave-1", "df", "--output=avail,size", "-B1", "/data").splitlines()[1].split())
    try:
        for share, ok, warning in ((0.10, True, True), (0.03, False, None)):
            small.out("slave-1", "fallocate", "-l", str(int(free - share * size)), "/data/filler")
            said = check_of(small, "slave-1", "disks")
            assert (said["ok"], said.get("warning")) == (ok, warning), said
            assert f"/data has {share * size / GIB:.1f} of" in said["detail"]
            found = list[Any]()

            def alone(found: list[Any] = found) -> bool:
                found[:] = doctor(small)
                return ([finding["host"] for finding in found[0]], found[1]) == (["slave-1"], [])

            until(alone, "the doctor names the slave and nothing else", why=lambda found=found: str(found))
            (finding,) = found[0]
            assert f"/data has {share * size / GIB:.1f} of" in finding["found"]
            assert finding["fix"].endswith("sudo du -xhd2 / /data")
    finally:
        small.out("slave-1", "rm", "-f", "/data/filler")
    all_agree(small)


def test_inodes_that_run_out_are_named_too(small: Stack) -> None:
    left = int(small.out("slave-1", "df", "--output=iavail", "/data").splitlines()[1])
    make = f"mkdir /data/many && cd /data/many && seq {left * 97 // 100} | xargs touch"
    try:
        small.out("slave-1", "sh", "-c", make)
        said = check_of(small, "slave-1", "disks")
        assert not said["ok"] and "inodes free, 3 %" in said["detail"]
    finally:
        small.out("slave-1", "rm", "-rf", "/data/many")


def size_of_data(stack: Stack, host: str) -> int:
    """Of /data, in bytes; 0 while the host does not tell."""
    done = stack.run(host, "sh", "-c", "mountpoint -q /data && df --output=size -B1 /data")
    return int(done.stdout.split()[-1]) if done.returncode == 0 else 0


def test_a_larger_disk_is_a_larger_file_system_while_it_is_in_use_and_after_a_boot(small: Stack) -> None:
    """df counts a file system without its inodes: some percent less than its disk."""
    before = {host: size_of_data(small, host) for host in ("slave-1", "control-1")}
    assert all(size < 4 * GIB for size in before.values())
    small.out("slave-1", "sh", "-c", "echo kept > /data/kept")
    grown = small.up(*SMALL, *LARGER)
    assert {step["name"] for step in grown["steps"] if step["op"] != "same"} == {
        "slave-1-data",
        "control-1-data",
        "settings",
    }
    status = dict(line.split(":", 1) for line in small.out("slave-1", "cat", "/proc/self/status").splitlines())
    if int(status["CapBnd"], 16) >> RESOURCE & 1:
        until(lambda: size_of_data(small, "slave-1") > 5.5 * GIB, "the slave's file system has grown")
        until(lambda: size_of_data(small, "control-1") > 4.5 * GIB, "the control node's file system has grown")
    else:
        # The containers of this machine may not, as AWS's machines may: that is said, and a boot does it.
        until(lambda: "/data did not grow with its disk" in check_of(small, "slave-1", "disks")["detail"], "the slave says so")
        for host in ("slave-1", "control-1"):
            small.order("reboot", host)
        until(lambda: size_of_data(small, "slave-1") > 5.5 * GIB, "the slave's file system has grown")
        until(lambda: size_of_data(small, "control-1") > 4.5 * GIB, "the control node's file system has grown")
    assert small.out("slave-1", "cat", "/data/kept") == "kept"
    all_agree(small, *LARGER)


def test_a_host_too_busy_to_answer_is_called_slow_and_not_to_be_rolled(small: Stack) -> None:
    # Its kernel goes on taking connections, as that of a host whose cores are all busy.
    small.out("slave-1", "systemctl", "kill", "--kill-who=main", "-s", "STOP", "ssh")
    try:
        findings, unseen = doctor(small, *LARGER)
    finally:
        small.out("slave-1", "systemctl", "kill", "--kill-who=main", "-s", "CONT", "ssh")
    assert findings == []
    (line,) = unseen
    assert line.startswith("slave-1: answers at its SSH port, but no login within")
    assert "ask again: python -m ops doctor --stack local" in line
    all_agree(small, *LARGER)


def test_from_a_machine_outside_the_allowed_networks_everything_says_so_at_once(small: Stack) -> None:
    cloud = clouds.find(small.run_dir / "local")
    assert cloud is not None
    ec2 = cloud.api().client("ec2")
    rules = ec2.describe_security_group_rules()["SecurityGroupRules"]
    (ssh,) = [r for r in rules if not r["IsEgress"] and r.get("FromPort") == 22 and r.get("CidrIpv4")]
    ec2.revoke_security_group_ingress(GroupId=ssh["GroupId"], SecurityGroupRuleIds=[ssh["SecurityGroupRuleId"]])
    reason = "it is up, as its port 80 answers, so admin.allowedCidrs does not have the address"
    settings = (*SMALL, *LARGER, "--set", "slaves.generations.1=2")
    try:
        findings, _ = doctor(small, *LARGER)
        (found,) = [f for f in findings if f["between"] != "state and AWS"]
        assert (found["host"], found["between"]) == ("edge-1", "this machine and the edge")
        assert reason in found["found"]
        drain = small.cli("ops", *SMALL[1:], *LARGER, "drain", "--host", "slave-1")
        assert drain.returncode == 1
        assert reason in drain.stdout
        roll = small.cli("ops", *SMALL[1:], *LARGER, "roll")
        assert roll.returncode == 1
        assert "no host can be reached, so nothing was touched" in roll.stderr and reason in roll.stderr
        begun = time.monotonic()
        failed = small.cli("up", "--edge-port", str(small.edge_port), *settings, timeout=1500)
        assert failed.returncode != 0
        assert reason in failed.stdout + failed.stderr
        assert time.monotonic() - begun < 600, "of the 1,200 s for readiness"
    finally:
        assert small.cli("refresh", timeout=300).returncode == 0
        small.up(*settings)
    all_agree(small, *LARGER, "--set", "slaves.generations.1=2")
