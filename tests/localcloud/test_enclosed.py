"""Where the engine runs: no other user of this machine reaches it, and it reaches what it has to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from localcloud.engine import enclosed
from localcloud.processes import start_ticks
from tests.host.support import Handler, left_out, served, until

from .support import NOBODY, CommandLine, as_nobody, end

PYTHON = "/usr/bin/python3"  # which every user may run
# Prints those of the ports of 127.0.0.1 that take a connection.
KNOCK = """
import json, socket, sys
print(json.dumps([port for port in map(int, sys.argv[1:]) if socket.socket().connect_ex(("127.0.0.1", port)) == 0]))
"""


def network() -> str:
    """The network namespace that we are in."""
    return str(Path("/proc/self/ns/net").readlink())


def listening(pid: int | str) -> dict[str, int]:
    """Inode → port of the TCP sockets that listen in the network of a process."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
    return {fields[9]: int(fields[1].rpartition(":")[2], 16) for fields in lines if fields[3] == "0A"}


def open_files(process: Path) -> set[str]:
    """What a process has open. A busy one closes some of it while we look."""
    found: set[str] = set()
    for handle in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(handle.readlink()))
    return found


def ports_of(run_dir: Path) -> tuple[dict[int, int], set[int]]:
    """Where the processes of a run listen: port → process of those in a network of their own; ports in this machine's."""
    elsewhere: dict[int, int] = {}
    here: set[int] = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if str(run_dir).encode() not in (place / "environ").read_bytes():
                continue
            found, own = listening(place.name), open_files(place)
            if str((place / "ns" / "net").readlink()) != network():
                elsewhere |= dict.fromkeys(found.values(), int(place.name))
            else:
                here |= {port for inode, port in found.items() if f"socket:[{inode}]" in own}
        except OSError:  # gone meanwhile
            continue
    return elsewhere, here


@pytest.mark.engine
def test_another_user_of_this_machine_reaches_no_port_of_a_run(line: CommandLine, tmp_path: Path) -> None:
    if not Path(PYTHON).exists():
        left_out(f"another user's connections: {PYTHON} is not there")
    begun = tmp_path / "begun"
    process = line.start("up", "--json", "--set", f"hosts.command=touch {begun}; sleep 600")
    try:
        until(lambda: begun.exists() or process.poll() is not None, "the command")
        assert process.poll() is None, process.communicate()
        api = urlsplit(line.cloud.endpoint).port
        looks: list[tuple[dict[int, int], set[int]]] = []

        # The monitor, the engine, the language host, both providers and the API; a list of the kernel's misses a socket where
        # others go while it is read.
        def all_there() -> bool:
            looks.append(ports_of(line.run_dir))
            return len(looks[-1][0]) >= 6 and api in looks[-1][1]

        until(all_there, "the run's ports")
        enclosed_ports, here = looks[-1]
        assert here == {api}, "only the API, which takes signed calls, listens where other users are"
        words = [str(port) for port in enclosed_ports]
        inside = next(iter(enclosed_ports.values()))
        enter = ["nsenter", f"--net=/proc/{inside}/ns/net"]
        root = subprocess.run([*enter, PYTHON, "-c", KNOCK, *words], capture_output=True, text=True, check=True)
        assert json.loads(root.stdout) == list(enclosed_ports), "the ports are there, for those inside"
        # Another program of this machine may listen at the same number.
        others = set(listening("self").values())
        said = as_nobody([PYTHON, "-c", KNOCK, *words])
        assert set(json.loads(said.stdout)) - others - set(listening("self").values()) <= {api}
        assert "nsenter" in as_nobody([*enter, "true"]).stderr
    finally:
        said = end(process, signal.SIGINT)
    assert said.status == 130, said.err
    until(lambda: ports_of(line.run_dir) == ({}, {api}), "the end of all but the API")


def run(argv: list[str], folder: Path, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell in place of the CLI."""
    known = {"PATH": os.environ["PATH"], "APOLLO_CLOUD": str(folder), **env}
    program = [*argv, "-I", "-S", str(folder / "enclosed.py"), "/bin/sh", "-c", script]
    return subprocess.run(program, capture_output=True, text=True, cwd="/", env=known, timeout=60, check=False)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A copy of the script that every user may read, which pytest's own folders do not allow."""
    with tempfile.TemporaryDirectory() as made:
        shutil.copy(enclosed.__file__, Path(made) / "enclosed.py")
        Path(made).chmod(0o755)
        yield Path(made)


def test_the_clouds_api_is_reached_from_inside_at_its_port_and_nothing_else_is(folder: Path) -> None:
    class Long(Handler):
        def do_GET(self) -> None:
            self.answer(200, b"x" * 3_000_000)

    with served(Long) as place:
        url = f"http://{place}"
        get = f"curl -sf -m 20 --noproxy '*' {url} | wc -c"
        done = run([sys.executable], folder, get, AWS_ENDPOINT_URL=url)
        assert done.stdout.strip() == "3000000", done.stderr
        if enclosed_here([sys.executable], folder):
            assert run([sys.executable], folder, get).stdout.strip() == "0"


def enclosed_here(argv: list[str], folder: Path) -> bool:
    """Whether the user who runs argv gets a namespace; where there is none, it must have been said."""
    done = run(argv, folder, "readlink /proc/self/ns/net; id -u; echo $PULUMI_DEBUG_PROVIDERS")
    net, user, providers = done.stdout.split()
    own = net != network()
    assert own == ("no network namespace" not in done.stderr), done.stderr
    assert [word.partition(":")[0] for word in providers.split(",")] == ["aws", "command"]
    assert int(user) == (NOBODY if "setpriv" in argv else os.geteuid())
    return own


def test_without_a_namespace_it_runs_all_the_same_and_says_so(folder: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        left_out("a user whom the kernel gives no namespace: becoming one takes root and setpriv")
    weak = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable]
    done = run(weak, folder, "readlink /proc/self/ns/net", AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert done.stdout.strip() == network()
    assert "other users of this machine reach the engine" in done.stderr


def test_a_user_who_is_not_root_stays_who_they_are(folder: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not Path(PYTHON).exists():
        left_out("a user who is not root: becoming one takes root, setpriv and an interpreter that they may run")
    enclosed_here(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", PYTHON], folder)


def test_what_carries_the_connections_ends_with_the_cli_however_that_ended(folder: Path) -> None:
    argv = [sys.executable, "-I", "-S", str(folder / "enclosed.py"), "/bin/sh", "-c", "echo $$; exec sleep 600"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={"APOLLO_CLOUD": str(folder)}) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid, "it has become the CLI"
        (carrier,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    until(lambda: start_ticks(int(carrier)) is None, "the end of what carries")
