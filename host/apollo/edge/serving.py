"""Runs on an edge. What HAProxy sends requests to is asked of HAProxy itself.

`apollo edge quiet SECONDS ADDRESS:PORT …` waits until it sends to none of these; ends with 1 if it still does.
`apollo edge published SECONDS JSON` waits until each published service has as many healthy instances, in Consul and in HAProxy,
as the map says (an empty map: none is waited for), and prints what there is, as JSON: service → [healthy, all, the nodes].
What is published is what HAProxy has a route to, by whichever tag or setting that came about.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from host.apollo import local
from host.apollo.edge import apply

ROUTES = Path("/etc/haproxy/live/routes.map")
Published = dict[str, tuple[int, int, list[str]]]


def sending() -> set[str]:
    """address:port of every server that HAProxy sends requests to."""
    answer = apply.ask("show servers state")
    rows = [line.split() for line in answer.splitlines()]
    names = next((row[1:] for row in rows if row[:2] == ["#", "be_id"]), [])
    servers = [dict(zip(names, row, strict=False)) for row in rows if len(row) > 5 and row[0].isdigit()]
    # Running (2), and not put out of use.
    up = [server for server in servers if server["srv_op_state"] == "2" and server["srv_admin_state"] == "0"]
    return {f"{server['srv_addr']}:{server['srv_port']}" for server in up}


def published(token: str) -> Published:
    """Each service with a route: instances that are healthy (here and in Consul), all, nodes of the healthy."""
    found: Published = {}
    live = sending()
    for name in sorted({line.split()[1] for line in ROUTES.read_text().splitlines() if line.split()[1:] not in ([], ["-"])}):
        entries = local.consul(f"health/service/{name}", token)[0]
        good = [
            entry
            for entry in entries
            if all(check["Status"] == "passing" for check in entry["Checks"])
            and f"{entry['Service']['Address']}:{entry['Service']['Port']}" in live
        ]
        found[name] = len(good), len(entries), sorted(entry["Node"]["Node"] for entry in good)
    return found


def main(verb: str, seconds: str, *rest: str) -> int:
    end = time.monotonic() + float(seconds)
    if verb == "quiet":
        while sending() & set(rest):
            if time.monotonic() > end:
                return 1
            time.sleep(0.2)
        return 0
    wanted: dict[str, int] = json.loads(rest[0])
    while True:
        now = published(local.secret("consul/template-token"))
        if all(now.get(name, (0, 0, []))[0] >= count for name, count in wanted.items()) or time.monotonic() > end:
            print(json.dumps(now))
            return 0
        time.sleep(0.5)
