"""Where a host is, in words. Without any library, as the gate and a comment need no more."""

from __future__ import annotations

# What a host keeps for life, by the name of its component's input.
PLACE = {"privateIp": "VPC address", "bridgeAddress": "bridge address", "dockerSubnet": "Docker subnet", "zone": "zone"}
# Role → its section of the settings.
SECTIONS = {"slave": "slaves", "control": "control", "edge": "edge"}
