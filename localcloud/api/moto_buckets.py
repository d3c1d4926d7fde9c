"""A bucket's policy that refuses what is not TLS refuses nothing in moto: its one port stands for AWS's own, which have TLS.

moto cannot read the condition, and would refuse everything.
"""

from __future__ import annotations

import json
from typing import Any

from moto.s3.models import FakeBucket

_permission: Any = FakeBucket.get_permission
_PLAIN = {"Bool": {"aws:SecureTransport": "false"}}


def install() -> None:
    """Changes moto in this process. Again changes nothing more."""
    FakeBucket.get_permission = _permission_by_tls


def _permission_by_tls(self: Any, action: str, resource: str) -> Any:
    whole = self.policy
    if whole is not None:
        policy = json.loads(whole)
        policy["Statement"] = [s for s in policy["Statement"] if s.get("Condition") != _PLAIN]
        self.policy = json.dumps(policy).encode()
    try:
        return _permission(self, action, resource)
    finally:
        self.policy = whole
