"""A machine of the plan, and all of a role. The one place that knows an instance's lifecycle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pulumi import ComponentResource, Input, Resource, ResourceOptions
from pulumi_aws import ebs, ec2

from components.existing import ExistingVpc
from components.network import Vpc
from components.programs import Programs
from components.secrets import SecretStore
from components.security import Identity, Security
from components.tags import Tags
from host.render import DATA_DEVICE, user_data_base64
from plan.cluster import Cluster, PlannedHost, Role


@dataclass(frozen=True)
class Site:
    """What all hosts of a stack share: the plan, and the ids of what is around them."""

    cluster: Cluster
    vpc: Vpc | ExistingVpc
    security: Security
    secrets: SecretStore
    programs: Programs
    identities: dict[Role, Identity]
    image_id: Input[str]
    tags: Tags

    def subnet_id(self, host: PlannedHost) -> Input[str]:
        subnets = self.vpc.public_subnet_ids if host.public else self.vpc.private_subnet_ids
        return subnets[host.zone.index]

    def ready(self, host: PlannedHost) -> list[Resource]:
        """All that a first boot needs: the way out, the rules, the role's policy, the parameters and the programs it reads."""
        ways = self.vpc.public_ready if host.public else self.vpc.private_ready
        return [
            *ways[host.zone.index],
            *self.vpc.s3_ready,
            *self.security.ready(host.role),
            *self.identities[host.role].ready,
            *self.secrets.ready(host.role),
            *self.programs.ready(host.role),
        ]


@dataclass(frozen=True)
class HostArgs:
    """host: plain, so that name, addresses and user-data are known before any cloud call.

    interface_id: a network interface made beforehand, with the host's address and groups; by default the instance has its own.
    needs: what else must exist before the instance.
    """

    site: Site
    host: PlannedHost
    interface_id: Input[str] | None = None
    needs: Sequence[Resource] = ()


def waiting(host: PlannedHost, user_data: str) -> dict[str, Input[Any]]:
    """The component's own inputs: what the machine ignores until its generation rises, and where it is.

    So a preview shows an update of the component, and nothing else, where a machine and its plan go apart: it is what
    `python -m ops gate` and a reviewer read.
    """
    return {
        "role": host.role,
        "index": host.index,
        "generation": host.generation,
        "instanceType": host.instance_type,
        "rootGib": host.root_gib,
        "hostFiles": hashlib.sha256(user_data.encode()).hexdigest()[:12],
        "privateIp": str(host.private_ip),
        "bridgeAddress": str(host.bridge_address),
        "dockerSubnet": str(host.docker_subnet or ""),
        "zone": host.zone.name,
    }


class Host(ComponentResource):
    """One machine, type apollo:compute:Host.

    Creates: {name}-instance (EC2: IMDSv2 required, hop limit 1, encrypted root disk) and, where the plan gives it data,
    {name}-data (EBS volume, encrypted, in the host's zone) and {name}-data (its attachment).
    Replacement: a raised `generation`, never a newer image, other user-data or another machine type: those wait for it. The
    old machine is deleted first, as its successor takes the same addresses and the same volume.
    """

    def __init__(self, name: str, args: HostArgs, opts: ResourceOptions | None = None) -> None:
        site, host = args.site, args.host
        user_data = user_data_base64(site.cluster, host, site.tags.stack)
        super().__init__("apollo:compute:Host", name, waiting(host, user_data), opts)
        tags = site.tags.of_host(host)
        own_interface = args.interface_id is None
        self.instance = ec2.Instance(
            f"{name}-instance",
            ami=site.image_id,
            instance_type=host.instance_type,
            subnet_id=site.subnet_id(host) if own_interface else None,
            private_ip=str(host.private_ip) if own_interface else None,
            vpc_security_group_ids=site.security.of_role(host.role) if own_interface else None,
            primary_network_interface=None
            if args.interface_id is None
            else ec2.InstancePrimaryNetworkInterfaceArgs(network_interface_id=args.interface_id),
            iam_instance_profile=site.identities[host.role].profile_name,
            user_data_base64=user_data,
            metadata_options=ec2.InstanceMetadataOptionsArgs(
                http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
            ),
            root_block_device=ec2.InstanceRootBlockDeviceArgs(
                encrypted=True, volume_type="gp3", volume_size=host.root_gib, tags=tags
            ),
            tags=tags,
            opts=ResourceOptions(
                parent=self,
                depends_on=[*site.ready(host), *args.needs],
                delete_before_replace=True,
                replacement_trigger=host.generation,
                ignore_changes=["ami", "user_data_base64", "instance_type", "root_block_device"],
            ),
        )
        self.instance_id = self.instance.id
        if host.data_gib:
            volume = ebs.Volume(
                f"{name}-data",
                availability_zone=host.zone.name,
                size=host.data_gib,
                type="gp3",
                encrypted=True,
                tags=site.tags.named(f"{host.name}-data"),
                opts=ResourceOptions(parent=self),
            )
            ec2.VolumeAttachment(
                f"{name}-data",
                device_name=DATA_DEVICE,
                instance_id=self.instance_id,
                volume_id=volume.id,
                # A detach under a running host would cut its raft log or containers off in mid-write.
                stop_instance_before_detaching=True,
                opts=ResourceOptions(parent=self, delete_before_replace=True),
            )
        self.register_outputs({"instanceId": self.instance_id})


@dataclass(frozen=True)
class HostsArgs:
    """hosts: all of one role."""

    site: Site
    hosts: Sequence[PlannedHost]


class Hosts(ComponentResource):
    """All hosts of a role in private subnets, type apollo:compute:Slaves or apollo:compute:Control.

    Creates: a Host named as the plan names it for each.
    """

    def __init__(self, role: Literal["slave", "control"], args: HostsArgs, opts: ResourceOptions | None = None) -> None:
        name = {"slave": "slaves", "control": "control"}[role]
        super().__init__(f"apollo:compute:{name.capitalize()}", name, None, opts)
        self.hosts = {
            host.name: Host(host.name, HostArgs(site=args.site, host=host), ResourceOptions(parent=self)) for host in args.hosts
        }
        self.register_outputs({"instanceIds": {name: host.instance_id for name, host in self.hosts.items()}})
