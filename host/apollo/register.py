"""Keeps the local Consul agent in step with Docker: every container that names a service, by its overlay address.

A container asks by environment or label: SERVICE_NAME (or label apollo.service), SERVICE_TAGS=a,b, SERVICE_CHECK_HTTP=/path
or SERVICE_CHECK_TCP=true with SERVICE_CHECK_INTERVAL and SERVICE_CHECK_TIMEOUT, SERVICE_IGNORE. SERVICE_80_NAME and so on
hold for that port alone, and win. Each exposed port is an instance; of several, those without a name of their own are called
<name>-<port>. Marathon's app id names a task that asks for tags or a check and gives no name.
What it may ask for at most, and what is left out, is said in the log with the value and counted by its reason: the whole stack
carries what one asks for.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal, NamedTuple, get_args

import docker
from docker.errors import DockerException, NotFound

from host.apollo import local
from host.apollo.consul.configure import CONTAINERS, REFUSED

# Seconds between full comparisons, which find what no event reported; and for which a container that was asked to stop counts
# as stopping (`docker stop` gives it 10 by default, an operator's -t some minutes).
RECONCILE, LEAVING = 10, 600
# Seconds after an event to a second look: Docker's list may lag behind its events.
SETTLED = 1
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# No blank, quote, backslash, #, $, braces, | or < >: a tag may end up in a configuration file.
TAG = re.compile(r"[A-Za-z0-9._~/:=@%+*^!?;&()\[\]-]{1,255}")
PATH = re.compile(r"[!-~]{1,500}")
# What the edge makes a route of, and what such a tag must look like (services.ctmpl).
ROUTE = re.compile(r"(host|path)=", re.IGNORECASE)
ROUTES = re.compile(r"host=[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|path=(/[A-Za-z0-9._~-]+)+/?")
# Of one container: ports, and tags of each port.
MOST_PORTS, MOST_TAGS = 32, 32
DURATION = re.compile(r"[1-9][0-9]{0,4}(ms|s|m)")
WISHES = ("NAME", "TAGS", "IGNORE", "CHECK_HTTP", "CHECK_TCP", "CHECK_INTERVAL", "CHECK_TIMEOUT")
# What Registrator knows and we do not: without it a service would pass at once, and no one would notice.
UNKNOWN = re.compile(r"SERVICE_([0-9]+_)?CHECK_(HTTPS|SCRIPT|CMD|TTL|DOCKER|GRPC)")
# Names that belong to the control nodes; Consul's policies refuse them too.
TAKEN = ("consul", "zookeeper", "mesos-master", "marathon")

Entries = dict[str, dict[str, Any]]
Reason = Literal["network", "ports", "name", "check", "tag", "unreadable"]


class Problem(NamedTuple):
    """Why something that a container asks for is not done. words: for the log."""

    reason: Reason
    words: str


def services(attrs: Mapping[str, Any], subnet: str) -> tuple[Entries, list[Problem]]:
    """(registrations by their id, problems) of one container, whose `docker inspect` is attrs. subnet: the host's own."""
    config, title = attrs["Config"], attrs["Name"].lstrip("/")
    labels: dict[str, str] = config.get("Labels") or {}
    env = dict(pair.split("=", 1) for pair in config.get("Env") or [] if "=" in pair)
    wishes = {"SERVICE_NAME": labels.get("apollo.service", ""), **labels, **env}
    asked = {key for key in wishes if re.match(r"SERVICE_([0-9]+_)?(NAME|TAGS|CHECK_)", key) and wishes[key]}
    if "MARATHON_APP_ID" in env and asked and not any(key.endswith("NAME") for key in asked):
        wishes["SERVICE_NAME"] = env["MARATHON_APP_ID"].strip("/").replace("/", "-")
        asked.add("SERVICE_NAME")
    if wishes.get("SERVICE_IGNORE") or not any(key.endswith("NAME") for key in asked):
        return {}, []
    ports = {*(config.get("ExposedPorts") or {}), *(attrs["HostConfig"].get("PortBindings") or {})}
    if not ports and "MARATHON_APP_ID" in env:
        ports = {f"{key[5:]}/tcp" for key in env if re.fullmatch("PORT_[1-9][0-9]{0,4}", key)}
    ports = {spec for spec in ports if not wishes.get(f"SERVICE_{spec.partition('/')[0]}_IGNORE")}
    address = attrs["NetworkSettings"].get("IPAddress")
    if not address or IPv4Address(address) not in IPv4Network(subnet):
        mode = attrs["HostConfig"].get("NetworkMode")
        return {}, [Problem("network", f"{title}: has no overlay address (network mode {mode!r}), so it is not registered")]
    if not ports:
        return {}, [Problem("ports", f"{title}: exposes no port, so it is not registered")]
    found: Entries = {}
    problems = [Problem("check", f"{title}: {key} is not supported") for key in asked if UNKNOWN.fullmatch(key)]
    if len(ports) > MOST_PORTS:
        named = sorted(spec for spec in ports if wishes.get(f"SERVICE_{spec.partition('/')[0]}_NAME"))
        words = (
            f"{title}: exposes {len(ports)} ports, and {MOST_PORTS} are registered at most: of those with a name of their own, "
            f"such as SERVICE_80_NAME, {', '.join(named[:MOST_PORTS]) or 'there is none'}"
        )
        problems.append(Problem("ports", words))
        ports = set(named[:MOST_PORTS])
    for spec in sorted(ports):
        port, _, protocol = spec.partition("/")
        # A word for this port alone wins.
        wish = {key: wishes.get(f"SERVICE_{port}_{key}") or wishes.get(f"SERVICE_{key}", "") for key in WISHES}
        several = len(ports) > 1 and not wishes.get(f"SERVICE_{port}_NAME")
        name = (f"{wish['NAME']}-{port}" if several else wish["NAME"]).lower()
        if not wish["NAME"]:
            continue
        bad: Problem | None = None
        if not NAME.fullmatch(name):
            bad = Problem("name", f"{name!r} is no DNS label")
        elif name in TAKEN:
            bad = Problem("name", f"the name {name!r} is taken")
        elif wish["CHECK_HTTP"] and not PATH.fullmatch(wish["CHECK_HTTP"]):
            bad = Problem("check", f"the check {wish['CHECK_HTTP']!r} is no path")
        if bad:
            problems.append(Problem(bad.reason, f"{title}: {bad.words}, so port {spec} is not registered"))
            continue
        other = protocol not in ("", "tcp")
        tags, notes = _tags(wish["TAGS"], other)
        problems.extend(Problem("tag", f"{title}: tag {tag[:100]!r} of port {spec} {why}") for tag, why in notes)
        key = f"{CONTAINERS}{attrs['Id'][:12]}:{port}" + (f":{protocol}" if other else "")
        entry: dict[str, Any] = {
            "ID": key,
            "Name": name,
            "Address": address,
            "Port": int(port),
            "Tags": [*tags, protocol] if other else tags,
            "Meta": {"container": title[:128]},
        }
        target = {} if other else _check_target(wish, f"{address}:{port}")
        if target:
            timing: dict[str, str] = {}
            for what, default in (("INTERVAL", "5s"), ("TIMEOUT", "2s")):
                given = wish[f"CHECK_{what}"]
                timing[what.title()] = given if DURATION.fullmatch(given) else default
                if given != timing[what.title()] and given:
                    words = f"{title}: SERVICE_CHECK_{what} {given!r} is no duration such as 2s; it is {default}"
                    problems.append(Problem("check", words))
            # Once is no failure yet: the last instance of a busy service would go for a single answer that came late. One that
            # is dead is taken out by its end, or by HAProxy's own checks, sooner than this. Nor is once a recovery: each change
            # goes to every edge.
            again = {"FailuresBeforeCritical": 1, "SuccessBeforePassing": 1}
            entry["Check"] = {"Name": f"{name} in {title}", "Status": "critical", **target, **timing, **again}
        found[key] = entry
    return found, problems


