"""The bytes that a host boots with."""

from __future__ import annotations

import ast
import base64
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from netaddr import IPAddress, IPNetwork

from host import package
from host.render import MAX_BYTES, UserDataError, node_facts, programs, user_data, user_data_base64
from localcloud.paths import cache_dir
from ops.secrets import generate
from plan import ports
from plan.cluster import Cluster
from plan.mesh import DRIVERS
from tests.host.golden import different, golden_files
from tests.host.support import EXAMPLES, HOSTS, LAYERS, PUBLIC_KEY, STACK, USERDATA, files_of, left_out, one_of_each
from tests.plan.support import cluster
from tests.plan.test_access import READ

# Bytes below EC2's limit that every kind of host has left, so that it is seen in time when they become few.
HEADROOM = 5500


def bytes_by_name(plan: Cluster) -> dict[str, bytes]:
    return {host.name: user_data(plan, host, STACK) for host in plan.hosts}


def unpacked(data: bytes) -> dict[str, Any]:
    head, _, body = gzip.decompress(data).decode().partition("\n")
    assert head == "#cloud-config"
    return json.loads(body)


def test_golden_files_say_what_each_kind_of_host_gets() -> None:
    assert different(golden_files()) == [], "if that is meant: python -m tests.host.golden"


@pytest.mark.parametrize(("plan", "host"), HOSTS)
def test_every_file_of_the_layers_arrives_at_its_place(plan: Cluster, host: Any) -> None:
    files = files_of(plan, host)
    written = {
        f["path"]: (f["content"], int(f["permissions"], 8)) for f in unpacked(user_data(plan, host, STACK))["write_files"]
    }
    found = programs(plan, host.role)
    archive = gzip.decompress(found.archive)
    assert found.key == f"programs/{host.role}/{hashlib.sha256(archive).hexdigest()}"
    assert written["/etc/apollo/programs"] == (f"{found.key}\n", 0o644)
    with tarfile.open(fileobj=io.BytesIO(archive)) as unpacked_files:
        for entry in unpacked_files:
            content = unpacked_files.extractfile(entry)
            assert content and f"/{entry.name}" not in written and (entry.uid, entry.gid, entry.mtime) == (0, 0, 0)
            written[f"/{entry.name}"] = (content.read().decode(), entry.mode)
    assert written == {path: (file.content, file.mode) for path, file in files.items()}
    packages = [] if plan.settings.image.baked else ["packages"]
    for layer in ("boot", "rootfs", f"roles/{host.role}", *(f"mesh/{name}" for name in plan.mesh.layers), *packages):
        for source in (USERDATA / layer).rglob("*"):
            path = "/" + str(source.relative_to(USERDATA / layer)).removesuffix(".tmpl")
            if source.is_file() and "__pycache__" not in path:
                assert (written[path][1] == 0o755) == source.read_text().startswith("#!")


@pytest.mark.parametrize(("plan", "host"), HOSTS)
def test_user_data_itself_holds_the_network_the_way_in_and_what_fetches_the_rest(plan: Cluster, host: Any) -> None:
    there = {f["path"] for f in unpacked(user_data(plan, host, STACK))["write_files"]}
    library = "/usr/local/lib/apollo"
    assert there >= {"/etc/network/interfaces.d/weave", "/usr/local/bin/weave", "/etc/systemd/system/weave-bridge.service"}
    assert there >= {*(f"{library}/{name}" for name in package.BOOT), "/usr/local/bin/apollo", "/etc/apollo/programs"}
    assert there >= {"/var/lib/cloud/scripts/per-boot/apollo-first-boot", "/etc/systemd/system/apollo-secrets.service"}
    # sshd must not start before the key is here that its configuration names.
    assert there >= {"/etc/ssh/sshd_config.d/apollo.conf", "/etc/ssh/sshd_not_to_be_run"}
    assert host.role != "slave" or "/etc/default/docker" in there


def test_programs_are_the_same_whatever_the_stack_and_travel_whole() -> None:
    plan, other = cluster(), cluster(overlay={"cidr": "172.20.0.0/14"}, slaves={"count": 9})
    assert programs(plan, "slave") == programs(other, "slave")
    for file in files_of(plan, plan.slaves[0]).values():
        if file.source and file.fetched and not file.source.endswith(".tmpl"):
            root = USERDATA.parents[1]
            place = root if file.source.startswith(("host/", "plan/")) else USERDATA
            assert file.content == (place / file.source).read_text()


