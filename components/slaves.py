"""The Mesos slaves: machines that run containers, each with its own /24."""

from __future__ import annotations

from dataclasses import dataclass

from pulumi import ComponentResource, ResourceOptions

from components.host import Host, HostArgs, Site


@dataclass(frozen=True)
class SlavesArgs:
    site: Site


class Slaves(ComponentResource):
    """All slaves of the plan, type apollo:compute:Slaves. Creates a Host named slave-<slot> for each slot in use."""

    def __init__(self, name: str, args: SlavesArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:compute:Slaves", name, None, opts)
        self.hosts = {
            host.name: Host(host.name, HostArgs(site=args.site, host=host), ResourceOptions(parent=self))
            for host in args.site.cluster.slaves
        }
        self.register_outputs({"instanceIds": {name: host.instance_id for name, host in self.hosts.items()}})
