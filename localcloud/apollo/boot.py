"""What `up` does around the engine when the hosts really boot: the image before it, readiness and the demo after it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..cloud import Cloud
from ..errors import LocalCloudError
from ..machines import prepare
from ..machines.errors import MachineError
from ..machines.image import IMAGES, ensure_image, image_key
from ..machines.network import ADMIN_ADDRESS
from ..machines.orders import binaries
from ..machines.prepare import Kind
from ..machines.processes import Children
from ..machines.relay import listen_on_loopback
from ..machines.security_groups import API, API_PORT
from ..machines.vm_image import DISKS, disk_key, ensure_disk, ensure_furnished_disk, give_disk
from ..paths import cache_dir
from ..processes import wait_until
from ..show import say
from . import check, demo, host_files
from .fleet import fleet, last_words
from .hosts import HostRow

# Where machines reach the cloud's API.
ENDPOINT = f"http://{API}:{API_PORT}"
# Seconds. A host of a baked image needs about twenty; a first-boot installation needs its packages.
# On an emulated processor of a busy machine a boot takes longer than anyone waits; the limit ends what hangs.
READY_SECONDS, EMULATED_SECONDS = 600.0, 7200.0
SWEEP_SECONDS = 20.0
# For an instance to be registered, checked and published by every edge, with a balancer's own checks before several.
PUBLISHED_SECONDS = 180.0


def prepare_machine(
    folder: Path,
    edge_port: int | None,
    files: Path | None = None,
    kind: Kind = "container",
    disk: Path | None = None,
) -> None:
    """Checks that this machine can boot hosts, installs what that needs, and makes their image where the cache lacks it.

    edge_port: of 127.0.0.1, still to be taken; None where a cloud has it already. files: a folder to lay over the hosts'
    roots. kind: what makes the machines. disk: the image of one that virtual machines boot from, instead of ours. What takes
    long comes last, and where something stands against it, nothing is installed.
    LocalCloudError: with every reason at once, and what runs without machines.
    """
    if files is not None:
        host_files.check(files)
    if disk is not None and not disk.is_file():
        raise LocalCloudError(f"--image {disk}: {'is no file' if disk.exists() else 'does not exist'}; give a disk's image")
    prepare.check(folder, kind=kind)
    if edge_port is not None:
        listen_on_loopback(edge_port, "the edge", "--edge-port").close()
    missing = prepare.missing_packages(kind=kind)
    if missing:
        say(f"installing {' '.join(missing)}, once …")
        prepare.install(kind=kind)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    demo.busybox()
    programs = binaries()
    place, ensure, key = (IMAGES, ensure_image, image_key) if kind == "container" else (DISKS, ensure_disk, disk_key)
    image = cache_dir() / place / key(programs)
    if disk is not None or not image.is_dir():
        what = f"{disk} a disk that hosts boot from" if disk else "the hosts' image"
        say(f"making {what}, once (one to three minutes) …")
        started = time.monotonic()
        children = Children(folder / "image-pids")
        try:
            if disk is None:
                ensure(cache_dir(), lambda: programs, children)
            else:
                give_disk(folder, ensure_furnished_disk(cache_dir(), lambda: programs, children, disk))
        finally:
            children.close()
        say(f"  made it in {time.monotonic() - started:.0f} s")
    if files is not None:
        host_files.adopt(folder, files, image)


def sweep(folder: Path) -> None:
    """Ends what machines of an earlier, killed cloud left in this folder's name. Nothing where there were none."""
    if not (folder / "machines.lock").exists():
        return
    from ..machines.driver import MachineDriver

    held: list[MachineError] = []

    def swept() -> bool:
        try:
            MachineDriver.sweep(folder)
        except MachineError as error:
            held[:] = [error]
            return False
        return True

    # A cloud that was just killed may still be on its way out, and holds its lock until it is.
    if not wait_until(swept, SWEEP_SECONDS, 0.2):
        raise held[0]


def admin_config(folder: Path, project: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The stack configuration, plain and secret, that lets the engine check each host over SSH from the admin's network.

    The key pair is this cloud's own, made once.
    """
    key = folder / "admin_key"
    if not key.exists():
        done = subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "admin", "-f", str(key)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalCloudError(f"ssh-keygen failed: {done.stderr.strip()}")
    public = key.with_suffix(".pub").read_text().strip()
    plain = {f"{project}:admin": {"allowedCidrs": [f"{ADMIN_ADDRESS}/32"], "publicKey": public}}
    return plain, {f"{project}:adminPrivateKey": key.read_text()}


def edge_certificate(folder: Path, domain: str) -> str:
    """A key and a certificate that it signed itself, for the domain and the names in it, in PEM. Made once for each cloud."""
    kept = folder / "edge.pem"
    if not kept.exists():
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Apollo on this machine")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain), x509.DNSName(f"*.{domain}")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept.touch(mode=0o600)
        kept.write_bytes(private + certificate.public_bytes(pem))
    return kept.read_text()


def wait_ready(cloud: Cloud, rows: Sequence[HostRow], *, patient: bool = True) -> None:
    """Returns when every host's first boot is through. LocalCloudError with the words of each that failed.

    patient: off, a host that is still at it is no failure; what it said so far is wanted then.
    """
    names = [row.name for row in rows if row.state == "running"]
    seconds = READY_SECONDS if cloud.kind == "container" else EMULATED_SECONDS

    def failure(name: str) -> str:
        answer = cloud.ask("machine", {"order": "ready", "host": name, "seconds": seconds if patient else 0})
        if "failed" not in answer or (not patient and "is not ready after" in answer["failed"]):
            return ""
        return f"{answer['failed']}\n  the console of {name} ends with:\n{last_words(cloud.folder, rows, name)}"

    with ThreadPoolExecutor(max(1, len(names))) as pool:
        failures = [words for words in pool.map(failure, names) if words]
    if failures:
        raise LocalCloudError("\n".join(failures))


def start_demo(cloud: Cloud, rows: Sequence[HostRow], domain: str) -> list[demo.DemoContainer]:
    """Starts the demo's services on the slaves that run, and waits until each instance answers at the edge. domain: its own.

    LocalCloudError: Docker's words, or the service and what the edge says of it.
    """
    hosts = fleet(cloud.folder, rows)
    wanted = demo.containers([row.name for row in hosts.of("slave")])
    if wanted:
        say(f"starting the demo: {', '.join(f'{c.service} on {c.host}' for c in wanted)}")
        demo.start(hosts, wanted)
        # A container that runs is not yet registered, checked and in the edge's configuration.
        await_demo(("127.0.0.1", cloud.edge_port or 0), domain, wanted, PUBLISHED_SECONDS)
    return wanted


def await_demo(edge: tuple[str, int], domain: str, containers: Sequence[demo.DemoContainer], seconds: float) -> None:
    """Returns when each instance has answered at the edge. LocalCloudError: which service has not, and what the edge says."""
    failed = [result for result in check.published(edge, domain, containers, seconds) if not result.passed]
    if failed:
        lines = "".join(f"\n  {result.target}: {result.detail}" for result in failed)
        raise LocalCloudError(
            f"the demo runs, but after {seconds:.0f} s the edge at {edge[0]}:{edge[1]} does not serve all of it:{lines}"
        )
