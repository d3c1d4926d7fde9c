"""Where the embedded cloud keeps things: one cache for what is slow to make, one run directory per cloud.

APOLLO_CACHE overrides the cache (default: $XDG_CACHE_HOME/apollo or ~/.cache/apollo), APOLLO_RUN_DIR the run directory. A
cloud belongs to one checkout, so that two clones on one machine do not share a state.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """The folder for built tools, virtual environments and root filesystems. Survives `make down`."""
    override = os.environ.get("APOLLO_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "apollo").resolve()


def run_dir() -> Path:
    """The folder of this checkout's clouds: state, work directory, logs, pid files. Gone after `make down`."""
    override = os.environ.get("APOLLO_RUN_DIR")
    if override:
        return Path(override).expanduser().resolve()
    checkout = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:12]
    return cache_dir() / "clouds" / checkout


def cloud_dir(stack: str) -> Path:
    """The folder of one stack's cloud. Two stacks have two clouds, as they have two accounts on AWS."""
    return run_dir() / stack


def write_private(path: Path, text: str) -> None:
    """Writes a file of mode 0600 in one step: a reader sees the old text or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
