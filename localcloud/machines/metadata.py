"""The instance metadata service: what http://169.254.169.254 tells an instance about itself.

The caller is known by its address, which the router lets no other machine use. Tokens (IMDSv2) are required where the
instance says so, and a token's answer travels no further than the instance's hop limit, so that a container behind the
host's bridge gets none.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from localcloud.machines.serving import HttpServer
from localcloud.machines.wanted import Instance, Wanted

TOKEN_PATH = "/latest/api/token"
TOKEN_HEADER = "X-aws-ec2-metadata-token"
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
# Seconds: the longest a token may live.
TOKEN_TTL = 21600
# Credentials are renewed while the old ones still work for a while, as EC2 does.
RENEW_BEFORE = timedelta(minutes=10)
# A tree as the service shows it: a folder, or the text of a leaf, or a function that makes it when asked.
Leaf = str | bytes | None
Tree = dict[str, "Tree"] | str | bytes | Callable[[], Leaf]


class Metadata:
    """The data behind the service. client: makes a boto3 client for a service's name."""

    def __init__(self, client: Callable[[str], Any]) -> None:
        self._client = client
        self._wanted = Wanted("")
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[str, float]] = {}
        self._credentials: dict[str, tuple[datetime, str]] = {}

    def update(self, wanted: Wanted) -> None:
        self._wanted = wanted

    def caller(self, address: str) -> Instance | None:
        instances = self._wanted.instances.values()
        return next((i for i in instances if any(str(nic.address) == address for nic in i.nics)), None)

    def new_token(self, instance: Instance, seconds: int) -> str:
        token = base64.b64encode(secrets.token_bytes(40)).decode()
        with self._lock:
            now = time.monotonic()
            self._tokens = {key: value for key, value in self._tokens.items() if value[1] > now}
            self._tokens[token] = (instance.id, now + seconds)
        return token

    def valid(self, instance: Instance, token: str) -> bool:
        owner, expiry = self._tokens.get(token, ("", 0.0))
        return owner == instance.id and expiry > time.monotonic()

    def get(self, instance: Instance, path: str) -> Leaf:
        """What a path such as latest/meta-data/instance-id holds; a folder's names with a slash behind folders."""
        version, _, rest = path.strip("/").partition("/")
        if not version:
            return "1.0\n2021-03-23\nlatest"
        node: Tree | None = self._tree(instance)
        for part in filter(None, unquote(rest).split("/")):
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            # A key pair is listed as 0=name and found in the folder 0, which the listing leaves out.
            names = [key for key in node if not any(other.startswith(f"{key}=") for other in node)]
            return "\n".join(f"{name}/" if isinstance(node[name], dict) else name for name in names)
        return node if node is None or isinstance(node, str | bytes) else node()

    def _tree(self, instance: Instance) -> dict[str, Tree]:
        nic, region = instance.primary, self._wanted.region
        public = self._wanted.reached_as(nic)
        local_name = f"{nic.hostname}.{self._wanted.domain}"
        public_name = f"ec2-{str(public).replace('.', '-')}.{region}.compute.amazonaws.com"
        data: dict[str, Tree] = {
            "ami-id": instance.image_id,
            "ami-launch-index": "0",
            "hostname": local_name,
            "instance-id": instance.id,
            "instance-life-cycle": "on-demand",
            "instance-type": instance.instance_type,
            "local-hostname": local_name,
            "local-ipv4": str(nic.address),
            "mac": nic.mac,
            "network": {"interfaces": {"macs": {n.mac: self._interface(n, local_name) for n in instance.nics}}},
            "placement": {"availability-zone": instance.zone, "region": region},
            "profile": "default-hvm",
            "reservation-id": f"r-{instance.id.removeprefix('i-')}",
            "security-groups": "\n".join(nic.group_ids),
            "services": {"domain": "amazonaws.com", "partition": "aws"},
        }
        if public:
            data |= {"public-ipv4": str(public), "public-hostname": public_name}
        if instance.key_name:
            key_name = instance.key_name
            data["public-keys"] = {f"0={key_name}": "", "0": {"openssh-key": lambda: self._public_key(key_name)}}
        if instance.profile_arn:
            data["iam"] = self._iam(instance)
        # A key that cannot be part of a path is one that EC2 refuses to offer here.
        tags = {key: value for key, value in instance.tags if "/" not in key and " " not in key}
        if tags and instance.tags_in_metadata:
            data["tags"] = {"instance": dict(tags)}
        document = {
            "accountId": (instance.profile_arn or "::::123456789012").split(":")[4],
            "architecture": "x86_64",
            "availabilityZone": instance.zone,
            "imageId": instance.image_id,
            "instanceId": instance.id,
            "instanceType": instance.instance_type,
            "pendingTime": instance.launch_time,
            "privateIp": str(nic.address),
            "region": region,
            "version": "2017-09-30",
        }
        tree: dict[str, Tree] = {
            "meta-data": data,
            "dynamic": {"instance-identity": {"document": json.dumps(document, indent=2)}},
        }
        user_data = self._user_data(instance.id)
        if user_data is not None:
            tree["user-data"] = user_data
        return tree

    def _interface(self, nic: Any, local_name: str) -> dict[str, Tree]:
        public = self._wanted.reached_as(nic)
        vpc = self._wanted.vpcs[nic.vpc_id]
        tree: dict[str, Tree] = {
            "device-number": str(nic.device_index),
            "interface-id": nic.id,
            "local-hostname": local_name,
            "local-ipv4s": str(nic.address),
            "mac": nic.mac,
            "security-group-ids": "\n".join(nic.group_ids),
            "subnet-id": nic.subnet_id,
            "subnet-ipv4-cidr-block": str(nic.subnet),
            "vpc-id": nic.vpc_id,
            "vpc-ipv4-cidr-block": str(vpc.cidr),
            "vpc-ipv4-cidr-blocks": str(vpc.cidr),
        }
        if public:
            tree |= {"public-ipv4s": str(public), "ipv4-associations": {str(public): str(nic.address)}}
        return tree

    def _user_data(self, instance_id: str) -> bytes | None:
        reply = self._client("ec2").describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        value = reply.get("UserData", {}).get("Value")
        return base64.b64decode(value) if value else None

    def _public_key(self, name: str) -> str | None:
        pairs = self._client("ec2").describe_key_pairs(KeyNames=[name], IncludePublicKey=True)["KeyPairs"]
        return next((pair["PublicKey"] for pair in pairs if pair.get("PublicKey")), None)

    def _role(self, profile_arn: str) -> dict[str, Any] | None:
        profile = self._client("iam").get_instance_profile(InstanceProfileName=profile_arn.rpartition("/")[2])
        return next(iter(profile["InstanceProfile"]["Roles"]), None)

    def _iam(self, instance: Instance) -> dict[str, Tree]:
        assert instance.profile_arn is not None
        info = {"Code": "Success", "InstanceProfileArn": instance.profile_arn, "LastUpdated": _stamp(datetime.now(UTC))}
        role = self._role(instance.profile_arn)
        tree: dict[str, Tree] = {"info": json.dumps(info)}
        if role:
            tree["security-credentials"] = {role["RoleName"]: lambda: self._role_credentials(instance.id, role["Arn"])}
        return tree

    def _role_credentials(self, instance_id: str, role_arn: str) -> str:
        with self._lock:
            expiry, text = self._credentials.get(instance_id, (datetime.min.replace(tzinfo=UTC), ""))
            if expiry - datetime.now(UTC) > RENEW_BEFORE:
                return text
            given = self._client("sts").assume_role(RoleArn=role_arn, RoleSessionName=instance_id)["Credentials"]
            text = json.dumps(
                {
                    "Code": "Success",
                    "LastUpdated": _stamp(datetime.now(UTC)),
                    "Type": "AWS-HMAC",
                    "AccessKeyId": given["AccessKeyId"],
                    "SecretAccessKey": given["SecretAccessKey"],
                    "Token": given["SessionToken"],
                    "Expiration": _stamp(given["Expiration"]),
                },
                indent=2,
            )
            self._credentials[instance_id] = (given["Expiration"], text)
            return text


