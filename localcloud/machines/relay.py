"""Carries TCP connections between namespaces that have no route to each other, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from ipaddress import IPv4Address

from localcloud.machines.errors import MachineError
from localcloud.machines.namespaces import Namespace

# Seconds for a connection to be taken by the other side.
CONNECT_TIMEOUT = 5.0
CHUNK = 65536

Address = tuple[str, int]
Dial = Callable[[], list[tuple[socket.socket, str, int]]]


class Relay:
    """Takes connections on listening sockets and passes each on to what a dial function connects to."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._carried: dict[Address, set[asyncio.StreamWriter]] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    def add(self, listener: socket.socket, dial: Dial, preamble: Callable[[Address, Address], bytes] | None = None) -> None:
        """dial: unconnected sockets with the address and port each is to reach, tried in order. preamble: what the other side
        is sent first, from the client's address and the one that it asked for."""

        async def serve() -> None:
            async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._carry(reader, writer, dial, preamble)

            self._servers.append(await asyncio.start_server(take, sock=listener))

        asyncio.run_coroutine_threadsafe(serve(), self._loop).result()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dial: Dial,
        preamble: Callable[[Address, Address], bytes] | None,
    ) -> None:
        connected: socket.socket | None = None
        far: Address = ("", 0)
        for candidate, address, port in dial():
            candidate.setblocking(False)
            if connected is None:
                try:
                    await asyncio.wait_for(self._loop.sock_connect(candidate, (address, port)), CONNECT_TIMEOUT)
                    connected, far = candidate, (address, port)
                    continue
                except OSError:
                    pass
            candidate.close()
        if connected is None:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection(sock=connected)
        if preamble is not None:
            far_writer.write(preamble(writer.get_extra_info("peername"), writer.get_extra_info("sockname")))
        ends = {far_writer, writer}
        self._carried.setdefault(far, set()).update(ends)
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._carried[far] -= ends
        for end in ends:
            end.close()

    def reset(self, far: Address) -> None:
        """Cuts off, at both ends, every connection that was passed on to this address and port."""

        async def cut() -> None:
            for end in self._carried.get(far, set()):
                # Without the time to linger it is a reset, not an end.
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()

        asyncio.run_coroutine_threadsafe(cut(), self._loop).result()

    def close(self) -> None:
        """Stops listening and ends what is under way."""

        async def stop() -> None:
            for server in self._servers:
                server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # A side that went away ends its direction; the other direction notices by itself.
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def dial_from(namespace: Namespace, addresses: Callable[[], list[IPv4Address]], port: int) -> Dial:
    """A dial function whose connections begin in the namespace."""

    def dial() -> list[tuple[socket.socket, str, int]]:
        found = addresses()
        sockets = namespace.call(lambda: [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in found])
        return [(end, str(address), port) for end, address in zip(sockets, found, strict=True)]

    return dial


def listen_on_loopback(port: int, purpose: str, option: str) -> socket.socket:
    """port: 0 for any. Raises MachineError if it is taken, naming it, what it was wanted for and the option for another."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise MachineError(
            f"port {port} of 127.0.0.1 cannot be taken for {purpose} ({error.strerror}); "
            f"stop what uses it, or name another with {option}"
        ) from None
    listener.listen(128)
    return listener
