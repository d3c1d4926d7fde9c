"""What is said where an edge cannot be reached, with the real ssh, from a network of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from host.apollo.__main__ import VERSION
from localcloud.paths import REPOSITORY
from ops.reach import Access, Unreachable, _problem, opened  # pyright: ignore[reportPrivateUsage]
from tests.host.support import left_out, needs, stand_in

EDGE = "127.0.0.9"


@dataclass(frozen=True)
class Network:
    """One of its own, where the edge's address is this machine's. Ports without a listener refuse, as a booting host's do."""

    pid: int

    def drop(self, *ports: int) -> None:
        """As a security group does: no answer at all."""
        rules = "".join(f"add rule inet t i tcp dport {port} drop\n" for port in ports)
        table = f"add table inet t\nadd chain inet t i {{ type filter hook input priority 0; }}\nflush chain inet t i\n{rules}"
        argv = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "nft", "-f", "-"]
        subprocess.run(argv, input=table, text=True, check=True)

    def ops(self, *argv: str) -> tuple[subprocess.CompletedProcess[str], float]:
        """`python -m ops` with ssh in this network, and the seconds that it took."""
        env = {**os.environ, "APOLLO_SSH": f"nsenter --net=/proc/{self.pid}/ns/net ssh", "APOLLO_ADMIN_KEY": "none"}
        begun = time.monotonic()
        way = ("--jump", EDGE, "--host-key", "ssh-ed25519 AAAA")
        command = [sys.executable, "-m", "ops", *argv, *way]
        done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=120, check=False)
        return done, time.monotonic() - begun


@pytest.fixture
def network() -> Generator[Network]:
    needs("nft", "nftables")
    if os.geteuid() != 0:
        left_out("a network of its own needs root")
    script = "ip link set lo up && echo ready && exec cat"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"ready\n"
        try:
            yield Network(holder.pid)
        finally:
            holder.terminate()


def test_an_edge_that_is_up_and_closed_to_this_machine_is_named_with_the_reason(network: Network) -> None:
    network.drop(22)
    done, seconds = network.ops("reach")
    assert done.returncode == 1
    assert f"{EDGE} does not answer at port 22" in done.stderr
    assert "it is up, as its port 80 answers, so admin.allowedCidrs does not have the address" in done.stderr
    assert seconds < 60, "of the 180 that an edge may take to boot"


def test_of_a_silent_edge_both_causes_are_named_at_the_end_of_patience(network: Network) -> None:
    network.drop(22, 80)
    done, _ = network.ops("reach", "--patience", "6")
    assert done.returncode == 1
    assert "s more for its boot" in done.stdout
    assert "it is down, or admin.allowedCidrs does not have the address" in done.stderr


def test_an_edge_that_refuses_is_one_that_boots_and_can_be_waited_for(network: Network) -> None:
    done, _ = network.ops("reach")
    assert (done.returncode, done.stdout) == (0, f"{EDGE} answers\n")


@pytest.mark.parametrize("verb", [(), ("--forget",), ("--undo",)])
def test_a_drain_without_a_way_says_so_at_once_and_fails(network: Network, verb: Sequence[str]) -> None:
    network.drop(22)
    drain = ("drain", "--host", "slave-1", "--address", "10.0.0.33", "--control", "10.0.0.11,10.0.0.12,10.0.0.13", *verb)
    done, seconds = network.ops(*drain)
    assert done.returncode == 1
    assert "admin.allowedCidrs" in done.stderr
    assert seconds < 45
    if not verb:
        assert "slave-1: not drained, and the others do not know that it goes" in done.stdout


# Reaches a host for at most 2 s, through an edge for which ssh waits 20 s.
SILENT = f"""
from ops.reach import Access, opened
with opened(Access("{EDGE}", "", "ssh-ed25519 AAAA")) as ssh:
    print(ssh._ssh(["-o", "ConnectTimeout=2", "10.0.0.33", "true"], 15))
"""
LISTEN = f"import socket, sys; s = socket.create_server(('{EDGE}', 22)); print('ready', flush=True); sys.stdin.read()"


