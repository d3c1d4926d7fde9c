"""An instance as a virtual machine: QEMU with an emulated processor, Debian's own kernel, boot loader and network set-up.

It passes for a machine of EC2's Nitro by what its firmware says, and its disks are NVMe. QEMU's NVMe has no place for the
device name by which EC2 attached a volume, so a volume's PCI slot says it (see the rule of udev in vm_rootfs).
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from localcloud.machines import guest
from localcloud.machines.errors import MachineError
from localcloud.machines.machine import Machine, entry
from localcloud.machines.namespaces import Namespace
from localcloud.machines.prepare import FIRMWARE
from localcloud.machines.processes import Children, run
from localcloud.machines.vm_image import MACHINE_SIZE
from localcloud.machines.wanted import Disk, Instance, Nic
from localcloud.processes import wait_until

VARIABLES = FIRMWARE.with_name("OVMF_VARS_4M.fd")
AGENT, MONITOR, CONSOLE = "agent.sock", "monitor.sock", "console.log"
# MiB.
MEMORY = 1024
# For translated code. With QEMU's 1024 what a machine ran before a reboot makes its firmware take hours for a page of it.
TRANSLATED = 512
# Seconds.
START_DEADLINE = 300.0
ANSWER = 120.0
BUTTON_INTERVAL = 5.0
# An emulated processor takes all it can get: three with this get what one other program does. The kernel may weigh whole
# sessions, and each machine is one.
NICE = 5
# Of the PCI bus. Interfaces follow the first one's: ens5, ens6 as on Nitro.
ROOT_SLOT, NIC_SLOT, SDF_SLOT = 4, 5, 16


class VirtualMachine(Machine):
    """plug: lays the cables of its interfaces, and gives the namespace that they end in. unplug: takes them away."""

    # An emulated processor is slow, and each look takes a little of it.
    stop_deadline = 500.0
    look_interval = 2.0

    def __init__(
        self,
        instance: Instance,
        folder: Path,
        prefix: str,
        children: Children,
        plug: Callable[[], Namespace],
        unplug: Callable[[], None],
        ended: Callable[[int], None],
        *,
        kvm: bool = False,
    ) -> None:
        super().__init__(instance, folder, prefix, children, ended)
        self._plug = plug
        self._unplug = unplug
        self._kvm = kvm
        self._disks: dict[str, Disk] = {}
        self._monitor = threading.Lock()

    def start(self, image: Path, disks: Mapping[Disk, Path]) -> None:
        self.failure = None
        self._folder.mkdir(parents=True, exist_ok=True)
        root = self._folder / "root.qcow2"
        if not root.exists():
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image), "-F", "raw", str(root), f"{MACHINE_SIZE}G"])
            shutil.copy(VARIABLES, self._folder / "firmware.fd")
        for name in (AGENT, MONITOR):
            (self._folder / name).unlink(missing_ok=True)
        try:
            namespace = self._plug()
            # By paths in its own folder, as those of sockets must be short.
            command = namespace.command(command_line(self.instance, disks, kvm=self._kvm))
            way = f"{{ echo {NICE} >/proc/$$/autogroup; }} 2>/dev/null || :; exec nice -n {NICE}"
            line = f"cd {shlex.quote(str(self._folder))}; {way} {shlex.join(command)}"
            with self.console.open("ab") as output:
                process = self._children.start(["sh", "-euc", line], output)
        except BaseException:
            self._unplug_all()
            raise
        self._disks = {disk.id: disk for disk in disks}

        def up() -> bool:
            with contextlib.suppress(MachineError):
                return self._ask("query-status")["running"]
            return process.poll() is not None

        if not wait_until(up, START_DEADLINE, 0.1) or process.poll() is not None:
            process.kill()
            process.wait()
            self._clean(process)
            raise MachineError(f"{self.instance.name} did not start; its console:\n{self.console_tail(20)}")
        self._started(process, agent=str(self._folder / AGENT))

    def set_disks(self, disks: Mapping[Disk, Path]) -> None:
        try:
            if self.running:
                self._change_disks(disks)
        except MachineError:
            # Powering off meanwhile is no failure: what has stopped needs no devices.
            if self.running:
                raise

    def command(self, argv: list[str]) -> list[str]:
        self.check_running()
        return entry({"agent": self._folder / AGENT}, argv)

    def network(self) -> Path:
        self.check_running()
        raise MachineError(f"{self.instance.name} is a virtual machine: its loopback cannot be reached from here")

    def read(self, path: str) -> str:
        self.check_running()
        status, out, err = guest.run(self._folder / AGENT, ["cat", path], seconds=guest.ANSWER)
        if status:
            raise OSError(err.decode(errors="replace").strip())
        return out.decode(errors="replace")

    def _ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.stop_deadline
        while time.monotonic() < deadline:
            # Pressed again, as firmware and boot loader know no button.
            with contextlib.suppress(MachineError):
                self._ask("system_powerdown")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(BUTTON_INTERVAL)
                return

    def _unplug_all(self) -> None:
        self._disks = {}
        self._unplug()

    def _change_disks(self, disks: Mapping[Disk, Path]) -> None:
        # A volume that grows keeps its place; QEMU's NVMe shows the new size at the next start.
        for key in sorted(self._disks.keys() - {disk.id for disk in disks}):
            disk = self._disks.pop(key)
            self._ask("device_del", id=_name(disk))
            # The guest lets go of it first; only then is the file behind it free.
            wait_until(lambda disk=disk: self._freed(disk), ANSWER, 0.2)
        for disk, device in disks.items():
            if disk.id not in self._disks:
                self._ask("blockdev-add", **_backend(disk, device))
                self._ask("device_add", **_device(disk))
                self._disks[disk.id] = disk

    def _freed(self, disk: Disk) -> bool:
        with contextlib.suppress(MachineError):
            self._ask("blockdev-del", **{"node-name": _name(disk)})
            return True
        return False

    def _ask(self, execute: str, **arguments: Any) -> Any:
        """An order to QEMU. Raises MachineError where it does not answer, or refuses."""
        try:
            with self._monitor:
                answer = _order(self._folder / MONITOR, execute, arguments)
        except (OSError, ValueError) as error:
            raise MachineError(f"{self.instance.name}: QEMU does not answer {execute}: {error}") from None
        if "error" in answer:
            raise MachineError(f"{self.instance.name}: QEMU refuses {execute}: {answer['error']['desc']}")
        return answer["return"]


def command_line(instance: Instance, disks: Mapping[Disk, Path], *, kvm: bool) -> list[str]:
    """What starts the machine in its own folder, in the namespace that its cables end in. kvm: where not, the processor is
    emulated (never KVM unasked: where it is not meant to be used, opening it can hang)."""
    # The hypervisor's identity, by which cloud-init and others know EC2.
    identity = "ec2" + str(uuid.uuid5(uuid.NAMESPACE_OID, instance.id))[3:]
    maker = f"type=1,manufacturer=Amazon EC2,product={instance.instance_type},uuid={identity},serial={identity}"
    command = [
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-display", "none", "-M", "pc"),
        *("-accel", "kvm" if kvm else f"tcg,tb-size={TRANSLATED}", "-cpu", "host" if kvm else "max,la57=off,svm=off"),
        *("-smp", "1", "-m", str(MEMORY), "-smbios", maker),
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}"),
        *("-drive", "if=pflash,unit=1,format=raw,file=firmware.fd"),
        *("-blockdev", json.dumps(_layer("root.qcow2"))),
        *("-device", f"nvme,drive=root,serial=root,addr={ROOT_SLOT:#x}"),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={AGENT},server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *("-qmp", f"unix:{MONITOR},server=on,wait=off"),
        *("-chardev", f"file,id=console,path={CONSOLE},append=on", "-serial", "chardev:console"),
    ]
    for nic in instance.nics:
        command += _interface(nic)
    for disk, device in disks.items():
        command += ["-blockdev", json.dumps(_backend(disk, device)), "-device", json.dumps(_device(disk))]
    return command


def _order(monitor: Path, execute: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """QEMU's own answer. Its events come between."""
    with guest.connected(monitor, ANSWER) as talk, talk.makefile("rb") as lines:
        lines.readline()
        answer: dict[str, Any] = {}
        for order, details in (("qmp_capabilities", {}), (execute, arguments)):
            guest.send(talk, order, details)
            answer = {}
            while not {"return", "error"} & set(answer):
                line = lines.readline()
                if not line:
                    raise OSError("QEMU hung up")
                answer = json.loads(line)
    return answer


def _name(disk: Disk) -> str:
    # As EBS's serial number has it.
    return disk.id.replace("-", "")


def _layer(file: str) -> dict[str, Any]:
    backend = {"driver": "file", "filename": file, "discard": "unmap"}
    return {"driver": "qcow2", "node-name": "root", "discard": "unmap", "file": backend}


def _backend(disk: Disk, device: Path) -> dict[str, Any]:
    return {"driver": "host_device", "node-name": _name(disk), "filename": str(device)}


def _device(disk: Disk) -> dict[str, Any]:
    name = _name(disk)
    slot = SDF_SLOT + ord((disk.device or "f")[-1]) - ord("f")
    return {"driver": "nvme", "id": name, "drive": name, "serial": name, "addr": f"{slot:#x}"}


def _interface(nic: Nic) -> list[str]:
    name = f"net{nic.device_index}"
    return [
        *("-netdev", f"tap,id={name},ifname={nic.link},script=no,downscript=no"),
        # No boot from the network, so no program for it.
        *("-device", f"virtio-net-pci,netdev={name},mac={nic.mac},romfile=,addr={NIC_SLOT + nic.device_index:#x}"),
    ]
