"""Runs on a control node: `forget.py NODE ADDRESS`. Takes a node that is gone out of Consul and, under weave, the mesh."""

from __future__ import annotations

import sys
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, "/usr/local/lib/apollo")
import apollo


def main(node: str, address: str) -> int:
    facts = apollo.facts()
    token = apollo.secret("consul/management-token")
    found, _ = apollo.consul(f"catalog/node/{node}", token)
    if found:
        apollo.consul(f"agent/force-leave/{node}?prune", token, "PUT")
        print(f"{node} taken out of Consul")
    if facts["MESH"] == "weave":
        body = urllib.parse.urlencode({"peer": address}).encode()
        try:
            urllib.request.urlopen("http://127.0.0.1:6784/forget", body, timeout=5).close()
            print(f"{address} forgotten by the mesh")
        except (urllib.error.URLError, OSError) as error:
            print(f"{address} not forgotten by the mesh: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
