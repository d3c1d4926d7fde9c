"""An instance as a systemd container on its own copy of the image, in its own network namespace.

The copy is an overlay, mounted in a mount namespace that only the container's processes share, so that it goes with them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from localcloud.machines import cgroups, volumes
from localcloud.machines.errors import MachineError
from localcloud.machines.machine import Machine, entry
from localcloud.machines.namespaces import Namespace
from localcloud.machines.processes import Children
from localcloud.machines.wanted import Disk, Instance
from localcloud.processes import wait_until

# What systemd takes as "power off" (SIGRTMIN+4); the C library's SIGRTMIN.
POWER_OFF = 34 + 4
# Seconds.
START_DEADLINE = 20.0


class Container(Machine):
    """plug, unplug: give a namespace its interfaces and take them away. files: a folder that is laid over its root all its
    life."""

    reboot_status = 133

    def __init__(
        self,
        instance: Instance,
        folder: Path,
        prefix: str,
        children: Children,
        plug: Callable[[Namespace], None],
        unplug: Callable[[], None],
        ended: Callable[[int], None],
        files: Path | None = None,
    ) -> None:
        super().__init__(instance, folder, prefix, children, ended)
        self._leader = 0
        self._namespace: Namespace | None = None
        self._plug = plug
        self._unplug = unplug
        self._files = files

    @property
    def container_name(self) -> str:
        return f"{self._prefix}-{self.instance.id}"

    def start(self, image: Path, disks: Mapping[Disk, Path]) -> None:
        self.failure = None
        for name in ("upper", "work", "root", "docker"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._namespace = Namespace(self.container_name, ipv6=True)
        try:
            self._plug(self._namespace)
            with self.console.open("ab") as output:
                process = self._children.start(
                    self._command(image, self._namespace), output, {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
                )
        except BaseException:
            self._unplug_all()
            raise
        leader: list[int] = []

        def up() -> bool:
            leader[:] = _init_below(process.pid)
            return bool(leader) or process.poll() is not None

        if not wait_until(up, START_DEADLINE, 0.02) or not leader:
            process.kill()
            process.wait()
            self._clean(process)
            raise MachineError(f"{self.instance.name} did not start; its console:\n{self.console_tail(20)}")
        self._leader = leader[0]
        self._started(process, leader=self._leader)
        self.set_disks(disks)

    def set_disks(self, disks: Mapping[Disk, Path]) -> None:
        if self.running:
            # Powering off meanwhile is no failure: what has stopped needs no devices.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                volumes.plug(self._leader, disks)

    def command(self, argv: list[str]) -> list[str]:
        self.check_running()
        return entry({"leader": self._leader}, argv)

    def network(self) -> Path:
        self.check_running()
        return Path(f"/proc/{self._leader}/ns/net")

    def read(self, path: str) -> str:
        self.check_running()
        return Path(f"/proc/{self._leader}/root{path}").read_text(errors="replace")

    def _ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leader, POWER_OFF)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.stop_deadline)

    def _unplug_all(self) -> None:
        cgroups.remove(f"{self._prefix}/{self.instance.id}")
        # The outer ends first: a namespace goes some time after its deletion, and its ends with it.
        self._unplug()
        if self._namespace:
            self._namespace.delete()

    def _command(self, image: Path, namespace: Namespace) -> list[str]:
        folder = self._folder
        joins = "".join(f"echo 0 > {shlex.quote(str(f))}; " for f in cgroups.create(f"{self._prefix}/{self.instance.id}"))
        lower = f"{self._files}:{image}" if self._files else image
        options = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
        overlay = f"mount -t overlay overlay -o {shlex.quote(options)} {shlex.quote(str(folder / 'root'))}; "
        nspawn = [
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={folder}/root", f"--machine={self.container_name}"),
            f"--hostname={self.instance.primary.hostname}",
            f"--network-namespace-path={namespace.path}",
            # No machine manager and no host journal: this also runs where systemd is not the init.
            *("--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            # What dockerd and the kernel's key ring need inside.
            *("--capability=all", "--system-call-filter=@keyring bpf"),
            # Docker's images cannot be layers upon a layer, so this is a folder of the real disk.
            f"--bind={folder}/docker:/var/lib/docker",
            "--console=read-only",
        ]
        # nspawn leaves lock files behind when it is killed; here they end with the mount namespace.
        locks = "mkdir -p /run/systemd/nspawn; mount -t tmpfs tmpfs /run/systemd/nspawn; "
        return [
            # nspawn is the init of a process namespace: when it dies, however it dies, the kernel ends all that is in it.
            *("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--mount", "--propagation", "slave"),
            *("--", "sh", "-euc", f"{joins}{overlay}{locks}exec {shlex.join(nspawn)}"),
        ]


def _init_below(nspawn: int) -> list[int]:
    """The pid of the init below this nspawn, once it is systemd; nothing before."""
    for pid in _descendants(nspawn):
        with contextlib.suppress(OSError, StopIteration, IndexError):
            status = Path(f"/proc/{pid}/status").read_text()
            inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(inner) > 1 and inner[-1] == "1" and re.match(r"Name:\t(systemd|init)\n", status):
                return [pid]
    return []


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found
