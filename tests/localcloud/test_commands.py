"""`command:local:Command` here, and `command:remote:Command` through a real sshd on the loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from localcloud import cloud as clouds
from localcloud.provider.command import RemoteCommand, Runner
from localcloud.provider.kind import CloudError
from localcloud.provider.values import Props, Secret, plain
from tests.host.support import free_ports, left_out, until

from .support import REGION, Client, World, naming, refusal

LOCAL = "command:local:Command"
REMOTE = "command:remote:Command"


def test_a_local_command_runs_at_each_step_with_its_environment(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    inputs = {
        "create": f'echo "$WHO after $PULUMI_COMMAND_STDOUT" >> {log}; echo made; echo aside >&2',
        "delete": f'echo "delete after $PULUMI_COMMAND_STDOUT" >> {log}',
        "environment": {"WHO": "me"},
    }
    id, outputs = world.command.create(LOCAL, inputs)
    assert (outputs["stdout"], outputs["stderr"]) == ("made", "aside")
    new = {**inputs, "environment": {"WHO": "you"}}
    assert world.command.diff(LOCAL, id, outputs, inputs, new).replaces == []
    outputs = world.command.update(LOCAL, id, outputs, inputs, new)
    assert outputs["stdout"] == "made"
    world.command.delete(LOCAL, id, outputs)
    assert log.read_text() == "me after \nyou after made\ndelete after made\n"


def test_what_no_program_here_uses_is_refused_by_name(world: World) -> None:
    for name, value in (("stdin", "x"), ("update", "x"), ("interpreter", ["x"]), ("dir", "/"), ("logging", "none")):
        failures = world.command.check(LOCAL, {"create": "true", name: value})[1]
        assert failures == [f"{name}: the embedded cloud does not implement this property of {LOCAL}"]
    failures = world.command.check(REMOTE, {"create": "true", "connection": {"host": "h", "password": "p"}})[1]
    assert failures == [f"connection.password: the embedded cloud does not implement this property of {REMOTE}"]


def test_triggers_replace_and_nothing_else_does(world: World) -> None:
    old = {"create": "true", "triggers": [1]}
    assert world.command.diff(LOCAL, "id", {}, old, {**old, "triggers": [2]}).replaces == ["triggers"]
    assert world.command.diff(LOCAL, "id", {}, old, {**old, "create": "false"}).paths == {"create": "UPDATE"}


def test_a_failing_command_says_its_last_words_without_its_secrets(world: World) -> None:
    inputs = {"create": "echo broken with $TOKEN >&2; exit 3", "environment": {"TOKEN": Secret("very-secret")}}
    words = refusal(lambda: world.command.create(LOCAL, inputs))
    assert "ended with status 3: broken with [secret]" in words
    inputs["create"] = "head -c 99999 /dev/zero | tr '\\0' x >&2; echo broken with $TOKEN >&2; exit 3"
    words = refusal(lambda: world.command.create(LOCAL, inputs))
    assert "ended with status 3: " in words
    assert words.endswith("broken with [secret]")


def test_what_a_secret_goes_into_comes_out_as_a_secret(world: World) -> None:
    _, outputs = world.command.create(LOCAL, {"create": "echo $TOKEN", "environment": {"TOKEN": Secret("hush")}})
    assert outputs["stdout"] == Secret("hush")


def test_the_text_and_the_environment_are_in_no_list_of_processes(world: World, tmp_path: Path) -> None:
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    os.mkfifo(gate)
    inputs = {"create": f": secret-word; cat /proc/$$/cmdline > {seen}; cat {gate}", "environment": {"T": "hidden-word"}}
    with subprocess.Popen(["/bin/sh", "-c", f"echo go > {gate}"]):
        world.command.create(LOCAL, inputs)
    assert b"secret-word" not in seen.read_bytes()
    assert b"hidden-word" not in seen.read_bytes()


@dataclass
class Server:
    port: int
    user_key: str
    host_key: str
    log: Path

    def connection(self, **more: object) -> Props:
        return {"host": "127.0.0.1", "port": self.port, "user": "root", "privateKey": self.user_key, "hostKey": self.host_key,
                "dialErrorLimit": 2, "perDialTimeout": 30, **more}  # fmt: skip


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    binary = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(binary).exists() and os.environ.get("CI"):
        # Only here: on somebody's own machine the package would start a server that nobody asked for. RUNLEVEL=1 keeps it down.
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for argv in (["update"], ["install", "-y", "--no-install-recommends", "openssh-server"]):
            subprocess.run(["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *argv], env=quiet, check=False)
    if not Path(binary).exists():
        left_out("there is no sshd on this machine (package openssh-server): remote commands were not tried")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], check=True)
    (port,) = free_ports(1)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([binary, "-D", "-e", "-f", folder / "config"], stderr=(folder / "log").open("w"))

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listening, "sshd")
    yield Server(port, (folder / "user").read_text(), (folder / "host.pub").read_text(), folder / "log")
    process.terminate()
    process.wait()


def test_a_remote_command_runs_with_pinned_keys_and_its_environment(world: World, sshd: Server, tmp_path: Path) -> None:
    inputs = {
        "connection": Secret(sshd.connection()),
        "create": 'echo "$WHO got $(cat)."; echo aside >&2',
        "delete": f"touch {tmp_path}/deleted",
        "environment": {"WHO": "it's me"},
    }
    id, outputs = world.command.create(REMOTE, inputs)
    assert (outputs["stdout"], outputs["stderr"]) == ("it's me got .", "aside")
    assert isinstance(outputs["connection"], Secret)
    world.command.delete(REMOTE, id, plain(outputs))
    assert (tmp_path / "deleted").exists()
    left = list((world.cloud.folder / "ssh").iterdir())
    assert left == [], "a key was left on disk"


def test_a_remote_command_goes_through_a_jump_host(world: World, sshd: Server) -> None:
    proxy = {k: v for k, v in sshd.connection().items() if k not in ("dialErrorLimit", "perDialTimeout")}
    _, outputs = world.command.create(REMOTE, {"connection": sshd.connection(proxy=proxy), "create": "echo $SSH_CONNECTION"})
    assert outputs["stdout"]


def test_another_host_key_is_refused_at_once(world: World, sshd: Server) -> None:
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJlBG1Lq8NJJ0nqHOFbHpj7yMEb2uVSyJ5nUFs1dxQK0"
    connection = sshd.connection(hostKey=other, dialErrorLimit=-1)
    words = refusal(lambda: world.command.create(REMOTE, {"connection": connection, "create": "true"}))
    assert "after 1 attempts: Host key verification failed" in words


def test_a_host_that_does_not_answer_is_given_up_after_the_given_attempts(world: World, sshd: Server) -> None:
    connection = sshd.connection(port=free_ports(1)[0])
    words = refusal(lambda: world.command.create(REMOTE, {"connection": connection, "create": "true"}))
    assert "no connection to 127.0.0.1 as root after 2 attempts" in words


def test_a_command_whose_connection_ends_is_not_run_again(world: World, sshd: Server, tmp_path: Path) -> None:
    # Once this much is written, its beginning has arrived: more than a connection and its buffers hold.
    much = "echo ends >&2; head -c 30000000 /dev/zero"
    inputs = {"connection": sshd.connection(), "create": f"echo once >> {tmp_path}/log; {much}; kill -9 $PPID; sleep 600"}
    words = refusal(lambda: world.command.create(REMOTE, inputs))
    assert "its create command ended with status 255" in words
    assert (tmp_path / "log").read_text() == "once\n"


def test_a_dial_ends_where_the_host_falls_silent_in_the_middle(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])
                    held[-1].sendall(b"SSH-2.0-silent\r\n")

        held: list[socket.socket] = []
        threading.Thread(target=greet, daemon=True).start()
        connection = {"host": "127.0.0.1", "port": server.getsockname()[1], "dialErrorLimit": 1, "perDialTimeout": 1}
        words = refusal(lambda: world.command.create(REMOTE, {"connection": connection, "create": "true"}))
        assert "no connection to 127.0.0.1 as root after 1 attempts" in words
        assert len(held) == 1
        server.shutdown(socket.SHUT_RDWR)


def test_a_custom_timeout_ends_a_command_that_takes_longer(world: World, tmp_path: Path) -> None:
    begun = time.monotonic()
    inputs = {"create": f"sleep 600 & echo $! > {tmp_path}/pid; wait"}
    assert "longer than the 3 s of its custom timeout" in refusal(lambda: world.command.create(LOCAL, inputs, timeout=3))
    assert time.monotonic() - begun < 60, "of the 600 s that it takes"
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat").exists()


def test_a_custom_timeout_ends_dials_without_a_limit(world: World, sshd: Server) -> None:
    inputs = {"connection": sshd.connection(port=free_ports(1)[0], dialErrorLimit=-1), "create": "true"}
    assert "its custom timeout" in refusal(lambda: world.command.create(REMOTE, inputs, timeout=2))


@pytest.mark.parametrize("place", ["host", "proxy"])
def test_dialing_a_host_that_ended_by_itself_stops_at_once_with_its_last_words(
    sshd: Server, tmp_path: Path, place: str
) -> None:
    said: list[str] = []
    runner = Runner(tmp_path / "ssh", ended=lambda address: "".join(said) if address == "192.0.2.9" else "")
    # Takes connections and says nothing, as a host does that died with one open.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        more: Props = {"host": "192.0.2.9"}
        if place == "proxy":
            more = {"host": "127.0.0.1", "proxy": {"host": "192.0.2.9", "user": "root"}}
        connection = sshd.connection(port=silent.getsockname()[1], dialErrorLimit=-1, perDialTimeout=600, **more)
        threading.Timer(0.5, lambda: said.append("it is not running: oh dear")).start()
        begun = time.monotonic()
        with pytest.raises(CloudError, match="oh dear"):
            RemoteCommand(runner).execute({"connection": connection}, "true", {})
        assert time.monotonic() - begun < 60, "of the 600 s for a dial"
    assert list((tmp_path / "ssh").iterdir()) == []


def test_a_killed_cloud_leaves_no_connection_to_a_host(sshd: Server, tmp_path: Path) -> None:
    cloud = clouds.start(tmp_path / "cloud", REGION)
    connections = tmp_path / "cloud" / "ssh"
    inputs = {"connection": sshd.connection(), "create": f"touch {tmp_path}/there; sleep 600"}
    create = Client(cloud, "command", {}).create
    waiting = threading.Thread(target=lambda: refusal(lambda: create(REMOTE, inputs)))
    waiting.start()
    try:
        until((tmp_path / "there").exists, "the command")
        assert len(naming(connections)) >= 2, "the connection, and the command in it"
    finally:
        os.kill(cloud.pid, signal.SIGKILL)
        waiting.join(30)
    until(lambda: naming(connections) == [], "the end of both")
