"""One instance as a booted machine: a systemd container on its own copy of the image, in its own network namespace.

The copy is an overlay, mounted in a mount namespace that only the container's processes share, so that it goes with them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from localcloud.machines import cgroups, volumes
from localcloud.machines.errors import MachineError
from localcloud.machines.namespaces import Namespace
from localcloud.machines.processes import Children
from localcloud.machines.wanted import Disk, Instance
from localcloud.processes import wait_until

# What systemd takes as "power off" (SIGRTMIN+4); the C library's SIGRTMIN.
POWER_OFF = 34 + 4
# nspawn's exit status when the machine asked to be rebooted.
REBOOT_STATUS = 133
# Seconds.
START_DEADLINE = 20.0
STOP_DEADLINE = 30.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])|\r")
# How cloud-init 22.4 says that it did not take user-data; it calls the boot a success all the same.
REJECTIONS = re.compile(
    r"Failed loading yaml|Unhandled non-multipart|Failed at merging|Invalid cloud-config|Unhandled unknown content-type"
)


@dataclass(frozen=True)
class Boot:
    """A running machine. leader: the pid of its init, seen from outside."""

    process: subprocess.Popen[bytes]
    leader: int
    namespace: Namespace


class Machine:
    """folder: this machine's own, kept while its instance exists. plug, unplug: give a namespace its interfaces and take them
    away. ended: called on a thread of its own with nspawn's exit status when the machine stopped by itself.
    files: a folder that is laid over its root all its life."""

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
        self.instance = instance
        self.lock = threading.RLock()
        self.failure: str | None = None
        self.boot: Boot | None = None
        self._folder = folder
        self._prefix = prefix
        self._children = children
        self._plug = plug
        self._unplug = unplug
        self._ended = ended
        self._files = files

    @property
    def console(self) -> Path:
        return self._folder / "console.log"

    @property
    def running(self) -> bool:
        return self.boot is not None and self.boot.process.poll() is None

    @property
    def container_name(self) -> str:
        return f"{self._prefix}-{self.instance.id}"

    def start(self, image: Path) -> None:
        """Boots it and returns when its init runs. Raises MachineError with the console's last lines if it does not get
        that far."""
        self.failure = None
        for name in ("upper", "work", "root", "docker"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        namespace = Namespace(self.container_name, ipv6=True)
        try:
            self._plug(namespace)
            with self.console.open("ab") as output:
                process = self._children.start(
                    self._command(image, namespace), output, {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
                )
        except BaseException:
            self._unplug()
            namespace.delete()
            raise
        leader: list[int] = []

        def up() -> bool:
            leader[:] = _leader(process.pid)
            return bool(leader) or process.poll() is not None

        if not wait_until(up, START_DEADLINE, 0.02) or not leader:
            process.kill()
            process.wait()
            self._children.forget(process)
            cgroups.remove(f"{self._prefix}/{self.instance.id}")
            self._unplug()
            namespace.delete()
            raise MachineError(f"{self.instance.name} did not start; its console:\n{self.console_tail(20)}")
        self.boot = Boot(process, leader[0], namespace)
        self._record(leader[0])
        threading.Thread(target=self._watch, args=(self.boot,), name=f"watch-{self.instance.id}", daemon=True).start()

    def power_off(self) -> None:
        """Shuts it down in order, or after a deadline pulls the plug. On return nothing of it runs; its disk stays."""
        boot, self.boot = self.boot, None
        if boot is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(boot.leader, POWER_OFF)
        try:
            boot.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            boot.process.kill()
            boot.process.wait()
        self._clean(boot)

    def pull_the_plug(self) -> None:
        """Ends it at once, as a power cut does."""
        boot, self.boot = self.boot, None
        if boot is not None:
            boot.process.kill()
            boot.process.wait()
            self._clean(boot)

    def delete(self) -> None:
        """Removes its disk. It must not be running."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def set_disks(self, disks: dict[Disk, Path]) -> None:
        if self.boot and self.running:
            # Powering off meanwhile is no failure: what has stopped needs no devices.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                volumes.plug(self.boot.leader, disks)

    def console_tail(self, lines: int) -> str:
        return tail(self.console, lines)

    def root(self) -> Path:
        """The running machine's root directory. Raises MachineError if it is not running."""
        if self.boot is None or not self.running:
            raise MachineError(f"{self.instance.name} is not running" + (f": {self.failure}" if self.failure else ""))
        return Path(f"/proc/{self.boot.leader}/root")

    def command(self, argv: list[str]) -> list[str]:
        """The command line that runs argv inside. Raises MachineError if it is not running."""
        self.root()
        assert self.boot is not None
        return entry(self.boot.leader, argv)

    def first_boot_finished(self) -> bool:
        """Whether cloud-init is through, this boot. Raises MachineError with cloud-init's own words if it failed."""
        root = self.root()
        try:
            result = json.loads((root / "run/cloud-init/result.json").read_text())["v1"]
        except (OSError, ValueError):
            return False
        problems = [str(error) for error in result.get("errors", [])]
        with contextlib.suppress(OSError):
            log = (root / "var/log/cloud-init.log").read_text(errors="replace")
            boots = log.rpartition("running 'init-local'")[2]
            problems += [line.partition(" - ")[2] for line in boots.splitlines() if REJECTIONS.search(line)]
        if not problems:
            return True
        if any("schema" in problem for problem in problems):
            done = subprocess.run(
                self.command(["cloud-init", "schema", "--system"]), capture_output=True, text=True, check=False
            )
            problems.append((done.stdout + done.stderr).strip())
        with contextlib.suppress(OSError):
            output = (root / "var/log/cloud-init-output.log").read_text(errors="replace")
            # The last stage runs the host's own commands; what comes before is mostly pictures of keys.
            last_stage = output.rpartition("running 'modules:final'")[2]
            problems.append("its output ends with:\n" + "\n".join(last_stage.splitlines()[-20:]))
        raise MachineError(f"{self.instance.name}: cloud-init failed: " + "\n".join(problems))

    def _command(self, image: Path, namespace: Namespace) -> list[str]:
        folder = self._folder
        joins = "".join(f"echo 0 > {shlex.quote(str(f))}; " for f in cgroups.create(f"{self._prefix}/{self.instance.id}"))
        lower = f"{self._files}:{image}" if self._files else image
        options = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
        overlay = f"mount -t overlay overlay -o {shlex.quote(options)} {shlex.quote(str(folder / 'root'))}; "
        nspawn = [
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={folder}/root", f"--machine={self.container_name}"),
            f"--hostname={self.instance.local_hostname}",
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

    def _record(self, leader: int) -> None:
        facts = {"id": self.instance.id, "name": self.instance.name, "leader": leader}
        target = self._folder / "machine.json"
        side = target.with_suffix(".new")
        side.write_text(json.dumps(facts))
        side.rename(target)

    def _watch(self, boot: Boot) -> None:
        status = boot.process.wait()
        with self.lock:
            if self.boot is not boot:
                return
            self.boot = None
            if status != REBOOT_STATUS:
                how = f"signal {-status}" if status < 0 else f"exit status {status}" if status else "powered off from inside"
                self.failure = f"the machine ended by itself ({how}); its console:\n{self.console_tail(20)}"
            self._clean(boot)
        self._ended(status)

    def _clean(self, boot: Boot) -> None:
        self._children.forget(boot.process)
        (self._folder / "machine.json").unlink(missing_ok=True)
        cgroups.remove(f"{self._prefix}/{self.instance.id}")
        # The outer ends first: a namespace goes some time after its deletion, and its ends with it.
        self._unplug()
        boot.namespace.delete()


def entry(leader: int, argv: list[str]) -> list[str]:
    """The command line that runs argv as root inside the machine with this init, with a login's environment."""
    return [
        *("nsenter", f"--target={leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"),
        *("--", "env", "-i", f"PATH={PATH}", "HOME=/root", "USER=root", "LANG=C.UTF-8"),
        *(f"TERM={os.environ.get('TERM', 'dumb')}", *argv),
    ]


def tail(console: Path, lines: int) -> str:
    """The last lines of a console log, as text."""
    try:
        text = console.read_text(errors="replace")
    except FileNotFoundError:
        return "(it printed nothing)"
    return "\n".join(ESCAPES.sub("", text).rstrip().splitlines()[-lines:])


def _leader(nspawn: int) -> list[int]:
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
