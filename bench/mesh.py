"""The mesh against its peers on the booted local stack, and how it grows with simulated members.

Between two slaves, in turn: a container to a container through the stack's mesh, node to node on the underlay (the limit), two
namespaces over a bare kernel VXLAN, and two containers over Docker's own overlay in the same dockerd. CPU is that of the
two load programs, in whose system calls nearly all of the kernel's work for a packet is done on veth links, and of wireguard-go
where it runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from host.render import node_facts
from localcloud import cloud as clouds
from localcloud.apollo import demo
from localcloud.paths import REPOSITORY, run_dir
from plan.cluster import plan_cluster
from plan.parse import parse

RUNS = 7
# What the stack's VXLAN is to carry of what a bare one does.
GOAL = 0.9
SECONDS = 3
REQUESTS = 3000
MEMBERS = (10, 100, 1000)
# Of 2^16 ports and VNIs, ones that nothing of the stack uses.
BARE_PORT, BARE_VNI, DOCKER_PORT, LOAD_PORT = 4791, 99, 4792, 5201
ENDS = ("slave-1", "slave-2")
NETWORK = "bench"

LOAD = """
import json, os, socket, sys, time
def cpu():
    t = os.times(); return t.user + t.system
def receive(port):
    listener = socket.create_server(("0.0.0.0", port)); listener.settimeout(30)
    peer, _ = listener.accept(); room = bytearray(1 << 20); before = cpu()
    if peer.recv(1) == b"s":
        while peer.recv_into(room): pass
    else:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while asked := peer.recv(100): peer.sendall(asked)
    print(cpu() - before)
def call(host, port, kind):
    end = time.monotonic() + 10
    while True:
        try: peer = socket.create_connection((host, port), 5); break
        except OSError:
            if time.monotonic() > end: raise
            time.sleep(0.05)
    peer.sendall(kind); return peer
def send(host, port, seconds):
    peer = call(host, port, b"s"); block = bytes(1 << 20); sent = 0; before = cpu(); start = time.monotonic()
    while time.monotonic() < start + seconds: peer.sendall(block); sent += len(block)
    peer.shutdown(socket.SHUT_WR); peer.recv(1)
    print(json.dumps({"bytes": sent, "seconds": time.monotonic() - start, "cpu": cpu() - before}))
