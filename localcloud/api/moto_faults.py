"""Where moto's EC2 does otherwise than AWS, it is put right here, each fault beside the others and with AWS's own way.

Sources: EC2 user guide and API reference; what the real Terraform AWS provider saw wrong on its second plan.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address, ip_network
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends, elastic_ip_addresses, elastic_network_interfaces, nat_gateways, vpcs
from moto.ec2.models.elastic_network_interfaces import NetworkInterface, NetworkInterfaceBackend
from moto.ec2.models.flow_logs import FlowLogsBackend
from moto.ec2.models.instances import Instance, InstanceBackend
from moto.ec2.models.nat_gateways import NatGatewayBackend
from moto.ec2.models.security_groups import SecurityGroupRule
from moto.ec2.responses.subnets import Subnets

from .client import ACCOUNT

# Set aside for documentation (RFC 5737), so no one's. moto's own are of the loopback range, or somebody's.
PUBLIC_ADDRESSES = tuple(ip_network("203.0.113.0/24").hosts())


class _NoFreeAddressError(EC2ClientError):
    code = "InsufficientFreeAddressesInSubnet"


class _AddressLimitError(EC2ClientError):
    code = "AddressLimitExceeded"


_create_interface: Any = NetworkInterfaceBackend.create_network_interface
_reserve: Any = Subnets.create_subnet_cidr_reservation
_rule: Any = SecurityGroupRule.__init__
_prep_nics: Any = Instance.prep_nics
_terminate: Any = Instance.terminate
_private_dns_name: Any = vars(Instance)["private_dns_name"].fget
_delete_gateway: Any = NatGatewayBackend.delete_nat_gateway
_flow_logs: Any = FlowLogsBackend.create_flow_logs


def repair() -> None:
    """Changes moto in this process. Again changes nothing more."""
    NetworkInterfaceBackend.create_network_interface = _create_network_interface
    Subnets.create_subnet_cidr_reservation = _create_reservation
    # A NAT gateway's and an endpoint's interface were given addresses of no subnet. Without one, they come to the above.
    for module in (nat_gateways, vpcs):
        _set(module, "random_private_ip", lambda *_: "")
    _set(elastic_ip_addresses, "random_ip", _public_address)
    _set(elastic_network_interfaces, "random_public_ip", _public_address)
    _set(SecurityGroupRule, "__init__", _init_rule)
    _set(SecurityGroupRule, "description", property(_description))
    Instance.prep_nics = _prepare_interfaces
    Instance.terminate = _terminate_whole
    Instance.setup_defaults = _root_disk
    _set(Instance, "security_groups", property(_groups, lambda self, groups: setattr(self, "_given_groups", groups)))
    _set(NetworkInterface, "group_set", property(lambda self: self._group_set))
    for name in ("private_ip", "private_ip_address", "public_ip", "public_ip_address"):
        _set(Instance, name, _of_first_interface(name.removesuffix("_address") if "public" in name else "private_ip_address"))
    _set(Instance, "private_dns_name", property(_dns_name))
    _set(InstanceBackend, "modify_instance_security_groups", _set_groups)
    NatGatewayBackend.delete_nat_gateway = _delete_nat_gateway
    FlowLogsBackend.create_flow_logs = _create_flow_logs


def _set(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


# --- addresses: AWS takes a free one of the subnet, none that it keeps and none reserved. Whoever plans addresses and does not
# reserve them is found out here too. Sources: VPC user guide, "Subnet CIDR blocks" and "Subnet CIDR reservations".


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
    return _create_interface(self, subnet, private_ip_address, private_ip_addresses, *args, **more)


def _free(backend: Any, subnet: Any) -> str:
    taken = addresses_in(backend, subnet)
    reserved = [reservation.cidr for reservation in subnet._cidr_reservations]
    addresses: list[IPv4Address] = list(subnet.cidr)[4:-1]
    free = [a for a in addresses if str(a) not in taken and not any(a in block for block in reserved)]
    if not free:
        raise _NoFreeAddressError(f"Subnet {subnet.id} does not have enough free addresses to satisfy the request.")
    return str(random.choice(free))


def addresses_in(backend: Any, subnet: Any) -> dict[str, Any]:
    """The interfaces of a subnet by each of their addresses."""
    return {
        address["PrivateIpAddress"]: interface
        for interface in backend.enis.values()
        if interface.subnet is not None and interface.subnet.id == subnet.id
        for address in interface.private_ip_addresses
    }


def _public_address() -> str:
    taken: set[str] = set()
    for backend in ec2_backends[ACCOUNT].values():
        taken |= {address.public_ip for address in backend.addresses} | {eni.public_ip or "" for eni in backend.enis.values()}
    free = next((str(address) for address in PUBLIC_ADDRESSES if str(address) not in taken), None)
    if free is None:
        raise _AddressLimitError(f"all {len(PUBLIC_ADDRESSES)} public addresses of this cloud are in use")
    return free


# --- security groups


def _init_rule(
    self: Any, backend: Any, ip_protocol: Any, group_id: Any, from_port: Any, to_port: Any, *args: Any, **more: Any
) -> None:
    """A protocol without ports, such as ESP, may be given without them; moto broke at it."""
    low, high = (-1 if port is None else port for port in (from_port, to_port))
    _rule(self, backend, ip_protocol, group_id, low, high, *args, **more)


def _description(self: Any) -> str | None:
    """Of a rule whose peer is a group as well."""
    return self.ip_range.get("Description") or self.source_group.get("Description")


# --- instances: their interfaces, disks and groups


def _prepare_interfaces(self: Any, nic_spec: list[dict[str, Any]], *args: Any, **more: Any) -> None:
    """An interface that is made with the instance goes with it, unless the call says otherwise."""
    specification = nic_spec or ([{"DeviceIndex": 0}] if self.subnet_id else [])
    for nic in specification:
        if not nic.get("NetworkInterfaceId"):
            nic.setdefault("DeleteOnTermination", True)
    _prep_nics(self, specification, *args, **more)


def _terminate_whole(self: Any) -> Any:
    """It has no interface any more; one that stays is free again, for the next instance."""
    before = _terminate(self)
    for interface in list(self.nics.values()):
        self.detach_eni(interface)
    self._subnet_id = None
    return before


def _of_first_interface(name: str) -> property:
    """An instance's address, of which a terminated one has none."""
    return property(lambda self: getattr(self.nics[0], name) if 0 in self.nics else None)


