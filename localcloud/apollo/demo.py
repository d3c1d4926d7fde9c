"""The demo: two small web services as containers, started on the slaves the way an operator would.

The image is busybox and a page: `docker import` of a tar made here, so that nothing is downloaded.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..paths import cache_dir
from .fleet import Fleet, FleetError

IMAGE = "apollo/demo"
PORT = 80
_PREFIX = "demo-"
# Where the image's own answers are: who answered, and from which address the request came.
CLIENT_PATH = "/cgi-bin/client"

_SERVE = """#!/bin/sh
# The first page says who answers, so that a caller sees to which container it came.
address=$(ip -4 -o addr show dev eth0 | awk '{ sub("/.*", "", $4); print $4 }')
echo "$1 on ${HOST_NAME:-a slave}, container address ${address:-unknown}" > /www/index.html
# As the container's first process httpd would not hear SIGTERM.
httpd -f -p 80 -h /www &
trap 'kill $!' TERM
wait
"""
_CLIENT = """#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' "$REMOTE_ADDR"
"""
_APPLETS = ("sh", "ip", "awk", "httpd", "wget", "ping", "nslookup", "timeout", "cat", "printf", "sleep", "echo", "nc")


@dataclass(frozen=True)
class DemoContainer:
    """One container of the demo. name: Docker's and the operator's; service: Consul's."""

    host: str
    name: str
    service: str

    def docker_run(self) -> list[str]:
        """What an operator would type: no -p, no --link; the service's name, its tag and its check as environment."""
        return [
            "docker", "run", "-d", "--restart=always", "--name", self.name, "--hostname", self.name,
            "-e", f"HOST_NAME={self.host}",
            "-e", f"SERVICE_NAME={self.service}", "-e", "SERVICE_TAGS=public",
            "-e", "SERVICE_CHECK_HTTP=/", "-e", "SERVICE_CHECK_INTERVAL=1s",
            IMAGE, self.service,
        ]  # fmt: skip


def containers(slaves: Sequence[str]) -> list[DemoContainer]:
    """`web` on the first two slaves, `api` on the third; on fewer slaves what fits. slaves: host names, lowest slot first."""
    wanted = [DemoContainer(host, f"{_PREFIX}web", "web") for host in slaves[:2]]
    return wanted + [DemoContainer(host, f"{_PREFIX}api", "api") for host in slaves[2:3] or slaves[-1:]]


def start(fleet: Fleet, wanted: Sequence[DemoContainer]) -> None:
    """Starts what does not run yet; what runs stays. Raises FleetError with Docker's own words."""

    def on(host: str) -> None:
        load_image(fleet, host)
        for container in (one for one in wanted if one.host == host):
            if fleet.run(host, ["docker", "inspect", "-f", "{{.State.Running}}", container.name]).returncode == 0:
                fleet.check(host, ["docker", "start", container.name])
            else:
                fleet.check(host, container.docker_run())

    with ThreadPoolExecutor() as pool:
        list(pool.map(on, {container.host for container in wanted}))


def running(fleet: Fleet) -> list[DemoContainer]:
    """The demo's containers where they run now, which scaling may have made another place than `containers` names."""
    found: list[DemoContainer] = []
    for slave in fleet.of("slave"):
        names = fleet.check(slave.name, ["docker", "ps", "--format", "{{.Names}}"]).split()
        found += [DemoContainer(slave.name, name, name.removeprefix(_PREFIX)) for name in names if name.startswith(_PREFIX)]
    return found


def load_image(fleet: Fleet, host: str) -> None:
    """Puts the demo's image into a host's Docker, if it is not there."""
    if fleet.run(host, ["docker", "image", "inspect", IMAGE]).returncode == 0:
        return
    change = [f"--change=EXPOSE {PORT}", '--change=ENTRYPOINT ["/serve"]', '--change=CMD ["web"]']
    fleet.check(host, ["docker", "import", *change, "-", IMAGE], stdin=image_tar())


def busybox() -> Path:
    """A static busybox: this machine's own, or the one in Debian's package, unpacked into the cache and not installed.

    FleetError with apt's words where it cannot be had.
    """
    installed = Path(shutil.which("busybox") or "/bin/busybox")
    # A dynamically linked one names its loader, which the image does not have.
    if installed.exists() and b"/ld-linux" not in installed.read_bytes():
        return installed
    kept = cache_dir() / "tools" / "busybox-static"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="busybox-", dir=kept.parent) as folder:
            for argv in (["apt-get", "-q", "download", "busybox-static"], ["sh", "-c", "dpkg -x busybox-static_*.deb ."]):
                done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
                if done.returncode:
                    words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-3:])
                    raise FleetError(f"the demo's image needs busybox-static, and {argv[0]} could not get it:\n{words}")
            (Path(folder) / "bin" / "busybox").rename(kept)
    return kept


def image_tar() -> bytes:
    """The image's root as a tar. Raises FleetError where no static busybox can be had."""
    binary = busybox()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "proc", "sys", "dev", "www", "www/cgi-bin"):
            _add(tar, folder, mode=0o755, kind=tarfile.DIRTYPE)
        _add(tar, "bin/busybox", binary.read_bytes(), mode=0o755)
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        _add(tar, "serve", _SERVE.encode(), mode=0o755)
        _add(tar, f"www{CLIENT_PATH}", _CLIENT.encode(), mode=0o755)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"", *, mode: int, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, len(content)
    tar.addfile(info, io.BytesIO(content))
