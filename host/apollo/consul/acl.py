"""Creates Consul's policies and tokens, and keeps them so, if this server leads. Ends with 75 while they are not there.

apollo consul acl          once; a rotated secret's old token stays valid for a while, so that hosts have time to fetch theirs
apollo consul acl revoke   once; deletes the old tokens now
apollo consul tokens       gives each host a token that may write that host's own node and no other

The roles' tokens have ids chosen beforehand (they are in SSM), so hosts hold theirs before Consul knows them. A node's token
follows from the management token and its name. Its host asks a server for it, and is known by two things together: the
role's token, which only root can read there, and the address it comes from, which the address plan gives to one host alone.

A new secret is in SSM first, and hosts read it at boot or when an operator asks. So the leading server asks SSM itself each
time: it makes new tokens before a host shows one, and brings a new gossip key to all agents. Its own copies may be older than
another server's, so it removes nothing because of them.
"""

from __future__ import annotations

import hmac
import json
import re
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from host.apollo import local, parameters
from host.apollo.addresses import host_at
from host.apollo.consul import configure
from plan import ports

TRY_AGAIN = 75
# Seconds to wait for a leader, and between two looks. Each host of a new cluster waits for what follows.
LEADER_WAIT, LOOK = 30, 0.2
# Seconds for which the token of a rotated secret stays valid beside its successor.
GRACE = 3600
# Requests of one address at a time; a host has one.
AT_ONCE = 4
# Whose token is made last.
LAST = "control-5"
INITIAL = "Initial Management Token"
MANAGEMENT, GOSSIP = "consul/management-token", "consul/gossip-key"
READ = 'node_prefix "" { policy = "read" }\nservice_prefix "" { policy = "read" }\n'
# Services of the control nodes themselves, which no other host may claim to be.
OWN = "".join(f'service "{name}" {{ policy = "write" }}\n' for name in ("zookeeper", "mesos-master", "marathon"))
# What every host registers of itself.
METRICS = f'service "{configure.METRICS}" {{ policy = "write" }}\n'
# Name: (secret that is the token, its rules). A role's token reads the catalog: names for DNS, peers for the mesh.
TOKENS: Mapping[str, tuple[str, str]] = {
    f"apollo-{role}": (f"consul/{role}-token", READ + METRICS + (OWN if role == "control" else ""))
    for role in ("slave", "control", "edge")
} | {
    "apollo-registration": (
        "consul/registration-token",
        'service_prefix "" { policy = "write" }\nservice "consul" { policy = "read" }\n' + OWN.replace("write", "read"),
    ),
    "apollo-template": ("consul/template-token", READ),
}


# Those that this program is about.
SECRETS = (MANAGEMENT, GOSSIP, *(secret for secret, _ in TOKENS.values()))


def node_token(management: str, name: str) -> str:
    """The token of one node. Only who holds the management token can compute it."""
    return str(uuid.UUID(bytes=hmac.digest(management.encode(), name.encode(), "sha256")[:16], version=4))


def ask(path: str, token: str, method: str = "GET", body: Any = None) -> Any:
    return local.consul(path, token, method, body)[0]


def create(management: str, title: str, value: str, **rights: Any) -> str:
    """Makes the token if Consul lacks it, and gives its accessor, which follows from the token. Raises ConsulError."""
    accessor = str(uuid.uuid5(uuid.NAMESPACE_URL, f"apollo:{title}:{value}"))
    try:
        ask("acl/token/self", value)
    except local.ConsulError as error:
        if error.status != 403:
            raise
        wanted = {"AccessorID": accessor, "SecretID": value, "Description": title, **rights}
        ask("acl/token", management, "PUT", wanted)
        print(f"made the token of {title}", flush=True)
    return accessor


def create_node(facts: Mapping[str, str], management: str, name: str) -> str:
    """The token of a node, made where Consul lacks it. It writes that node, and reads services. Raises ConsulError."""
    value = node_token(management, name)
    identity = {"NodeName": name, "Datacenter": facts["CONSUL_DATACENTER"]}
    create(management, f"node {name}", value, NodeIdentities=[identity])
    return value


def from_ssm() -> dict[str, str]:
    """The secrets that this program is about, as SSM has them now; nothing where it does not answer."""
    try:
        return parameters.get_parameters(list(SECRETS))
    except parameters.Unavailable as error:
        print(f"old tokens and the gossip key stay: {error}", flush=True)
        return {}


