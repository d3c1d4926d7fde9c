"""Makes HAProxy serve what consul-template wrote, if HAProxy accepts it. Refused, or half written, nothing changes.

The accepted file takes the place of what HAProxy reads at its start. The running HAProxy is then compared with it. Instances
and routes of services that it knows are changed through its admin socket, which ends no connection. A service that it does not
know takes a reload: the worker before it lives on until its connections end, within the bounds of haproxy.cfg. A service whose
name goes is kept, without a route, until the next reload, so that its return takes none.

`apollo edge apply later` waits until another reload may be, and does the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

STATE, LIVE, CONFIG = Path("/var/lib/apollo"), Path("/etc/haproxy/live"), "/etc/haproxy/haproxy.cfg"
ADMIN, MASTER = "/run/haproxy/admin.sock", "/run/haproxy-master.sock"
NEW = STATE / "services.cfg"
LATER = ("/usr/local/bin/apollo", "edge", "apply", "later")
# With this many workers from before a reload the next reload is APART seconds after the last one. So new names in
# quick succession do not end all long connections at once.
WORKERS, APART = 2, 30
# Servers out of use at which a reload clears them away. They are never deleted one by one: HAProxy 2.6.12 may crash when a
# deleted one still has streams (github.com/haproxy/haproxy/issues/2323).
UNUSED = 500
# Seconds that a reload may take, and after which it is asked for again: HAProxy loses a signal that meets a reload under way.
RELOAD, SIGNAL = 25, 5


class ApplyError(Exception):
    """The text says why the running services stay, or that HAProxy does not follow."""


@dataclass
class Services:
    """servers: service → name → address, port and what else a `server` line has. routes: key of the map → service."""

    servers: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    routes: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Running(Services):
    """What HAProxy has. unused: (service, name) of servers that get no request. servers: here the address and port alone."""

    unused: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])


def ask(command: str, place: str = "") -> str:
    """HAProxy's answer at a socket, by default the administrators'. Raises OSError where it does not run."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(10)
        admin.connect(place or ADMIN)
        admin.sendall(command.encode() + b"\n")
        admin.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: admin.recv(65536), b"")).decode()


def written(text: str) -> Services:
    found = Services()
    servers: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#!route "):
            _, key, service = line.split()
            found.routes[key] = service
        elif line.startswith("backend service:"):
            servers = found.servers[line.partition(":")[2]] = {}
        elif line.startswith("    server "):
            _, name, rest = line.split(maxsplit=2)
            servers[name] = rest
    return found


def running() -> Running:
    found = Running()
    for line in ask("show backend").splitlines():
        if line.startswith("service:"):
            found.servers[line.partition(":")[2].strip()] = {}
    rows = [line.split() for line in ask("show servers state").splitlines()]
    names = next((row[1:] for row in rows if row[:2] == ["#", "be_id"]), [])
    for row in rows:
        if len(row) == len(names) and row[1].startswith("service:"):
            server = dict(zip(names, row, strict=True))
            service, name = server["be_name"].partition(":")[2], server["srv_name"]
            found.servers.setdefault(service, {})[name] = f"{server['srv_addr']}:{server['srv_port']}"
            if server["srv_admin_state"] != "0":
                found.unused.add((service, name))
    for line in ask("show map routes.map").splitlines():
        if len(parts := line.split()) == 3:
            found.routes[parts[1]] = parts[2]
    return found


def changes(wanted: Services, now: Running) -> Iterator[str]:
    """What to say to HAProxy, for the services that it knows."""
    for service, servers in wanted.servers.items():
        if service not in now.servers:
            continue
        for name, rest in servers.items():
            server, place = f"service:{service}/{name}", rest.split()[0]
            known = now.servers[service].get(name)
            if known is None:
                yield f"add server {server} {rest}"
                yield f"enable health {server}"
            elif known != place:
                address, _, port = place.partition(":")
                # Out of use first, which ends idle connections to the old address.
                yield f"set server {server} state maint"
                yield f"set server {server} addr {address} port {port}"
            if known != place or (service, name) in now.unused:
                yield f"set server {server} state ready"
    for service, servers in now.servers.items():
        for name in servers.keys() - wanted.servers.get(service, {}).keys():
            if (service, name) not in now.unused:
                yield f"set server service:{service}/{name} state maint"
    for key, service in wanted.routes.items():
        if now.routes.get(key) != service and (service in now.servers or service == "-"):
            yield f"{'set' if key in now.routes else 'add'} map routes.map {key} {service}"
    for key in now.routes.keys() - wanted.routes.keys():
        yield f"del map routes.map {key}"


