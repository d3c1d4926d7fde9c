"""The weave mesh with a stand-in for its programs, which this kernel (no Open vSwitch) could run only in part anyway.

Proved here: where the programs come from, the order of everything around the router, its arguments, its ports, the fallback's
settings, and what a host does without it. Not run: the router itself; between hosts packets go by a VXLAN of the stand-in.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from localcloud import cloud as clouds
from tests.booted.clients import check_of
from tests.booted.conftest import Stack, until

WEAVER = """#!/usr/bin/python3
# Notes how it was started and what it is asked, makes the veth that the router makes without a datapath, and answers where it
# would: connected to each other host, failing with itself and with a seed that does not exist. It joins the bridges of the
# hosts by the kernel's VXLAN.
import http.server, json, os, pathlib, socket, subprocess, sys
hosts = {"10.0.0.11": "control-1", "10.0.0.33": "slave-1", "10.0.224.11": "edge-1"}
own = next(word for word in sys.argv if word.startswith("--host=")).partition("=")[2]
lines = [f"-> {host}:6783 established encrypted   fastdp {name} mtu=8916" for host, name in hosts.items() if host != own]
lines += [f"-> {own}:6783 failed      cannot connect to ourself, retry: never"]
lines += ["-> 10.0.32.12:6783 retrying    dial tcp4 10.0.32.12:6783: connect: no route to host"]
seen = {"arguments": sys.argv[1:], "password": os.environ["WEAVE_PASSWORD"], "folder": os.getcwd(), "files": os.listdir(".")}
pathlib.Path("/run/weave-seen").write_text(json.dumps(seen))
if "--no-fastdp" in sys.argv:
    subprocess.run("ip link add vethwe-bridge mtu 65535 type veth peer vethwe-pcap", shell=True)
    subprocess.run("ip link set vethwe-bridge master weave up; ip link set weave mtu 65535", shell=True)
peers = [f"bridge fdb append 00:00:00:00:00:00 dev vxlan-6784 dst {host}" for host in hosts if host != own]
make = [f"ip link add vxlan-6784 type vxlan id 1 local {own} dstport 6784", "ip link set vxlan-6784 master weave up"]
subprocess.run("; ".join(make + peers), shell=True)
class Status(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = pathlib.Path("/run/weave-status")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.read_bytes() if text.exists() else "\\n".join(lines).encode())
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        pathlib.Path("/run/weave-asked").write_text(self.path + " " + body)
        self.send_response(200)
        self.end_headers()
control = socket.create_server(("0.0.0.0", 6783))
http.server.HTTPServer(("127.0.0.1", 6784), Status).serve_forever()
"""
# On control nodes as on a kernel with Open vSwitch, elsewhere as on one without.
WEAVEUTIL = """#!/bin/sh
. /etc/apollo/node.env
[ "$ROLE" = control ] || exit 17
[ -d /sys/class/net/datapath ] || ip link add datapath type bridge
"""
SMALL = ("--set", "overlay.mesh=weave", "--set", "slaves.count=1", "--set", "control.count=1")


def programs() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in (("weaver", WEAVER), ("weaveutil", WEAVEUTIL)):
            member = tarfile.TarInfo(f"home/weave/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weave(unbooted: Callable[[], Stack]) -> Generator[Stack]:
    small, archive = unbooted(), programs()

    def serve() -> None:
        """Puts the archive into the cloud's own S3 as soon as there is a cloud; hosts ask again until it is there."""
        until(lambda: clouds.find(small.run_dir / "local") is not None, "the cloud answers", 900)  # the image may be made first
        cloud = clouds.find(small.run_dir / "local")
        assert cloud is not None
        s3 = cloud.api("us-east-1").client("s3")
        s3.create_bucket(Bucket="weave")
        s3.put_object(Bucket="weave", Key="programs.tar.gz", Body=archive, ACL="public-read")

    source = f"http://169.254.169.250:4566/weave/programs.tar.gz@sha256:{hashlib.sha256(archive).hexdigest()}"
    server = threading.Thread(target=serve)
    server.start()
    try:
        small.up(*SMALL, "--set", f"overlay.weaveFrom={source}")
        yield small
    finally:
        server.join()
        small.down()


def seen(stack: Stack, host: str) -> dict[str, Any]:
    return json.loads(stack.out(host, "cat", "/run/weave-seen"))


def peers(stack: Stack, host: str) -> list[str]:
    """How many the host's metrics say are wanted and present."""
    return [line.rpartition("_")[2] for line in stack.metrics(host, "apollo_mesh_peers_")]


def mesh_check(stack: Stack, host: str) -> dict[str, Any]:
    return check_of(stack, host, "mesh")


def test_the_programs_come_before_the_bridge_the_router_after_it_and_docker_last(weave: Stack) -> None:
    units = ("apollo-weave-programs", "weave-bridge", "apollo-mesh", "docker")
    for _ in range(2):
        times = [
            int(weave.out("slave-1", "systemctl", "show", "-P", "ActiveEnterTimestampMonotonic", f"{unit}.service"))
            for unit in units
        ]
        assert 0 not in times and times == sorted(times)
        weave.order("reboot", "slave-1")
        weave.await_well("slave-1")


