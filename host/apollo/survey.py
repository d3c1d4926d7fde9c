"""`apollo survey [catalog]` changes nothing, on any host. Prints what this host sees, as JSON.

mesh: names of the peers in its table. consul: the state of its agent's unit. routes, on an edge: host name and path → service.
checks: what apollo-check fails or warns of. slow: that it did not end, as on a busy host. nodes and services, with the argument
`catalog`: Consul's.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from host.apollo import local
from host.apollo.consul.configure import METRICS
from plan import ports

# Seconds for apollo-check, which asks each part of the host in turn.
PATIENCE = 40
ROUTES = Path("/etc/haproxy/live/routes.map")


def peers(facts: dict[str, str]) -> list[str]:
    """Names of the hosts that the mesh here knows, without its own."""
    if facts["MESH"] != "weave":
        return sorted(entry["Node"] for entry in json.loads(Path("/var/lib/apollo/mesh.json").read_text()))
    with urllib.request.urlopen(f"http://127.0.0.1:{ports.WEAVE_HTTP}/report", timeout=5) as answer:
        known = json.load(answer)["Router"]["Peers"]
    return sorted(peer["NickName"] for peer in known if peer["NickName"] != facts["NODE_NAME"])


def catalog(token: str) -> dict[str, Any]:
    nodes, _ = local.consul("catalog/nodes", token)
    found: dict[str, Any] = {"nodes": {}, "services": []}
    for node in nodes:
        meta = node["Meta"] or {}
        if meta.get("external-node") == "true":
            continue  # somebody else's, without an agent
        checks, _ = local.consul(f"health/node/{quote(node['Node'], safe='')}", token)
        found["nodes"][node["Node"]] = {
            "address": node["Address"],
            "bridge": meta.get("bridge", ""),
            "subnet": meta.get("subnet", ""),
            "alive": all(check["Status"] == "passing" for check in checks if check["CheckID"] == "serfHealth"),
            "maintenance": any(check["CheckID"] == "_node_maintenance" for check in checks),
        }
    for name in sorted(local.consul("catalog/services", token)[0]):
        if name == METRICS:
            continue  # every host itself
        for entry in local.consul(f"health/service/{quote(name, safe='')}", token)[0]:
            service = entry["Service"]
            found["services"].append(
                {
                    "name": name,
                    "node": entry["Node"]["Node"],
                    "address": service["Address"] or entry["Node"]["Address"],
                    "port": service["Port"],
                    "healthy": all(check["Status"] == "passing" for check in entry["Checks"]),
                }
            )
    return found


def complaints(check: subprocess.Popen[str]) -> dict[str, Any]:
    """The checks that failed or warn, with their words."""
    try:
        out, err = check.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        check.kill()
        return {"slow": f"its apollo-check did not end within {PATIENCE} s"}
    try:
        results = json.loads(out)["checks"]
    except (ValueError, LookupError):
        return {"checks": [{"check": "apollo-check", "detail": f"failed: {err.strip()[-300:]}"}]}
    return {"checks": [{"check": r["check"], "detail": r["detail"]} for r in results if not r["ok"] or r.get("warning")]}


def main(*wanted: str) -> int:
    facts = local.facts()
    check = subprocess.Popen(["apollo-check", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    units = subprocess.run(["systemctl", "is-active", "consul", "apollo-exporter"], capture_output=True, text=True, check=False)
    agent, exporter = units.stdout.split()
    seen: dict[str, Any] = {"host": facts["NODE_NAME"], "consul": agent, "metrics": exporter}
    if ROUTES.exists():
        entries = (line.split() for line in ROUTES.read_text().splitlines() if line.strip())
        seen["routes"] = {entry[0]: entry[1] for entry in entries if entry[1:] != ["-"]}
    try:
        seen["mesh"] = peers(facts)
    except (OSError, ValueError, LookupError) as error:
        seen["meshProblem"] = str(error)
    if "catalog" in wanted:
        try:
            seen |= catalog(local.secret(f"consul/{facts['ROLE']}-token"))
        except (local.ConsulError, OSError) as error:
            seen["catalogProblem"] = str(error)
    seen |= complaints(check)
    print(json.dumps(seen))
    return 0
