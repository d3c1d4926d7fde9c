"""Hosts' programs against kernels and tools that are not as on the machine where they were written: modules that are not loaded
or not there, and the empty and odd forms in which tools print nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host.apollo import check, network
from host.apollo.mesh import routed, vxlan, wireguard
from host.apollo.mesh.weave import status
from host.render import node_facts
from tests.host.support import EXAMPLES, STACK, left_out, stand_in, text_of

PLAN = EXAMPLES["weave"]
FACTS = node_facts(PLAN, PLAN.slaves[0], STACK)
# What iproute2 prints with -j where it has nothing to show. [{},{}]: an object for each link that a filter left out.
NOTHING = ["", "[]", "[{}]", "[{},{}]"]
CREATE_BRIDGE = text_of("slave", "/usr/local/bin/weave")


class Kernel:
    """A network namespace of its own, with a mount of /sys that shows its devices. Nothing outlives a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "node.env").write_text("".join(f'{key}="{value}"\n' for key, value in FACTS.items()))
        (folder / "create-bridge").write_text(CREATE_BRIDGE.replace("/etc/apollo", str(folder)))

    def run(self, script: str) -> str:
        """What a shell script prints there. $BRIDGE makes the bridge; every command must succeed."""
        mounts = "mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run"
        setup = f'{mounts}; BRIDGE="bash {self.folder}/create-bridge create-bridge"\n{script}'
        own = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--", "bash", "-euc", setup)
        env = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}:/usr/sbin:/sbin"}
        done = subprocess.run(own, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def tool(self, name: str, text: str) -> None:
        """Puts a program before the machine's own of that name."""
        stand_in(self.folder / name, text)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    if os.geteuid() != 0:
        left_out("making a network namespace needs root")
    return Kernel(tmp_path)


PORTS = "ls /sys/class/net/weave/brif; cat /sys/class/net/weave/{address,mtu}"


@pytest.mark.machines
@pytest.mark.parametrize("said", NOTHING)
def test_the_bridge_comes_up_whatever_ip_prints_for_links_that_are_not_there(kernel: Kernel, said: str) -> None:
    # As where veth is a module that is not loaded: ip fails for no verb, and shows nothing.
    kernel.tool("ip", f"""case "$*" in *show*) echo '{said}' ;; *) exec {which("ip")} "$@" ;; esac""")
    assert kernel.run(f"$BRIDGE; $BRIDGE; {PORTS}").split() == ["02:77:0a:02:00:01", FACTS["BRIDGE_MTU"]]


@pytest.mark.machines
@pytest.mark.parametrize("modprobe", ["exit 0", "exit 1", "echo FATAL >&2; exit 1"])
def test_the_bridges_module_is_loaded_where_it_is_one_and_not_missed_where_it_is_none(kernel: Kernel, modprobe: str) -> None:
    kernel.tool("modprobe", f"echo modprobe $*; {modprobe}")
    said = kernel.run(f"$BRIDGE; {PORTS}").split("\n")
    assert said[0].endswith(" bridge") and said[2] == FACTS["BRIDGE_MTU"]


@pytest.mark.machines
def test_only_dockers_veths_that_hang_on_nothing_are_attached(kernel: Kernel) -> None:
    # Docker's: one that lost its bridge, one on a network of its own. The router's pair of the slow path, which attaching its
    # second end would make a loop, and veths of somebody else.
    made = """
        ip netns add container
        ip link add veth0a1b2c3 type veth peer eth0 netns container
        ip link add br-compose type bridge
        ip link add vethfedcba9 type veth peer eth1 netns container
        ip link set vethfedcba9 master br-compose
        ip link add vethwe-bridge type veth peer vethwe-pcap
        ip link add vethweplfe12345 type veth peer eth2 netns container
        ip link add vethabc type veth peer eth3 netns container
    """
    assert kernel.run(f"{made}\n$BRIDGE; $BRIDGE; ls /sys/class/net/weave/brif").split() == ["veth0a1b2c3"]


@pytest.mark.machines
def test_a_veth_that_goes_while_it_is_attached_stops_nothing(kernel: Kernel) -> None:
    ip = which("ip")
    kernel.tool("ip", f"""case "$*" in *"master weave") {ip} link del "$4" ;; esac; exec {ip} "$@" """)
    made = "ip netns add container; ip link add veth0a1b2c3 type veth peer eth0 netns container"
    assert kernel.run(f"{made}; $BRIDGE; {PORTS}").split()[1] == FACTS["BRIDGE_MTU"]


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ({}, "is missing: a plain bridge, local only"),
        ({"weaveutil": "exit 17"}, "this kernel has no Open vSwitch: a plain bridge"),
        ({"weaveutil": "exit 1"}, "weaveutil ended with 1: a plain bridge"),
        ({"weaveutil": "exit 0", "modprobe": "exit 1"}, ""),
        ({"weaveutil": "exit 0", "iptables-legacy": "exit 3"}, "this kernel has no legacy iptables"),
    ],
)
def test_a_bridge_comes_up_under_weave_whatever_the_kernel_lacks(tools: dict[str, str], said: str, tmp_path: Path) -> None:
    script = text_of("slave", "/usr/local/lib/apollo/mesh-bridge")
    for place in ("/usr/local/bin", "/usr/sbin"):
        script = script.replace(place, str(tmp_path))
    for name, text in {"iptables-legacy": "exit 0", "update-alternatives": "exit 0", "iptables": "exit 0", **tools}.items():
        stand_in(tmp_path / name, text)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-s"], input=script, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0 and said in done.stdout + done.stderr