def test_the_bytes_are_the_same_every_time_and_hold_no_time() -> None:
    plan, other = cluster(), cluster()
    for one, two in zip(plan.hosts, other.hosts, strict=True):
        data = user_data(plan, one, STACK)
        assert data == user_data(other, two, STACK)
        assert data[4:8] == bytes(4)
        assert base64.b64decode(user_data_base64(plan, one, STACK)) == data


@pytest.mark.parametrize("mesh", list(DRIVERS))
@pytest.mark.parametrize("baked", [True, False])
def test_every_host_fits_ec2_with_headroom(mesh: str, baked: bool) -> None:
    def sizes(key: str) -> dict[str, int]:
        plan = cluster(region="ap-southeast-1", overlay={"mesh": mesh}, image={"baked": baked}, admin={"publicKey": key})
        return {host.name: len(user_data(plan, host, "a-stack-with-a-long-name")) for host in one_of_each(plan)}

    usual = sizes(PUBLIC_KEY)
    print(f"{mesh}, {'baked' if baked else 'from packages'}: {usual} of {MAX_BYTES}")
    assert max(usual.values()) <= MAX_BYTES - HEADROOM
    # The worst that an operator can add: an RSA key of 4096 bits is noise, which does not compress.
    noise = b"".join(hashlib.sha512(bytes([n])).digest() for n in range(9))[:535]
    assert max(sizes(f"ssh-rsa {base64.b64encode(noise).decode()}").values()) <= MAX_BYTES


def test_user_data_beyond_the_limit_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("host.render.MAX_BYTES", 100)
    plan = cluster()
    with pytest.raises(UserDataError, match=r"slave-1: user-data is \d+ bytes, and EC2 takes 100"):
        user_data(plan, plan.slaves[0], STACK)


# -- a host's bytes are its own business


@settings(max_examples=20)
@given(
    count=st.integers(1, 12),
    grown=st.integers(0, 6),
    control=st.sampled_from([(1, 3), (3, 5), (5, 1), (1, 5)]),
    edges=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    rolled=st.integers(1, 5),
    retired=st.integers(6, 12),
)
def test_scaling_rolling_and_retiring_change_no_byte_of_another_host(
    count: int, grown: int, control: tuple[int, int], edges: tuple[int, int], rolled: int, retired: int
) -> None:
    before = bytes_by_name(cluster(slaves={"count": count}, control={"count": control[0]}, edge={"count": edges[0]}))
    after = bytes_by_name(
        cluster(
            slaves={"count": count + grown, "retired": [retired], "generations": {rolled: 2}},
            control={"count": control[1], "generations": {2: 7}},
            edge={"count": edges[1]},
        )
    )
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert changed == {f"slave-{rolled}", "control-2"} & before.keys() & after.keys()


def test_appending_a_zone_changes_no_byte_of_any_host() -> None:
    before = bytes_by_name(cluster(zones=["a", "b"], slaves={"count": 5}))
    after = bytes_by_name(cluster(zones=["a", "b", {"name": "c", "fromSlot": 6}], slaves={"count": 9}, control={"count": 5}))
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    "change", [{"domain": "example.com"}, {"publish": ["web"]}, {"defaultService": "web"}, {"tls": {"enabled": True}}]
)
def test_what_is_set_for_the_edge_changes_no_byte_of_another_host(change: dict[str, Any]) -> None:
    before, after = bytes_by_name(cluster()), bytes_by_name(cluster(edge=change))
    assert {name for name in before if before[name] != after[name]} == {"edge-1"}


@pytest.mark.parametrize("overlay", [{}, {"cidr": "172.20.0.0/14", "hostPrefix": 25}, {"hostPrefix": 20}])
def test_edges_know_where_containers_are_and_where_no_slot_has_any(overlay: dict[str, Any]) -> None:
    plan = cluster(overlay=overlay)
    first, last = map(IPAddress, node_facts(plan, plan.edges[0], STACK)["EDGE_CONTAINERS"].split())
    for slot in (1, plan.overlay.last_slot):
        subnet = plan.overlay.docker_subnet(slot)
        assert first <= subnet[0] and subnet[-1] <= last
    for host in plan.hosts:
        assert not first <= host.bridge_address.ip <= last
    assert (str(first), str(last)) == ("10.2.1.0", "10.2.239.255") or overlay


