"""Fetches Weave Net's programs and installs them. Needs no Docker, which needs the bridge that these programs build.

WEAVE_FROM in node.env says from where: an image, `registry/name:tag`, with or without `@sha256:…` after it, or the URL of a tar
archive with `@sha256:…` after it. Nothing is installed that is not what its digest says. Files are known by their names.
"""

from __future__ import annotations

import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from host.apollo import images, local

TARGETS = {
    "weaver": Path("/usr/local/bin/weaver"),
    "weaveutil": Path("/usr/local/bin/weaveutil"),
    "weave": Path("/usr/local/lib/weave/weave"),
}
NEEDED = ("weaver", "weaveutil")
# What was installed, so that a later boot fetches nothing.
RECORD = Path("/usr/local/lib/weave/source")
# Seconds: in all, and for other hosts to put the programs into the bucket.
PATIENCE, TURN = 120, 60


def archives(source: str) -> Iterator[IO[bytes]]:
    """The archives that the programs are in, lowest layer first."""
    if "://" in source:
        url, _, digest = source.rpartition("@")
        yield images.piece(digest, lambda: urllib.request.urlopen(url, timeout=images.TIMEOUT), url, TURN)
        return
    pieces = images.Registry(images.Image.parse(source), patience=TURN).pieces()
    next(pieces)
    yield from (layer for _, layer in pieces)


def fetch(source: str) -> dict[str, bytes]:
    """The programs by name. Raises images.Refused, OSError, ValueError or tarfile.TarError."""
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
        raise images.Refused(f"{source} has no {' and no '.join(missing)}")
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
    pinned = "" if "@sha256:" in source else " (a tag, which may mean another image tomorrow; pin it)"
    return f"installed {', '.join(sorted(programs))} from {source}{pinned}"


def main() -> int:
    source, end = local.facts()["WEAVE_FROM"], time.monotonic() + PATIENCE
    while True:
        try:
            print(install(source), flush=True)
            return 0
        except images.Refused as error:
            print(error, flush=True)
        except (OSError, ValueError, KeyError, tarfile.TarError) as error:
            print(f"{source}: {error}", flush=True)
        if time.monotonic() > end:
            return 1
        time.sleep(2)