def _tags(asked: str, other: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """(tags, what there is to say of some). other: of a port that speaks no TCP, to which the edge can send nothing."""
    tags: list[str] = []
    notes: list[tuple[str, str]] = []
    for tag in filter(None, map(str.strip, asked.split(","))):
        route = ROUTE.match(tag)
        if tag.lower().startswith("host="):
            # DNS knows no case, and a dot at the end says nothing.
            tag = tag.lower().removesuffix(".")
        if tag in tags:
            continue
        if not TAG.fullmatch(tag):
            notes.append((tag, "is left out: it is longer than 255, or has a character that no tag may have"))
        elif other and (route or tag == "public"):
            notes.append((tag, "is left out: the edge leads to TCP ports only"))
        elif len(tags) == MOST_TAGS:
            notes.append((tag, f"and all after it are left out: {MOST_TAGS} are the most"))
            break
        else:
            if route and not ROUTES.fullmatch(tag):
                notes.append((tag, "makes no route: such as host=www.example.com and path=/api do"))
            tags.append(tag)
    return tags, notes


def _check_target(wish: Mapping[str, str], place: str) -> dict[str, Any]:
    if wish["CHECK_HTTP"]:
        # A redirect leads Consul wherever the container wants.
        return {"HTTP": f"http://{place}/{wish['CHECK_HTTP'].lstrip('/')}", "DisableRedirects": True}
    return {"TCP": place} if wish["CHECK_TCP"].lower() in ("true", "1", "yes") else {}


class Register:
    """One host's containers, as Docker tells them, and what the agent should know of them. client: Docker's low-level API."""

    def __init__(self, client: Any, subnet: str) -> None:
        self._client, self._subnet = client, subnet
        # By container and address: registrations, problems, the signal that ends it. What a container asks for never changes.
        self._seen: dict[tuple[str, str], tuple[Entries, list[Problem], int]] = {}
        self._leaving: dict[str, float] = {}
        self._reported: set[Problem] = set()

    def matters(self, event: Mapping[str, Any]) -> bool:
        """Whether an event of Docker's is a reason to look. A container that is asked to stop leaves before it has ended."""
        action, key = event["Action"], event["Actor"]["ID"]
        if action == "kill":
            ends = {seen[2] for (container, _), seen in list(self._seen.items()) if container == key} or {signal.SIGTERM}
            if int(event["Actor"]["Attributes"].get("signal", 0)) not in {signal.SIGKILL, *ends}:
                return False
        if action in ("kill", "die"):
            # Docker says that it died before its list does.
            self._leaving[key] = time.monotonic() + LEAVING
        elif action in ("start", "destroy"):
            self._leaving.pop(key, None)
        return action in ("start", "kill", "die", "pause", "unpause")

    def wanted(self) -> Entries:
        """What the agent should know. Docker tells all containers in one answer; only new ones are looked at more closely."""
        found: Entries = {}
        seen: dict[tuple[str, str], tuple[Entries, list[Problem], int]] = {}
        problems: set[Problem] = set()
        for listed in self._client.containers():
            key = listed["Id"], (listed["NetworkSettings"]["Networks"].get("bridge") or {}).get("IPAddress", "")
            if listed["State"] != "running":
                continue
            try:
                seen[key] = self._seen.get(key) or self._look(key[0])
            except NotFound:
                continue
            problems.update(seen[key][1])
            if self._leaving.get(key[0], 0) < time.monotonic():
                found.update(seen[key][0])
        for problem in sorted(problems - self._reported):
            print(problem.words, flush=True)
        self._seen, self._reported = seen, problems
        return found

    def refused(self) -> dict[str, int]:
        """Each reason → how often it holds for the containers of the last look."""
        found = Counter(problem.reason for problem in self._reported)
        return {reason: found[reason] for reason in get_args(Reason)}

    def _look(self, container: str) -> tuple[Entries, list[Problem], int]:
        attrs = self._client.inspect_container(container)
        name = (attrs["Config"] or {}).get("StopSignal") or "SIGTERM"
        ends = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}", signal.SIGTERM)
        entries: Entries = {}
        try:
            entries, problems = services(attrs, self._subnet)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problems = [Problem("unreadable", f"{attrs['Name']}: cannot be read: {error!r}")]
        return entries, problems, int(name) if name.isdigit() else ends


