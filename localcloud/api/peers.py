"""Whose process is at the other end of a connection on this machine: gRPC's plain ports have no other lock.

The standard library only, as the language host loads it without its package.
"""

from __future__ import annotations

import functools
import os
import socket
import struct

# Linux, uapi/linux/netlink.h, sock_diag.h and inet_diag.h.
_SOCK_DIAG, _BY_FAMILY, _REQUEST = 4, 20, 1
_HEADER = struct.Struct("=IHHII")
# Of a struct inet_diag_msg, before its user id: family and so on, the addresses, three numbers.
_BEFORE_UID = _HEADER.size + 4 + 48 + 12


def owner(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """The user id of the process that holds the client's end of a TCP connection over IPv4; None where there is no such
    connection. The kernel is asked by both addresses, so no other connection can be meant."""
    ends = struct.pack("!HH", client[1], server[1])
    for address, _ in (client, server):
        ends += socket.inet_aton(address) + bytes(12)
    wanted = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    wanted += ends + struct.pack("=I", 0) + b"\xff" * 8
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.send(_HEADER.pack(_HEADER.size + len(wanted), _BY_FAMILY, _REQUEST, 1, 0) + wanted)
        answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return None
    return int(struct.unpack_from("=I", answer, _BEFORE_UID)[0])


def ours(peer: str, port: int) -> bool:
    """Whether a gRPC peer, such as ipv4:127.0.0.1:40001, is a process of this process's own user. port: ours, of 127.0.0.1."""
    kind, _, rest = peer.partition(":")
    address, _, number = rest.rpartition(":")
    return kind == "ipv4" and owner((address, int(number)), ("127.0.0.1", port)) == _us()


@functools.cache
def _us() -> int:
    return os.geteuid()