class MetadataServer(HttpServer):
    """Serves it on a listening socket."""

    def __init__(self, listener: socket.socket, metadata: Metadata) -> None:
        class Handler(_Handler):
            data = metadata

        super().__init__(listener, Handler, "metadata")


class _Handler(BaseHTTPRequestHandler):
    data: Metadata
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    # Seconds a silent connection is kept.
    timeout = 60

    def do_PUT(self) -> None:
        instance = self._instance()
        if instance is None:
            return
        # Read whatever came, or a connection that is kept alive would take it for the next request.
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = self.headers.get(TTL_HEADER, "")
        if self.path != TOKEN_PATH:
            self._answer(HTTPStatus.NOT_FOUND)
        elif "X-Forwarded-For" in self.headers:
            # Asked for by a proxy on behalf of somebody else.
            self._answer(HTTPStatus.FORBIDDEN)
        elif not asked.isdigit() or not 1 <= int(asked) <= TOKEN_TTL:
            self._answer(HTTPStatus.BAD_REQUEST)
        else:
            self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, instance.hop_limit)
            self._answer(HTTPStatus.OK, self.data.new_token(instance, int(asked)), {TTL_HEADER: asked})

    def do_GET(self) -> None:
        instance = self._instance()
        if instance is None:
            return
        token = self.headers.get(TOKEN_HEADER)
        if (token is None and instance.tokens_required) or (token is not None and not self.data.valid(instance, token)):
            self._answer(HTTPStatus.UNAUTHORIZED)
            return
        try:
            body = self.data.get(instance, self.path.partition("?")[0])
        except Exception as error:
            # The API behind it is gone or refuses; the caller retries a 5xx.
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{type(error).__name__}: {error}")
            return
        self._answer(HTTPStatus.NOT_FOUND if body is None else HTTPStatus.OK, body or "")

    def _instance(self) -> Instance | None:
        instance = self.data.caller(self.client_address[0])
        if instance is None or not instance.metadata_enabled:
            self.close_connection = True
            self._answer(HTTPStatus.FORBIDDEN)
            return None
        return instance

    def _answer(self, status: HTTPStatus, body: str | bytes = "", headers: dict[str, str] | None = None) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: a booting host makes hundreds."""


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
