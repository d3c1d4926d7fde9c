"""The real engine over the small program: what an `up` does, does again, does after it was cut off, and takes away."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from localcloud import cloud as clouds
from localcloud.errors import LocalCloudError
from localcloud.paths import REPOSITORY
from localcloud.processes import alive, start_ticks, supervised
from tests.host.support import until

from .support import PROGRAMS, CommandLine, end, family, names, processes

pytestmark = pytest.mark.engine

INSTANCE = "aws:ec2/instance:Instance"
EVERYTHING = 18  # what the small program registers with two hosts, the stack itself among it


def test_the_life_of_a_stack(line: CommandLine) -> None:
    first = line.up()
    assert (first.status, first.changes) == (0, {"create": EVERYTHING}), first.err
    assert first.json["outputs"]["secret"] == "[secret]"
    hosts = json.loads(line.run("status", "--json").out)
    assert [(h["name"], h["privateIp"], h["dockerSubnet"], h["state"]) for h in hosts] == [
        ("host-1", "10.0.1.11", "10.2.1.0/24", "running"),
        ("host-2", "10.0.1.12", "10.2.2.0/24", "running"),
    ]
    assert json.loads(line.run("outputs", "--json").out) == first.json["outputs"]
    assert "hush" not in line.state.read_text(), "a secret stands in the state in clear text"
    passphrase = line.folder / "passphrase"
    assert passphrase.stat().st_mode & 0o777 == 0o600

    # New user-data waits for a raised generation; a third host is exactly its own three resources.
    second = line.up("hosts.count=3", "hosts.data=v2")
    assert second.changes == {"create": 3, "same": EVERYTHING}, second.err
    assert names(second.json["steps"], "create") == ["data-3", "data-3", "host-3"]

    mark = len(line.calls())
    third = line.up("hosts.count=3", "hosts.data=v2", "hosts.generation={1: 2}")
    assert third.changes == {"replace": 2, "same": EVERYTHING + 1}, third.err
    assert names(third.json["steps"], "replace") == ["data-1", "host-1"]
    done = [(call["operation"], call["name"]) for call in line.calls()[mark:]]
    assert done == [("delete", "data-1"), ("delete", "host-1"), ("create", "host-1"), ("create", "data-1")]

    # Behind the program's back: a tag of one host is changed, another host is gone.
    ec2 = line.client("ec2")
    ids = {host["name"]: host["instanceId"] for host in third.json["hosts"]}
    ec2.create_tags(Resources=[ids["host-2"]], Tags=[{"Key": "Name", "Value": "renamed"}])
    ec2.terminate_instances(InstanceIds=[ids["host-3"]])
    seen = line.run("refresh", "--json")
    assert seen.json["changes"]["update"] >= 1 and seen.json["changes"]["delete"] >= 1, seen.err
    mended = line.up("hosts.count=3", "hosts.data=v2", "hosts.generation={1: 2}")
    assert names(mended.json["steps"], "update") == ["host-2"]
    assert "host-3" in names(mended.json["steps"], "create") + names(mended.json["steps"], "replace")
    again = line.up("hosts.count=3", "hosts.data=v2", "hosts.generation={1: 2}")
    assert again.changes == {"same": EVERYTHING + 3}, again.err

    cloud = line.cloud
    gone = line.run("down", "--json")
    assert (gone.status, gone.changes) == (0, {"delete": EVERYTHING + 3}), gone.err
    assert not cloud.alive()
    assert not line.run_dir.exists(), list(line.run_dir.rglob("*"))
    assert family(line.run_dir) == []


def test_a_failure_in_the_middle_then_a_damaged_state(line: CommandLine) -> None:
    # Started by an `up` that fails on its own, so that a fault can be set before anything else is made.
    broken = line.up("hosts.count=-1")
    assert broken.status == 1
    assert "hosts.count: -1 is below 0" in broken.err
    assert "Traceback" not in broken.err
    line.cloud.ask(
        "fault", {"operation": "create", "type": INSTANCE, "nth": 2, "message": "InsufficientInstanceCapacity: none left"}
    )
    failed = line.up()
    assert failed.status == 1
    assert failed.err.count("InsufficientInstanceCapacity: none left") == 1, failed.err
    made = [name for name in line.resources() if name.startswith("host-")]
    assert len(made) == 1, "the host that was made is in the state, the other is not"

    missing = line.up()
    assert missing.status == 0, missing.err
    assert sorted({"host-1", "host-2"} - set(made)) == [
        n for n in names(missing.json["steps"], "create") if n.startswith("host")
    ]
    assert line.up().changes == {"same": EVERYTHING}

    text = line.state.read_text()
    line.state.write_text(text[: len(text) // 2])
    refused = line.up()
    assert refused.status == 1
    assert str(line.state) in refused.err and "down --force" in refused.err and "nothing was changed" in refused.err
    assert line.state.read_text() == text[: len(text) // 2]
    assert line.run("down").status == 1
    cloud = line.cloud
    assert line.run("down", "--force").status == 0
    assert not cloud.alive() and not line.run_dir.exists()


def test_a_killed_up_then_a_killed_cloud(line: CommandLine) -> None:
    line.up("hosts.count=-1")
    cloud = line.cloud
    # The instance is made, but the engine is dead before it hears of it.
    cloud.ask("fault", {"operation": "create", "type": INSTANCE, "name": "host-1", "delay": 60, "when": "after"})
    process = line.start("up")
    until(lambda: cloud.ask("status")["faults"] == [], "host-1 under way")
    end(process, signal.SIGKILL)
    until(lambda: family(line.run_dir) == [], "the end of the engine and all its children")
    assert cloud.alive(), "the cloud outlives the command that started it"
    assert list((line.folder / "state").rglob("locks/**/*.json")), "the killed engine should have left its lock"

    after = line.up()
    assert after.status == 0, after.err
    assert "made by a run that did not live to record it" in after.err
    assert line.up().changes == {"same": EVERYTHING}
    found = line.client("ec2").describe_instances()["Reservations"]
    instances = [i for r in found for i in r["Instances"] if i["State"]["Name"] == "running"]
    assert len(instances) == 2, "an orphan is left"

    os.kill(cloud.pid, signal.SIGKILL)
    until(lambda: not cloud.alive(), "the end of the cloud")
    assert "no cloud runs" in line.run("status").err
    anew = line.up()
    assert "the old cloud" in anew.err and "starting from an empty state" in anew.err
    assert anew.changes == {"create": EVERYTHING}


def test_ctrl_c_finishes_what_is_under_way_and_a_dying_cloud_is_an_error(line: CommandLine) -> None:
    line.up("hosts.count=-1")
    cloud = line.cloud
    cloud.ask("fault", {"operation": "create", "type": INSTANCE, "name": "host-1", "delay": 60, "when": "after"})
    process = line.start("up", "--json")
    until(lambda: cloud.ask("status")["faults"] == [], "host-1 under way")
    busy = line.run("up")
    assert busy.status == 1
    assert f"in use: `up` of process {process.pid}" in busy.err
    stopped = end(process, signal.SIGINT)
    assert stopped.status == 130, stopped.err
    assert stopped.json["result"] == "interrupted"
    assert "host-1" in line.resources(), "what was under way is recorded"
    assert family(line.run_dir) == []

    cloud.ask("fault", {"operation": "create", "type": "aws:ebs/volume:Volume", "delay": 60})
    cloud.ask("fault", {"operation": "create", "type": "aws:ec2/volumeAttachment:VolumeAttachment", "delay": 60})
    process = line.start("up")
    until(lambda: cloud.ask("status")["inFlight"] > 0, "a call under way")
    os.kill(cloud.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "ended while the engine was running" in err, (out, err)
    assert family(line.run_dir) == []


def begun(pids: Path, count: int = 1) -> tuple[int, int]:
    """The pid and the start of the last of so many commands that write their pids there."""
    until(lambda: pids.exists() and pids.read_text().count("\n") == count, "the command")
    pid = int(pids.read_text().split()[-1])
    ticks = start_ticks(pid)
    assert ticks is not None
    return pid, ticks


def test_a_running_command_ends_with_ctrl_c_with_the_run_after_a_killed_one_and_with_the_cloud(
    line: CommandLine, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    # A child of its own, so that ending the shell alone would not do.
    lasting = f"hosts.command=sh -c 'echo $$ >> {pids}; sleep 600; true'; true"

    def gone(pid: int, ticks: int, seconds: float = 60) -> None:
        until(lambda: not alive(pid, ticks), "the end of the command", seconds)

    process = line.start("up", "--json", "--set", lasting)
    first = begun(pids)
    stopped = end(process, signal.SIGINT)
    assert stopped.status == 130, stopped.err
    gone(*first, 0.1)
    assert "command" not in line.resources()

    process = line.start("up", "--set", lasting)
    second = begun(pids, 2)
    end(process, signal.SIGKILL)
    after = line.up()
    assert after.status == 0, after.err
    gone(*second, 0.1)

    line.start("up", "--set", lasting)
    third = begun(pids, 3)
    os.kill(line.cloud.pid, signal.SIGKILL)
    gone(*third)


# In the place of Pulumi's own plugin, which cannot be had here: the engine starts it and speaks to it as to that one.
PLUGIN = """#!{python}
import os, socket, sys
sys.path.insert(0, {repository!r})
from localcloud.engine import enclosed
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
print(os.environ["AWS_ENDPOINT_URL"], os.environ["PULUMI_DEBUG_PROVIDERS"].split(":")[0], file=open({log!r}, "a"), flush=True)
enclosed.pass_on(listener, lambda: enclosed.provider(os.environ["APOLLO_CLOUD"], "aws"))
"""


def test_a_stack_begun_with_another_plugin_for_aws_stays_with_it(line: CommandLine, tmp_path: Path) -> None:
    plugin, log = tmp_path / "pulumi-resource-aws", tmp_path / "log"
    plugin.write_text(PLUGIN.format(python=sys.executable, repository=str(REPOSITORY), log=str(log)))
    plugin.chmod(0o755)
    line.extra["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    made = line.run("up", "--json", "--provider", "real")
    assert (made.status, made.changes) == (0, {"create": EVERYTHING}), made.err
    assert "aws:s3UsePathStyle: 'true'" in (line.folder / "work" / "Pulumi.local.yaml").read_text()
    again = line.up()
    assert (again.status, again.changes) == (0, {"same": EVERYTHING}), again.err
    assert set(log.read_text().splitlines()) == {f"{line.cloud.endpoint} command"}
    assert line.run("down").status == 0


def test_a_preview_needs_no_cloud_and_leaves_nothing(line: CommandLine) -> None:
    before = {path: path.stat().st_mtime_ns for path in PROGRAMS.rglob("*.yaml")}
    shown = line.run("preview", "--json", "--set", "hosts.count=4")
    assert shown.status == 0, shown.err
    assert shown.json["types"][INSTANCE] == {"create": 4}
    assert [host["name"] for host in shown.json["hosts"]] == ["host-1", "host-2", "host-3", "host-4"]
    assert {host["state"] for host in shown.json["hosts"]} == {"planned"}
    assert not line.run_dir.exists()
    assert family(line.run_dir) == []
    assert {path: path.stat().st_mtime_ns for path in PROGRAMS.rglob("*.yaml")} == before, "the checkout was written to"


def test_a_killed_preview_takes_its_cloud_along(line: CommandLine) -> None:
    process = line.start("preview")

    def found() -> clouds.Cloud | None:
        return clouds.find(line.run_dir / f"preview-{process.pid}")

    until(lambda: found() is not None, "the preview's cloud")
    cloud = found()
    assert cloud is not None
    end(process, signal.SIGKILL)
    until(lambda: not alive(cloud.pid, cloud.ticks), "the end of the cloud")
    until(lambda: not list(line.run_dir.glob("preview-*")), "the end of its folder")
    until(lambda: family(line.run_dir) == [], "the end of its engine")


BAD: list[tuple[list[str], str]] = [
    (["preview", "--stack", "nowhere"], "there is no stack 'nowhere'"),
    (["preview", "--set", "hosts"], "--set hosts: give it as key=value"),
    (["preview", "--set", "hosts=[1"], "is not YAML"),
    (["preview", "--set", "aws:region.x=1"], "aws:region is 'eu-west-1', which has no parts"),
    (["status"], "no cloud runs for stack local"),
    (["outputs"], "no cloud runs for stack local"),
    (["refresh"], "no cloud runs for stack local"),
]


@pytest.mark.parametrize(("argv", "words"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_usage_is_one_clear_message(argv: list[str], words: str, line: CommandLine) -> None:
    said = line.run(*argv)
    assert said.status == 1
    assert words in said.err
    assert "Traceback" not in said.err
    assert not list(line.run_dir.glob("preview-*"))


def test_a_taken_port_is_named(line: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = line.run("preview", "--port", str(port))
    assert said.status == 1
    assert f"port {port} is in use" in said.err


def test_down_without_a_cloud_is_done_at_once(line: CommandLine) -> None:
    assert line.run("down").status == 0
    assert not line.run_dir.exists()


def test_the_supervisor_ends_the_whole_family(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("supervised")
    script = f"setsid sh -c 'echo $$ > {folder}/pid; exec sleep 600' & sleep 600"
    process = supervised(["sh", "-c", script], dict(os.environ), folder, folder / "log")
    pid, ticks = begun(folder / "pid")
    process.terminate()
    process.wait(timeout=60)
    assert not alive(pid, ticks)


def test_a_dead_parents_supervisor_ends_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("orphaned")
    code = (
        "import os,sys,time; from pathlib import Path; from localcloud.processes import supervised; f=Path(sys.argv[1]);"
        "supervised(['sh','-c',f'echo $$ > {f}/pid; exec sleep 600'],dict(os.environ),f,f/'log'); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=REPOSITORY)
    pid, ticks = begun(folder / "pid")
    parent.kill()
    parent.wait()
    until(lambda: not alive(pid, ticks), "the end of what was started by the one that died")


def test_a_cloud_ends_where_what_its_starter_does_meanwhile_fails(tmp_path: Path) -> None:
    def cloud() -> list[str]:
        return processes(lambda line, _: f"localcloud.daemon --folder {tmp_path}" in line)

    def fail() -> None:
        until(lambda: len(cloud()) == 1, "the cloud begins")
        raise LocalCloudError("no stack")

    with pytest.raises(LocalCloudError, match="no stack"):
        clouds.start(tmp_path, "eu-west-1", meanwhile=fail)
    assert not cloud()
