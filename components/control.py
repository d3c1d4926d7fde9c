"""The control nodes: Consul servers, with ZooKeeper, the Mesos masters and Marathon beside them."""

from __future__ import annotations

from dataclasses import dataclass

from pulumi import ComponentResource, ResourceOptions

from components.host import Host, HostArgs, Site


@dataclass(frozen=True)
class ControlArgs:
    site: Site


class Control(ComponentResource):
    """All control nodes of the plan, type apollo:compute:Control. Creates a Host named control-<number> for each."""

    def __init__(self, name: str, args: ControlArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:compute:Control", name, None, opts)
        self.hosts = {
            host.name: Host(host.name, HostArgs(site=args.site, host=host), ResourceOptions(parent=self))
            for host in args.site.cluster.control
        }
        self.register_outputs({"instanceIds": {name: host.instance_id for name, host in self.hosts.items()}})
