"""The routed meshes' table: whose claims count, and what the kernel is told."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.apollo import addresses, network
from host.apollo.mesh import routed, vxlan, wireguard
from host.render import node_facts
from localcloud.paths import cache_dir
from plan.cluster import Cluster
from tests.host.support import STACK, environment, left_out
from tests.host.test_verbs import Clock, Over
from tests.plan.support import cluster

LINKS = {"vxlan": vxlan.LINK, "wireguard": wireguard.LINK}
PLANS = {
    name: cluster(overlay={"mesh": name}, slaves={"count": 12}, control={"count": 5}, edge={"count": 10}) for name in LINKS
}
PLAN = PLANS["vxlan"]
FACTS = node_facts(PLAN, PLAN.slaves[0], STACK)
KEYED_FACTS = node_facts(PLANS["wireguard"], PLANS["wireguard"].slaves[0], STACK)


def key_of(name: str) -> str:
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()


def entry(name: str, address: str, bridge: str, subnet: str, **meta: Any) -> dict[str, Any]:
    """A node as Consul's catalog has it."""
    return {"Node": name, "Address": address, "Meta": {"bridge": bridge, "subnet": subnet, "mesh": "vxlan", **meta}}


def entries_of(plan: Cluster) -> list[dict[str, Any]]:
    return [
        entry(
            host.name, str(host.private_ip), str(host.bridge_address.ip), str(host.docker_subnet or ""),
            mesh=plan.mesh.name, key=key_of(host.name),
        )
        for host in plan.hosts
    ]  # fmt: skip


def keyed(name: str, **meta: Any) -> dict[str, Any]:
    """A planned host's entry in a mesh with keys, with some of its metadata another."""
    (found,) = [one for one in entries_of(PLANS["wireguard"]) if one["Node"] == name]
    return {**found, "Meta": {**found["Meta"], **meta}}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routed, "TABLE", tmp_path / "mesh.json")
    monkeypatch.setattr(routed, "PUBLIC_KEY", tmp_path / "mesh.pub")
    routed.PUBLIC_KEY.write_text(f"{key_of('slave-1')}\n")


SLAVE_2 = entry("slave-2", "10.0.32.34", "10.2.0.2", "10.2.2.0/24")


@pytest.mark.parametrize(("name", "facts"), [("vxlan", FACTS), ("wireguard", KEYED_FACTS)])
def test_every_planned_host_but_oneself_is_accepted_as_a_peer(name: str, facts: dict[str, str]) -> None:
    peers, ignored = routed.accepted(facts, entries_of(PLANS[name]), LINKS[name].keyed)
    assert sorted(peers) == sorted(h.name for h in PLAN.hosts if h.name != "slave-1")
    assert ignored == []


