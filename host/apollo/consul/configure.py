"""Writes what Consul's configuration says about this host alone: /etc/consul.d/node.json (0600, it holds keys).

How servers find together. No host may know how many servers there are, or growing them would change it. So:
- Server 1, in its first generation, starts the cluster alone, if its data directory is blank, its root disk has never
  seen Consul data, and no other control address answers.
- Every other server with blank data waits until one answers, and joins. So a server that answers has a cluster, and
  server 1, come back with its data or without them (on a raised generation), never starts a second one.
- If every server loses its data, an operator must decide: touch /etc/apollo/new-cluster on one of them.

A node's token is its own. A server can tell its own; any other host asks a server for it, and keeps a copy for boots without.
The server's answer also says that Consul knows the role's token, so a reload with an unknown one changes nothing, and which
gossip key the ring sends with. The secret is the key that the ring shall have, not the one that it has: the leading server
changes the ring, once a minute. A host that used the new key earlier, or was away meanwhile, would be alone.

A boot ends all containers, and Docker gives their addresses to others. So at its first start after one the agent forgets what
was registered for containers before, and so do the servers, before they hear of the agent. Docker starts after that.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from host.apollo import local
from plan import ports

TARGET = Path("/etc/consul.d/node.json")
CERTIFICATES = Path("/etc/consul.d/tls")
DATA = Path("/data/consul")
SEEN_DATA = Path("/var/lib/apollo/consul-data")
NEW_CLUSTER = Path("/etc/apollo/new-cluster")
# The public half of this host's key, where its mesh has made one.
MESH_KEY = Path("/var/lib/apollo/mesh.pub")
# There once the containers of the boot before are forgotten.
FORGOTTEN = Path("/run/apollo/containers-forgotten")
# Ids of what register.py registers begin so.
CONTAINERS = "apollo:"
# Where it says, for this host's metrics, how much that containers ask for is refused: reason → number.
REFUSED = Path("/run/apollo/refused.json")
RPC_PORT = ports.CONSUL_RPC
OWN_TOKEN = "consul/node-token"
# Under which name every host registers where it serves its metrics.
METRICS = "apollo-metrics"
# Seconds that an agent waits for a server before it starts without: a join over silent addresses takes ten for each.
WAIT = 30
# Seconds that a reload waits: the leader makes a new token within one of its rounds, each of a minute.
RELOAD_WAIT = 120
# Seconds for which edges and resolvers may take to follow the catalog, and Docker waits before it hands out addresses again.
FOLLOW = 3


class Answer(NamedTuple):
    """What a server tells a host. token: of the host's own node. primary: digest of the gossip key that servers send with.

    forgotten: how many services of containers it took out of the catalog, where it was asked to.
    """

    token: str
    primary: str
    forgotten: int = 0


def config(facts: Mapping[str, str], token: str, servers: Sequence[str], bootstrap: bool) -> dict[str, Any]:
    """Consul's configuration of this host. token: the node's own. servers: whom to join."""
    role = facts["ROLE"]
    # Names are asked with the role's token: before it is known that is an error, which no cache keeps. Without one the answer
    # would be empty, and the cache would hold on to it.
    own = local.secret(f"consul/{role}-token")
    tokens = {"agent": token, "dns": own, "config_file_service_registration": own}
    values: dict[str, Any] = {
        "node_name": facts["NODE_NAME"],
        "datacenter": facts["CONSUL_DATACENTER"],
        "domain": facts["CONSUL_DOMAIN"],
        "bind_addr": facts["PRIVATE_IP"],
        "encrypt": local.secret("consul/gossip-key"),
        "retry_join": servers,
        "acl": {"tokens": tokens},
        "services": [{"name": METRICS, "port": ports.METRICS, "meta": {"role": role, "zone": facts["ZONE"]}}],
        # What a peer's mesh checks against its own arithmetic.
        "node_meta": {
            "role": role,
            "slot": facts["INDEX"],
            "zone": facts["ZONE"],
            "mesh": facts["MESH"],
            "bridge": facts["BRIDGE_ADDRESS"],
            "subnet": facts["DOCKER_SUBNET"],
        },
    }
    if MESH_KEY.exists():
        values["node_meta"]["key"] = MESH_KEY.read_text().strip()
    if facts["CONSUL_TLS"] == "1":
        pem = str(CERTIFICATES / "own.pem")
        # A peer without a certificate of ours is not heard, and a server is known by the name in its certificate.
        values["tls"] = {
            "internal_rpc": {
                "ca_file": str(CERTIFICATES / "ca.pem"),
                "cert_file": pem,
                "key_file": pem,
                "verify_incoming": True,
                "verify_outgoing": True,
                "verify_server_hostname": True,
            }
        }
    if role == "control":
        tokens["initial_management"] = local.secret("consul/management-token")
        values["server"] = True
        values["dns_config"] = {"use_cache": False}  # it has the catalog itself
        values["ui_config"] = {"enabled": True}
        # For metrics.py, which asks each minute.
        values["telemetry"] = {"prometheus_retention_time": "150s", "disable_hostname": True}
        # Clients in the VPC reach the API and DNS of servers; the security group decides which.
        values["client_addr"] = f"127.0.0.1 {facts['PRIVATE_IP']}"
        if bootstrap:
            values["bootstrap_expect"] = 1
    return values


def answering(addresses: Sequence[str]) -> list[str]:
    """Those of the addresses where a server takes connections, asked all at once."""

    def answers(address: str) -> bool:
        try:
            socket.create_connection((address, RPC_PORT), 1).close()
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(5) as pool:
        return [address for address, alive in zip(addresses, pool.map(answers, addresses), strict=True) if alive]


def starts_cluster(facts: Mapping[str, str], others: Sequence[str]) -> bool:
    """Whether this server is the one that starts the cluster, or once did. Waits with blank data until one answers."""
    marker = DATA / "bootstrap"
    if not marker.exists() and not (DATA / "raft").exists():
        first = facts["INDEX"] == facts["GENERATION"] == "1" and not SEEN_DATA.exists()
        while not (found := answering(others)) and not first and not NEW_CLUSTER.exists():
            print("no data here; waiting for a server to join", flush=True)
            time.sleep(1)
        if not found:
            marker.touch()
            NEW_CLUSTER.unlink(missing_ok=True)
    return marker.exists()


def ask_servers(facts: Mapping[str, str], servers: Sequence[str], booted: bool = False) -> Answer:
    """The answer of whichever server gives one first. Raises OSError, and says why, where none does.

    booted: none of the containers that the catalog has of this host runs any more.
    """
    silence, refusal = "no server answers", ""
    for server in servers:
        connection = http.client.HTTPConnection(server, local.TOKEN_PORT, timeout=5)
        try:
            if facts["CONSUL_TLS"] == "1":
                context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
                plain = socket.create_connection((server, local.TOKEN_PORT), 5)
                name = f"server.{facts['CONSUL_DATACENTER']}.{facts['CONSUL_DOMAIN']}"
                connection.sock = context.wrap_socket(plain, server_hostname=name)
            headers = {"X-Consul-Token": local.secret(f"consul/{facts['ROLE']}-token")}
            connection.request("GET", "/", headers=headers | ({"X-Apollo-Booted": "1"} if booted else {}))
            answer = json.load(connection.getresponse())
            if "token" in answer:
                # A server of an earlier release has no such answer.
                return Answer(str(answer["token"]), str(answer["primary"]), int(answer.get("forgotten", 0)))
            refusal = str(answer["error"])
        except (OSError, ValueError, http.client.HTTPException) as error:
            silence = f"{server}: {error}"
        finally:
            connection.close()
    raise OSError(refusal or silence)


def obtain(
    facts: Mapping[str, str], servers: Sequence[str], sure: bool = False, booted: bool = False
) -> tuple[Answer, list[str]]:
    """(what the first of the servers says, servers that take connections).

    Where none says anything, a control node goes on at once and without knowing the ring, as its peers may be waiting for it in
    the same way; another host after WAIT seconds with its copy of the token, or never without. sure: no host goes on without a
    server's word, and after RELOAD_WAIT seconds that is an OSError.
    """
    kept, own, said = local.SECRETS / OWN_TOKEN, "", ""
    if facts["ROLE"] == "control":
        from host.apollo.consul import acl

        own = acl.node_token(local.secret("consul/management-token"), facts["NODE_NAME"])
    end = time.monotonic() + (RELOAD_WAIT if sure else WAIT)
    while True:
        found = answering(servers)
        try:
            answer = ask_servers(facts, found, booted)
            if own:
                return answer._replace(token=own), found
            local.write(kept, answer.token + "\n", 0o600)
            return answer, found
        except OSError as error:
            late = time.monotonic() > end
            if sure and late:
                raise
            if own and not sure:
                return Answer(own, ""), found
            if late and kept.exists():
                print(f"the token of the last boot serves: {error}", flush=True)
                return Answer(local.secret(OWN_TOKEN), ""), found
            if str(error) != said:
                said = str(error)
                print(f"waiting for this node's token: {error}", flush=True)
        time.sleep(0.5)


def in_use() -> str:
    """The role's token that the agent was last given, "" if it never was."""
    try:
        return json.loads(TARGET.read_text())["acl"]["tokens"]["dns"]
    except (OSError, ValueError, KeyError):
        return ""