def reconcile(wanted: Entries) -> None:
    """Brings the agent in step; touches only entries with our prefix. Raises ConsulError, having changed what it could."""
    token = local.secret("consul/registration-token")
    known, _ = local.consul("agent/services", token)
    troubles: list[local.ConsulError] = []

    def change(path: str, entry: Any = None) -> bool:
        try:
            local.consul(path, token, "PUT", entry)
        except local.ConsulError as error:
            troubles.append(error)
            # What one entry is refused for says nothing of the next; an agent that is away does.
            if not error.status:
                raise
            return False
        return True

    for key in known.keys() - wanted.keys():
        if key.startswith(CONTAINERS) and change(f"agent/service/deregister/{key}"):
            print(f"{known[key]['Service']} at {known[key]['Address']}:{known[key]['Port']} is gone", flush=True)
    for key, entry in wanted.items():
        # Compared with what the agent has, which does not tell the checks. A service carries the token that registered it,
        # so a rotated one is a change too.
        digest = hashlib.sha256((json.dumps(entry, sort_keys=True) + token).encode()).hexdigest()[:16]
        new = {**entry, "Meta": {**entry["Meta"], "digest": digest}}
        old = known.get(key)
        if old and old["Meta"] == new["Meta"]:
            continue
        # Consul keeps a check's last word for an instance that it knows. At another address it is another instance.
        if old and old["Address"] != new["Address"]:
            change(f"agent/service/deregister/{key}")
        if change("agent/service/register?replace-existing-checks=true", new):
            print(f"{entry['Name']} at {entry['Address']}:{entry['Port']}", flush=True)
    if troubles:
        raise troubles[0]