@pytest.mark.parametrize("name", ["slave-240", "control-6", "edge-11", "slave-0", "slave-01", "other-1", "slave-1 "])
def test_a_name_without_a_place_in_the_plan_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no host of the plan"):
        addresses.planned(FACTS, name)


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (entry("slave-2", "10.0.32.34", "10.2.0.3", "10.2.2.0/24"), "in the plan"),
        (entry("slave-2", "10.0.32.34", "10.2.0.2", "10.2.3.0/24"), "in the plan"),
        (entry("slave-2", "10.0.32.34", "10.2.0.2", "0.0.0.0/0"), "in the plan"),
        (entry("slave-2", "10.0.32.34", "10.2.0.2", ""), "in the plan"),
        (entry("control-1", "10.0.0.11", "10.2.0.250", "10.2.1.0/24"), "in the plan"),
        (entry("slave-2", "192.0.2.1", "10.2.0.2", "10.2.2.0/24"), "is no host's address"),
        (entry("slave-2", "10.0.0.35", "10.2.0.2", "10.2.2.0/24"), "is no address of slave-2"),
        (
            entry("slave-2", "10.0.32.34", "10.2.0.2", "10.2.2.0/24", mesh="wireguard"),
            "its mesh is wireguard, here it is vxlan",
        ),
        (entry("slave-2", "10.0.32.34", "10.2.0.2", "10.3.0.0/24"), "in the plan"),
        (entry("slave-2", "10.0.32.34; reboot", "10.2.0.2", "10.2.2.0/24"), "slave-2"),
        (entry("slave-2", "10.0.32.34\nroute del default", "10.2.0.2", "10.2.2.0/24"), "slave-2"),
        (entry("slave-2", "10.0.32.34/8", "10.2.0.2", "10.2.2.0/24"), "slave-2"),
        (entry("slave-999", "10.0.32.34", "10.2.0.2", "10.2.2.0/24"), "is no host of the plan"),
        (entry("$(id)", "10.0.32.34", "10.2.0.2", "10.2.2.0/24"), "is no host of the plan"),
        (entry(7, "10.0.32.34", "10.2.0.2", "10.2.2.0/24"), "ignored"),  # type: ignore[arg-type]
        ({"Node": "slave-2", "Address": "10.0.32.34", "Meta": {"bridge": ["10.2.0.2"]}}, "in the plan"),
        ({"Node": "slave-2"}, "ignored"),
        ("slave-2", "ignored"),
        (None, "ignored"),
    ],
)
def test_a_false_claim_is_ignored_and_reported(claim: Any, reason: str) -> None:
    peers, (ignored,) = routed.accepted(FACTS, [claim, entry("slave-3", "10.0.0.35", "10.2.0.3", "10.2.3.0/24")])
    assert peers.keys() == {"slave-3"}
    assert reason in ignored


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (keyed("slave-2", key=""), "has no public key"),
        (keyed("slave-2", key=None), "ignored"),
        (keyed("slave-2", key="A" * 44), "has no public key"),
        (keyed("slave-2", key="A" * 42 + "B="), "has no public key"),
        (keyed("slave-2", key=key_of("slave-2") + " allowed-ips 0.0.0.0/0"), "has no public key"),
        (keyed("slave-2", key=key_of("slave-2") + "\n"), "has no public key"),
        (keyed("slave-2", key=key_of("slave-1")), "has another host's public key"),
        (keyed("slave-2", mesh="vxlan"), "its mesh is vxlan, here it is wireguard"),
    ],
)
def test_a_false_key_is_ignored_and_reported(claim: Any, reason: str) -> None:
    peers, (ignored,) = routed.accepted(KEYED_FACTS, [keyed("slave-3"), claim], True)
    assert peers.keys() == {"slave-3"}
    assert reason in ignored