def unknown(wanted: Services, now: Running) -> bool:
    """Whether a reload is needed."""
    return bool(wanted.servers.keys() - now.servers.keys()) or len(now.unused) > UNUSED


def wait() -> float:
    """Seconds until a reload may be."""
    try:
        workers = [line.split() for line in ask("show proc", MASTER).splitlines() if " worker " in line]
    except OSError:
        return 0.2  # the master is busy with one
    # The third column counts the reloads that a worker has lived through.
    if sum(worker[2] != "0" for worker in workers) < WORKERS:
        return 0
    ages = [re.findall(r"\d+", worker[3]) for worker in workers if worker[2] == "0"]
    youngest = min((((int(d) * 24 + int(h)) * 60 + int(m)) * 60 + int(s) for d, h, m, s in ages), default=APART)
    return max(0, APART - youngest)


def accept() -> Services:
    """What consul-template wrote, put in place. Raises ApplyError where it is not complete or HAProxy refuses it."""
    text = NEW.read_text()
    if not text.endswith("\n#!end\n"):
        raise ApplyError(f"{NEW} is not complete; the running services stay")
    wanted = written(text)
    before = (LIVE / "services.cfg").read_text()
    if text == before:
        return wanted
    following = Path(tempfile.mkdtemp(prefix="next.", dir=STATE))
    try:
        (following / "services.cfg").write_text(text)
        (following / "routes.map").write_text("".join(f"{key} {service}\n" for key, service in wanted.routes.items()))
        if subprocess.run(["haproxy", "-c", "-q", "-C", following, "-f", CONFIG, "-f", "services.cfg"], check=False).returncode:
            raise ApplyError(f"HAProxy refuses {NEW}; the running services stay")
        for name in ("routes.map", "services.cfg"):
            shutil.copyfile(following / name, LIVE / f".{name}")
            (LIVE / f".{name}").replace(LIVE / name)
    finally:
        shutil.rmtree(following)
    known = set(before.splitlines())
    for line in text.splitlines():
        if line.startswith("#!warning") and line not in known:
            print(line[2:], flush=True)
    return wanted


def apply() -> bool:
    """Brings HAProxy to what was written. False where that takes a reload that may not be yet. Raises ApplyError."""
    wanted = accept()
    try:
        now = running()
        commands = list(changes(wanted, now))
        for command in commands:
            ask(command)
        now = running() if commands else now
    except OSError:
        print("HAProxy does not run; it will start with what was written", flush=True)
        return True
    if left := next(changes(wanted, now), ""):
        print(f"HAProxy did not do {left!r}, so it is reloaded", flush=True)
    elif not unknown(wanted, now):
        return True
    elif wait():
        return False
    reload(wanted)
    return True


def reload(wanted: Services) -> None:
    """Raises ApplyError where HAProxy does not have what is wanted in time."""
    end, again = time.monotonic() + RELOAD, 0.0
    while time.monotonic() < end:
        if time.monotonic() > again:
            if subprocess.run(["systemctl", "try-reload-or-restart", "haproxy.service"], check=False).returncode:
                raise ApplyError("HAProxy was not reloaded; the running services stay")
            again = time.monotonic() + SIGNAL
        # Between two workers none answers.
        with contextlib.suppress(OSError):
            now = running()
            if not unknown(wanted, now) and not any(changes(wanted, now)):
                return
        time.sleep(0.05)
    raise ApplyError("HAProxy was reloaded, and does not have what was written")


@contextlib.contextmanager
def alone(name: str, *, at_once: bool = False) -> Generator[None]:
    """Keeps other processes out. at_once: BlockingIOError where there is one."""
    with (STATE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if at_once else 0))
        yield


def main(later: bool = False) -> int:
    if not NEW.exists():
        return 0
    try:
        while True:
            if later:
                # One waits for all, and lets the next one wait before it reads what was written.
                with alone("later", at_once=True):
                    time.sleep(wait())
            with alone("edge"):
                done = apply()
            if done:
                return 0
            if not later:
                subprocess.Popen(LATER)
                return 0
    except BlockingIOError:
        return 0
    except ApplyError as error:
        print(error, flush=True)
        return 1