def put_certificates(role: str) -> None:
    """Where Consul, which is not root, can read them."""
    CERTIFICATES.mkdir(mode=0o755, parents=True, exist_ok=True)
    kind = "server" if role == "control" else "agent"
    for name, secret in (("ca.pem", "consul/ca"), ("own.pem", f"consul/{kind}-certificate")):
        local.write(CERTIFICATES / name, local.secret(secret) + "\n", 0o600)
        shutil.chown(CERTIFICATES / name, "consul", "consul")


def digest(key: str) -> str:
    """What may be shown of a gossip key: it is 32 random bytes, so the digest cannot be reversed by trying."""
    return hashlib.sha256(key.encode()).hexdigest()


def ring() -> list[str]:
    """The gossip keys of this host's agent, which it keeps in step with the others while it runs. It sends with the first."""
    file = DATA / "serf/local.keyring"
    return json.loads(file.read_text()) if file.exists() else []


def update_ring(key: str, primary: str) -> None:
    """Makes the agent hear those who send with the key of the secrets, and itself send with the one that servers send with.

    primary: that one's digest, "" where no server gave it: then the agent sends with the key that it sent with last. On a host
    without a ring the key of the secrets is the first and only one, and the agent asks until the servers hear it.
    """
    if keys := ring():
        wanted = sorted(dict.fromkeys((*keys, key)), key=lambda known: digest(known) != primary)
        if wanted != keys:
            local.write(DATA / "serf/local.keyring", json.dumps(wanted), 0o600)
            shutil.chown(DATA / "serf/local.keyring", "consul", "consul")


