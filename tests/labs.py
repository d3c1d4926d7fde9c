"""Whether this machine can boot hosts, for every fixture that does."""

from __future__ import annotations

from pathlib import Path

from localcloud.errors import LocalCloudError
from localcloud.machines import prepare
from tests.host.support import left_out


def needs_machines(folder: Path, what: str, kind: prepare.Kind = "container") -> None:
    """Installs what booting hosts takes, as `make up` does. Where this machine can boot none, leaves the test out by name
    (what), and in CI fails. folder: where the hosts' disks will be. kind: what makes the machines."""
    try:
        prepare.check(folder, kind=kind)
        prepare.install(kind=kind)
    except LocalCloudError as error:
        left_out(f"{what}: {error}")