@pytest.mark.parametrize("thief", ["slave-2", "slave-4"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_key_stays_with_the_host_that_had_it_whoever_else_publishes_it(thief: str, backwards: bool) -> None:
    """slave-2 stands before slave-3 in the catalog, slave-4 after it; and the other way round."""
    before = routed.accepted(KEYED_FACTS, [keyed(name) for name in ("slave-2", "slave-3", "slave-4")], True)[0]
    entries = sorted([keyed("slave-3"), keyed(thief, key=key_of("slave-3"))], key=lambda e: e["Node"], reverse=backwards)
    peers, (ignored,) = routed.accepted(KEYED_FACTS, entries, True, before)
    assert peers == {"slave-3": before["slave-3"]}
    assert thief in ignored and "has another host's public key" in ignored
    # Also while its owner is away from the catalog, for as long as the table keeps it.
    peers, (ignored,) = routed.accepted(KEYED_FACTS, [keyed(thief, key=key_of("slave-3"))], True, before)
    assert peers == {} and thief in ignored


@pytest.mark.parametrize("backwards", [False, True])
def test_of_two_hosts_with_one_new_key_neither_is_believed(backwards: bool) -> None:
    key = key_of("the next slave-3")
    entries = sorted([keyed("slave-2", key=key), keyed("slave-3", key=key)], key=lambda e: e["Node"], reverse=backwards)
    peers, ignored = routed.accepted(KEYED_FACTS, [*entries, keyed("slave-4")], True)
    assert peers.keys() == {"slave-4"}
    assert len(ignored) == 2 and all("has another host's public key" in line for line in ignored)
    # A host that was replaced, and has a key of its own again, is itself.
    before = routed.accepted(KEYED_FACTS, [keyed("slave-2"), keyed("slave-3")], True)[0]
    peers, ignored = routed.accepted(KEYED_FACTS, [keyed("slave-2"), keyed("slave-3", key=key)], True, before)
    assert (peers["slave-3"].key, ignored) == (key, [])


class Standing(routed.Link):
    """A link whose kernel has all that it should."""

    device = "standing"

    def wanted(self, peers: Sequence[routed.Peer]) -> Mapping[str, dict[str, str]]:
        del peers
        return {"routes": {}}

    def present(self) -> Mapping[str, dict[str, str]]:
        return {"routes": {}}


@dataclass
class Neighbourhood:
    """What the check sees: the catalog (None: Consul is away) and who does not answer. asked: whom it asked."""

    catalog: list[Any] | None
    silent: set[str] = field(default_factory=set[str])
    asked: list[str] = field(default_factory=list[str])

    def ping(self, address: str) -> list[str]:
        self.asked.append(address)
        return ["false" if address in self.silent else "true"]

    def ask(self, _: Mapping[str, str]) -> tuple[Any, str]:
        if self.catalog is None:
            raise routed.local.ConsulError("no answer")
        return self.catalog, "1"


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Neighbourhood:
    around = Neighbourhood([entry("slave-1", "10.0.0.33", "10.2.0.1", "10.2.1.0/24")])
    monkeypatch.setattr(routed.network, "mtu", lambda _: int(FACTS["BRIDGE_MTU"]))
    monkeypatch.setattr(routed, "catalog", around.ask)
    monkeypatch.setattr(routed.network, "ping", around.ping)
    return around


def of_another_mesh(name: str) -> Any:
    (found,) = [one for one in entries_of(PLAN) if one["Node"] == name]
    return {**found, "Meta": {**found["Meta"], "mesh": "wireguard"}}


@pytest.mark.usefixtures("around")
def test_a_host_that_is_alone_is_well() -> None:
    assert routed.check(Standing(), FACTS) == ("no other host in the catalog", [])


def test_the_first_host_of_a_new_mesh_is_well_with_a_warning(around: Neighbourhood) -> None:
    around.catalog = [of_another_mesh(name) for name in ("control-1", "slave-2")]
    stands, (warning,) = routed.check(Standing(), FACTS)
    assert stands == "no peers"
    assert warning.startswith("2 hosts of another mesh, such as: ") and "its mesh is wireguard, here it is vxlan" in warning


def test_a_host_whose_neighbours_are_all_false_or_not_in_its_table_is_cut_off(around: Neighbourhood) -> None:
    around.catalog = [of_another_mesh("slave-3"), entry("slave-2", "10.0.32.34", "10.2.0.3", "10.2.2.0/24")]
    with pytest.raises(ValueError, match=r"no peers: 2 of the catalog's entries ignored, such as: .*in the plan"):
        routed.check(Standing(), FACTS)
    around.catalog = [SLAVE_2, of_another_mesh("slave-3")]
    with pytest.raises(ValueError, match="none of the catalog's 1 peers is on disk"):
        routed.check(Standing(), FACTS)
    around.catalog = None
    with pytest.raises(routed.local.ConsulError):
        routed.check(Standing(), FACTS)


def test_packets_are_sent_to_a_few_peers_of_which_one_must_answer(around: Neighbourhood) -> None:
    around.catalog = entries_of(PLAN)
    peers = routed.accepted(FACTS, around.catalog)[0]
    routed.save(FACTS, peers)
    assert routed.check(Standing(), FACTS) == ("26 peers, 7 of 7 asked answer", [])
    assert len(set(around.asked)) == 7
    # Consul's absence takes nothing away.
    around.catalog = None
    around.silent = set(around.asked[1:])
    stands, (warning,) = routed.check(Standing(), FACTS)
    assert stands == "26 peers, 1 of 7 asked answer" and warning.startswith("no answer from ")
    around.silent = set(around.asked)
    with pytest.raises(ValueError, match=r"no packet crosses standing: no answer from .*slave-10 \(10.2.0.10\)"):
        routed.check(Standing(), FACTS)
    # Of two hosts the other may be the one that is away.
    routed.save(FACTS, {"slave-2": peers["slave-2"]})
    around.silent = {"10.2.0.2"}
    assert routed.check(Standing(), FACTS) == ("1 peers, 0 of 1 asked answer", ["no answer from slave-2 (10.2.0.2)"])


@given(count=st.integers(0, 300), own=st.integers(0, 300))
def test_whom_a_host_asks_is_spread_over_all_and_never_more_than_a_few(count: int, own: int) -> None:
    names = [f"slave-{number}" for number in range(count)]
    asked = routed.network.some_of(names, f"slave-{own}")
    assert len(set(asked)) == len(asked) <= routed.network.ASKED
    assert len(asked) == count or len(asked) > routed.network.ASKED / 2


def test_a_node_that_claims_no_bridge_is_nobodys_fault() -> None:
    fresh = {"Node": "slave-3", "Address": "10.0.0.35", "Meta": {"consul-version": "1.19.2"}}
    peers, ignored = routed.accepted(FACTS, [fresh, {**fresh, "Meta": None}, SLAVE_2])
    assert peers.keys() == {"slave-2"} and ignored == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda c: (
            st.lists(c, max_size=3)
            | st.dictionaries(st.sampled_from(["Node", "Address", "Meta", "bridge", "subnet"]), c, max_size=5)
        ),
        max_leaves=8,
    )
)
def test_no_catalog_entry_whatever_it_is_gets_in_or_breaks_the_table(claim: Any) -> None:
    assert routed.accepted(FACTS, [claim, SLAVE_2])[0].keys() == {"slave-2"}