def test_the_router_is_told_what_was_measured(weave: Stack) -> None:
    slave, control = seen(weave, "slave-1"), seen(weave, "control-1")
    common = [
        "--port=6783", "--nickname=slave-1", "--host=10.0.0.33", "--http-addr=127.0.0.1:6784", "--status-addr=127.0.0.1:6782",
        "--docker-api=", "--no-dns", "--ipalloc-range=", "--db-prefix=/var/lib/weave/weave", "--weave-bridge=weave",
        "--conn-limit=254", "--no-fastdp", "--name=02:77:0a:02:00:01", "--mtu=8916",
        "10.0.0.11", "10.0.32.12", "10.0.0.13", "10.0.32.14", "10.0.0.15",
    ]  # fmt: skip
    assert slave["arguments"] == common
    assert "--datapath=datapath" in control["arguments"] and "--no-fastdp" not in control["arguments"]
    assert (slave["folder"], slave["files"]) == ("/run/weave", [])
    assert slave["password"] == control["password"] == weave.out("slave-1", "cat", "/etc/apollo/secrets/mesh/password")
    legacy = weave.run("slave-1", "iptables-legacy", "-w", "-n", "-L", "FORWARD").returncode == 0
    assert ("legacy" in weave.out("slave-1", "iptables", "--version")) == legacy


def test_without_a_datapath_the_veths_checksums_are_made_and_the_mtu_is_the_planned_one(weave: Stack) -> None:
    assert "tx-checksumming: off" in weave.out("slave-1", "ethtool", "-k", "vethwe-bridge")
    assert "mtu 8916" in weave.out("slave-1", "ip", "link", "show", "weave")
    weave.await_well("slave-1")


def test_the_routers_port_is_open_between_nodes_and_its_api_is_not(weave: Stack) -> None:
    probe = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"
    for host, target in (("slave-1", "10.0.0.11"), ("edge-1", "10.0.0.33"), ("control-1", "10.0.224.11")):
        assert weave.run(host, "python3", "-c", probe, target, "6783").returncode == 0
        assert weave.run(host, "python3", "-c", probe, target, "6784").returncode != 0


def test_a_connection_on_the_sleeve_is_a_warning_and_weave_status_shows_it(weave: Stack) -> None:
    well = {"check": "mesh", "ok": True, "detail": "2 connections, 2 of 2 asked answer"}
    until(lambda: mesh_check(weave, "slave-1") == well, "both connections stand", why=lambda: str(mesh_check(weave, "slave-1")))
    line = "<- 10.0.0.11:6783 established sleeve control-1"
    weave.out("slave-1", "sh", "-c", f"echo '{line}' > /run/weave-status")
    assert weave.out("slave-1", "weave", "status", "connections") == line
    slow = mesh_check(weave, "slave-1")
    assert slow["ok"] and slow["warning"] and "1 of 1 connections are on the slow sleeve" in slow["detail"]
    assert "no connection to edge-1 (10.0.224.11)" in slow["detail"]
    weave.out("slave-1", "rm", "/run/weave-status")


def test_a_host_that_no_other_lets_in_is_not_well(weave: Stack) -> None:
    refused = "-> 10.0.0.11:6783 failed      read tcp4 10.0.0.11:6783: connection reset by peer, retry: 1m0s"
    weave.out("slave-1", "sh", "-c", f"echo '{refused}' > /run/weave-status")
    try:
        cut = mesh_check(weave, "slave-1")
        assert not cut["ok"] and "no connection to any of 2 hosts, such as control-1 (10.0.0.11): -> 10.0.0.11" in cut["detail"]
        until(lambda: peers(weave, "slave-1") == ["wanted 2", "present 0"], "the metrics say it too")
    finally:
        weave.out("slave-1", "rm", "/run/weave-status")
    until(lambda: mesh_check(weave, "slave-1")["ok"], "it is well again")
    until(lambda: peers(weave, "slave-1") == ["wanted 2", "present 2"], "the metrics say that they are back")


def test_connections_over_which_no_packet_comes_are_no_mesh(weave: Stack) -> None:
    # As with ESP closed: the router says that all is established.
    weave.out("slave-1", "ip", "link", "set", "vxlan-6784", "down")
    try:
        cut = mesh_check(weave, "slave-1")
        assert not cut["ok"] and cut["detail"].startswith("no packet crosses weave: no answer from "), cut
    finally:
        weave.out("slave-1", "ip", "link", "set", "vxlan-6784", "up")
    until(lambda: mesh_check(weave, "slave-1")["ok"], "packets cross again")


def test_weave_forget_asks_the_router_with_the_hosts_own_curl(weave: Stack) -> None:
    weave.out("slave-1", "weave", "forget", "10.0.0.15", "10.0.32.14")
    assert weave.out("slave-1", "cat", "/run/weave-asked") == "/forget peer=10.0.0.15&peer=10.0.32.14"


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        ("printf '#!/bin/sh\\nexit 1\\n' > /usr/local/bin/weaver", "does not answer"),
        ("rm /usr/local/bin/weaver", "is not at /usr/local/bin/weaver"),
    ],
)
def test_a_host_without_its_router_says_so_and_its_containers_go_on(weave: Stack, breakage: str, said: str) -> None:
    weave.out("slave-1", "cp", "-a", "/usr/local/bin/weaver", "/root/weaver")
    running = "docker inspect -f '{{.State.Pid}} {{.NetworkSettings.IPAddress}}' demo-web"
    before = weave.out("slave-1", "sh", "-c", running)
    try:
        weave.out("slave-1", "sh", "-c", f"{breakage}; systemctl restart docker apollo-mesh || true")
        until(lambda: not mesh_check(weave, "slave-1")["ok"], "the check fails")
        assert said in mesh_check(weave, "slave-1")["detail"]
        assert weave.out("slave-1", "sh", "-c", running) == before
        page = weave.out("slave-1", "curl", "-sS", "--max-time", "5", f"http://{before.split()[1]}/")
        assert page.startswith("web on slave-1, container address 10.2.1.")
    finally:
        weave.out("slave-1", "sh", "-c", "cp -a /root/weaver /usr/local/bin/weaver; systemctl restart apollo-mesh")
    until(lambda: mesh_check(weave, "slave-1")["ok"], "the mesh is well again")
