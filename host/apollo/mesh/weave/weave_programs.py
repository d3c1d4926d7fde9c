"""Fetches Weave Net's programs and installs them. Needs no Docker, which needs the bridge that these programs build.

WEAVE_FROM in node.env says from where: an image, `registry/name:tag`, with or without `@sha256:…` after it, or the URL of a tar
archive with `@sha256:…` after it. Nothing is installed that is not what its digest says. Files are known by their names.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

TARGETS = {
    "weaver": Path("/usr/local/bin/weaver"),
    "weaveutil": Path("/usr/local/bin/weaveutil"),
    "weave": Path("/usr/local/lib/weave/weave"),
}
NEEDED = ("weaver", "weaveutil")
# What was installed, so that a later boot fetches nothing.
RECORD = Path("/usr/local/lib/weave/source")
MANIFESTS = (
    *("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"),
    *("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"),
)
# Seconds for one request, and in all; bytes of one archive.
TIMEOUT, PATIENCE, MOST = 30, 120, 1 << 28


class Refused(Exception):
    """What was asked for cannot be had, or is not what its digest says. The text names it."""


@dataclass(frozen=True)
class Image:
    """An image in a registry. digest: `sha256:` and 64 hex digits, or empty."""

    registry: str
    name: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Image:
        """Raises Refused for what is no reference. Without a registry it is Docker's hub, as Docker takes it."""
        first, _, rest = text.partition("/")
        full = text if rest and re.search(r"[.:]", first) else f"docker.io/{text}" if rest else f"docker.io/library/{text}"
        match = re.fullmatch(r"([A-Za-z0-9.-]+(?::\d+)?)/([a-z0-9._/-]+?)(?::([\w.-]+))?(?:@(sha256:[0-9a-f]{64}))?", full)
        if not match:
            raise Refused(f"{text} is no image such as docker.io/name/image:tag")
        # Docker's hub answers under another name than the one it goes by.
        registry = "registry-1.docker.io" if match[1] == "docker.io" else match[1]
        return cls(registry, match[2], match[3] or "latest", match[4] or "")


class Registry:
    """Reads manifests and blobs of one image. Every answer that has a digest is checked against it."""

    def __init__(self, image: Image, scheme: str = "https") -> None:
        self._image, self._base, self._token = image, f"{scheme}://{image.registry}/v2/{image.name}", ""

    def digest(self) -> str:
        """The digest that the image's reference stands for now."""
        return self._manifest(self._image.digest or self._image.tag)[0]

    def layers(self) -> Iterator[IO[bytes]]:
        """The image's layers for this machine, lowest first, each an open archive."""
        _, manifest = self._manifest(self._image.digest or self._image.tag)
        if "manifests" in manifest:
            machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
            fitting = [
                entry["digest"]
                for entry in manifest["manifests"]
                if (entry.get("platform", {}).get("os"), entry.get("platform", {}).get("architecture")) == ("linux", machine)
            ]
            if not fitting:
                raise Refused(f"{self._image.name} has no image for linux on {machine}")
            _, manifest = self._manifest(fitting[0])
        for layer in manifest["layers"]:
            with self._open(f"blobs/{layer['digest']}") as answer:
                yield verified(answer, layer["digest"], f"a layer of {self._image.name}")

    def _manifest(self, reference: str) -> tuple[str, Any]:
        with self._open(f"manifests/{reference}", ", ".join(MANIFESTS)) as answer:
            content = answer.read(1 << 22)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if reference.startswith("sha256:") and digest != reference:
            raise Refused(f"the manifest of {self._image.name} is {digest}, not {reference}")
        return digest, json.loads(content)

    def _open(self, path: str, accept: str = "*/*") -> Any:
        request = urllib.request.Request(f"{self._base}/{path}", headers={"Accept": accept})
        if self._token:
            # Not to where a registry sends us for its blobs: that place has its own signature in the address.
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            challenge = error.headers.get("WWW-Authenticate", "")
            if error.code != 401 or self._token or not challenge.startswith("Bearer "):
                raise Refused(f"{self._base}/{path}: {error.code} {error.reason}") from None
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        query = urllib.parse.urlencode({key: fields[key] for key in ("service", "scope") if key in fields})
        with urllib.request.urlopen(f"{fields['realm']}?{query}", timeout=TIMEOUT) as answer:
            given = json.loads(answer.read())
        self._token = given.get("token") or given["access_token"]
        return self._open(path, accept)


def verified(source: Any, digest: str, what: str) -> IO[bytes]:
    """All of source in a file that is gone when closed, from its beginning. Raises Refused where its digest is another."""
    kept = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    seen, size = hashlib.sha256(), 0
    while block := source.read(1 << 20):
        seen.update(block)
        size += len(block)
        if size > MOST:
            raise Refused(f"{what} is larger than {MOST >> 20} MiB")
        kept.write(block)
    if f"sha256:{seen.hexdigest()}" != digest:
        raise Refused(f"{what} is sha256:{seen.hexdigest()}, not {digest}")
    kept.seek(0)
    return kept


def archives(source: str) -> Iterator[IO[bytes]]:
    """The archives that the programs are in, lowest layer first."""
    if "://" not in source:
        yield from Registry(Image.parse(source)).layers()
        return
    url, _, digest = source.rpartition("@")
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        yield verified(answer, digest, url)


def fetch(source: str) -> dict[str, bytes]:
    """The programs by name. Raises Refused, OSError, ValueError or tarfile.TarError."""
    found: dict[str, bytes] = {}
    for archive in archives(source):
        with archive, tarfile.open(fileobj=archive) as members:
            for member in members:
                name = member.name.rpartition("/")[2]
                content = members.extractfile(member) if name in TARGETS and member.isfile() else None
                if content:
                    found[name] = content.read()
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise Refused(f"{source} has no {' and no '.join(missing)}")
    return found


def install(source: str) -> str:
    """Installs what source has, unless that is done, and says what was done."""
    if RECORD.exists() and RECORD.read_text().strip() == source and all(TARGETS[name].exists() for name in NEEDED):
        return "here already"
    if not RECORD.exists() and all(TARGETS[name].exists() for name in NEEDED):
        return "the image's own serve"
    programs = fetch(source)
    # Empty until all is done: programs without a record count as the image's own, for ever.
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text("")
    for name, content in programs.items():
        target = TARGETS[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f"{name}.new")
        new.write_bytes(content)
        new.chmod(0o755)
        new.replace(target)
    RECORD.write_text(f"{source}\n")
    pinned = "" if "@sha256:" in source else " (a tag: what it stands for is whatever the registry said; pin it)"
    return f"installed {', '.join(sorted(programs))} from {source}{pinned}"


def main() -> int:
    from host.apollo import apollo

    source, end = apollo.facts()["WEAVE_FROM"], time.monotonic() + PATIENCE
    while True:
        try:
            print(install(source), flush=True)
            return 0
        except Refused as error:
            print(error, flush=True)
        except (OSError, ValueError, KeyError, tarfile.TarError) as error:
            print(f"{source}: {error}", flush=True)
        if time.monotonic() > end:
            return 1
        time.sleep(2)
