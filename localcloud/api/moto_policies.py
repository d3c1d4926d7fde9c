"""AWS's own policies, of which moto reads a thousand when the first call comes: here, when the first asks for one.

It took a fifth of the time that a cloud needs to start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.iam.models import IAMBackend

_read: Any = IAMBackend._init_aws_policies  # pyright: ignore[reportPrivateUsage]


def install() -> None:
    """Changes moto in this process. Again changes nothing more."""
    backend: Any = IAMBackend
    backend._init_aws_policies = lambda _: []
    # It would ask for them at once.
    backend._init_managed_policies = lambda _: {}
    backend.aws_managed_policies = _later("aws_managed_policies", _read)
    backend.managed_policies = _later(
        "managed_policies", lambda self: {policy.arn: policy for policy in self.aws_managed_policies}
    )


def _later(name: str, make: Callable[[Any], Any]) -> property:
    """An attribute that is made at its first use, whatever the constructor sets it to."""

    def get(self: Any) -> Any:
        kept = vars(self)
        if name not in kept:
            kept[name] = make(self)
        return kept[name]

    return property(get, lambda *_: None)
