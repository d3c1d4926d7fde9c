"""The order of a whole boot: our units among those that Debian's packages really bring, without booting."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from host.render import HostFile
from localcloud import paths
from localcloud.machines.image import MASKED, ensure_image
from localcloud.machines.orders import binaries
from localcloud.machines.processes import Children
from tests.host.golden import kinds
from tests.labs import needs_machines

KINDS = kinds()
# In namespaces of its own, so that every mount goes with it. As a host's first boot does, and as Debian's image for EC2 has it:
# cloud-init and systemd-networkd are switched on there by generators, and no unit is masked.
VERIFY = """
mount -t overlay overlay -o "lowerdir=$FILES:$IMAGE,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
cd "$PLACE/root"
mount -t proc proc proc
mount -t tmpfs tmpfs run
for unit in $MASKED; do rm -f "etc/systemd/system/$unit"; done
exec chroot . sh -euc '
    export SYSTEMD_LOG_LEVEL=err
    systemctl add-wants multi-user.target apollo-secrets.service $(cat /etc/apollo/units.d/*)
    systemctl add-wants multi-user.target cloud-init.target systemd-networkd.service
    systemctl add-wants network-online.target systemd-networkd-wait-online.service
    export SYSTEMD_LOG_LEVEL=info
    systemd-analyze verify --man=no --generators=no default.target 2>&1 || true
'
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    needs_machines(tmp_path_factory.getbasetemp(), "the order of a host's units")
    children = Children(tmp_path_factory.mktemp("image"))
    try:
        yield ensure_image(paths.cache_dir(), binaries, children)
    finally:
        children.close()


def verified(image: Path, files: Mapping[str, HostFile], folder: Path) -> str:
    """What systemd says of a host's whole boot. folder: an empty one."""
    for name in ("files", "upper", "work", "root"):
        (folder / name).mkdir()
    for path, file in files.items():
        place = Path(f"{folder}/files{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(file.content)
        place.chmod(file.mode)
    settings = {"FILES": folder / "files", "IMAGE": image, "PLACE": folder, "MASKED": " ".join(MASKED)}
    script = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items()) + VERIFY
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--propagation=slave", "sh", "-euc", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.machines
@pytest.mark.parametrize("kind", KINDS)
def test_the_units_of_a_host_and_of_debians_packages_wait_for_each_other_in_no_circle(
    kind: str, image: Path, tmp_path: Path
) -> None:
    assert "ordering cycle" not in verified(image, KINDS[kind], tmp_path)


@pytest.mark.machines
@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("sysinit.target", "docker.service"),
        ("cloud-init-local.service", "cloud-init.service"),
        ("systemd-networkd.service", "systemd-networkd-wait-online.service"),
    ],
)
def test_a_circle_through_units_of_debians_is_noticed(first: str, last: str, image: Path, tmp_path: Path) -> None:
    files = dict(KINDS["vxlan-baked-slave-1"])
    drop_in = "/etc/systemd/system/networking.service.d/circle.conf"
    files[drop_in] = HostFile(drop_in, 0o644, f"[Unit]\nAfter={last}\nBefore={first}\n", None)
    assert "ordering cycle" in verified(image, files, tmp_path)
