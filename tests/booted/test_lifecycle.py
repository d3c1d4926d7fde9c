"""Changes of the running stack: hosts come, go and are replaced, and those that stay notice nothing."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

from tests.booted.clients import address_of, pid_of
from tests.booted.conftest import SOON, Stack, until


class Pinger:
    """Pings from a container to an address, five times a second, until stopped; then tells what was lost on the way.

    What is still under way at the end is not lost: on a busy machine an answer takes as long as the next ping.
    """

    def __init__(self, stack: Stack, host: str, container: str, target: str) -> None:
        self._stack, self._host = stack, host
        script = f"exec nsenter -t {pid_of(stack, host, container)} -n ping -n -i 0.2 -W 1 {target} > /tmp/ping-{target}"
        self._file = f"/tmp/ping-{target}"
        self._thread = threading.Thread(target=lambda: stack.run(host, "sh", "-c", script, timeout=900))
        self._thread.start()
        self._target = target
        until(lambda: bool(self._answered()), f"{target} answers {host}")

    def _answered(self) -> set[int]:
        """The numbers of the pings that were answered."""
        return set(map(int, re.findall(r"bytes from .* icmp_seq=(\d+)", self._stack.run(self._host, "cat", self._file).stdout)))

    def lost(self) -> tuple[int, int]:
        """(packets lost, packets sent), up to the last that was answered, which one of those from now on must be."""
        before = max(self._answered())
        until(lambda: max(self._answered()) > before + 5, f"{self._target} still answers {self._host}")
        self._stack.out(self._host, "pkill", "-INT", "-f", f"ping -n -i 0.2 -W 1 {self._target}")
        self._thread.join()
        answered = self._answered()
        return max(answered) - len(answered), max(answered)


def test_a_slave_more_and_one_replaced_and_all_back_again_cost_old_containers_no_packet(stack: Stack) -> None:
    before = {row.name: row for row in stack.fleet.rows}
    new = {"slave-4", "slave-4-instance", "slave-4-data", "slave-4-ready", "slave-4-drain"}
    stack.out("slave-2", "sh", "-c", "echo kept > /data/kept; sync")
    generation = stack.exports["slaves"]["slave-2"]["generation"] + 1
    pinger = Pinger(stack, "slave-1", "demo-web", address_of(stack, "slave-3", "demo-api"))
    try:
        changed = stack.up("--set", "slaves.count=4", "--set", f"slaves.generations.2={generation}")
        assert {step["name"] for step in changed["steps"] if step["op"] == "create"} == new
        replaced = {step["name"]: step["type"] for step in changed["steps"] if step["op"] in ("replace", "delete")}
        assert {name for name, type in replaced.items() if "Instance" in type} == {"slave-2-instance"}
        assert not [name for name in replaced if not name.startswith("slave-2-")]
        after = {row.name: row for row in stack.fleet.rows}
        assert after.pop("slave-4").slot == 4
        # All else of it is as it was.
        replaced_by = after.pop("slave-2")
        assert replaced_by.instanceId != before["slave-2"].instanceId
        assert replace(replaced_by, instanceId=before["slave-2"].instanceId) == before.pop("slave-2")
        assert after == before
        assert stack.out("slave-2", "cat", "/data/kept") == "kept"
        web = address_of(stack, "slave-1", "demo-web")
        until(lambda: stack.run("slave-4", "curl", "-sf", "-m", "2", f"http://{web}/").returncode == 0, "slave-4 reaches web")
        stack.assert_all_reachable()
    finally:
        shrunk = stack.up()
        lost, sent = pinger.lost()
    assert {step["name"] for step in shrunk["steps"] if step["op"] == "delete"} == new
    assert (lost, sent > 20) == (0, True)
    assert stack.out("slave-2", "cat", "/data/kept") == "kept"
    stack.assert_all_reachable()


def test_removing_a_needed_rule_breaks_exactly_its_flow(stack: Stack) -> None:
    cloud = stack.cloud
    ec2 = cloud.api().client("ec2")
    rules = ec2.describe_security_group_rules()["SecurityGroupRules"]
    (web,) = [r for r in rules if not r["IsEgress"] and r.get("FromPort") == 80 and r.get("CidrIpv4") == "0.0.0.0/0"]
    ec2.revoke_security_group_ingress(GroupId=web["GroupId"], SecurityGroupRuleIds=[web["SecurityGroupRuleId"]])
    try:
        failed = {(r["kind"], r["target"]) for r in stack.checked(patience=SOON) if not r["passed"]}
        assert failed == {
            ("web through the edge", "web.apollo.test"),
            ("web through the edge", "api.apollo.test"),
            ("unpublished is hidden", "nothing.apollo.test"),
        }
    finally:
        refreshed = stack.cli("refresh", timeout=300)
        stack.up("--no-demo")
    assert refreshed.returncode == 0, refreshed.stderr
    stack.assert_all_reachable()


def test_a_first_boot_with_a_wrong_object_says_so_and_the_next_boot_tries_again(stack: Stack) -> None:
    cloud, host = stack.cloud, "slave-2"
    s3 = cloud.api(cloud.region).client("s3")
    here = {
        "Bucket": stack.out(host, "cat", "/etc/apollo/secrets/bucket"),
        "Key": stack.out(host, "cat", "/etc/apollo/programs"),
    }
    right = s3.get_object(**here)["Body"].read()
    program, done = "/usr/local/lib/apollo/host/apollo/check.py", "/var/lib/cloud/instance/apollo-first-boot"
    # As a host is before it was through once.
    stack.out(host, "rm", program, done)
    s3.put_object(**here, Body=right[:-8] + b"one byte")
    try:
        stack.cli("reboot", host)
        said = f"{here['Key']} of the stack's bucket is not what its name says"
        until(lambda: said in stack.run(host, "tail", "-20", "/var/log/cloud-init-output.log").stdout, "the boot says so")
        assert stack.run(host, "ls", program, done).returncode
    finally:
        s3.put_object(**here, Body=right)
        stack.cli("reboot", host)
    until(lambda: stack.run(host, "ls", program, done).returncode == 0, "it was through")
    stack.await_well(host)


def test_up_again_changes_nothing(stack: Stack) -> None:
    again = stack.up()
    assert set(again["changes"]) == {"same"}
