"""Calls to the cloud's API, signed as it asks for."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from typing import Any, cast

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ACCOUNT = "123456789012"  # moto's only account


def error_code(error: ClientError) -> str:
    return str(cast(Any, error.response).get("Error", {}).get("Code", ""))


def says_absent(error: ClientError) -> bool:
    """Whether AWS says that the thing does not exist. S3 says 404 where an answer has no body."""
    code = error_code(error)
    return "NotFound" in code or code.startswith("NoSuch") or code == "404"


@dataclass(frozen=True)
class Keys:
    """An access key of one cloud."""

    id: str
    secret: str = field(repr=False)

    @staticmethod
    def new() -> Keys:
        """Spelt as AWS's are: 20 letters and digits, and 40 characters."""
        return Keys(
            "AKIA" + "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16)), secrets.token_hex(20)
        )


class Aws:
    """Clients for one region of a cloud."""

    _building = threading.Lock()

    def __init__(self, endpoint: str, region: str, keys: Keys) -> None:
        self.endpoint = endpoint
        self.region = region
        self.keys = keys
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """The client of a service. Made once: building one takes a while, and only one thread may build."""
        with self._building:
            if service not in self._clients:
                self._clients[service] = boto3.client(
                    service,  # pyright: ignore[reportArgumentType]  # any service name
                    region_name=self.region,
                    endpoint_url=self.endpoint,
                    aws_access_key_id=self.keys.id,
                    aws_secret_access_key=self.keys.secret,
                    # No retries: a refusal is final, a dead server should be seen at once, and a boot may take long.
                    config=Config(retries={"total_max_attempts": 1}, max_pool_connections=32, read_timeout=600),
                )
            return self._clients[service]

    def arn(self, service: str, resource: str) -> str:
        return f"arn:aws:{service}:{self.region}:{ACCOUNT}:{resource}"
