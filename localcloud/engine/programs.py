"""The programs that the engine needs: the Pulumi CLI from PATH, the cache, its maker or a build, and what runs it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from ..errors import LocalCloudError
from ..paths import REPOSITORY, cache_dir
from ..show import say
from ..tools import GO_TOOLS, PULUMI_VERSION, go_binary, go_build, locked

_OLDEST_PULUMI = (3, 214, 0)  # the first with replacement triggers
_HERE = Path(__file__).parent
_DOWNLOADS = "https://get.pulumi.com/releases/sdk"


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
from localcloud.engine.programs import pulumi
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


def engine_programs(binary: Path) -> Path:
    """The folder to come first on the PATH of whoever runs the engine: `pulumi` runs the binary where no other user reaches it,
    `pulumi-language-python` is our language host. Both run by this very Python."""
    runs = {
        "pulumi": ("-I", "-S", str(_HERE / "enclosed.py"), str(binary)),
        "pulumi-language-python": (str(_HERE / "language_host.py"),),
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
    with locked(target.parent, "pulumi.lock"):
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
