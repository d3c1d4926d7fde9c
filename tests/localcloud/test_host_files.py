"""What `up --host-files DIR` takes and refuses, and the copy that it makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from localcloud.apollo import host_files
from localcloud.errors import LocalCloudError
from localcloud.paths import REPOSITORY


def write(path: Path, text: str = "x\n", mode: int = 0o644) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root as Debian has it."""
    root = tmp_path / "image"
    for folder in ("usr/lib", "usr/local/bin", "etc/apollo"):
        (root / folder).mkdir(mode=0o755, parents=True)
    (root / "lib").symlink_to("usr/lib")
    write(root / "usr/bin/true")
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    write(folder / "opt/mesos/sbin/mesos-agent", mode=0o755)
    return folder


def out_of_it(folder: Path) -> None:
    (folder / "opt/mesos/lib").symlink_to("../../../elsewhere")


def to_this_machine(folder: Path) -> None:
    write(folder.parent / "build/libmesos.so")
    (folder / "opt/mesos/lib").symlink_to(folder.parent / "build")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "opt/pipe")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file where hosts have a folder": (lambda at: write(at / "etc"), "etc: a file, and a folder on a host"),
    "a link where hosts have a folder": (
        lambda at: (at / "etc").symlink_to("opt"),
        "etc: a link, and a folder on a host",
    ),
    "a folder where hosts have a file": (
        lambda at: write(at / "usr/bin/true/x"),
        "usr/bin/true: a folder, and on a host a file",
    ),
    "a folder where hosts have a link": (
        lambda at: write(at / "lib/x.so"),
        "lib: a folder, and on a host a link to usr/lib; use that place",
    ),
    "a link that leads out": (out_of_it, "opt/mesos/lib: a link to ../../../elsewhere, which leads out of the folder"),
    "a link to this machine": (to_this_machine, "which leads out of the folder: no host has that"),
    "a pipe": (pipe, "opt/pipe: neither a file, a folder nor a link"),
    "a covered place": (lambda at: write(at / "var/lib/docker/x"), "var/lib/docker: a host has something else mounted there"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_laid_over_a_host_is_refused_by_its_place(source: Path, image: Path, tmp_path: Path, what: str) -> None:
    spoil, words = BAD[what]
    spoil(source)
    with pytest.raises(LocalCloudError) as refused:
        host_files.adopt(tmp_path / "cloud", source, image)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"--host-files {source}:")
    assert not (tmp_path / "cloud").exists()


def test_a_folder_that_is_none_or_has_nothing_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "file")
    (tmp_path / "empty/usr").mkdir(parents=True)
    for name, words in (("none", "does not exist"), ("file", "is a file"), ("empty", "there is no file in it")):
        with pytest.raises(LocalCloudError, match=f"--host-files {tmp_path / name}: {words}"):
            host_files.check(tmp_path / name)


def test_all_problems_come_at_once_and_not_too_many(source: Path) -> None:
    for number in range(20):
        (source / f"link-{number}").symlink_to("../out")
    with pytest.raises(LocalCloudError) as refused:
        host_files.check(source)
    assert len(str(refused.value).splitlines()) == 12
    assert str(refused.value).endswith("and 10 more")


def test_the_copy_has_the_hosts_modes_and_the_folders_files(source: Path, image: Path, tmp_path: Path) -> None:
    write(source / "usr/local/bin/weaver", mode=0o4755)
    (source / "usr/local/bin/weave-status").symlink_to("weaver")
    (source / "opt/true").symlink_to("/usr/bin/true")
    (source / "opt/agent").symlink_to("/opt/mesos/sbin/mesos-agent")
    cloud = tmp_path / "cloud"
    cloud.mkdir()
    assert host_files.current(cloud) is None
    host_files.adopt(cloud, source, image)
    first = host_files.current(cloud)
    assert first is not None
    assert {path: oct((first / path).stat().st_mode & 0o7777) for path in ("", "usr", "opt", "usr/local/bin/weaver")} == {
        "": "0o755", "usr": "0o755", "opt": "0o755", "usr/local/bin/weaver": "0o755",
    }  # fmt: skip
    assert {path.lstat().st_uid for path in first.rglob("*")} == {os.getuid()}
    assert (first / "usr/local/bin/weave-status").readlink() == Path("weaver")
    write(source / "etc/apollo/more")
    host_files.adopt(cloud, source, image)
    second = host_files.current(cloud)
    assert second != first and (second or first).joinpath("etc/apollo/more").exists()
    assert (first / "usr/local/bin/weaver").exists(), "hosts that stand on it keep it"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount what hosts have for a root")
def test_a_hosts_root_has_the_files_and_its_own_and_stays_open_to_all(source: Path, image: Path, tmp_path: Path) -> None:
    write(source / "usr/local/bin/mine", "mine\n", 0o755)
    write(source / "usr/bin/true", "not the image's\n")
    cloud = tmp_path / "cloud"
    cloud.mkdir()
    host_files.adopt(cloud, source, image)
    lower = f"{host_files.current(cloud)}:{image}"
    place = tmp_path / "host"
    place.mkdir()
    script = (
        # Not every file system of a machine may be the upper layer of another; one in memory may.
        f"mount -t tmpfs tmpfs {place}; cd {place}; mkdir upper work root\n"
        f"mount -t overlay overlay -o lowerdir={lower},upperdir={place}/upper,workdir={place}/work {place}/root; cd root\n"
        "stat -c %a . usr usr/local usr/local/bin; cat usr/local/bin/mine usr/bin/true; ls usr; test -L lib"
    )
    done = subprocess.run(["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == ["755"] * 4 + ["mine", "not the image's", "bin", "lib", "local"]


def test_the_command_runs_from_another_folder_and_takes_a_path_as_it_is_meant(tmp_path: Path) -> None:
    (tmp_path / "apollo").symlink_to(REPOSITORY / "apollo")
    argv = ["./apollo", "up", "--host-files", "none"]
    env = {**os.environ, "APOLLO_RUN_DIR": str(tmp_path / "run")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, f"--host-files {tmp_path}/none: does not exist" in done.stderr) == (1, True), done.stderr
