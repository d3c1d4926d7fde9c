"""Commands for booted hosts: look into one, run something on it, treat it badly, and check the whole network.

`exec` is typed, and run by tests, many times: what the others need beside it is imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from plan.ports import CONSUL_HTTP, EDGE_STATS, HTTPS

from . import show
from .cloud import Cloud
from .errors import LocalCloudError
from .fleet import console, fleet, network_of
from .running import cloud_of, host_names, stack_outputs
from .show import say

# What each order does to a host, for the help text.
ORDERS = {
    "stop": "shut a host down; it keeps its disks",
    "start": "boot a stopped host",
    "reboot": "shut a host down and boot it again",
    "kill": "end a host at once, as a power cut does; `start` boots it again",
    "cut": "drop every packet from and to a host",
    "heal": "let a cut host's packets through again",
}

# What `open` brings to the loopback: the role of the hosts that have it, and its port and page. Only the inside reaches
# consul and edge; edge-tls the internet reaches too, and `up` brings the edge's port 80 alone.
INSIDE = {
    "consul": ("control", CONSUL_HTTP, "/ui/"),
    "edge": ("edge", EDGE_STATS, "/"),
    "edge-tls": ("edge", HTTPS, "/"),
}


def order(stack: str, what: str, host: str) -> None:
    """Carries out one of ORDERS. LocalCloudError: no such host, no machines, or the order failed."""
    cloud = cloud_of(stack)
    answer = cloud.ask("machine", {"order": what, "host": host})
    if "failed" in answer:
        raise LocalCloudError(answer["failed"])


def execute(stack: str, host: str, argv: Sequence[str]) -> int:
    """Runs a command as root on a host, on this terminal; gives its exit status."""
    cloud = _with_machines(stack)
    return subprocess.call(fleet(cloud.folder, cloud.hosts()).command(host, argv))


def shell(stack: str, host: str) -> int:
    """A root shell on a host."""
    return execute(stack, host, ["bash", "-l"])


def logs(stack: str, host: str, *, follow: bool) -> int:
    """The host's console, from its first line; follow: until Ctrl-C."""
    cloud = _with_machines(stack)
    path = console(cloud.folder, cloud.hosts(), host)
    if not path.exists():
        raise LocalCloudError(f"{host} has not printed anything yet")
    with path.open("rb") as log:
        while True:
            chunk = log.read(65536)
            if chunk:
                sys.stdout.buffer.write(chunk)
                sys.stdout.flush()
            elif not follow:
                return 0
            else:
                # A console says nothing for long; there is no condition to wait for but its next line.
                time.sleep(0.2)


def open_inside(stack: str, what: str, port: int) -> int:
    """Offers a page of the inside on 127.0.0.1 until Ctrl-C; a connection goes to the first host of the role that takes it."""
    from .machines.errors import MachineError
    from .machines.namespaces import socket_inside
    from .machines.relay import Relay, listen_on_loopback

    cloud = _with_machines(stack)
    role, far_port, page = INSIDE[what]
    hosts = [row.name for row in fleet(cloud.folder, cloud.hosts()).of(role)]

    def dial() -> list[tuple[socket.socket, str, int]]:
        found: list[tuple[socket.socket, str, int]] = []
        rows = cloud.hosts()
        for host in hosts:
            with contextlib.suppress(OSError, LocalCloudError):
                found.append((socket_inside(network_of(cloud.folder, rows, host)), "127.0.0.1", far_port))
        return found

    try:
        listener = listen_on_loopback(port, what, "--port")
    except MachineError as error:
        raise LocalCloudError(str(error)) from None
    relay = Relay()
    try:
        relay.add(listener, dial)
        print(f"{'https' if far_port == HTTPS else 'http'}://127.0.0.1:{listener.getsockname()[1]}{page}", flush=True)
        if what == "consul":
            say(f"it asks for a token: python -m localcloud exec {hosts[0]} -- cat /etc/apollo/secrets/consul/management-token")
        say("Ctrl-C ends it")
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        relay.close()
    return 0


def run_check(stack: str, *, flows: int, as_json: bool) -> int:
    """Tries every way through the network and shows what came of it; 1 where anything failed."""
    from . import check, demo

    cloud = _with_machines(stack)
    rows = cloud.hosts()
    # A host that is not there has no row of its own in the matrix, and must not make it shorter in silence.
    hosts, absent = check.standing(fleet(cloud.folder, rows), host_names(stack))
    exported = stack_outputs(stack)
    expected = check.Expectations(
        mtu=int(exported["overlay"]["mtu"]),
        domain=exported["edge"]["domain"],
        consul_domain=exported["consul"]["domain"],
        edge=("127.0.0.1", cloud.edge_port or 0),
        demo=tuple(demo.running(hosts)),
    )
    shown = 0

    def progress(done: int, of: int) -> None:
        nonlocal shown
        if done * 10 // of > shown:
            shown = done * 10 // of
            say(f"  {done} of {of} tried, {time.monotonic() - begun:.0f} s")

    begun = time.monotonic()
    say(f"checking the network of {len(rows)} hosts …")
    results = absent + check.run(hosts, expected, flows=flows, progress=progress)
    failed = [result for result in results if not result.passed]
    if as_json:
        show.document([asdict(result) for result in results])
    else:
        passed = Counter(result.kind for result in results if result.passed)
        total = Counter(result.kind for result in results)
        show.table(("what", "passed", "of"), [(kind, str(passed[kind]), str(count)) for kind, count in total.items()])
        if failed:
            print()
            show.table(("failed", "from", "to", "seen"), [(r.kind, r.source, r.target, r.detail) for r in failed])
        denied = cloud.ask("machine", {"order": "denied"}).get("denied", []) if failed else []
        if denied:
            print("\nsecurity groups refused: " + ", ".join(denied[:20]))
        print(f"\n{len(results) - len(failed)} of {len(results)} passed in {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


def _with_machines(stack: str) -> Cloud:
    cloud = cloud_of(stack)
    if cloud.edge_port is None:
        raise LocalCloudError(f"the cloud of stack {stack} runs without machines; `down`, then `up` boots them")
    if os.geteuid() != 0:
        raise LocalCloudError("not root: only root can enter a host")
    return cloud
