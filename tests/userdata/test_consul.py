"""Consul on a host: its configuration, who starts the cluster, and the rights of each token, with the real program."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from plan import ports
from plan.cluster import PlannedHost
from tests.plan.support import cluster
from tests.userdata.conftest import PLAN, Agent
from tests.userdata.support import STACK, files_of, host_module, one_of_each
from userdata import node_facts

apollo = host_module("apollo")
consul_config = host_module("consul_config")
consul_acl = host_module("consul_acl")
TOKEN = "6b0e2f7e-5c5b-4b57-9d3c-0a4b7c1de000"


@pytest.mark.parametrize("planned", one_of_each(PLAN), ids=lambda host: host.name)
def test_consul_accepts_the_configuration_of_every_role(planned: PlannedHost, host: Path, consul: Path) -> None:
    folder = host / "consul.d"
    folder.mkdir()
    for path, file in files_of(PLAN, planned).items():
        if path.startswith("/etc/consul.d/"):
            (folder / path.rpartition("/")[2]).write_text(file.content)
    facts = node_facts(PLAN, planned, STACK)
    config = consul_config.config(facts, TOKEN, facts["CONTROL_ADDRESSES"].split(), planned.role == "control")
    (folder / "node.json").write_text(json.dumps(config))
    done = subprocess.run([consul, "validate", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- who starts the cluster

OTHERS = ["127.0.0.12", "127.0.0.13"]


def server(index: int, generation: int = 1) -> dict[str, str]:
    return {"INDEX": str(index), "GENERATION": str(generation)}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Another control address takes connections."""
    with closing(socket.create_server((OTHERS[1], 0))) as listener:
        monkeypatch.setattr(consul_config, "RPC_PORT", listener.getsockname()[1])
        yield


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server((OTHERS[1], 0))) as listener:
        monkeypatch.setattr(consul_config, "RPC_PORT", listener.getsockname()[1])


@pytest.mark.usefixtures("host", "silent")
def test_server_1_starts_a_blank_cluster_and_remembers_having_done_so() -> None:
    assert consul_config.starts_cluster(server(1), OTHERS)
    (consul_config.DATA / "raft").mkdir()
    consul_config.SEEN_DATA.parent.mkdir()
    consul_config.SEEN_DATA.touch()
    assert consul_config.starts_cluster(server(1), OTHERS)
    # Its successor, with the data volume kept.
    assert consul_config.starts_cluster(server(1, generation=2), OTHERS)


@pytest.mark.usefixtures("host", "answering")
@pytest.mark.parametrize("facts", [server(1), server(1, generation=2), server(2), server(5)])
def test_nobody_starts_a_cluster_where_one_answers(facts: dict[str, str]) -> None:
    assert not consul_config.starts_cluster(facts, OTHERS)