def unread(ssm: Mapping[str, str]) -> list[str]:
    """The tokens of which this host's copy is not, or may not be, what SSM has."""
    return [name for name in SECRETS if name != GOSSIP and ssm.get(name) != local.secret(name)]


def stand(facts: Mapping[str, str], management: str, grace: float = GRACE, ssm: Mapping[str, str] | None = None) -> None:
    """Creates what is missing, corrects what differs and takes rotations one step further. Raises ConsulError.

    ssm: what from_ssm() gives; None for this host's copies.
    """
    if ssm is None:
        ssm = {name: local.secret(name) for name in SECRETS}
    policies = {policy["Name"]: policy["ID"] for policy in ask("acl/policies", management)}
    for name, (_, text) in TOKENS.items():
        path = f"acl/policy/{policies[name]}" if name in policies else "acl/policy"
        if name not in policies or ask(path, management)["Rules"] != text:
            ask(path, management, "PUT", {"Name": name, "Rules": text})
    current = {INITIAL: (ask("acl/token/self", management)["AccessorID"], MANAGEMENT)}
    for name, (secret, _) in TOKENS.items():
        own, rights = local.secret(secret), {"Policies": [{"Name": name}]}
        current[name] = create(management, name, own, **rights), secret
        create(management, name, ssm.get(secret, own), **rights)
    for index in range(1, 6):
        create_node(facts, management, f"control-{index}")
    retire(management, current, unread(ssm), grace)
    if GOSSIP in ssm:
        ring(management, ssm[GOSSIP])


def retire(management: str, current: dict[str, tuple[str, str]], doubtful: Sequence[str], grace: float) -> None:
    """Deletes tokens whose successor has been there, and in this host's secrets, for so many seconds.

    current: accessor and secret by the token's description. doubtful: secrets of which this host's copy may be an old one, so
    that what seems old may be new. A node's successor is there once its host asked.
    """
    tokens = {entry["AccessorID"]: entry for entry in ask("acl/tokens", management)}
    for entry in tokens.values():
        match = re.fullmatch(r"node (\S+)", entry["Description"])
        if match:
            title, value = match[0], node_token(management, match[1])
            current[title] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"apollo:{title}:{value}")), MANAGEMENT
    for accessor, entry in tokens.items():
        own, secret = current.get(entry["Description"], ("", ""))
        successor = tokens.get(own)
        if successor is None or successor is entry or secret in doubtful:
            continue
        # It is made before any host has it, perhaps long before: hosts have their time from when control nodes read it.
        made = max(datetime.fromisoformat(successor["CreateTime"]), read_at(secret))
        if (datetime.now(UTC) - made).total_seconds() >= grace:
            ask(f"acl/token/{accessor}", management, "DELETE")
            print(f"deleted the old token of {entry['Description']}", flush=True)


def read_at(secret: str) -> datetime:
    """When this host last read a secret from SSM."""
    return datetime.fromtimestamp((local.SECRETS / secret).stat().st_mtime, UTC)


def ring(management: str, key: str) -> None:
    """One step towards a gossip key ring of this key alone, at each call: known to all, used by all, the only one."""
    local = next(ring for ring in ask("operator/keyring", management) if not ring["WAN"])
    everyone = local["NumNodes"]
    if local["Keys"].get(key, 0) < everyone:
        ask("operator/keyring", management, "POST", {"Key": key})
        print("gave the new gossip key to every agent", flush=True)
    elif local["PrimaryKeys"].get(key, 0) < everyone:
        ask("operator/keyring", management, "PUT", {"Key": key})
        print("every agent now uses the new gossip key", flush=True)
    else:
        for old in local["Keys"].keys() - {key}:
            ask("operator/keyring", management, "DELETE", {"Key": old})
            print("removed the old gossip key", flush=True)


def role_of(token: str) -> str:
    """The role whose token it is, old or new, "" for any other. Raises ConsulError where Consul does not know it."""
    try:
        title: str = ask("acl/token/self", token)["Description"]
    except local.ConsulError as error:
        if error.status == 403:
            raise local.ConsulError("Consul does not know the role's token, or not yet") from None
        raise
    return title.removeprefix("apollo-") if title in TOKENS else ""


def forget_containers(management: str, name: str) -> int:
    """Takes the services of a node's containers out of the catalog, with their checks: how many. Raises ConsulError."""
    node = ask(f"catalog/node/{name}", management) or {"Services": {}}
    known = [(key, entry["Service"]) for key, entry in node["Services"].items() if key.startswith(configure.CONTAINERS)]
    # A transaction takes 128 operations.
    for start in range(0, len(known), 128):
        services = [{"ID": key, "Service": title} for key, title in known[start : start + 128]]
        ask("txn", management, "PUT", [{"Service": {"Verb": "delete", "Node": name, "Service": one}} for one in services])
    return len(known)


