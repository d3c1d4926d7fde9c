"""Every secret of a running stack made anew, by the steps of docs/operations.md, with users on the edge all the while."""

from __future__ import annotations

from tests.booted.clients import CONTROL, SLAVES, Running
from tests.booted.conftest import Stack, until

EDGE = "edge-1"
KEYS = (
    *("slaveToken", "controlToken", "edgeToken", "registrationToken", "templateToken", "managementToken", "gossipKey"),
    *("consulCa", "meshPassword", "marathonPassword", "operatorPassword", "agentPassword"),
)


def held(stack: Stack, host: str) -> dict[str, str]:
    """What a host has of its secrets, by path."""
    lines = stack.out(host, "sh", "-c", "cd /etc/apollo/secrets && md5sum $(find . -type f)").splitlines()
    return {line.split()[1]: line.split()[0] for line in lines}


def test_all_secrets_at_once_cost_no_request_and_leave_every_host_well(stack: Stack) -> None:
    before = {host: held(stack, host) for host in ("control-1", "slave-1", EDGE)}
    load = Running(stack, "web.apollo.test", 100, 3600)
    try:
        rotated = stack.up("--no-demo", *(option for key in KEYS for option in ("--rotate", key)))
        assert not [step for step in rotated["steps"] if step["op"] in ("replace", "delete")]
        # A host that boots in between has the new ones before anybody else.
        stack.order("reboot", "slave-3")
        stack.await_well("slave-3")
        for host in (*CONTROL, *SLAVES, EDGE):
            stack.out(host, "systemctl", "restart", "apollo-secrets")
        for host in CONTROL:
            stack.out(host, "systemctl", "restart", "consul")
            stack.await_well(host)
        for host in CONTROL:
            stack.out(host, "systemctl", "restart", "apollo-consul-acl")
        for host in (*SLAVES, EDGE):
            stack.out(host, "systemctl", "reload", "consul")
        stack.out(EDGE, "systemctl", "restart", "apollo-edge")
        stack.await_well(*CONTROL, *SLAVES, EDGE)
        # Three steps, by themselves a minute apart.
        asked = "CONSUL_HTTP_TOKEN=$(cat /etc/apollo/secrets/consul/management-token) consul keyring -list"

        def ring() -> list[str]:
            """The keys that all seven agents have, one step of the leader's later."""
            for host in CONTROL:
                stack.run(host, "systemctl", "restart", "apollo-consul-acl")
            lines = stack.run("control-1", "sh", "-c", asked).stdout.splitlines()
            return [line.split()[0] for line in lines if "[7/7]" in line]

        new = stack.out("control-1", "cat", "/etc/apollo/secrets/consul/gossip-key")
        until(lambda: ring() == [new], "all have the new gossip key and nobody the old one")
        stack.out("control-1", "apollo", "consul", "acl", "revoke")
        stack.await_well(*CONTROL, *SLAVES, EDGE)
    finally:
        seen = load.end()
    print(f"FIGURE rotation under load: {len(seen['failures'])} of {seen['answers']} failed")
    assert seen["failures"] == []
    for host, held_before in before.items():
        same = {path for path, digest in held(stack, host).items() if held_before.get(path) == digest}
        assert not {path for path in same if path.startswith("./consul/")}, host
    stack.assert_all_reachable()
