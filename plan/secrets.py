"""The stack's secrets by name: where each is kept and who may read it. Values never pass through the plan.

A secret is a Pulumi config secret under `apollo:secrets`, stored by the stack as an SSM SecureString at
/apollo/<stack>/<parameter>, and read by hosts with their instance role at each boot.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # `python -m ops secrets` needs the names of the secrets and no library.
    from plan.cluster import Role
    from plan.settings import Settings


@dataclass(frozen=True)
class Secret:
    """key: under `apollo:secrets`. parameter: below the stack's SSM prefix. readers: roles whose hosts need it.

    large: may be longer than the 4 KB of a standard parameter, up to the 8 KB of an advanced one.
    """

    key: str
    parameter: str
    readers: frozenset[Role]
    purpose: str
    large: bool = False


_ALL: frozenset[Role] = frozenset(("slave", "control", "edge"))
_CONTROL: frozenset[Role] = frozenset(("control",))

# Control nodes read every Consul token, because whichever server leads creates them.
SECRETS: tuple[Secret, ...] = (
    Secret("gossipKey", "consul/gossip-key", _ALL, "Consul gossip encryption, 32 bytes in base64"),
    Secret("managementToken", "consul/management-token", _CONTROL, "Consul's initial management token, a UUID"),
    Secret("slaveToken", "consul/slave-token", frozenset(("slave", "control")), "Consul agent token of slaves, a UUID"),
    Secret("controlToken", "consul/control-token", _CONTROL, "Consul agent token of control nodes, a UUID"),
    Secret("edgeToken", "consul/edge-token", frozenset(("edge", "control")), "Consul agent token of edges, a UUID"),
    Secret(
        "registrationToken",
        "consul/registration-token",
        frozenset(("slave", "control")),
        "Consul token that registers containers, a UUID",
    ),
    Secret(
        "templateToken", "consul/template-token", frozenset(("edge", "control")), "Consul token of the edge's template, a UUID"
    ),
    Secret("consulCa", "consul/ca", _ALL, "Certificate of the authority that signed Consul's certificates (PEM)"),
    Secret("consulServerCertificate", "consul/server-certificate", _CONTROL, "Certificate and key of Consul's servers (PEM)"),
    Secret(
        "consulAgentCertificate",
        "consul/agent-certificate",
        frozenset(("slave", "edge")),
        "Certificate and key of Consul's other agents (PEM)",
    ),
    Secret("meshPassword", "mesh/password", _ALL, "Password of the mesh's encryption"),
    Secret(
        "marathonPassword", "mesos/marathon-password", _CONTROL, "Password of Marathon's user, and Marathon's at the master"
    ),
    Secret("operatorPassword", "mesos/operator-password", _CONTROL, "Password of the Mesos master's user `operator`"),
    Secret("zookeeperPassword", "mesos/zookeeper-password", _CONTROL, "Password of masters and Marathon at ZooKeeper"),
    Secret("agentPassword", "mesos/agent-password", frozenset(("slave", "control")), "Password of the Mesos agents"),
    Secret("sshHostKey", "ssh/host-key", _ALL, "The hosts' SSH host key (ed25519, OpenSSH's private key format)"),
)
# The operator gives it, as `apollo:edgeCertificate`: no one else can make it.
CERTIFICATE = Secret(
    "edgeCertificate",
    "edge/certificate",
    frozenset(("edge",)),
    "TLS at the edge: private key, certificate and its chain, PEM",
    large=True,
)
# Characters that an advanced parameter holds.
LARGEST = 8192


def secrets_of(settings: Settings) -> tuple[Secret, ...]:
    """Every secret that a stack with these settings stores."""
    return (*SECRETS, CERTIFICATE) if settings.edge.tls.enabled else SECRETS


# Signed together by an authority whose key is not kept, so made anew together.
CERTIFICATES = ("consulCa", "consulServerCertificate", "consulAgentCertificate")


def together(keys: Iterable[str]) -> list[str]:
    """The keys with those that can only be made along with them, in the order of SECRETS."""
    asked = set(keys)
    if asked & set(CERTIFICATES):
        asked |= set(CERTIFICATES)
    return [secret.key for secret in SECRETS if secret.key in asked]


@dataclass(frozen=True)
class Fact:
    """What is no secret, and may not be in user-data, because it changes while its readers stay, or AWS alone knows it.
    parameter, readers: as of a Secret."""

    parameter: str
    readers: frozenset[Role]
    purpose: str


CONTROL_COUNT = Fact(
    "control/count",
    frozenset(("slave", "control")),
    "How many control nodes are planned: ZooKeeper's first members and whom its clients ask, Mesos's quorum",
)
BUCKET = Fact("bucket", _ALL, "Name of the stack's bucket, where hosts find their programs")


def parameters(role: Role, settings: Settings) -> list[str]:
    """What a host of the role reads from SSM at each boot, below the stack's prefix."""
    return [entry.parameter for entry in (*secrets_of(settings), CONTROL_COUNT, BUCKET) if role in entry.readers]


def parameter_name(stack: str, entry: Secret | Fact) -> str:
    """The SSM parameter that holds it, such as /apollo/dev/consul/gossip-key."""
    return f"/apollo/{stack}/{entry.parameter}"


def public_half(private_key: str) -> str:
    """The public key of an unencrypted OpenSSH private key, as `type base64`.

    Format: openssh-portable, PROTOCOL.key: magic, three strings (cipher, KDF, its options), a count, the public key.
    Raises ValueError where the text is no such key.
    """
    body = "".join(line for line in private_key.splitlines() if line and not line.startswith("-----"))
    try:
        blob = base64.b64decode(body, validate=True)
        magic = b"openssh-key-v1\0"
        if not blob.startswith(magic):
            raise ValueError
        offset = len(magic)
        for _ in range(3):
            offset += 4 + struct.unpack_from(">I", blob, offset)[0]
        offset += 4
        length = struct.unpack_from(">I", blob, offset)[0]
        public = blob[offset + 4 : offset + 4 + length]
        kind = public[4 : 4 + struct.unpack_from(">I", public)[0]].decode()
    except (binascii.Error, struct.error, UnicodeDecodeError, ValueError):
        raise ValueError("secrets.sshHostKey is not an OpenSSH private key; make one with: python -m ops secrets") from None
    return f"{kind} {base64.b64encode(public).decode()}"
