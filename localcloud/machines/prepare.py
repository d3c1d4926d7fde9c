"""What this machine needs to boot machines: the checks, and the set-up step that installs missing packages.

python -m localcloud.machines.prepare [--checks]    with what only the checks need, too
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from localcloud import paths
from localcloud.machines.errors import MachineError

# A program, and the Debian package that brings it.
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "ss": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
    "dnsmasq": "dnsmasq-base",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "gpg": "gpg",
    "dpkg-deb": "dpkg",
}
# Run on this machine by the tests alone.
CHECKS = {"haproxy": "haproxy", "zsh": "zsh", "promtool": "prometheus"}
# What virtual machines and their disk image need, beside those.
VM_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "sfdisk": "fdisk",
}
# A virtual machine's firmware, of the package ovmf.
FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
# What makes the machines: systemd-nspawn, QEMU with an emulated processor, or QEMU with KVM.
Kind = Literal["container", "vm", "kvm"]
# Its options of `up`.
BEGUN_WITH: dict[Kind, str] = {
    "container": "--machines container",
    "vm": "--machines vm",
    "kvm": "--machines vm --accel kvm",
}
KVM = Path("dev/kvm")
# Seven containers, or four virtual machines.
MEMORY_GIB: dict[Kind, int] = {"container": 4, "vm": 8, "kvm": 8}
DISK_GIB = 5
GIB = 1 << 30
# /proc counts what the kernel leaves over, which on a machine sold with 4 GiB is a little less.
SLACK = 0.9
# The kernel counts these for all of root's processes together, and each host's systemd takes a dozen watchers. Raised where
# they are lower, and left so: another cloud of this machine may need them when this one is gone.
LIMITS = {"fs/inotify/max_user_instances": 4096, "fs/inotify/max_user_watches": 524288}
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing_packages(checks: bool = False, kind: Kind = "container") -> list[str]:
    """The Debian packages to install here, sorted. checks: also those that only the checks need. kind: for such machines."""
    tools = TOOLS | (CHECKS if checks else {}) | ({} if kind == "container" else VM_TOOLS)
    missing = {package for tool, package in tools.items() if shutil.which(tool, path=SEARCH) is None}
    return sorted(missing | ({"ovmf"} if kind != "container" and not FIRMWARE.exists() else set()))


def check(folder: Path, *, system: Path = Path("/"), kind: Kind = "container") -> None:
    """Raises MachineError with every reason why machines cannot run here, packages that install() could get aside. folder:
    where their disks go."""
    problems: list[str] = []
    if os.geteuid() != 0:
        problems.append("not root: namespaces and mounts need it; run as root")
    release = (system / "etc/os-release").read_text() if (system / "etc/os-release").exists() else ""
    if "ID=debian" not in release.splitlines():
        name = next((line.partition("=")[2].strip('"') for line in release.splitlines() if line.startswith("PRETTY")), "?")
        problems.append(f"this is {name}, not Debian: the hosts are built with Debian's tools; use Debian 12")
    memory = _memory(system)
    if memory < MEMORY_GIB[kind] * SLACK:
        problems.append(f"{memory:.1f} GiB of memory; the hosts need at least {MEMORY_GIB[kind]}")
    free = shutil.disk_usage(_existing(folder)).free / GIB
    if free < DISK_GIB:
        problems.append(f"{free:.1f} GiB free for {folder}; image and disks need at least {DISK_GIB}")
    # Looked at only: where it is not meant to be used, opening it can hang.
    if kind == "kvm" and not os.access(system / KVM, os.R_OK | os.W_OK):
        problems.append(f"/{KVM} is not there, or not to be used by this user; leave out --accel kvm")
    missing = missing_packages(kind=kind)
    if missing and (os.geteuid() != 0 or shutil.which("apt-get", path=SEARCH) is None):
        problems.append(f"these packages are missing: {' '.join(missing)}; root installs them with Debian's apt-get")
    if problems:
        raise MachineError(
            "the hosts cannot boot on this machine:\n"
            + "".join(f"  {problem}\n" for problem in problems)
            + "with --no-machines everything but the hosts runs"
        )


def install(checks: bool = False, kind: Kind = "container") -> list[str]:
    """Installs what is missing and returns it. Raises MachineError with apt's last words."""
    packages = missing_packages(checks, kind)
    if not packages:
        return []
    if os.geteuid() != 0:
        raise MachineError(f"these packages are missing: {' '.join(packages)}; install them as root, or use --no-machines")
    options = ["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=5"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        try:
            done = subprocess.run(
                ["apt-get", *options, *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise MachineError(f"these packages are missing and there is no apt-get: {' '.join(packages)}") from None
        if done.returncode and command != ["update"]:
            words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-6:])
            raise MachineError(
                f"apt-get could not install {' '.join(packages)}:\n{words}\n"
                "is a Debian mirror reachable? with --no-machines none of these is needed"
            )
    return packages


def raise_limits() -> None:
    """Makes room for the hosts in the kernel's limits. Raises MachineError, naming the setting, where that is not allowed."""
    for name, least in LIMITS.items():
        setting = Path("/proc/sys") / name
        if int(setting.read_text()) < least:
            try:
                setting.write_text(str(least))
            except OSError as error:
                key = name.replace("/", ".")
                raise MachineError(f"{key} is {setting.read_text().strip()} and cannot be raised to {least}: {error}") from None


def _memory(system: Path) -> float:
    lines = (system / "proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemTotal:")).split()[1]) / (1 << 20)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def main() -> int:
    try:
        check(paths.run_dir())
        installed = install(checks=sys.argv[1:] == ["--checks"])
    except MachineError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"installed: {' '.join(installed)}" if installed else "all there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
