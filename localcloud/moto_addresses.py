"""Where moto makes an address up, it takes a free one of the subnet at random, as AWS does: none that AWS keeps, none reserved.

So whoever plans addresses and does not reserve them is found out here too. Sources: VPC user guide, "Subnet CIDR blocks" and
"Subnet CIDR reservations".
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import nat_gateways, vpcs
from moto.ec2.models.elastic_network_interfaces import NetworkInterfaceBackend
from moto.ec2.responses.subnets import Subnets


class _NoFreeAddressError(EC2ClientError):
    code = "InsufficientFreeAddressesInSubnet"


_create: Any = NetworkInterfaceBackend.create_network_interface
_reserve: Any = Subnets.create_subnet_cidr_reservation


def install() -> None:
    """Changes moto in this process. Again changes nothing more."""
    NetworkInterfaceBackend.create_network_interface = _create_network_interface
    Subnets.create_subnet_cidr_reservation = _create_reservation
    # A NAT gateway's and an endpoint's interface were given addresses of no subnet. Without one, they come to the above.
    for module in (nat_gateways, vpcs):
        module.random_private_ip = lambda *_: ""  # pyright: ignore[reportAttributeAccessIssue]


def _create_reservation(self: Any) -> Any:
    """With its description, which moto forgets, so that the real AWS provider would make the reservation anew each time."""
    answer = _reserve(self)
    answer.result["SubnetCidrReservation"].description = self._get_param("Description")
    return answer


def _create_network_interface(
    self: Any, subnet: Any, private_ip_address: Any, private_ip_addresses: Any = None, *args: Any, **more: Any
) -> Any:
    found = self.get_subnet(subnet) if isinstance(subnet, str) else subnet
    if not private_ip_address and not private_ip_addresses and found is not None:
        private_ip_address = _free(self, found)
    return _create(self, subnet, private_ip_address, private_ip_addresses, *args, **more)


def _free(backend: Any, subnet: Any) -> str:
    taken = {
        address["PrivateIpAddress"]
        for interface in backend.enis.values()
        if interface.subnet is not None and interface.subnet.id == subnet.id
        for address in interface.private_ip_addresses
    }
    reserved = [reservation.cidr for reservation in subnet._cidr_reservations]
    addresses: list[IPv4Address] = list(subnet.cidr)[4:-1]
    free = [a for a in addresses if str(a) not in taken and not any(a in block for block in reserved)]
    if not free:
        raise _NoFreeAddressError(f"Subnet {subnet.id} does not have enough free addresses to satisfy the request.")
    return str(random.choice(free))
