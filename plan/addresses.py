"""The address plan: which overlay and VPC addresses belong to a slot, a control node and an edge.

Pure arithmetic on netaddr networks. Formulas: docs/architecture.md, "Address plan". Nothing is handed out in order: every
address follows from the settings and an index alone, so that adding, retiring or reordering never moves another host.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from netaddr import IPAddress, IPNetwork, iprange_to_cidrs

MAX_CONTROL = 5
MAX_EDGES = 10
MAX_ZONES = 7

# The last sixteen node addresses: ten for edges, five for control nodes, and the last one, a broadcast address, unused.
RESERVED_NODE_ADDRESSES = 16
_FIRST_EDGE = 16
_FIRST_CONTROL = 6

# Offsets in a VPC subnet. AWS keeps the first four addresses and the last of each subnet for itself
# (VPC user guide, "Subnet CIDR blocks"), so hosts begin at 10 and 32.
INFRASTRUCTURE_OFFSET = 10
SLOT_OFFSET = 32
AWS_RESERVED_AT_START = 4
AWS_RESERVED_AT_END = 1
# Reservations are blocks of so many addresses or more, and the first of them begins here. In a subnet that exists it may begin
# later, and all offsets with it.
BLOCK = FIRST_HOST = 8

_VPC_BLOCKS_BITS = 3


class AddressError(ValueError):
    """An index has no address in this plan. The message names the index and the range that has."""


def nth_block(network: IPNetwork, prefix: int, index: int) -> IPNetwork:
    """Block number `index` (from 0) of `network` cut into blocks of `prefix` bits.

    Computed, since IPNetwork.subnet() would walk every block before it: 65,000 in a /8.
    """
    if not 0 <= index < 1 << (prefix - network.prefixlen):
        raise AddressError(
            f"block {index} of {network} cut into /{prefix}: give 0 to {(1 << (prefix - network.prefixlen)) - 1}"
        )
    return IPNetwork((network.first + (index << (32 - prefix)), prefix))


@dataclass(frozen=True)
class OverlayPlan:
    """The overlay addresses of each slot and of the infrastructure. A slot keeps its own for ever.

    network: IPv4, no host bits. host_prefix: bits, more than the network's, at most 30.
    slot: 1 to last_slot, control: 1 to 5, edge: 1 to 10, else AddressError.
    """

    network: IPNetwork
    host_prefix: int = 24

    @cached_property
    def blocks(self) -> int:
        """S: how many blocks of the host prefix the overlay holds."""
        return 1 << (self.host_prefix - self.network.prefixlen)

    @cached_property
    def block_size(self) -> int:
        """B: addresses in a block, so the most containers a slave holds."""
        return 1 << (32 - self.host_prefix)

    @cached_property
    def node_blocks(self) -> int:
        """R: how many of the first blocks hold node addresses instead of containers."""
        return -(-self.blocks // self.block_size)

    @cached_property
    def last_slot(self) -> int:
        """The highest slot with both a node address and a Docker subnet; below 1 the overlay is too small."""
        return min(self.blocks - self.node_blocks, self.node_blocks * self.block_size - RESERVED_NODE_ADDRESSES - 1)

    def bridge_address(self, slot: int) -> IPNetwork:
        """`weave_bridge` of a slot: network + slot, with the overlay's prefix (10.2.0.1/16 for slot 1)."""
        return self._node(self._checked("slot", slot, self.last_slot))

    def docker_subnet(self, slot: int) -> IPNetwork:
        """`weave_docker_subnet` of a slot: block R - 1 + slot (10.2.1.0/24 for slot 1)."""
        index = self.node_blocks - 1 + self._checked("slot", slot, self.last_slot)
        return nth_block(self.network, self.host_prefix, index)

    def control_address(self, index: int) -> IPNetwork:
        """The bridge address of control node 1 to 5 (10.2.0.250/16 to 10.2.0.254/16)."""
        return self._node(self._reserved(_FIRST_CONTROL) + self._checked("control node", index, MAX_CONTROL) - 1)

    def edge_address(self, index: int) -> IPNetwork:
        """The bridge address of edge 1 to 10 (10.2.0.240/16 to 10.2.0.249/16)."""
        return self._node(self._reserved(_FIRST_EDGE) + self._checked("edge", index, MAX_EDGES) - 1)

    def _reserved(self, from_end: int) -> int:
        return self.node_blocks * self.block_size - from_end

    def _node(self, offset: int) -> IPNetwork:
        return IPNetwork((self.network.first + offset, self.network.prefixlen))

    @staticmethod
    def _checked(what: str, index: int, last: int) -> int:
        if not 1 <= index <= last:
            raise AddressError(f"{what} {index} has no overlay address: give 1 to {last}")
        return index


