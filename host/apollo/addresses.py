"""Who has which address in this host's stack: the stack's own address plan, of the ranges that this host was given."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from ipaddress import IPv4Address

from netaddr import IPAddress, IPNetwork

from plan.addresses import AddressError, OverlayPlan, Subnet, VpcPlan


@functools.cache
def _overlay(network: str, host_prefix: str) -> OverlayPlan:
    return OverlayPlan(IPNetwork(network), int(host_prefix))


@functools.cache
def _vpc(network: str, private: str, public: str) -> VpcPlan:
    """private, public: in a VPC that exists its subnets, with the offset of the first host (10.8.0.0/20+8)."""
    both = zip(private.split(), public.split(), strict=True)
    return VpcPlan(IPNetwork(network), tuple((_subnet(one), _subnet(other)) for one, other in both))


def _subnet(text: str) -> Subnet:
    network, _, first_host = text.partition("+")
    return Subnet(IPNetwork(network), int(first_host))


def planned(facts: Mapping[str, str], name: str) -> tuple[str, str]:
    """(bridge address, Docker subnet or "") that the plan gives a host. Raises ValueError for a name without a place."""
    overlay = _overlay(facts["OVERLAY_CIDR"], facts["HOST_PREFIX"])
    match = re.fullmatch(r"(slave|control|edge)-([1-9][0-9]{0,6})", name)
    if match is None:
        raise ValueError("is no host of the plan")
    index = int(match[2])
    try:
        if match[1] == "slave":
            return str(overlay.bridge_address(index).ip), str(overlay.docker_subnet(index))
        return str((overlay.control_address if match[1] == "control" else overlay.edge_address)(index).ip), ""
    except AddressError:
        raise ValueError("is no host of the plan") from None


def host_at(facts: Mapping[str, str], address: str) -> str:
    """The name of the host that the plan puts at an address in the VPC. Raises ValueError where it puts none there, and for
    what is no address and nothing beside, so that its text may go into a command."""
    vpc = _vpc(facts["VPC_CIDR"], facts.get("PRIVATE_SUBNETS", ""), facts.get("PUBLIC_SUBNETS", ""))
    role, index = vpc.host_at(IPAddress(int(IPv4Address(address))))
    return f"{role}-{index}"
