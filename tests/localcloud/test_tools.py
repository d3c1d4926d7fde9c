"""Getting the programs: what comes first, what is tried next, and what is said when nothing works."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from localcloud import tools
from localcloud.engine import programs
from localcloud.errors import LocalCloudError
from localcloud.tools import GO_TOOLS, GoTool, go_binary
from tests.host.support import served, stand_in, until

MAIN = 'package main\n\nimport "fmt"\n\nvar said = "nothing"\n\nfunc main() { fmt.Println(said) }\n'


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cold cache, an empty PATH, and no network."""
    monkeypatch.setenv("APOLLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("APOLLO_PULUMI_DOWNLOADS", "http://127.0.0.1:1")
    (tmp_path / "bin").mkdir()


def test_nothing_at_hand_and_no_network_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "go_build", lambda name: (_ for _ in ()).throw(LocalCloudError(f"no Go for {name}")))  # pyright: ignore
    with pytest.raises(LocalCloudError) as caught:
        programs.pulumi()
    message = str(caught.value)
    assert "pulumi on PATH: none" in message
    assert "the official download: http://127.0.0.1:1/pulumi-v3.250.0-linux-" in message and "refused" in message
    assert "a build with Go: no Go for pulumi" in message


def test_a_pulumi_on_path_is_taken_and_one_too_old_is_not(tmp_path: Path) -> None:
    binary = stand_in(tmp_path / "bin" / "pulumi", "echo v3.250.0")
    assert programs.pulumi() == binary
    stand_in(binary, "echo v3.100.0")
    cached = stand_in(go_binary(GO_TOOLS["pulumi"]), "echo built")
    assert programs.pulumi() == cached, "a warm cache needs neither PATH nor network"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder offered over HTTP as the place of the official downloads."""
    folder = tmp_path / "offered"
    folder.mkdir()
    with served(partial(SimpleHTTPRequestHandler, directory=str(folder))) as place:
        monkeypatch.setenv("APOLLO_PULUMI_DOWNLOADS", f"http://{place}")
        yield folder


def offer(folder: Path, content: bytes, cut: int | None = None) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        entry = tarfile.TarInfo("pulumi/pulumi")
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    for machine in ("x64", "arm64"):
        (folder / f"pulumi-v3.250.0-linux-{machine}.tar.gz").write_bytes(held.getvalue()[:cut])


def test_the_official_download_lands_in_the_cache(server: Path) -> None:
    offer(server, b"#!/bin/sh\necho downloaded\n")
    found = programs.pulumi()
    assert found.read_bytes().endswith(b"downloaded\n")
    shutil.rmtree(server)
    assert programs.pulumi() == found


def test_a_download_cut_off_leaves_nothing_behind(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "go_build", lambda name: stand_in(tmp_path / "built" / name, ""))  # pyright: ignore
    offer(server, bytes(range(256)) * 400, cut=300)
    assert programs.pulumi() == tmp_path / "built" / "pulumi", "the next way is taken"
    assert [p.name for p in (tmp_path / "cache" / "tools").iterdir()] == ["pulumi.lock"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small Go program in place of a big one, built by the real Go."""
    if not (shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin:/usr/bin")):
        pytest.skip("there is no Go on this machine: building was not tried")
    source = tmp_path / "sources" / "small"
    source.mkdir(parents=True)
    (source / "go.mod").write_text("module example/small\n\ngo 1.20\n")
    (source / "main.go").write_text(MAIN)

    class Small(GoTool):
        @property
        def source(self) -> Path:
            return source

    monkeypatch.setitem(GO_TOOLS, "small", Small("small", ".", "-X main.said=hello", "a second"))
    monkeypatch.setenv("PATH", "/usr/local/go/bin:/usr/lib/go/bin:/usr/bin:/bin")
    yield source


def test_a_build_is_made_once_and_again_when_its_inputs_change(module: Path, tmp_path: Path) -> None:
    built = tools.go_build("small")
    assert subprocess.run([built], capture_output=True, text=True, check=True).stdout == "hello\n"
    (tmp_path / "cache" / "tools" / f"{built.parents[1].name}.tmp-1").mkdir()
    (module / "main.go").unlink()
    assert tools.go_build("small") == built, "a warm cache needs no compiler"
    (module / "main.go").write_text(MAIN)
    GO_TOOLS["small"] = replace(GO_TOOLS["small"], ldflags="-X main.said=other")
    other = tools.go_build("small")
    assert other != built
    assert subprocess.run([other], capture_output=True, text=True, check=True).stdout == "other\n"
    assert not list((tmp_path / "cache" / "tools").glob("*.tmp-*")), "what a cut-off build left is swept"


def test_a_build_that_fails_ends_with_the_compilers_words(module: Path, tmp_path: Path) -> None:
    (module / "main.go").write_text("package main\n\nfunc main() { undefinedThing() }\n")
    with pytest.raises(LocalCloudError, match="undefined: undefinedThing"):
        tools.go_build("small")
    assert [p.name for p in (tmp_path / "cache" / "tools").iterdir()] == ["small.lock"]


def test_the_engine_is_made_beside_other_work_and_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A compiler that goes on until it is let, in place of one that takes five minutes.
    gate, pids = tmp_path / "gate", tmp_path / "pids"
    stand_in(
        tmp_path / "bin" / "go", f'echo $$ >> {pids}; while [ ! -e {gate} ]; do sleep 0.05; done; echo >"$6"; chmod 755 "$6"'
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    built = go_binary(GO_TOOLS["pulumi"])

    with pytest.raises(KeyboardInterrupt), programs.pulumi_beside():
        until(lambda: pids.exists() and pids.read_text() != "", "the build under way")
        raise KeyboardInterrupt
    pid = pids.read_text().split()[0]
    until(lambda: not Path(f"/proc/{pid}").exists(), "its end")
    assert not built.exists()

    with programs.pulumi_beside():
        until(lambda: len(pids.read_text().split()) == 2, "the second build under way")
        gate.touch()
    assert built.exists(), "it waits for the build at the end"
    with programs.pulumi_beside():
        pass
    assert len(pids.read_text().split()) == 2, "what is there is not made again"


def test_the_engine_and_the_language_host_are_run_by_this_very_python() -> None:
    folder = programs.engine_programs(Path("/bin/true"))
    for name in ("pulumi", "pulumi-language-python"):
        assert sys.executable in (folder / name).read_text()
    assert programs.engine_programs(Path("/bin/true")) == folder != programs.engine_programs(Path("/bin/false"))


def test_the_language_host_ends_with_its_engine_however_that_ended() -> None:
    host = programs.engine_programs(Path("/bin/true")) / "pulumi-language-python"
    # The shell stands for an engine: it is killed once its host serves.
    script = f"'{host}' 127.0.0.1:1 & echo $!; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout
        pid, port = int(engine.stdout.readline()), int(engine.stdout.readline())
        assert port > 0
        engine.kill()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the language host")
