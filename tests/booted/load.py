"""A steady load on one address: so many GETs a second over kept connections, whatever the answers do.

python -m tests.booted.load ADDRESS PORT HOST RATE SECONDS

Ends earlier when its standard input ends. Prints one JSON document.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

CONNECTIONS = 16
# Seconds for one answer.
PATIENCE = 30.0


@dataclass
class Outcome:
    """begun: seconds since the epoch. rate: answers a second. failures: [seconds since the start, what happened instead of a
    200]. slowest: seconds. names: answers by their text. last: seconds since the start when each was asked for last."""

    begun: float = 0.0
    answers: int = 0
    rate: float = 0.0
    failures: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    slowest: float = 0.0
    median: float = 0.0
    names: dict[str, int] = field(default_factory=dict[str, int])
    last: dict[str, float] = field(default_factory=dict[str, float])


class Load:
    def __init__(self, address: str, port: int, host: str, rate: float, seconds: float) -> None:
        self._place = (address, port)
        self._request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self._gap = CONNECTIONS / rate
        self._seconds = seconds
        self._begun = time.monotonic()
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._times: list[float] = []
        self.outcome = Outcome(begun=time.time())

    def run(self) -> Outcome:
        threads = [threading.Thread(target=self._one, args=(n,)) for n in range(CONNECTIONS)]
        threading.Thread(target=self._listen, daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._times.sort()
        self.outcome.rate = self.outcome.answers / (time.monotonic() - self._begun)
        self.outcome.slowest, self.outcome.median = self._times[-1], self._times[len(self._times) // 2]
        return self.outcome

    def _listen(self) -> None:
        sys.stdin.read()
        self._end.set()

    def _one(self, number: int) -> None:
        connection: socket.socket | None = None
        due = self._begun + self._gap * number / CONNECTIONS
        while not self._end.wait(max(0.0, due - time.monotonic())) and time.monotonic() - self._begun < self._seconds:
            # By the clock and not after the last answer, so that a slow answer is followed by what it held up.
            due += self._gap
            asked = time.monotonic()
            try:
                connection = connection or socket.create_connection(self._place, PATIENCE)
                connection.settimeout(PATIENCE)
                connection.sendall(self._request)
                status, body, kept = _answer(connection)
                problem = "" if status == 200 else f"status {status}: {body[:80]!r}"
                if not kept:
                    connection.close()
                    connection = None
            except OSError as error:
                problem, body = f"{type(error).__name__}: {error}", b""
                if connection:
                    connection.close()
                connection = None
            with self._lock:
                self._times.append(time.monotonic() - asked)
                if problem:
                    self.outcome.failures.append((asked - self._begun, problem))
                else:
                    self.outcome.answers += 1
                    name = body.decode(errors="replace")
                    self.outcome.names[name] = self.outcome.names.get(name, 0) + 1
                    self.outcome.last[name] = asked - self._begun
        if connection:
            connection.close()


def _answer(connection: socket.socket) -> tuple[int, bytes, bool]:
    """(status, body, whether the connection may be used again). Raises OSError for anything that is no whole answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection, data)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _more(connection, body)
    return int(first.split()[1]), body, headers.get("connection", "").lower() != "close"


def _more(connection: socket.socket, so_far: bytes) -> bytes:
    more = connection.recv(65536)
    if not more:
        raise ConnectionError(f"ended after {len(so_far)} bytes")
    return more


if __name__ == "__main__":
    address, port, host, rate, seconds = sys.argv[1:]
    print(json.dumps(asdict(Load(address, int(port), host, float(rate), float(seconds)).run())))
