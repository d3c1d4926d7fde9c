"""Who a control node takes for ZooKeeper's members, and what it says of itself in Consul."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import threading
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from host.apollo import local, zookeeper
from tests.host.support import free_ports, stand_in

ADDRESSES = [f"127.0.0.{n}" for n in range(11, 16)]
CONF = """\
clientPort=2181
membership:
server.1=127.0.0.11:2888:3888:participant;127.0.0.11:2181
server.2=127.0.0.12:2888:3888:participant;127.0.0.12:2181
server.3=127.0.0.13:2888:3888:observer;127.0.0.13:2181
version=100000000"""
SERVING = "Zookeeper version: 3.8.0\nMode: leader\nNode count: 5\n"
REFUSING = "This ZooKeeper instance is not currently serving requests\n"


def facts(index: int) -> dict[str, str]:
    return {"INDEX": str(index), "PRIVATE_IP": ADDRESSES[index - 1], "CONTROL_ADDRESSES": " ".join(ADDRESSES)}


class Peer:
    """Answers the two words as ZooKeeper does, at one loopback address."""

    def __init__(self, address: str, answers: Mapping[str, str]) -> None:
        self._listener = socket.create_server((address, zookeeper.CLIENT_PORT))
        self._answers = answers
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                peer.sendall(self._answers[peer.recv(4).decode()].encode())

    def close(self) -> None:
        # A blocked accept holds the socket open until it is shut down.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control node's folders somewhere else, three nodes planned, ZooKeeper's port one that is free here."""
    monkeypatch.setattr(zookeeper, "CLIENT_PORT", free_ports(1)[0])
    monkeypatch.setattr(local, "SECRETS", tmp_path / "secrets")
    monkeypatch.setattr(zookeeper, "DATA", tmp_path)
    monkeypatch.setattr(zookeeper, "CONFIG", tmp_path / "zoo.cfg")
    local.write(tmp_path / "secrets/control/count", "3\n")
    return tmp_path


@pytest.fixture
def ensemble(host: Path) -> Generator[Path]:
    """An ensemble of two voters and an observer that serves."""
    with closing(Peer(ADDRESSES[0], {"srvr": SERVING, "conf": CONF})):
        yield host


def listed() -> list[str]:
    """number=role of each member in the first list that the configuration names."""
    named = zookeeper.CONFIG.read_text().rpartition("dynamicConfigFile=")[2].strip()
    return [f"{n}={role}" for n, _, role in zookeeper.MEMBER.findall(Path(named).read_text())]


def configured(index: int) -> Any:
    zookeeper.CONFIG.write_text(zookeeper.configuration(facts(index)))


@pytest.mark.parametrize("count", [1, 3, 5])
def test_blank_nodes_that_find_no_ensemble_take_the_planned_ones_for_its_members(count: int, host: Path) -> None:
    local.write(host / "secrets/control/count", f"{count}\n")
    configured(1)
    assert listed() == [f"{number}=participant" for number in range(1, count + 1)]


@pytest.mark.usefixtures("ensemble")
def test_a_node_beyond_the_first_ones_does_not_vote_before_the_others_know_it(host: Path) -> None:
    local.write(host / "secrets/control/count", "5\n")
    configured(4)
    assert listed() == ["1=participant", "2=participant", "3=observer", "4=observer"]


@pytest.mark.usefixtures("ensemble")
def test_a_member_that_lost_its_data_comes_back_as_what_it_was() -> None:
    configured(2)
    assert listed() == ["1=participant", "2=participant", "3=observer"]


@pytest.mark.usefixtures("host")
def test_an_ensemble_without_a_majority_is_none() -> None:
    with closing(Peer(ADDRESSES[0], {"srvr": REFUSING, "conf": CONF})):
        configured(3)
    assert listed() == ["1=participant", "2=participant", "3=participant"]


@pytest.mark.usefixtures("host")
def test_a_quorum_that_cannot_be_reached_is_said_with_who_is_up() -> None:
    assert zookeeper.silence() == "it never started"
    configured(1)
    with closing(Peer(ADDRESSES[0], {"srvr": REFUSING, "conf": REFUSING})):
        assert zookeeper.silence() == "of control nodes 1, 2, 3 a majority must be up, and there is 1"


@pytest.mark.usefixtures("ensemble")
def test_a_node_with_data_keeps_the_members_of_its_data(host: Path) -> None:
    (host / "version-2").mkdir()
    written = host / "zoo.cfg.dynamic.400000002"
    written.write_text("".join(f"{zookeeper.line(n, ADDRESSES[n - 1], 'participant')}\n" for n in (1, 2, 3, 5)))
    (host / "zoo.cfg").write_text(f"tickTime=1\ndynamicConfigFile={written}\n")
    configured(2)
    assert listed() == ["1=participant", "2=participant", "3=participant", "5=participant"]
    assert "tickTime=2000\n" in (host / "zoo.cfg").read_text()


