"""What the checks of this host's network have in common, whichever mesh it runs."""

from __future__ import annotations

from pathlib import Path

DEVICES = Path("/sys/class/net")


def mtu(device: str) -> int | None:
    """The MTU of a device that is up, in bytes; None where it is down or missing."""
    try:
        up = int((DEVICES / device / "flags").read_text(), 16) & 1
        return int((DEVICES / device / "mtu").read_text()) if up else None
    except OSError:
        return None
