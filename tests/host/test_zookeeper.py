"""Who a control node takes for ZooKeeper's members, and what it says of itself in Consul."""

from __future__ import annotations

import os
import pwd
import socket
import threading
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from host.apollo import local, zookeeper
from tests.host.support import free_ports

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
    assert not zookeeper.CLAIMED.exists() and "reject with tcp reset" in rules[0]
    assert {data, data / "myid", data / "zoo.cfg", data / "version-2"} <= given
    assert {data / "version-2/log.1", data / "snapshots"} <= given, "the links themselves are its own"
    assert not [path for path in given if outside in (path, *path.parents)]


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


def test_no_way_in_that_asks_for_no_password_is_open() -> None:
    assert "admin.enableServer=false\n" in zookeeper.SETTINGS
    assert "4lw.commands.whitelist=srvr,conf\n" in zookeeper.SETTINGS