@pytest.mark.usefixtures("host", "silent")
def test_a_server_with_data_waits_for_nobody() -> None:
    (consul_config.DATA / "raft").mkdir()
    assert not consul_config.starts_cluster(server(2), OTHERS)


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("lost", ["volume", "machine and volume"])
def test_server_1_without_its_data_waits_until_another_answers(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lost == "volume":
        consul_config.SEEN_DATA.parent.mkdir()
        consul_config.SEEN_DATA.touch()
    with closing(socket.create_server((OTHERS[0], 0))) as listener:
        monkeypatch.setattr(consul_config, "RPC_PORT", listener.getsockname()[1])
    waits: list[float] = []
    opened: list[socket.socket] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            opened.append(socket.create_server((OTHERS[0], consul_config.RPC_PORT)))

    monkeypatch.setattr(consul_config.time, "sleep", sleep)
    assert not consul_config.starts_cluster(server(1, generation=1 if lost == "volume" else 2), OTHERS)
    assert len(waits) == 2 and not (consul_config.DATA / "bootstrap").exists()
    opened[0].close()


@pytest.mark.usefixtures("silent")
def test_if_all_lost_their_data_an_operator_names_the_one_that_starts_anew(host: Path) -> None:
    (host / "new-cluster").touch()
    assert consul_config.starts_cluster(server(3), OTHERS)
    assert not (host / "new-cluster").exists()


# -- what each token may do


def allowed(path: str, token: str, method: str = "GET", body: Any = None) -> bool:
    try:
        apollo.consul(path, token, method, body)
    except apollo.ConsulError as error:
        assert error.status == 403, error
        return False
    return True


def node(name: str) -> dict[str, Any]:
    return {"Node": name, "Address": "10.0.0.99"}


def token_of(name: str) -> str:
    return apollo.secret(f"consul/{name}-token")


def stand(agent: Agent, grace: float = 3600) -> str:
    consul_acl.stand(agent.facts, token_of("management"), grace)
    return token_of("management")


def test_each_token_may_do_its_work_and_no_more(agent: Agent) -> None:
    management = stand(agent)
    slave_7 = consul_acl.create_node(agent.facts, management, "slave-7")
    slave, edge, registration, template = map(token_of, ("slave", "edge", "registration", "template"))
    # A node's token is for that node alone.
    assert allowed("catalog/register", slave_7, "PUT", node("slave-7"))
    for name in ("slave-8", "slave-70", "control-1", "edge-1"):
        for token in (slave_7, slave, edge, registration, template, ""):
            assert not allowed("catalog/register", token, "PUT", node(name)), name
    for token in (slave, edge, registration, template, ""):
        assert not allowed("catalog/register", token, "PUT", {**node("slave-7"), "Address": "10.0.0.66"})
        assert not allowed("catalog/deregister", token, "PUT", {"Node": "slave-7"})
    service = {"ID": "apollo:x:80", "Name": "web", "Port": 80}
    assert allowed("agent/service/register", registration, "PUT", service)
    assert not allowed("agent/service/register", registration, "PUT", {**service, "ID": "y", "Name": "consul"})
    for token in (slave_7, slave, edge, template, ""):
        assert not allowed("agent/service/register", token, "PUT", {**service, "Name": "other"})
    for token in (slave_7, slave, edge, registration, template, ""):
        assert not allowed("acl/tokens", token) and not allowed("kv/secret?raw", token)
        assert not allowed("operator/keyring", token) and not allowed("agent/self", token)
    for token in (slave, edge, template):
        assert "slave-7" in {entry["Node"] for entry in apollo.consul("catalog/nodes", token)[0]}
    # Without a token nothing is seen.
    assert apollo.consul("catalog/nodes")[0] == []


def test_policies_and_tokens_are_made_once_and_mended(agent: Agent) -> None:
    management = stand(agent)
    tokens = {entry["AccessorID"]: entry for entry in apollo.consul("acl/tokens", management)[0]}
    stand(agent)
    assert {entry["AccessorID"]: entry for entry in apollo.consul("acl/tokens", management)[0]} == tokens
    # A rule that somebody widened is put back.
    policy = next(entry for entry in apollo.consul("acl/policies", management)[0] if entry["Name"] == "apollo-edge")
    apollo.consul(f"acl/policy/{policy['ID']}", management, "PUT", {"Name": "apollo-edge", "Rules": 'acl = "write"'})
    assert allowed("acl/tokens", token_of("edge"))
    stand(agent)
    assert not allowed("acl/tokens", token_of("edge"))


def test_a_rotated_token_stays_valid_beside_its_successor_until_its_time_is_over(agent: Agent, host: Path) -> None:
    stand(agent)
    old, untouched = token_of("edge"), token_of("slave")
    apollo.write(host / "secrets/consul/edge-token", f"{uuid.uuid4()}\n", 0o600)
    stand(agent)
    assert allowed("acl/token/self", old) and allowed("acl/token/self", token_of("edge"))
    stand(agent, grace=0)
    assert not allowed("acl/token/self", old)
    assert allowed("acl/token/self", token_of("edge")) and allowed("acl/token/self", untouched)


def test_a_rotated_management_token_takes_those_of_the_nodes_with_it_once_they_asked_again(agent: Agent, host: Path) -> None:
    old = stand(agent)
    old_nodes = [consul_acl.create_node(agent.facts, old, name) for name in ("slave-1", "slave-2")]
    new = str(uuid.uuid4())
    # What a server does that starts with another `initial_management`.
    body = {"SecretID": new, "Description": consul_acl.INITIAL, "Policies": [{"Name": "global-management"}]}
    apollo.consul("acl/token", old, "PUT", body)
    apollo.write(host / "secrets/consul/management-token", new, 0o600)
    consul_acl.create_node(agent.facts, new, "slave-1")
    stand(agent, grace=0)
    assert not allowed("acl/token/self", old) and allowed("acl/tokens", new)
    assert [allowed("acl/token/self", token) for token in old_nodes] == [False, True]


def test_a_new_gossip_key_is_given_to_all_then_used_by_all_then_alone(agent: Agent, host: Path) -> None:
    management, old = stand(agent), apollo.secret("consul/gossip-key")
    new = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    apollo.write(host / "secrets/consul/gossip-key", new, 0o600)
    seen: list[tuple[set[str], set[str]]] = []
    for _ in range(4):
        consul_acl.ring(management, new)
        ring = next(ring for ring in apollo.consul("operator/keyring", management)[0] if not ring["WAN"])
        seen.append((set(ring["Keys"]), set(ring["PrimaryKeys"])))
    assert seen == [({old, new}, {old}), ({old, new}, {new}), ({new}, {new}), ({new}, {new})]


def test_a_host_that_was_away_meanwhile_puts_the_new_gossip_key_first(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_config.shutil, "chown", lambda *_: None)  # there is no user of that name here
    ring = host / "data/serf/local.keyring"
    consul_config.renew_ring("new")
    assert not ring.exists()
    for before, after in ((["old"], ["new", "old"]), (["old", "new"], ["new", "old"]), (["new"], ["new"])):
        apollo.write(ring, json.dumps(before))
        consul_config.renew_ring("new")
        assert json.loads(ring.read_text()) == after


# -- a token for each node


@pytest.mark.parametrize("network", ["10.0.0.0/16", "10.8.0.0/21", "172.16.0.0/16"])
def test_every_planned_address_leads_back_to_its_host_and_no_other_address_to_any(network: str) -> None:
    grown = cluster(
        network={"cidr": network}, zones=["a", "b", "c"], slaves={"count": 100}, control={"count": 5}, edge={"count": 10}
    )
    facts = {"VPC_CIDR": network}
    for planned in grown.hosts:
        assert consul_acl.host_at(facts, str(planned.private_ip)) == planned.name
    first = grown.vpc.network
    for stranger in ("10.2.1.7", "127.0.0.1", first[1], first[2], first[10], first[16], first[32], first[-1], "192.0.2.1"):
        with pytest.raises(ValueError, match="is no host's address"):
            consul_acl.host_at(facts, str(stranger))


@pytest.fixture(params=["0"])
def desk(agent: Agent, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Generator[Agent]:
    """The server's desk on the loopback, in a plan whose slave-1 is 127.0.0.33 and whose edge-1 is 127.0.224.11."""
    monkeypatch.setattr(apollo, "TOKEN_PORT", 0)
    servers: list[Any] = []

    class Server(consul_acl.ThreadingHTTPServer):
        def serve_forever(self, poll_interval: float = 0.05) -> None:
            servers.append(self)
            ready.set()
            super().serve_forever(poll_interval)

    ready = threading.Event()
    monkeypatch.setattr(consul_acl, "ThreadingHTTPServer", Server)
    agent.facts = {**agent.facts, "VPC_CIDR": "127.0.0.0/16", "PRIVATE_IP": "127.0.0.11", "CONSUL_TLS": request.param}
    thread = threading.Thread(target=consul_acl.serve, args=(agent.facts,))
    thread.start()
    assert ready.wait(10)
    monkeypatch.setattr(apollo, "TOKEN_PORT", servers[0].server_port)
    yield agent
    servers[0].shutdown()
    thread.join()
    servers[0].server_close()


def asked(source: str, token: str) -> tuple[int, str]:
    """(status, token) of a host that asks from an address."""
    connection = http.client.HTTPConnection("127.0.0.11", apollo.TOKEN_PORT, timeout=5, source_address=(source, 0))
    with closing(connection):
        connection.request("GET", "/", headers={"X-Consul-Token": token})
        answer = connection.getresponse()
        return answer.status, json.load(answer).get("token", "")


def test_the_desk_gives_a_host_the_token_of_its_own_address_and_role(desk: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked("127.0.0.33", token_of("slave"))[0] == 503  # the roles' tokens are not there yet
    stand(desk)
    status, token = asked("127.0.0.33", token_of("slave"))
    assert status == 200 and allowed("catalog/register", token, "PUT", node("slave-1"))
    assert not allowed("catalog/register", token, "PUT", node("slave-2"))
    assert asked("127.0.0.33", token_of("slave")) == (200, token)
    assert asked("127.0.224.11", token_of("edge"))[0] == 200
    # Another role's token, none, an address without a host.
    refused = [("127.0.0.33", token_of("edge")), ("127.0.0.33", ""), ("127.0.0.1", token_of("slave"))]
    assert [asked(*pair) for pair in refused] == 3 * [(403, "")]
    said = capsys.readouterr().out
    assert "refused: 127.0.0.1 is no host's address" in said
    assert not any(secret in said for secret in (token, token_of("slave"), token_of("edge")))


@pytest.mark.parametrize("desk", ["0", "1"], indirect=True, ids=["plain", "TLS"])
def test_a_host_keeps_a_copy_of_its_token_for_boots_without_servers(
    desk: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand(desk)
    certificates("slave", tmp_path / "tls", monkeypatch)
    monkeypatch.setattr(consul_acl, "host_at", lambda *_: "slave-1")  # the loopback's own address stands for it
    monkeypatch.setattr(consul_config, "answering", lambda servers: list(servers))
    monkeypatch.setattr(consul_config, "WAIT", 0.1)
    slave = {**desk.facts, "ROLE": "slave", "NODE_NAME": "slave-1"}
    token, found = consul_config.obtain(slave, ["127.0.0.11"])
    assert allowed("catalog/register", token, "PUT", node("slave-1")) and found == ["127.0.0.11"]
    assert (apollo.SECRETS / consul_config.OWN_TOKEN).stat().st_mode & 0o777 == 0o600
    assert consul_config.obtain(slave, []) == (token, [])


def test_hosts_and_security_groups_mean_the_same_port_of_the_desk() -> None:
    assert apollo.TOKEN_PORT == ports.CONSUL_TOKENS


# -- TLS


def certificates(role: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(consul_config.shutil, "chown", lambda *_: None)
    monkeypatch.setattr(consul_config, "CERTIFICATES", folder)
    consul_config.put_certificates(role)
    return folder


# Consul's protocols on a server's port, each by the byte that it begins with.
CATALOG, RAFT, IN_TLS = b"\x00", b"\x01", b"\x03"


def heard(address: tuple[str, int], protocol: bytes, own: Path | None) -> bool:
    """Whether a server listens to a protocol within TLS. own: the caller's certificate and key."""
    context = ssl.create_default_context(cafile=consul_config.CERTIFICATES / "ca.pem")
    if own:
        context.load_cert_chain(own)
    plain = socket.create_connection(address, 5)
    plain.sendall(IN_TLS)
    with plain, context.wrap_socket(plain, server_hostname="server.dc1.consul") as secure:
        # With TLS 1.3 a refusal comes after the handshake, in the place of an answer.
        secure.settimeout(1)
        try:
            secure.sendall(protocol)
            secure.recv(1)
        except TimeoutError:
            return True
        except OSError:
            pass
        return False


def test_with_tls_only_the_holders_of_our_certificates_are_heard_by_a_server(
    host: Path, consul: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slave_folder = certificates("slave", host / "slave-tls", monkeypatch)
    server_folder = certificates("control", host / "server-tls", monkeypatch)
    server = Agent(consul, host, monkeypatch, tls="1")
    try:
        server.until_it_leads()
        stand(server)
        consul_acl.create_node(server.facts, token_of("management"), "slave-1")
        rpc = ("127.0.0.1", server.ports["server"])
        with closing(socket.create_connection(rpc, 5)) as plain:
            plain.sendall(CATALOG)
            assert plain.recv(1) == b""
        assert not heard(rpc, CATALOG, None)
        assert heard(rpc, CATALOG, slave_folder / "own.pem")
        # A slave's certificate is no server's: it takes no part in the servers' own agreement.
        assert not heard(rpc, RAFT, slave_folder / "own.pem")
        assert heard(rpc, RAFT, server_folder / "own.pem")
        monkeypatch.setattr(consul_config, "CERTIFICATES", slave_folder)
        join = [f"127.0.0.1:{server.ports['serf_lan']}"]
        slave = Agent(consul, host / "slave", monkeypatch, PLAN.slaves[0], "1", join)
        try:
            deadline = time.monotonic() + 30
            while not registered("slave-1"):
                assert time.monotonic() < deadline, Path(slave.log.name).read_text()[-2000:]
                time.sleep(0.1)
        finally:
            slave.close()
    finally:
        server.close()


def registered(name: str) -> bool:
    """Whether the agent, through a server, finds a node with what its own agent tells of it."""
    try:
        found = apollo.consul(f"catalog/node/{name}", token_of("slave"))[0]
    except apollo.ConsulError:
        return False
    return bool(found and found["Node"]["Meta"].get("bridge"))