@pytest.mark.parametrize(("name", "facts"), [("vxlan", FACTS), ("wireguard", KEYED_FACTS)])
def test_a_table_on_disk_is_judged_like_the_catalog(name: str, facts: dict[str, str]) -> None:
    keyed = LINKS[name].keyed
    peers, _ = routed.accepted(facts, entries_of(PLANS[name])[1:3], keyed)
    assert len(peers) == 2
    routed.save(facts, peers)
    assert routed.load(facts, keyed) == peers
    table = json.loads(routed.TABLE.read_text())
    routed.TABLE.write_text(json.dumps([*table, entry("slave-4", "8.8.8.8", "10.2.0.4", "10.2.4.0/24", mesh=name)]))
    assert routed.load(facts, keyed) == peers
    for damaged in ("", "{", "7", '{"a": 1}', "[1, 2]"):
        routed.TABLE.write_text(damaged)
        assert routed.load(facts, keyed) == {}


def test_only_what_differs_is_told_to_the_kernel() -> None:
    two = routed.accepted(FACTS, [SLAVE_2])[0]
    three = routed.accepted(FACTS, [entry("slave-3", "10.0.0.35", "10.2.0.3", "10.2.3.0/24")])[0]
    then = vxlan.LINK.wanted([*two.values()])
    assert vxlan.LINK.commands(then, then, "10.2.0.1") == []
    bridge, ip = (
        lines.splitlines() for _, lines in vxlan.LINK.commands(vxlan.LINK.wanted([*three.values()]), then, "10.2.0.1")
    )
    assert bridge == [
        "fdb del 02:78:0a:02:00:03 dev vxweave dst 10.0.0.35",
        "fdb replace 02:78:0a:02:00:02 dev vxweave dst 10.0.32.34 self permanent",
    ]
    assert ip == [
        "route del 10.2.0.3 dev vxweave",
        "route del 10.2.3.0/24 dev vxweave",
        "neigh del 10.2.0.3 dev vxweave",
        "neigh replace 10.2.0.2 lladdr 02:78:0a:02:00:02 dev vxweave nud permanent",
        "route replace 10.2.0.2 dev vxweave src 10.2.0.1",
        "route replace 10.2.2.0/24 via 10.2.0.2 onlink dev vxweave src 10.2.0.1",
    ]


def test_a_peer_with_another_key_is_exchanged_in_one_command() -> None:
    link = wireguard.LINK
    before, after = (
        link.wanted([*routed.accepted(KEYED_FACTS, [keyed("slave-2", key=key)], True)[0].values()])
        for key in (key_of("slave-2"), key_of("the next slave-2"))
    )
    assert link.commands(before, before, "10.2.0.1") == []
    ((argv, lines),) = link.commands(before, after, "10.2.0.1")
    assert lines == ""
    assert argv == (
        *("wg", "set", "wgweave", "peer", key_of("slave-2"), "remove"),
        *("peer", key_of("the next slave-2"), "endpoint", "10.0.32.34:51820", "allowed-ips", "10.2.0.2/32,10.2.2.0/24"),
    )


# -- the programs that keep the kernel's tables, with a kernel of two tables


