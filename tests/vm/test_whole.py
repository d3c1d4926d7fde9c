"""A stack with two slaves on virtual machines, as `up` makes it: checked by SSH, the kernel's own WireGuard, Mesos wanted."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.booted.conftest import Stack
from tests.localcloud.support import given
from tests.vm.conftest import HANG, made, said, settled

pytestmark = [pytest.mark.machines]

HOSTS = ("control-1", "slave-1", "slave-2", "edge-1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    settings = ("control.count=1", "slaves.count=2", "overlay.mesh=wireguard", "mesos.source=images")
    with made(tmp_path_factory) as stack:
        stack.up("--machines", "vm", *given(settings), timeout=HANG)
        yield stack


def test_every_way_through_the_network_is_open(whole: Stack) -> None:
    results = whole.checked(patience=1000, timeout=HANG)
    assert [r for r in results if not r["passed"]] == []
    assert len(results) > 30


@pytest.mark.parametrize("host", HOSTS)
def test_a_slave_has_the_control_groups_that_mesos_needs_after_one_reboot(whole: Stack, host: str) -> None:
    slave = host.startswith("slave")
    assert said(whole, host, "stat", "-fc", "%T", "/sys/fs/cgroup") == ("tmpfs" if slave else "cgroup2fs")
    assert said(whole, host, "sh", "-c", "last reboot | grep -c ^reboot") == ("2" if slave else "1")
    if slave:
        assert said(whole, host, "docker", "info", "-f", "{{.CgroupVersion}}") == "1"


@pytest.mark.parametrize("host", HOSTS)
def test_the_kernel_itself_encrypts(whole: Stack, host: str) -> None:
    assert "wireguard" in said(whole, host, "ip", "-d", "link", "show", "dev", "wgweave")
    assert said(whole, host, "sh", "-c", "pgrep -a wireguard-go || true") == ""
    settled(whole, host)


@pytest.mark.parametrize("host", ["slave-2", "control-1"])
def test_a_host_whose_plug_was_pulled_comes_back_with_what_was_on_its_disk(whole: Stack, host: str) -> None:
    said(whole, host, "sh", "-c", "echo kept >/data/kept && sync")
    whole.order("kill", host)
    whole.order("start", host)
    settled(whole, host)
    assert said(whole, host, "cat", "/data/kept") == "kept"
