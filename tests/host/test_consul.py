"""Consul on a host: its configuration, who starts the cluster, and the rights of each token, with the real program."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from host.apollo import local, metrics, parameters
from host.apollo.consul import acl, configure, forget
from host.render import node_facts
from plan.cluster import PlannedHost
from tests.host.conftest import PLAN, Agent
from tests.host.support import STACK, files_of, free_ports, one_of_each, served, until
from tests.host.test_parameters import Cloud
from tests.plan.support import cluster

TOKEN = "6b0e2f7e-5c5b-4b57-9d3c-0a4b7c1de000"


@pytest.mark.parametrize("planned", one_of_each(PLAN), ids=lambda host: host.name)
def test_consul_accepts_the_configuration_of_every_role(planned: PlannedHost, host: Path, consul: Path) -> None:
    folder = host / "consul.d"
    folder.mkdir()
    for path, file in files_of(PLAN, planned).items():
        if path.startswith("/etc/consul.d/"):
            (folder / path.rpartition("/")[2]).write_text(file.content)
    facts = node_facts(PLAN, planned, STACK)
    config = configure.config(facts, TOKEN, facts["CONTROL_ADDRESSES"].split(), planned.role == "control")
    (folder / "node.json").write_text(json.dumps(config))
    done = subprocess.run([consul, "validate", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- who starts the cluster

OTHERS = ["127.0.0.12", "127.0.0.13"]


def server(index: int, generation: int = 1) -> dict[str, str]:
    return {"INDEX": str(index), "GENERATION": str(generation)}


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other control address takes connections."""
    monkeypatch.setattr(configure, "RPC_PORT", free_ports(1)[0])


@pytest.fixture
def answering(silent: None) -> Generator[None]:
    """Another one does."""
    del silent
    with closing(socket.create_server((OTHERS[1], configure.RPC_PORT))):
        yield


@pytest.mark.usefixtures("host", "silent")
def test_server_1_starts_a_blank_cluster_and_remembers_having_done_so() -> None:
    assert configure.starts_cluster(server(1), OTHERS)
    (configure.DATA / "raft").mkdir()
    configure.SEEN_DATA.parent.mkdir()
    configure.SEEN_DATA.touch()
    assert configure.starts_cluster(server(1), OTHERS)
    # Its successor, with the data volume kept.
    assert configure.starts_cluster(server(1, generation=2), OTHERS)


@pytest.mark.usefixtures("host", "answering")
@pytest.mark.parametrize("facts", [server(1), server(1, generation=2), server(2), server(5)])
def test_nobody_starts_a_cluster_where_one_answers(facts: dict[str, str]) -> None:
    assert not configure.starts_cluster(facts, OTHERS)


@pytest.mark.usefixtures("host", "silent")
def test_a_server_with_data_waits_for_nobody() -> None:
    (configure.DATA / "raft").mkdir()
    assert not configure.starts_cluster(server(2), OTHERS)


