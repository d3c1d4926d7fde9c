"""The disk that virtual machines boot from: Debian 12 as its image for EC2 is set up, made from packages.

UEFI starts Debian's signed GRUB from the EFI partition, which starts Debian's cloud kernel. Without loop devices: the file
systems are made from folders and put into a file. Unlike Debian's own image: packages that no host of ours needs are not
in it, QEMU's guest agent is, the kernel boots without its initial file system, and GRUB's first menu is not update-grub's. The
host's packages are baked in.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path

from localcloud.machines.image import ROLES, building_of, image_key, only_builder, packed_files, provision_hooks
from localcloud.machines.processes import Children, run

FILES = Path(__file__).parent / "vm_rootfs"
# Where they are in the cache.
DISKS = "disks"
# Raised when the steps below change in a way that the files they use do not show.
RECIPE = 1
# What Debian's image for EC2 has and a host can tell; and the agent by which commands come in.
DEBIAN = (
    *("linux-image-cloud-amd64", "grub-cloud-amd64", "systemd", "systemd-sysv", "systemd-resolved", "systemd-timesyncd"),
    *("libnss-resolve", "libnss-myhostname", "libpam-systemd", "dbus", "udev", "netplan.io", "cloud-init", "cloud-guest-utils"),
    *("amazon-ec2-utils", "openssh-server", "sudo", "apparmor", "python3", "curl", "gnupg", "ca-certificates", "fdisk"),
    *("e2fsprogs", "less", "unattended-upgrades", "iputils-ping", "zstd", "qemu-guest-agent"),
)
# The disk as Debian's: the root is partition 1 and comes last, so that it can grow. In MiB.
ESP_START, ESP_SIZE = 1, 124
ROOT_START, ROOT_SIZE = 128, 2560
ESP_TYPE, ROOT_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
# As vm_rootfs/boot/grub/grub.cfg has it.
ROOT_UUID = "A90110A0-0000-4000-8000-000000000001"
GRUB = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
# Debian's signed GRUB looks for this one first.
FIRST_CONFIGURATION = "search --no-floppy --label root --set=root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n"


def ensure_disk(cache: Path, find: Callable[[], dict[str, Path]], children: Children) -> Path:
    """The folder with the disk, disk.raw, built now if the cache does not hold it (two to four minutes and a Debian mirror).

    find: makes or finds consul and consul-template. Raises MachineError with the build's last lines.
    """
    # Apart from the containers' images, so that no container waits minutes for a disk to be made.
    with only_builder(cache / DISKS):
        programs = find()
        image = cache / DISKS / disk_key(programs)
        if not image.is_dir():
            with building_of(image, children) as (building, bootstrap):
                root = building / "root"
                root.parent.mkdir()
                bootstrap(root, list(DEBIAN), _hooks(programs))
                _assemble(building, root)
                run(["rm", "-rf", str(root)])
                building.rename(image)
    return image


def disk_key(programs: dict[str, Path]) -> str:
    """Changes with anything that goes into the disk."""
    layout = f"{RECIPE} {DEBIAN} {ESP_START} {ESP_SIZE} {ROOT_START} {ROOT_SIZE} {FIRST_CONFIGURATION}"
    digest = hashlib.sha256(f"{image_key(programs)} {layout}".encode() + packed_files(FILES))
    return digest.hexdigest()[:16]


def _hooks(programs: dict[str, Path]) -> list[str]:
    return [
        # The image's own leads to systemd-resolved, which does not run while it is made.
        'rm -f "$1/etc/resolv.conf"; cat /etc/resolv.conf >"$1/etc/resolv.conf"',
        *provision_hooks(programs, f"/run/files/provision {' '.join(ROLES)}"),
        f'cp -a {shlex.quote(str(FILES))}/. "$1/"; cd "$1"; chown -R root:root etc/netplan etc/cloud etc/udev etc/systemd boot',
        'chown root:root "$1/etc/fstab"; chmod 0600 "$1"/etc/netplan/*; mkdir -p "$1/boot/efi"',
        'ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"; rm -rf "$1"/var/lib/apt/lists/*',
        # Each machine makes its own identity at first boot.
        'rm -f "$1"/etc/ssh/ssh_host_*_key* "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1/etc/hostname"; : >"$1/etc/machine-id"',
    ]


def _assemble(folder: Path, root: Path) -> None:
    disk, system, esp, first = (folder / name for name in ("disk.raw", "system.img", "esp.img", "grub.cfg"))
    for file, size in ((system, ROOT_SIZE), (esp, ESP_SIZE), (disk, ROOT_START + ROOT_SIZE + 1)):
        with file.open("wb") as handle:
            handle.truncate(size << 20)
    run(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(system)], timeout=600)
    run(["mkfs.vfat", "-n", "ESP", str(esp)])
    run(["mmd", "-i", str(esp), "::EFI", "::EFI/BOOT", "::EFI/debian"])
    first.write_text(FIRST_CONFIGURATION)
    for source, target in ((root / GRUB, "::EFI/BOOT/BOOTX64.EFI"), (first, "::EFI/debian/grub.cfg")):
        run(["mcopy", "-i", str(esp), str(source), target])
    table = (
        "label: gpt\n"
        f"15 : start={ESP_START << 11}, size={ESP_SIZE << 11}, type={ESP_TYPE}\n"
        f"1 : start={ROOT_START << 11}, size={ROOT_SIZE << 11}, type={ROOT_TYPE}, uuid={ROOT_UUID}\n"
    )
    run(["sfdisk", "--quiet", str(disk)], stdin=table)
    for part, start in ((esp, ESP_START), (system, ROOT_START)):
        into = [f"if={part}", f"of={disk}", f"seek={start}", "bs=1M", "conv=notrunc,sparse", "status=none"]
        run(["dd", *into], timeout=600)
        part.unlink()
    first.unlink()
