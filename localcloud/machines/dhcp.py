"""Hands each instance the address that the cloud gave its interface, over DHCP on the interface's own link.

RFC 2131, as far as a client with a fixed address needs it: DISCOVER, REQUEST and INFORM. Replies are broadcast on the
link, which has no other member.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from localcloud.machines.namespaces import Namespace

DISCOVER, OFFER, REQUEST, ACK, NAK, INFORM = 1, 2, 3, 5, 6, 8
MAGIC = b"\x63\x82\x53\x63"
# Seconds. The EC2 service gives an hour too.
LEASE = 3600
# struct in_pktinfo: interface, local address, destination.
PKTINFO = struct.Struct("=I4s4s")
IP_PKTINFO: int = getattr(socket, "IP_PKTINFO", 8)


@dataclass(frozen=True)
class Lease:
    """What a link's client gets. mtu: bytes."""

    address: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address
    resolver: IPv4Address
    hostname: str
    domain: str
    mtu: int


class DhcpServer:
    """Answers on every link of a namespace. lease_of: the lease for a link's name, None to stay silent."""

    def __init__(self, namespace: Namespace, lease_of: Callable[[str], Lease | None]) -> None:
        self._namespace = namespace
        self._lease_of = lease_of
        self._socket = namespace.call(_socket)
        self._thread = threading.Thread(target=self._serve, name=f"dhcp-{namespace.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        # shutdown() wakes the thread out of recvmsg(); on an unconnected UDP socket it also raises, having done so.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                packet, ancillary, _, _ = self._socket.recvmsg(1500, socket.CMSG_SPACE(PKTINFO.size))
            except OSError:
                return
            if not packet:
                return
            info = next((data for _, kind, data in ancillary if kind == IP_PKTINFO), None)
            if info is not None:
                # A link that vanished under the request is no reason to stop serving the others.
                with contextlib.suppress(OSError, ValueError, IndexError, struct.error):
                    self._answer(packet, PKTINFO.unpack(info)[0])

    def _answer(self, packet: bytes, interface: int) -> None:
        lease = self._lease_of(self._namespace.call(lambda: socket.if_indextoname(interface)))
        if lease is None:
            return
        reply = answer(packet, lease)
        if reply is None:
            return
        source = PKTINFO.pack(interface, lease.gateway.packed, bytes(4))
        self._socket.sendmsg([reply], [(socket.IPPROTO_IP, IP_PKTINFO, source)], 0, ("255.255.255.255", 68))


def answer(packet: bytes, lease: Lease) -> bytes | None:
    """The reply to a client's packet, None if it wants none. Raises ValueError or IndexError for a malformed one."""
    operation, hardware, length = packet[0], packet[1], packet[2]
    if operation != 1 or packet[236:240] != MAGIC:
        raise ValueError("not a DHCP request")
    options = _options(packet[240:])
    kind = options.get(53, b"\0")[0]
    if kind not in (DISCOVER, REQUEST, INFORM):
        return None
    client = packet[12:16]
    asked = options.get(50, client)
    reply_kind = OFFER if kind == DISCOVER else ACK
    if kind == REQUEST and asked not in (lease.address.packed, bytes(4)):
        # The client remembers another life of this link; it must start over.
        reply_kind = NAK
    given = lease.address.packed if reply_kind in (OFFER, ACK) and kind != INFORM else bytes(4)
    header = struct.pack(
        "!BBBB4sHH4s4s4s4s16s192s",
        *(2, hardware, length, 0, packet[4:8], 0, 0x8000, client, given),
        *(lease.gateway.packed, bytes(4), packet[28:44], bytes(192)),
    )
    answers = {53: bytes([reply_kind]), 54: lease.gateway.packed}
    if reply_kind != NAK:
        if kind != INFORM:
            answers[51] = struct.pack("!I", LEASE)
        answers |= {
            1: lease.subnet.netmask.packed,
            3: lease.gateway.packed,
            6: lease.resolver.packed,
            12: lease.hostname.encode(),
            15: lease.domain.encode(),
            26: struct.pack("!H", lease.mtu),
            28: lease.subnet.broadcast_address.packed,
        }
    body = b"".join(bytes([code, len(value)]) + value for code, value in answers.items())
    return (header + MAGIC + body + b"\xff").ljust(300, b"\0")


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data) and data[position] != 255:
        if data[position] == 0:
            position += 1
            continue
        length = data[position + 1]
        found[data[position]] = data[position + 2 : position + 2 + length]
        position += 2 + length
    return found


def _socket() -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    server.bind(("", 67))
    return server