@pytest.mark.usefixtures("host", "silent")
@pytest.mark.parametrize("lost", ["volume", "machine and volume"])
def test_server_1_without_its_data_waits_until_another_answers(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lost == "volume":
        configure.SEEN_DATA.parent.mkdir()
        configure.SEEN_DATA.touch()
    waits: list[float] = []
    opened: list[socket.socket] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            opened.append(socket.create_server((OTHERS[0], configure.RPC_PORT)))

    monkeypatch.setattr(configure.time, "sleep", sleep)
    assert not configure.starts_cluster(server(1, generation=1 if lost == "volume" else 2), OTHERS)
    assert len(waits) == 2 and not (configure.DATA / "bootstrap").exists()
    opened[0].close()


@pytest.mark.usefixtures("silent")
def test_if_all_lost_their_data_an_operator_names_the_one_that_starts_anew(host: Path) -> None:
    (host / "new-cluster").touch()
    assert configure.starts_cluster(server(3), OTHERS)
    assert not (host / "new-cluster").exists()


# -- what each token may do


def allowed(path: str, token: str, method: str = "GET", body: Any = None) -> bool:
    try:
        local.consul(path, token, method, body)
    except local.ConsulError as error:
        assert error.status == 403, error
        return False
    return True


def node(name: str) -> dict[str, Any]:
    return {"Node": name, "Address": "10.0.0.99"}


def token_of(name: str) -> str:
    return local.secret(f"consul/{name}-token")


def stand(agent: Agent, grace: float = 3600) -> str:
    acl.stand(agent.facts, token_of("management"), grace)
    return token_of("management")


def test_each_token_may_do_its_work_and_no_more(agent: Agent) -> None:
    management = stand(agent)
    slave_7 = acl.create_node(agent.facts, management, "slave-7")
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
        assert "slave-7" in {entry["Node"] for entry in local.consul("catalog/nodes", token)[0]}
    # Without a token nothing is seen.
    assert local.consul("catalog/nodes")[0] == []


def test_policies_and_tokens_are_made_once_and_mended(agent: Agent) -> None:
    management = stand(agent)
    tokens = {entry["AccessorID"]: entry for entry in local.consul("acl/tokens", management)[0]}
    stand(agent)
    assert {entry["AccessorID"]: entry for entry in local.consul("acl/tokens", management)[0]} == tokens
    # A rule that somebody widened is put back.
    policy = next(entry for entry in local.consul("acl/policies", management)[0] if entry["Name"] == "apollo-edge")
    local.consul(f"acl/policy/{policy['ID']}", management, "PUT", {"Name": "apollo-edge", "Rules": 'acl = "write"'})
    assert allowed("acl/tokens", token_of("edge"))
    stand(agent)
    assert not allowed("acl/tokens", token_of("edge"))


def test_a_rotated_token_stays_valid_beside_its_successor_until_its_time_is_over(agent: Agent, host: Path) -> None:
    stand(agent)
    old, untouched = token_of("edge"), token_of("slave")
    local.write(host / "secrets/consul/edge-token", f"{uuid.uuid4()}\n", 0o600)
    stand(agent)
    assert allowed("acl/token/self", old) and allowed("acl/token/self", token_of("edge"))
    stand(agent, grace=0)
    assert not allowed("acl/token/self", old)
    assert allowed("acl/token/self", token_of("edge")) and allowed("acl/token/self", untouched)


def test_a_server_with_an_older_copy_makes_the_new_token_and_takes_neither_away(agent: Agent, host: Path) -> None:
    management, old, new = stand(agent), token_of("edge"), str(uuid.uuid4())
    rotated = in_ssm() | {"consul/edge-token": new}
    for ssm in (rotated, rotated, {}):
        # Every token that it knows was made long enough ago.
        acl.stand(agent.facts, management, 0, ssm)
        assert allowed("acl/token/self", old) and allowed("acl/token/self", new)
    local.write(host / "secrets/consul/edge-token", new, 0o600)
    acl.stand(agent.facts, management, 0, rotated)
    assert not allowed("acl/token/self", old) and allowed("acl/token/self", new)


def test_the_old_tokens_time_begins_when_the_new_one_is_read_and_not_when_it_is_made(agent: Agent, host: Path) -> None:
    management, old, new, file = stand(agent), token_of("edge"), str(uuid.uuid4()), host / "secrets/consul/edge-token"
    rotated = in_ssm() | {"consul/edge-token": new}
    acl.stand(agent.facts, management, 0, rotated)
    time.sleep(2)
    local.write(file, new, 0o600)
    # Read just now, however long a busy machine takes to ask Consul.
    os.utime(file, (time.time() + 600, time.time() + 600))
    acl.stand(agent.facts, management, 2, rotated)
    assert allowed("acl/token/self", old)
    os.utime(file, (time.time() - 2, time.time() - 2))
    acl.stand(agent.facts, management, 2, rotated)
    assert not allowed("acl/token/self", old)


@pytest.mark.usefixtures("host")
def test_what_ssm_has_is_asked_in_one_question_and_its_silence_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Cloud.values, Cloud.seen = in_ssm() | {"consul/edge-token": "new"}, []
    with served(Cloud) as place:
        facts = {"AWS_ENDPOINT": f"http://{place}", "REGION": "eu-west-1", "SSM_PREFIX": "/apollo/dev"}
        monkeypatch.setattr(parameters, "METADATA", f"http://{place}/latest")
        monkeypatch.setattr(parameters, "facts", lambda: facts)
        ssm = acl.from_ssm()
    assert ssm == Cloud.values and len(Cloud.seen) == 1
    assert acl.unread(ssm) == ["consul/edge-token"]
    # Nobody listens any more.
    assert acl.from_ssm() == {}
    assert set(acl.unread({})) == set(acl.SECRETS) - {acl.GOSSIP}
    said = capsys.readouterr().out
    assert "the gossip key stay" in said and not any(value in said for value in ssm.values())


def test_a_node_that_is_forgotten_takes_its_own_tokens_along_and_no_other(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    management, former = stand(agent), str(uuid.uuid4())
    tokens = {name: acl.create_node(agent.facts, management, name) for name in ("slave-7", "slave-70", "edge-7")}
    # One of before the management token was rotated.
    value = acl.node_token(former, "slave-7")
    acl.create(management, "node slave-7", value, NodeIdentities=[{"NodeName": "slave-7", "Datacenter": "dc1"}])
    monkeypatch.setattr(local, "facts", lambda: agent.facts)
    assert allowed("acl/token/self", value)
    for name in ("slave-7", "control-4"):
        assert forget.main(name, "10.0.0.40") == 0
    assert [allowed("acl/token/self", token) for token in (*tokens.values(), value)] == [False, True, True, False]
    assert allowed("acl/token/self", acl.node_token(management, "control-4"))
    # It comes back after all: in its place another machine asks.
    assert acl.create_node(agent.facts, management, "slave-7") == tokens["slave-7"]
    assert allowed("acl/token/self", tokens["slave-7"])


def test_a_rotated_management_token_takes_those_of_the_nodes_with_it_once_they_asked_again(agent: Agent, host: Path) -> None:
    old = stand(agent)
    old_nodes = [acl.create_node(agent.facts, old, name) for name in ("slave-1", "slave-2")]
    new = str(uuid.uuid4())
    # What a server does that starts with another `initial_management`.
    body = {"SecretID": new, "Description": acl.INITIAL, "Policies": [{"Name": "global-management"}]}
    local.consul("acl/token", old, "PUT", body)
    local.write(host / "secrets/consul/management-token", new, 0o600)
    acl.create_node(agent.facts, new, "slave-1")
    stand(agent, grace=0)
    assert not allowed("acl/token/self", old) and allowed("acl/tokens", new)
    assert [allowed("acl/token/self", token) for token in old_nodes] == [False, True]


NEW_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def in_ssm() -> dict[str, str]:
    """What SSM holds as long as nothing is rotated."""
    return {name: local.secret(name) for name in acl.SECRETS}


def keys_of_all() -> tuple[list[str], list[str]]:
    """The gossip keys that agents have, and those that they send with."""
    ring = next(ring for ring in local.consul("operator/keyring", token_of("management"))[0] if not ring["WAN"])
    return sorted(ring["Keys"]), sorted(ring["PrimaryKeys"])


def answered(ask: Callable[[], Any]) -> Any:
    """What it gives once all agents answer. One that has just come may be late with it, and the leader asks again, too."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask()
        except local.ConsulError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def alive() -> set[str]:
    """The nodes that the agent is in touch with."""
    try:
        return {member["Name"] for member in local.consul("agent/members", token_of("slave"))[0] if member["Status"] == 1}
    except local.ConsulError:
        return set()


def test_a_new_gossip_key_is_given_to_all_then_used_by_all_then_alone(agent: Agent, host: Path) -> None:
    management, old = stand(agent), local.secret("consul/gossip-key")
    local.write(host / "secrets/consul/gossip-key", NEW_KEY, 0o600)
    seen: list[tuple[list[str], list[str]]] = []
    for _ in range(4):
        acl.ring(management, NEW_KEY)
        seen.append(keys_of_all())
    both = sorted((old, NEW_KEY))
    assert seen == [(both, [old]), (both, [NEW_KEY]), ([NEW_KEY], [NEW_KEY]), ([NEW_KEY], [NEW_KEY])]


def test_who_leads_follows_ssm_and_not_its_own_copy_of_the_gossip_key(agent: Agent, host: Path) -> None:
    management, old = stand(agent), local.secret("consul/gossip-key")
    # Its copy is older than SSM, as another server's may be that led before.
    for _ in range(4):
        acl.stand(agent.facts, management, ssm=in_ssm() | {acl.GOSSIP: NEW_KEY})
    assert keys_of_all() == ([NEW_KEY], [NEW_KEY])
    # Its copy is newer than what it knows of SSM.
    local.write(host / "secrets/consul/gossip-key", old, 0o600)
    acl.stand(agent.facts, management, ssm={})
    assert keys_of_all() == ([NEW_KEY], [NEW_KEY])


def test_a_host_may_start_at_any_moment_of_a_rotation_of_the_gossip_key(
    agent: Agent, host: Path, consul: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configure.shutil, "chown", lambda *_: None)  # there is no user of that name here
    management = stand(agent)
    for planned in PLAN.slaves:
        acl.create_node(agent.facts, management, planned.name)
    join = [f"127.0.0.1:{agent.ports['serf_lan']}"]
    hosts = [Agent(consul, host / planned.name, monkeypatch, planned, join=join) for planned in PLAN.slaves[:2]]
    there, away = hosts

    def at(who: Agent) -> None:
        monkeypatch.setattr(local, "CONSUL", f"http://127.0.0.1:{who.ports['http']}")

    def joined(who: Agent, seconds: float = 60) -> bool:
        """Whether it sees the server, and the server it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            at(who)
            if "control-1" in alive():
                at(agent)
                if who.facts["NODE_NAME"] in alive():
                    return True
            time.sleep(0.1)
        return False

    def stop(who: Agent) -> None:
        who.process.terminate()
        who.process.wait(30)

    def start(who: Agent) -> None:
        """With the new key in its secrets, as configure.main does it."""
        primary = configure.digest(configure.ring()[0])
        with monkeypatch.context() as own:
            own.setattr(configure, "DATA", Path(who.log.name).parent / "data")
            configure.update_ring(NEW_KEY, primary)
        who.process = subprocess.Popen(who.process.args, stdout=who.log, stderr=who.log)

    try:
        assert joined(there) and joined(away)
        stop(away)
        until(lambda: away.facts["NODE_NAME"] not in alive(), "the others miss it")
        local.write(host / "secrets/consul/gossip-key", NEW_KEY, 0o600)
        # One that never knew another key. It is let in as soon as the others send with it.
        hosts.append(Agent(consul, host / "fresh", monkeypatch, PLAN.slaves[2], join=join))
        assert not joined(hosts[2], 4)
        for step in ("not begun", "all have it", "all send with it", "the old one is gone"):
            stop(there)
            start(there)
            assert joined(there), step
            answered(lambda: acl.ring(management, NEW_KEY))
        assert joined(hosts[2])
        start(away)
        assert joined(away)
        # It brought the old key along.
        answered(lambda: acl.ring(management, NEW_KEY))
        assert answered(keys_of_all) == ([NEW_KEY], [NEW_KEY])
    finally:
        for one in hosts:
            one.close()


@pytest.mark.parametrize(
    ("kept", "primary", "updated"),
    [
        ([], "new", []),
        # Not begun, and nobody to ask: it must be able to hear and must not run ahead.
        (["old"], "old", ["old", "new"]),
        (["old"], "", ["old", "new"]),
        (["new", "old"], "old", ["old", "new"]),
        # It was away while the others went on, to a key that its secrets have or that it had been given before.
        (["old"], "new", ["new", "old"]),
        (["old", "newer"], "newer", ["newer", "old", "new"]),
        (["new"], "new", ["new"]),
    ],
)
def test_a_host_sends_with_the_gossip_key_that_servers_send_with(
    host: Path, monkeypatch: pytest.MonkeyPatch, kept: list[str], primary: str, updated: list[str]
) -> None:
    monkeypatch.setattr(configure.shutil, "chown", lambda *_: None)
    ring = host / "data/serf/local.keyring"
    if kept:
        local.write(ring, json.dumps(kept), 0o600)
    configure.update_ring("new", configure.digest(primary) if primary else "")
    assert configure.ring() == updated
    assert not kept or ring.stat().st_mode & 0o777 == 0o600


# -- a token for each node


@pytest.mark.parametrize("network", ["10.0.0.0/16", "10.8.0.0/21", "172.16.0.0/16"])
def test_every_planned_address_leads_back_to_its_host_and_no_other_address_to_any(network: str) -> None:
    grown = cluster(
        network={"cidr": network}, zones=["a", "b", "c"], slaves={"count": 100}, control={"count": 5}, edge={"count": 10}
    )
    facts = {"VPC_CIDR": network}
    for planned in grown.hosts:
        assert acl.host_at(facts, str(planned.private_ip)) == planned.name
    first = grown.vpc.network
    for stranger in ("10.2.1.7", "127.0.0.1", first[1], first[2], first[10], first[16], first[32], first[-1], "192.0.2.1"):
        with pytest.raises(ValueError, match="is no host's address"):
            acl.host_at(facts, str(stranger))


@pytest.fixture(params=["0"])
def desk(agent: Agent, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Generator[Agent]:
    """The server's desk on the loopback, in a plan whose slave-1 is 127.0.0.33 and whose edge-1 is 127.0.224.11."""
    monkeypatch.setattr(local, "TOKEN_PORT", 0)
    servers: list[Any] = []

    class Server(acl.TokenServer):
        def serve_forever(self, poll_interval: float = 0.05) -> None:
            servers.append(self)
            ready.set()
            super().serve_forever(poll_interval)

    ready = threading.Event()
    monkeypatch.setattr(acl, "TokenServer", Server)
    agent.facts = {**agent.facts, "VPC_CIDR": "127.0.0.0/16", "PRIVATE_IP": "127.0.0.11", "CONSUL_TLS": request.param}
    thread = threading.Thread(target=acl.serve, args=(agent.facts,))
    thread.start()
    assert ready.wait(10)
    monkeypatch.setattr(local, "TOKEN_PORT", servers[0].server_port)
    yield agent
    servers[0].shutdown()
    thread.join()
    servers[0].server_close()


def asked(source: str, token: str) -> tuple[int, str]:
    """(status, token) of a host that asks from an address."""
    connection = http.client.HTTPConnection("127.0.0.11", local.TOKEN_PORT, timeout=5, source_address=(source, 0))
    with closing(connection):
        connection.request("GET", "/", headers={"X-Consul-Token": token})
        answer = connection.getresponse()
        return answer.status, json.load(answer).get("token", "")


def test_a_host_that_only_waits_at_the_desk_holds_up_no_other_and_few_of_its_threads(desk: Agent) -> None:
    stand(desk)
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(200):
            waiting = socket.create_connection(("127.0.0.11", local.TOKEN_PORT), 5, source_address=("127.0.0.34", 0))
            stack.enter_context(closing(waiting))
            waiting.sendall(b"GET / HT")
        assert asked("127.0.0.33", token_of("slave"))[0] == 200
        assert threading.active_count() - before <= acl.AT_ONCE + 1
    # Those that broke off count no longer.
    until(lambda: threading.active_count() <= before, "their threads end")
    assert asked("127.0.0.34", token_of("slave"))[0] == 200


def test_the_desk_gives_a_host_the_token_of_its_own_address_and_role(desk: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked("127.0.0.33", token_of("slave"))[0] == 503  # the roles' tokens are not there yet
    stand(desk)
    status, token = asked("127.0.0.33", token_of("slave"))
    assert status == 200 and allowed("catalog/register", token, "PUT", node("slave-1"))
    assert not allowed("catalog/register", token, "PUT", node("slave-2"))
    assert asked("127.0.0.33", token_of("slave")) == (200, token)
    assert asked("127.0.224.11", token_of("edge"))[0] == 200
    # A rotated one goes beside its predecessor, once Consul knows it. Whoever used it sooner would be nobody.
    old, new = token_of("slave"), str(uuid.uuid4())
    assert asked("127.0.0.33", new) == (503, "")
    local.write(local.SECRETS / "consul/slave-token", new, 0o600)
    assert [asked("127.0.0.33", shown)[0] for shown in (new, old)] == [503, 200]
    stand(desk)
    assert [asked("127.0.0.33", shown) for shown in (new, old)] == 2 * [(200, token)]
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
    monkeypatch.setattr(acl, "host_at", lambda *_: "slave-1")  # the loopback's own address stands for it
    monkeypatch.setattr(configure, "answering", lambda servers: list(servers))
    monkeypatch.setattr(configure, "WAIT", 0.1)
    slave = {**desk.facts, "ROLE": "slave", "NODE_NAME": "slave-1"}
    answer, found = configure.obtain(slave, ["127.0.0.11"])
    assert allowed("catalog/register", answer.token, "PUT", node("slave-1")) and found == ["127.0.0.11"]
    assert answer.primary == configure.digest(local.secret("consul/gossip-key"))
    assert (local.SECRETS / configure.OWN_TOKEN).stat().st_mode & 0o777 == 0o600
    assert configure.obtain(slave, []) == (configure.Answer(answer.token, ""), [])


@pytest.mark.parametrize("name", ["slave-1", "control-1"])
def test_a_reload_leaves_the_old_configuration_until_consul_knows_the_new_token(
    desk: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stand(desk)
    role, target = name.partition("-")[0], tmp_path / "consul.d/node.json"
    certificates(role, tmp_path / "tls", monkeypatch)
    monkeypatch.setattr(acl, "host_at", lambda *_: name)
    monkeypatch.setattr(configure, "answering", lambda servers: list(servers))
    monkeypatch.setattr(configure, "TARGET", target)
    monkeypatch.setattr(configure, "RELOAD_WAIT", 0.5)
    own = {"control-1": "127.0.0.11"}.get(name, "127.0.0.33")
    facts = {**desk.facts, "ROLE": role, "NODE_NAME": name, "PRIVATE_IP": own, "CONTROL_ADDRESSES": "127.0.0.11 127.0.0.12"}
    monkeypatch.setattr(local, "facts", lambda: facts)
    assert configure.main() == ""
    before, new = target.read_text(), str(uuid.uuid4())
    local.write(local.SECRETS / f"consul/{role}-token", new, 0o600)
    monkeypatch.setenv("MAINPID", "1")
    assert "Consul does not know the role's token" in configure.main()
    assert target.read_text() == before
    stand(desk)
    assert configure.main() == ""
    assert json.loads(target.read_text())["acl"]["tokens"]["dns"] == new
    assert own not in json.loads(target.read_text())["retry_join"]
    # With nothing to confirm a reload needs nobody.
    monkeypatch.setattr(configure, "WAIT", 0.1)
    monkeypatch.setattr(configure, "answering", lambda _: list[str]())
    assert configure.main() == ""


# -- containers of before a boot


def registered_at(node_name: str) -> set[str]:
    """The ids of the services that the catalog has of a node."""
    return set(local.consul(f"catalog/node/{node_name}", token_of("management"))[0]["Services"])


def test_at_its_first_start_after_a_boot_a_host_has_the_servers_forget_its_containers_and_nobody_elses(
    desk: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand(desk)
    certificates("slave", tmp_path / "tls", monkeypatch)
    ids = {f"apollo:{number:03}:80" for number in range(300)}
    for name in ("slave-1", "slave-2"):
        for key in (*sorted(ids), "theirs"):
            check = {"Name": "up", "Status": "passing", "ServiceID": key}
            body = node(name) | {"Service": {"ID": key, "Service": "web", "Port": 80}, "Check": check}
            local.consul("catalog/register", token_of("management"), "PUT", body)
    monkeypatch.setattr(acl, "host_at", lambda *_: "slave-1")
    monkeypatch.setattr(configure, "answering", lambda servers: list(servers))
    monkeypatch.setattr(configure, "TARGET", tmp_path / "consul.d/node.json")
    monkeypatch.setattr(configure, "FOLLOW", 0)
    facts = {**desk.facts, "ROLE": "slave", "NODE_NAME": "slave-1", "PRIVATE_IP": "127.0.0.33"}
    monkeypatch.setattr(local, "facts", lambda: facts | {"CONTROL_ADDRESSES": "127.0.0.11"})
    assert configure.main() == ""
    assert registered_at("slave-1") == {"theirs"} and registered_at("slave-2") == {*ids, "theirs"}
    checks = local.consul("health/node/slave-1", token_of("management"))[0]
    assert [check["ServiceID"] for check in checks] == ["theirs"]
    # At another start of the agent its containers run on.
    again = node("slave-1") | {"Service": {"ID": "apollo:1:80", "Service": "web", "Port": 80}}
    local.consul("catalog/register", token_of("management"), "PUT", again)
    assert configure.main() == ""
    assert registered_at("slave-1") == {"theirs", "apollo:1:80"}


def test_an_agent_restores_no_container_of_before_the_boot_and_all_that_others_registered(agent: Agent) -> None:
    stand(agent)
    for key in ("apollo:1:80", "apollo:2:80", "theirs"):
        check = {"Name": "up", "TTL": "1h", "Status": "passing"}
        body = {"ID": key, "Name": "web", "Port": 80, "Check": check}
        local.consul("agent/service/register", token_of("registration"), "PUT", body)
        local.consul(f"agent/check/pass/service:{key}", token_of("registration"), "PUT")
    # What a power cut may leave.
    torn = configure.DATA / "services" / ("0" * 64)
    torn.write_text("")
    configure.forget_containers()
    assert not torn.exists()
    agent.restart()
    for what in ("services", "checks"):
        known = local.consul(f"agent/{what}", token_of("registration"))[0]
        own = {configure.METRICS} if what == "services" else set[str]()
        assert {entry.get("ServiceID") or entry["ID"] for entry in known.values()} == {"theirs"} | own, what


def test_of_a_servers_own_metrics_those_of_the_leader_are_served(agent: Agent) -> None:
    (text,) = metrics.consul(agent.facts)
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert "consul_autopilot_healthy" in values and values["consul_raft_state_leader"] != "0"
    assert all(name.startswith("consul_") for name in values) and len(values) < 150


# -- TLS


def certificates(role: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(configure.shutil, "chown", lambda *_: None)
    monkeypatch.setattr(configure, "CERTIFICATES", folder)
    configure.put_certificates(role)
    return folder


# Consul's protocols on a server's port, each by the byte that it begins with.
CATALOG, RAFT, IN_TLS = b"\x00", b"\x01", b"\x03"


def heard(address: tuple[str, int], protocol: bytes, own: Path | None) -> bool:
    """Whether a server listens to a protocol within TLS. own: the caller's certificate and key."""
    context = ssl.create_default_context(cafile=configure.CERTIFICATES / "ca.pem")
    if own:
        context.load_cert_chain(own)
    plain = socket.create_connection(address, 5)
    plain.sendall(IN_TLS)
    with plain, context.wrap_socket(plain, server_hostname="server.dc1.consul") as secure:
        # With TLS 1.3 a refusal comes after the handshake, in the place of an answer.
        secure.settimeout(5)
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
        acl.create_node(server.facts, token_of("management"), "slave-1")
        rpc = ("127.0.0.1", server.ports["server"])
        with closing(socket.create_connection(rpc, 5)) as plain:
            plain.sendall(CATALOG)
            assert plain.recv(1) == b""
        assert not heard(rpc, CATALOG, None)
        assert heard(rpc, CATALOG, slave_folder / "own.pem")
        # A slave's certificate is no server's: it takes no part in the servers' own agreement.
        assert not heard(rpc, RAFT, slave_folder / "own.pem")
        assert heard(rpc, RAFT, server_folder / "own.pem")
        monkeypatch.setattr(configure, "CERTIFICATES", slave_folder)
        join = [f"127.0.0.1:{server.ports['serf_lan']}"]
        slave = Agent(consul, host / "slave", monkeypatch, PLAN.slaves[0], "1", join)
        try:
            until(lambda: registered("slave-1"), f"it is registered; see {slave.log.name}")
        finally:
            slave.close()
    finally:
        server.close()


def registered(name: str) -> bool:
    """Whether the agent, through a server, finds a node with what its own agent tells of it."""
    try:
        found = local.consul(f"catalog/node/{name}", token_of("slave"))[0]
    except local.ConsulError:
        return False
    return bool(found and found["Node"]["Meta"].get("bridge"))
