"""What apollo-check says of each part of a host: well, or what is found and what is planned. Disks: test_disks.py. Meshes:
test_mesh.py and test_weave.py. Mesos: test_mesos.py. Odd answers of tools: test_odd_output.py."""

from __future__ import annotations

import io
import json
import urllib.error
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from host.apollo import check, firewall, local, network, zookeeper
from host.apollo.mesh import routed
from host.apollo.mesh.weave import status
from host.render import node_facts
from tests.host.support import EXAMPLES, STACK, raising

PLAN = EXAMPLES["vxlan-baked"]
SLAVE, CONTROL, EDGE = (node_facts(PLAN, host, STACK) for host in (PLAN.slaves[0], PLAN.control[0], PLAN.edges[0]))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a host's files."""
    monkeypatch.setattr(check, "Path", lambda place: tmp_path / place.lstrip("/"))
    monkeypatch.setattr(local, "SECRETS", tmp_path / "secrets")
    return tmp_path


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each command prints, to be filled; as JSON where it is no text."""
    said: dict[str, Any] = {}

    def run(*argv: str) -> str:
        answer = said[" ".join(argv)]
        return answer if isinstance(answer, str) else json.dumps(answer)

    monkeypatch.setattr(check, "run", run)
    return said


def of(function: Callable[[Any], str], facts: Any = SLAVE) -> str:
    """What it finds, or what it fails with."""
    try:
        return function(facts)
    except check.Failed as error:
        return f"failed: {error}"


def test_a_tool_that_fails_is_named_with_its_words() -> None:
    assert check.run("echo", "well") == "well\n"
    for script, words in (("echo out; echo err >&2; exit 3", "err"), ("echo out; exit 1", "out")):
        with pytest.raises(check.Failed, match=f"^sh -c .*: {words}$"):
            check.run("sh", "-c", script)


def unit(name: str, active: str = "active", condition: str = "yes", since: str = "today") -> str:
    return f"Id={name}\nActiveState={active}\nConditionResult={condition}\nConditionTimestamp={since}\n"


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ([unit("a.service"), unit("b.service")], "2 active"),
        ([unit("a.service"), unit("b.service", "inactive", "no")], "1 active; off by their condition: b.service"),
        # An attempt before the one that was forbidden ended so.
        (
            [unit("a.service", "failed", "no"), unit("b.service", "inactive", "no")],
            "0 active; off by their condition: a.service, b.service",
        ),
        ([unit("a.service"), unit("b.service", "inactive", "no", "")], "failed: b.service is inactive; see journalctl -u"),
        (
            [unit("a.service", "failed"), unit("b.service", "activating")],
            "failed: a.service is failed, b.service is activating; see journalctl -u",
        ),
        ([unit("a.service", "active", "no")], "1 active"),
        # It has a check of its own.
        ([unit("a.service"), unit("mesos-agent.service", "failed")], "1 active"),
    ],
)
def test_every_unit_of_the_list_runs_but_for_what_its_conditions_forbid(
    units: list[str], said: str, root: Path, tools: dict[str, Any]
) -> None:
    local.write(root / "etc/apollo/units.d/mesh", "b.service\n")
    local.write(root / "etc/apollo/units.d/base", "a.service c.service\n")
    shown = "systemctl show -p Id,ActiveState,ConditionResult,ConditionTimestamp a.service c.service b.service"
    tools[shown] = "\n".join(units)
    assert of(check.units) == said


def test_every_secret_is_here_and_roots_alone(root: Path) -> None:
    local.write(root / "etc/apollo/parameters", "consul/ca\nmesh/password\n")
    for name in ("consul/ca", "mesh/password"):
        local.write(local.SECRETS / name, "x", 0o600)
    assert of(check.secrets) == "2 here"
    (local.SECRETS / "mesh/password").chmod(0o644)
    assert of(check.secrets) == "failed: the mode of mesh/password is 0o100644, planned 0o100600"
    (local.SECRETS / "consul/ca").unlink()
    with pytest.raises(FileNotFoundError):
        check.secrets(SLAVE)


def test_the_data_volume_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = {"/data": True}
    monkeypatch.setattr(check.os.path, "ismount", mounted.__getitem__)
    assert of(check.data) == "/data is mounted"
    mounted["/data"] = False
    assert of(check.data, {"DATA_DEVICE": "xvdf"}) == "failed: /data is no mount of xvdf; see journalctl -u apollo-data"


def test_the_bridge_has_its_address_and_mtu_and_the_uplink_room_for_both(
    tools: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mtus: dict[str, int | None] = {"weave": int(SLAVE["BRIDGE_MTU"]), "ens5": 9001}
    monkeypatch.setattr(network, "mtu", mtus.__getitem__)
    address, route = "ip -j -4 addr show dev weave", f"ip -j route get {SLAVE['VPC_RESOLVER']}"
    tools[address] = [{"addr_info": [{"local": "10.2.0.1", "prefixlen": 16}]}]
    tools[route] = [{}, {"dev": "ens5"}]
    assert of(check.bridge) == f"10.2.0.1/16, MTU {SLAVE['BRIDGE_MTU']}"
    mtus["ens5"] = int(SLAVE["UNDERLAY_MTU"])
    assert not of(check.bridge).startswith("failed")
    mtus["ens5"] -= 1
    assert of(check.bridge) == f"failed: the MTU of ens5 is {mtus['ens5']}, planned {SLAVE['UNDERLAY_MTU']}"
    mtus["ens5"] = None
    assert of(check.bridge) == f"failed: no device leads to {SLAVE['VPC_RESOLVER']}"
    tools[address] = [{"addr_info": [{"local": "10.2.0.1", "prefixlen": 16}, {"local": "10.2.0.2", "prefixlen": 24}]}]
    assert of(check.bridge) == "failed: the address of weave is ['10.2.0.1/16', '10.2.0.2/24'], planned ['10.2.0.1/16']"
    mtus["weave"] = 1500
    assert of(check.bridge) == f"failed: the MTU of weave is 1500, planned {SLAVE['BRIDGE_MTU']}"


def test_all_rules_stand_and_no_setting_of_the_kernel_is_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, low = [""], list[str]()
    monkeypatch.setattr(firewall, "complaint", lambda: wrong[0])
    monkeypatch.setattr(firewall, "off_limits", lambda: low)
    monkeypatch.setattr(firewall, "limits", lambda: {Path("a"): "1", Path("b"): "2"})
    assert of(check.rules) == "all stand, and 2 settings of the kernel"
    low += ["a is 0, planned 1", "b is 1, planned 2"]
    assert of(check.rules) == "failed: a is 0, planned 1, b is 1, planned 2; see journalctl -u apollo-firewall"
    wrong[0] = "no rules"
    assert of(check.rules) == "failed: no rules"


@pytest.mark.parametrize(
    ("name", "subnet", "said"),
    [
        ("weave", "10.2.1.0/24", "10.2.1.0/24 on weave, 2 containers"),
        ("docker0", "10.2.1.0/24", "failed: Docker's bridge is docker0, planned weave"),
        (None, "10.2.1.0/24", "failed: Docker's bridge is None, planned weave"),
        ("weave", None, "failed: Docker's subnet is None, planned 10.2.1.0/24"),
    ],
)
def test_docker_gives_addresses_of_its_own_subnet_on_weave(name: Any, subnet: Any, said: str, tools: dict[str, Any]) -> None:
    options = {"com.docker.network.bridge.name": name} if name else {}
    config = {"Subnet": "10.2.0.0/16"} | ({"IPRange": subnet} if subnet else {})
    tools["docker network inspect bridge"] = [
        {"Options": options, "IPAM": {"Config": [config]}, "Containers": {"a": {}, "b": {}}}
    ]
    assert of(check.docker) == said


def test_a_mesh_is_judged_by_its_own_check_and_what_an_operator_should_see_is_a_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routed, "check", lambda link, facts: (f"{link.name} of {facts['NODE_NAME']}", []))
    assert of(check.routed) == "vxlan of slave-1"
    assert of(check.weave).startswith("failed: Weave's router is not at /usr/local/bin/weaver: ")
    assert of(check.weave).endswith("see journalctl -u apollo-weave-programs")
    local.write(root / "usr/local/bin/weaver", "")
    monkeypatch.setattr(status, "check", lambda facts: (facts["NODE_NAME"], ["slow", "late"]))
    with pytest.raises(check.Warned, match=r"^slave-1; slow; late$"):
        check.weave(SLAVE)


def node(**other: str) -> dict[str, Any]:
    return {
        "Node": {
            "Address": other.get("address", SLAVE["PRIVATE_IP"]),
            "Meta": {"bridge": other.get("bridge", SLAVE["BRIDGE_ADDRESS"])},
        }
    }


@pytest.mark.parametrize(
    ("leader", "own", "said"),
    [
        ("10.0.0.11:8300", node(), "joined, led by 10.0.0.11:8300"),
        ("", node(), "failed: no server leads; see journalctl -u consul on the control nodes"),
        ("10.0.0.11:8300", None, "failed: this node is not in the catalog; see journalctl -u consul"),
        (
            "10.0.0.11:8300",
            node(address="10.0.0.99"),
            f"failed: the catalog's address is 10.0.0.99, planned {SLAVE['PRIVATE_IP']}",
        ),
        (
            "10.0.0.11:8300",
            node(bridge="10.2.0.9"),
            f"failed: the catalog's bridge is 10.2.0.9, planned {SLAVE['BRIDGE_ADDRESS']}",
        ),
    ],
)
def test_the_agent_has_joined_and_the_catalog_has_this_host_where_it_is(
    leader: str, own: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {("status/leader", ""): leader, ("catalog/node/slave-1", "of consul/slave-token"): own}
    monkeypatch.setattr(local, "secret", lambda name: f"of {name}")
    monkeypatch.setattr(local, "consul", lambda path, token="": (answers[path, token], None))
    assert of(check.consul) == said


def test_zookeeper_serves_and_has_this_node_as_a_voter(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"mode": "", "members": {3: ("c", "participant"), 1: ("a", "participant"), 2: ("b", "observer")}}
    monkeypatch.setattr(zookeeper, "mode", lambda at: found["mode"] if at == CONTROL["PRIVATE_IP"] else "elsewhere")
    monkeypatch.setattr(zookeeper, "members", lambda at: found["members"] if at == CONTROL["PRIVATE_IP"] else {})
    monkeypatch.setattr(zookeeper, "silence", lambda: "nobody is up")
    jar = "/usr/share/java/zookeeper.jar"
    assert of(check.zookeeper, CONTROL) == f"failed: ZooKeeper is not installed: there is no {jar}"
    local.write(root / jar[1:], "")
    assert of(check.zookeeper, CONTROL) == "failed: ZooKeeper does not serve: nobody is up; see journalctl -u apollo-zookeeper"
    found["mode"] = "follower"
    assert of(check.zookeeper, CONTROL) == "follower of control nodes 1, 3"
    assert of(check.zookeeper, CONTROL | {"INDEX": "2"}) == (
        "failed: this node is no voter of the ensemble [3, 1] yet; see journalctl -u apollo-scheduler"
    )


def test_containers_can_ask_for_names_and_the_host_gets_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(check.socket, "create_connection", lambda *given: (asked.append(given), io.BytesIO())[1])
    monkeypatch.setattr(check.socket, "gethostbyname_ex", lambda name: (name, [], ["10.0.32.12", "10.0.0.11"]))
    assert of(check.names) == "consul.service.consul is 10.0.0.11, 10.0.32.12"
    assert asked == [((SLAVE["BRIDGE_ADDRESS"], 53), 5)]
    monkeypatch.setattr(check.socket, "create_connection", raising(ConnectionRefusedError()))
    with pytest.raises(OSError):
        check.names(SLAVE)


@pytest.mark.parametrize(
    ("code", "said"), [(404, "HAProxy answers"), (503, "failed: HAProxy's answer to an unknown name is 503, planned 404")]
)
def test_an_edge_refuses_a_name_that_nobody_has(code: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(url: str, timeout: float) -> Any:
        assert (url, timeout) == ("http://127.0.0.1/", 5)
        raise urllib.error.HTTPError(url, code, "", Message(), None)

    monkeypatch.setattr(check.urllib.request, "urlopen", urlopen)
    assert of(check.web, EDGE) == said
    monkeypatch.setattr(check.urllib.request, "urlopen", lambda *_, **__: io.BytesIO())
    assert of(check.web, EDGE) == "HAProxy answers"


def test_each_host_is_asked_for_what_it_has() -> None:
    every = {"units", "secrets", "disks", "bridge", "rules", "mesh", "consul", "names"}
    assert check.checks(SLAVE).keys() == every | {"data", "docker", "mesos"}
    assert check.checks(CONTROL).keys() == every | {"data", "zookeeper", "mesos"}
    assert check.checks(EDGE | {"DATA_DEVICE": ""}).keys() == every | {"web"}
    assert check.checks(SLAVE)["mesh"] is check.routed
    weave = check.checks(SLAVE | {"MESH": "weave"})
    # Each by its own name.
    names = {name: function.__name__ for name, function in (weave | check.checks(CONTROL) | check.checks(EDGE) | weave).items()}
    assert names == {name: name for name in names} | {"mesh": "weave", "mesos": "scheduler"}
