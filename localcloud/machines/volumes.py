"""EBS volumes: a sparse file each, and a loop device while a running machine has it attached."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Mapping, Set
from pathlib import Path

from localcloud.machines.processes import run
from localcloud.machines.wanted import Disk

GIB = 1 << 30
# The group `disk`, which has the same number in every Debian.
DISK_GROUP = 6


class Volumes:
    """folder: where the files are; they live as long as their volume does in the cloud. A loop device ends with its last user,
    a machine or this process, however they end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # The loop devices in use and a handle that keeps each, by volume.
        self._kept: dict[str, tuple[Path, int]] = {}
        self._lock = threading.Lock()

    def device(self, disk: Disk) -> Path:
        """The loop device of this volume, as large as the volume, made if need be, with the volume's file behind it."""
        file = self._folder / f"{disk.id}.img"
        with self._lock:
            grows = not file.exists() or file.stat().st_size < disk.size * GIB
            if grows:
                with file.open("ab") as handle:
                    handle.truncate(disk.size * GIB)
            if disk.id not in self._kept:
                # One that a machine on its way out still has mounted is taken again.
                device = Path(run(["losetup", "--nooverlap", "--find", "--show", str(file)]).strip())
                self._kept[disk.id] = device, os.open(device, os.O_RDONLY | os.O_CLOEXEC)
                # While it has users, this makes it end with the last of them.
                run(["losetup", "--detach", str(device)])
            device, _ = self._kept[disk.id]
            if grows:
                run(["losetup", "--set-capacity", str(device)])
            return device

    def release_all_but(self, disk_ids: Set[str]) -> None:
        """Leaves the other loop devices to whoever still has them mounted."""
        with self._lock:
            for disk_id in self._kept.keys() - disk_ids:
                os.close(self._kept.pop(disk_id)[1])

    def keep_only(self, disk_ids: Set[str]) -> None:
        """Deletes the volumes that the cloud no longer has, which are released."""
        for file in self._folder.glob("*.img"):
            if file.stem not in disk_ids:
                file.unlink()


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
