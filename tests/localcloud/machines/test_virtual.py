"""Virtual machines as far as no machine runs: what QEMU is asked for, and what stands in the disk that they boot from."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localcloud import cli, operations, paths
from localcloud.errors import LocalCloudError
from localcloud.machines import prepare, virtual, vm_image
from localcloud.machines.wanted import Disk
from localcloud.stack.project import read_config

from .test_pure import instance, nic

NIC = nic(33, "sg-1")
INSTANCE = replace(instance(NIC), nics=(NIC, replace(NIC, id="eni-0123456789abcdef1", device_index=1)))
DISK = Disk("vol-0123456789abcdef0", 4, INSTANCE.id, "/dev/sdf")


def asked(kvm: bool = False, /, **disks: Path) -> list[str]:
    volumes = {replace(DISK, device=f"/dev/{name}"): path for name, path in disks.items()}
    return virtual.command_line(INSTANCE, volumes, kvm=kvm)


def values(command: list[str], option: str) -> list[str]:
    return [command[place + 1] for place, word in enumerate(command) if word == option]


def test_no_virtual_machine_opens_kvm_unasked() -> None:
    command = asked(sdf=Path("/dev/loop0"))
    assert [value.partition(",")[0] for value in values(command, "-accel")] == ["tcg"]
    assert "kvm" not in " ".join(command)


def test_who_asks_for_kvm_gets_this_machines_processor_and_nothing_else_is_different() -> None:
    command, emulated = asked(True), asked()
    assert (values(command, "-accel"), values(command, "-cpu")) == (["kvm"], ["host"])
    assert len([word for word, other in zip(command, emulated, strict=True) if word != other]) == 2


def test_kvm_is_refused_where_there_is_none_and_is_not_opened(tmp_path: Path) -> None:
    def refused() -> str:
        with pytest.raises(LocalCloudError) as error:
            # Also for its memory.
            prepare.check(tmp_path, system=tmp_path, kind="kvm")
        return str(error.value)

    for folder in ("dev", "proc"):
        (tmp_path / folder).mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1 kB\n")
    assert "/dev/kvm is not there, or not to be used by this user; leave out --accel kvm" in refused()
    # Whoever opens it waits for ever.
    os.mkfifo(tmp_path / "dev/kvm")
    assert "kvm" not in refused().replace(str(tmp_path), "")


def test_the_firmware_says_that_the_machine_is_one_of_ec2s_nitro() -> None:
    (said,) = values(asked(), "-smbios")
    fields = dict(part.split("=", 1) for part in said.split(","))
    assert fields["manufacturer"] == "Amazon EC2" and fields["product"] == INSTANCE.instance_type
    assert re.fullmatch(r"ec2[0-9a-f]{5}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", fields["uuid"])
    assert fields["serial"] == fields["uuid"]


def test_interfaces_have_their_addresses_and_nitros_names() -> None:
    devices = [value for value in values(asked(), "-device") if value.startswith("virtio-net")]
    assert [device.rpartition(",")[2] for device in devices] == ["addr=0x5", "addr=0x6"]
    assert all(f"mac={NIC.mac}," in device for device in devices)


@pytest.mark.parametrize("letter", "fghijklmnop")
def test_a_volume_is_found_by_its_serial_number_and_by_the_name_it_was_attached_as(letter: str) -> None:
    command = asked(**{f"sd{letter}": Path("/dev/loop0")})
    device: dict[str, Any] = json.loads(values(command, "-device")[-1])
    assert device["serial"] == "vol0123456789abcdef0"
    rules = (vm_image.FILES / "etc/udev/rules.d/71-ebs-of-qemu.rules").read_text()
    slot = int(device["addr"], 16)
    assert re.findall(r'KERNELS=="0000:00:([0-9a-f]{2})\.0", SYMLINK\+="sd' + letter + '"', rules) == [f"{slot:02x}"]


def test_the_boot_loader_starts_the_kernel_from_the_disks_root() -> None:
    assert f"root=PARTUUID={vm_image.ROOT_UUID.lower()}" in (vm_image.FILES / "boot/grub/grub.cfg").read_text()


def test_who_asks_for_no_virtual_machine_gets_nothing_of_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(prepare, "FIRMWARE", Path("/nowhere"))
    more = set(prepare.missing_packages(kind="vm")) - set(prepare.missing_packages())
    assert more == {"qemu-system-x86", "qemu-utils", "ovmf", "dosfstools", "mtools", "fdisk"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"machines": True, "kind": "vm", "host_files": Path()},
            "--host-files and --metrics are for hosts that are containers",
        ),
        ({"machines": True, "kind": "vm", "metrics": 0}, "--host-files and --metrics are for hosts that are containers"),
        ({"machines": True, "kind": "kvm", "metrics": 0}, "--host-files and --metrics are for hosts that are containers"),
        ({"machines": False, "kind": "vm"}, "--machines are for hosts that boot"),
        ({"machines": True, "image": Path()}, "--image is for virtual machines; give --machines vm with it"),
        ({"machines": False, "image": Path()}, "--image is for virtual machines; give --machines vm with it"),
        ({"machines": True, "kind": "vm", "image": Path("none.raw")}, "--image none.raw: does not exist; give a disk's image"),
        ({"machines": True, "kind": "vm", "image": Path("plan")}, "--image plan: is no file; give a disk's image"),
    ],
)
def test_what_virtual_machines_cannot_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("APOLLO_RUN_DIR", str(tmp_path))
    with pytest.raises(LocalCloudError, match=words):
        operations.up(operations.Request("local", **options))


def test_a_cloud_of_virtual_machines_begins_with_fewer_hosts_and_a_setting_of_ones_own_comes_later(tmp_path: Path) -> None:
    of, image = operations.settings_of, operations.Request(image=Path("debian.raw"))
    assert of(operations.Request(), "container") == of(operations.Request("mine"), "vm") == []
    assert of(operations.Request(), "kvm") == ["control.count=1", "slaves.count=2"]
    assert of(image, "kvm") == ["control.count=1", "slaves.count=2", "image.baked=false", "image.name=debian-12-plain-*"]
    assert of(image, "vm") == [*of(image, "kvm"), "admin.allowedCidrs=[]"]
    (tmp_path / operations.SETS).write_text(json.dumps(of(image, "vm")))
    workspace = operations.workspace_of(tmp_path, operations.Request(sets=["slaves.count=3"]))
    found = read_config(workspace.work, "local")
    assert (found["apollo:control"]["count"], found["apollo:slaves"]["count"], found["apollo:image"]["baked"]) == (1, 3, False)
    consumer = paths.REPOSITORY / "examples/consumer"
    other = operations.workspace_of(tmp_path, operations.Request(), program=consumer)
    assert not {"control", "slaves", "image"} & {key.partition(":")[2] for key in read_config(other.work, "local")}


def test_an_accelerator_without_virtual_machines_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "--accel", "kvm"]) == 1
    assert "--accel kvm is for virtual machines; give --machines vm with it" in capsys.readouterr().err
