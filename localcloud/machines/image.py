"""The root filesystems that machines boot from: Debian 12, made once, kept under a key of all that went into them.

The baked one has what a first boot would install, by the script that bakes an AMI (image/provision.sh). The plain one is as
near to Debian's own AMI as matters, with a repository to install the rest from. What is added to both is what a container
lacks to pass for an EC2 instance (rootfs/ beside this file).
"""

from __future__ import annotations

import fcntl
import hashlib
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from localcloud.machines import mirror
from localcloud.machines.errors import MachineError
from localcloud.machines.processes import Children
from localcloud.paths import REPOSITORY

SUITE = "bookworm"
ROLES = ("slave", "control", "edge")
# Where they are in the cache.
IMAGES = "images"
PROVISION = REPOSITORY / "host/files/packages/usr/local/lib/apollo/provision"
PACKAGES = PROVISION.with_name("packages")
BAKE = REPOSITORY / "image/provision.sh"
LOCAL_FILES = Path(__file__).parent / "rootfs"
# Raised when the steps below change in a way that the files they use do not show.
RECIPE = 3
# What Debian's AMI has and the hosts' first boot relies on.
PLAIN = (
    *("ca-certificates", "cloud-init", "curl", "dbus", "gnupg", "ifupdown", "iproute2", "iputils-ping", "isc-dhcp-client"),
    *("openssh-server", "python3", "sudo", "systemd", "systemd-sysv", "udev"),
)
# The one of images.json that is so.
PLAIN_AMI = "ami-0d12a0e1b8c53f7c1"
# Units that a container cannot run or that would look for a network; on EC2 they do.
MASKED = (
    *("systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket"),
    *("systemd-udev-trigger.service", "systemd-udev-settle.service", "console-getty.service", "getty@tty1.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "systemd-pstore.service"),
)

# Runs a command that mounts things and starts many processes. Raises MachineError with its last lines.
Execute = Callable[[list[str]], None]
# In namespaces of its own, which these go with, however it ends.
_APART = ("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--mount", "--propagation", "slave", "--")


def ensure_image(cache: Path, find: Callable[[], dict[str, Path]], children: Children) -> Path:
    """The baked image's folder, built now if the cache does not hold it (one to two minutes and a Debian mirror).

    find: makes or finds consul and consul-template. Raises MachineError with the build's last lines.
    """

    def build(programs: dict[str, Path], building: Path, execute: Execute) -> None:
        execute(bootstrap(building, [], [*_baked_hooks(programs), *_common_hooks()]))

    return kept(cache / IMAGES, find, image_key, build, children)


def ensure_plain_image(cache: Path, find: Callable[[], dict[str, Path]], children: Children) -> Path:
    """A folder with root, the filesystem of an image without our packages, and mirror, the repository that has them."""

    def build(programs: dict[str, Path], building: Path, execute: Execute) -> None:
        # What is installed already is not downloaded, and not asked for by a host either.
        download = f"apt-get install -y --no-install-recommends --download-only {' '.join(hosts_packages())}"
        move = 'mv "$1/var/cache/apt/archives" "$1/archives"; mkdir "$1/var/cache/apt/archives"'
        building.mkdir()
        root = building / "root"
        execute(bootstrap(root, list(PLAIN), [f'chroot "$1" {download}', move, *_common_hooks()]))
        make_mirror(building / "mirror", root / "archives", programs)
        shutil.rmtree(root / "archives")
        mirror.point_at(root, building / "mirror", SUITE)

    return kept(cache / IMAGES, find, lambda programs: f"{image_key(programs)}-plain", build, children)


def image_key(programs: dict[str, Path]) -> str:
    """Changes with anything that goes into the images."""
    digest = hashlib.sha256(f"{RECIPE} {SUITE} {MASKED} {PLAIN}".encode())
    digest.update(packed_files(PACKAGES, PROVISION, BAKE, LOCAL_FILES))
    for name, program in sorted(programs.items()):
        with program.open("rb") as handle:
            digest.update(f"\0{name}\0".encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


def packed_files(*places: Path) -> bytes:
    """Names, modes and contents of these files, and of all in these folders: what a key is made of."""
    packed = b""
    for path in (path for place in places for path in _files(place)):
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        packed += f"\0{path.relative_to(REPOSITORY)} {path.lstat().st_mode & 0o111}\0".encode() + content
    return packed


def _files(place: Path) -> Iterator[Path]:
    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    return (path for path in found if path.is_symlink() or path.is_file())


def kept(
    images: Path,
    find: Callable[[], dict[str, Path]],
    key: Callable[[dict[str, Path]], str],
    build: Callable[[dict[str, Path], Path, Execute], None],
    children: Children,
) -> Path:
    """The folder of this key in `images`, built now if it is not there. Raises MachineError with the build's last lines.

    find: the programs that go into it. build: is given them, a folder to make and build in, and what runs a command. The folder
    only ever appears by a rename, so one that exists is whole; what a killed build left is removed first.
    """
    images.mkdir(parents=True, exist_ok=True)
    # Two clouds of one user share the cache; the second waits for the first one's image.
    with (images / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        programs = find()
        image = images / key(programs)
        if not image.is_dir():
            sweep_unfinished(images)
            building = images / f"building-{image.name}"
            try:
                build(programs, building, partial(_execute, images / "build.log", children))
                building.rename(image)
            finally:
                sweep_unfinished(images)
    return image


def _execute(log: Path, children: Children, argv: list[str]) -> None:
    with log.open("wb") as output:
        status = _run([*_APART, *argv], output, children)
    if status:
        lines = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise MachineError(f"the image could not be built (exit {status}); {log} ends with:\n{lines}")


def sweep_unfinished(images: Path) -> None:
    """Removes what a build that was cut off left. Raises MachineError if something is mounted in it."""
    for path in images.glob("building-*"):
        mounted = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {path}" in line]
        if mounted:
            raise MachineError(f"{path}: an unfinished image with something mounted in it; unmount it and try again")
        shutil.rmtree(path)


def _run(argv: list[str], output: IO[bytes], children: Children) -> int:
    process = children.start(argv, output)
    try:
        return process.wait()
    finally:
        process.kill()
        process.wait()
        children.forget(process)


def bootstrap(target: Path, packages: list[str], hooks: list[str]) -> list[str]:
    """The command that makes a Debian in a folder, with further packages and hooks."""
    include = ",".join(["ca-certificates", *packages])
    return [
        *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={include}", "--dpkgopt=force-unsafe-io"),
        *(f"--customize-hook={hook}" for hook in hooks),
        *(SUITE, str(target)),
    ]


def _baked_hooks(programs: dict[str, Path]) -> list[str]:
    return provision_hooks(programs, f"/run/files/{BAKE.name} {' '.join(ROLES)}")


def provision_hooks(programs: dict[str, Path], command: str) -> list[str]:
    """The hooks that run a command in the new root with what installs the hosts' packages beside it, in /run/files."""
    bake, provision, packages = (shlex.quote(str(path)) for path in (BAKE, PROVISION, PACKAGES))
    copies = "".join(f'cp {shlex.quote(str(path))} "$1/run/files/binaries/{name}"; ' for name, path in programs.items())
    return [
        f'mkdir -p "$1/run/files/binaries"; cp -r {bake} {provision} {packages} "$1/run/files/"; {copies}',
        f'chroot "$1" env FILES=/run/files BINARIES=/run/files/binaries {command}',
        'rm -rf "$1/run/files"',
    ]


def hosts_packages() -> list[str]:
    """The Debian packages that hosts of all roles install, sorted."""
    return sorted({entry for name in ("base", *ROLES) for entry in _entries(name)})


def make_mirror(folder: Path, archives: Path, programs: dict[str, Path]) -> None:
    mirror.make(folder, archives, programs, dict(entry.split("=", 1) for entry in _entries("hashicorp")), SUITE)


def _common_hooks() -> list[str]:
    local = shlex.quote(str(LOCAL_FILES))
    masks = " ".join(f'ln -sf /dev/null "$1/etc/systemd/system/{unit}";' for unit in MASKED)
    return [
        f'cp -a {local}/. "$1/"; chown -R root:root "$1/etc/cloud" "$1/etc/systemd" "$1/usr/local/lib"; {masks}',
        'chroot "$1" systemctl --quiet enable apollo-local-platform.service',
        # Each machine makes its own identity at first boot.
        'rm -f "$1"/etc/ssh/ssh_host_*_key* "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"; : >"$1/etc/machine-id"',
        ': >"$1/etc/resolv.conf"; rm -f "$1/etc/hostname"; rm -rf "$1/var/lib/docker"; mkdir -p "$1/var/lib/docker"',
    ]


def _entries(name: str) -> list[str]:
    lines = (PACKAGES / f"{name}.txt").read_text().splitlines()
    return [entry for line in lines if (entry := line.partition("#")[0].strip())]
