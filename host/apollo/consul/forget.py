"""Runs on a control node: `apollo forget NODE ADDRESS`. Takes a node that is gone out of Consul and, under weave, the mesh.

Its own token goes with it, and would else stay valid for ever. For a successor of the same name it is made again.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request

from host.apollo import local
from plan import ports

# Seconds until a dead agent is noticed by the others.
NOTICED = 8.0


def quoted(node: str) -> str:
    """A name of the catalog as one segment of a path: whoever registered it chose it."""
    return urllib.parse.quote(node, safe="")


def alive(node: str, token: str) -> bool:
    """Whether the others still hear its agent, some seconds after it may have gone."""
    end = time.monotonic() + NOTICED
    while True:
        checks, _ = local.consul(f"health/node/{quoted(node)}", token)
        if not any(check["CheckID"] == "serfHealth" and check["Status"] == "passing" for check in checks):
            return False
        if time.monotonic() > end:
            return True
        time.sleep(0.5)


def main(node: str, address: str) -> int:
    facts = local.facts()
    token = local.secret("consul/management-token")
    found, _ = local.consul(f"catalog/node/{quoted(node)}", token)
    if found and alive(node, token):
        # Its successor by now, or the drain did not get through and it was never gone.
        print(f"{node} is alive in Consul: nothing to forget")
        return 0
    if found:
        local.consul(f"agent/force-leave/{quoted(node)}?prune", token, "PUT")
        print(f"{node} taken out of Consul")
    # Those of the control nodes stand whether there are five or not (consul/acl.py), and whoever had one had every other.
    if not node.startswith("control-"):
        entries, _ = local.consul("acl/tokens", token)
        own = [entry["AccessorID"] for entry in entries if entry["Description"] == f"node {node}"]
        for accessor in own:
            local.consul(f"acl/token/{accessor}", token, "DELETE")
        if own:
            print(f"{node}'s own token deleted")
    if facts["MESH"] == "weave":
        body = urllib.parse.urlencode({"peer": address}).encode()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{ports.WEAVE_HTTP}/forget", body, timeout=5).close()
            print(f"{address} forgotten by the mesh")
        except (urllib.error.URLError, OSError) as error:
            print(f"{address} not forgotten by the mesh: {error}")
    return 0