def main() -> int:
    client = docker.DockerClient(base_url="unix:///run/docker.sock", timeout=30).api
    register = Register(client, local.facts()["DOCKER_SUBNET"])
    changed, ended, stopped = threading.Event(), threading.Event(), threading.Event()

    def stop(*_: Any) -> None:
        for event in (stopped, ended, changed):
            event.set()

    signal.signal(signal.SIGTERM, stop)
    # Opened before the first look, so that no container comes between the two unseen.
    events = client.events(decode=True, filters={"type": "container"})

    def follow() -> None:
        try:
            for event in events:
                if register.matters(event):
                    changed.set()
        finally:
            # Docker restarts: so does this program, by its unit.
            ended.set()
            changed.set()

    threading.Thread(target=follow, daemon=True).start()
    trouble, event_came = None, True
    while not ended.is_set():
        changed.clear()
        try:
            wanted = register.wanted()
            local.write(REFUSED, json.dumps(register.refused()))
            reconcile(wanted)
            problem = ""
        except (local.ConsulError, DockerException, OSError) as error:
            problem = str(error)
        if problem != trouble:
            trouble = problem
            print(problem or "in step with Docker", flush=True)
        event_came = changed.wait(SETTLED if event_came or trouble else RECONCILE)
    if not stopped.is_set():
        return 1
    # The host goes down, and its containers after this unit: their names go first. A mere restart leaves them.
    state = subprocess.run(["systemctl", "is-system-running"], capture_output=True, text=True, check=False).stdout
    if state.strip() == "stopping":
        reconcile({})
    return 0
