"""The edge on booted hosts: what is published answers, and nothing is lost while everything behind it comes and goes."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from localcloud.apollo.demo import CLIENT_PATH, IMAGE
from tests.booted.clients import CONTROL, Running, curl, on_the_internet
from tests.booted.conftest import Stack, until

# Requests a second, and seconds at most.
RATE, LONGEST = 520, 3600
# A web server that keeps connections and costs little, of the host's own Python: the demo's forks for each request.
SERVER = """
import asyncio, os, signal, sys
body = os.environ["HOSTNAME"].encode()
answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body
class Web(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        while b"\\r\\n\\r\\n" in self.data:
            self.data = self.data.partition(b"\\r\\n\\r\\n")[2]
            self.transport.write(answer)
async def main():
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    await loop.create_server(Web, "0.0.0.0", 80)
    await end.wait()
asyncio.run(main())
"""


def start(stack: Stack, host: str, name: str, *environment: str) -> None:
    """A container of SERVER on a slave, with the service name that its environment gives."""
    mounts = [part for folder in ("/usr", "/lib", "/lib64") for part in ("-v", f"{folder}:{folder}:ro")]
    given = [part for pair in environment for part in ("-e", pair)]
    argv = ["docker", "run", "-d", "--name", name, "--hostname", name, *mounts, *given]
    stack.out(host, *argv, "--entrypoint", "/usr/bin/python3", IMAGE, "-c", SERVER)


def remove(stack: Stack, *containers: tuple[str, str]) -> None:
    for host, name in containers:
        stack.run(host, "docker", "rm", "-f", name)


@contextmanager
def containers(stack: Stack, *wanted: tuple[str, str]) -> Generator[None]:
    """Removes these (host, name) at the end."""
    try:
        yield
    finally:
        remove(stack, *wanted)


def test_a_published_container_answers_within_three_seconds_and_an_untagged_one_never(stack: Stack) -> None:
    with containers(stack, ("slave-2", "hello"), ("slave-3", "quiet")):
        start(stack, "slave-3", "quiet", "SERVICE_NAME=quiet")
        stack.out(
            "slave-2", "docker", "run", "-d", "--name", "hello", "-e", "SERVICE_NAME=hello", "-e", "SERVICE_TAGS=public", IMAGE
        )
        until(lambda: stack.curl("hello.apollo.test").startswith("web on"), "hello answers")
        answered = datetime.now(UTC)
        started = stack.out("slave-2", "docker", "inspect", "-f", "{{.State.StartedAt}}", "hello")
        took = (answered - datetime.fromisoformat(f"{started[:26]}Z")).total_seconds()
        assert took < 3, f"{took:.1f} s from the container's start to the first answer"
        assert stack.curl("quiet.apollo.test") == "No service is published under this name."
    until(lambda: stack.curl("hello.apollo.test") == "No service is published under this name.", "hello is gone")


def test_hosts_paths_tls_http_2_and_the_health_endpoint_answer(stack: Stack) -> None:
    with containers(stack, ("slave-1", "shop"), ("slave-2", "cart")):
        start(stack, "slave-1", "shop", "SERVICE_NAME=shop", "SERVICE_TAGS=public,host=www.example.com")
        start(
            stack, "slave-2", "cart", "SERVICE_NAME=cart", "SERVICE_TAGS=public,host=www.example.com,path=/cart"
        )  # fmt: skip
        until(lambda: curl(stack, "http://www.example.com:80/cart/1") == "cart", "the path is routed")
        # Of another slave, so it may come later.
        until(lambda: curl(stack, "http://www.example.com:80/") == "shop", "the host is routed")
        assert curl(stack, "http://www.example.com:80/cartoon") == "shop"
        assert curl(stack, "http://shop.apollo.test:80/") == "shop"
        version = ("-w", " %{http_version}")
        assert curl(stack, "https://shop.apollo.test:443/", *version) == "shop 2"
        assert curl(stack, "https://cart.apollo.test:443/", "--http1.1", *version) == "cart 1.1"
        assert curl(stack, "http://apollo.test:80/.apollo/health", "-w", "%{http_code}") == "live\n200"
        assert "haproxy_frontend" in stack.out("edge-1", "curl", "-s", "http://127.0.0.1:8404/metrics")
        assert curl(stack, "http://apollo.test:80/metrics", "-o", "/dev/null", "-w", "%{http_code}") == "404"


def test_an_injection_in_a_tag_or_name_changes_nothing(stack: Stack) -> None:
    def configuration() -> str:
        return stack.out("edge-1", "cat", "/etc/haproxy/live/services.cfg", "/etc/haproxy/live/routes.map")

    with containers(stack, ("slave-1", "evil"), ("slave-1", "evil-name"), ("slave-1", "after")):
        tags = 'public,host=x.example.com"\n  server evil 127.0.0.1:22,path=/{{ env "PATH" }},host=a b'
        start(stack, "slave-1", "evil", "SERVICE_NAME=evil", f"SERVICE_TAGS={tags}")
        start(stack, "slave-1", "evil-name", "SERVICE_NAME=evil\nbackend x", "SERVICE_TAGS=public")
        start(stack, "slave-1", "after", "SERVICE_NAME=after", "SERVICE_TAGS=public")
        until(lambda: stack.curl("after.apollo.test") == "after", "what came later is served")
        live = configuration()
        assert "127.0.0.1" not in live and "{{" not in live and "backend x" not in live and "x.example.com" not in live
        assert stack.curl("evil.apollo.test") in ("evil", "No service is published under this name.")


def test_containers_that_come_and_go_reload_nothing_once_their_name_is_known(stack: Stack) -> None:
    show = "from host.apollo.edge import apply as e; print(e.ask('show proc', e.MASTER))"

    def loaded() -> str:
        """The newest worker's process."""
        answers = list[str]()

        def asked() -> bool:
            # In a moment of each reload the master refuses.
            done = stack.run("edge-1", "env", "PYTHONPATH=/usr/local/lib/apollo", "python3", "-c", show)
            answers.append(done.stdout)
            return done.returncode == 0

        until(asked, "HAProxy's master answers")
        lines = [line.split() for line in answers[-1].splitlines() if " worker " in line]
        return next(line[0] for line in lines if line[2] == "0")

    names = [("slave-1", "churn-1"), ("slave-2", "churn-2")]
    service = ("SERVICE_NAME=churn", "SERVICE_TAGS=public")
    with containers(stack, *names):
        start(stack, *names[0], *service)
        until(lambda: stack.curl("churn.apollo.test") == "churn-1", "the first answers")
        worker = loaded()
        start(stack, *names[1], *service)
        until(lambda: {stack.curl("churn.apollo.test") for _ in range(6)} == {"churn-1", "churn-2"}, "both answer")
        # It comes back with its id and, by chance, another address.
        stack.out("slave-1", "docker", "restart", "-t", "1", "churn-1")
        until(lambda: {stack.curl("churn.apollo.test") for _ in range(6)} == {"churn-1", "churn-2"}, "both answer again")
        remove(stack, *names)
        until(lambda: stack.curl("churn.apollo.test") == "No service is published under this name.", "the name is gone")
        start(stack, *names[0], *service)
        until(lambda: stack.curl("churn.apollo.test") == "churn-1", "it is back")
        assert loaded() == worker


def test_a_slave_is_no_load_balancer_to_an_edge(stack: Stack) -> None:
    bridge = stack.out("edge-1", "sh", "-c", ". /etc/apollo/node.env; echo $BRIDGE_ADDRESS")
    ask = ("curl", "-s", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}")
    # Over the mesh, past the security groups: an edge's port 80 answers its hosts, and port 8081 ends the connection.
    assert stack.out("slave-1", *ask, f"http://{bridge}:80/.apollo/health") == "200"
    forged = stack.run("slave-1", *ask, "-m", "5", "--haproxy-protocol", f"http://{bridge}:8081/.apollo/health")
    assert (forged.returncode != 0, forged.stdout) == (True, "000")


def test_a_steady_load_loses_nothing_while_everything_behind_it_comes_and_goes(stack: Stack) -> None:
    names = [("slave-1", "load-1"), ("slave-2", "load-2"), ("slave-3", "load-3"), ("slave-1", "load-4")]
    service = ("SERVICE_NAME=load", "SERVICE_TAGS=public")

    def reload() -> None:
        # The seventh reload ends a connection that has been idle since before the first. Half a second apart, that was one of a
        # client that a busy machine held up for three seconds.
        done = stack.run("edge-1", "sh", "-ec", "for i in $(seq 20); do systemctl reload haproxy; sleep 1; done")
        reloaded.append(done.returncode)

    reloaded: list[int] = []
    with containers(stack, *names):
        for host, name in names[:3]:
            start(stack, host, name, *service)
        until(lambda: {stack.curl("load.apollo.test") for _ in range(9)} == {"load-1", "load-2", "load-3"}, "three answer")
        load = Running(stack, "load.apollo.test", RATE, LONGEST)
        begun = time.monotonic()
        thread = threading.Thread(target=reload)
        thread.start()
        try:
            start(stack, *names[3], *service)
            stack.out("slave-1", "docker", "stop", "-t", "2", "load-1")
            stack.out("control-2", "systemctl", "kill", "-s", "KILL", "consul")
            stack.out("slave-2", "docker", "restart", "-t", "2", "load-2")
            stack.out("slave-3", "docker", "kill", "load-3")
            stack.out("slave-3", "docker", "start", "load-3")
            thread.join()
            until(lambda: stack.curl("load.apollo.test") == "load-3", "load-3 is back")
        finally:
            thread.join()
            seen = load.end()
    print(f"{time.monotonic() - begun:.0f} s: {seen}")
    assert reloaded == [0]
    assert seen["failures"] == []
    assert seen["rate"] >= 500, seen
    assert set(seen["names"]) == {"load-1", "load-2", "load-3", "load-4"}


def test_what_dies_gets_no_request_within_seconds_and_what_lives_serves_on(stack: Stack) -> None:
    """FIGURE lines: from a death to the last request that the dead one answered, and to the end of failures."""
    names = [("slave-1", "load-1"), ("slave-2", "load-2"), ("slave-3", "load-3")]

    def during(what: str, act: Callable[[], object], dead: str = "") -> dict[str, Any]:
        load = Running(stack, "load.apollo.test", 100, LONGEST)
        until(lambda: {stack.curl("load.apollo.test") for _ in range(9)} == {"load-1", "load-2", "load-3"}, "three answer")
        at = time.time()
        act()
        if dead:
            until(lambda: dead not in {stack.curl("load.apollo.test") for _ in range(9)}, f"{dead} is out")
        until(lambda: time.time() > at + 10, "ten seconds are over")
        seen = load.end()
        begun = at - seen["begun"]
        failed = [when - begun for when, _ in seen["failures"] if when > begun]
        last = max(0.0, seen["last"].get(dead, begun) - begun)
        print(f"FIGURE {what}: last answer of the dead {last:.1f} s after, {len(failed)} of {seen['answers']} failed, {failed}")
        return seen

    with containers(stack, *names):
        for host, name in names:
            start(stack, host, name, "SERVICE_NAME=load", "SERVICE_TAGS=public")
        assert (
            during("a container is killed", lambda: stack.out("slave-1", "docker", "kill", "load-1"), "load-1")["failures"]
            == []
        )
        stack.out("slave-1", "docker", "start", "load-1")
        # Requests that a dead host took with it are asked again elsewhere: HAProxy sees no end of those, but its time-outs.
        lost = during("a slave loses its power", lambda: stack.order("kill", "slave-3"), "load-3")["failures"]
        assert len(lost) <= 5, lost
        stack.order("start", "slave-3")
        stack.await_well("slave-3")
        stack.out("slave-3", "docker", "start", "load-3")
        leader = stack.leader()
        assert during("Consul's leader loses its power", lambda: stack.order("kill", leader))["failures"] == []
        stack.order("start", leader)
        stack.await_well(leader)

        def stop_consul() -> None:
            for host in CONTROL:
                stack.out(host, "systemctl", "stop", "consul")
            stack.out("slave-2", "docker", "kill", "load-2")

        try:
            # Nobody is left to tell the edge: HAProxy's own checks take the dead container out.
            assert during("a container is killed while no Consul server runs", stop_consul, "load-2")["failures"] == []
        finally:
            for host in CONTROL:
                stack.run(host, "systemctl", "start", "consul")
            stack.await_well(*CONTROL, "slave-2", "edge-1")


def test_routes_serve_while_no_consul_server_does(stack: Stack) -> None:
    for host in CONTROL:
        stack.out(host, "systemctl", "stop", "consul")
    try:
        assert stack.curl("web.apollo.test").startswith("web on")
        # HAProxy's own checks take a dead instance out, which Consul cannot.
        stack.out("slave-1", "docker", "stop", "-t", "1", "demo-web")
        assert {stack.curl("web.apollo.test").split(",")[0] for _ in range(8)} == {"web on slave-2"}
    finally:
        stack.run("slave-1", "docker", "start", "demo-web")
        for host in CONTROL:
            stack.out(host, "systemctl", "start", "consul")
        stack.await_well(*CONTROL, "slave-1", "edge-1")
    until(lambda: len({stack.curl("web.apollo.test").split(",")[0] for _ in range(6)}) == 2, "both instances answer again")


def test_two_edges_stand_behind_a_load_balancer_which_leaves_out_a_dead_one(stack: Stack) -> None:
    before = stack.exports["edge"]

    def serving() -> set[str]:
        """Overlay addresses of the edges that a container was asked by."""
        seen = {stack.curl("web.apollo.test", CLIENT_PATH).strip("[]") for _ in range(6)}
        return {address.removeprefix("::ffff:") for address in seen}

    after = stack.up("--set", "edge.count=2")["outputs"]["edge"]
    try:
        assert after["dnsName"] != before["dnsName"]
        until(lambda: serving() == set(after["overlayAddresses"]), "both edges serve")
        # From the internet nobody but the balancer gets to an edge.
        doors = [f"{address}:{port}" for address in after["publicIps"] for port in (80, 8081, 443, 8444)]

        def closed(door: str) -> bool:
            direct = on_the_internet(stack, "curl", "-s", "-m", "1", f"http://{door}/")
            return subprocess.run(direct, check=False).returncode in (7, 28)

        with ThreadPoolExecutor() as pool:
            assert [door for door, shut in zip(doors, pool.map(closed, doors), strict=True) if not shut] == []
        drain = ("ops", "--set", "edge.count=2", "drain", "--host", "edge-2", "--seconds", "300")
        load = Running(stack, "web.apollo.test", 50, LONGEST, balanced=True)
        drained = stack.cli(*drain)
        assert (drained.returncode, load.end()["failures"]) == (0, []), drained.stdout
        assert "takes no requests any more, 0 connections left" in drained.stdout
        assert stack.cli(*drain, "--undo").returncode == 0
        until(lambda: serving() == set(after["overlayAddresses"]), "edge 2 serves again")
        stack.order("kill", "edge-2")
        until(lambda: serving() == set(after["overlayAddresses"][:1]), "edge 1 alone serves")
        stack.order("start", "edge-2")
        until(lambda: serving() == set(after["overlayAddresses"]), "edge 2 is back")
    finally:
        stack.up()
    until(lambda: stack.curl("web.apollo.test").startswith("web on"), "one edge serves as before")
