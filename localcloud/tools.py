"""Builds programs with Go from a pinned go.mod, once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from .errors import LocalCloudError
from .paths import cache_dir
from .processes import supervised
from .show import say

PULUMI_VERSION = "3.250.0"


@dataclass(frozen=True)
class GoTool:
    """A program built from localcloud/tools/<name>/go.mod. usually: how long a first build takes, for the progress line."""

    name: str
    package: str
    ldflags: str
    usually: str

    @property
    def source(self) -> Path:
        return Path(__file__).with_name("tools") / self.name


GO_TOOLS = {
    tool.name: tool
    for tool in (
        GoTool(
            "pulumi",
            "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
            f"-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={PULUMI_VERSION}",
            "about 5 minutes",
        ),
        GoTool(
            "consul",
            "github.com/hashicorp/consul",
            "-s -w -X github.com/hashicorp/consul/version.GitVersion=1.19.2",
            "about 6 minutes",
        ),
        GoTool("consul-template", "github.com/hashicorp/consul-template", "-s -w", "about 10 seconds"),
    )
}


def go_binary(tool: GoTool) -> Path:
    """Where the built program is or would be: the folder's name follows from all that goes into the build."""
    digest = hashlib.sha256()
    for path in (tool.source / "go.mod", tool.source / "go.sum"):
        digest.update(path.read_bytes() if path.exists() else b"")
    digest.update(f"{tool.package} {tool.ldflags} {platform.machine()}".encode())
    return cache_dir() / "tools" / f"{tool.name}-{digest.hexdigest()[:12]}" / "bin" / tool.name


def go_build(name: str) -> Path:
    """The path of a program of GO_TOOLS, built first where the cache does not have it.

    LocalCloudError: no Go, no network for the modules, or a failed build; ends with the build's own last words.
    """
    tool = GO_TOOLS[name]
    binary = go_binary(tool)
    if binary.exists():
        return binary
    go = shutil.which("go") or next((p for p in ("/usr/local/go/bin/go", "/usr/lib/go/bin/go") if Path(p).exists()), None)
    if go is None:
        raise LocalCloudError(f"building {name} needs Go 1.26 or newer, and there is no `go` on PATH")
    with locked(binary.parents[2], f"{name}.lock"):
        if binary.exists():  # another run built it while we waited
            return binary
        for stale in binary.parents[2].glob(f"{name}-*.tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        folder = binary.parents[1]
        work = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
        (work / "bin").mkdir(parents=True)
        try:
            _run_go(go, tool, work)
            shutil.rmtree(folder, ignore_errors=True)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return binary


def _run_go(go: str, tool: GoTool, work: Path) -> None:
    say(f"building {tool.name} with Go, once ({tool.usually}) …")
    log = work / "build.log"
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    argv = [go, "build", "-trimpath", "-ldflags", tool.ldflags, "-o", str(work / "bin" / tool.name), tool.package]
    started = time.monotonic()
    process = supervised(argv, env, tool.source, log)
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            if process.poll() is None:
                say(f"  still building {tool.name}, {time.monotonic() - started:.0f} s so far ({tool.usually})")
    finally:
        process.terminate()
        process.wait()
    if process.returncode != 0:
        words = [line for line in log.read_text(errors="replace").splitlines() if not line.startswith("go: downloading")]
        raise LocalCloudError("go build failed: " + ("\n    ".join(words[-8:]) or f"status {process.returncode}"))
    say(f"  built {tool.name} in {time.monotonic() - started:.0f} s")


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Generator[None]:
    """One maker at a time of what a folder has. Only the file's lock counts, which ends with its holder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
