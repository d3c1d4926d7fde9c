"""EBS volumes: a sparse file each, and a loop device while a running machine has it attached."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from localcloud.machines.processes import run
from localcloud.machines.wanted import Disk

GIB = 1 << 30
# The group `disk`, which has the same number in every Debian.
DISK_GROUP = 6


class Volumes:
    """folder: where the files are; they live as long as their volume does in the cloud."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def device(self, disk: Disk) -> Path:
        """The loop device of this volume, as large as the volume, made if need be, with the volume's file behind it."""
        file = self._file(disk.id)
        existing = loops(file)
        if not file.exists() or file.stat().st_size < disk.size * GIB:
            with file.open("ab") as handle:
                handle.truncate(disk.size * GIB)
            for device in existing:
                run(["losetup", "--set-capacity", str(device)])
        return existing[0] if existing else Path(run(["losetup", "--find", "--show", str(file)]).strip())

    def release(self, disk_id: str) -> None:
        """Frees the loop device. One that is still mounted somewhere goes with its last user."""
        for device in loops(self._file(disk_id)):
            run(["losetup", "--detach", str(device)])

    def release_all_but(self, disk_ids: set[str]) -> None:
        for file, device in _loops_below(self._folder):
            if file.stem not in disk_ids:
                run(["losetup", "--detach", str(device)])

    def keep_only(self, disk_ids: set[str]) -> None:
        """Deletes the volumes that the cloud no longer has."""
        for file in self._folder.glob("*.img"):
            if file.stem not in disk_ids:
                self.release(file.stem)
                file.unlink()

    def _file(self, disk_id: str) -> Path:
        return self._folder / f"{disk_id}.img"


def loops(file: Path) -> list[Path]:
    """The loop devices backed by this file."""
    listing = run(["losetup", "--associated", str(file), "--noheadings", "--output", "NAME"])
    return [Path(line.strip()) for line in listing.splitlines() if line.strip()]


def release_below(folder: Path) -> None:
    """Frees every loop device whose file is in the folder, also a deleted one."""
    for _, device in _loops_below(folder):
        run(["losetup", "--detach", str(device)])


def _loops_below(folder: Path) -> list[tuple[Path, Path]]:
    listing = run(["losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"])
    pairs = [line.split(" ", 1) for line in listing.splitlines() if " " in line]
    return [(Path(file), Path(device)) for device, file in pairs if file.startswith(f"{folder}/")]


def plug(leader: int, disks: Mapping[Disk, Path]) -> None:
    """Makes the machine's /dev hold exactly these attached volumes, each with its loop device, under its device name and under
    the name by volume id that udev gives on EC2. leader: the pid of the machine's init."""
    # The machine's /dev is in memory, so nothing needs undoing when it stops.
    folder = Path(f"/proc/{leader}/root/dev")
    by_id = folder / "disk/by-id"
    by_id.mkdir(parents=True, exist_ok=True)
    wanted = {(disk.device or "").removeprefix("/dev/"): (disk, device) for disk, device in disks.items()}
    for node in folder.iterdir():
        if re.fullmatch(r"(sd|xvd)[a-z]\d*", node.name) and node.name not in wanted:
            node.unlink()
    for link in by_id.iterdir():
        if link.readlink().name not in wanted:
            link.unlink()
    for name, (disk, device) in wanted.items():
        node = folder / name
        number = device.stat().st_rdev
        if node.exists() and node.stat().st_rdev != number:
            node.unlink()
        if not node.exists():
            os.mknod(node, stat.S_IFBLK | 0o660, number)
            node.chmod(0o660)  # whatever the umask
            os.chown(node, 0, DISK_GROUP)
        link = by_id / f"nvme-Amazon_Elastic_Block_Store_{disk.id.replace('-', '')}"
        if not link.is_symlink():
            link.symlink_to(f"../../{name}")
