"""The stack's secrets as SSM SecureStrings, and its changing facts as plain ones, which hosts read at each boot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pulumi import ComponentResource, Input, Output, Resource, ResourceOptions
from pulumi_aws import ssm

from components.tags import Tags
from plan.cluster import Role
from plan.secrets import CONTROL_COUNT, Secret, parameter_name


@dataclass(frozen=True)
class SecretStoreArgs:
    """secrets: those of this stack. values: each secret's value by its key; they stay secret in the state.

    control_count: how many control nodes.
    """

    secrets: Sequence[Secret]
    values: Mapping[str, Input[str]]
    control_count: int
    tags: Tags


class SecretStore(ComponentResource):
    """Secrets in SSM, type apollo:security:SecretStore.

    Creates: {name}-<parameter with dashes> (SecureString under AWS's own key) for each secret, advanced for a large one, and
    {name}-control-count (String).
    """

    def __init__(self, name: str, args: SecretStoreArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:security:SecretStore", name, None, opts)
        self._secrets = args.secrets
        self._parameters = {
            secret.key: ssm.Parameter(
                f"{name}-{secret.parameter.replace('/', '-')}",
                name=parameter_name(args.tags.stack, secret),
                type="SecureString",
                tier="Advanced" if secret.large else None,
                value=args.values[secret.key],
                description=secret.purpose,
                tags=args.tags.named(secret.parameter.replace("/", "-")),
                opts=ResourceOptions(parent=self, additional_secret_outputs=["value"]),
            )
            for secret in args.secrets
        }
        self._count = ssm.Parameter(
            f"{name}-control-count",
            name=parameter_name(args.tags.stack, CONTROL_COUNT),
            type="String",
            value=str(args.control_count),
            description=CONTROL_COUNT.purpose,
            tags=args.tags.named("control-count"),
            opts=ResourceOptions(parent=self),
        )
        self.register_outputs({"parameters": [parameter.name for parameter in (*self._parameters.values(), self._count)]})

    def readable_arns(self, role: Role) -> list[Output[str]]:
        return [parameter.arn for parameter in self._of(role)]

    def ready(self, role: Role) -> list[Resource]:
        """What must exist before a host of the role boots."""
        return list(self._of(role))

    def _of(self, role: Role) -> list[ssm.Parameter]:
        own = [self._parameters[secret.key] for secret in self._secrets if role in secret.readers]
        return [*own, self._count] if role in CONTROL_COUNT.readers else own
