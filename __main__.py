"""Apollo networking: settings → plan → components → exports. Everything that decides is in plan/."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi_aws import ec2

import sdk_shortcuts
from components.drain import Drains, DrainsArgs
from components.edge import Edge, EdgeArgs
from components.existing import network_of
from components.host import Hosts, HostsArgs, Site
from components.programs import Programs, ProgramsArgs
from components.readiness import Readiness, ReadinessArgs, not_checked
from components.secrets import SecretStore, SecretStoreArgs
from components.security import ROLES, Identity, IdentityArgs, Security, SecurityArgs
from components.tags import Tags
from config import load, load_admin_key
from outputs import exports
from plan.aws import architecture
from plan.cluster import Role, plan_cluster
from plan.existing import marks
from plan.secrets import secrets_of
from plan.settings import Settings


def image_id(settings: Settings, kept: pulumi.Output[Any]) -> pulumi.Input[str]:
    """The AMI of new machines. Existing ones keep theirs until their generation rises.

    kept: known when the record was compared. A look-up before would put a changed region into the state.
    """
    image = settings.image
    if image.id is not None:
        return image.id
    wanted = {"name": image.name, "architecture": architecture(settings.slaves.instance_type)}
    filters = [ec2.GetAmiFilterArgs(name=name, values=[value]) for name, value in wanted.items()]
    return ec2.get_ami_output(owners=[image.owner], filters=kept.apply(lambda _: filters), most_recent=True).id


def main() -> None:
    sdk_shortcuts.install()
    settings, values = load()
    cluster = plan_cluster(settings)
    tags = Tags(pulumi.get_stack(), settings.tags)

    vpc, kept = network_of(cluster, tags)
    security = Security("security", SecurityArgs(settings, vpc.vpc_id, tags, marks(cluster)))
    secrets = SecretStore("secrets", SecretStoreArgs(secrets_of(settings), values, settings.control.count, tags))
    programs = Programs("programs", ProgramsArgs(cluster, tags))
    bucket = programs.bucket_arn

    def identity(role: Role) -> Identity:
        readable = [*secrets.readable_arns(role), *programs.readable_arns]
        return Identity(role, IdentityArgs(role, readable, secrets.encrypted_arns(role), secrets.key_arn, bucket, tags))

    identities: dict[Role, Identity] = {role: identity(role) for role in ROLES}
    site = Site(cluster, vpc, security, secrets, programs, identities, image_id(settings, kept), tags)

    control = Hosts("control", HostsArgs(site, cluster.control))
    slaves = Hosts("slave", HostsArgs(site, cluster.slaves))
    edge = Edge("edge", EdgeArgs(site))

    admin, admin_key = settings.admin, load_admin_key()
    hosts = {**slaves.hosts, **control.hosts, **edge.hosts}
    jump, host_key = edge.public_ips[0], values["sshHostKey"]
    Drains("drains", DrainsArgs(cluster, hosts, jump, admin_key, admin.agent, host_key))
    if admin.allowed_cidrs and (admin_key is not None or admin.agent):
        Readiness("readiness", ReadinessArgs(cluster, hosts, jump, admin_key, host_key))
    else:
        not_checked(cluster)
    for name, value in exports(cluster, vpc, security, slaves, edge, host_key).items():
        pulumi.export(name, value)


main()
