"""Whether a host says in time that a file system fills up. The file systems are real, and really filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from host.apollo import check
from tests.host.support import USERDATA, left_out, needs

MIB = 1 << 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """An empty file system of 20 MiB and 200 inodes, and the only one that is looked at."""
    folder = tmp_path / "data"
    folder.mkdir()
    options = "size=20m,nr_inodes=200"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        left_out(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    monkeypatch.setattr(check, "FILE_SYSTEMS", ("/", str(folder)))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def said(place: Path) -> tuple[str, str]:
    """(ok, warning or failed, what the check says of the file system)"""
    try:
        result, text = "ok", str(check.disks({}))
    except check.Warned as warning:
        result, text = "warning", str(warning)
    except check.Failed as failed:
        result, text = "failed", str(failed)
    return result, "; ".join(part for part in text.split("; ") if str(place) in part)


def fill(place: Path, mib: int) -> None:
    with (place / "file").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, mib * MIB)


@pytest.mark.parametrize(("mib", "result"), [(0, "ok"), (16, "ok"), (18, "warning"), (20, "failed")])
def test_bytes_are_counted_and_named_before_they_are_used_up(place: Path, mib: int, result: str) -> None:
    if mib:
        fill(place, mib)
    found, text = said(place)
    assert found == result
    assert f"{place} has 0.0 of 0.0 GiB free, {5 * (20 - mib)} %" in text


@pytest.mark.parametrize(("files", "result"), [(100, "ok"), (180, "warning"), (195, "failed")])
def test_inodes_are_counted_and_named_before_they_are_used_up(place: Path, files: int, result: str) -> None:
    for number in range(files):
        (place / f"{number}").touch()
    found, text = said(place)
    assert found == result
    left = 200 - 1 - files  # the folder itself has one
    assert f"{place} has {left} of 200 inodes free, {100 * left / 200:.0f} %" in text


def test_a_read_only_file_system_fails(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with pytest.raises(check.Failed, match=f"{place} is read-only"):
        check.disks({})


def test_a_large_disk_is_judged_by_what_is_left_and_not_by_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(free: int) -> Any:
        """A TiB with so many GiB free, in blocks of a GiB."""
        return os.statvfs_result((1 << 30, 1 << 30, 1024, free, free, 0, 0, 0, 0, 255))

    monkeypatch.setattr(check, "FILE_SYSTEMS", ("/",))
    for free, result in ((40, "ok"), (19, "warning"), (4, "failed")):
        monkeypatch.setattr(check.os, "statvfs", lambda _, free=free: of(free))
        assert said(Path("/ has"))[0] == result


# The script that mounts the data volume, on a real block device, in a root of its own where no other disk is.

ROOT = """
set -eu
mount -t tmpfs tmpfs "$1" && cd "$1"
mkdir -p usr proc sys dev etc/apollo data run tmp
mount --bind /usr usr && mount --bind /proc proc && mount --bind /sys sys
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
[ ! -e /etc/alternatives ] || { mkdir etc/alternatives && mount --bind /etc/alternatives etc/alternatives; }
ln -s /proc/self/fd dev/fd && mknod dev/null c 1 3 && mknod dev/sdf b "$3" "$4"
printf 'DATA_DEVICE="/dev/sdf"\\n' > etc/apollo/node.env
cp "$2" tmp/data-volume
host() { chroot . "$@"; }
size() { host df --output=size -BM /data | tail -1; }
host /tmp/data-volume && echo kept > data/file && size
truncate -s 200M "$5" && losetup --set-capacity "$6"
"""
GROW = {
    "while it is mounted": "host /tmp/data-volume grow && size && host /tmp/data-volume grow && cat data/file",
    "at the next mount": "umount data && host /tmp/data-volume && size && cat data/file",
}
# Linux's number of CAP_SYS_RESOURCE.
RESOURCE = 24


@pytest.mark.parametrize("when", GROW)
def test_a_file_system_grows_with_its_disk(tmp_path: Path, when: str) -> None:
    needs("resize2fs", "e2fsprogs")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if when == "while it is mounted" and not int(status["CapEff"], 16) >> RESOURCE & 1:
        # In CI too: a container may not have it. There growing at the next mount, the other case, is what is proved.
        pytest.skip("a mounted file system grows only for who has CAP_SYS_RESOURCE, which is taken from this machine")
    image, script = tmp_path / "disk.img", USERDATA / "rootfs/usr/local/lib/apollo/data-volume"
    with image.open("wb") as file:
        file.truncate(100 * MIB)
    attached = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False)
    if attached.returncode:
        left_out(f"no loop device can be had here: {attached.stderr.strip()}")
    loop = attached.stdout.strip()
    try:
        root = tmp_path / "root"
        root.mkdir()
        number = Path(loop).stat().st_rdev
        arguments = [str(root), str(script), str(os.major(number)), str(os.minor(number)), str(image), loop]
        argv = ["unshare", "--mount", "--propagation=private", "bash", "-c", ROOT + GROW[when], "bash", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
    before, *rest, kept = done.stdout.split("\n")[:-1]
    assert int(before.strip().removesuffix("M")) < 100
    assert kept == "kept"
    (after,) = [line for line in rest if line.strip().endswith("M")]
    assert int(after.strip().removesuffix("M")) > 180