def forget_containers() -> None:
    """Takes what the agent would restore of the containers of before out of its data."""
    # Beside the files there is checks/state, a folder with what checks with a TTL last said.
    for path in filter(Path.is_file, (*DATA.glob("services/*"), *DATA.glob("checks/*"))):
        try:
            kept = json.loads(path.read_text())
            of = (kept.get("Service") or {}).get("ID") or (kept.get("Check") or {}).get("ServiceID") or ""
        except (OSError, ValueError, AttributeError):
            of = CONTAINERS  # torn by the power cut: whoever it was is not to come back as something else
        if of.startswith(CONTAINERS):
            path.unlink()


def main() -> str:
    """An empty string, or why the agent goes on with the configuration that it has."""
    facts = local.facts()
    # The process to signal, which systemd names to a unit's ExecReload and to nothing that runs before the agent.
    reloading = "MAINPID" in os.environ
    control = facts["CONTROL_ADDRESSES"].split()
    others = [address for address in control if address != facts["PRIVATE_IP"]]
    server = facts["ROLE"] == "control"
    DATA.mkdir(parents=True, exist_ok=True)
    shutil.chown(DATA, "consul", "consul")
    bootstrap = server and starts_cluster(facts, others)
    SEEN_DATA.parent.mkdir(exist_ok=True)
    SEEN_DATA.touch()
    put_certificates(facts["ROLE"])
    booted = not reloading and not FORGOTTEN.exists()
    if booted:
        forget_containers()
    # Before a reload all is well, and with a token that Consul does not know no name would be answered.
    sure = reloading and in_use() != local.secret(f"consul/{facts['ROLE']}-token")
    try:
        # A server that runs can tell itself.
        answer, found = obtain(facts, control if reloading else others, sure, booted)
    except OSError as error:
        return f"the agent goes on with its old token: {error}"
    # A running agent writes its ring itself.
    if not reloading:
        update_ring(local.secret("consul/gossip-key"), answer.primary)
    join = [address for address in found if address in others] or others
    local.write(TARGET, json.dumps(config(facts, answer.token, join, bootstrap), indent=1) + "\n", 0o600)
    shutil.chown(TARGET, "consul", "consul")
    if answer.forgotten:
        print(f"{answer.forgotten} services of containers of before this boot are out of the catalog", flush=True)
        time.sleep(FOLLOW)
    if booted:
        # Where no server was asked, they forget when they hear from the agent, which knows of no container.
        local.write(FORGOTTEN, "")
    return ""
