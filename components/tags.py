"""Tags: the stack's own on everything, and the cosmetic Name. Identity is the logical name, never a tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plan.cluster import PlannedHost


@dataclass(frozen=True)
class Tags:
    """stack: the stack's name. extra: the settings' tags."""

    stack: str
    extra: Mapping[str, str]

    def named(self, what: str) -> dict[str, str]:
        return {**self.extra, "apollo:stack": self.stack, "Name": f"apollo-{self.stack}-{what}"}

    def of_host(self, host: PlannedHost) -> dict[str, str]:
        """The tags by which an operator knows a machine in the console, and which `status` reads."""
        facts = {
            "apollo:host": host.name,
            "apollo:role": host.role,
            "apollo:slot": str(host.index),
            "apollo:zone": host.zone.name,
            "apollo:bridge": str(host.bridge_address),
        }
        if host.docker_subnet is not None:
            facts["apollo:docker-subnet"] = str(host.docker_subnet)
        return {**self.named(host.name), **facts}
