"""What only Debian's own kernel, boot loader and network set-up can show of a host."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from localcloud.apollo import demo
from localcloud.apollo.fleet import FleetError
from tests.booted.conftest import Stack, until
from tests.vm.conftest import HANG, made, said, settled

pytestmark = [pytest.mark.machines]

# Each host's address on the mesh.
HOSTS = {"control-1": "10.2.0.250", "slave-1": "10.2.0.1", "edge-1": "10.2.0.240"}
# Without SSH, whose limits are those of real machines: the tests themselves wait until each host passes its check.
SETTINGS = ("--set", "control.count=1", "--set", "slaves.count=1", "--set", "admin.allowedCidrs=[]")


def up(stack: Stack, *more: str) -> None:
    stack.up("--machines", "vm", "--no-demo", *SETTINGS, *more, timeout=HANG)


@pytest.fixture(scope="module")
def virtual(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """A control node, a slave and an edge, booted once."""
    with made(tmp_path_factory) as stack:
        up(stack)
        yield stack


def start_container(stack: Stack) -> None:
    def started() -> bool:
        with contextlib.suppress(FleetError):
            demo.start(replace(stack.fleet, timeout=HANG), demo.containers(["slave-1"])[:1])
            return True
        return False

    until(started, "the slave runs a container", HANG)


def served(stack: Stack) -> str:
    """The address of the slave's container, which the control node reaches by name and address, and the edge serves."""
    page = said(stack, "control-1", "curl", "-sS", "--fail", "--max-time", "60", "http://web.service.consul/")
    address = page.rpartition(" ")[2]
    assert page == f"web on slave-1, container address {address}"
    assert said(stack, "control-1", "curl", "-sS", "--fail", "--max-time", "60", f"http://{address}/") == page
    until(lambda: stack.curl("web.apollo.test") == page, "the edge serves the container", HANG)
    return address


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_runs_debians_cloud_kernel_with_every_unit_in_order(virtual: Stack, host: str) -> None:
    assert said(virtual, host, "uname", "-r").endswith("-cloud-amd64")
    settled(virtual, host)


def test_the_data_disk_is_an_nvme_with_its_volumes_serial_number(virtual: Stack) -> None:
    source = said(virtual, "slave-1", "findmnt", "-no", "SOURCE", "/data")
    assert source.startswith("/dev/nvme")
    assert said(virtual, "slave-1", "readlink", "-f", "/dev/sdf") == source
    assert said(virtual, "slave-1", "lsblk", "-dno", "SERIAL", source).startswith("vol")


@pytest.mark.parametrize("host", HOSTS)
def test_the_uplink_and_the_mesh_carry_full_packets(virtual: Stack, host: str) -> None:
    assert "mtu 9001" in said(virtual, host, "ip", "link", "show", "dev", "ens5")
    for address in HOSTS.values():
        # 28 bytes are ICMP's and IP's.
        said(virtual, host, "ping", "-n", "-q", "-c", "1", "-w", "60", "-M", "do", "-s", str(8951 - 28), address)


def test_a_container_has_its_slaves_address_and_its_name_on_the_other_hosts(virtual: Stack) -> None:
    start_container(virtual)
    assert ip_address(served(virtual)) in ip_network("10.2.1.0/24")


def test_a_slave_that_reboots_has_its_larger_disk_and_its_container_again(virtual: Stack) -> None:
    def boot() -> str:
        return virtual.run("slave-1", "cat", "/proc/sys/kernel/random/boot_id", timeout=HANG).stdout

    start_container(virtual)
    said(virtual, "slave-1", "sh", "-c", "echo kept >/data/kept && sync")
    before = said(virtual, "slave-1", "cat", "/proc/sys/kernel/random/boot_id")
    up(virtual, "--set", "slaves.dataGib=6")
    rebooted = virtual.cli("reboot", "slave-1", timeout=HANG)
    assert rebooted.returncode == 0, rebooted.stderr
    until(lambda: boot().strip() not in ("", before), "the slave has booted again", HANG)
    settled(virtual, "slave-1")
    # The file system's own tables take a little of it.
    assert 5.5 < int(said(virtual, "slave-1", "findmnt", "-bno", "SIZE", "/data")) / (1 << 30) <= 6
    assert said(virtual, "slave-1", "cat", "/data/kept") == "kept"
    served(virtual)
