"""Names on booted hosts: what they lead to while containers come, move and go, hosts and servers fail, and secrets change."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from localcloud.apollo.demo import IMAGE
from localcloud.paths import REPOSITORY
from tests.booted import names_watch
from tests.booted.clients import CONTROL, HOSTS, SLAVES, address_of, pid_of
from tests.booted.conftest import PATIENCE, Stack, until

ASKER = "slave-2"
_count = itertools.count()


class Watch:
    """What a name leads to, asked by a container on ASKER twenty times a second, until told() ends it.

    name: several, joined by commas, for where their pages lead; on an edge by the edge.
    """

    def __init__(self, stack: Stack, name: str, host: str = ASKER) -> None:
        self._stack, self._host, self._stop, self._lines = stack, host, f"/tmp/stop-{next(_count)}", list[str]()
        asking = ["python3", "-u", "-c", Path(names_watch.__file__).read_text()]
        if host.startswith("edge"):
            argv = [*asking, "edge", name, self._stop]
        else:
            pid = pid_of(stack, host, "demo-web")
            server = stack.out(host, "sh", "-c", ". /etc/apollo/node.env; echo $BRIDGE_ADDRESS")
            argv = ["nsenter", "-t", pid, "-n", *asking, server, name, self._stop]
        command = [sys.executable, "-m", "localcloud", "exec", host, "--", *argv]
        env = {**os.environ, "APOLLO_RUN_DIR": str(stack.run_dir)}
        self._process = subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        until(lambda: bool(self._lines), f"the first answer for {name}")

    def _read(self) -> None:
        assert self._process.stdout
        self._lines.extend(line for line in iter(self._process.stdout.readline, ""))

    def now(self) -> str:
        return self._lines[-1].split()[1]

    def pages(self) -> dict[str, str]:
        """Of several names: where each leads now."""
        return dict(line.split()[1:] for line in list(self._lines))

    def told(self) -> list[tuple[float, str]]:
        """(seconds since the epoch, answer) of each change."""
        self._stack.out(self._host, "touch", self._stop)
        self._process.wait(30)
        self._thread.join()
        return [(float(line.split()[0]), line.split(maxsplit=1)[1].strip()) for line in self._lines]


def run_hello(stack: Stack, host: str, *options: str, command: str = "hello") -> tuple[float, str]:
    """Starts a container named hello: (when it was started, in seconds since the epoch; its address)."""
    env = ("-e", "SERVICE_NAME=hello", "-e", "SERVICE_TAGS=public", *options)
    stack.out(host, "docker", "run", "-d", "--name", "hello", *env, IMAGE, command)
    shown = "{{.State.StartedAt}} {{.NetworkSettings.IPAddress}}"
    started, address = stack.out(host, "docker", "inspect", "-f", shown, "hello").split()
    return float(stack.out(host, "date", "-d", started, "+%s.%N")), address


def at(stack: Stack, host: str, *argv: str) -> float:
    """Runs a command on a host; when it began there, in seconds since the epoch."""
    return float(stack.out(host, "sh", "-c", 'date +%s.%N; "$@" >/dev/null', "sh", *argv).split()[0])


def first(changes: list[tuple[float, str]], after: float, answer: str) -> float:
    """Seconds from a moment to the first answer of that kind."""
    return next(when for when, what in changes if what == answer and when > after) - after


def last_seen(changes: list[tuple[float, str]], address: str) -> float:
    """When an address was no longer in the answer for good, in seconds since the epoch."""
    ends = [later for (_, what), (later, _) in itertools.pairwise(changes) if address in what.split(",")]
    assert ends and address not in changes[-1][1].split(","), changes
    return ends[-1]


def figure(what: str, seconds: float, most: float) -> None:
    print(f"FIGURE {what}: {seconds:.2f} s")
    assert seconds <= most, f"{what}: {seconds:.2f} s, promised {most:g}"


@pytest.fixture(autouse=True)
def no_hello(stack: Stack) -> Iterator[None]:
    yield
    for host in SLAVES:
        stack.run(host, "docker", "rm", "-f", "hello")


def test_a_container_is_found_at_once_leaves_before_it_ends_and_moves(stack: Stack) -> None:
    watch = Watch(stack, "hello.service.consul")
    try:
        # It does not heed its signal, so the container serves on for as long as Docker lets it.
        started, old = run_hello(stack, "slave-1", "--stop-signal=SIGUSR2")
        until(lambda: watch.now() == old, "hello is found")
        stopped = at(stack, "slave-1", "docker", "stop", "-t", "4", "hello")
        ended = stack.out("slave-1", "docker", "inspect", "-f", "{{.State.FinishedAt}}", "hello")
        ended = float(stack.out("slave-1", "date", "-d", ended, "+%s.%N"))
        stack.out("slave-1", "docker", "start", "hello")
        again = address_of(stack, "slave-1", "hello")
        until(lambda: watch.now() == again, "hello is found again")
        killed = at(stack, "slave-1", "docker", "kill", "hello")
        moved, new = run_hello(stack, "slave-3")
        until(lambda: watch.now() == new, "hello is found on slave-3")
    finally:
        changes = watch.told()
    figure("docker run to the name in a container on another slave", first(changes, started, old), 3)
    figure("docker stop to the name gone, the container still serving", first(changes, stopped, "none"), 1)
    assert stopped + first(changes, stopped, "none") < ended
    figure("docker kill to the old address gone", last_seen(changes, again) - killed, 5)
    figure("docker run elsewhere to the new address", first(changes, moved, new), 3)


def test_names_have_a_short_form_a_datacenter_and_a_port_for_containers_and_hosts(stack: Stack) -> None:
    members = {address_of(stack, host, "demo-web") for host in ("slave-1", "slave-2")}
    for name in ("web", "web.service.consul", "web.service.dc1.consul"):
        for host in HOSTS:
            found = {line.split()[0] for line in stack.out(host, "getent", "ahostsv4", name).splitlines()}
            assert found == members, (host, name)
        said = stack.out("slave-3", "docker", "exec", "demo-api", "ping", "-c", "1", "-W", "2", name)
        assert any(f"({address})" in said for address in members)
        full = name if "." in name else f"{name}.service.consul"
        ports = stack.out("slave-3", "docker", "exec", "demo-api", "nslookup", "-type=srv", full)
        assert ports.count(" 80 ") == 2, ports


def test_a_name_of_many_instances_has_addresses_without_tcp(stack: Stack) -> None:
    many = [f"many-{number}" for number in range(25)]
    found: list[str] = []
    try:
        script = f"for name in {' '.join(many)}; do docker run -d --name $name -e SERVICE_NAME=many {IMAGE}; done"
        stack.out("slave-1", "sh", "-c", script)
        # Debian's busybox asks over UDP alone, as musl up to 1.2.3 does.
        ask = ("docker", "exec", "demo-web", "nslookup", "many.service.consul")

        def eight() -> bool:
            found[:] = [
                line.split()[1] for line in stack.run(ASKER, *ask).stdout.splitlines() if line.startswith("Address: 10.2.1.")
            ]
            return len(found) == 8

        until(eight, "eight of them are told", why=lambda: str(found))
    finally:
        stack.run("slave-1", "docker", "rm", "-f", *many)


def test_odd_containers_are_told_of_in_the_log_and_reach_neither_names_nor_the_edge(stack: Stack) -> None:
    odd = {
        "odd-name": ("-e", "SERVICE_NAME=he llo/../x", IMAGE),
        "odd-net": ("-e", "SERVICE_NAME=odd-net", "--net=host", "--entrypoint", "sleep", IMAGE, "600"),
        "odd-tag": ("-e", "SERVICE_NAME=odd-tag", "-e", 'SERVICE_TAGS=public,x"\n  server evil 192.0.2.1:80', IMAGE),
        "odd-check": ("-e", "SERVICE_NAME=odd-check", "-e", "SERVICE_TAGS=public", "-e", "SERVICE_CHECK_HTTP=/none", IMAGE),
    }
    try:
        for name, options in odd.items():
            stack.out("slave-1", "docker", "run", "-d", "--name", name, *options)
        token = "$(cat /etc/apollo/secrets/consul/registration-token)"
        ask = f'curl -sf -H "X-Consul-Token: {token}" http://127.0.0.1:8500/v1/agent/services'

        def ours() -> dict[str, list[str]]:
            entries = json.loads(stack.out("slave-1", "sh", "-c", ask)).values()
            return {entry["Service"]: entry["Tags"] for entry in entries if entry["Service"].startswith("odd")}

        until(lambda: len(ours()) == 2, "two of them are registered")
        assert ours() == {"odd-tag": ["public"], "odd-check": ["public"]}
        stack.out("slave-1", "journalctl", "--sync")
        log = stack.out("slave-1", "journalctl", "-u", "apollo-register", "--no-pager")
        assert "odd-name: 'he llo/../x' is no DNS label" in log and "odd-tag: tag" in log
        assert "odd-net: has no overlay address (network mode 'host')" in log
        counted = {"network": 1, "ports": 0, "name": 1, "check": 0, "tag": 1, "unreadable": 0}
        wanted = [f'apollo_services_refused{{reason="{reason}"}} {number}' for reason, number in counted.items()]

        def refused() -> list[str]:
            return stack.metrics("slave-1", "apollo_services_refused")

        until(lambda: refused() == wanted, "they are counted", why=lambda: str(refused()))
        # A check that never passes keeps a service out of DNS and off the edge.
        assert stack.run("slave-2", "getent", "ahostsv4", "odd-check.service.consul").returncode != 0
        until(lambda: stack.curl("odd-tag.apollo.test").startswith("web on"), "the edge serves odd-tag")
        assert stack.run("edge-1", "grep", "-rs", "192.0.2.1", "/etc/haproxy", "/var/lib/apollo").returncode == 1
    finally:
        stack.run("slave-1", "docker", "rm", "-f", *odd)


def test_what_is_registered_outlives_the_register_docker_and_an_agent_that_forgot_everything(stack: Stack) -> None:
    watch = Watch(stack, "hello.service.consul")
    try:
        _, address = run_hello(stack, "slave-1")
        until(lambda: watch.now() == address, "hello is found")
        found = time.time()
        stack.out("slave-1", "systemctl", "kill", "-s", "KILL", "apollo-register")
        stack.out("slave-1", "systemctl", "restart", "docker")
        until(lambda: "in step" in stack.out("slave-1", "journalctl", "-u", "apollo-register", "-n", "1"), "it is in step")
        forgot = at(stack, "slave-1", "systemctl", "stop", "consul")
        stack.out("slave-1", "rm", "-rf", "/data/consul/services", "/data/consul/checks", "/data/consul/serf")
        started = at(stack, "slave-1", "systemctl", "start", "consul")
        stack.await_well("slave-1")
        until(lambda: watch.now() == address, "hello is found again")
    finally:
        changes = watch.told()
    assert [what for when, what in changes if found < when < forgot] == []
    figure("an agent without its data to hello found again", max(changes[-1][0] - started, 0), 20)


# -- hosts and servers fail


def test_a_host_that_goes_takes_its_names_along_and_one_that_dies_loses_them(stack: Stack) -> None:
    other = address_of(stack, "slave-2", "demo-web")
    watch = Watch(stack, "web.service.consul")

    def both() -> bool:
        return len(watch.now().split(",")) == 2

    try:
        until(both, "both are found")
        asked = time.time()
        stack.order("reboot", "slave-1")
        until(both, "slave-1 is back")
        killed = time.time()
        stack.order("kill", "slave-1")
        until(lambda: watch.now() == other, "the dead slave is noticed")
    finally:
        stack.cli("start", "slave-1")
        until(both, "slave-1 is back")
        changes = watch.told()
    figure("reboot of a slave to its names gone", first(changes, asked, other), 8)
    figure("power cut of a slave to its names gone", first(changes, killed, other), 20)
    assert not [what for _, what in changes if what in ("none", "failed")]
    stack.await_well("slave-1")


def test_no_name_ever_leads_to_another_ones_page_after_a_power_cut_or_a_reboot(stack: Stack) -> None:
    pages = [f"page{number}" for number in range(9)]
    watches: list[Watch] = []
    shown = "{{.Name}} {{.NetworkSettings.IPAddress}}"
    seen: list[str] = []
    try:
        for name in pages:
            env = ("-e", f"SERVICE_NAME={name}", "-e", "SERVICE_TAGS=public")
            stack.out("slave-3", "docker", "run", "-d", "--restart=always", "--name", name, *env, IMAGE, name)
        watches.append(Watch(stack, ",".join(f"{name}.service.consul" for name in pages)))
        watches.append(Watch(stack, ",".join(f"{name}.apollo.test" for name in pages), "edge-1"))

        def all_right() -> bool:
            return all(list(watch.pages().values()) == ["right"] * len(pages) for watch in watches)

        until(all_right, "every name leads to its page")
        for what in ("at once", "once it is noticed", "in order"):
            seen.append(stack.out("slave-3", "docker", "inspect", "-f", shown, *pages))
            if what == "in order":
                stack.order("reboot", "slave-3")
            else:
                stack.order("kill", "slave-3")
                if what != "at once":
                    until(lambda: set(watches[0].pages().values()) == {"none"}, "the dead slave is noticed")
                stack.order("start", "slave-3")
            until(lambda: not all_right(), "the names are away, or dead")
            until(all_right, f"every name leads to its page again, {what}", PATIENCE)
        seen.append(stack.out("slave-3", "docker", "inspect", "-f", shown, *pages))
    finally:
        stack.run("slave-3", "docker", "rm", "-f", *pages)
        changes = [watch.told() for watch in watches]
    wrong = [change for told in changes for change in told if change[1].split()[1] not in ("right", "none", "failed", "silent")]
    assert wrong == []
    # Docker did give the addresses to others, so there was something to get wrong.
    assert len(set(seen)) > 1, seen


def test_names_are_answered_while_the_leader_dies_and_while_no_server_is_there(stack: Stack) -> None:
    watch = Watch(stack, "web.service.consul")
    both, leader = watch.now(), ""
    try:
        assert len(both.split(",")) == 2
        leader = stack.leader()
        begun = time.time()
        stack.order("kill", leader)
        others = [host for host in CONTROL if host != leader]
        stack.leader(others[0], but=leader)
        print(f"FIGURE kill of the leader to another one: {time.time() - begun:.1f} s at most")
        for host in others:
            stack.out(host, "systemctl", "stop", "consul")
        assert stack.run("slave-2", "getent", "ahostsv4", "web").returncode == 0
    finally:
        for host in CONTROL:
            stack.run(host, "systemctl", "start", "consul")
        if leader:
            stack.order("start", leader)
        stack.await_well(*CONTROL, "slave-2")
        changes = watch.told()
    assert [what for _, what in changes] == [both]


# -- secrets


def tokens(stack: Stack, host: str) -> dict[str, str]:
    """The Consul tokens on a host, by the name of their file."""
    shown = stack.out(host, "sh", "-c", "cd /etc/apollo/secrets/consul && grep -H . *-token")
    return dict(line.split(":", 1) for line in shown.splitlines())


def refused(stack: Stack, host: str, token: str, path: str, body: Mapping[str, object]) -> bool:
    asking = "curl -s -o /dev/null -w '%{http_code}' -X PUT -K - --data @/tmp/body http://127.0.0.1:8500/v1/" + path
    script = f"printf '%s' '{json.dumps(body)}' > /tmp/body; echo 'header = \"X-Consul-Token: {token}\"' | {asking}"
    status = stack.out(host, "sh", "-c", script)
    assert status in ("200", "403"), status
    return status == "403"


def test_no_token_of_a_slave_registers_another_node_and_containers_reach_no_server(stack: Stack) -> None:
    own = tokens(stack, "slave-1")
    assert set(own) == {"slave-token", "registration-token", "node-token"}
    for token in own.values():
        for name in ("slave-3", "slave-9", "control-1"):
            claimed = {"Node": name, "Address": "10.0.0.33", "NodeMeta": {"bridge": "10.2.0.9"}}
            assert refused(stack, "slave-1", token, "catalog/register", claimed), name
        assert refused(stack, "slave-1", token, "catalog/deregister", {"Node": "slave-3"})
        assert refused(stack, "slave-1", token, "acl/token", {"Policies": [{"Name": "global-management"}]})
    assert tokens(stack, "slave-3")["node-token"] != own["node-token"]
    # Another slave's address gives another slave's token, whoever asks from it; a container has its slave's address.
    pid = pid_of(stack, "slave-1", "demo-web")
    for port in ("8300", "8510"):
        probe = ["bash", "-c", f"exec 3<>/dev/tcp/10.0.0.11/{port}"]
        assert stack.run("slave-1", "timeout", "60", *probe).returncode == 0
        assert stack.run("slave-1", "nsenter", "-t", pid, "-n", "timeout", "3", *probe).returncode != 0


def test_no_key_or_token_stands_where_it_does_not_belong(stack: Stack) -> None:
    secrets = {
        line
        for host in HOSTS
        for line in stack.out(host, "sh", "-c", "cd /etc/apollo/secrets && cat $(find . -type f ! -name bucket)").splitlines()
        if len(line) > 15 and not line.startswith("-----")
    }
    # The bucket's name is read with the secrets, and is none. Certificates are none, their keys are: both are held to the same.
    assert len(secrets) > 20
    cloud = stack.cloud
    ec2 = cloud.api().client("ec2")
    texts: dict[str, str] = {"outputs": stack.cli("outputs", "--json").stdout}
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            if instance["State"]["Name"] == "running":
                key = instance["InstanceId"]
                data = ec2.describe_instance_attribute(InstanceId=key, Attribute="userData")["UserData"]["Value"]
                texts[f"user-data of {key}"] = gzip.decompress(base64.b64decode(data)).decode()
    # What the cloud keeps beside the hosts' own disks.
    local = stack.run_dir / "local"
    kept = [path for places in ("*", "work/**/*", "state/**/*", "machines/*/console.log") for path in local.glob(places)]
    for path in kept:
        # The embedded cloud's own keys, for root alone: they are where the secrets come from.
        if path.is_file() and path.name not in ("passphrase", "admin_key", "edge.pem"):
            texts[str(path)] = path.read_text(errors="replace")
    for host in HOSTS:
        texts[f"journal of {host}"] = stack.out(host, "journalctl", "--no-pager", "-o", "cat")
        texts[f"arguments on {host}"] = stack.out(host, "ps", "axww", "-o", "args")
    for host in SLAVES:
        texts[f"containers of {host}"] = stack.out(host, "sh", "-c", "docker inspect $(docker ps -aq)")
    assert len([name for name in texts if name.startswith("user-data")]) == len(HOSTS)
    assert any(".pulumi/stacks" in name for name in texts) and any(name.endswith("console.log") for name in texts)
    found = {name for name, text in texts.items() for secret in secrets if secret in text}
    assert found == set()
