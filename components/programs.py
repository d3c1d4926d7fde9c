"""The hosts' programs as SSM parameters, which each host fetches once, at its first boot."""

from __future__ import annotations

from dataclasses import dataclass

from pulumi import ComponentResource, Output, Resource, ResourceOptions
from pulumi_aws import ssm

from components.security import ROLES
from components.tags import Tags
from host.render import bundles
from plan.cluster import Cluster, Role


@dataclass(frozen=True)
class ProgramsArgs:
    cluster: Cluster
    tags: Tags


class Programs(ComponentResource):
    """What is too large for user-data and the same on every host, type apollo:compute:Programs.

    Creates: {name}-<bundle>-<part> (String, at most 4 KB) for each part of each bundle that a role of the plan needs.
    A change of a program updates them in place and touches no host: user-data names the digest that it was made for, and a
    raised generation brings both.
    """

    def __init__(self, name: str, args: ProgramsArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:compute:Programs", name, None, opts)
        needed = {role: bundles(args.cluster, role) for role in ROLES}
        every = {bundle.name: bundle for role in ROLES for bundle in needed[role]}
        self._needed = {role: [bundle.name for bundle in needed[role]] for role in ROLES}
        self._parameters = {
            bundle.name: [
                ssm.Parameter(
                    f"{name}-{bundle.name}-{part}",
                    name=f"/apollo/{args.tags.stack}/programs/{bundle.name}/{part}",
                    type="String",
                    insecure_value=text,
                    description=f"Programs of the hosts: {bundle.name}, part {part} of {len(bundle.parts)}",
                    tags=args.tags.named(f"programs-{bundle.name}-{part}"),
                    opts=ResourceOptions(parent=self),
                )
                for part, text in enumerate(bundle.parts, 1)
            ]
            for bundle in every.values()
        }
        self.register_outputs({"bundles": {bundle.name: bundle.digest for bundle in every.values()}})

    def readable_arns(self, role: Role) -> list[Output[str]]:
        return [parameter.arn for parameter in self._of(role)]

    def ready(self, role: Role) -> list[Resource]:
        """What must exist before a host of the role boots."""
        return list(self._of(role))

    def _of(self, role: Role) -> list[ssm.Parameter]:
        return [parameter for bundle in self._needed[role] for parameter in self._parameters[bundle]]