def ask(host, port, count):
    peer = call(host, port, b"r"); peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); took = []
    for _ in range(count):
        start = time.perf_counter(); peer.sendall(bytes(100)); left = 100
        while left: left -= len(peer.recv(left))
        took.append(time.perf_counter() - start)
    print(json.dumps(sorted(took)[len(took) // 2]))
verb, *rest = sys.argv[1:]
if verb == "receive": receive(int(rest[0]))
else: {"send": send, "ask": ask}[verb](rest[0], int(rest[1]), int(rest[2]))
"""

# Argument: the other end's address in the VPC, the own and the other's in the bare overlay, the MTU.
BARE = f"""
ip link add bare type vxlan id {BARE_VNI} local $1 dstport {BARE_PORT} ttl 16
bridge fdb append 00:00:00:00:00:00 dev bare dst $2
ip link add brbare type bridge
ip link set bare mtu $4 master brbare up
ip netns add bare
ip link add vbare type veth peer name eth0 netns bare
ip link set vbare mtu $4 master brbare up
ip link set brbare mtu $4 up
ip -n bare link set eth0 mtu $4 up
ip -n bare addr add $3/24 dev eth0
"""
BARE_GONE = "ip netns del bare; ip link del bare; ip link del brbare; true"
PUT_BACK = (
    f"docker rm -f {NETWORK}-mesh {NETWORK}-overlay >/dev/null 2>&1; docker swarm leave --force >/dev/null 2>&1; "
    f"{{ {BARE_GONE}; }} 2>/dev/null; rm -f /run/bench-load.py; "
    "grep -q live-restore /etc/default/docker || { sed -i 's/ --data-root/ --live-restore --data-root/' "
    "/etc/default/docker && systemctl restart docker; }"
)

# Simulated members, in a network namespace: no host is needed to hold a table.
GROW = """
import json, subprocess, sys, time, socket
from host.apollo.mesh import routed, vxlan
facts, entries = json.load(sys.stdin)
link = vxlan.LINK
def out(*argv): return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
link.make(facts)
peers, ignored = routed.accepted(facts, entries)
assert not ignored, ignored[:1]
last = peers.popitem()
start = time.perf_counter(); routed.apply(link, peers, facts["BRIDGE_ADDRESS"]); whole = time.perf_counter() - start
peers[last[0]] = last[1]
start = time.perf_counter(); routed.apply(link, peers, facts["BRIDGE_ADDRESS"]); one = time.perf_counter() - start
start = time.perf_counter(); routed.apply(link, peers, facts["BRIDGE_ADDRESS"]); none = time.perf_counter() - start
present = link.present()
def sent(): return json.loads(out("ip", "-j", "-s", "link", "show", "dev", "eth0"))[0]["stats64"]["tx"]["packets"]
def cost(address):
    # From a container's place: a namespace with a veth on the bridge.
    before = sent()
    code = (
        "import socket,sys,time\\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\\n"
        "s.setsockopt(socket.SOL_SOCKET,socket.SO_BROADCAST,1)\\ns.setblocking(False)\\n"
        "for _ in range(2000):\\n"
        "  try: s.sendto(b'x',(sys.argv[1],9))\\n"
        "  except BlockingIOError: pass\\n"
        "time.sleep(0.2)\\nprint(time.process_time()/2000*1e6)"
    )
    took = float(out("ip", "netns", "exec", "member", sys.executable, "-c", code, address))
    return round(took, 1), sent() - before
broadcast, unknown = cost(facts["BROADCAST"]), cost(facts["UNKNOWN"])
print(json.dumps({
    "members": len(entries), "entries": sum(map(len, present.values())), "all at once, ms": round(whole * 1e3, 1),
    "one more, ms": round(one * 1e3, 1), "nothing to do, ms": round(none * 1e3, 1),
    "CPU µs of a broadcast": broadcast[0], "of an unknown address": unknown[0],
    "packets to other hosts for 2,000 of each": [broadcast[1], unknown[1]],
}))
"""


def members() -> list[dict[str, Any]]:
    """Size of the table and times of its updates for each number of members, and what a stray packet costs. Needs root."""
    rows = [_grown(count) for count in (3, *MEMBERS)]
    # A stray packet ends on its host, however many members there are.
    return [
        {**row, "packets": sum(row["packets to other hosts for 2,000 of each"]), "goal, at most": 0, "runs": 1} for row in rows
    ]


def _grown(count: int) -> dict[str, Any]:
    raw = {
        "region": "eu-west-1",
        "network": {"cidr": "172.16.0.0/12"},
        "overlay": {"cidr": "10.0.0.0/8", "mesh": "vxlan"},
        "slaves": {"count": count + 1},
    }
    plan = plan_cluster(parse(raw))
    facts = node_facts(plan, plan.slaves[0], "bench")
    facts |= {"BROADCAST": "10.255.255.255", "UNKNOWN": "10.200.0.9"}
    entries = [
        {
            "Node": host.name,
            "Address": str(host.private_ip),
            "Meta": {"bridge": str(host.bridge_address.ip), "subnet": str(host.docker_subnet), "mesh": "vxlan"},
        }
        for host in plan.slaves[1:]
    ]
    # The underlay is a veth whose other end swallows what comes.
    setup = f"""
        mount --make-rprivate /; mount -t tmpfs none /run
        sysctl -qw net.ipv6.conf.default.disable_ipv6=1
        ip link set lo up; ip link add eth0 type veth peer name wire; ip addr add {facts["PRIVATE_IP"]}/12 dev eth0
        ip link set eth0 up; ip link set wire up; sysctl -qw net.ipv4.ip_forward=1
        ip link add weave type bridge; ip addr add {facts["BRIDGE_ADDRESS"]}/8 dev weave; ip link set weave up
        ip netns add member; ip link add vm type veth peer name eth0 netns member; ip link set vm master weave up
        ip -n member addr add 10.1.0.1/8 brd + dev eth0
        ip -n member link set eth0 up; exec "$@"
    """
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--", "sh", "-euc", setup, "sh", sys.executable, "-c", GROW],
        input=json.dumps([facts, entries]),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    if done.returncode:
        raise RuntimeError(f"{count} members: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def missing() -> str:
    """Why the mesh cannot be measured now; empty where it can."""
    cloud = clouds.find(run_dir() / "local")
    if cloud is None or not cloud.alive() or cloud.edge_port is None:
        return "no local stack is booted: make up first"
    return ""


def peers(runs: int = RUNS) -> list[dict[str, Any]]:
    """Throughput, latency and CPU of each way between two slaves. RuntimeError: no booted stack, or a command on it failed."""
    stack = _Stack()
    mesh = stack.outputs["overlay"]
    with stack.opened():
        ways: dict[str, _Way] = {"underlay": _Way([], stack.address(ENDS[1]))}
        a, b = (stack.address(slave) for slave in ENDS)
        bare_mtu = stack.underlay_mtu - 50
        # First, as it restarts Docker, which ends all containers there are.
        overlay = None
        try:
            docker_pids, docker_target = stack.docker_overlay(bare_mtu)
            overlay = _Way([f"nsenter -n -t {pid}" for pid in docker_pids], docker_target)
        except RuntimeError as error:
            print(f"Docker's overlay was left out: {error}", file=sys.stderr)
        pids: list[str] = []
        for slave in ENDS:
            stack.sh(slave, f"docker rm -f {NETWORK}-mesh 2>/dev/null; docker run -d --name {NETWORK}-mesh {demo.IMAGE} probe")
            pids.append(stack.sh(slave, f"docker inspect -f '{{{{.State.Pid}}}}' {NETWORK}-mesh"))
        target = stack.sh(ENDS[1], f"docker inspect -f '{{{{.NetworkSettings.IPAddress}}}}' {NETWORK}-mesh")
        ways[mesh["mesh"]] = _Way([f"nsenter -n -t {pid}" for pid in pids], target)
        for slave, own, other, address in ((ENDS[0], a, b, "10.99.0.1"), (ENDS[1], b, a, "10.99.0.2")):
            stack.sh(slave, f"{{ {BARE_GONE}; }} 2>/dev/null; set -e -- {own} {other} {address} {bare_mtu}; {BARE}")
        ways["bare VXLAN"] = _Way(["ip netns exec bare"] * 2, "10.99.0.2")
        if overlay:
            ways["Docker's overlay"] = overlay
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for turn in range(runs):
            # Another order each time, so that no way always follows the same one.
            names = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
            for name in names:
                found[name].append(stack.load(ways[name]))
            print(f"run {turn + 1} of {runs} …", file=sys.stderr, flush=True)
    rows = [_row(name, found, runs) for name in found]
    return [{**row, "goal, at least": GOAL} if row["way"] == "vxlan" else row for row in rows]


def _row(name: str, found: dict[str, list[dict[str, float]]], runs: int) -> dict[str, Any]:
    def middle(way: str, what: str) -> float:
        return median(run[what] for run in found[way])

    def ratio(other: str) -> str:
        # Run by run, since what a shared machine gives changes from one run to the next.
        ratios = [own["gbit"] / their["gbit"] for own, their in zip(found[name], found[other], strict=True)]
        return f"{median(ratios):.2f}"

    return {
        "way": name,
        "Gbit/s": round(middle(name, "gbit"), 2),
        "to underlay": ratio("underlay"),
        "to bare VXLAN": ratio("bare VXLAN"),
        "request, µs": round(middle(name, "latency") * 1e6),
        "CPU s/GiB": round(middle(name, "cpu"), 2),
        "runs": runs,
    }


class _Way:
    """How a program gets to each end (a prefix of its command; none: the host itself), and the address of the second."""

    def __init__(self, prefixes: Sequence[str], target: str) -> None:
        self.prefixes, self.target = [*prefixes] or ["", ""], target


class _Stack:
    def __init__(self) -> None:
        self.outputs = json.loads(self._cli("outputs", "--json"))
        self.hosts = {host["name"]: host for host in json.loads(self._cli("status", "--json"))}
        self.underlay_mtu = int(self.sh(ENDS[0], ". /etc/apollo/node.env; echo $UNDERLAY_MTU"))

    def _cli(self, *arguments: str) -> str:
        argv = [sys.executable, "-m", "localcloud", *arguments]
        done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"localcloud {' '.join(arguments)[:200]}: {(done.stderr or done.stdout)[-1000:]}")
        return done.stdout.strip()

    def sh(self, host: str, script: str) -> str:
        return self._cli("exec", host, "--", "sh", "-c", script)

    def address(self, host: str) -> str:
        return self.hosts[host]["privateIp"]

    @contextmanager
    def opened(self) -> Generator[None]:
        """The stack with everything open between its nodes and the load program on both ends; put back at the end."""
        cloud = clouds.find(run_dir() / "local")
        if cloud is None:
            raise RuntimeError("no booted local stack; make up first")
        ec2 = cloud.api().client("ec2")
        groups = ec2.describe_security_groups(Filters=[{"Name": "tag:Name", "Values": ["apollo-local-node"]}])["SecurityGroups"]
        group = groups[0]["GroupId"]
        rule = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rule)
        try:
            for slave in ENDS:
                self.sh(slave, f"cat > /run/bench-load.py <<'END'\n{LOAD}\nEND")
            try:
                yield
            finally:
                for slave in ENDS:
                    self.sh(slave, PUT_BACK)
        finally:
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rule)

    def docker_overlay(self, mtu: int) -> tuple[list[str], str]:
        """Makes a swarm of the two and an overlay network; gives the containers' processes and the second one's address."""
        for slave in ENDS:
            # A swarm refuses daemons that let containers live through a restart.
            self.sh(slave, "sed -i 's/ --live-restore//' /etc/default/docker && systemctl restart docker")
            self.sh(slave, f"docker rm -f {NETWORK}-overlay 2>/dev/null; docker swarm leave --force 2>/dev/null; true")
        a, b = (self.address(slave) for slave in ENDS)
        self.sh(ENDS[0], f"docker swarm init --advertise-addr {a} --data-path-port {DOCKER_PORT}")
        token = self.sh(ENDS[0], "docker swarm join-token -q worker")
        self.sh(ENDS[1], f"docker swarm join --advertise-addr {b} --token {token} {a}:2377")
        options = f"--subnet 10.98.0.0/24 --opt com.docker.network.driver.mtu={mtu}"
        self.sh(ENDS[0], f"docker network create -d overlay --attachable {options} {NETWORK}")
        run = f"docker run -d --name {NETWORK}-overlay --network {NETWORK} {demo.IMAGE} probe"
        inspect = (
            f"docker inspect -f '{{{{.State.Pid}}}} {{{{.NetworkSettings.Networks.{NETWORK}.IPAddress}}}}' {NETWORK}-overlay"
        )
        found = [(self.sh(slave, run), self.sh(slave, inspect).split())[1] for slave in ENDS]
        return [pid for pid, _ in found], found[1][1]

    def load(self, way: _Way) -> dict[str, float]:
        """One run: a stream for SECONDS, then REQUESTS requests one after the other."""
        sent, cpu = self._pair(way, f"send {way.target} {LOAD_PORT} {SECONDS}")
        gib = sent["bytes"] / (1 << 30)
        latency, _ = self._pair(way, f"ask {way.target} {LOAD_PORT} {REQUESTS}")
        return {"gbit": sent["bytes"] * 8e-9 / sent["seconds"], "cpu": (sent["cpu"] + cpu) / gib, "latency": latency}

    def _pair(self, way: _Way, call: str) -> tuple[Any, float]:
        def command(end: int, what: str) -> list[str]:
            program = f"{way.prefixes[end]} python3 /run/bench-load.py {what}"
            return [sys.executable, "-m", "localcloud", "exec", ENDS[end], "--", "sh", "-c", program]

        before = self._userspace()
        server = subprocess.Popen(
            command(1, f"receive {LOAD_PORT}"), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        client = subprocess.run(command(0, call), cwd=REPOSITORY, capture_output=True, text=True, check=False)
        out, error = server.communicate(timeout=60)
        if client.returncode or server.returncode:
            raise RuntimeError(f"{call}: {client.stderr[-500:]}{error[-500:]}")
        return json.loads(client.stdout), float(out) + self._userspace() - before

    def _userspace(self) -> float:
        """CPU seconds so far of wireguard-go on both ends; none, where the kernel does the work."""
        if self.outputs["overlay"]["mesh"] != "wireguard":
            return 0.0
        script = "p=$(pidof wireguard-go) && awk '{ print ($14 + $15) / 100 }' /proc/$p/stat || echo 0"
        return sum(float(self.sh(slave, script)) for slave in ENDS)