def which(tool: str) -> str:
    found = subprocess.run(["sh", "-c", f"PATH=$PATH:/usr/sbin:/sbin; command -v {tool}"], capture_output=True, text=True)
    return found.stdout.strip()


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a device that is up, with the planned MTU, as /sys shows it."""
    monkeypatch.setattr(network, "DEVICES", tmp_path)

    def make(device: str, mtu: str = FACTS["BRIDGE_MTU"]) -> None:
        (tmp_path / device).mkdir(exist_ok=True)
        (tmp_path / device / "flags").write_text("0x1003\n")
        (tmp_path / device / "mtu").write_text(f"{mtu}\n")

    return make


@pytest.mark.parametrize("said", NOTHING)
def test_a_bridge_without_an_address_is_called_that(
    said: str, up: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "run", lambda *_: said)
    with pytest.raises(check.Failed, match="weave is not up"):
        check.bridge(FACTS)
    up("weave")
    with pytest.raises(check.Failed, match=r"the address of weave is \[\], planned \['10.2.0.1/16'\]"):
        check.bridge(FACTS)


@pytest.mark.parametrize("said", NOTHING)
def test_a_host_whose_resolver_no_device_leads_to_is_called_that(
    said: str, up: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    up("weave")
    address = json.dumps([{}, {"addr_info": [{"local": "10.2.0.1", "prefixlen": 16}]}])
    monkeypatch.setattr(check, "run", lambda *argv: address if "addr" in argv else said)
    with pytest.raises(check.Failed, match=r"no device leads to 10\.0\.0\.2"):
        check.bridge(FACTS)


@pytest.mark.parametrize("said", NOTHING)
@pytest.mark.parametrize("link", [vxlan.LINK, wireguard.LINK], ids=lambda link: link.name)
def test_a_mesh_of_which_the_kernel_has_nothing_is_empty(link: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routed, "run", lambda *argv, **_: "" if argv[0] == "wg" else said)
    assert not any(link.present().values())
    # What it is told then is the whole table.
    assert link.commands(
        link.present(), link.wanted([routed.Peer("slave-2", "10.0.32.34", "10.2.0.2", "10.2.2.0/24")]), "10.2.0.1"
    )


def test_a_mesh_device_that_is_down_or_missing_is_called_that(up: Callable[[str], None], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the MTU of vxweave is unknown: it is not up"):
        routed.check(vxlan.LINK, FACTS)
    up("vxweave")
    (tmp_path / "vxweave/flags").write_text("0x1002\n")
    with pytest.raises(ValueError, match="it is not up"):
        routed.check(vxlan.LINK, FACTS)


@pytest.mark.parametrize("said", ["", "\n", "wg: not found\n"])
def test_what_is_no_key_is_not_kept_as_one(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wireguard, "PRIVATE_KEY", tmp_path / "key")
    monkeypatch.setattr(routed, "PUBLIC_KEY", tmp_path / "pub")
    monkeypatch.setattr(routed, "run", lambda *_, **__: said)
    with pytest.raises(ValueError, match="wg made no key"):
        wireguard.make_key()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [None, []])
def test_a_catalog_that_says_nothing_has_nobody_in_it(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routed.local, "consul", lambda *_: (answer, {}))
    monkeypatch.setattr(routed.local, "secret", lambda _: "a token")
    assert routed.catalog(FACTS)[0] == []
    assert status.hosts(FACTS) == ({}, [])


@pytest.mark.parametrize("said", ["[]", "[{}]", "null", '[{"Options": null, "IPAM": {"Config": null}, "Containers": null}]'])
def test_one_check_that_cannot_read_its_tool_fails_by_its_name_and_the_others_go_on(
    said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "run", lambda *_: said)
    monkeypatch.setattr(check.local, "facts", lambda: FACTS)
    monkeypatch.setattr(check, "checks", lambda _: {"docker": check.docker, "other": lambda _: "goes on"})
    assert check.main(["--json"]) == 1
    broken, other = json.loads(capsys.readouterr().out)["checks"]
    assert (broken["check"], broken["ok"]) == ("docker", False) and broken["detail"]
    assert other["ok"]
