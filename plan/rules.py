"""Who may talk to whom: the stack's security groups and their inbound rules, as one table.

components/security.py makes groups and rules of it; docs/architecture.md shows it (scripts/tables.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from plan import ports
from plan.mesh import DRIVERS, Flow
from plan.settings import Settings

Group = Literal["node", "slave", "control", "edge", "client", "balancer", "metrics"]
INTERNET = "0.0.0.0/0"
# In the table in place of each network of that setting.
ADMINISTRATORS = "admin.allowedCidrs"

# Group → its description, which AWS keeps for the life of the group.
GROUPS: dict[Group, str] = {
    "node": "Every host: mesh, gossip and the way out",
    "slave": "Mesos slaves",
    "control": "Consul servers and Mesos masters",
    "edge": "HAProxy edges",
    "client": "Attach to reach the edge and Consul from inside the VPC",
    "balancer": "Load balancer before the edges",
    "metrics": "Attach to scrape the metrics of every host from inside the VPC",
}

# When a rule is part of a stack, in the documents' words → the same of its settings.
_WHEN: dict[str, Callable[[Settings], bool]] = {
    **{f"mesh {name}": lambda s, name=name: name in s.meshes for name in DRIVERS},
    "one edge": lambda s: s.edge.count == 1,
    "several edges": lambda s: s.edge.count > 1,
    "`edge.tls.enabled`": lambda s: s.edge.tls.enabled,
    "`admin.allowedCidrs`": lambda s: bool(s.admin.allowed_cidrs),
    "`mesos.published` has marathon": lambda s: "marathon" in s.mesos.published,
    "`mesos.published` has mesos-master": lambda s: "mesos-master" in s.mesos.published,
}


@dataclass(frozen=True)
class Rule:
    """Traffic that the group `to` admits. source: a group, or a network such as 203.0.113.0/24.

    flow: protocol, ports and purpose. when: in which stacks, as in _WHEN; all of them must hold.
    """

    to: Group
    source: Group | str
    flow: Flow
    when: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The rule's logical name without the component's. An identity: it never changes."""
        origin = "internet" if self.source == INTERNET else self.source.replace("/", "-")
        what = f"{self.flow.protocol}-{self.flow.first_port}" if self.flow.ported else f"protocol-{self.flow.protocol}"
        return f"{self.to}-{what}-from-{origin}"


def _tcp(to: Group, source: Group | str, port: int, purpose: str, *when: str) -> Rule:
    return Rule(to, source, Flow("tcp", port, port, purpose), when)


def _udp(to: Group, source: Group, port: int, purpose: str) -> Rule:
    return Rule(to, source, Flow("udp", port, port, purpose))


_PUBLISHED, _TLS = "which this stack publishes", "`edge.tls.enabled`"

TABLE: tuple[Rule, ...] = (
    *(Rule("node", "node", flow, (f"mesh {mesh.name}",)) for mesh in DRIVERS.values() for flow in mesh.flows),
    _tcp("node", "node", ports.CONSUL_SERF, "Consul gossip"),
    _udp("node", "node", ports.CONSUL_SERF, "Consul gossip"),
    _tcp("node", "edge", ports.SSH, "SSH through the edge", "`admin.allowedCidrs`"),
    _tcp("node", "metrics", ports.METRICS, "Metrics for Prometheus in the VPC"),
    # Edges alone listen there. In their group it would take the place of one of the administrators' networks.
    _tcp("node", "metrics", ports.EDGE_STATS, "HAProxy metrics of edges for Prometheus in the VPC"),
    _tcp("control", "node", ports.CONSUL_RPC, "Consul RPC from every agent"),
    _tcp("control", "node", ports.CONSUL_TOKENS, "Consul tokens for hosts"),
    _tcp("control", "client", ports.CONSUL_HTTP, "Consul HTTP API for clients in the VPC"),
    _tcp("control", "client", ports.CONSUL_DNS, "Consul DNS for clients in the VPC"),
    _udp("control", "client", ports.CONSUL_DNS, "Consul DNS for clients in the VPC"),
    _tcp("control", "slave", ports.ZOOKEEPER_CLIENT, "ZooKeeper from slave hosts"),
    _tcp("control", "control", ports.ZOOKEEPER_CLIENT, "ZooKeeper from control hosts"),
    _tcp("control", "control", ports.ZOOKEEPER_PEER, "ZooKeeper followers to leader"),
    _tcp("control", "control", ports.ZOOKEEPER_ELECTION, "ZooKeeper leader election"),
    _tcp("control", "slave", ports.MESOS_MASTER, "Mesos master from slave hosts"),
    _tcp("control", "control", ports.MESOS_MASTER, "Mesos master from control hosts"),
    _tcp("control", "edge", ports.MESOS_MASTER, f"mesos-master, {_PUBLISHED}", "`mesos.published` has mesos-master"),
    _tcp("control", "control", ports.MARATHON, "Marathon behind its leader"),
    _tcp("control", "client", ports.MARATHON, "Marathon API, with its password, for clients in the VPC"),
    _tcp("control", "edge", ports.MARATHON, f"marathon, {_PUBLISHED}", "`mesos.published` has marathon"),
    _tcp("control", "control", ports.MARATHON_SCHEDULER, "Mesos masters to Marathon"),
    _tcp("slave", "control", ports.MESOS_AGENT, "Mesos agent from masters"),
    _tcp("edge", "client", ports.HTTP, "Web from clients in the VPC"),
    _tcp("edge", "client", ports.HTTPS, "Web from clients in the VPC", _TLS),
    _tcp("edge", INTERNET, ports.HTTP, "Web from the internet", "one edge"),
    _tcp("edge", INTERNET, ports.HTTPS, "Web from the internet", "one edge", _TLS),
    _tcp("edge", "balancer", ports.EDGE_BEHIND_BALANCER, "Web from the load balancer", "several edges"),
    _tcp("edge", "balancer", ports.EDGE_BEHIND_BALANCER_TLS, "Web from the load balancer", "several edges", _TLS),
    _tcp("edge", ADMINISTRATORS, ports.SSH, "SSH for administrators", "`admin.allowedCidrs`"),
    _tcp("balancer", INTERNET, ports.HTTP, "Web from the internet", "several edges"),
    _tcp("balancer", INTERNET, ports.HTTPS, "Web from the internet", "several edges", _TLS),
)


def groups_of(s: Settings) -> list[Group]:
    """The groups of a stack with these settings: all, but the balancer's only with several edges."""
    return [group for group in GROUPS if group != "balancer" or s.edge.count > 1]


def rules_of(s: Settings) -> list[Rule]:
    """The rules of a stack with these settings, one for each of the administrators' networks."""
    found: list[Rule] = []
    for rule in TABLE:
        if not all(_WHEN[condition](s) for condition in rule.when):
            continue
        if rule.source != ADMINISTRATORS:
            found.append(rule)
            continue
        for network in map(str, s.admin.allowed_cidrs):
            flow = replace(rule.flow, purpose=f"{rule.flow.purpose} in {network}")
            found.append(replace(rule, source=network, flow=flow))
    return found
