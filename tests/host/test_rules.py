"""The packet rules as text, who loads them and who follows what they depend on, without a kernel that has them: nft is a script
that keeps tables in a folder. What the kernel makes of them: test_firewall.py."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import DockerException, NotFound

from host.apollo import bridge_ports, firewall, local
from host.apollo.mesh import routed
from host.render import node_facts
from plan.mesh import DRIVERS
from plan.ports import CONSUL_SERF
from tests.host.golden import as_peer, different, made
from tests.host.support import EXAMPLES, STACK, stand_in
from tests.host.test_verbs import Clock, Over
from tests.plan.support import cluster

WEB, COMPOSE, MAC = "10.2.1.5", "172.18.0.2", "02:42:0a:02:01:05"
PLAN = EXAMPLES["vxlan-baked"]
FACTS = node_facts(PLAN, PLAN.slaves[0], STACK)


def test_golden_files_say_what_hosts_programs_make_of_it() -> None:
    assert different(made()) == [], "if that is meant: python -m tests.host.golden"


@pytest.mark.parametrize(
    ("prefix", "part", "block"),
    [(24, 24, "0xa0202"), (27, 32, "0xa020820-0xa02083f"), (20, 32, "0xa022000-0xa022fff")],
)
def test_a_block_of_whole_bytes_is_looked_up_and_any_other_is_a_range(
    prefix: int, part: int, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routed, "TABLE", tmp_path / "mesh.json")
    plan = cluster(overlay={"mesh": "vxlan", "hostPrefix": prefix})
    facts = node_facts(plan, plan.slaves[0], STACK)
    routed.save(facts, {peer.name: as_peer(peer) for peer in (plan.slaves[1], plan.control[0])})
    known = firewall.senders(facts)
    assert [entry.partition(" . ")[2] for entry in known["blocks"]] == [block]
    assert len(known["nodes"]) == 2
    text = firewall.packets(facts, "eth0", known)
    assert f"ip saddr . @th,336,{part} @blocks notrack accept" in text
    assert text.count("flags interval\n") == (part != prefix)
    assert firewall.senders(facts | {"MESH": "wireguard"}) == {"nodes": [], "blocks": []}


def test_a_container_has_its_share_of_what_the_kernel_keeps_in_mind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "KERNEL", tmp_path)
    for most, share in ((None, 4096), ("1600\n", 100), ("15\n", 1)):
        if most:
            local.write(tmp_path / "net/netfilter/nf_conntrack_max", most)
        text = firewall.packets(FACTS, "eth0", {"nodes": [], "blocks": []})
        assert text.count(f"ct count over {share} }}") == 2
    assert "elements" not in text


# -- loading


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which nft keeps a text for each family. It refuses one with `no rule`, and what it does not know."""
    folder = tmp_path / "kernel"
    folder.mkdir()
    nft = f"""
        cd {folder}
        case "$*" in
        "-s list table "*" apollo") cat "$4" 2>/dev/null || exit 1 ;;
        "-f -") cat > new; ! grep -q 'no rule' new || {{ echo 'a rule is wrong' >&2; exit 1; }}
            mv new "$(head -1 new | cut -d' ' -f2)" ;;
        *) echo "nft $*" >&2; exit 2 ;;
        esac"""
    stand_in(tmp_path / "bin/nft", nft)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(firewall, "LOADED", tmp_path / "loaded")
    return folder


TEXTS = {family: firewall.table(family, "a body\n") for family in ("inet", "bridge")}


def test_a_table_is_loaded_where_the_kernel_or_the_text_or_the_record_is_another(kernel: Path) -> None:
    keeper = firewall.Keeper()
    assert keeper.keep(TEXTS) == ["inet", "bridge"]
    assert {place.name: place.read_text() for place in kernel.iterdir()} == TEXTS
    assert keeper.keep(TEXTS) == []
    (kernel / "inet").unlink()
    assert keeper.keep(TEXTS) == ["inet"]
    (kernel / "bridge").write_text("flushed")
    assert keeper.keep(TEXTS) == ["bridge"]
    (firewall.LOADED / "bridge.nft").unlink()
    assert keeper.keep(TEXTS) == ["bridge"]
    other = TEXTS | {"inet": firewall.table("inet", "another\n")}
    assert keeper.keep(other) == ["inet"]
    with pytest.raises(firewall.FirewallError, match=r"^nft -f -: a rule is wrong$"):
        keeper.keep(other | {"bridge": "no rule"})
    # One that starts anew knows nothing of what stands.
    assert firewall.Keeper().keep(other) == ["inet", "bridge"]


