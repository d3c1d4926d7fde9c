"""Asks a DNS server for a name again and again, and tells each change of the answer. Runs on a host, with its Python alone.

names_watch.py SERVER NAME STOP_FILE: one line for each change, "<seconds since the epoch> <addresses, or none, or failed>",
until the file is there.
names_watch.py SERVER NAME,NAME… STOP_FILE: of several names, each of which has a page that begins with the name's first label,
where they lead: "<seconds since the epoch> <NAME> right, or none, or silent, or <the page's first word>". SERVER may be `edge`:
then the pages are asked of the web server at 127.0.0.1.
"""

from __future__ import annotations

import http.client
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

# Seconds between two questions, for a name's answer, as long as resolvers wait by default, and for a page.
PAUSE, ANSWER, PAGE = 0.05, 5.0, 1.0


def query(name: str) -> bytes:
    """The question for a name's A records, as musl asks it: without EDNS."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def addresses(server: str, name: str, port: int = 53) -> str:
    """The A records of a name over UDP, in order and joined by commas; `none` without any, `failed` without an answer."""
    question = query(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(ANSWER)
        try:
            asking.sendto(question, (server, port))
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


def page(address: str, host: str) -> str:
    """The first word that a web server says, `silent` where it does not, `none` for any status but 200."""
    connection = http.client.HTTPConnection(address, 80, timeout=PAGE)
    try:
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        return answer.read().decode().split()[0] if answer.status == 200 else "none"
    except (OSError, http.client.HTTPException, IndexError):
        return "silent"
    finally:
        connection.close()


def leads_to(server: str, name: str) -> str:
    """`right` where each page of a name is its own."""
    found = [server] if server == "edge" else addresses(server, name).split(",")
    if found[0] in ("none", "failed"):
        return found[0]
    words = {page("127.0.0.1" if address == "edge" else address, name) for address in found} - {name.split(".")[0]}
    return words.pop() if words else "right"


def follow(ask: Callable[[], str], title: str, stop: str) -> None:
    last = ""
    while not Path(stop).exists():
        now = time.time()
        answer = ask()
        if answer != last:
            last = answer
            # In one piece, as several write.
            os.write(1, f"{now:.3f} {title}{answer}\n".encode())
        time.sleep(PAUSE)


def main(server: str, names: str, stop: str) -> None:
    if "," not in names:
        follow(lambda: addresses(server, names), "", stop)
    for name in names.split(",") if "," in names else ():
        threading.Thread(target=follow, args=(lambda name=name: leads_to(server, name), f"{name} ", stop)).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
