"""The stack's export contract: what other stacks may rely on. docs/contract.md has it field by field.

`contractVersion` rises when a field goes or changes its meaning; new fields come without a rise.
"""

from __future__ import annotations

from typing import Any

from pulumi import Output

from components.edge import Edge
from components.existing import ExistingVpc
from components.host import Hosts
from components.network import Vpc
from components.security import Security
from plan.cluster import Cluster
from plan.ports import CONSUL_DNS, CONSUL_HTTP, MARATHON, MESOS_MASTER, ZOOKEEPER_CLIENT
from plan.secrets import public_half

CONTRACT_VERSION = 1


def exports(
    cluster: Cluster,
    vpc: Vpc | ExistingVpc,
    security: Security,
    slaves: Hosts,
    edge: Edge,
    host_key: Output[str],
) -> dict[str, Any]:
    """Every export of the stack by its name. Only cloud ids and public addresses are unknown in a preview.

    host_key: the hosts' private key, whose public half is exported.
    """
    settings = cluster.settings
    masters = [str(host.private_ip) for host in cluster.control]
    domain = settings.consul.domain
    return {
        "contractVersion": CONTRACT_VERSION,
        "vpcId": vpc.vpc_id,
        "privateSubnetIds": list(vpc.private_subnet_ids.values()),
        "publicSubnetIds": list(vpc.public_subnet_ids.values()),
        "securityGroupIds": {
            "client": security.groups["client"].id,
            "slaves": security.groups["slave"].id,
            "metrics": security.groups["metrics"].id,
        },
        "overlay": {
            "cidr": str(cluster.overlay.network),
            "bridge": "weave",
            "mesh": cluster.mesh.name,
            "mtu": cluster.mtu,
        },
        "slaves": {
            host.name: {
                "slot": host.index,
                "zone": host.zone.name,
                "privateIp": str(host.private_ip),
                "bridgeAddress": str(host.bridge_address),
                "dockerSubnet": str(host.docker_subnet),
                "instanceId": slaves.hosts[host.name].instance_id,
                "generation": host.generation,
            }
            for host in cluster.slaves
        },
        "consul": {
            "datacenter": settings.consul.datacenter,
            "domain": domain,
            "servers": masters,
            "httpPort": CONSUL_HTTP,
            "dnsPort": CONSUL_DNS,
        },
        "edge": {
            "publicIps": edge.public_ips,
            "dnsName": edge.dns_name,
            "url": Output.concat("http://", edge.dns_name),
            "domain": settings.edge.domain,
            "overlayAddresses": [str(host.bridge_address.ip) for host in cluster.edges],
        },
        # A public key is made to be shown.
        "sshHostKey": Output.unsecret(host_key.apply(public_half)),
        "mesos": {
            "masters": [f"{address}:{MESOS_MASTER}" for address in masters],
            "zookeeper": f"zk://{','.join(f'{address}:{ZOOKEEPER_CLIENT}' for address in masters)}/mesos",
            "marathonUrl": f"http://marathon.service.{domain}:{MARATHON}",
        },
    }