def test_what_the_kernel_counts_is_no_part_of_a_table(kernel: Path) -> None:
    flows, nodes = "set flows {\n\ttype ipv4_addr", "\n\t}\nset nodes {\n\telements = { 1 }\n}\n"
    (kernel / "inet").write_text(f"{flows}\n\telements = {{ 10.2.1.5 ct count over 4 ,\n\t10.2.1.6 }}{nodes}")
    assert firewall.listed("inet") == flows + nodes
    assert firewall.listed("bridge") == ""


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ([], ""),
        (["inet"], "the rules of table inet apollo were changed"),
        (["inet", "bridge"], "the rules of table bridge apollo and inet apollo were changed"),
        (["record"], "no rules"),
    ],
)
def test_what_is_wrong_with_the_rules_is_said_once_it_lasts(
    damage: list[str], said: str, kernel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(firewall, "time", clock)
    monkeypatch.setattr(firewall, "PATIENCE", 0.25)
    firewall.Keeper().keep(TEXTS)
    for family in damage:
        for place in [kernel / family] if family in TEXTS else firewall.LOADED.iterdir():
            place.unlink()
    wrong = f"{said}; apollo-firewall puts them right within 10 s, else: systemctl restart apollo-firewall" if said else ""
    assert firewall.check() == bool(said)
    assert capsys.readouterr().out == f"{wrong or 'all rules stand'}\n"
    assert firewall.complaint() == wrong
    assert set(clock.waits) == ({0.1} if said else set()) and (0.5 < clock.now < 0.7) == bool(said)
    # A load between its two steps.
    clock.sleep = lambda seconds: (clock.waits.append(seconds), firewall.Keeper().keep(TEXTS))[0]
    assert firewall.complaint() == ""


def test_a_setting_of_the_kernel_is_raised_where_it_is_lower_and_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall, "SETTINGS", tmp_path / "sysctl.d")
    monkeypatch.setattr(firewall, "KERNEL", tmp_path / "sys")
    local.write(tmp_path / "sysctl.d/60-apollo.conf", "# net.a = 1\nnet.low = 200\n\nnet.missing.key = 7\n")
    local.write(tmp_path / "sysctl.d/60-apollo-slave.conf", "net.high=9\nnet.same = 5 \n")
    local.write(tmp_path / "sysctl.d/10-others.conf", "net.other = 9\n")
    for key, value in {"low": "30", "high": "10", "same": "5", "other": "1", "a": "0"}.items():
        local.write(tmp_path / "sys/net" / key, f"{value}\n")
    wanted = {"high": "9", "same": "5", "low": "200"}
    assert firewall.limits() == {tmp_path / "sys/net" / key: value for key, value in wanted.items()}
    assert firewall.off_limits() == ["net/low is 30, planned 200"]
    firewall.keep_limits()
    assert firewall.off_limits() == []
    assert [(tmp_path / "sys/net" / key).read_text().strip() for key in ("low", "high", "same", "other", "a")] == [
        "200",
        "10",
        "5",
        "1",
        "0",
    ]


