"""The edge: HAProxy machines with addresses that the internet knows before they boot."""

from __future__ import annotations

from dataclasses import dataclass

from pulumi import ComponentResource, Output, ResourceOptions
from pulumi_aws import ec2, lb

from components.host import Host, HostArgs, Site
from plan.cluster import PlannedHost
from plan.ports import EDGE_BEHIND_BALANCER, EDGE_BEHIND_BALANCER_TLS, HTTP, HTTPS

# Seconds of silence after which the balancer drops a connection: more than `timeout tunnel` of HAProxy, which ends it openly.
IDLE = 3660
# Seconds for an edge that is drained to finish its requests: more than any drain takes.
DRAINING = 600
# The path of the edge's health check; see haproxy.cfg.
HEALTH_PATH = "/.apollo/health"


@dataclass(frozen=True)
class EdgeArgs:
    site: Site


class Edge(ComponentResource):
    """The edges of the plan, type apollo:edge:Edge.

    Creates for each edge: {edge}-interface (with its planned address), {edge}-address (elastic address, associated with the
    interface, so both outlive the machine) and a Host. Only with more than one edge: {name}-balancer (network load balancer
    over the public subnets), {name}-web (target group with PROXY protocol v2), {name}-web listener, one target for each edge,
    and with TLS the same again as {name}-web-tls. The balancer passes TLS on as it is: the edges hold the certificate.
    """

    def __init__(self, name: str, args: EdgeArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:edge:Edge", name, None, opts)
        self._site = args.site
        edges = args.site.cluster.edges
        self.hosts: dict[str, Host] = {}
        addresses: list[ec2.Eip] = []
        for host in edges:
            self.hosts[host.name], address = self._edge(host)
            addresses.append(address)
        self.public_ips = [address.public_ip for address in addresses]
        self.dns_name: Output[str] = addresses[0].public_dns if len(edges) == 1 else self._balancer(name, edges)
        self.register_outputs({"publicIps": self.public_ips, "dnsName": self.dns_name})

    def _edge(self, host: PlannedHost) -> tuple[Host, ec2.Eip]:
        site, child = self._site, ResourceOptions(parent=self)
        interface = ec2.NetworkInterface(
            f"{host.name}-interface",
            subnet_id=site.subnet_id(host),
            private_ips=[str(host.private_ip)],
            security_groups=site.security.of_role(host.role),
            tags=site.tags.named(host.name),
            opts=child,
        )
        address = ec2.Eip(
            f"{host.name}-address",
            domain="vpc",
            tags=site.tags.named(host.name),
            # An address can be associated only once the VPC has its gateway.
            opts=ResourceOptions(parent=self, depends_on=site.vpc.public_ready[host.zone.index]),
        )
        association = ec2.EipAssociation(
            f"{host.name}-address", allocation_id=address.id, network_interface_id=interface.id, opts=child
        )
        machine = Host(host.name, HostArgs(site=site, host=host, interface_id=interface.id, needs=[association]), child)
        return machine, address

    def _balancer(self, name: str, edges: tuple[PlannedHost, ...]) -> Output[str]:
        site = self._site
        balancer = lb.LoadBalancer(
            f"{name}-balancer",
            load_balancer_type="network",
            internal=False,
            subnets=list(site.vpc.public_subnet_ids.values()),
            security_groups=[site.security.groups["balancer"].id],
            # Every zone has a node of the balancer, and not every zone has an edge that it could send to.
            enable_cross_zone_load_balancing=True,
            enable_deletion_protection=site.cluster.settings.edge.deletion_protection,
            tags=site.tags.named("balancer"),
            # AWS refuses it (InvalidSubnet) before the VPC has its gateway, and nothing above names that.
            opts=ResourceOptions(parent=self, depends_on=[way for ways in site.vpc.public_ready.values() for way in ways]),
        )
        self._web(f"{name}-web", balancer, HTTP, EDGE_BEHIND_BALANCER, edges)
        if site.cluster.settings.edge.tls.enabled:
            self._web(f"{name}-web-tls", balancer, HTTPS, EDGE_BEHIND_BALANCER_TLS, edges)
        return balancer.dns_name

    def _web(self, name: str, balancer: lb.LoadBalancer, port: int, edge_port: int, edges: tuple[PlannedHost, ...]) -> None:
        """One port of the balancer: target group, listener and a target for each edge."""
        site, child = self._site, ResourceOptions(parent=self)
        suffix = name.partition("-")[2]
        group = lb.TargetGroup(
            name,
            port=edge_port,
            protocol="TCP",
            # By address, which outlives the machine, so that a replaced edge stays a target.
            target_type="ip",
            vpc_id=site.vpc.vpc_id,
            proxy_protocol_v2=True,
            preserve_client_ip="false",
            deregistration_delay=30,
            # An edge that is drained says that it does not serve, and has requests under way: by default AWS would reset those.
            target_health_states=[
                lb.TargetGroupTargetHealthStateArgs(
                    enable_unhealthy_connection_termination=False, unhealthy_draining_interval=DRAINING
                )
            ],
            # A port that is open is not enough: an edge counts once it knows the services. Its checks carry the PROXY
            # protocol too, so they go to a port that expects it.
            health_check=lb.TargetGroupHealthCheckArgs(
                protocol="HTTP",
                port=str(EDGE_BEHIND_BALANCER),
                path=HEALTH_PATH,
                matcher="200",
                # The shortest that AWS has. An answer of the edge's own takes it milliseconds.
                interval=5,
                timeout=3,
                healthy_threshold=2,
                unhealthy_threshold=2,
            ),
            tags=site.tags.named(suffix),
            opts=child,
        )
        lb.Listener(
            name,
            load_balancer_arn=balancer.arn,
            port=port,
            protocol="TCP",
            tcp_idle_timeout_seconds=IDLE,
            default_actions=[lb.ListenerDefaultActionArgs(type="forward", target_group_arn=group.arn)],
            tags=site.tags.named(suffix),
            opts=child,
        )
        for host in edges:
            lb.TargetGroupAttachment(
                f"{host.name}-{suffix}",
                target_group_arn=group.arn,
                target_id=str(host.private_ip),
                port=edge_port,
                opts=child,
            )
