"""Runs shellcheck over every shell script that git knows of, found by its name or its first line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SHELLS = ("#!/bin/sh", "#!/bin/bash", "#!/usr/bin/env bash", "#!/usr/bin/env sh")


def shell_scripts(root: Path) -> list[str]:
    """Tracked and new files, less the ignored, that a shell runs."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=root, check=True, capture_output=True
    )
    paths = [root / name.decode() for name in listed.stdout.split(b"\0") if name]
    return sorted(str(path.relative_to(root)) for path in paths if path.is_file() and _is_shell(path))


def _is_shell(path: Path) -> bool:
    if path.suffix in (".sh", ".bash"):
        return True
    with path.open("rb") as file:
        return file.readline(64).decode(errors="replace").strip().startswith(SHELLS)


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    scripts = shell_scripts(root)
    if not scripts:
        print("error: no shell script found; is this a git checkout?", file=sys.stderr)
        return 1
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([str(shellcheck), "--external-sources", *scripts], cwd=root, check=False)
    print(f"shellcheck: {len(scripts)} scripts, {'problems found' if done.returncode else 'no problems'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
