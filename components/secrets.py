"""The stack's secrets as SSM SecureStrings, and its changing facts as plain ones, which hosts read at each boot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pulumi import ComponentResource, Input, Output, Resource, ResourceOptions
from pulumi_aws import kms, ssm

from components.security import policy
from components.tags import Tags
from plan.cluster import Role
from plan.secrets import CONTROL_COUNT, Secret, parameter_name

# What administers a key, as KMS's developer guide lists it ("Default key policy"), and what uses one.
MANAGE = [
    f"kms:{action}"
    for action in (
        *("Create*", "Describe*", "Enable*", "List*", "Put*", "Update*", "Revoke*", "Disable*", "Get*", "Delete*"),
        *("TagResource", "UntagResource", "ScheduleKeyDeletion", "CancelKeyDeletion", "RotateKeyOnDemand"),
    )
]
USE = ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey"]


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

    Creates: {name}-key (KMS key), {name}-<parameter with dashes> (SecureString under that key) for each secret, advanced for
    a large one, and {name}-control-count (String).
    """

    def __init__(self, name: str, args: SecretStoreArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:security:SecretStore", name, None, opts)
        self._secrets = args.secrets
        self._count = ssm.Parameter(
            f"{name}-control-count",
            name=parameter_name(args.tags.stack, CONTROL_COUNT),
            type="String",
            value=str(args.control_count),
            description=CONTROL_COUNT.purpose,
            tags=args.tags.named("control-count"),
            opts=ResourceOptions(parent=self),
        )
        key = kms.Key(
            f"{name}-key",
            description=f"Secrets of the Apollo stack {args.tags.stack}",
            # Account and partition are known to AWS alone, which says them in every ARN.
            policy=self._count.arn.apply(lambda arn: key_policy(arn.removesuffix(CONTROL_COUNT.parameter))),
            enable_key_rotation=True,
            tags=args.tags.named("secrets"),
            opts=ResourceOptions(parent=self),
        )
        self.key_arn = key.arn
        self._parameters = {
            secret.key: ssm.Parameter(
                f"{name}-{secret.parameter.replace('/', '-')}",
                name=parameter_name(args.tags.stack, secret),
                type="SecureString",
                tier="Advanced" if secret.large else None,
                key_id=key.arn,
                value=args.values[secret.key],
                description=secret.purpose,
                tags=args.tags.named(secret.parameter.replace("/", "-")),
                opts=ResourceOptions(parent=self, additional_secret_outputs=["value"]),
            )
            for secret in args.secrets
        }
        self.register_outputs({"parameters": [parameter.name for parameter in (*self._parameters.values(), self._count)]})

    def encrypted_arns(self, role: Role) -> list[Output[str]]:
        """Of what the role reads, the parameters that it must decrypt."""
        return [parameter.arn for parameter in self._of(role) if parameter is not self._count]

    def readable_arns(self, role: Role) -> list[Output[str]]:
        return [parameter.arn for parameter in self._of(role)]

    def ready(self, role: Role) -> list[Resource]:
        """What must exist before a host of the role boots."""
        return list(self._of(role))

    def _of(self, role: Role) -> list[ssm.Parameter]:
        own = [self._parameters[secret.key] for secret in self._secrets if role in secret.readers]
        return [*own, self._count] if role in CONTROL_COUNT.readers else own


def key_policy(prefix: str) -> str:
    """The key's policy. prefix: the ARN of the stack's parameters without the name of one, with a slash at its end.

    The account manages the key. It is used for the stack's parameters only, and by principals whose own policies name
    kms:Decrypt and the like: the hosts' roles, administrators, and whoever deploys. Reading parameters, as ReadOnlyAccess may,
    is not enough. Hosts' roles are not named here, as AWS refuses a policy that names a role that is gone.
    """
    _, partition, _, _, account, _ = prefix.split(":", 5)
    owner = {"AWS": f"arn:{partition}:iam::{account}:root"}
    context = {"StringLike": {"kms:EncryptionContext:PARAMETER_ARN": f"{prefix}*"}}
    return policy(
        {"Sid": "Manage", "Effect": "Allow", "Principal": owner, "Action": MANAGE, "Resource": "*"},
        {"Sid": "Use", "Effect": "Allow", "Principal": owner, "Action": USE, "Resource": "*", "Condition": context},
    )
