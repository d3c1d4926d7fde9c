"""consul and consul-template for the hosts: from PATH, from HashiCorp's signed releases, or built from a pinned go.mod."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from ..errors import LocalCloudError
from ..paths import cache_dir
from ..show import say
from ..tools import GO_TOOLS, go_binary, go_build

# The same as in hashicorp.txt of host/files/packages, which the hosts on AWS install.
VERSIONS = {"consul": "1.19.2", "consul-template": "0.41.1"}
_RELEASES = "https://releases.hashicorp.com"
_KEY = "https://www.hashicorp.com/.well-known/pgp-key.txt"
# HashiCorp's release key, as https://www.hashicorp.com/trust/security names it.
_FINGERPRINT = "C874011F0AB405110D02105534365D9472D7468F"
_SECONDS = 5.0


def host_program(name: str) -> Path:
    """The path of a program for the hosts, made first where the cache lacks it.

    LocalCloudError: it is not on PATH in the pinned version, cannot be downloaded, and cannot be built; says why in each case.
    """
    version = VERSIONS[name]
    found = shutil.which(name)
    if found and version in _version(found):
        return Path(found)
    downloaded = cache_dir() / "tools" / f"{name}-{version}" / name
    if downloaded.exists():
        return downloaded
    tried = [f"{name} {version} on PATH: {f'{found} is another version' if found else 'none'}"]
    # Built before: what works here is not asked for over the network again.
    if not go_binary(GO_TOOLS[name]).exists():
        try:
            return _download(name, version, downloaded)
        except LocalCloudError as error:
            tried.append(f"HashiCorp's release: {error}")
    try:
        return go_build(name)
    except LocalCloudError as error:
        tried.append(f"a build with Go: {error}")
    raise LocalCloudError(f"could not get {name}.\n" + "\n".join(f"  {line}" for line in tried))


def _version(binary: str) -> str:
    try:
        done = subprocess.run([binary, "version"], capture_output=True, text=True, timeout=20, check=False)
        older = done if done.returncode == 0 else subprocess.run([binary, "-v"], capture_output=True, text=True, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return older.stdout + older.stderr


def _download(name: str, version: str, target: Path) -> Path:
    """The official release, its checksum and the checksum's signature verified."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if machine is None:
        raise LocalCloudError(f"there is none for {platform.machine()}")
    base = f"{os.environ.get('APOLLO_HASHICORP_RELEASES', _RELEASES)}/{name}/{version}/{name}_{version}"
    sums = _fetch(f"{base}_SHA256SUMS")
    _verify(sums, _fetch(f"{base}_SHA256SUMS.sig"), _fetch(_KEY))
    archive = f"{name}_{version}_linux_{machine}.zip"
    expected = re.search(rf"^([0-9a-f]{{64}})  {re.escape(archive)}$", sums.decode(), re.MULTILINE)
    if expected is None:
        raise LocalCloudError(f"{base}_SHA256SUMS does not name {archive}")
    say(f"downloading {name} {version}, once …")
    content = _fetch(f"{base}_linux_{machine}.zip")
    if hashlib.sha256(content).hexdigest() != expected[1]:
        raise LocalCloudError(f"{archive} does not have the checksum {expected[1]} that HashiCorp signed")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{name}.{os.getpid()}")
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        draft.write_bytes(zipped.read(name))
    draft.chmod(0o755)
    return draft.rename(target)


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            return answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise LocalCloudError(f"{url}: {getattr(error, 'reason', error)}") from None


def _verify(sums: bytes, signature: bytes, key: bytes) -> None:
    """LocalCloudError unless HashiCorp's key, known by its fingerprint, signed the checksums."""
    if shutil.which("gpg") is None:
        raise LocalCloudError("gpg is not installed, so a download cannot be verified; install gpg")
    with tempfile.TemporaryDirectory(prefix="apollo-gpg-") as home:
        files = {"sums": sums, "sig": signature, "key": key}
        for name, content in files.items():
            (Path(home) / name).write_bytes(content)
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--status-fd", "1"]
        subprocess.run([*gpg, "--import", f"{home}/key"], capture_output=True, check=False)
        done = subprocess.run([*gpg, "--verify", f"{home}/sig", f"{home}/sums"], capture_output=True, text=True, check=False)
    valid = [line.split() for line in done.stdout.splitlines() if " VALIDSIG " in line]
    if not any(_FINGERPRINT in (fields[2], fields[-1]) for fields in valid):
        raise LocalCloudError(f"the checksums are not signed by HashiCorp's key {_FINGERPRINT}")
