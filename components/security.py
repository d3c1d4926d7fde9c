"""Who may talk to whom, and what a host may ask AWS for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pulumi import ComponentResource, Input, Output, Resource, ResourceOptions
from pulumi_aws import ec2, iam, vpc

from components.tags import Tags
from plan.cluster import Cluster, Role
from plan.mesh import Flow
from plan.ports import (
    CONSUL_DNS,
    CONSUL_HTTP,
    CONSUL_RPC,
    CONSUL_SERF,
    CONSUL_TOKENS,
    EDGE_BEHIND_BALANCER,
    EDGE_BEHIND_BALANCER_TLS,
    HTTP,
    HTTPS,
    MARATHON,
    MARATHON_SCHEDULER,
    MESOS_AGENT,
    MESOS_MASTER,
    SSH,
    ZOOKEEPER_CLIENT,
    ZOOKEEPER_ELECTION,
    ZOOKEEPER_PEER,
)

ANYWHERE = "0.0.0.0/0"
ROLES: tuple[Role, ...] = ("slave", "control", "edge")


@dataclass(frozen=True)
class SecurityArgs:
    cluster: Cluster
    vpc_id: Input[str]
    tags: Tags


class Security(ComponentResource):
    """Security groups, type apollo:security:Security.

    Creates the groups {name}-node (every host: mesh, gossip, the way out), -slave, -control, -edge, -client (attached by
    others, holds no rule), -balancer (only with more than one edge), and one rule resource for each flow. Open to the world
    are the web ports of the edge (443 only with TLS), or of the load balancer where one stands before several edges, and
    nothing else.
    """

    def __init__(self, name: str, args: SecurityArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:security:Security", name, None, opts)
        self._name, self._args = name, args
        self._rules: dict[str, list[Resource]] = {}
        self.node = self._group("node", "Every host: mesh, gossip and the way out")
        self.slave = self._group("slave", "Mesos slaves")
        self.control = self._group("control", "Consul servers and Mesos masters")
        self.edge = self._group("edge", "HAProxy edges")
        self.client = self._group("client", "Attach to reach the edge and Consul from inside the VPC")
        self.balancer = self._group("balancer", "Load balancer before the edges") if len(args.cluster.edges) > 1 else None
        self._between_nodes(args.cluster.flows)
        self._to_control()
        self._to_slaves()
        self._to_edge()
        self._ssh(args.cluster)
        self.register_outputs({"clientGroupId": self.client.id, "slaveGroupId": self.slave.id})

    def groups(self, role: Role) -> list[Output[str]]:
        """The groups a host of the role is in."""
        return [self.node.id, self._of(role).id]

    def ready(self, role: Role) -> list[Resource]:
        """The rules that must stand before a host of the role boots."""
        return [*self._rules["node"], *self._rules.get(role, [])]

    def _of(self, role: Role) -> ec2.SecurityGroup:
        return {"slave": self.slave, "control": self.control, "edge": self.edge}[role]

    def _between_nodes(self, flows: Sequence[Flow]) -> None:
        for flow in flows:
            self._allow("node", flow.protocol, flow.first_port, flow.purpose, last_port=flow.last_port, source="node")
        for protocol in ("tcp", "udp"):
            self._allow("node", protocol, CONSUL_SERF, "Consul gossip", source="node")
        out = vpc.SecurityGroupEgressRule(
            f"{self._name}-node-out",
            security_group_id=self.node.id,
            ip_protocol="-1",
            cidr_ipv4=ANYWHERE,
            description="Hosts and their containers to anywhere: packages, images, AWS, other services",
            tags=self._args.tags.named("node-out"),
            opts=ResourceOptions(parent=self),
        )
        self._rules["node"].append(out)

    def _to_control(self) -> None:
        self._allow("control", "tcp", CONSUL_RPC, "Consul RPC from every agent", source="node")
        self._allow("control", "tcp", CONSUL_TOKENS, "Consul tokens for hosts", source="node")
        self._allow("control", "tcp", CONSUL_HTTP, "Consul HTTP API for clients in the VPC", source="client")
        for protocol in ("tcp", "udp"):
            self._allow("control", protocol, CONSUL_DNS, "Consul DNS for clients in the VPC", source="client")
        for source in ("slave", "control"):
            self._allow("control", "tcp", ZOOKEEPER_CLIENT, f"ZooKeeper from {source} hosts", source=source)
            self._allow("control", "tcp", MESOS_MASTER, f"Mesos master from {source} hosts", source=source)
        self._allow("control", "tcp", ZOOKEEPER_PEER, "ZooKeeper followers to leader", source="control")
        self._allow("control", "tcp", ZOOKEEPER_ELECTION, "ZooKeeper leader election", source="control")
        self._allow("control", "tcp", MARATHON, "Marathon behind its leader", source="control")
        self._allow("control", "tcp", MARATHON, "Marathon API, with its password, for clients in the VPC", source="client")
        self._allow("control", "tcp", MARATHON_SCHEDULER, "Mesos masters to Marathon", source="control")
        ports = {"marathon": MARATHON, "mesos-master": MESOS_MASTER}
        for published in sorted(set(self._args.cluster.settings.mesos.published)):
            self._allow("control", "tcp", ports[published], f"{published}, which this stack publishes", source="edge")

    def _to_slaves(self) -> None:
        self._allow("slave", "tcp", MESOS_AGENT, "Mesos agent from masters", source="control")

    def _to_edge(self) -> None:
        ports = [(HTTP, EDGE_BEHIND_BALANCER)]
        if self._args.cluster.settings.edge.tls.enabled:
            ports.append((HTTPS, EDGE_BEHIND_BALANCER_TLS))
        for port, behind_balancer in ports:
            self._allow("edge", "tcp", port, "Web from clients in the VPC", source="client")
            if self.balancer is None:
                self._allow("edge", "tcp", port, "Web from the internet", cidr=ANYWHERE)
                continue
            self._allow("balancer", "tcp", port, "Web from the internet", cidr=ANYWHERE)
            self._allow("edge", "tcp", behind_balancer, "Web from the load balancer", source="balancer")
            vpc.SecurityGroupEgressRule(
                # The first of them had its name when there was no other, and names are identities.
                f"{self._name}-balancer-out" + ("" if port == HTTP else f"-{behind_balancer}"),
                security_group_id=self.balancer.id,
                ip_protocol="tcp",
                from_port=behind_balancer,
                to_port=behind_balancer,
                referenced_security_group_id=self.edge.id,
                description="Web to the edges",
                tags=self._args.tags.named("balancer-out"),
                opts=ResourceOptions(parent=self),
            )

    def _ssh(self, cluster: Cluster) -> None:
        networks = cluster.settings.admin.allowed_cidrs
        for network in networks:
            self._allow("edge", "tcp", SSH, f"SSH for administrators in {network}", cidr=str(network))
        if networks:
            self._allow("node", "tcp", SSH, "SSH through the edge", source="edge")

    def _group(self, role: str, description: str) -> ec2.SecurityGroup:
        return ec2.SecurityGroup(
            f"{self._name}-{role}",
            vpc_id=self._args.vpc_id,
            description=description,
            tags=self._args.tags.named(role),
            opts=ResourceOptions(parent=self),
        )

    def _allow(
        self,
        role: str,
        protocol: str,
        port: int,
        description: str,
        *,
        last_port: int | None = None,
        source: str | None = None,
        cidr: str | None = None,
    ) -> None:
        groups = {
            "node": self.node,
            "slave": self.slave,
            "control": self.control,
            "edge": self.edge,
            "client": self.client,
            "balancer": self.balancer,
        }
        group, from_group = groups[role], groups[source] if source else None
        assert group is not None
        origin = source or ("internet" if cidr == ANYWHERE else str(cidr).replace("/", "-"))
        # A protocol without ports, such as ESP, must not carry any.
        ported = protocol in ("tcp", "udp")
        name = f"{role}-{protocol}-{port}-from-{origin}" if ported else f"{role}-protocol-{protocol}-from-{origin}"
        rule = vpc.SecurityGroupIngressRule(
            f"{self._name}-{name}",
            security_group_id=group.id,
            ip_protocol=protocol,
            from_port=port if ported else None,
            to_port=(last_port or port) if ported else None,
            referenced_security_group_id=from_group.id if from_group else None,
            cidr_ipv4=cidr,
            description=description,
            tags=self._args.tags.named(name),
            opts=ResourceOptions(parent=self),
        )
        self._rules.setdefault(role, []).append(rule)


@dataclass(frozen=True)
class IdentityArgs:
    """readable_arns: the SSM parameters that hosts of this role read at boot, and all that they may ask for.

    encrypted_arns: those of them that are under the key of key_arn.
    """

    role: Role
    readable_arns: Sequence[Input[str]]
    encrypted_arns: Sequence[Input[str]]
    key_arn: Input[str]
    tags: Tags


class Identity(ComponentResource):
    """What hosts of one role may ask AWS for, type apollo:security:Identity.

    Creates: {name} (IAM role for EC2), {name}-secrets (policy: read the role's own parameters, and decrypt nothing but those),
    {name} (instance profile).
    """

    def __init__(self, name: str, args: IdentityArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:security:Identity", name, None, opts)
        child = ResourceOptions(parent=self)
        role = iam.Role(
            name,
            assume_role_policy=policy(
                {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ),
            description=f"Apollo {args.role} hosts",
            tags=args.tags.named(args.role),
            opts=child,
        )
        reading = iam.RolePolicy(
            f"{name}-secrets",
            role=role.id,
            policy=Output.all(
                readable=Output.all(*args.readable_arns), encrypted=Output.all(*args.encrypted_arns), key=args.key_arn
            ).apply(
                lambda known: policy(
                    {"Effect": "Allow", "Action": "ssm:GetParameters", "Resource": sorted(known["readable"])},
                    # SSM asks the key in the host's name, and says for which parameter.
                    {
                        "Effect": "Allow",
                        "Action": "kms:Decrypt",
                        "Resource": known["key"],
                        "Condition": {"StringEquals": {"kms:EncryptionContext:PARAMETER_ARN": sorted(known["encrypted"])}},
                    },
                )
            ),
            opts=child,
        )
        profile = iam.InstanceProfile(name, role=role.name, tags=args.tags.named(args.role), opts=child)
        self.profile_name = profile.name
        self.ready: list[Resource] = [reading, profile]
        self.register_outputs({"instanceProfile": self.profile_name})


def policy(*statements: dict[str, object]) -> str:
    """An IAM policy document."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, sort_keys=True)
