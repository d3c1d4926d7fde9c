"""Which port of a bridge belongs to which container, with the MAC and the address that Docker gave it."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import docker
from docker.errors import DockerException, NotFound

# While this names a process Docker runs. Whoever asks its socket otherwise has systemd start it, and waits: at boot for itself,
# as Docker starts after the rules.
RUNNING = Path("/run/docker.pid")
# Events of Docker's after which a port may have come or gone.
ACTIONS = ("start", "die", "connect", "disconnect", "create", "destroy")
# Seconds until Docker is asked for events again after it went away.
PAUSE = 1


class Place(NamedTuple):
    """port: the device's name on the host. address: IPv4, as mac in Docker's spelling."""

    port: str
    mac: str
    address: str


Links = Mapping[int, Mapping[str, Any]]


def links(*prefix: str) -> Links:
    """The devices of a network namespace by their index, as `ip -j link` has them. prefix: a command that enters it."""
    done = subprocess.run([*prefix, "ip", "-j", "link"], capture_output=True, text=True, check=False, timeout=20)
    return {link["ifindex"]: link for link in json.loads(done.stdout or "[]") if "ifindex" in link}


def places(inside: Links, outside: Links, endpoints: Mapping[str, tuple[str, str]]) -> list[Place]:
    """A container's places. inside, outside: devices of its namespace and of the host. endpoints: bridge → (MAC, address).

    The two ends of a cable name each other, so that no device a container makes itself passes for one of Docker's.
    """
    found: list[Place] = []
    for index, link in inside.items():
        port = outside.get(link.get("link_index", 0), {})
        if "link_netnsid" in link and port.get("link_index") == index and port.get("master") in endpoints:
            found.append(Place(port["ifname"], *endpoints[port["master"]]))
    return found


class Ports:
    """Keeps what it knows while Docker is away."""

    def __init__(self, socket: str = "unix:///run/docker.sock") -> None:
        self._socket, self._answers = socket, False
        # By container and endpoints: a container that is started again has others.
        self._known: dict[tuple[str, ...], list[Place]] = {}
        self._gateways: list[str] = []

    @functools.cached_property
    def _client(self) -> Any:
        return docker.APIClient(base_url=self._socket, timeout=30)

    def look(self) -> tuple[list[Place], list[str]]:
        """(places of all running containers, addresses of the bridges themselves)."""
        if self._answers:
            with contextlib.suppress(DockerException, OSError):
                self._ask()
        return sorted({place for known in self._known.values() for place in known}), self._gateways

    def _ask(self) -> None:
        networks = [network for network in self._client.networks() if network["Driver"] == "bridge"]
        bridges = {
            network["Id"]: (network["Options"] or {}).get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}"
            for network in networks
        }
        outside = links()
        attached = {link["ifname"] for link in outside.values() if "master" in link}
        known: dict[tuple[str, ...], list[Place]] = {}
        for listed in self._client.containers():
            entries: Sequence[Mapping[str, Any]] = [
                entry for entry in listed["NetworkSettings"]["Networks"].values() if entry["NetworkID"] in bridges
            ]
            key = (listed["Id"], *sorted(entry["EndpointID"] for entry in entries))
            endpoints = {bridges[e["NetworkID"]]: (e["MacAddress"], e["IPAddress"]) for e in entries if e["IPAddress"]}
            found = self._known.get(key, [])
            if endpoints and not (len(found) == len(endpoints) and {place.port for place in found} <= attached):
                found = places(self._inside(listed["Id"]), outside, endpoints)
            known[key] = found
        self._known = known
        self._gateways = sorted(
            config["Gateway"] for network in networks for config in network["IPAM"]["Config"] or [] if config.get("Gateway")
        )

    def _inside(self, container: str) -> Links:
        try:
            sandbox = self._client.inspect_container(container)["NetworkSettings"]["SandboxKey"]
        except NotFound:
            return {}
        return links("nsenter", f"--net={sandbox}") if sandbox else {}

    def follow(self, changed: threading.Event) -> None:
        """Sets the event at each change that Docker tells. Never returns."""
        while True:
            with contextlib.suppress(DockerException, OSError, ValueError):
                if Path("/proc", RUNNING.read_text().strip(), "comm").exists():
                    events = self._client.events(decode=True, filters={"type": ["container", "network"]})
                    self._answers = True
                    changed.set()
                    for event in events:
                        if event["Action"] in ACTIONS:
                            changed.set()
            self._answers = False
            time.sleep(PAUSE)
