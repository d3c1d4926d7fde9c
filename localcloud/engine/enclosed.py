"""Runs the Pulumi CLI where no other user of this machine reaches it: in a network namespace of its own.

The engine, the language host and the program speak plain gRPC on 127.0.0.1: whoever reaches one of their ports runs commands as
us. In the namespace are only they. What they call outside is carried by a process that stays there: to the cloud's providers by
the sockets in its folder, and to its API at the port of 127.0.0.1 that AWS_ENDPOINT_URL names. The namespace has no name, so it
ends with the last process in it, however that ends.

Used as a script, without the rest of the package, so that it starts at once: `enclosed.py PULUMI ARGUMENT …`, with the cloud's
folder in APOLLO_CLOUD, and the names of its providers in APOLLO_PROVIDERS where not all are wanted. It becomes the CLI:
signals, terminal and exit status are the CLI's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

PROVIDERS = ("aws", "command")
_LOOPBACK = "127.0.0.1"
_CHUNK = 1 << 18
_LIBC = ctypes.CDLL(None, use_errno=True)
# Linux, uapi/linux/sched.h, sockios.h and if.h.
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_SET_FLAGS, _UP = 0x8914, 1
Dial = Callable[[], socket.socket]


def enter() -> None:
    """Moves this process into a new network namespace with its loopback up. OSError: the kernel gives none, and the process may
    be half in one of another kind. Whoever is not root gets a user namespace around it, in which they stay who they are."""
    user, group = os.geteuid(), os.getegid()
    if _LIBC.unshare(_NEW_NET | (_NEW_USER if user else 0)):
        raise OSError(ctypes.get_errno(), "no network namespace")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh22x", b"lo", _UP))


def entered() -> bool:
    """Like enter(); False where there is no namespace to be had, and nothing has changed."""
    if (trial := os.fork()) == 0:
        with contextlib.suppress(OSError):
            enter()
            os._exit(0)
        os._exit(1)
    if os.waitpid(trial, 0)[1]:
        return False
    enter()
    return True


def provider(folder: str, name: str) -> socket.socket:
    """A connection to a provider of the cloud in the folder. OSError: none is there."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = socket.socket(socket.AF_UNIX)
        # A socket's path has 108 characters at most, and the folder's may have more.
        found.connect(f"/proc/self/fd/{handle}/{name}")
        return found
    finally:
        os.close(handle)


def pass_on(listener: socket.socket, dial: Dial) -> None:
    """Carries each connection on, byte for byte, to what `dial` connects to. Does not end."""
    while True:
        near, _ = listener.accept()
        try:
            far = dial()
        except OSError:
            near.close()
            continue
        for ends in ((near, far), (far, near)):
            threading.Thread(target=_pump, args=ends, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def carry(command: int, listeners: socket.socket, dials: list[Dial]) -> NoReturn:
    """What stays outside: takes the listening sockets from the connection, one for each of `dials`, until the command ends."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    with contextlib.suppress(OSError):
        ended = os.pidfd_open(command)
        handles = socket.recv_fds(listeners, 1, len(dials))[1]
        for handle, dial in zip(handles, dials, strict=False):  # none where the command has ended already
            threading.Thread(target=pass_on, args=(socket.socket(fileno=handle), dial), daemon=True).start()
        select.select([ended], [], [])
    os._exit(0)


def main(argv: list[str]) -> NoReturn:
    folder = os.environ["APOLLO_CLOUD"]
    providers = os.environ.get("APOLLO_PROVIDERS", " ".join(PROVIDERS)).split()
    dials: list[Dial] = [lambda name=name: provider(folder, name) for name in providers]
    ports = [0 for _ in providers]
    if api := os.environ.get("AWS_ENDPOINT_URL"):
        port = int(api.rpartition(":")[2])
        # First, so that its port is still free.
        ports.insert(0, port)
        dials.insert(0, lambda: socket.create_connection((_LOOPBACK, port)))
    ours, theirs = socket.socketpair()
    command = os.getpid()
    if os.fork() == 0:
        ours.close()
        carry(command, theirs, dials)
    if not entered():
        print("no network namespace here: other users of this machine reach the engine while it runs", file=sys.stderr)
        # The API has its port on this very loopback.
        ports = [0 for _ in ports]
    listeners = [socket.create_server((_LOOPBACK, port)) for port in ports]
    for listener in listeners:  # and of all that it accepts
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    socket.send_fds(ours, [b"."], [listener.fileno() for listener in listeners])
    taken = [listener.getsockname()[1] for listener in listeners[-len(providers) :]]
    os.environ["PULUMI_DEBUG_PROVIDERS"] = ",".join(f"{name}:{port}" for name, port in zip(providers, taken, strict=True))
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