def test_edges_know_where_a_load_balancer_can_be_and_no_slave_or_control_node() -> None:
    plan = cluster(zones=["a", "b"], edge={"count": 2})
    balancers = IPNetwork(node_facts(plan, plan.edges[0], STACK)["EDGE_BALANCERS"])
    assert str(balancers) == "10.0.224.0/19"
    assert all(zone.public_subnet in balancers for zone in plan.zones)
    assert not [host.name for host in (*plan.slaves, *plan.control) if host.private_ip in balancers]
    assert plan.overlay.network not in balancers
    # A zone more gives the balancer a subnet more, and changes nothing on an edge that runs.
    wider = cluster(zones=["a", "b", {"name": "c", "fromSlot": 13}], edge={"count": 2})
    assert node_facts(wider, wider.edges[0], STACK) == node_facts(plan, plan.edges[0], STACK)


# -- what the seed asks for


def test_slave_1_has_the_seeds_stanza_to_the_letter() -> None:
    plan = cluster()
    assert files_of(plan, plan.slaves[0])["/etc/network/interfaces.d/weave"].content == (
        "auto weave\n"
        "iface weave inet manual\n"
        "  pre-up /usr/local/bin/weave create-bridge\n"
        "  post-up ip addr add dev weave 10.2.0.1/16\n"
        "  pre-down ifconfig weave down\n"
        "  post-down brctl delbr weave\n"
    )


@pytest.mark.parametrize(("slot", "subnet"), [(1, "10.2.1.0/24"), (2, "10.2.2.0/24")])
def test_docker_opts_begin_as_the_seeds_do(slot: int, subnet: str) -> None:
    plan = cluster()
    options = files_of(plan, plan.slaves[slot - 1])["/etc/default/docker"].content
    assert f'DOCKER_OPTS="--bridge=weave --fixed-cidr={subnet} ' in options
    assert f"--dns=10.2.0.{slot} " in options and "--mtu=8916 " in options and "--live-restore" in options


def test_other_overlays_reach_every_file_that_names_one() -> None:
    plan = cluster(overlay={"cidr": "172.20.0.0/14", "hostPrefix": 25, "mesh": "vxlan"}, consul={"domain": "cluster.internal"})
    # The hosts' program has the default in a docstring, and nothing in what it does.
    files = [file for host in plan.hosts for file in files_of(plan, host).values() if not file.path.endswith(".py")]
    text = "".join(file.content for file in files)
    assert "10.2." not in text
    assert "server=/cluster.internal/127.0.0.1#8600" in text and "--dns-search=service.cluster.internal" in text


# -- safety


def test_no_secret_stands_in_any_file() -> None:
    values = generate()
    for plan in EXAMPLES.values():
        for host in one_of_each(plan):
            text = gzip.decompress(user_data(plan, host, STACK)).decode()
            text += "".join(file.content for file in files_of(plan, host).values())
            # A digest is no secret, whatever it looks like.
            text = re.sub(r"\b[0-9a-f]{64}\b", "", text)
            assert not [key for key, value in values.items() if value.strip() in text]
            # Nor anything that looks like one: a UUID, a key in base64, a PEM block; but for the admin's public key.
            text = text.replace(plan.settings.admin.public_key or "", "")
            assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-|PRIVATE KEY|[A-Za-z0-9+/]{43}=", text)


def test_a_host_asks_only_for_the_secrets_of_its_role() -> None:
    plan = cluster()
    for host in one_of_each(plan):
        asked = files_of(plan, host)["/etc/apollo/parameters"].content.split()
        assert sorted(asked) == sorted(
            name for name, readers in READ.items() if host.role in readers and name != "edge/certificate"
        )


@pytest.mark.parametrize("stack", ['dev"; rm -rf /', "dev$(id)", "dev`id`", "dev\nX=1"])
def test_a_fact_that_a_shell_would_run_is_refused(stack: str) -> None:
    plan = cluster()
    with pytest.raises(UserDataError, match="slave-1: STACK is"):
        user_data(plan, plan.slaves[0], stack)


def test_node_env_reads_the_same_in_a_shell_and_in_python() -> None:
    plan = EXAMPLES["vxlan-baked"]
    text = files_of(plan, plan.slaves[0])["/etc/apollo/node.env"].content
    shell = subprocess.run(
        ["sh", "-c", "set -a; . /dev/stdin; env -0"], input=text, capture_output=True, text=True, check=True, env={}
    )
    pairs: Mapping[str, str] = dict(entry.split("=", 1) for entry in shell.stdout.split("\0") if "=" in entry)
    facts = {key: value.strip('"') for key, value in (line.split("=", 1) for line in text.splitlines())}
    assert {key: pairs[key] for key in facts} == facts


