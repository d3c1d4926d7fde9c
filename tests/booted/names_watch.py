"""Asks a DNS server for a name again and again, and tells each change of the answer. Runs on a host, with its Python alone.

names_watch.py SERVER NAME STOP_FILE: one line for each change, "<seconds since the epoch> <addresses, or none, or failed>",
until the file is there.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path

# Seconds between two questions, and for an answer.
PAUSE, TIMEOUT = 0.05, 1.0


def addresses(server: str, name: str) -> str:
    """The A records of a name, in order and joined by commas; `none` without any, `failed` without an answer."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(TIMEOUT)
        try:
            asking.sendto(question, (server, 53))
            answer = asking.recv(4096)
        except OSError:
            return "failed"
    _, flags, _, count, _, _ = struct.unpack("!6H", answer[:12])
    if flags & 15 not in (0, 3):
        return "failed"
    found: list[str] = []
    place = len(question)
    for _ in range(count):
        while answer[place] and answer[place] < 192:
            place += answer[place] + 1
        place += 2 if answer[place] else 1
        kind, _, _, length = struct.unpack("!2HIH", answer[place : place + 10])
        if kind == 1:
            found.append(socket.inet_ntoa(answer[place + 10 : place + 14]))
        place += 10 + length
    return ",".join(sorted(found)) or "none"


def main(server: str, name: str, stop: str) -> None:
    last = ""
    while not Path(stop).exists():
        now = time.time()
        answer = addresses(server, name)
        if answer != last:
            last = answer
            print(f"{now:.3f} {answer}", flush=True)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
