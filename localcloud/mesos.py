"""Mesos on the booted hosts: a build that the user brings (`--mesos-root`), and what of it runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from .errors import LocalCloudError
from .fleet import Fleet
from .hosts import HostRow

# Below the build's folder, each optional, as long as one is there.
PROGRAMS = ("sbin/mesos-master", "sbin/mesos-agent", "bin/marathon")
UNITS = {"control": ("mesos-master", "marathon"), "slave": ("mesos-agent",)}
OFF = "off"
_HINT = "Mesos is off: the hosts have no programs of it; `up --mesos-root DIR` takes a build of yours (README, Mesos)"


def adopt(folder: Path, root: Path) -> None:
    """Makes the build the one that machines of the cloud in `folder` boot with. LocalCloudError where it is none."""
    from .machines.driver import MESOS_ROOT

    if not any(os.access(root / program, os.X_OK) for program in PROGRAMS):
        raise LocalCloudError(f"--mesos-root {root}: there is none of {', '.join(PROGRAMS)} to execute; give a folder with one")
    side = folder / f"{MESOS_ROOT}.new"
    side.unlink(missing_ok=True)
    side.symlink_to(root.resolve())
    side.rename(folder / MESOS_ROOT)


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
