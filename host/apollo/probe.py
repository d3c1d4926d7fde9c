"""Runs on the first edge: `apollo probe SECONDS ADDRESS …`. Prints, as JSON, address → why its SSH port does not answer, or "".

The kernel answers a TCP handshake however busy its machine is: a host that does not answer is down or cut off, and one that
does is at most slow.
"""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

from plan.ports import SSH

AT_ONCE = 64


def silence(address: str, seconds: float) -> str:
    try:
        socket.create_connection((address, SSH), seconds).close()
    except TimeoutError:
        return f"no answer at port {SSH} within {seconds:g} s"
    except OSError as error:
        return f"port {SSH}: {error.strerror or error}"
    return ""


def main(seconds: str, *addresses: str) -> int:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        print(json.dumps(dict(zip(addresses, pool.map(lambda a: silence(a, float(seconds)), addresses), strict=True))))
    return 0
