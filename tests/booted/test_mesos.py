"""The scheduler's side of the booted stack: a real ZooKeeper ensemble, and stand-ins run by the lines that run Mesos."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest

from localcloud.apollo.demo import IMAGE, load_image
from tests.booted.clients import CONTROL, address_of, check_of, pid_of, scan
from tests.booted.conftest import Stack, until

PROGRAM = ("apollo", "zookeeper")
JARS = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-nop.jar"
STANDIN = "apollo/mesos-standin:1"
IMAGES = "/etc/apollo/mesos-images.env"
OFF = ("ok", "agent off: there is no such program here")


def shell(stack: Stack, host: str, script: str) -> str:
    return stack.out(host, "sh", "-c", script)


def modes(stack: Stack, asked: str) -> dict[str, str]:
    """host: leader, follower or not, of every member, as one node has it."""
    lines = stack.run(asked, *PROGRAM, "members").stdout.splitlines()
    return {words[0]: words[3] for words in map(str.split, lines)}


def serves(stack: Stack, asked: str, members: int) -> bool:
    return sorted(modes(stack, asked).values()) == ["follower"] * (members - 1) + ["leader"]


# What makes whoever says it ZooKeeper's super-user, which only root on a control node can know.
SUPER = "addauth digest super:%s\\n"


def zookeeper(stack: Stack, host: str, command: str, super_user: bool = False) -> str:
    """What ZooKeeper's own client says to a command at this host's server."""
    if super_user:
        command = SUPER % stack.out(host, "cat", "/run/apollo-zookeeper/super") + command
    java = f"java -Xmx48m -cp {JARS} org.apache.zookeeper.ZooKeeperMain -server $PRIVATE_IP:2181"
    # Its exit status is that of the last command; what it said is what counts.
    return stack.run(host, "sh", "-c", f". /etc/apollo/node.env; printf '{command}\\nquit\\n' | {java} 2>&1").stdout


def mesos_check(stack: Stack, host: str) -> tuple[str, str]:
    """(ok, warning or failed, what the check says)"""
    found = check_of(stack, host, "mesos")
    return "failed" if not found["ok"] else "warning" if found.get("warning") else "ok", found["detail"]


# -- ZooKeeper


def test_zookeeper_elects_survives_the_loss_of_its_leader_and_keeps_its_data(stack: Stack) -> None:
    until(lambda: serves(stack, "control-1", 3), "one leads and two follow")
    lost = next(host for host, mode in modes(stack, "control-1").items() if mode == "leader")
    first, second = [host for host in CONTROL if host != lost]
    assert "Created /apollo-test" in zookeeper(stack, first, "create /apollo-test before", super_user=True)
    stack.order("kill", lost)
    try:
        until(lambda: "leader" in modes(stack, first).values(), "another one leads", 60)
        # This one may still be looking for who leads.
        made = ("Created /apollo-test/while", "already exists: /apollo-test/while")
        create = "create /apollo-test/while away"
        until(lambda: any(words in zookeeper(stack, second, create, super_user=True) for words in made), "it is written")
    finally:
        stack.order("start", lost)
    until(lambda: serves(stack, lost, 3), "the lost one follows again")
    # From its own disk and the others': both are there.
    assert "[while]" in zookeeper(stack, lost, "ls /apollo-test")
    # No majority is left while two reboot at a time.
    for host in (first, second):
        stack.order("reboot", host)
    until(lambda: serves(stack, lost, 3), "all three are back")
    stack.await_well(*CONTROL)
    assert "before" in zookeeper(stack, first, "get /apollo-test")
    zookeeper(stack, first, "deleteall /apollo-test", super_user=True)
    stack.assert_all_reachable()


def test_nobody_is_zookeepers_super_user(stack: Stack) -> None:
    until(lambda: serves(stack, "control-1", 3), "all three are members")
    refused = zookeeper(stack, "control-1", "addauth digest super:admin\\nreconfig -remove 3")
    assert "Insufficient permission" in refused or "Authentication is not valid" in refused, refused
    until(lambda: serves(stack, "control-1", 3), "all three are members still")
    open_ports = shell(stack, "control-1", "ss -Hltn | awk '{print $4}'").split()
    own = [place for place in open_ports if place.rpartition(":")[2] in ("2181", "2888", "3888", "8080")]
    assert own and all(CONTROL["control-1"] in place for place in own), own


def test_whoever_comes_first_makes_nothing_in_zookeeper_and_no_agent_reads_what_marathon_keeps(stack: Stack) -> None:
    """Where anyone may make a node, the first says whose it is, and every slave can delete it."""
    until(lambda: serves(stack, "control-1", 3), "all three are members")
    until(lambda: "[" in zookeeper(stack, "control-1", "ls /mesos"), "the trees are there")
    tried = (
        *(
            f"create {path} mine"
            for path in ("/apollo-new", "/zookeeper/new", "/zookeeper/quota/new", "/mesos/new", "/marathon/new")
        ),
        *("ls /marathon", "setAcl /mesos world:anyone:cdrwa"),
    )
    assert zookeeper(stack, "control-1", "\\n".join(tried)).count("Insufficient permission") == len(tried)
    login = stack.out("control-1", "cat", "/etc/apollo/secrets/mesos/zookeeper-password")
    made = zookeeper(stack, "control-1", f"addauth digest mesos:{login}\\ncreate /mesos/new mine\\ncreate /marathon/new mine")
    assert "Created /mesos/new" in made and "Created /marathon/new" in made, made
    zookeeper(stack, "control-1", "delete /mesos/new\\ndelete /marathon/new", super_user=True)


def test_other_hosts_are_refused_until_zookeepers_trees_have_their_owner(stack: Stack) -> None:
    shell(stack, "control-2", "systemctl stop apollo-scheduler; systemctl restart apollo-zookeeper")
    try:
        until(lambda: modes(stack, "control-2").get("control-2") in ("leader", "follower"), "it serves")
        dial = "import socket; socket.create_connection(('10.0.32.12', 2181), 5)"
        refused = stack.run("slave-1", "python3", "-c", dial)
        assert "ConnectionRefusedError" in refused.stderr, refused.stderr
        assert "waits for this node's ZooKeeper" in shell(
            stack,
            "control-2",
            "apollo mesos marathon || test $? = 75; rm /run/apollo-mesos/marathon.problem",
        )
    finally:
        stack.run("control-2", "systemctl", "start", "apollo-scheduler")
    until(lambda: stack.run("slave-1", "python3", "-c", dial).returncode == 0, "it is open to slaves")


def test_growing_control_to_five_touches_no_host_and_going_back_is_one_step_more(stack: Stack) -> None:
    try:
        grown = stack.up("--no-demo", "--set", "control.count=5")
        touched = {s["name"] for s in grown["steps"] if s["op"] != "same" and not s["name"].startswith("control-")}
        # The way to the hosts is looked at again with each new one.
        assert touched <= {"secrets-control-count", "control", "readiness-way", "apollo-local"}, touched
        until(lambda: serves(stack, "control-1", 5), "all five are members")
        peers = "CONSUL_HTTP_TOKEN=$(cat /etc/apollo/secrets/consul/management-token) consul operator raft list-peers"
        until(lambda: stack.run("control-1", "sh", "-c", peers).stdout.count(" true ") == 5, "five servers vote")
    finally:
        stack.up("--no-demo")
    # The one that led may be gone.
    three = ["does", "does", "follower", "follower", "leader"]
    until(lambda: sorted(modes(stack, "control-1").values()) == three, "one of three leads, and two do not serve")
    for number in ("5", "4"):
        stack.out("control-1", *PROGRAM, "remove", number)
    until(lambda: serves(stack, "control-3", 3), "three are left")
    stack.assert_all_reachable()


# -- who reaches what

# Gossip's, 8301, is open to every node: what is said of the others is no dead network's silence.
PORTS = (2181, 2888, 3888, 5050, 5052, 8080, 8301, 8500, 8600)


@pytest.mark.parametrize(
    ("source", "target", "reached"),
    [
        ("slave-1", "10.0.0.11", [2181, 5050, 8301]),
        # Consul's API and DNS are for the group `client`, and nobody else.
        ("control-2", "10.0.0.11", [2181, 2888, 3888, 5050, 5052, 8080, 8301]),
        ("edge-1", "10.0.0.11", [8301]),
        ("control-1", "10.0.32.34", [5051]),
        ("slave-1", "10.0.32.34", []),
        ("edge-1", "10.0.32.34", []),
    ],
)
def test_the_rules_open_the_schedulers_ports_to_those_who_need_them(
    stack: Stack, source: str, target: str, reached: list[int]
) -> None:
    ports = (5051, 31000, 31005, 32000) if target == "10.0.32.34" else PORTS
    assert scan(stack, source, target, *ports, seconds=2) == reached


def test_a_container_reaches_no_port_of_zookeeper_masters_marathon_or_its_slaves_agent(stack: Stack) -> None:
    pid = pid_of(stack, "slave-1", "demo-web")
    assert scan(stack, "slave-1", "10.0.0.11", *PORTS, pid=pid, seconds=2) == []
    assert scan(stack, "slave-1", "10.0.0.33", 5051, pid=pid, seconds=2) == []


# -- Mesos


def test_without_programs_mesos_is_off_and_that_is_said(stack: Stack) -> None:
    assert mesos_check(stack, "slave-1") == OFF
    rows = {row["name"]: row["mesos"] for row in json.loads(stack.cli("status", "--json").stdout)}
    assert {rows[host] for host in rows if not host.startswith("edge")} == {"off"}
    assert "Mesos is off: the hosts have no programs of it" in stack.cli("status").stdout


LEAKED = """
import subprocess
from pathlib import Path
secrets = {path: path.read_text().strip() for path in Path("/etc/apollo/secrets").rglob("*") if path.is_file()}
said = subprocess.run(["journalctl", "-b", "-o", "cat"], capture_output=True, text=True, errors="replace").stdout
for path in Path("/proc").glob("[0-9]*/cmdline"):
    try:
        said += path.read_text(errors="replace")
    except OSError:
        pass