@pytest.mark.parametrize("place", ["{}/notify", "@apollo-{}"])
def test_systemd_is_told_that_the_rules_stand_where_it_wants_to_know(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = place.format(tmp_path)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    firewall.ready()
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(f"\0{address[1:]}" if address[0] == "@" else address)
        notified.settimeout(10)
        firewall.ready()
        assert notified.recv(20) == b"READY=1"


def test_the_device_to_the_vpc_is_the_one_to_its_resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = """echo '[{"dst": "10.0.0.2", "dev": "ens5"}]'"""
    stand_in(tmp_path / "ip", f"""[ "$*" = "-j -4 route get 10.0.0.2" ] && {answer} || {{ echo 'no way' >&2; exit 2; }}""")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert firewall.uplink(FACTS) == "ens5"
    with pytest.raises(firewall.FirewallError, match=r"^ip -j -4 route get 10\.0\.0\.9: no way$"):
        firewall.uplink({"VPC_RESOLVER": "10.0.0.9"})


class Count(threading.Event):
    """Counts how often it is set."""

    count = 0

    def set(self) -> None:
        self.count += 1
        super().set()


def test_each_line_of_a_follower_is_a_reason_to_look_and_so_is_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, changed = Clock(1), Count()
    monkeypatch.setattr(firewall, "time", clock)
    with pytest.raises(Over):
        firewall.follow(changed, "printf", "%s\\n", "one", "two")
    assert (changed.count, clock.waits) == (6, 2 * [firewall.PAUSE])


# -- which port of a bridge is whose


BRIDGED = bridge_ports.Place("vethaaaaaaa", MAC, WEB)


class Docker:
    """Docker's API with two networks of bridges and one of none, and the containers that `up` adds."""

    def __init__(self) -> None:
        self.inspected, self.listed, self.sandboxes = list[str](), list[dict[str, Any]](), dict[str, str]()
        self.stream: Callable[[], Iterator[dict[str, str]]] = lambda: iter(())
        self.asked: list[Any] = []

    def up(self, name: str, sandbox: str | None, *endpoints: tuple[str, str, str, str]) -> None:
        """sandbox: None for one that is gone when it is looked at. endpoints: network, id, MAC, address."""
        self.listed.append({"Id": name, "NetworkSettings": {"Networks": {
            network: {"NetworkID": network, "EndpointID": id, "MacAddress": mac, "IPAddress": address}
            for network, id, mac, address in endpoints
        }}})  # fmt: skip
        if sandbox is not None:
            self.sandboxes[name] = sandbox

    def networks(self) -> list[dict[str, Any]]:
        named = {"com.docker.network.bridge.name": "weave"}
        return [
            {"Id": "default", "Driver": "bridge", "Options": named, "IPAM": {"Config": [{"Gateway": "10.2.0.1"}, {}]}},
            {"Id": "0123456789abcdef", "Driver": "bridge", "Options": None, "IPAM": {"Config": [{"Gateway": "172.18.0.1"}]}},
            {"Id": "fedcba9876543210", "Driver": "bridge", "Options": {}, "IPAM": {"Config": None}},
            {"Id": "host", "Driver": "host", "Options": {}, "IPAM": {"Config": [{"Gateway": "192.0.2.1"}]}},
        ]

    def containers(self) -> list[dict[str, Any]]:
        return self.listed

    def inspect_container(self, name: str) -> dict[str, Any]:
        self.inspected.append(name)
        if name not in self.sandboxes:
            raise NotFound("gone")
        return {"NetworkSettings": {"SandboxKey": self.sandboxes[name]}}

    def events(self, **how: Any) -> Iterator[dict[str, str]]:
        self.asked.append(how)
        return self.stream()


def test_a_place_is_known_for_each_container_that_docker_has_and_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker, clock, changed = Docker(), Clock(0), Count()
    ports = bridge_ports.Ports()
    monkeypatch.setitem(vars(ports), "_client", docker)
    monkeypatch.setattr(bridge_ports, "time", clock)
    monkeypatch.setattr(bridge_ports, "RUNNING", tmp_path / "docker.pid")
    (tmp_path / "docker.pid").write_text(f"{os.getpid()}\n")
    outside = link(1, "lo") | link(7, "vethaaaaaaa", 6, master="weave") | link(9, "vethbbbbbbb", 8, master="br-0123456789ab")
    inside = link(1, "lo") | link(6, "eth0", 7, link_netnsid=0) | link(8, "eth1", 9, link_netnsid=0)
    seen = {(): outside, ("nsenter", "--net=/run/one"): inside}
    monkeypatch.setattr(bridge_ports, "links", lambda *prefix: seen[prefix])
    compose = bridge_ports.Place("vethbbbbbbb", "02:42:ac:12:00:02", COMPOSE)
    ends = (("default", "e1", MAC, WEB), ("0123456789abcdef", "e2", compose.mac, compose.address))
    docker.up("one", "/run/one", *ends, ("host", "e3", "", ""))
    docker.up("plain", "", ("default", "e4", "02:42:0a:02:01:09", "10.2.1.9"))
    docker.up("gone", None, ("default", "e5", "02:42:0a:02:01:0a", "10.2.1.10"))
    docker.up("host", "/run/host", ("host", "e6", "", ""))

    def stream() -> Iterator[dict[str, str]]:
        gateways = ["10.2.0.1", "172.18.0.1"]
        assert ports.look() == ([BRIDGED, compose], gateways)
        assert docker.inspected == ["one", "plain", "gone"]
        # Known as long as its ports are there.
        assert ports.look()[0] == [BRIDGED, compose] and docker.inspected.count("one") == 1
        del outside[9]
        assert ports.look()[0] == [BRIDGED] and docker.inspected.count("one") == 2
        # Started again: with other endpoints.
        outside[9] = link(9, "vethbbbbbbb", 8, master="br-0123456789ab")[9]
        assert ports.look()[0] == [BRIDGED, compose] and docker.inspected.count("one") == 3
        yield from ({"Action": action} for action in ("start", "exec_die", "die", "health_status"))
        docker.listed.clear()
        raise DockerException("restarts")

    docker.stream = stream
    assert ports.look() == ([], []), "nobody asks before Docker has answered"
    with pytest.raises(Over):
        ports.follow(changed)
    assert docker.asked == [{"decode": True, "filters": {"type": ["container", "network"]}}]
    assert (changed.count, clock.waits) == (3, [bridge_ports.PAUSE])
    # It is away, and what is known stays.
    assert ports.look()[0] == [BRIDGED, compose]


def test_the_devices_of_a_namespace_are_those_that_ip_has_by_their_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(
        tmp_path / "ip",
        """[ "$*" = "-j link" ] && echo '[{"ifindex": 1, "ifname": "lo"}, {}, {"ifindex": 6, "ifname": "eth0"}]'""",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert bridge_ports.links() == bridge_ports.links("env", "A=1") == link(1, "lo") | link(6, "eth0")
    assert bridge_ports.links("false") == {}


def link(index: int, name: str, peer: int = 0, **more: object) -> dict[int, dict[str, object]]:
    return {index: {"ifindex": index, "ifname": name, **({"link_index": peer} if peer else {}), **more}}


def test_a_containers_port_is_the_other_end_of_its_cable_and_no_device_that_it_made_itself() -> None:
    outside = (
        link(1, "lo") | link(7, "vethaaaaaaa", 6, master="weave") | link(9, "vethbbbbbbb", 8, master="br-1") | link(11, "eth0")
    )
    endpoints = {"weave": (MAC, WEB), "br-1": ("02:42:ac:12:00:02", COMPOSE)}
    inside = link(1, "lo") | link(6, "eth0", 7, link_netnsid=0) | link(8, "eth1", 9, link_netnsid=0)
    assert bridge_ports.places(inside, outside, endpoints) == [
        ("vethaaaaaaa", MAC, WEB), ("vethbbbbbbb", "02:42:ac:12:00:02", COMPOSE)
    ]  # fmt: skip
    # A pair of its own, whose number is that of another container's port; a port on a bridge that is not its network's.
    assert bridge_ports.places(link(5, "fake", 7) | link(4, "fake2", 9, link_netnsid=0), outside, endpoints) == []
    assert bridge_ports.places(inside, outside, {"weave": endpoints["weave"]}) == [("vethaaaaaaa", MAC, WEB)]
    assert bridge_ports.places({}, outside, endpoints) == bridge_ports.places(inside, {}, endpoints) == []


def test_docker_is_asked_while_it_runs_and_not_started_by_the_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd holds Docker's socket, and Docker starts after the rules: who waits for an answer waits for himself."""
    monkeypatch.setattr(bridge_ports, "RUNNING", tmp_path / "docker.pid")
    monkeypatch.setattr(bridge_ports, "PAUSE", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "docker.sock"))
        listening.listen()
        listening.settimeout(0.5)
        ports, changed = bridge_ports.Ports(f"unix://{tmp_path}/docker.sock"), threading.Event()
        threading.Thread(target=ports.follow, args=(changed,), daemon=True).start()
        for pid in ("", "0", "2147483647"):
            (tmp_path / "docker.pid").write_text(pid)
            assert ports.look() == ([], [])
            with pytest.raises(TimeoutError):
                listening.accept()
        (tmp_path / "docker.pid").write_text(str(os.getpid()))
        listening.settimeout(30)
        asked, _ = listening.accept()
        with asked:
            assert asked.recv(4096).startswith(b"GET /")
            # It has not answered yet: no look waits for it.
            assert ports.look() == ([], [])


def test_no_port_that_hosts_open_to_each_other_is_forgotten() -> None:
    """What the security groups open to a slave, they open to its containers: the rules must know all of it."""
    for driver in DRIVERS.values():
        for flow in driver.flows:
            known = {"tcp": firewall.HOST_TCP, "udp": firewall.HOST_UDP, "50": (0,)}[flow.protocol]
            assert {*range(flow.first_port, flow.last_port + 1)} <= {*known}, flow
    assert CONSUL_SERF in firewall.HOST_TCP and CONSUL_SERF in firewall.HOST_UDP
