"""A Debian repository of what a first boot installs, for hosts that come from an image without it.

It has the layout of Debian's and HashiCorp's own, is signed with a key of its own, and stands on the booted hosts' internet,
so that an installation takes the way it takes on AWS: through the NAT gateway, and only if the groups let it out.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import shutil
import subprocess
from collections.abc import Mapping
from email.utils import formatdate
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from localcloud.machines.namespaces import Namespace
from localcloud.machines.processes import run
from localcloud.machines.serving import HttpServer

ADDRESS = IPv4Address("198.51.100.80")
PORT = 80
KEYRING = "usr/share/keyrings/apollo-local.gpg"
# What HashiCorp's packages bring beside the program: their own unit, user and configuration, which a host's must survive.
_CONFIGURATION = {"consul": "etc/consul.d/consul.hcl", "consul-template": "etc/consul-template.d/consul-template.hcl"}
_POSTINST = """#!/bin/sh
set -e
getent passwd {name} >/dev/null || useradd --system --home-dir /etc/{name}.d --no-create-home --shell /bin/false {name}
"""
_UNIT = "[Unit]\nDescription={name}, as its package has it\n\n[Service]\nExecStart=/usr/bin/{name} --version\n"


def make(folder: Path, debs: Path, programs: Mapping[str, Path], versions: Mapping[str, str], suite: str) -> None:
    """Fills the folder: debian/ from the packages in debs, hashicorp/ from the programs, key.gpg.

    versions: of the programs' packages. Raises MachineError if dpkg-deb or gpg fails.
    """
    home = folder / "gnupg"
    home.mkdir(parents=True, mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
    run([*gpg, "--quick-generate-key", "Packages of the embedded cloud", "ed25519", "sign", "never"])
    run([*gpg, "--output", str(folder / "key.gpg"), "--export"])
    for name, program in programs.items():
        _package(folder / "hashicorp" / "pool", name, versions[name], program)
    pool = folder / "debian" / "pool"
    pool.mkdir(parents=True)
    for deb in sorted(debs.glob("*.deb")):
        shutil.copy2(deb, pool / deb.name)
    for repository in ("debian", "hashicorp"):
        _index(folder / repository, suite, gpg)
    # The agent that gpg started would hold the folder.
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)
    shutil.rmtree(home)


def point_at(root: Path, folder: Path, suite: str) -> None:
    """Makes a root filesystem install from the repository: its sources, its key, and where HashiCorp's is."""
    shutil.copy(folder / "key.gpg", root / KEYRING)
    url = f"http://{ADDRESS}"
    (root / "etc/apt/sources.list").write_text(f"deb [signed-by=/{KEYRING}] {url}/debian {suite} main\n")
    listing = run(["gpg", "--batch", "--with-colons", "--show-keys", str(folder / "key.gpg")])
    fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
    (root / "etc/default/apollo-provision").write_text(
        f"HASHICORP_APT={url}/hashicorp\nHASHICORP_APT_KEY=/{KEYRING}\nHASHICORP_APT_FINGERPRINT={fingerprint}\n"
    )


class MirrorServer(HttpServer):
    """Serves the repository on the hosts' internet."""

    def __init__(self, internet: Namespace, folder: Path) -> None:
        internet.ip([f"address add {ADDRESS}/32 dev lo"])
        super().__init__(internet.listen(str(ADDRESS), PORT), partial(_Quiet, directory=str(folder)), "mirror")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Not logged: an installation makes hundreds of requests."""


def _package(pool: Path, name: str, version: str, program: Path) -> None:
    tree = pool / f".{name}"
    for folder in ("DEBIAN", "usr/bin", "usr/lib/systemd/system"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(program, tree / "usr/bin" / name)
    (tree / "usr/bin" / name).chmod(0o755)
    (tree / "usr/lib/systemd/system" / f"{name}.service").write_text(_UNIT.format(name=name))
    configuration = tree / _CONFIGURATION[name]
    configuration.parent.mkdir(parents=True)
    configuration.write_text("# As the package has it.\n")
    architecture = run(["dpkg", "--print-architecture"]).strip()
    fields = {
        "Package": name,
        "Version": version,
        "Architecture": architecture,
        "Maintainer": "the embedded cloud <root@localhost>",
        "Depends": "passwd",
        "Description": f"{name}, packed for the embedded cloud",
    }
    (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    (tree / "DEBIAN/conffiles").write_text(f"/{_CONFIGURATION[name]}\n")
    (tree / "DEBIAN/postinst").write_text(_POSTINST.format(name=name))
    (tree / "DEBIAN/postinst").chmod(0o755)
    deb = pool / f"{name}_{version}_{architecture}.deb"
    run(["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", "-z1", str(tree), str(deb)], timeout=300)
    shutil.rmtree(tree)


def _index(repository: Path, suite: str, gpg: list[str]) -> None:
    architecture = run(["dpkg", "--print-architecture"]).strip()
    entries = [
        f"{run(['dpkg-deb', '--field', str(deb)]).rstrip()}\n"
        f"Filename: pool/{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {_sha256(deb)}\n"
        for deb in sorted((repository / "pool").glob("*.deb"))
    ]
    dists = repository / "dists" / suite
    index = dists / "main" / f"binary-{architecture}" / "Packages.gz"
    index.parent.mkdir(parents=True)
    # apt asks for the compressed one, and knows both by what Release says.
    text = "\n".join(entries).encode()
    index.write_bytes(gzip.compress(text, mtime=0))
    (index.parent / "Packages").write_bytes(text)
    sums = "".join(
        f" {_sha256(file)} {file.stat().st_size} {file.relative_to(dists)}\n" for file in (index, index.parent / "Packages")
    )
    release = f"Suite: {suite}\nCodename: {suite}\nDate: {formatdate(usegmt=True).replace('GMT', 'UTC')}\n"
    release += f"Architectures: {architecture}\nComponents: main\nSHA256:\n{sums}"
    (dists / "Release").write_text(release)
    run([*gpg, "--output", str(dists / "InRelease"), "--clearsign", str(dists / "Release")])


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
