"""The AMI's template: what it uploads is there, and is what the script that it runs reads. Packer itself has never run it.
What the script leaves behind is looked at on the hosts' own image, with the tools in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from localcloud.machines.image import BAKE, PACKAGES, PROVISION, ensure_image
from localcloud.machines.orders import binaries
from localcloud.machines.processes import Children
from localcloud.paths import REPOSITORY, cache_dir
from tests.labs import needs_machines

IMAGE = REPOSITORY / "image"
TEMPLATE = (IMAGE / "apollo.pkr.hcl").read_text()
SCRIPT = BAKE.read_text()


def expanded(text: str) -> str:
    """A string of the template with the folder it stands in, and its own locals, put in."""
    for name, value in re.findall(r'^ {2}(\w+) += "(.*)"$', TEMPLATE, re.MULTILINE):
        text = text.replace(f"${{local.{name}}}", value)
    return text.replace("${path.root}", str(IMAGE))


def sources() -> list[Path]:
    """What the template uploads."""
    listed = re.findall(r"^ +sources? += (.*)$", TEMPLATE.partition('provisioner "file"')[2], re.MULTILINE)
    return [Path(expanded(text)) for line in listed for text in re.findall(r'"(.*?)"', line)]


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that FILES names, after the upload: a source without a slash at its end arrives under its own name."""
    folder = tmp_path_factory.mktemp("files")
    assert re.search(r'^ +destination += "/tmp/"$', TEMPLATE, re.MULTILINE)
    assert "FILES=${FILES:-/tmp}" in SCRIPT
    for source in sources():
        if source.is_dir():
            shutil.copytree(source, folder / source.name)
        else:
            shutil.copy2(source, folder)
    return folder


def read_by_the_script() -> Iterator[str]:
    yield from re.findall(r'"\$FILES(?:"/|/)([\w./*-]+)', SCRIPT)


def test_every_source_of_an_upload_exists() -> None:
    assert [source for source in sources() if not source.exists()] == []
    assert len(sources()) == 2


def test_what_the_script_reads_is_there_after_the_upload(uploaded: Path) -> None:
    wanted = set(read_by_the_script())
    assert wanted == {"provision", "packages", "packages/*.txt"}
    assert [path for path in wanted if not list(uploaded.glob(path))] == []


def test_the_upload_is_what_the_local_image_is_baked_from(uploaded: Path) -> None:
    assert (uploaded / "provision").read_bytes() == PROVISION.read_bytes()
    assert {path.name for path in (uploaded / "packages").iterdir()} == {path.name for path in PACKAGES.iterdir()}


def test_each_role_that_the_template_names_has_its_list(uploaded: Path) -> None:
    roles = re.search(r"^ +default += (\[.*\])$", TEMPLATE.partition('variable "roles"')[2], re.MULTILINE)
    assert roles
    for role in re.findall(r"\w+", roles[1]):
        assert (uploaded / f"packages/{role}.txt").is_file()


def test_nothing_of_the_upload_stays_in_the_image(uploaded: Path) -> None:
    removed = re.search(r"^rm -rf .*$", SCRIPT, re.MULTILINE | re.DOTALL)
    assert removed
    assert [path.name for path in uploaded.iterdir() if f'"$FILES/{path.name}"' not in removed[0]] == []


# What a machine whose uplink is ens5 has cloud-init write, where there is netplan and where there is none.
RENDER = """
import pathlib, sys
from cloudinit.stages import Init
init = Init()
init.read_cfg()
one = {"type": "physical", "name": "ens5", "subnets": [{"type": "dhcp4"}]}
init.distro.apply_network_config({"version": 1, "config": [one]}, bring_up=False)
places = ("etc/netplan/50-cloud-init.yaml", "etc/network/interfaces.d/50-cloud-init")
print(*[place for place in places if pathlib.Path("/", place).exists()])
"""


@pytest.fixture
def builder(uploaded: Path, tmp_path: Path) -> Generator[Path]:
    """The root of a machine that becomes an AMI, before the script's last run: the hosts' image with Packer's key."""
    needs_machines(tmp_path, "the image")
    children = Children(tmp_path / "pids")
    try:
        image = ensure_image(cache_dir(), binaries, children)
    finally:
        children.close()
    root = tmp_path / "root"
    for name in ("work", "root"):
        (tmp_path / name).mkdir()
    # Of its own size: a test folder may be on a file system that an overlay cannot write to.
    mount("-t", "tmpfs", "tmpfs", str(tmp_path / "work"))
    for name in ("upper", "work"):
        (tmp_path / "work" / name).mkdir()
    layers = f"lowerdir={image},upperdir={tmp_path}/work/upper,workdir={tmp_path}/work/work"
    try:
        mount("-t", "overlay", "overlay", "-o", layers, str(root))
        for home in ("root", "home/admin"):
            (root / home / ".ssh").mkdir(parents=True, exist_ok=True)
            (root / home / ".ssh/authorized_keys").write_text("ssh-rsa AAAA packer_1\n")
        (root / "etc/cloud/cloud.cfg.d/90_apollo_renderers.cfg").unlink(missing_ok=True)
        shutil.copytree(uploaded, root / "run/files")
        shutil.copy(BAKE, root / "run/files")
        yield root
    finally:
        for place in ("root", "work"):
            subprocess.run(["umount", str(tmp_path / place)], check=False)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def inside(root: Path, *argv: str) -> str:
    """What a command says in the image, with the /proc and /dev that a machine has. Nothing outlives it."""
    setup = 'mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; exec chroot "$0" "$@"'
    own = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-euc", setup, str(root), *argv)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(own, capture_output=True, text=True, check=False, timeout=120, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.machines
def test_an_image_lets_nobody_in_and_leaves_its_uplink_to_netplan(builder: Path) -> None:
    netplan = builder / "usr/sbin/netplan"
    # As on Debian's AMI, which has it: cloud-init looks for the program only.
    netplan.write_text("#!/bin/sh\n")
    netplan.chmod(0o755)
    assert inside(builder, "python3", "-c", RENDER).split() == ["etc/network/interfaces.d/50-cloud-init"]
    (builder / "etc/network/interfaces.d/50-cloud-init").unlink()
    # The script waits for the first boot's end, and nothing boots here: as a systemd whose cloud-init is off.
    (builder / "run/systemd/system").mkdir(parents=True)
    (builder / "etc/cloud/cloud-init.disabled").touch()
    inside(builder, "env", "FILES=/run/files", f"/run/files/{BAKE.name}", "slave", "control", "edge")
    assert inside(builder, "python3", "-c", RENDER).split() == ["etc/netplan/50-cloud-init.yaml"]
    assert list(builder.glob("*/**/authorized_keys")) == []
    # On Debian's own kernel Docker asks for it before each container; the kernels that the tests run on have no AppArmor.
    assert "AppArmor parser" in inside(builder, "apparmor_parser", "--version")
    assert (builder / "etc/machine-id").read_text() == ""
    # An image without netplan, as the embedded cloud's is.
    netplan.unlink()
    (builder / "etc/netplan/50-cloud-init.yaml").unlink()
    assert inside(builder, "python3", "-c", RENDER).split() == ["etc/network/interfaces.d/50-cloud-init"]