class Kernel(routed.Link):
    """A link with what the kernel has: routes, and a table beside. made: how often the device was set up."""

    name, device = "vxlan", "vxweave"

    def __init__(self) -> None:
        self.made, self.has = 0, {"routes": dict[str, str](), "beside": dict[str, str]()}

    def make(self, facts: Mapping[str, str]) -> None:
        assert facts["NODE_NAME"] == "slave-1"
        self.made += 1

    def wanted(self, peers: Sequence[routed.Peer]) -> Mapping[str, dict[str, str]]:
        return {"routes": {peer.bridge: "" for peer in peers}, "beside": {peer.address: peer.name for peer in peers}}

    def present(self) -> Mapping[str, dict[str, str]]:
        return self.has

    def commands(self, now: routed.Tables, then: routed.Tables, source: str) -> list[routed.Command]:
        assert now is self.has
        self.has = {name: dict(table) for name, table in then.items()}
        return [(("tool", source), " ".join(sorted(then["routes"])))]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What programs of the host are run, and what they read."""
    told: list[tuple[str, str]] = []

    def run(*argv: str, lines: str = "") -> str:
        told.append((" ".join(argv), lines))
        return ""

    monkeypatch.setattr(routed, "run", run)
    return told


def peers_of(*entries: Any) -> dict[str, routed.Peer]:
    return routed.accepted(FACTS, entries)[0]


SLAVE_3 = entry("slave-3", "10.0.0.35", "10.2.0.3", "10.2.3.0/24")


def test_what_changes_in_the_kernel_is_counted_and_nothing_is_said_of_nothing(
    told: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    link = Kernel()
    for entries, said in (
        ([SLAVE_2], "1 peers, 2 entries changed\n"),
        ([SLAVE_2], ""),
        ([SLAVE_3], "1 peers, 4 entries changed\n"),
    ):
        routed.apply(link, peers_of(*entries), "10.2.0.1")
        assert capsys.readouterr().out == said
    assert told == [("tool 10.2.0.1", "10.2.0.2"), ("tool 10.2.0.1", "10.2.0.2"), ("tool 10.2.0.1", "10.2.0.3")]


def test_a_tool_that_fails_is_said_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert routed.run("cat", lines="two\nlines") == "two\nlines"
    assert capsys.readouterr().out == ""
    assert routed.run("sh", "-c", "echo half; echo why >&2; exit 2") == "half\n"
    assert capsys.readouterr().out == "sh -c echo half; echo why >&2; exit 2: why\n"


def test_a_peer_goes_when_the_catalog_is_without_it_for_long_and_stays_while_consul_is_away(
    told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del told
    link, clock, asked, tables = Kernel(), Clock(), list[str](), list[list[str]]()
    routed.save(FACTS, peers_of(SLAVE_2))
    false = entry("slave-9", "10.9.9.9", "10.2.0.9", "10.2.9.0/24")
    both, one = [SLAVE_2, SLAVE_3, false], [SLAVE_3]
    away = routed.local.ConsulError("away")
    # At each answer so many seconds have passed.
    answers = [
        (0, both), (0, both), (10, one), (60, one), (59, one), (1, one), (0, [SLAVE_2, SLAVE_3]), (0, one), (100, away),
        (5, away), (100, [SLAVE_2, SLAVE_3]), (0, one), (119, one), (0, [SLAVE_2]), (0, OSError("no file")),
    ]  # fmt: skip
    left = iter(answers)

    def catalog(facts: Mapping[str, str], query: str) -> tuple[Any, str]:
        assert facts is FACTS
        asked.append(query)
        tables.append(sorted(routed.load(FACTS)))
        seconds, answer = next(left, (0, Over()))
        clock.now += seconds
        if isinstance(answer, BaseException):
            raise answer
        return answer, str(len(asked))

    monkeypatch.setattr(routed, "time", clock)
    monkeypatch.setattr(routed, "catalog", catalog)
    with pytest.raises(Over):
        routed.sync(link, FACTS)
    two, three = ["slave-2"], ["slave-3"]
    each = sorted(two + three)
    # The table after each answer: slave-2 has 120 seconds, anew each time that it is seen.
    assert tables[0] == two
    assert dict(enumerate(tables[1:])) == dict(
        enumerate([each, each, each, each, each, three, each, each, each, each, each, each, each, each, each])
    )
    index = [f"&index={number}&wait=5s" for number in range(16)]
    index[9] = index[10] = index[15] = "&index=0&wait=5s"
    assert asked == index
    assert clock.waits == [2, 2, 2] and link.made == len(answers)
    assert set(link.has["routes"]) == {"10.2.0.2", "10.2.0.3"}
    said = [line for line in capsys.readouterr().out.splitlines() if "entries changed" not in line]
    assert said[0].startswith("ignored ") and "slave-9" in said[0]
    assert said[1:] == [
        "follows the catalog", "the table on disk serves: away", "follows the catalog", "the table on disk serves: no file",
    ]  # fmt: skip


def test_a_boot_brings_the_last_table_up_and_then_follows_the_catalog(
    told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, followed = Kernel(), list[Any]()
    routed.save(FACTS, peers_of(SLAVE_2))
    monkeypatch.setattr(routed.local, "facts", lambda: FACTS)
    monkeypatch.setattr(routed, "link", lambda facts: link if facts is FACTS else None)
    monkeypatch.setattr(routed, "sync", lambda *given: followed.append(given))
    routed.up()
    assert told == [("tool 10.2.0.1", "10.2.0.2")] and link.made == 1
    routed.follow()
    assert followed == [(link, FACTS)]


def test_each_mesh_has_its_own_link() -> None:
    for name, link in LINKS.items():
        assert routed.link({"MESH": name}) is link
    with pytest.raises(ValueError, match="the mesh weave has no device that apollo makes"):
        routed.link({"MESH": "weave"})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a host's files, with the kernel's switches."""
    for module in (routed, vxlan, wireguard):
        monkeypatch.setattr(module, "Path", lambda *parts: tmp_path.joinpath(*(part.lstrip("/") for part in parts)))
    for switch in ("conf/weave", "neigh/weave"):
        (tmp_path / "proc/sys/net/ipv4" / switch).mkdir(parents=True)
    return tmp_path


