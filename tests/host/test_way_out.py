"""By which address a container's packets leave its slave: the real rules in network namespaces, loaded twice as at a restart.

The whole of what the rules let through: test_firewall.py.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from host.apollo import firewall
from host.render import node_facts
from localcloud.machines.namespaces import Namespace
from tests.host.support import STACK, namespaces, needs
from tests.host.test_firewall import arrived, say
from tests.plan.support import cluster

PLAN = cluster(overlay={"mesh": "wireguard"})
FACTS = node_facts(PLAN, PLAN.slaves[0], STACK)
DATABASE, OTHER, CONTAINER = "10.0.0.200", "10.2.2.9", "10.2.1.5"


@pytest.fixture(scope="module")
def slave() -> Generator[dict[str, Namespace]]:
    """A slave between a container on its bridge, the VPC, and another host's container behind the mesh's device."""
    needs("nft", "nftables")
    with namespaces("apollo-out", "host", "vpc", "web", "far") as spaces:
        host = spaces["host"]
        host.sysctl({"net.ipv4.ip_forward": 1})
        ends = {"eth0": "vpc", "vethweb": "web", "wgweave": "far"}
        host.ip(
            [
                "link add weave type bridge",
                *(f"link add {port} type veth peer name eth0 netns {spaces[name].name}" for port, name in ends.items()),
                "link set vethweb master weave",
                f"address add {FACTS['PRIVATE_IP']}/16 dev eth0",
                f"address add {FACTS['BRIDGE_ADDRESS']}/16 dev weave",
                *(f"link set {port} up" for port in ("weave", *ends)),
                f"route add 10.2.2.0/24 dev wgweave src {FACTS['BRIDGE_ADDRESS']}",
            ]
        )
        spaces["vpc"].ip([f"address add {DATABASE}/16 dev eth0", "link set eth0 up"])
        spaces["far"].ip([f"address add {OTHER}/16 dev eth0", "link set eth0 up"])
        gateway = FACTS["BRIDGE_ADDRESS"]
        ways = [f"route add {gateway} dev eth0", f"route add default via {gateway}"]
        spaces["web"].ip([f"address add {CONTAINER}/32 dev eth0", "link set eth0 up", *ways])
        for _ in range(2):
            host.run(["nft", "-f", "-"], stdin=firewall.packets(FACTS, "eth0", {"nodes": [], "blocks": []}))
        yield spaces


@pytest.mark.parametrize(
    ("place", "address", "seen"), [("vpc", DATABASE, FACTS["PRIVATE_IP"]), ("far", OTHER, CONTAINER)], ids=["VPC", "overlay"]
)
def test_a_container_has_its_slaves_address_in_the_vpc_and_its_own_in_the_overlay(
    place: str, address: str, seen: str, slave: dict[str, Namespace]
) -> None:
    hello, last = (lambda: say(slave["web"], b"hello", address, 5432)), (lambda: say(slave[place], b"last", address, 5432))
    assert arrived(slave[place], address, 5432, hello, last) == [(seen, b"hello")]
