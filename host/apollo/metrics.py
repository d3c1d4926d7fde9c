"""`apollo metrics`: what node_exporter does not know of this host, as a text for its textfile collector.

Each part stands for itself: one that fails is left out, and said in apollo_metrics_part_ok. Nothing of a secret or of a
container's environment is among it, but the names of public services, which HAProxy's own metrics have too. The file is in
memory, so a full disk keeps no metric back, and the exporter itself serves when it was written (node_textfile_mtime_seconds).
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from host.apollo import check, local
from host.apollo.consul.configure import CERTIFICATES, CONTAINERS, REFUSED
from plan import ports

TARGET = Path("/run/apollo/metrics/apollo.prom")
# The key of the programs that this host was made with: programs/<role>/<SHA-256>.
PROGRAMS = Path("/etc/apollo/programs")

# What is kept of the metrics of others: their names begin so. All of a server's would be as many series again as the machine's.
OF_CONSUL = tuple(f"consul_{part}" for part in ("autopilot_", "members_", "memberlist_health", "raft_state_", "raft_leader_",
    "raft_commitTime", "rpc_re", "rpc_query", "runtime_"))  # fmt: skip
OF_DOCKER = tuple(f"engine_daemon_{part}" for part in ("container_", "engine_info", "health_checks_"))

Facts = Mapping[str, str]


class Sample(NamedTuple):
    """One line. labels: their values have no quote, backslash or line break."""

    name: str
    value: float
    labels: Mapping[str, str] = {}


# Name → (type, what it is).
FAMILIES: Mapping[str, tuple[str, str]] = {
    "apollo_host_info": ("gauge", "What this host is, always 1. programs: the SHA-256 of what it was made with"),
    "apollo_host_generation": ("gauge", "The generation with which this host was made"),
    "apollo_check_ok": ("gauge", "1 where this part of apollo-check stands, with a warning too"),
    "apollo_check_warning": ("gauge", "1 where this part of apollo-check warns"),
    "apollo_mesh_peers_wanted": ("gauge", "Other hosts that this host is to reach"),
    "apollo_mesh_peers_present": ("gauge", "Those of them that its mesh has"),
    "apollo_mesh_table_change_timestamp_seconds": ("gauge", "When the table of peers on disk last changed"),
    "apollo_guard_dropped_packets_total": ("counter", "Packets of containers that a guard dropped"),
    "apollo_containers_running": ("gauge", "Containers that run here"),
    "apollo_services_registered": ("gauge", "Ports of containers that are registered in Consul"),
    "apollo_services_refused": (
        "gauge",
        "What containers ask for and do not get; the logs of apollo-register and apollo-edge say each",
    ),
    "apollo_service_published": (
        "gauge",
        "1 for each public service of the catalog. proxy: HAProxy's name for it",
    ),
    "apollo_services_published": ("gauge", "How many public services the catalog has"),
    "apollo_names_lookup_seconds": ("gauge", "How long the name of Consul's servers took to be answered"),
    "apollo_certificate_expiry_timestamp_seconds": ("gauge", "When a certificate of this host ends"),
    "apollo_metrics_part_ok": ("gauge", "1 where this part of the metrics could be made"),
}


def output(*argv: str) -> str:
    """Raises OSError or CalledProcessError."""
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout


def told(url: str, names: tuple[str, ...], token: str = "") -> str:
    """What another program of this host serves for Prometheus, of the families whose names begin so. Raises OSError."""
    request = urllib.request.Request(url, headers={"X-Consul-Token": token} if token else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        lines = answer.read().decode().splitlines(keepends=True)
    return "".join(line for line in lines if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(names))


def host(facts: Facts) -> Iterator[Sample]:
    about = {name: facts[key] for name, key in (("host", "NODE_NAME"), ("role", "ROLE"), ("zone", "ZONE"), ("mesh", "MESH"))}
    programs = PROGRAMS.read_text().strip().rpartition("/")[2]
    yield Sample("apollo_host_info", 1, {**about, "stack": facts["STACK"], "programs": programs})
    yield Sample("apollo_host_generation", int(facts["GENERATION"]))


def findings(facts: Facts) -> Iterator[Sample]:
    for result in check.results(facts):
        about = {"check": result["check"]}
        yield Sample("apollo_check_ok", result["ok"], about)
        yield Sample("apollo_check_warning", bool(result.get("warning")), about)


def mesh(facts: Facts) -> Iterator[Sample]:
    if facts["MESH"] == "weave":
        from host.apollo.mesh.weave import status

        wanted, linked = status.hosts(facts)[0].keys(), status.linked(status.connections())
        present = len(wanted & linked)
    else:
        from host.apollo.mesh import routed

        link = routed.link(facts)
        peers, tables = routed.load(facts, link.keyed), link.present()
        wanted = peers.keys()
        present = sum(
            all(table.items() <= tables[name].items() for name, table in link.wanted([p]).items()) for p in peers.values()
        )
        yield Sample("apollo_mesh_table_change_timestamp_seconds", routed.TABLE.stat().st_mtime)
    yield Sample("apollo_mesh_peers_wanted", len(wanted))
    yield Sample("apollo_mesh_peers_present", present)


def guards(_: Facts) -> Iterator[Sample]:
    listed = json.loads(output("nft", "-j", "list", "chain", "inet", "apollo", "passing"))["nftables"]
    for rule in (entry["rule"] for entry in listed if "comment" in entry.get("rule", {})):
        (packets,) = [part["counter"]["packets"] for part in rule["expr"] if "counter" in part]
        yield Sample("apollo_guard_dropped_packets_total", packets, {"guard": rule["comment"]})


def containers(facts: Facts) -> Iterator[Sample | str]:
    yield Sample("apollo_containers_running", len(output("docker", "ps", "-q").split()))
    services, _ = local.consul("agent/services", local.secret(f"consul/{facts['ROLE']}-token"))
    yield Sample("apollo_services_registered", sum(id.startswith(CONTAINERS) for id in services))
    for reason, number in json.loads(REFUSED.read_text()).items():
        yield Sample("apollo_services_refused", number, {"reason": reason})
    yield told(f"http://127.0.0.1:{ports.DOCKER_METRICS}/metrics", OF_DOCKER)


def consul(_: Facts) -> Iterator[str]:
    """A server's. What agents say of themselves their hosts' checks say too."""
    yield told(f"{local.CONSUL}/v1/agent/metrics?format=prometheus", OF_CONSUL, local.secret("consul/management-token"))


def edge(_: Facts) -> Iterator[Sample]:
    """What consul-template wrote last. HAProxy itself has a service that is gone, without servers, until its next reload."""
    from host.apollo.edge import apply

    wanted = apply.NEW.read_text()
    services = apply.written(wanted).servers
    yield Sample("apollo_services_refused", wanted.count("#!warning "), {"reason": "route"})
    yield Sample("apollo_services_published", len(services))
    for service in services:
        yield Sample("apollo_service_published", 1, {"proxy": f"service:{service}"})


def names(facts: Facts) -> Iterator[Sample]:
    begun = time.monotonic()
    socket.gethostbyname(f"consul.service.{facts['CONSUL_DOMAIN']}")
    yield Sample("apollo_names_lookup_seconds", time.monotonic() - begun)


def certificates(facts: Facts) -> Iterator[Sample]:
    files = {"consul": CERTIFICATES / "own.pem"} | (
        {"edge": local.SECRETS / "edge/certificate"} if facts["ROLE"] == "edge" else {}
    )
    for name, file in files.items():
        if file.exists():
            end = output("openssl", "x509", "-noout", "-enddate", "-in", str(file)).strip().removeprefix("notAfter=")
            when = datetime.strptime(end, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
            yield Sample("apollo_certificate_expiry_timestamp_seconds", when.timestamp(), {"certificate": name})


def parts(facts: Facts) -> Mapping[str, Callable[[Facts], Iterable[Sample | str]]]:
    own: Mapping[str, Mapping[str, Callable[[Facts], Iterable[Sample | str]]]] = {
        "slave": {"guards": guards, "containers": containers},
        "control": {"consul": consul},
        "edge": {"edge": edge},
    }
    return {
        "host": host,
        "mesh": mesh,
        **own[facts["ROLE"]],
        "names": names,
        "certificates": certificates,
        "findings": findings,
    }


def collect(facts: Facts) -> list[Sample | str]:
    samples: list[Sample | str] = []
    for name, part in parts(facts).items():
        try:
            found = list(part(facts))
        except Exception as error:  # whatever another program answers, the other parts go on
            found = []
            print(f"{name}: {error!r}", flush=True)
        samples += [*found, Sample("apollo_metrics_part_ok", bool(found), {"part": name})]
    return samples


def text(samples: Iterable[Sample | str]) -> str:
    """Prometheus' text format, the lines of a family together, and what is text already. Raises KeyError for a sample of no
    family."""
    lines: dict[str, list[str]] = {}
    others = ""
    for sample in samples:
        if isinstance(sample, str):
            others += sample
            continue
        kind, what = FAMILIES[sample.name]
        family = lines.setdefault(sample.name, [f"# HELP {sample.name} {what}", f"# TYPE {sample.name} {kind}"])
        labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items())
        family.append(f"{sample.name}{{{labels}}} {sample.value:.17g}" if labels else f"{sample.name} {sample.value:.17g}")
    return "".join(f"{line}\n" for family in lines.values() for line in family) + others


def main() -> int:
    local.write(TARGET, text(collect(local.facts())))
    return 0
