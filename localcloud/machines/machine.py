"""One instance as a booted machine, whatever makes it: a container (container.py), or a virtual machine (virtual.py)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from localcloud.machines.errors import MachineError
from localcloud.machines.processes import Children
from localcloud.machines.wanted import Disk, Instance

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])|\r")
# How cloud-init 22.4 says that it did not take user-data; it calls the boot a success all the same.
REJECTIONS = re.compile(
    r"Failed loading yaml|Unhandled non-multipart|Failed at merging|Invalid cloud-config|Unhandled unknown content-type"
)


class Machine(ABC):
    """folder: this machine's own, kept while its instance exists. ended: called on a thread of its own when the machine stopped
    by itself, with its process's exit status."""

    # Seconds that an orderly shutdown may take.
    stop_deadline = 30.0
    # The exit status of its process when it asks to be booted again; None for one that reboots within its process.
    reboot_status: int | None = None
    # Seconds between two looks at whether the first boot is through.
    look_interval = 0.2

    def __init__(self, instance: Instance, folder: Path, prefix: str, children: Children, ended: Callable[[int], None]) -> None:
        self.instance = instance
        self.lock = threading.RLock()
        self.failure: str | None = None
        self._folder = folder
        self._prefix = prefix
        self._children = children
        self._ended = ended
        self._process: subprocess.Popen[bytes] | None = None

    # -- what each kind does in its own way

    @abstractmethod
    def start(self, image: Path, disks: Mapping[Disk, Path]) -> None:
        """Boots it from the image, and returns when it runs, with its disks attached. Raises MachineError with the console's
        last lines if it does not get that far."""

    @abstractmethod
    def set_disks(self, disks: Mapping[Disk, Path]) -> None:
        """Makes exactly these volumes attached, each with its block device here, if the machine runs."""

    @abstractmethod
    def command(self, argv: list[str]) -> list[str]:
        """The command line that runs argv inside. Raises MachineError if it is not running."""

    @abstractmethod
    def network(self) -> Path:
        """The network namespace whose loopback is the machine's own. MachineError if it does not run, or has none here."""

    @abstractmethod
    def read(self, path: str) -> str:
        """A file of the running machine. Raises OSError where it cannot be had, MachineError if the machine does not run."""

    @abstractmethod
    def _ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        """Presses the power button, and waits up to stop_deadline."""

    @abstractmethod
    def _unplug_all(self) -> None:
        """Takes away what stands around a process that has ended."""

    # -- what is common to all

    @property
    def console(self) -> Path:
        return self._folder / "console.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def power_off(self) -> None:
        """Shuts it down in order, or after a deadline pulls the plug. On return nothing of it runs; its disk stays."""
        self._end(orderly=True)

    def pull_the_plug(self) -> None:
        """Ends it at once, as a power cut does."""
        self._end(orderly=False)

    def delete(self) -> None:
        """Removes its disk. It must not be running."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def console_tail(self, lines: int) -> str:
        return tail(self.console, lines)

    def check_running(self) -> None:
        """Raises MachineError if it is not running, with the reason where it stopped by itself."""
        if not self.running:
            raise MachineError(f"{self.instance.name} is not running" + (f": {self.failure}" if self.failure else ""))

    def first_boot_finished(self) -> bool:
        """Whether cloud-init is through, this boot. Raises MachineError with cloud-init's own words if it failed."""
        try:
            result = json.loads(self.read("/run/cloud-init/result.json"))["v1"]
        except (OSError, ValueError):
            return False
        problems = [str(error) for error in result.get("errors", [])]
        with contextlib.suppress(OSError):
            boots = self.read("/var/log/cloud-init.log").rpartition("running 'init-local'")[2]
            problems += [line.partition(" - ")[2] for line in boots.splitlines() if REJECTIONS.search(line)]
        if not problems:
            return True
        if any("schema" in problem for problem in problems):
            done = subprocess.run(
                self.command(["cloud-init", "schema", "--system"]), capture_output=True, text=True, check=False
            )
            problems.append((done.stdout + done.stderr).strip())
        with contextlib.suppress(OSError):
            # The last stage runs the host's own commands; what comes before is mostly pictures of keys.
            last_stage = self.read("/var/log/cloud-init-output.log").rpartition("running 'modules:final'")[2]
            problems.append("its output ends with:\n" + "\n".join(last_stage.splitlines()[-20:]))
        raise MachineError(f"{self.instance.name}: cloud-init failed: " + "\n".join(problems))

    def _started(self, process: subprocess.Popen[bytes], **facts: Any) -> None:
        """facts: what entry() needs, kept for the command line, which is another process."""
        self._process = process
        target = self._folder / "machine.json"
        side = target.with_suffix(".new")
        side.write_text(json.dumps({"id": self.instance.id, "name": self.instance.name, **facts}))
        side.rename(target)
        threading.Thread(target=self._watch, args=(process,), name=f"watch-{self.instance.id}", daemon=True).start()

    def _end(self, *, orderly: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if orderly:
            self._ask_to_stop(process)
        process.kill()
        process.wait()
        self._clean(process)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        with self.lock:
            if self._process is not process:
                return
            self._process = None
            if status != self.reboot_status:
                how = f"signal {-status}" if status < 0 else f"exit status {status}" if status else "powered off from inside"
                self.failure = f"the machine ended by itself ({how}); its console:\n{self.console_tail(20)}"
            self._clean(process)
        self._ended(status)

    def _clean(self, process: subprocess.Popen[bytes]) -> None:
        self._children.forget(process)
        (self._folder / "machine.json").unlink(missing_ok=True)
        self._unplug_all()


def entry(facts: Mapping[str, Any], argv: list[str]) -> list[str]:
    """The command line that runs argv as root inside a machine, with a login's environment. facts: of its machine.json; leader
    is a container's init, agent the socket of a virtual machine's."""
    environment = ["env", "-i", f"PATH={PATH}", "HOME=/root", "USER=root", "LANG=C.UTF-8"]
    environment.append(f"TERM={os.environ.get('TERM', 'dumb')}")
    if "agent" in facts:
        guest = str(Path(__file__).with_name("guest.py"))
        return [sys.executable, "-I", "-S", guest, str(facts["agent"]), *environment, *argv]
    spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
    return ["nsenter", f"--target={facts['leader']}", *spaces, "--", *environment, *argv]


def tail(console: Path, lines: int) -> str:
    """The last lines of a console log, as text."""
    try:
        text = console.read_text(errors="replace")
    except FileNotFoundError:
        return "(it printed nothing)"
    return "\n".join(ESCAPES.sub("", text).rstrip().splitlines()[-lines:])
