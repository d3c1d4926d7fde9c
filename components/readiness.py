"""Checks each host over SSH at the end of an `up`."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi import ComponentResource, CustomTimeouts, Input, Output, ResourceOptions
from pulumi_command import local, remote

from components.host import Host
from plan.admin import ADMIN_KEY, ADMIN_USER
from plan.cluster import Cluster, PlannedHost
from plan.secrets import public_half

# Seconds. DEADLINE holds for all of it: reaching the host, whose first boot may install packages for minutes, and then what
# the host is asked, which gives up by itself after CHECK_SECONDS so that its words arrive.
DEADLINE = 1200
CHECK_SECONDS = 600
_DIAL_SECONDS = 15

# cloud-init ends with 2 where it is done in spite of errors that it recovered from; older versions do not tell them apart.
READY = f"""\
end=$(($(date +%s) + {CHECK_SECONDS}))
status=0
said=$(sudo timeout {CHECK_SECONDS} cloud-init status --wait --long 2>&1) || status=$?
case $status in
0 | 2) ;;
*)
  sudo tail -n 10 /var/log/cloud-init-output.log >&2
  echo "cloud-init did not bring this host up (status $status, 124 is for none within {CHECK_SECONDS} s):" >&2
  echo "$said" | tail -n 8 >&2
  exit 1
  ;;
esac
left=$((end - $(date +%s)))
sudo apollo-check --wait $((left > 1 ? left : 1))
"""


@dataclass(frozen=True)
class ReadinessArgs:
    """hosts: every host's component by its name. jump: the edge's public address, the only one with SSH open.

    private_key: the administrators' key, secret; None uses the SSH agent. host_key: the hosts' own, OpenSSH's format.
    """

    cluster: Cluster
    hosts: Mapping[str, Host]
    jump: Input[str]
    private_key: Input[str] | None
    host_key: Input[str]


class Readiness(ComponentResource):
    """Waits for every host's cloud-init, and then for it to pass `apollo-check`; type apollo:compute:Readiness.

    Creates: {name}-way (a local command, run again when any machine is another one), which fails within seconds where the first
    edge is up and does not answer at its SSH port from here, and says why, instead of DEADLINE's wait for each host;
    {host}-ready (a command over SSH, through the first edge) for each host, run again when its machine is replaced
    and when other ports are opened for the mesh. The host keys are pinned: they were made with the secrets, so a
    stranger at the address is refused.
    """

    def __init__(self, name: str, args: ReadinessArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:compute:Readiness", name, None, opts)
        pinned = Output.from_input(args.host_key).apply(public_half)
        # Only an `up` that waits for a host below needs this look. So machines are inputs, and nothing is replaced.
        machines = Output.all(*(host.instance_id for host in args.hosts.values())).apply(",".join)
        look = local.Command(
            f"{name}-way",
            create=Output.all(args.jump, pinned).apply(lambda known: _look(*known, agent=args.private_key is None)),
            environment={"APOLLO_MACHINES": machines, **({} if args.private_key is None else {ADMIN_KEY: args.private_key})},
            add_previous_output_in_env=False,
            opts=ResourceOptions(parent=self, depends_on=[args.hosts[args.cluster.edges[0].name]]),
        )
        for host in args.cluster.hosts:
            remote.Command(
                f"{host.name}-ready",
                connection=_connection(args, host, pinned),
                create=READY,
                triggers=[args.hosts[host.name].instance_id, _digest(args.cluster)],
                add_previous_output_in_env=False,
                # A check depends on other hosts (Consul's majority, the mesh's other ends), so no check waits for another.
                opts=ResourceOptions(
                    parent=self,
                    depends_on=[args.hosts[host.name], look],
                    custom_timeouts=CustomTimeouts(create=f"{DEADLINE}s", update=f"{DEADLINE}s"),
                ),
            )
        self.register_outputs({"hosts": [host.name for host in args.cluster.hosts]})


def not_checked(cluster: Cluster) -> None:
    """Warns that this `up` does not check whether the network works, and says how to have it checked."""
    pulumi.log.info(
        f"readiness not checked: {len(cluster.hosts)} hosts will boot unobserved. Set admin.allowedCidrs, admin.publicKey and "
        "the secret apollo:adminPrivateKey (or admin.agent: true) to have every host checked over SSH."
    )


def _look(jump: str, pinned: str, *, agent: bool) -> str:
    return shlex.join(["python3", "-m", "ops", "reach", "--jump", jump, "--host-key", pinned, *(["--agent"] if agent else [])])


def _digest(cluster: Cluster) -> str:
    """Of what is open between nodes: a port that is closed by mistake shows in the `up` that closes it."""
    flows = sorted(f"{flow.protocol} {flow.first_port} {flow.last_port}" for flow in cluster.flows)
    return hashlib.sha256("\n".join(flows).encode()).hexdigest()[:12]


def _connection(args: ReadinessArgs, host: PlannedHost, pinned: Input[str]) -> remote.ConnectionArgs:
    first_edge = host is args.cluster.edges[0]
    # The machine may still be booting. Dials are not counted (-1): refused at once or never answered, they differ in length,
    # and DEADLINE ends them.
    jump = remote.ProxyConnectionArgs(
        host=args.jump,
        user=ADMIN_USER,
        private_key=args.private_key,
        host_key=pinned,
        dial_error_limit=-1,
        per_dial_timeout=_DIAL_SECONDS,
    )
    return remote.ConnectionArgs(
        host=args.jump if first_edge else str(host.private_ip),
        user=ADMIN_USER,
        private_key=args.private_key,
        host_key=pinned,
        proxy=None if first_edge else jump,
        dial_error_limit=-1,
        per_dial_timeout=_DIAL_SECONDS,
    )
