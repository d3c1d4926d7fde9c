"""Mesos on the booted hosts: what of it runs."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from .fleet import Fleet
from .hosts import HostRow

UNITS = {"control": ("mesos-master", "marathon"), "slave": ("mesos-agent",)}
OFF = "off"
_HINT = "Mesos is off: the hosts have no programs of it; `up --host-files DIR` takes DIR/opt/mesos (docs/mesos.md)"


def looked_at(fleet: Fleet) -> list[HostRow]:
    """The fleet's hosts with what of Mesos runs on each: its units that are active, or OFF. Nothing for other hosts."""

    def look(row: HostRow) -> HostRow:
        if row.state != "running" or row.role not in UNITS:
            return row
        states = fleet.run(row.name, ["systemctl", "is-active", *UNITS[row.role]]).stdout.decode().split()
        active = [unit for unit, state in zip(UNITS[row.role], states, strict=False) if state == "active"]
        return replace(row, mesos=", ".join(active) or OFF)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(look, fleet.rows))


def line(rows: Iterable[HostRow]) -> str:
    """One line for a person, empty where no host was looked at."""
    looked = [row for row in rows if row.mesos]
    running = [f"{row.mesos} on {row.name}" for row in looked if row.mesos != OFF]
    return f"Mesos: {'; '.join(running)}" if running else _HINT if looked else ""
