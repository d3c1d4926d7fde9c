"""What only Debian's own kernel, boot loader and network set-up can show of a host."""

from __future__ import annotations

import pytest

from tests.booted.conftest import Stack, until

HOSTS = ("control-1", "slave-1", "edge-1")
# Seconds: a boot takes six minutes on two busy cores.
BOOT = 1200


def settled(stack: Stack, host: str) -> None:
    """Waits until the host has booted with nothing failed, and passes its check."""
    until(
        lambda: stack.run(host, "systemctl", "is-system-running").stdout.strip() == "running",
        f"{host} runs with no unit failed",
        BOOT,
        lambda: stack.run(host, "sh", "-c", "systemctl --failed --no-legend; systemctl list-jobs --no-legend").stdout,
    )
    until(lambda: stack.run(host, "apollo-check").returncode == 0, f"{host} passes apollo-check", BOOT)
    cycles = stack.out(host, "sh", "-c", "journalctl -b -o cat _PID=1 | grep -i ordering.cycle || true")
    assert cycles == ""


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_runs_debians_cloud_kernel_with_every_unit_in_order(virtual: Stack, host: str) -> None:
    assert virtual.out(host, "uname", "-r").endswith("-cloud-amd64")
    settled(virtual, host)


def test_the_data_disk_is_an_nvme_with_its_volumes_serial_number(virtual: Stack) -> None:
    source = virtual.out("slave-1", "findmnt", "-no", "SOURCE", "/data")
    assert source.startswith("/dev/nvme")
    assert virtual.out("slave-1", "readlink", "-f", "/dev/sdf") == source
    assert virtual.out("slave-1", "lsblk", "-dno", "SERIAL", source).startswith("vol")


@pytest.mark.parametrize("host", HOSTS)
def test_the_uplink_and_the_mesh_carry_full_packets(virtual: Stack, host: str) -> None:
    assert "mtu 9001" in virtual.out(host, "ip", "link", "show", "dev", "ens5")
    for address in {"control-1": "10.2.0.250", "slave-1": "10.2.0.1", "edge-1": "10.2.0.240"}.values():
        # 28 bytes are ICMP's and IP's.
        virtual.out(host, "ping", "-n", "-q", "-c", "1", "-w", "60", "-M", "do", "-s", str(8951 - 28), address)


def test_a_slave_that_reboots_itself_passes_its_check_again(virtual: Stack) -> None:
    def boot() -> str:
        return virtual.run("slave-1", "cat", "/proc/sys/kernel/random/boot_id").stdout

    before = boot()
    virtual.run("slave-1", "systemctl", "reboot")
    until(lambda: boot() not in ("", before), "the slave has booted again", BOOT)
    settled(virtual, "slave-1")
