"""Images and archives that hosts fetch, each piece of them by its digest: out of the stack's bucket, where the first hosts put
them, or from where they are published.

So all hosts get the same, a registry counts a few pulls and not one a host, and one that is away stops no host after the first.
The first host of a role asks the registry at once; each of the others gives those before it so many seconds more.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import re
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from host.apollo import local, parameters

MANIFESTS = (
    *("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"),
    *("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"),
)
# Seconds for one request; bytes of one piece, and of a manifest.
TIMEOUT, MOST, MANIFEST = 30, 1 << 31, 4 << 20
# Seconds: how much longer than the one before it a host leaves it to others, and between two looks.
TURN, PAUSE = 5.0, 2.0


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
    """Reads what one image is made of. Every answer that has a digest is checked against it, wherever it comes from.

    patience: seconds that this host gives others at most.
    """

    def __init__(self, image: Image, scheme: str = "https", patience: float = 0.0) -> None:
        self._image, self._base, self._token = image, f"{scheme}://{image.registry}/v2/{image.name}", ""
        self._patience = patience

    def digest(self) -> str:
        """The digest of the image's reference at this moment, from the registry."""
        with self._open(f"manifests/{self._image.digest or self._image.tag}", ", ".join(MANIFESTS)) as answer:
            return f"sha256:{hashlib.sha256(answer.read(MANIFEST)).hexdigest()}"

    def pieces(self) -> Iterator[tuple[str, IO[bytes]]]:
        """(digest, content) of the image's configuration and then of its layers for this machine, lowest first."""
        if not self._image.digest:
            # A tag may mean another image at each request, so what it gives is not shared.
            with self._manifest(self._image.tag) as manifest:
                yield from self._below(manifest, published)
            return
        digest = self._image.digest
        found = kept(digest, self._patience)
        with found or published(digest, lambda: self._manifest(digest), self._what("the manifest")) as manifest:
            yield from self._below(manifest, piece)
            # At the end, so that where it is in the bucket the others are too.
            if found is None:
                _keep(digest, manifest)

    def _below(self, manifest: IO[bytes], get: Getter) -> Iterator[tuple[str, IO[bytes]]]:
        found = json.loads(manifest.read(MANIFEST))
        if "manifests" in found:
            machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
            fitting = [
                entry["digest"]
                for entry in found["manifests"]
                if (entry.get("platform", {}).get("os"), entry.get("platform", {}).get("architecture")) == ("linux", machine)
            ]
            if not fitting:
                raise Refused(f"{self._image.name} has no image for linux on {machine}")
            with get(fitting[0], lambda: self._manifest(fitting[0]), self._what("the manifest")) as content:
                found = json.loads(content.read(MANIFEST))
        for digest in (found["config"]["digest"], *(layer["digest"] for layer in found["layers"])):
            yield digest, get(digest, lambda digest=digest: self._open(f"blobs/{digest}"), self._what("a layer"))

    def _what(self, part: str) -> str:
        return f"{part} of {self._image.name}"

    def _manifest(self, reference: str) -> Any:
        return self._open(f"manifests/{reference}", ", ".join(MANIFESTS))

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


def published(digest: str, source: Callable[[], Any], what: str) -> IO[bytes]:
    """A piece from where it is published. source: opens it. what: it, for people."""
    with source() as answer:
        return verified(answer, digest, what)


def piece(digest: str, source: Callable[[], Any], what: str, patience: float = 0.0) -> IO[bytes]:
    """A piece out of the bucket, else from where it is published, and then put into the bucket."""
    found = kept(digest, patience)
    if found is None:
        found = published(digest, source, what)
        _keep(digest, found)
    return found


# How a piece is had: one of the two above.
Getter = Callable[[str, Callable[[], Any], str], IO[bytes]]


def kept(digest: str, patience: float) -> IO[bytes] | None:
    """The piece that is in the bucket, or that another host puts there in time; None where none is, or one that is not its
    digest. patience: seconds at most."""
    key, end = _key(digest), time.monotonic() + min(TURN * (int(local.facts()["INDEX"]) - 1), patience)
    while True:
        try:
            with parameters.stored(key) as answer:
                return verified(answer, digest, f"{key} of the stack's bucket")
        except Refused as error:
            print(error, flush=True)
            return None
        except parameters.Unavailable:
            # Missing, as a rule. Whatever it is, there is another place.
            if time.monotonic() >= end:
                return None
        time.sleep(PAUSE)


def _keep(digest: str, content: IO[bytes]) -> None:
    try:
        parameters.store(_key(digest), content, digest.removeprefix("sha256:"))
    except parameters.Unavailable as error:
        print(f"other hosts have to fetch it too: {error}", flush=True)
    content.seek(0)


def _key(digest: str) -> str:
    return f"images/{digest.removeprefix('sha256:')}"


def named(source: str) -> str:
    """The name under which Docker has the image: for one by digest one of our own, as `docker load` knows no digests."""
    image = Image.parse(source)
    return f"apollo/{image.name}:{image.digest.removeprefix('sha256:')[:16]}" if image.digest else source


def load(source: str, patience: float) -> None:
    """Gives Docker an image that is named by its digest. Raises Refused, OSError, ValueError or KeyError."""
    with contextlib.ExitStack() as opened:
        pieces = [
            (d.removeprefix("sha256:"), opened.enter_context(c))
            for d, c in Registry(Image.parse(source), patience=patience).pieces()
        ]
        about = {"Config": pieces[0][0], "RepoTags": [named(source)], "Layers": [name for name, _ in pieces[1:]]}
        said = opened.enter_context(tempfile.TemporaryFile())
        docker = subprocess.Popen(["docker", "load", "--quiet"], stdin=subprocess.PIPE, stdout=said, stderr=said)
        # It may end before it has read all.
        with contextlib.suppress(OSError), tarfile.open(fileobj=docker.stdin, mode="w|") as archive:
            _add(archive, "manifest.json", io.BytesIO(json.dumps([about]).encode()))
            # An image may have one layer twice.
            for name, content in dict(pieces).items():
                _add(archive, name, content)
        docker.communicate()
        said.seek(0)
        if docker.returncode:
            raise Refused(f"docker load: {said.read(400).decode(errors='replace').strip()}")


def _add(archive: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    archive.addfile(entry, content)
