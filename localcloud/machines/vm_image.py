"""The disk that virtual machines boot from: Debian 12 as its image for EC2 is set up, made from packages, or someone's own.

UEFI starts Debian's signed GRUB from the EFI partition, which starts Debian's cloud kernel. Without loop devices: the file
systems are made from folders and put into a file. Unlike Debian's own image: packages that no host of ours needs are not
in it, the kernel boots without its initial file system, and GRUB's first menu is not update-grub's.

The baked disk has the hosts' packages and QEMU's guest agent. A furnished one is a Debian disk, ours or Debian's own, to which
the agent is added, with what an emulated processor needs and a repository of what a first boot installs.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from localcloud.machines import mirror
from localcloud.machines.errors import MachineError
from localcloud.machines.image import (
    ROLES,
    SUITE,
    Execute,
    bootstrap,
    hosts_packages,
    image_key,
    kept,
    make_mirror,
    packed_files,
    provision_hooks,
)
from localcloud.machines.processes import Children, run

FILES = Path(__file__).parent / "vm_rootfs"
FURNISH = FILES.with_name("furnish")
# Where they are in the cache: apart from the containers' images, so that no container waits minutes for a disk to be made.
DISKS = "disks"
# In a cloud's folder, a link to the disk of its user.
GIVEN = "image"
# Raised when the steps below change in a way that the files they use do not show.
RECIPE = 1
# What Debian's image for EC2 has and a host can tell.
DEBIAN = (
    *("linux-image-cloud-amd64", "grub-cloud-amd64", "systemd", "systemd-sysv", "systemd-resolved", "systemd-timesyncd"),
    *("libnss-resolve", "libnss-myhostname", "libpam-systemd", "dbus", "udev", "netplan.io", "cloud-init", "cloud-guest-utils"),
    *("amazon-ec2-utils", "openssh-server", "sudo", "apparmor", "python3", "curl", "gnupg", "ca-certificates", "fdisk"),
    *("e2fsprogs", "less", "unattended-upgrades", "iputils-ping", "zstd"),
)
# By which commands come in.
AGENT = "qemu-guest-agent"
# The disk as Debian's: the root is partition 1 and comes last, so that it can grow. In MiB.
ESP_START, ESP_SIZE = 1, 124
ROOT_START, ROOT_SIZE = 128, 2560
# Of a machine's root disk, in GiB.
MACHINE_SIZE = 8
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

    def build(programs: dict[str, Path], building: Path, execute: Execute) -> None:
        hooks = provision_hooks(programs, f"/run/files/provision {' '.join(ROLES)}")
        _make(building, execute, [*DEBIAN, AGENT], hooks)

    return kept(cache / DISKS, find, disk_key, build, children)


def ensure_debian_disk(cache: Path, children: Children) -> Path:
    """The same without the hosts' packages and without an agent, as Debian's own image is."""

    def build(_: dict[str, Path], building: Path, execute: Execute) -> None:
        _make(building, execute, list(DEBIAN), [])

    return kept(cache / DISKS, dict, lambda _: f"{_key(SUITE)}-debian", build, children)


def ensure_furnished_disk(
    cache: Path, find: Callable[[], dict[str, Path]], children: Children, image: Path | None = None
) -> Path:
    """A folder with disk.raw, a disk of Debian 12 that takes commands, and mirror, the repository of what it lacks.

    image: the disk, in a format that qemu-img reads; None for ours. MachineError: it is no such disk, or as ensure_disk().
    """
    disk = image or ensure_debian_disk(cache, children) / "disk.raw"
    size = int(json.loads(run(["qemu-img", "info", "--output=json", str(disk)]))["virtual-size"])
    if size > MACHINE_SIZE << 30:
        raise MachineError(f"{disk}: a disk of {size / (1 << 30):.1f} GiB; a machine's root has {MACHINE_SIZE}")
    with disk.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()

    def key(programs: dict[str, Path]) -> str:
        with FURNISH.open("rb") as handle:
            recipe = hashlib.file_digest(handle, "sha256").hexdigest()
        return f"{_key(f'{image_key(programs)} {digest} {recipe}')}-furnished"

    def build(programs: dict[str, Path], building: Path, execute: Execute) -> None:
        raw, root, archives, lead = (building / name for name in ("disk.raw", "root", "archives", "lead"))
        for place in (root, archives, lead / "etc/apt", lead / "etc/default", lead / Path(mirror.KEYRING).parent):
            place.mkdir(parents=True)
        run(["qemu-img", "convert", "-O", "raw", str(disk), str(raw)], timeout=1800)
        try:
            opened = [str(raw), str(_root_start(raw)), str(root)]
            execute([str(FURNISH), "install", *opened, str(archives), AGENT, *hosts_packages()])
        except MachineError as error:
            raise MachineError(f"{disk} cannot be made a disk that hosts boot from: {error}") from None
        make_mirror(building / "mirror", archives, programs)
        mirror.point_at(lead, building / "mirror", SUITE)
        execute([str(FURNISH), "lead", *opened, str(FILES), str(lead)])
        for place in (root, archives, lead):
            shutil.rmtree(place)

    return kept(cache / DISKS, find, key, build, children)


def give_disk(folder: Path, furnished: Path) -> None:
    """Makes a furnished disk the one of all machines of the cloud in `folder`."""
    link = folder / GIVEN
    link.unlink(missing_ok=True)
    link.symlink_to(furnished)


def given_disk(folder: Path) -> Path | None:
    """The furnished disk that the cloud's user gave; None where there is none."""
    link = folder / GIVEN
    return link.resolve() if link.is_symlink() else None


def _make(building: Path, execute: Execute, packages: list[str], hooks: list[str]) -> None:
    root = building / "root"
    building.mkdir()
    execute(bootstrap(root, packages, _hooks(hooks)))
    _assemble(building, root)
    run(["rm", "-rf", str(root)])


def disk_key(programs: dict[str, Path]) -> str:
    """Changes with anything that goes into the baked disk."""
    return _key(f"{image_key(programs)} {AGENT}")


def _key(more: str) -> str:
    layout = f"{RECIPE} {DEBIAN} {ESP_START} {ESP_SIZE} {ROOT_START} {ROOT_SIZE} {FIRST_CONFIGURATION} {more}"
    return hashlib.sha256(layout.encode() + packed_files(FILES)).hexdigest()[:16]


def _root_start(disk: Path) -> int:
    """Where the root begins, in bytes: Debian's is the largest partition. Raises MachineError if it has no partitions."""
    table = json.loads(run(["sfdisk", "--json", str(disk)]))["partitiontable"]
    return max(table["partitions"], key=lambda part: part["size"])["start"] * table.get("sectorsize", 512)


def _hooks(provision: list[str]) -> list[str]:
    return [
        # The image's own leads to systemd-resolved, which does not run while it is made.
        'rm -f "$1/etc/resolv.conf"; cat /etc/resolv.conf >"$1/etc/resolv.conf"',
        *provision,
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
