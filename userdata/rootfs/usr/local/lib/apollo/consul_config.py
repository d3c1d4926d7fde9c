#!/usr/bin/python3
"""Writes what Consul's configuration says about this host alone: /etc/consul.d/node.json (0600, it holds keys).

How servers find together. No host may know how many servers there are, or growing them would change it. So:
- Server 1, in its first generation, starts the cluster alone, if its data directory is blank, its root disk has never
  seen Consul data, and no other control address answers.
- Every other server with blank data waits until one answers, and joins. So a server that answers has a cluster, and
  server 1, come back with its data or without them (on a raised generation), never starts a second one.
- Should every server lose its data, somebody must say so: touch /etc/apollo/new-cluster on one of them.

A node's token is its own. A server can tell its own; any other host asks a server for it, and keeps a copy for boots without.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apollo

TARGET = Path("/etc/consul.d/node.json")
CERTIFICATES = Path("/etc/consul.d/tls")
DATA = Path("/data/consul")
SEEN_DATA = Path("/var/lib/apollo/consul-data")
NEW_CLUSTER = Path("/etc/apollo/new-cluster")
# The public half of this host's key, where its mesh has made one.
MESH_KEY = Path("/var/lib/apollo/mesh.pub")
RPC_PORT = 8300
OWN_TOKEN = "consul/node-token"
# Seconds that an agent waits for a server before it starts without: a join over silent addresses takes ten for each.
WAIT = 30


def config(facts: Mapping[str, str], token: str, servers: Sequence[str], bootstrap: bool) -> dict[str, Any]:
    """Consul's configuration of this host. token: the node's own. servers: whom to join."""
    role = facts["ROLE"]
    # Names are asked with the role's token: before it is known that is an error, which nobody keeps. Without one the answer
    # would be empty, and the cache would hold on to it.
    tokens = {"agent": token, "dns": apollo.secret(f"consul/{role}-token")}
    values: dict[str, Any] = {
        "node_name": facts["NODE_NAME"],
        "datacenter": facts["CONSUL_DATACENTER"],
        "domain": facts["CONSUL_DOMAIN"],
        "bind_addr": facts["PRIVATE_IP"],
        "encrypt": apollo.secret("consul/gossip-key"),
        "retry_join": servers,
        "acl": {"tokens": tokens},
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
        own = str(CERTIFICATES / "own.pem")
        # Whoever has no certificate of ours is not even heard, and a server is known by its name in its certificate.
        values["tls"] = {
            "internal_rpc": {
                "ca_file": str(CERTIFICATES / "ca.pem"),
                "cert_file": own,
                "key_file": own,
                "verify_incoming": True,
                "verify_outgoing": True,
                "verify_server_hostname": True,
            }
        }
    if role == "control":
        tokens["initial_management"] = apollo.secret("consul/management-token")
        values["server"] = True
        values["dns_config"] = {"use_cache": False}  # it has the catalog itself
        values["ui_config"] = {"enabled": True}
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


def own_token(facts: Mapping[str, str], servers: Sequence[str]) -> str:
    """This node's token, from whichever of the servers gives it first. Raises OSError, and says why, where none does."""
    refusal = "no server answers"
    for server in servers:
        connection = http.client.HTTPConnection(server, apollo.TOKEN_PORT, timeout=5)
        try:
            if facts["CONSUL_TLS"] == "1":
                context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
                plain = socket.create_connection((server, apollo.TOKEN_PORT), 5)
                name = f"server.{facts['CONSUL_DATACENTER']}.{facts['CONSUL_DOMAIN']}"
                connection.sock = context.wrap_socket(plain, server_hostname=name)
            connection.request("GET", "/", headers={"X-Consul-Token": apollo.secret(f"consul/{facts['ROLE']}-token")})
            answer = json.load(connection.getresponse())
            if "token" in answer:
                return str(answer["token"])
            refusal = str(answer["error"])
        except (OSError, ValueError, http.client.HTTPException) as error:
            refusal = f"{server}: {error}"
        finally:
            connection.close()
    raise OSError(refusal)


def obtain(facts: Mapping[str, str], servers: Sequence[str]) -> tuple[str, list[str]]:
    """(this node's token, servers that answer). Without a copy of the token it waits for a server, else for WAIT seconds."""
    if facts["ROLE"] == "control":
        import consul_acl

        return consul_acl.node_token(apollo.secret("consul/management-token"), facts["NODE_NAME"]), answering(servers)
    kept, end, said = apollo.SECRETS / OWN_TOKEN, time.monotonic() + WAIT, ""
    while True:
        found = answering(servers)
        try:
            token = own_token(facts, found)
            apollo.write(kept, token + "\n", 0o600)
            return token, found
        except OSError as error:
            if kept.exists() and time.monotonic() > end:
                print(f"the token of the last boot serves: {error}", flush=True)
                return apollo.secret(OWN_TOKEN), found
            if str(error) != said:
                said = str(error)
                print(f"waiting for this node's token: {error}", flush=True)
        time.sleep(0.5)


def put_certificates(role: str) -> None:
    """Where Consul, which is not root, can read them."""
    CERTIFICATES.mkdir(mode=0o755, parents=True, exist_ok=True)
    kind = "server" if role == "control" else "agent"
    for name, secret in (("ca.pem", "consul/ca"), ("own.pem", f"consul/{kind}-certificate")):
        apollo.write(CERTIFICATES / name, apollo.secret(secret) + "\n", 0o600)
        shutil.chown(CERTIFICATES / name, "consul", "consul")


def renew_ring(key: str) -> None:
    """Puts the gossip key first where the agent keeps another: a host that was away while it changed could not come back."""
    ring = DATA / "serf/local.keyring"
    if ring.exists() and (keys := json.loads(ring.read_text()))[:1] != [key]:
        apollo.write(ring, json.dumps([key, *(old for old in keys if old != key)]), 0o600)
        shutil.chown(ring, "consul", "consul")


def main() -> None:
    facts = apollo.facts()
    others = [address for address in facts["CONTROL_ADDRESSES"].split() if address != facts["PRIVATE_IP"]]
    server = facts["ROLE"] == "control"
    DATA.mkdir(parents=True, exist_ok=True)
    shutil.chown(DATA, "consul", "consul")
    bootstrap = server and starts_cluster(facts, others)
    SEEN_DATA.parent.mkdir(exist_ok=True)
    SEEN_DATA.touch()
    # A server with data starts at once: its peers may be waiting for it in the same way.
    put_certificates(facts["ROLE"])
    token, found = obtain(facts, others)
    renew_ring(apollo.secret("consul/gossip-key"))
    apollo.write(TARGET, json.dumps(config(facts, token, found or others, bootstrap), indent=1) + "\n", 0o600)
    shutil.chown(TARGET, "consul", "consul")


if __name__ == "__main__":
    main()
