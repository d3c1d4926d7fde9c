"""What the checks of this host's network have in common, whichever mesh it runs."""

from __future__ import annotations

import bisect
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

DEVICES = Path("/sys/class/net")
# Peers that a check sends packets to at most: each waits for its own second, all at the same time.
ASKED = 8


def mtu(device: str) -> int | None:
    """The MTU of a device that is up, in bytes; None where it is down or missing."""
    try:
        up = int((DEVICES / device / "flags").read_text(), 16) & 1
        return int((DEVICES / device / "mtu").read_text()) if up else None
    except OSError:
        return None


def answers(peers: Mapping[str, str], own: str, device: str) -> tuple[str, list[str]]:
    """(how many of the peers that were asked answer, in words; what an operator should look at).

    peers: the bridge address of each, by name. own: this host's name. Raises ValueError where none of several answers: one
    that is silent may be away itself.
    """
    asked = some_of(peers, own)
    silent = unanswered(peers[name] for name in asked)
    silent_names = ", ".join(f"{name} ({peers[name]})" for name in asked if peers[name] in silent)
    if len(silent) == len(asked) > 1:
        raise ValueError(f"no packet crosses {device}: no answer from {silent_names}")
    return f"{len(asked) - len(silent)} of {len(asked)} asked answer", [f"no answer from {silent_names}"] if silent else []


def some_of(peers: Iterable[str], own: str) -> list[str]:
    """At most ASKED names, spread over the table, and others for each host, so that one absent host does not worry all."""
    names = sorted(peers)
    start = bisect.bisect(names, own)
    return [*names[start:], *names[:start]][:: -(-len(names) // ASKED) or 1]


def unanswered(addresses: Iterable[str]) -> set[str]:
    """Those that answer neither of two pings, all sent at the same time. Takes 1.2 seconds at most."""
    pings = {address: subprocess.Popen(ping(address), stdout=subprocess.DEVNULL) for address in addresses}
    return {address for address, process in pings.items() if process.wait()}


def ping(address: str) -> list[str]:
    return ["ping", "-n", "-q", "-c", "2", "-i", "0.2", "-W", "1", address]
