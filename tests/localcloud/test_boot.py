"""What `up` refuses before it installs, builds or boots anything, and what `check` says of hosts that are not there."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from localcloud import cli
from localcloud.apollo import boot, check, demo
from localcloud.apollo.fleet import Fleet, FleetError
from localcloud.apollo.hosts import HostRow
from localcloud.cloud import Cloud
from localcloud.errors import LocalCloudError
from localcloud.machines import prepare
from localcloud.machines.errors import MachineError
from localcloud.operations import Request, up
from tests.host.support import Handler, served


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What prepare_machine went through, on a machine that can boot and lacks a package."""
    done: list[str] = []

    def step(name: str, answer: object = None) -> object:
        def take(*_: object, **__: object) -> object:
            done.append(name)
            return answer

        return take

    monkeypatch.setattr(prepare, "check", step("check"))
    monkeypatch.setattr(prepare, "missing_packages", lambda **_: ["nftables"])
    monkeypatch.setattr(prepare, "install", step("install"))
    monkeypatch.setattr(demo, "busybox", step("busybox"))
    monkeypatch.setattr(boot, "binaries", step("binaries", {}))
    monkeypatch.setattr(boot, "image_key", lambda _: "none-such")
    monkeypatch.setattr(boot, "ensure_image", step("image"))
    return done


def test_a_machine_is_checked_before_anything_is_installed_on_it(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    boot.prepare_machine(tmp_path / "cloud", None)
    assert steps == ["check", "install", "busybox", "binaries", "image"]

    def refuse(_: Path, **__: object) -> None:
        raise MachineError("this is Fedora")

    steps.clear()
    monkeypatch.setattr(prepare, "check", refuse)
    with pytest.raises(LocalCloudError, match="this is Fedora"):
        boot.prepare_machine(tmp_path / "other", None)
    assert steps == [] and not (tmp_path / "other").exists()


def test_a_taken_port_is_refused_by_its_option_before_the_image_is_made(steps: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalCloudError, match=rf"port {port} of 127\.0\.0\.1 .*another with --edge-port"):
            boot.prepare_machine(tmp_path, port)
    assert steps == ["check"]


@pytest.mark.parametrize("uid", [0, 1000])
def test_packages_that_cannot_be_installed_are_a_reason_beside_the_others(
    uid: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('PRETTY_NAME="Fedora Linux 41"\nID=fedora\n')
    (tmp_path / "proc/meminfo").write_text("MemTotal:        2097152 kB\n")
    monkeypatch.setattr(prepare.os, "geteuid", lambda: uid)
    monkeypatch.setattr(prepare, "SEARCH", str(tmp_path))
    with pytest.raises(MachineError) as caught:
        prepare.check(tmp_path / "not/yet/there", system=tmp_path)
    words = str(caught.value)
    assert "these packages are missing: " in words and "nftables" in words
    assert "Fedora Linux 41, not Debian" in words and "--no-machines" in words
    assert "2.0 GiB of memory; the hosts need at least 4" in words
    assert ("not root" in words) is (uid != 0)


@pytest.mark.parametrize("argv", [["up", "--edge-port", "65536"], ["up", "--port", "-1"], ["check", "--flows", "0"],
                                  ["check", "--flows", "-3"], ["open", "edge", "--port", "x"]])  # fmt: skip
def test_a_number_out_of_its_range_is_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert f"{argv[-1]} is not a number from" in capsys.readouterr().err


def running_at(port: int, folder: Path) -> Cloud:
    return Cloud(folder, 1, 1, 0.0, "http://127.0.0.1:1", "eu-west-1", {}, port)


def test_another_edge_port_than_a_running_clouds_is_refused(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APOLLO_RUN_DIR", str(tmp_path))
    monkeypatch.setattr("localcloud.cloud.find", lambda folder: running_at(8080, folder))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(Cloud, "alive", lambda _: True)
    with pytest.raises(LocalCloudError, match="edge at port 8080 already; `down` ends it, then --edge-port 9090 holds"):
        up(Request(machines=True, edge_port=9090))
    assert steps == []


def host(name: str, state: str) -> HostRow:
    return HostRow(name, name.partition("-")[0], int(name[-1]), "", "", "", "", state)


def test_a_host_that_is_not_up_is_a_failure_and_no_shorter_matrix() -> None:
    def command(name: str, _: object) -> list[str]:
        if name == "slave-3":
            raise FleetError("slave-3 is not running")
        return ["sh", "-c", "echo no such container >&2; exit 1" if name == "control-1" else "exit 0"]

    rows = (host("slave-1", "running"), host("slave-2", "stopped"), host("slave-3", "running"), host("control-1", "running"))
    fleet, failed = check.standing(Fleet(rows, command), ["slave-1", "slave-2", "slave-3", "slave-4", "control-1"], 0)
    assert [row.name for row in fleet.rows] == ["slave-1"]
    assert {(r.kind, r.target, r.passed) for r in failed} == {
        ("host is up", name, False) for name in ("slave-2", "slave-3", "slave-4", "control-1")
    }
    seen = {r.target: r.detail for r in failed}
    assert seen["slave-2"] == "its instance is stopped" and seen["slave-4"] == "it has no instance"
    assert seen["slave-3"] == "slave-3 is not running" and "no such container" in seen["control-1"]


@contextlib.contextmanager
def edge(unready: int, instances: list[str]) -> Generator[tuple[str, int]]:
    """Answers as an edge does: 503 for a while, then with one instance after the other."""
    unwell = itertools.repeat((503, "No instance of this service is well."), unready)
    answers = itertools.chain(unwell, ((200, words) for words in itertools.cycle(instances)))

    class Edge(Handler):
        def do_GET(self) -> None:
            self.answer(*next(answers))

    with served(Edge) as place:
        yield "127.0.0.1", int(place.partition(":")[2])


WEB = [demo.DemoContainer(host, "demo-web", "web") for host in ("slave-1", "slave-2")]


def test_up_ends_once_every_instance_of_the_demo_has_answered_at_the_edge() -> None:
    with edge(20, ["web on slave-1, x", "web on slave-2, y"]) as place:
        boot.await_demo(place, "apollo.test", WEB, 20)


@pytest.mark.parametrize(("unready", "words"), [(10_000, "503 No instance"), (0, "never answered: web on slave-2")])
def test_a_demo_that_the_edge_does_not_serve_fails_with_its_name_and_the_edges_words(unready: int, words: str) -> None:
    failed = pytest.raises(LocalCloudError, match=rf"web\.apollo\.test: .*{words}")
    with edge(unready, ["web on slave-1, x"]) as place, failed:
        boot.await_demo(place, "apollo.test", WEB, 1)
