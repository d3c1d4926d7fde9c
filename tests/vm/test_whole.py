"""A stack on a disk as Debian's own, without our packages: Mesos wanted, checked by SSH, and its slaves rolled to WireGuard."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from localcloud.apollo import demo
from localcloud.machines.network import ADMIN_ADDRESS
from localcloud.machines.processes import Children
from localcloud.machines.vm_image import ensure_debian_disk
from localcloud.paths import cache_dir
from tests.booted.clients import pid_of, scan
from tests.booted.conftest import Stack
from tests.booted.test_firewall import REACHED, heard
from tests.host.test_firewall import PORTS
from tests.localcloud.support import given
from tests.vm.conftest import HANG, made, said, settled

pytestmark = [pytest.mark.machines]

SLAVES = ("slave-1", "slave-2")
HOSTS = (*SLAVES, "control-1", "edge-1")
SETTINGS = given(("control.count=1", "slaves.count=2", "mesos.source=images"))
# The hosts are up by then, and the program reaches them by SSH.
CHECKED = given((f"admin.allowedCidrs=[{ADMIN_ADDRESS}/32]",))
SWITCHED = (*CHECKED, *given(("overlay.mesh=wireguard", "overlay.switchFrom=vxlan")))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In place of Debian's published image, and in its format."""
    folder = tmp_path_factory.mktemp("image")
    children = Children(folder / "pids")
    try:
        disk = ensure_debian_disk(cache_dir(), children) / "disk.raw"
    finally:
        children.close()
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", disk, folder / "debian.qcow2"], check=True)
    return folder / "debian.qcow2"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Generator[Stack]:
    with made(tmp_path_factory) as stack:
        stack.up("--machines", "vm", "--image", str(image), *SETTINGS, timeout=2 * HANG)
        yield stack


def test_every_way_through_the_network_is_open(whole: Stack) -> None:
    whole.up("--no-demo", *SETTINGS, *CHECKED, timeout=HANG)
    results = whole.checked(patience=1000, timeout=HANG)
    assert [r for r in results if not r["passed"]] == []
    assert len(results) > 30


@pytest.mark.parametrize("host", HOSTS)
def test_a_slave_has_the_control_groups_that_mesos_needs_after_one_reboot(whole: Stack, host: str) -> None:
    slave = host in SLAVES
    assert said(whole, host, "stat", "-fc", "%T", "/sys/fs/cgroup") == ("tmpfs" if slave else "cgroup2fs")
    assert said(whole, host, "sh", "-c", "last reboot | grep -c ^reboot") == ("2" if slave else "1")
    if slave:
        assert said(whole, host, "docker", "info", "-f", "{{.CgroupVersion}}") == "1"
    settled(whole, host)


def test_a_hostile_container_reaches_what_the_documents_list_and_no_credentials(whole: Stack) -> None:
    run = ("--name", "attacker", "--entrypoint", "sleep", demo.IMAGE, "infinity")
    said(whole, "slave-1", "sh", "-c", f"docker start attacker || docker run -d {' '.join(run)}")
    pid = pid_of(whole, "slave-1", "attacker")
    for role, address in (("own", "10.2.0.1"), ("slave", "10.2.0.2"), ("control", "10.2.0.250"), ("edge", "10.2.0.240")):
        assert scan(whole, "slave-1", address, *PORTS, pid=pid, seconds=20) == REACHED[role]
    enter = ("nsenter", "-t", pid, "-n")
    assert whole.run("slave-1", *enter, "curl", "-s", "-m", "20", "http://169.254.169.254/").returncode == 28
    assert heard(whole, lambda *argv: said(whole, "slave-1", *enter, *argv)) == "[]"


def test_slaves_that_are_rolled_to_wireguard_reach_each_other_by_the_kernels_own(whole: Stack) -> None:
    whole.up("--no-demo", *SETTINGS, *SWITCHED, timeout=HANG)
    rolled = whole.cli("ops", *SETTINGS, *SWITCHED, "roll", timeout=2 * HANG)
    assert rolled.returncode == 0, rolled.stdout + rolled.stderr
    for slave, other in (SLAVES, SLAVES[::-1]):
        settled(whole, slave)
        assert "wireguard" in said(whole, slave, "ip", "-d", "link", "show", "dev", "wgweave")
        assert said(whole, slave, "sh", "-c", "pgrep -a wireguard-go || true") == ""
        # 28 bytes are ICMP's and IP's.
        address = f"10.2.0.{other.removeprefix('slave-')}"
        said(whole, slave, "ping", "-n", "-q", "-c", "1", "-w", "60", "-M", "do", "-s", str(8941 - 28), address)


@pytest.mark.parametrize("host", ["slave-2", "control-1"])
def test_a_host_whose_plug_was_pulled_comes_back_with_what_was_on_its_disk(whole: Stack, host: str) -> None:
    said(whole, host, "sh", "-c", "echo kept >/data/kept && sync")
    whole.order("kill", host)
    whole.order("start", host)
    settled(whole, host)
    assert said(whole, host, "cat", "/data/kept") == "kept"