@dataclass(frozen=True)
class Subnet:
    """A subnet that hosts go into. first_host: offset of the first address that they may have, a multiple of BLOCK."""

    network: IPNetwork
    first_host: int = FIRST_HOST

    def address(self, offset: int) -> IPAddress:
        """The address with an offset of this plan."""
        return IPAddress(self.network.first + self.first_host - FIRST_HOST + offset)

    def offset(self, address: IPAddress) -> int | None:
        """The offset of an address in this plan, None where it is not in the subnet."""
        offset = int(address) - self.network.first
        return offset - self.first_host + FIRST_HOST if 0 <= offset < self.network.size else None

    def blocks(self, first: int, last: int) -> list[IPNetwork]:
        """The fewest CIDR blocks of BLOCK addresses or more that hold these offsets."""
        start, end = self.address(first // BLOCK * BLOCK), self.address(last // BLOCK * BLOCK + BLOCK - 1)
        return iprange_to_cidrs(start, end)

    @property
    def last_slot(self) -> int:
        """The highest slot whose address fits; AWS keeps the last address."""
        return self.network.size - 1 - AWS_RESERVED_AT_END - SLOT_OFFSET - (self.first_host - FIRST_HOST)


@dataclass(frozen=True)
class VpcPlan:
    """The VPC's subnets and the hosts' addresses in them.

    network: IPv4, no host bits, prefix at most 26 (eight blocks, the eighth cut into eight public subnets).
    zone_index: 0 to 6, the zone's place in the settings; zones are only ever appended.
    existing: of a VPC that exists, the private and the public subnet of each zone, which do not follow from its range.
    """

    network: IPNetwork
    existing: tuple[tuple[Subnet, Subnet], ...] = ()

    def private_subnet(self, zone_index: int) -> IPNetwork:
        """Block `zone_index` of eight."""
        return self._private(zone_index).network

    def public_subnet(self, zone_index: int) -> IPNetwork:
        """Part `zone_index` of the eighth block, which is cut in eight whatever the number of zones."""
        return self._public(zone_index).network

    @cached_property
    def public_block(self) -> IPNetwork:
        """The eighth block: all public subnets that there may ever be. Of our hosts edges alone have addresses in it."""
        return nth_block(self.network, self.network.prefixlen + _VPC_BLOCKS_BITS, MAX_ZONES)

    @cached_property
    def public(self) -> list[IPNetwork]:
        """The networks that hold all public subnets that there may ever be, ascending."""
        return sorted(public.network for _, public in self.existing) or [self.public_block]

    @cached_property
    def last_slot(self) -> int:
        """The highest slot whose address fits every zone's private subnet."""
        return min(private.last_slot for private, _ in self._subnets)

    @cached_property
    def resolver(self) -> IPAddress:
        """AWS's DNS resolver: the base of the VPC's range plus two."""
        return IPAddress(self.network.first + 2)

    def control_address(self, zone_index: int, index: int) -> IPAddress:
        """Offset 10 + index in the zone's private subnet."""
        return self._private(zone_index).address(INFRASTRUCTURE_OFFSET + index)

    def edge_address(self, zone_index: int, index: int) -> IPAddress:
        """Offset 10 + index in the zone's public subnet."""
        return self._public(zone_index).address(INFRASTRUCTURE_OFFSET + index)

    def slot_address(self, zone_index: int, slot: int) -> IPAddress:
        """Offset 32 + slot in the zone's private subnet."""
        if not 1 <= slot <= self.last_slot:
            raise AddressError(f"slot {slot} has no address in {self.private_subnet(zone_index)}: give 1 to {self.last_slot}")
        return self._private(zone_index).address(SLOT_OFFSET + slot)

    def host_at(self, address: IPAddress) -> tuple[str, int]:
        """(slave, control or edge; its index) of the host that has an address, in whichever zone. Else AddressError."""
        for private, public in self._subnets:
            if (offset := private.offset(address)) is not None:
                if 1 <= offset - INFRASTRUCTURE_OFFSET <= MAX_CONTROL:
                    return "control", offset - INFRASTRUCTURE_OFFSET
                if 1 <= offset - SLOT_OFFSET <= self.last_slot:
                    return "slave", offset - SLOT_OFFSET
            elif (offset := public.offset(address)) is not None and 1 <= offset - INFRASTRUCTURE_OFFSET <= MAX_EDGES:
                return "edge", offset - INFRASTRUCTURE_OFFSET
        raise AddressError(f"{address} is no host's address")

    def reserved_public(self, zone_index: int) -> list[IPNetwork]:
        """What is kept of the zone's public subnet, so that AWS gives no planned address to others: those of all ten edges."""
        return self._public(zone_index).blocks(INFRASTRUCTURE_OFFSET + 1, INFRASTRUCTURE_OFFSET + MAX_EDGES)

    def reserved_private(self, zone_index: int, last_slot: int) -> list[IPNetwork]:
        """The same of the private subnet: the addresses of all five control nodes, and of slots 1 to last_slot of the overlay
        as far as the subnet holds them."""
        private, last = self._private(zone_index), min(last_slot, self.last_slot)
        control = private.blocks(INFRASTRUCTURE_OFFSET + 1, INFRASTRUCTURE_OFFSET + MAX_CONTROL)
        return [*control, *private.blocks(SLOT_OFFSET + 1, SLOT_OFFSET + last)]

    @cached_property
    def _subnets(self) -> list[tuple[Subnet, Subnet]]:
        """Private and public subnet of each zone that there may ever be."""

        def block(network: IPNetwork, index: int) -> Subnet:
            return Subnet(nth_block(network, network.prefixlen + _VPC_BLOCKS_BITS, index))

        return list(self.existing) or [(block(self.network, i), block(self.public_block, i)) for i in range(MAX_ZONES)]

    def _private(self, zone_index: int) -> Subnet:
        return self._subnets[self._zone(zone_index)][0]

    def _public(self, zone_index: int) -> Subnet:
        return self._subnets[self._zone(zone_index)][1]

    def _zone(self, index: int) -> int:
        zones = len(self._subnets)
        if not 0 <= index < zones:
            raise AddressError(f"zone {index} has no subnet: a VPC is planned for zones 0 to {zones - 1}")
        return index