print(sorted(str(path) for path, secret in secrets.items() if len(secret) > 15 and secret in said))
"""


def leaked(stack: Stack, host: str) -> list[str]:
    """The secrets of a host that its journal or a command line shows."""
    return json.loads(stack.out(host, "python3", "-c", LEAKED).replace("'", '"'))


def test_no_secret_is_in_a_journal_or_on_a_command_line(stack: Stack) -> None:
    found = {host: leaked(stack, host) for host in ("control-1", "slave-1", "edge-1")}
    assert not any(found.values()), found


MASTER = """#!/bin/sh
for flag in "$@"; do case $flag in --ip=*) ip=${flag#--ip=};; --quorum=*) quorum=${flag#--quorum=};; esac; done
busybox mkdir -p /www/metrics
echo '{"master/elected": 1.0, "registrar/log/recovered": 1.0}' > /www/metrics/snapshot
echo '{"slaves": [{"hostname": "10.0.0.33", "active": true}]}' > /www/slaves
echo "$quorum" > /data/mesos/quorum
# No word of SIGTERM: as the first process of its namespace it would not heed it.
httpd -f -p "$ip:5050" -h /www & wait
"""


def standin(stack: Stack, host: str, name: str, script: str, more: str = "") -> None:
    """Makes an image on the host whose program of this name is the script. more: a line of shell that adds files to it."""
    hosts = stack.fleet
    load_image(hosts, host)
    hosts.check(host, ["sh", "-c", f"cat > /tmp/{name}; chmod 755 /tmp/{name}"], stdin=script.encode())
    lines = (
        "set -e; rm -rf /tmp/standin",
        "add() { mkdir -p /tmp/standin/$(dirname $2); cp -L $1 /tmp/standin/$2; }",
        f"add /tmp/{name} /bin/{name}; {more}",
        f"docker create --name standin {IMAGE}; docker cp /tmp/standin/. standin:/",
        f"docker commit standin {STANDIN}; docker rm standin",
    )
    shell(stack, host, "\n".join(lines))


FORGET = f"docker rm -f standin; docker rmi {STANDIN} {IMAGE}; rm -rf /data/mesos"


@contextmanager
def from_image(stack: Stack, host: str, unit: str, variable: str, image: str) -> Generator[None]:
    """The host as if its stack took Mesos from images."""
    shell(stack, host, f"echo '{variable}=\"{image}\"' > {IMAGES}; systemctl restart {unit}")
    try:
        yield
    finally:
        shell(stack, host, f"rm {IMAGES}; systemctl stop {unit}; rm -rf /run/apollo-mesos; systemctl start {unit}")


def test_the_leading_master_has_its_name_from_anywhere(stack: Stack) -> None:
    standin(stack, "control-2", "mesos-master", MASTER)
    try:
        with from_image(stack, "control-2", "mesos-master", "MASTER", STANDIN):
            name = "leader.mesos-master.service.consul"
            until(
                lambda: CONTROL["control-2"] in stack.run("slave-3", "getent", "hosts", name).stdout, "the leader has its name"
            )
            assert stack.out("control-2", "cat", "/data/mesos/quorum") == "2"
            assert stack.out("slave-3", "curl", "-sf", "-m", "5", f"http://{name}:5050/metrics/snapshot")
            assert stack.curl("mesos-master.apollo.test") == "No service is published under this name."
            told = ("ok", "master runs: leads, quorum 2, marathon off: there is no such program here")
            until(lambda: mesos_check(stack, "control-2") == told, "apollo-check says so")
            assert leaked(stack, "control-2") == []
            # As the documents restart them: the count is there before the quorum follows from it.
            stack.out("control-2", "systemctl", "restart", "apollo-secrets", "mesos-master")
            read = stack.out("control-2", "systemctl", "show", "-P", "ExecMainExitTimestampMonotonic", "apollo-secrets")
            began = stack.out("control-2", "systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", "mesos-master")
            assert int(read) < int(began)
            until(lambda: mesos_check(stack, "control-2") == told, "it runs again")
            stack.out("control-2", "systemctl", "stop", "mesos-master")
            # One that does not heed SIGTERM is killed after systemd's patience, and that is another result.
            assert stack.out("control-2", "systemctl", "show", "-P", "Result", "mesos-master") == "success"
    finally:
        stack.run("control-2", "sh", "-c", FORGET)
    until(lambda: stack.run("slave-3", "getent", "hosts", name).returncode != 0, "the name goes with it")


def test_an_image_that_cannot_be_pulled_is_said_and_the_overlay_goes_on(stack: Stack) -> None:
    image = "registry.invalid/mesos:1"
    with from_image(stack, "slave-1", "mesos-agent", "AGENT", image):

        def warns() -> bool:
            kind, words = mesos_check(stack, "slave-1")
            return kind == "warning" and f"cannot pull {image}" in words

        until(warns, "the check warns, and says why")
        # What an `up` and a roll wait for.
        stack.await_well("slave-1")
        stack.assert_all_reachable()
        # An attempt that is just ending leaves the unit `failed` where it is stopped then.
        ending = 'until [ "$(systemctl show -P SubState mesos-agent)" = stop-post ]; do sleep 0.02; done'
        stack.out("slave-1", "timeout", "120", "sh", "-c", ending)
    assert mesos_check(stack, "slave-1") == OFF


def test_only_an_agent_that_says_so_of_its_state_is_counted_by_the_hosts_own_journal(stack: Stack) -> None:
    def ends(words: str) -> str:
        program, counted = "/usr/local/bin/apollo mesos agent-stopped", "/run/apollo-mesos/agent-failures"
        ended = f"systemd-run -q --wait -p 'ExecStopPost={program}' sh -c 'echo \"{words}\" >&2; exit 1'"
        return shell(stack, "slave-2", f"{ended}; cat {counted} 2>/dev/null | wc -l").strip()

    useless = "slave.cpp:7311] EXIT with status 1: Failed to perform recovery: Incompatible agent info detected."
    refused = "EXIT with status 1: Master master@10.0.0.11:5050 refused authentication"
    assert [ends(words) for words in (useless, useless, refused, useless)] == ["1", "2", "0", "1"]
    stack.out("slave-2", "rm", "-r", "/run/apollo-mesos")


# What a host does that has an image first, with one that Docker has here instead of a registry's.
PUBLISH = f"""
import hashlib, io, json, subprocess, tarfile
from host.apollo import parameters
saved = subprocess.run(["docker", "save", "{IMAGE}"], capture_output=True, check=True).stdout
archive = tarfile.open(fileobj=io.BytesIO(saved))
def keep(content):
    digest = hashlib.sha256(content).hexdigest()
    parameters.store(f"images/{{digest}}", io.BytesIO(content), digest)
    return {{"digest": f"sha256:{{digest}}"}}
(about,) = json.load(archive.extractfile("manifest.json"))
config, *layers = [keep(archive.extractfile(name).read()) for name in (about["Config"], *about["Layers"])]
print(keep(json.dumps({{"config": config, "layers": layers}}).encode())["digest"])
"""


def test_an_image_that_one_host_put_into_the_bucket_comes_to_others_without_its_registry(stack: Stack) -> None:
    load_image(stack.fleet, "slave-1")
    digest = shell(stack, "slave-1", f"cd /usr/local/lib/apollo && python3 - <<'END'\n{PUBLISH}END")
    here = f"apollo/apollo/demo:{digest.removeprefix('sha256:')[:16]}"
    identity = ("docker", "image", "inspect", "-f", "{{.Id}}")
    with from_image(stack, "slave-2", "mesos-agent", "AGENT", f"registry.invalid/apollo/demo:1@{digest}"):
        until(lambda: stack.run("slave-2", *identity, here).returncode == 0, "Docker has the image")
        assert stack.out("slave-2", *identity, here) == stack.out("slave-1", *identity, IMAGE)
    stack.out("slave-2", "docker", "rmi", "-f", here)


AGENT = f"""#!/bin/sh
for flag in "$@"; do case $flag in --ip=*) ip=${{flag#--ip=}};; esac; done
busybox mkdir -p /www/metrics
echo '{{"slave/registered": 1.0}}' > /www/metrics/snapshot
# As Mesos's executor does, by the client in its own image and the host's Docker.
export DOCKER_HOST=unix:///var/run/docker.sock
docker rm -f mesos-task
docker run -d --name=mesos-task --net=bridge -e SERVICE_NAME=task {IMAGE}
# Executors listen without a password, on a port that is free.
httpd -p "$ip:41234" -h /www
trap 'exit 0' TERM
httpd -f -p "$ip:5051" -h /www & wait
"""
DOCKER_CLIENT = "for file in /usr/bin/docker $(ldd /usr/bin/docker | grep -o '/[^ ]*'); do add $file $file; done"
# Docker's client, but for what no host of the embedded cloud can give a container.
SHIM = """#!/bin/sh
for word; do shift; [ "$word" = --privileged ] || set -- "$@" "$word"; done
exec /usr/bin/docker "$@"
"""
DROP_IN = "/etc/systemd/system/mesos-agent.service.d"


def test_the_agents_container_comes_after_docker_and_mesh_and_its_tasks_are_on_the_slots_subnet(stack: Stack) -> None:
    host = "slave-1"
    standin(stack, host, "mesos-agent", AGENT, DOCKER_CLIENT)
    standin(stack, "control-2", "mesos-master", MASTER)
    path = "[Service]\nEnvironment=PATH=/opt/shim:/usr/sbin:/usr/bin:/sbin:/bin"
    lines = (
        f"mkdir -p /opt/shim {DROP_IN}; echo '{path}' > {DROP_IN}/shim.conf; echo 'AGENT=\"{STANDIN}\"' > {IMAGES}",
        f"cat > /opt/shim/docker <<'END'\n{SHIM}END\nchmod 755 /opt/shim/docker",
    )
    try:
        shell(stack, host, "\n".join(lines))
        # All of it comes back by itself, in order.
        stack.order("reboot", host)
        until(lambda: "mesos-task" in stack.run(host, "docker", "ps").stdout, "the agent's stand-in started a task")
        until(
            lambda: mesos_check(stack, host)[1].startswith("agent runs: registered nowhere, as no"),
            "apollo-check says so",
        )
        with from_image(stack, "control-2", "mesos-master", "MASTER", STANDIN):
            told = ("ok", "agent runs: registered and active")
            until(lambda: mesos_check(stack, host) == told, "the master says so")
        assert leaked(stack, host) == []
        assert scan(stack, host, "10.0.0.33", 41234, 5051, seconds=2) == [41234, 5051]
        assert scan(stack, host, "10.0.0.33", 41234, 5051, 22, pid=pid_of(stack, host, "mesos-task"), seconds=2) == []
        units = ("apollo-mesh", "docker", "mesos-agent")
        shown = [stack.out(host, "systemctl", "show", "-p", "ActiveEnterTimestampMonotonic", "--value", unit) for unit in units]
        assert list(map(int, shown)) == sorted(map(int, shown)), dict(zip(units, shown, strict=True))
        agent = json.loads(stack.out(host, "docker", "inspect", "apollo-agent"))[0]
        assert {mount["Source"]: mount["RW"] for mount in agent["Mounts"]} == {
            "/data/mesos": True, "/run/apollo-mesos": False, "/run/docker.sock": True, "/sys/fs/cgroup": True,
        }  # fmt: skip
        assert (agent["HostConfig"]["NetworkMode"], agent["HostConfig"]["PidMode"]) == ("host", "host")
        address = address_of(stack, host, "mesos-task")
        assert ip_address(address) in ip_network("10.2.1.0/24")
        until(lambda: address in stack.run("slave-2", "getent", "hosts", "task.service.consul").stdout, "it has its name")
        assert stack.out("slave-2", "curl", "-sf", "-m", "5", f"http://{address}/")
    finally:
        undo = (
            f"rm -rf {IMAGES} {DROP_IN} /opt/shim; systemctl daemon-reload; systemctl stop mesos-agent",
            f"docker rm -f mesos-task standin; docker rmi {STANDIN}; rm -rf /run/apollo-mesos /data/mesos",
            "systemctl start mesos-agent",
        )
        stack.run(host, "sh", "-c", "\n".join(undo))
        stack.run("control-2", "sh", "-c", FORGET)
    until(lambda: mesos_check(stack, host) == OFF and stack.run(host, "apollo-check").returncode == 0, "all is as before")
    stack.assert_all_reachable()