@pytest.mark.parametrize("count", [1, 3, 5])
def test_every_host_knows_all_five_addresses_of_control_nodes_however_many_there_are(count: int) -> None:
    plan = cluster(control={"count": count})
    for host in plan.hosts:
        known = node_facts(plan, host, STACK)["CONTROL_ADDRESSES"].split()
        assert known == ["10.0.0.11", "10.0.32.12", "10.0.0.13", "10.0.32.14", "10.0.0.15"]


def literals(path: Path) -> str:
    """What a file says, less its comments and a Python program's docstrings."""
    text = path.read_text()
    if path.suffix != ".py":
        return re.sub(r"(^|\s)(#|//).*|\{\{-? /\*.*?\*/|\{\{ ports\.\w+ \}\}", "", text, flags=re.MULTILINE)
    tree = ast.parse(text)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in said]
    return "\n".join(str(value) for value in constants if isinstance(value, (int, str)) and not isinstance(value, bool))


def test_a_port_of_the_plan_stands_in_the_plan_alone() -> None:
    """Elsewhere it is `ports.NAME`, in a configuration file `{{ ports.NAME }}` and the file ends in .tmpl."""
    numbers = {port for name, port in vars(ports).items() if name.isupper()}
    port = re.compile(rf"(?<![\w.])({'|'.join(map(str, numbers))})(?![\w.])")
    root = USERDATA.parents[1]
    files = [path for path in (*USERDATA.rglob("*"), *(root / "host/apollo").rglob("*.py")) if path.is_file()]
    found = [(path.relative_to(root).as_posix(), match[0]) for path in files for match in port.finditer(literals(path))]
    assert found == []


def test_an_unknown_name_in_a_template_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in LAYERS:
        (tmp_path / layer / "etc").mkdir(parents=True)
    (tmp_path / "rootfs/etc/motd.tmpl").write_text("on {{ bridge_addres }}\n")
    monkeypatch.setattr("host.render._FOLDER", tmp_path)
    plan = EXAMPLES["vxlan-baked"]
    with pytest.raises(UserDataError, match="unknown name bridge_addres; known: bridge_address"):
        user_data(plan, plan.slaves[0], STACK)


def test_two_layers_with_one_path_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in ("rootfs", "roles/slave"):
        (tmp_path / layer / "etc").mkdir(parents=True)
        (tmp_path / layer / "etc/motd").write_text("hello\n")
    monkeypatch.setattr("host.render._FOLDER", tmp_path)
    plan = EXAMPLES["vxlan-baked"]
    with pytest.raises(UserDataError, match="/etc/motd comes from both roles/slave/etc/motd and rootfs/etc/motd"):
        user_data(plan, plan.slaves[0], STACK)


# -- cloud-init's own opinion


@pytest.fixture(scope="session")
def schema() -> Any:
    """The schema that Debian's cloud-init checks user-data with, out of its package; the package is never installed."""
    folder = cache_dir() / "cloud-init"
    place = "usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
    if not (folder / place).exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # As root apt hands downloads to a user that may not enter the cache; this keeps them with us.
            options = ["-o", "APT::Sandbox::User=root"]
            subprocess.run(["apt-get", *options, "download", "cloud-init"], cwd=folder, check=True, capture_output=True)
            package = next(folder.glob("cloud-init_*.deb"))
            subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True, capture_output=True)
        except (OSError, StopIteration, subprocess.CalledProcessError) as error:
            left_out(f"cloud-init's schema could not be fetched with apt-get download: {error}")
    return json.loads((folder / place).read_text())


@pytest.mark.parametrize(("plan", "host"), HOSTS)
def test_cloud_inits_own_schema_accepts_it(plan: Cluster, host: Any, schema: Any) -> None:
    config = unpacked(user_data(plan, host, STACK))
    errors = [f"{'.'.join(map(str, e.path))}: {e.message[:200]}" for e in Draft4Validator(schema).iter_errors(config)]
    assert not errors
    known = {key for part in schema["allOf"] for key in schema["$defs"][part["$ref"].split("/")[-1]].get("properties", {})}
    # Keys that every version reads and this version's schema does not list.
    assert config.keys() - known <= {"preserve_hostname", "hostname", "ssh"}, os.linesep.join(sorted(config.keys() - known))
