"""The encrypted mesh on a small stack of its own: the same promises, the keys, and what a stranger writes into the catalog."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.booted.clients import address_of, changed
from tests.booted.conftest import SOON, Stack, until
from tests.booted.test_lifecycle import Pinger
from tests.booted.test_weave import mesh_check, peers

MESH = ("--set", "overlay.mesh=wireguard", "--set", "control.count=1")
SMALL = (*MESH, "--set", "slaves.count=2")
HOSTS = ("slave-1", "slave-2", "control-1", "edge-1")


@pytest.fixture(scope="module")
def wireguard(unbooted: Callable[[], Stack]) -> Generator[Stack]:
    small = unbooted()
    try:
        small.up(*SMALL)
        yield small
    finally:
        small.down()


def assert_reachable(stack: Stack, flows: int = 1) -> None:
    results = stack.checked(flows)
    assert not [r for r in results if not r["passed"]]
    # Between two slaves both ways and to themselves, from four nodes to two containers, between four nodes, the MTU, and from
    # outside to the demo's two services, whose containers are on slaves and HAProxy on an edge.
    counts = {kind: sum(r["kind"] == kind for r in results) for kind in {r["kind"] for r in results}}
    assert counts["container → container"] == 4 and counts["node → container"] == 8 and counts["node → node"] == 12
    assert counts["8941 bytes unfragmented"] == counts["web through the edge"] == 2
    assert counts["unpublished is hidden"] == 1


def well(stack: Stack, host: str) -> bool:
    return stack.run(host, "apollo-check").returncode == 0


def test_everything_reaches_everything_encrypted_with_keys_that_never_left_their_hosts(wireguard: Stack) -> None:
    assert_reachable(wireguard, flows=50)
    keys = set[str]()
    for host in HOSTS:
        assert wireguard.out(host, "stat", "-c", "%a %U", "/var/lib/apollo/wireguard.key") == "600 root"
        private = wireguard.out(host, "cat", "/var/lib/apollo/wireguard.key")
        keys.add(private)
        # Status 1: looked everywhere, and nowhere else is it. Docker's network namespaces are no files to read.
        search = ("grep", "-rqF", "--exclude-dir=netns", private, "/etc", "/var/lib/cloud", "/run")
        assert wireguard.run(host, *search).returncode == 1
    assert len(keys) == len(HOSTS)
    # All that crosses the underlay between two slaves is WireGuard's.
    sent = wireguard.out("slave-1", "wg", "show", "wgweave", "transfer").split()
    assert len(sent) == 9 and all(int(number) > 0 for n, number in enumerate(sent) if n % 3)
    for host in HOSTS:
        until(lambda host=host: peers(wireguard, host) == ["wanted 3", "present 3"], f"{host}'s metrics say all of its peers")


def test_the_mesh_comes_back_after_a_reboot_and_after_each_of_its_parts_restarted(wireguard: Stack) -> None:
    wireguard.order("reboot", "slave-2")
    until(lambda: well(wireguard, "slave-2"), "slave-2 is well again")
    assert_reachable(wireguard)
    wireguard.out("slave-1", "systemctl", "restart", "docker")
    wireguard.out("slave-1", "systemctl", "restart", "networking")
    wireguard.out("slave-1", "systemctl", "kill", "--signal=KILL", "apollo-wireguard")
    until(lambda: well(wireguard, "slave-1"), "slave-1 is well again")
    assert_reachable(wireguard)


def test_a_slave_rebooted_without_consul_has_its_mesh_from_the_disk(wireguard: Stack) -> None:
    wireguard.out("control-1", "systemctl", "stop", "consul")
    try:
        # Half a minute is long to wait for a server, and shows no more.
        with changed(wireguard, "slave-2", "configure.py", "WAIT = 30", "WAIT = 5"):
            wireguard.order("reboot", "slave-2")
            until(lambda: wireguard.run("slave-2", "docker", "info").returncode == 0, "Docker is back on slave-2")
        # The restarted slave has forgotten its names and cannot register; its packets flow all the same.
        kinds = ("container → container", "node → container", "node → node", "8941 bytes unfragmented")
        packets = [r for r in wireguard.checked(patience=SOON) if r["kind"] in kinds]
        assert packets and not [r for r in packets if not r["passed"]]
    finally:
        wireguard.out("control-1", "systemctl", "start", "consul")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: until(lambda: well(wireguard, host), f"{host} is well again"), HOSTS))


def public_key(stack: Stack, host: str) -> str:
    return stack.out(host, "wg", "show", "wgweave", "public-key")


def peers_of(stack: Stack, host: str) -> set[str]:
    """Public keys that the device takes packets from."""
    return set(stack.out(host, "wg", "show", "wgweave", "peers").split())


def test_scaling_to_four_and_back_costs_old_containers_no_packet_and_no_host_its_key(wireguard: Stack) -> None:
    before = {host: public_key(wireguard, host) for host in HOSTS}
    # Two minutes are a long time to wait for what ten seconds show as well.
    grace = ("routed.py", "REPAIR, GRACE = 5, 120", "REPAIR, GRACE = 5, 10", "apollo-mesh-sync")
    with changed(wireguard, "slave-1", *grace):
        pinger = Pinger(wireguard, "slave-1", "demo-web", address_of(wireguard, "slave-2", "demo-web"))
        try:
            wireguard.up("--no-demo", *MESH, "--set", "slaves.count=4")
            every = before | {host: public_key(wireguard, host) for host in ("slave-3", "slave-4")}
            for host in every:
                others = set(every.values()) - {every[host]}
                until(lambda host=host, others=others: peers_of(wireguard, host) == others, f"{host} knows all others")
            results = wireguard.checked()
            assert not [r for r in results if not r["passed"]]
            assert sum(r["kind"] == "container → container" for r in results) == 16
        finally:
            wireguard.up("--no-demo", *SMALL)
            lost, sent = pinger.lost()
        assert (lost, sent > 20) == (0, True)
        assert {host: public_key(wireguard, host) for host in HOSTS} == before
        # A host that left stays a peer for that long, so that none is dropped for a moment's absence.
        others = set(before.values()) - {before["slave-1"]}
        until(lambda: peers_of(wireguard, "slave-1") == others, "slave-1 has dropped who left")
    assert_reachable(wireguard)


def test_a_slave_that_is_replaced_has_another_key_and_is_reached_by_all(wireguard: Stack) -> None:
    before = {host: public_key(wireguard, host) for host in HOSTS}
    pinger = Pinger(wireguard, "slave-1", "demo-web", "10.2.0.250")
    try:
        replaced = wireguard.up(*SMALL, "--set", "slaves.generations.2=2")
    finally:
        lost, _ = pinger.lost()
    assert {s["name"] for s in replaced["steps"] if s["op"] == "replace" and "Instance" in s["type"]} == {"slave-2-instance"}
    after = {host: public_key(wireguard, host) for host in HOSTS}
    assert {host for host in HOSTS if after[host] != before[host]} == {"slave-2"}
    for host in ("slave-1", "control-1", "edge-1"):
        # Slaves that left before may still be peers for the two minutes that a departed one is given.
        until(
            lambda host=host: {after["slave-2"], before["slave-2"]} & peers_of(wireguard, host) == {after["slave-2"]},
            f"{host} has the new key in the old one's place",
            100,
        )
    assert lost == 0
    assert_reachable(wireguard)
    # Back to what every other test here boots with: once more another machine, with once more another key.
    wireguard.up(*SMALL)
    assert public_key(wireguard, "slave-2") not in (before["slave-2"], after["slave-2"])
    assert_reachable(wireguard)


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (
            {"Node": "slave-7", "Address": "10.0.0.39", "NodeMeta": {"bridge": "10.2.0.7", "subnet": "10.2.2.0/24"}},
            "in the plan",
        ),
        (
            {"Node": "slave-8", "Address": "10.0.0.33", "NodeMeta": {"bridge": "10.2.0.8", "subnet": "10.2.8.0/24"}},
            "no address of",
        ),
        ({"Node": "slave-9", "Address": "10.0.0.41", "NodeMeta": {"bridge": "10.2.0.9;reboot", "subnet": ""}}, "in the plan"),
        ({"Node": "slave-9-a", "Address": "10.0.0.41", "NodeMeta": {"bridge": "10.2.0.2", "subnet": "10.2.2.0/24"}}, "no host"),
        (
            {"Node": "slave-11", "Address": "10.0.0.43", "NodeMeta": {"bridge": "10.2.0.11", "subnet": "10.2.11.0/24"}},
            "its mesh",
        ),
    ],
)
def test_a_strangers_entry_in_the_catalog_is_reported_and_never_applied(
    wireguard: Stack, claim: dict[str, str], reason: str
) -> None:
    def said() -> dict[str, Any]:
        return mesh_check(wireguard, "slave-2")

    def allowed() -> list[str]:
        """Who may send as whom. The kernel and wireguard-go list their peers in no order."""
        return sorted(wireguard.out("slave-2", "wg", "show", "wgweave", "allowed-ips").splitlines())

    before = allowed()
    # With the one token that may: a node's own writes that node alone.
    ask = (
        'curl -fsS -X PUT -H "X-Consul-Token: $(cat /etc/apollo/secrets/consul/management-token)" -d "$1" '
        '"http://127.0.0.1:8500/v1/catalog/$2"'
    )
    wireguard.out("control-1", "sh", "-c", ask, "sh", json.dumps(claim), "register")
    try:
        until(lambda: "warning" in said() and f"'{claim['Node']}'" in said()["detail"], "apollo-check warns")
        assert reason in said()["detail"]

        def logged() -> str:
            return wireguard.out("slave-2", "journalctl", "-b", "-u", "apollo-mesh-sync", "-o", "cat")

        # Written once it was looked at and not applied; the check looks for itself, and may do so sooner.
        until(lambda: f"'{claim['Node']}'" in logged(), "the mesh's daemon says so", why=logged)
        assert reason in logged()
        assert allowed() == before
    finally:
        wireguard.out("control-1", "sh", "-c", ask, "sh", json.dumps({"Node": claim["Node"]}), "deregister")
    until(lambda: claim["Node"] not in said()["detail"], "it is forgotten")