def test_no_link_in_its_folder_gives_zookeeper_a_file_of_the_hosts(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, outside = host / "zookeeper", host / "etc"
    (data / "version-2").mkdir(parents=True)
    outside.mkdir()
    (data / "myid").write_text("1\n")
    (outside / "shadow").write_text("root:x\n")
    (data / "version-2/log.1").symlink_to(outside / "shadow")
    (data / "snapshots").symlink_to(outside)
    given: set[Path] = set()

    def chown(path: Any, *_: int, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        place = Path(path if dir_fd is None else f"/proc/self/fd/{dir_fd}")
        whole = place if dir_fd is None else place.resolve() / path
        given.add(whole.resolve() if follow_symlinks else whole)

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(pwd, "getpwnam", lambda _: pwd.getpwuid(os.getuid()))
    monkeypatch.setattr(zookeeper, "DATA", data)
    monkeypatch.setattr(zookeeper, "CONFIG", data / "zoo.cfg")
    for name, value in (("RUN", host / "run"), ("PASSWORD", host / "run/super")):
        monkeypatch.setattr(zookeeper, name, value)
    rules: list[str] = []
    monkeypatch.setattr(zookeeper, "nft", rules.append)
    monkeypatch.setattr(zookeeper, "CLAIMED", host / "run/claimed")
    zookeeper.RUN.mkdir()
    zookeeper.CLAIMED.touch()
    zookeeper.prepare(facts(1))
    # Other hosts wait again until somebody has looked whose the nodes are.
    gate, control = "table inet apollo-zookeeper", ", ".join(ADDRESSES)
    rule = f"ip saddr != {{ {control} }} tcp dport {zookeeper.CLIENT_PORT} reject with tcp reset"
    hook = "type filter hook input priority filter - 20"
    assert rules == [f"{gate}\ndelete {gate}\n{gate} {{\nchain input {{\n{hook}\n{rule}\n}}\n}}\n"]
    assert not zookeeper.CLAIMED.exists()
    assert (data / "zoo.cfg").read_text() == f"{zookeeper.SETTINGS}dynamicConfigFile={data}/zoo.cfg.dynamic\n"
    assert (data / "myid").read_text() == "1\n"
    # The password of this run: ZooKeeper is told its digest, and who asks it reads the password.
    password, told = zookeeper.PASSWORD, zookeeper.RUN / "environment"
    assert len(password.read_text()) > 40 and password.stat().st_mode & 0o777 == told.stat().st_mode & 0o777 == 0o600
    assert told.read_text() == f"SUPER_DIGEST={zookeeper.digest(f'super:{password.read_text()}')}\n"
    assert {data, data / "myid", data / "zoo.cfg", data / "version-2"} <= given
    assert {data / "version-2/log.1", data / "snapshots"} <= given, "the links themselves are its own"
    assert not [path for path in given if outside in (path, *path.parents)]


def test_a_digest_is_as_zookeepers_own_tool_makes_it() -> None:
    assert zookeeper.digest("super:admin") == "xQJmxLMiHGwaqBvst5y6rkB6HQs="


class Client:
    """ZooKeeper's own client, as a script that keeps what it is given. says: on its two outputs, at each call anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        local.write(zookeeper.PASSWORD, "of this run")
        told = f'echo "$@" >> {folder}/argv; cat >> {folder}/lines; n=$(wc -l < {folder}/argv)'
        java = f"{told}; cat {folder}/out$n; cat {folder}/err$n >&2"
        stand_in(folder / "bin/java", java)
        stand_in(folder / "bin/nft", f'[ "$*" = "-f -" ] && cat >> {folder}/rules')

    def says(self, *each: tuple[str, str]) -> None:
        for name in ("argv", "lines", "rules"):
            (self.folder / name).write_text("")
        for number, texts in enumerate(each, 1):
            for kind, text in zip(("out", "err"), texts, strict=True):
                (self.folder / f"{kind}{number}").write_text(text)

    def read(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()


@pytest.fixture
def client(host: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name in ("PASSWORD", "CLAIMED"):
        monkeypatch.setattr(zookeeper, name, host / "run" / name.lower())
    monkeypatch.setenv("PATH", f"{host}/bin:{os.environ['PATH']}")
    local.write(host / "secrets/mesos/zookeeper-password", "new\n", 0o600)
    return Client(host)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["add"], "-add server.4=127.0.0.14:2888:3888:participant;127.0.0.14:{port}"),
        (["remove", "2"], "-remove 2"),
    ],
)
def test_the_members_change_by_the_super_user_at_the_own_server(
    words: list[str], change: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "facts", lambda: facts(4))
    change = change.format(port=zookeeper.CLIENT_PORT)
    client.says(("", "Committed new configuration:\n"))
    assert zookeeper.main(words) == 0
    assert client.read("lines") == ["addauth digest super:of this run", f"reconfig {change}", "quit"]
    (argv,) = client.read("argv")
    assert argv.endswith(f" -cp {zookeeper.JARS} org.apache.zookeeper.ZooKeeperMain -server 127.0.0.14:{zookeeper.CLIENT_PORT}")
    assert "of this run" not in argv
    client.says(("1\n2\n3\n", "KeeperErrorCode = NewConfigNoQuorum\n"))
    assert zookeeper.main(words) == f"reconfig {change}: 2\n3\nKeeperErrorCode = NewConfigNoQuorum"


@pytest.mark.usefixtures("ensemble")
def test_the_members_are_shown_as_the_own_server_has_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "facts", lambda: facts(1))
    with closing(Peer(ADDRESSES[2], {"srvr": "Mode: observer\n"})):
        assert zookeeper.main(["members"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "control-1  127.0.0.11  participant  leader",
        "control-2  127.0.0.12  participant  does not serve",
        "control-3  127.0.0.13  observer  observer",
    ]


SHOWN = """\
'digest,'mesos:{0}
: cdrwa
'world,'anyone
: r
'digest,'mesos:{0}
: cdrwa
{1}
WATCHER::
"""


@pytest.mark.parametrize(
    ("password", "more", "fits"), [("new", "", True), ("old", "", False), ("new", "'world,'anyone\n: r", False)]
)
def test_whose_the_trees_are_counts_with_all_that_others_may_do_there(host: Path, password: str, more: str, fits: bool) -> None:
    local.write(host / "secrets/mesos/zookeeper-password", "new\n", 0o600)
    assert zookeeper.owned(SHOWN.format(zookeeper.digest(f"mesos:{password}"), more)) is fits


def test_each_run_begins_with_trees_that_are_their_users_and_then_other_hosts_are_let_in(client: Client) -> None:
    mesos, marathon = (f"digest:mesos:{zookeeper.digest('mesos:new')}:cdrwa{others}" for others in (",world:anyone:r", ""))
    read = ["getAcl /mesos", "getAcl /marathon"]
    made = [f"create /mesos '' {mesos}", f"create /marathon '' {marathon}"]
    closed = [f"setAcl {root} world:anyone:r" for root in ("/", "/zookeeper", "/zookeeper/quota")]
    given = [f"setAcl -R /mesos {mesos}", f"setAcl -R /marathon {marathon}"]
    own, foreign = (SHOWN.format(zookeeper.digest(f"mesos:{password}"), "") for password in ("new", "old"))
    first, login, last = [*made, *closed, *read], "addauth digest super:of this run", "quit"

    client.says((own, ""))
    zookeeper.claim(facts(1))
    assert client.read("lines") == [login, *first, last]
    assert client.read("rules") == ["delete table inet apollo-zookeeper"] and zookeeper.CLAIMED.exists()
    client.says()
    zookeeper.claim(facts(1))
    assert client.read("argv") == [], "once in a run"

    # Whose they were before, they are given to their user.
    zookeeper.CLAIMED.unlink()
    client.says((foreign, ""), (own, ""))
    zookeeper.claim(facts(1))
    assert client.read("lines") == [login, *first, last, login, *given, *read, last]
    zookeeper.CLAIMED.unlink()
    client.says((foreign, ""), (foreign, ""))
    with pytest.raises(zookeeper.ZooKeeperError, match="could not be given to their user"):
        zookeeper.claim(facts(1))
    assert client.read("rules") == [] and not zookeeper.CLAIMED.exists()


def test_the_trees_can_be_given_to_a_new_password(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "facts", lambda: facts(1))
    client.says((SHOWN.format(zookeeper.digest("mesos:new"), ""), ""))
    assert zookeeper.main(["own"]) == 0
    assert capsys.readouterr().out == "/mesos and /marathon are mesos's, with its present password\n"


def test_rules_that_nft_refuses_are_an_error(client: Client) -> None:
    stand_in(client.folder / "bin/nft", "exit 1")
    with pytest.raises(subprocess.CalledProcessError):
        zookeeper.nft("nonsense")


def test_no_way_in_that_asks_for_no_password_is_open() -> None:
    assert "admin.enableServer=false\n" in zookeeper.SETTINGS
    assert "4lw.commands.whitelist=srvr,conf\n" in zookeeper.SETTINGS