@pytest.mark.parametrize("way", [(), ("nohup",)])
def test_a_silent_way_ends_with_its_first_ssh_under_nohup_too(network: Network, way: Sequence[str]) -> None:
    enter = ("nsenter", f"--net=/proc/{network.pid}/ns/net")
    with subprocess.Popen([*enter, sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as edge:
        assert edge.stdout and edge.stdout.readline() == b"ready\n"
        argv = [*enter, *way, sys.executable, "-c", SILENT]
        done = subprocess.run(
            argv, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True
        )
        edge.terminate()
    assert "timed out during banner exchange" in done.stdout, done


@pytest.mark.parametrize(
    ("status", "words", "kind", "text"),
    [
        (255, "ssh: connect to host 192.0.2.1 port 22: Connection timed out\nConnection closed", "edge", "timed out"),
        (255, "channel 0: open failed: connect failed: No route to host\nstdio forwarding failed", "down", "No route to host"),
        (255, "Connection timed out during banner exchange\nConnection to UNKNOWN port 65535 timed out", "slow", "no login"),
        (255, "admin@apollo: Permission denied (publickey).", "denied", "Permission denied"),
        (255, "Host key verification failed.", "denied", "Host key"),
        (124, "", "slow", "no end after 7 s"),
        (1, "Traceback\nConsulError: \x1b[31mno\n", "failed", "ConsulError: \\x1b[31mno"),
    ],
)  # fmt: skip
def test_the_words_of_ssh_are_told_apart(status: int, words: str, kind: str, text: str) -> None:
    problem = _problem(status, words, 7)
    assert isinstance(problem, Unreachable)
    assert problem.kind == kind
    assert text in str(problem)


def test_an_answer_of_any_length_arrives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an ssh that runs what it is asked to here."""
    program = f"exec {sys.executable} -c 'import json; print(json.dumps([\"x\" * 300] * 1000))'"
    monkeypatch.setenv("APOLLO_SSH", str(stand_in(tmp_path / "ssh", program)))
    with opened(Access(EDGE, "", "ssh-ed25519 AAAA")) as ssh:
        assert ssh.ask("", "survey", seconds=20) == ["x" * 300] * 1000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program of the host at which ssh arrives: this machine, which has none of its own before the test writes one."""
    program, calls = tmp_path / "apollo", tmp_path / "calls"
    stand_in(tmp_path / "sudo", f'echo "$3 $*" >>{calls}\nexec "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("APOLLO_SSH", str(stand_in(tmp_path / "ssh", 'shift 3\nexec sh -c "$*"')))
    monkeypatch.setattr("ops.reach._APOLLO", str(program))
    return program


@pytest.mark.parametrize("own", ["", "echo no such verb >&2\nexit 64"])
def test_a_host_that_is_too_old_for_a_verb_runs_ours_and_that_is_said_once(
    own: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if own:
        stand_in(here, own)
    with opened(Access(EDGE, "", "ssh-ed25519 AAAA")) as ssh:
        answer = ssh.ask("", "probe", "1", "127.0.0.1", seconds=20)
        assert list(answer) == ["127.0.0.1"]
        assert ssh.run("", "version", seconds=20).strip() == str(VERSION)
        with pytest.raises(Unreachable, match="no such verb here: nosuch"):
            ssh.run("", "nosuch", seconds=20)
    assert capsys.readouterr().err.count("has no `apollo probe` yet, so it was brought along; roll the host") == 1


def test_a_host_that_knows_the_verb_runs_its_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in(here, 'echo "$@"')
    with opened(Access(EDGE, "", "ssh-ed25519 AAAA")) as ssh:
        assert ssh.run("", "edge", "quiet", "$(x)", seconds=20) == f"--needs {VERSION} edge quiet $(x)\n"
    assert not capsys.readouterr().err