def _dns_name(self: Any) -> str:
    return _private_dns_name(self) if 0 in self.nics else ""


def _root_disk(self: Any) -> None:
    """The root disk is at the image's own device."""
    volume = self.ec2_backend.create_volume(size=8, zone_name=self._placement.zone)
    self.ec2_backend.attach_volume(volume.id, self.id, self.root_device_name or "/dev/sda1", True)


def _groups(self: Any) -> list[Any]:
    """An instance's groups are those of its first interface, and an interface's its own."""
    nics = vars(self).get("nics", {})
    return list(nics[0].group_set) if 0 in nics else self._given_groups


def _set_groups(self: Any, instance_id: str, new_group_id_list: list[str]) -> None:
    instance = self.get_instance(instance_id)
    instance.nics[0]._group_set = [self.get_security_group_from_id(group) for group in new_group_id_list]


# --- what else is left behind, or asked for in another way


def _delete_nat_gateway(self: Any, nat_gateway_id: str) -> Any:
    """Its interface goes with it, and its address is free."""
    gateway = _delete_gateway(self, nat_gateway_id)
    for address in self.addresses:
        if address.eni is gateway._eni and address.association_id:
            self.disassociate_address(association_id=address.association_id)
    self.enis.pop(gateway._eni.id, None)
    return gateway


def _create_flow_logs(self: Any, *args: Any, **more: Any) -> Any:
    """A log group may be named by its ARN."""
    destination = str(more.get("log_destination") or "")
    if ":log-group:" in destination:
        name = destination.partition(":log-group:")[2].removesuffix(":*")
        more |= {"log_destination": None, "log_group_name": name, "log_destination_type": "cloud-watch-logs"}
    made, failed = _flow_logs(self, *args, **more)
    for record in made:
        record.log_destination = destination or record.log_destination
    return made, failed
