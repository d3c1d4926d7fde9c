"""Drains a host before its instance is deleted: the engine runs `python -m ops drain` on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_command import local

from components.host import Host
from plan.admin import ADMIN_KEY
from plan.cluster import Cluster, PlannedHost
from plan.secrets import public_half


@dataclass(frozen=True)
class DrainsArgs:
    """hosts: every host's component by its name. jump: the edge's public address, the only one with SSH open.

    private_key: the administrators' key, secret; None where there is none. agent: the SSH agent's keys are used.
    host_key: the hosts' own, OpenSSH's format.
    """

    cluster: Cluster
    hosts: Mapping[str, Host]
    jump: Input[str]
    private_key: Input[str] | None
    agent: bool
    host_key: Input[str]


class Drains(ComponentResource):
    """Drains every host before its machine goes, type apollo:compute:Drains.

    Creates: {host}-drain (a local command that does nothing until it is deleted) for each host. It is triggered by the
    machine's id, so it is deleted before the machine at a replacement too: drain → terminate → create. It depends on the
    host's whole component, hence is deleted before the volume is detached, and behind the first edge, through which it goes.
    """

    def __init__(self, name: str, args: DrainsArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:compute:Drains", name, None, opts)
        pinned = Output.from_input(args.host_key).apply(public_half)
        first_edge = args.hosts[args.cluster.edges[0].name]
        for host in args.cluster.hosts:
            own = args.hosts[host.name]
            known = Output.all(own.instance_id, args.jump, pinned)
            local.Command(
                f"{host.name}-drain",
                delete=known.apply(lambda known, host=host: _command(args, host, *known)),
                environment=None if args.private_key is None else {ADMIN_KEY: args.private_key},
                triggers=[own.instance_id],
                add_previous_output_in_env=False,
                opts=ResourceOptions(parent=self, depends_on=[own, first_edge], delete_before_replace=True),
            )
        self.register_outputs({"hosts": [host.name for host in args.cluster.hosts]})


def _command(args: DrainsArgs, host: PlannedHost, instance: str, jump: str, pinned: str) -> str:
    """What the shell runs. It never fails: a dead host must not keep its machine from going.

    It names the machine: where that is gone already, such as after a refresh, its successor has the same address by now.
    """
    edges = args.cluster.edges
    first = host is edges[0]
    argv = ["python3", "-m", "ops", "drain", "--host", host.name, "--instance", instance]
    argv += ["--address", "" if first else str(host.private_ip)]
    argv += ["--jump", jump, "--host-key", pinned, *(["--agent"] if args.agent else [])]
    argv += ["--edges", ",".join(str(edge.private_ip) for edge in edges if edge is not host)]
    # The first three of the five there may be: growing from three to five changes no drain.
    argv += ["--control", ",".join(str(address) for address in args.cluster.control_addresses[:3])]
    return f"{shlex.join(argv)} || echo '{host.name} goes as it is'"
