"""Gets the programs that we run: from PATH, from the cache, from their makers, or built from a pinned go.mod."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from .errors import LocalCloudError
from .paths import REPOSITORY, cache_dir
from .processes import supervised
from .show import say

PULUMI_VERSION = "3.250.0"
_OLDEST_PULUMI = (3, 214, 0)  # the first with replacement triggers
_HERE = Path(__file__).parent
_DOWNLOADS = "https://get.pulumi.com/releases/sdk"


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


def pulumi() -> Path:
    """The engine: pulumi from PATH where it is new enough, else cached, downloaded or built.

    LocalCloudError: none of these worked; says what failed in each.
    """
    if there := _pulumi_at_hand():
        return there
    found = shutil.which("pulumi")
    tried = [f"pulumi on PATH: {'none' if not found else f'{found} is older than 3.214'}"]
    try:
        return _download()
    except LocalCloudError as error:
        tried.append(f"the official download: {error}")
    try:
        return go_build("pulumi")
    except LocalCloudError as error:
        tried.append(f"a build with Go: {error}")
    raise LocalCloudError("could not get the Pulumi CLI.\n" + "\n".join(f"  {line}" for line in tried))


def _pulumi_at_hand() -> Path | None:
    found = shutil.which("pulumi")
    if found and (version := _version(found)) and version >= _OLDEST_PULUMI:
        return Path(found)
    return next((cached for cached in (_downloaded(), go_binary(GO_TOOLS["pulumi"])) if cached.exists()), None)


_BESIDE = """
from contextlib import suppress
from localcloud.errors import LocalCloudError
from localcloud.processes import die_with_parent
from localcloud.tools import pulumi
die_with_parent()
with suppress(LocalCloudError):
    pulumi()
"""


@contextlib.contextmanager
def pulumi_beside() -> Generator[None]:
    """Where the engine is still to be made, begins with it beside what the caller does meanwhile, and waits for it at the end.

    What fails is left to `pulumi()`, which says so. An exception, Ctrl-C too, ends it at once.
    """
    if _pulumi_at_hand():
        yield
        return
    # A process, as a thread could not be stopped.
    process = subprocess.Popen(
        [sys.executable, "-c", _BESIDE], cwd=REPOSITORY, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
        process.wait()
    finally:
        process.terminate()
        process.wait()


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
    with _locked(binary.parents[2], f"{name}.lock"):
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


def engine_programs(binary: Path) -> Path:
    """The folder to come first on the PATH of whoever runs the engine: `pulumi` runs the binary where no other user reaches it,
    `pulumi-language-python` is our language host. Both run by this very Python."""
    runs = {
        "pulumi": ("-I", "-S", str(_HERE / "engine" / "enclosed.py"), str(binary)),
        "pulumi-language-python": (str(_HERE / "engine" / "language_host.py"),),
    }
    texts = {name: f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n' for name, words in runs.items()}
    folder = cache_dir() / "tools" / f"engine-{hashlib.sha256(repr(texts).encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if not (folder / name).exists():
            draft = folder / f".{name}-{os.getpid()}"
            draft.write_text(text)
            draft.chmod(0o755)
            draft.rename(folder / name)
    return folder


def _version(binary: str) -> tuple[int, ...] | None:
    """A CLI's version, or None where it does not say."""
    env = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        said = subprocess.run([binary, "version"], capture_output=True, text=True, timeout=20, env=env, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v?(\d+)\.(\d+)\.(\d+)", said)
    return tuple(int(part) for part in found.groups()) if found else None


def _downloaded() -> Path:
    return cache_dir() / "tools" / f"pulumi-{PULUMI_VERSION}" / "pulumi" / "pulumi"


def _download() -> Path:
    """The official release, unpacked into the cache. LocalCloudError with the reason, soon, where it cannot be had."""
    import tarfile
    import urllib.error
    import urllib.request

    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine())
    if machine is None:
        raise LocalCloudError(f"there is none for {platform.machine()}")
    url = f"{os.environ.get('APOLLO_PULUMI_DOWNLOADS', _DOWNLOADS)}/pulumi-v{PULUMI_VERSION}-linux-{machine}.tar.gz"
    target = _downloaded().parents[1]
    work = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    with _locked(target.parent, "pulumi.lock"):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                say(f"downloading the Pulumi CLI {PULUMI_VERSION}, once (about 100 MB) …")
                with tarfile.open(fileobj=answer, mode="r|gz") as archive:
                    archive.extractall(work, filter="data")
            shutil.rmtree(target, ignore_errors=True)
            work.rename(target)
        except (OSError, tarfile.TarError, urllib.error.URLError) as error:
            raise LocalCloudError(f"{url}: {getattr(error, 'reason', error)}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _downloaded()


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Generator[None]:
    """One builder at a time. Only the file's lock counts, which ends with its holder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