def answers_for_others(root: Path) -> bool:
    switches = ("conf/weave/proxy_arp", "neigh/weave/proxy_delay")
    return [(root / "proc/sys/net/ipv4" / switch).read_text() for switch in switches] == ["1", "0"]


def test_a_vxlan_device_is_made_once_and_set_up_each_time(root: Path, told: list[tuple[str, str]]) -> None:
    up = ("ip link set vxweave mtu 8951 up", "")
    facts = {"PRIVATE_IP": "10.0.0.33", "BRIDGE_ADDRESS": "10.2.0.1", "BRIDGE_MTU": "8951"}
    vxlan.LINK.make(facts)
    kind = "type vxlan id 42 local 10.0.0.33 dstport 4789 ttl 16 nolearning"
    assert told == [(f"ip link add vxweave address 02:78:0a:02:00:01 {kind}", ""), up]
    assert answers_for_others(root)
    (root / "sys/class/net/vxweave").mkdir(parents=True)
    vxlan.LINK.make(facts)
    assert told[2:] == [up]


@pytest.mark.parametrize(
    ("there", "in_kernel", "known"), [(False, True, False), (False, False, False), (True, True, True), (True, True, False)]
)
def test_a_wireguard_device_is_the_kernels_or_else_a_programs_and_has_this_hosts_key(
    there: bool, in_kernel: bool, known: bool, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, told, tried = Clock(), list[tuple[str, str]](), list[list[str]]()
    public, secret = f"{key_of('public')}\n", f"{key_of('private')}\n"
    said = {"wg genkey": secret, "wg pubkey": public, "wg show wgweave public-key": public if known else "(none)\n"}

    def run(*argv: str, lines: str = "") -> str:
        told.append((" ".join(argv), lines))
        return said.get(" ".join(argv), "")

    def tries(argv: list[str], **_: Any) -> Any:
        tried.append(argv)
        # wireguard-go has its device at the third look.
        good = in_kernel if argv[0] == "ip" else len(tried) == 4
        return SimpleNamespace(returncode=0 if good else 1, stderr="Not supported\n")

    monkeypatch.setattr(routed, "run", run)
    monkeypatch.setattr(wireguard.subprocess, "run", tries)
    monkeypatch.setattr(wireguard, "time", clock)
    monkeypatch.setattr(wireguard, "PRIVATE_KEY", root / "wireguard.key")
    if there:
        (root / "sys/class/net/wgweave").mkdir(parents=True)
    facts = {"BRIDGE_MTU": "8921"}
    wireguard.LINK.make(facts)
    assert wireguard.PRIVATE_KEY.read_text() == secret and wireguard.PRIVATE_KEY.stat().st_mode & 0o777 == 0o600
    assert routed.PUBLIC_KEY.read_text() == public and answers_for_others(root)
    look = ["wg", "show", "wgweave"]
    assert tried == (
        [] if there else [["ip", "link", "add", "wgweave", "type", "wireguard"], *([] if in_kernel else 3 * [look])]
    )
    started = ("systemctl start apollo-wireguard.service", "")
    given = f"wg set wgweave private-key {root}/wireguard.key listen-port 51820"
    assert told == [
        ("wg genkey", ""), ("wg pubkey", secret),
        *([] if in_kernel else [started]),
        ("wg show wgweave public-key", ""),
        *([] if known else [(given, "")]),
        ("ip link set wgweave mtu 8921 up", ""),
    ]  # fmt: skip
    words = "not in the kernel, so wireguard-go does it: Not supported\n"
    assert capsys.readouterr().out == ("" if in_kernel else words) and clock.waits == ([] if in_kernel else [0.05, 0.05])
    # Its keys are made once.
    wireguard.make_key()
    assert [one for one, _ in told].count("wg genkey") == 1
    if not in_kernel:
        tried += 100 * [look]
        wireguard.in_userspace()
        assert capsys.readouterr().out == "wireguard-go made no device; see journalctl -u apollo-wireguard\n"
        assert 10 < clock.now < 10.3


def test_two_pings_of_one_address_take_a_second_and_a_fifth_at_most() -> None:
    tool, *quiet, count, number, pause, seconds, wait, last, address = network.ping("10.2.0.9")
    assert (tool, quiet, address) == ("ping", ["-n", "-q"], "10.2.0.9")
    assert (count, pause, wait) == ("-c", "-i", "-W")
    assert (number, (int(number) - 1) * float(seconds) + float(last)) == ("2", 1.2)


KERNEL_TEST = """
import json, sys, pathlib
from host.apollo.mesh import routed, wireguard
folder, facts, entries = json.load(sys.stdin)
routed.PUBLIC_KEY = pathlib.Path(folder, "mesh.pub")
wireguard.PRIVATE_KEY = pathlib.Path(folder, "wireguard.key")
# In systemd's place, of which there is none here. It ends with its device.
wireguard.in_userspace = lambda: routed.run("wireguard-go", wireguard.LINK.device)
link = routed.link(facts)
link.make(facts)
link.make(facts)
peers, _ = routed.accepted(facts, entries, link.keyed)
def stands():
    routed.apply(link, peers, facts["BRIDGE_ADDRESS"])
    assert link.present() == link.wanted(list(peers.values())), link.present()
stands()
routed.run("ip", "route", "del", "10.2.2.0/24")
if link.keyed:
    routed.run("wg", "set", link.device, "peer", peers["slave-3"].key, "remove")
    routed.run("wg", "set", link.device, "peer", peers["slave-4"].key, "allowed-ips", "10.2.0.4/32")
else:
    routed.run("ip", "neigh", "del", "10.2.0.3", "dev", link.device)
    routed.run("bridge", "fdb", "del", "02:78:0a:02:00:04", "dev", link.device)
stands()
del peers["slave-2"]
stands()
routed.run("ip", "link", "del", link.device)
link.make(facts)
stands()
print(len(peers), "peers stand")
"""


def in_own_network(program: str, data: Any, env: Mapping[str, str] | None = None) -> str:
    """Runs a program in a network namespace of its own, with a weave bridge like slave-1's. Nothing outlives it."""
    # The devices in /sys are those of the namespace that mounted it; sockets of wireguard-go are in /run.
    setup = (
        "mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run; ip link set lo up; "
        "ip link add weave type bridge; ip addr add 10.2.0.1/16 dev weave; ip link set weave up"
    )
    own = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--")
    done = subprocess.run(
        [*own, "sh", "-euc", f'{setup}; exec "$@"', "sh", sys.executable, "-c", program],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        check=False,
        env=environment(**(env or {})),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def debian_programs(*packages: str) -> str:
    """A PATH with the programs of Debian's packages, unpacked into the cache and not installed."""
    kept = cache_dir() / "tools" / "-".join(packages)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="packages-", dir=kept.parent) as folder:
            for argv in (["apt-get", "-q", "download", *packages], ["sh", "-c", "for p in *.deb; do dpkg -x $p .; done"]):
                done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
                if done.returncode:
                    left_out(f"{argv[0]} could not get {', '.join(packages)}: {done.stderr[-300:]}")
            Path(folder).rename(kept)
            Path(folder).mkdir()
    return f"{kept}/usr/bin:{kept}/bin:{os.environ['PATH']}:/usr/sbin:/sbin"


@pytest.mark.machines
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # Adding all, repairing what was deleted, removing one, and all again on a new device.
        ("vxlan", [89, 3, 4, 85]),
        ("wireguard", [63, 3, 3, 60]),
    ],
)
def test_the_kernel_holds_the_table_and_gets_back_what_a_hand_deleted(name: str, counts: list[int], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        left_out("making a network namespace needs root")
    if name == "wireguard" and not Path("/dev/net/tun").exists():
        left_out("wireguard-go needs /dev/net/tun")
    path = debian_programs("wireguard-go", "wireguard-tools") if name == "wireguard" else os.environ["PATH"]
    facts = node_facts(PLANS[name], PLANS[name].slaves[0], STACK)
    out = in_own_network(KERNEL_TEST, [str(tmp_path), facts, entries_of(PLANS[name])], {"PATH": path})
    assert out.endswith("25 peers stand\n")
    assert [line.split(", ")[1] for line in out.splitlines() if "entries changed" in line] == [
        f"{count} entries changed" for count in counts
    ], out


PACKETS_TEST = """
import json, pathlib, subprocess, sys
from host.apollo.mesh import routed, wireguard
folder, entries, facts, *others = json.load(sys.stdin)
routed.PUBLIC_KEY, routed.TABLE = pathlib.Path(folder, "mesh.pub"), pathlib.Path(folder, "mesh.json")
wireguard.PRIVATE_KEY = pathlib.Path(folder, "wireguard.key")
wireguard.in_userspace = lambda: routed.run("wireguard-go", wireguard.LINK.device)
link = routed.link(facts)
if link.keyed:
    # Their sockets are named for their devices, which are called the same on every host.
    routed.run("mkdir", "-p", folder + "/run", "/var/run/wireguard")
    routed.run("mount", "--bind", folder + "/run", "/var/run/wireguard")
link.make(facts)
if link.keyed:
    entries[facts["NODE_NAME"]]["Meta"]["key"] = routed.PUBLIC_KEY.read_text().strip()
def stand():
    peers, ignored = routed.accepted(facts, entries.values(), link.keyed)
    assert not ignored, ignored
    routed.save(facts, peers)
    routed.apply(link, peers, facts["BRIDGE_ADDRESS"])
stand()
if not others:
    print(json.dumps(entries))
    sys.exit()
# The other host: a namespace of its own at the other end of a wire.
for line in (
    "netns add other", "link add wire type veth peer eth0 netns other", "addr add 10.0.0.33/16 dev wire", "link set wire up",
    "-n other addr add 10.0.0.35/16 dev eth0", "-n other link set eth0 up", "-n other link add weave type bridge",
    "-n other addr add 10.2.0.3/16 dev weave", "-n other link set weave up",
):
    routed.run("ip", *line.split())
own = ["ip", "netns", "exec", "other", sys.executable, "-c", pathlib.Path(folder, "program").read_text()]
done = subprocess.run(own, input=json.dumps([folder + "/other", entries, *others]), capture_output=True, text=True)
assert done.returncode == 0, done.stdout + done.stderr
entries = json.loads(done.stdout.splitlines()[-1])
stand()
routed.catalog = lambda _: (list(entries.values()), "1")
def check():
    try:
        print(json.dumps(routed.check(link, facts)))
    except ValueError as error:
        print(json.dumps(str(error)))
check()
routed.run("ip", "-n", "other", "link", "set", "eth0", "down")
check()
"""


@pytest.mark.machines
@pytest.mark.parametrize("name", list(LINKS))
def test_the_check_sees_whether_packets_cross_and_not_only_what_the_kernel_was_told(name: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        left_out("making a network namespace needs root")
    path = debian_programs("iputils-ping", "wireguard-go", "wireguard-tools")
    (tmp_path / "other").mkdir()
    (tmp_path / "program").write_text(PACKETS_TEST)
    # control-1 is a peer that is away, as one may be at any time.
    entries = {one["Node"]: one for one in entries_of(PLANS[name]) if one["Node"] in ("slave-1", "slave-3", "control-1")}
    facts = [node_facts(PLANS[name], PLANS[name].slaves[slot], STACK) for slot in (0, 2)]
    out = in_own_network(PACKETS_TEST, [str(tmp_path), entries, *facts], {"PATH": path})
    well, cut = (json.loads(line) for line in out.splitlines()[-2:])
    assert well == ["2 peers, 1 of 2 asked answer", ["no answer from control-1 (10.2.0.250)"]]
    assert cut.startswith(f"no packet crosses {LINKS[name].device}: no answer from ")
