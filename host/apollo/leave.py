"""Runs on a host that goes: `apollo leave begin|end|undo SECONDS [INSTANCE]`.

begin: switches Consul's maintenance mode on, so that no new request comes here; prints where its services are, as JSON. On
another machine than INSTANCE it changes nothing and prints which one it is, as {"other": ID}.
An edge also stops following the catalog, and its health endpoint fails for the load balancer; it serves on until the end.
end: waits for connections to finish, stops the containers, takes the services and the node out of Consul.
undo: the host stays after all: starts everything again, and ends the maintenance.
Containers are stopped with Docker stopped, as a shutdown does: so their restart policies bring them back on the successor,
which has the same data volume.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from host.apollo import local
from host.apollo.edge import apply

# Seconds that open connections, then containers, may take to end by themselves.
CONNECTIONS, CONTAINERS = 10, 10
# cloud-init's word for which machine this is.
INSTANCE = Path("/var/lib/cloud/data/instance-id")
# Held while one is at work.
LOCK = Path("/run/apollo-leave")
# Seconds for the agent to tell the others.
LEAVE = 12


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def begin(facts: dict[str, str], token: str) -> None:
    local.consul("agent/maintenance?enable=true&reason=draining", token, "PUT")
    if facts["ROLE"] == "edge":
        # A reload would bring the entry back.
        run("systemctl", "stop", "apollo-edge")
        apply.ask("del map routes.map live/")
    services, _ = local.consul("agent/services", reader(facts))
    at = [f"{entry['Address']}:{entry['Port']}" for entry in services.values() if entry["Address"]]
    print(json.dumps({"node": facts["NODE_NAME"], "services": at}))


def containers() -> dict[str, int]:
    """The running containers' ids and first processes."""
    ids = run("docker", "ps", "-q").split()
    if not ids:
        return {}
    lines = run("docker", "inspect", "-f", "{{.Id}} {{.State.Pid}}", *ids).splitlines()
    return {line.split()[0]: int(line.split()[1]) for line in lines if line.split()[1:] not in ([], ["0"])}


def connections(facts: dict[str, str], pids: list[int]) -> int:
    """Open connections of other nodes (the edges among them, by their bridge addresses) into the containers."""
    own = f"{facts['BRIDGE_ADDRESS']}:"
    found = 0
    for pid in pids:
        lines = run("nsenter", "-t", str(pid), "-n", "ss", "-Htn", "state", "established").splitlines()
        found += sum(len(line.split()) >= 4 and not line.split()[3].startswith(own) for line in lines)
    return found


def requests_end(end: float) -> str:
    """Takes no new connection at the edge, and waits for those there are."""
    apply.ask("disable frontend web")
    quiet = min(end, time.monotonic() + CONNECTIONS)
    while True:
        rows = apply.ask("show stat").splitlines()
        names = rows[0].removeprefix("# ").split(",")
        stats = [dict(zip(names, row.split(","), strict=False)) for row in rows[1:]]
        left = next(int(row["scur"]) for row in stats if (row["pxname"], row["svname"]) == ("web", "FRONTEND"))
        if not left or time.monotonic() > quiet:
            return f"takes no requests any more, {left} connections left"
        time.sleep(0.2)


def stop(facts: dict[str, str], end: float) -> str:
    if facts["ROLE"] == "edge":
        return requests_end(end)
    if not facts["DOCKER_SUBNET"]:
        return "no containers here"
    running = containers()
    quiet = min(end, time.monotonic() + CONNECTIONS)
    while connections(facts, list(running.values())) and time.monotonic() < quiet:
        time.sleep(0.2)
    run("systemctl", "stop", "mesos-agent.service")
    run("systemctl", "stop", "apollo-register.service", "docker.socket", "docker.service")
    alive = {pid for pid in running.values() if Path(f"/proc/{pid}").exists()}
    for pid in alive:
        os.kill(pid, signal.SIGTERM)
    patience = min(end, time.monotonic() + CONTAINERS)
    while (alive := {pid for pid in alive if Path(f"/proc/{pid}").exists()}) and time.monotonic() < patience:
        time.sleep(0.1)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return f"{len(running)} containers stopped" + (f", {len(alive)} by force" if alive else "")


def reader(facts: dict[str, str]) -> str:
    return local.secret(f"consul/{facts['ROLE']}-token")


def deregister(facts: dict[str, str]) -> str:
    services, _ = local.consul("agent/services", reader(facts))
    name = "consul/registration-token" if facts["ROLE"] == "slave" else f"consul/{facts['ROLE']}-token"
    gone = 0
    for key in services:
        if key.startswith("apollo:"):
            local.consul(f"agent/service/deregister/{key}", local.secret(name), "PUT")
            gone += 1
    return f"{gone} services deregistered"


def end(facts: dict[str, str], token: str, seconds: float) -> None:
    print(stop(facts, time.monotonic() + seconds), flush=True)
    print(deregister(facts), flush=True)
    # It is kept with the data volume, and would hold for the successor.
    local.consul("agent/maintenance?enable=false", token, "PUT")
    print(leave(facts, token), flush=True)


def leave(facts: dict[str, str], token: str) -> str:
    """The agent leaves and ends. Its unit would start it again, and it would rejoin: so that is stopped at once."""
    if facts["ROLE"] == "control":
        local.consul("agent/leave", token, "PUT")
    else:
        # No token of this host's may ask an agent to leave; to SIGINT it does the same.
        run("systemctl", "kill", "--kill-who=main", "--signal=INT", "consul.service")
    patience = time.monotonic() + LEAVE
    while (
        time.monotonic() < patience and (pid := run("systemctl", "show", "-p", "MainPID", "--value", "consul").strip()) != "0"
    ):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    run("systemctl", "stop", "consul.service")
    return "left Consul"


def undo(facts: dict[str, str], token: str) -> None:
    run("systemctl", "start", "consul.service", "docker.service", "apollo-register.service")
    run("systemctl", "start", "mesos-agent.service")
    if facts["ROLE"] == "edge":
        run("systemctl", "reload", "haproxy.service")
        run("systemctl", "start", "apollo-edge.service")
    end = time.monotonic() + 30
    while True:
        try:
            local.consul("agent/maintenance?enable=false", token, "PUT")
            break
        except local.ConsulError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
    print("works again")


def main(verb: str, seconds: str, instance: str = "") -> int | str:
    facts = local.facts()
    own = INSTANCE.read_text().strip() if INSTANCE.exists() else ""
    if verb == "begin" and instance and own and own != instance:
        print(json.dumps({"other": own}))
        return 0
    # What may write this node: of a server the management token, of another host its own.
    token = local.secret("consul/management-token" if facts["ROLE"] == "control" else "consul/node-token")
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "another `apollo leave` runs on this host, and the two would undo each other: try again when it has ended"
        if verb == "begin":
            begin(facts, token)
        elif verb == "undo":
            undo(facts, token)
        else:
            end(facts, token, float(seconds))
    return 0