class TokenHandler(BaseHTTPRequestHandler):
    """GET / with the role's token, from a host's own address → what configure.Answer has, as JSON.

    With the header X-Apollo-Booted that host's containers are removed from the catalog first.

    403 for every other caller. 503 while Consul is away or does not know the token that is shown: it may be newer than
    Consul, and a host that used it would be unknown to its own agent.
    """

    facts: Mapping[str, str]
    # Seconds that a caller may be silent.
    timeout = 10

    def do_GET(self) -> None:
        caller = self.client_address[0]
        answer: dict[str, Any]
        try:
            name = host_at(self.facts, caller)
            role = name.partition("-")[0]
            if not ask("status/leader", ""):
                # Every other question would wait seconds for one.
                raise OSError("no server leads")
            given = self.headers.get("X-Consul-Token")
            if not given or role_of(given) != role:
                raise ValueError(f"{caller} does not know the token of role {role}")
            management = local.secret(MANAGEMENT)
            # The last that stand() makes. An agent that asked for a token too early would remember for long that there is none.
            ask("acl/token/self", node_token(management, LAST))
            primary = next(map(configure.digest, configure.ring()), "")
            status, answer = 200, {"token": create_node(self.facts, management, name), "primary": primary}
            if self.headers.get("X-Apollo-Booted"):
                answer["forgotten"] = forget_containers(management, name)
        except ValueError as error:
            print(f"refused: {error}", flush=True)
            status, answer = 403, {"error": str(error)}
        except (local.ConsulError, OSError) as error:
            status, answer = 503, {"error": str(error)}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: what matters is printed above."""


class TokenServer(ThreadingHTTPServer):
    """Serves one address a few requests at a time: one that connects and only waits takes no thread of another's."""

    address_family = socket.AF_INET

    def __init__(self, place: tuple[str, int]) -> None:
        self._served: dict[str, int] = {}
        self._lock = threading.Lock()
        super().__init__(place, TokenHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            count = self._served.get(client_address[0], 0)
            if count < AT_ONCE:
                self._served[client_address[0]] = count + 1
        if count < AT_ONCE:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._served[client_address[0]] -= 1
                if not self._served[client_address[0]]:
                    del self._served[client_address[0]]


def serve(facts: Mapping[str, str]) -> None:
    TokenHandler.facts = facts
    server = TokenServer((facts["PRIVATE_IP"], local.TOKEN_PORT))
    if facts["CONSUL_TLS"] == "1":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(local.SECRETS / "consul/server-certificate")
        # Not at once: the handshake belongs to the caller's own thread.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


def leader() -> str:
    """The leading server's address and port, once there is one. Raises ConsulError where LEADER_WAIT seconds bring none."""
    end = time.monotonic() + LEADER_WAIT
    while True:
        try:
            if found := str(local.consul("status/leader")[0]):
                return found
            error = local.ConsulError("no server leads")
        except local.ConsulError as away:
            error = away
        if time.monotonic() > end:
            raise error
        time.sleep(LOOK)


def main(revoke: bool = False) -> int:
    facts = local.facts()
    try:
        management = local.secret(MANAGEMENT)
        own = node_token(management, facts["NODE_NAME"])
        if leader() == f"{facts['PRIVATE_IP']}:{ports.CONSUL_RPC}" or revoke:
            ssm = from_ssm()
            stand(facts, management, 0 if revoke else GRACE, ssm)
            if revoke and (names := unread(ssm)):
                print(f"nothing deleted of {', '.join(names)}: SSM has others, or does not answer; restart apollo-secrets here")
                return 1
        else:
            # Another one creates them, and is done when the last of them is known.
            ask("acl/token/self", node_token(management, LAST))
        node = ask(f"catalog/node/{facts['NODE_NAME']}", management)
        if not (node and node["Node"]["Meta"].get("bridge")):
            # It was refused before its token was there, and tries again after half a minute; given its token anew, at once.
            ask("agent/token/agent", management, "PUT", {"Token": own})
            return TRY_AGAIN
    except (local.ConsulError, OSError) as error:
        print(f"not yet: {error}", flush=True)
        return TRY_AGAIN
    return 0
