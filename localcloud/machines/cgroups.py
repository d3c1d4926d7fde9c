"""A control group for each machine, in every hierarchy this kernel has mounted, and their removal.

Without one of its own a machine shares its parent's: its systemd then sees foreign processes and cannot stop its units.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from localcloud.processes import wait_until


def hierarchies() -> list[Path]:
    """The root of each mounted hierarchy, version 1 and 2."""
    found: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if source.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(mount.split()[4]))
    return found


def create(name: str) -> list[Path]:
    """Makes the group (a relative path) in every hierarchy; returns the files that a process writes its pid to."""
    files: list[Path] = []
    for root in hierarchies():
        folder = root
        for part in Path(name).parts:
            _delegate(folder)
            folder /= part
            folder.mkdir(exist_ok=True)
            # Version 1's cpuset takes no process before it has processors and memory.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                own, parent = folder / setting, folder.parent / setting
                if (root / "cpuset.cpu_exclusive").exists() and own.exists():
                    own.write_text(parent.read_text())
        files.append(folder / "cgroup.procs")
    return files


def _delegate(folder: Path) -> None:
    # Version 2 shows a controller below only where it is switched on above.
    controllers, control = folder / "cgroup.controllers", folder / "cgroup.subtree_control"
    if control.exists():
        for controller in controllers.read_text().split():
            # One that another hierarchy holds, or that this place does not allow, is done without.
            with contextlib.suppress(OSError):
                control.write_text(f"+{controller}")


def remove(name: str, seconds: float = 10) -> None:
    """Kills what is left in the group and below, and removes it."""
    for root in hierarchies():
        top = root / name
        if not top.is_dir():
            continue
        folders = [Path(path) for path, _, _ in os.walk(top, topdown=False)]

        def emptied(folders: list[Path] = folders) -> bool:
            pids = [pid for folder in folders for pid in _pids(folder)]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        wait_until(emptied, seconds)
        for folder in folders:
            # A process that cannot be killed keeps its group; the next sweep tries again.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _pids(folder: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split() if pid != "0"]
    return []
