"""Checks that this host is what the plan says and has its place in the network. Also installed as apollo-check.

apollo check [--json] [--wait SECONDS]: one line for each check; ends with 1 if one failed, which a warning is not.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from host.apollo import firewall, local, network
from host.apollo.mesos import mesos
from plan import ports

Facts = Mapping[str, str]
# Where Docker, Consul, ZooKeeper, Mesos and the journal write; /data is the root's on a host without a data volume.
FILE_SYSTEMS = ("/", "/data")
# (share, GiB): with less of its bytes or inodes free than the share, and fewer GiB, a file system is low, or out. 15 % is where
# the kubelet begins to delete images (imagefs.available), 5 % where it begins to end pods for inodes (nodefs.inodesFree). The
# GiB are for large disks: 5 % of a TiB is no emergency.
LOW, OUT = (0.15, 20), (0.05, 5)


class Failed(Exception):
    """What is wrong, and what it should be."""


class Warned(Exception):
    """What an operator should look at, though the host has its place."""


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise Failed(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def expect(what: str, found: Any, planned: Any) -> None:
    if found != planned:
        raise Failed(f"{what} is {found}, planned {planned}")


def is_off(state: Mapping[str, str]) -> bool:
    """Whether a unit does not run because its conditions forbade it, by what systemctl shows of it. Such a unit may also be
    called failed: by the end of an attempt before the one that was forbidden."""
    return state["ActiveState"] != "active" and state["ConditionResult"] == "no" and bool(state["ConditionTimestamp"])


def units(_: Facts) -> str:
    names = " ".join(path.read_text() for path in sorted(Path("/etc/apollo/units.d").iterdir())).split()
    shown = run("systemctl", "show", "-p", "Id,ActiveState,ConditionResult,ConditionTimestamp", *names).strip().split("\n\n")
    states = [dict(line.split("=", 1) for line in part.splitlines()) for part in shown]
    # They have a check of their own, as a host is well without them.
    states = [state for state in states if state["Id"] not in mesos.UNITS.values()]
    idle = [state for state in states if state["ActiveState"] != "active"]
    off = [state["Id"] for state in idle if is_off(state)]
    bad = [f"{state['Id']} is {state['ActiveState']}" for state in idle if state["Id"] not in off]
    if bad:
        raise Failed(f"{', '.join(bad)}; see journalctl -u")
    return f"{len(states) - len(idle)} active" + (f"; off by their condition: {', '.join(off)}" if off else "")


def secrets(_: Facts) -> str:
    names = Path("/etc/apollo/parameters").read_text().split()
    for name in names:
        expect(f"the mode of {name}", oct((local.SECRETS / name).stat().st_mode), "0o100600")
    return f"{len(names)} here"


def data(facts: Facts) -> str:
    if not os.path.ismount("/data"):
        raise Failed(f"/data is no mount of {facts['DATA_DEVICE']}; see journalctl -u apollo-data")
    return "/data is mounted"


def disks(_: Facts) -> str:
    """Counts what is free for others than root, as df does: at zero Consul, ZooKeeper and containers cannot write."""
    parts: list[str] = []
    found: dict[tuple[float, int], list[str]] = {LOW: [], OUT: []}
    for path in FILE_SYSTEMS:
        if path != "/" and not os.path.ismount(path):
            continue
        at = os.statvfs(path)
        if at.f_flag & os.ST_RDONLY:
            raise Failed(f"{path} is read-only, as ext4 makes a file system that has errors; see dmesg")
        gib = at.f_frsize / (1 << 30)
        kinds = {
            "GiB": (at.f_bavail * gib, (at.f_blocks - at.f_bfree + at.f_bavail) * gib),
            # Some file systems do not count them.
            "inodes": (at.f_favail, at.f_files - at.f_ffree + at.f_favail),
        }
        for unit, (free, whole) in kinds.items():
            if not whole:
                continue
            amount = f"{free:.1f} of {whole:.1f} GiB" if unit == "GiB" else f"{free:,} of {whole:,} inodes"
            words = f"{path} has {amount} free, {100 * free / whole:.0f} %"
            parts.append(words)
            for limit in (OUT, LOW):
                if free < limit[0] * whole and (unit != "GiB" or free < limit[1]):
                    found[limit].append(words)
                    break
    if found[OUT]:
        raise Failed(f"{'; '.join(found[OUT] + found[LOW])}; make room, or raise dataGib or rootGib")
    warnings = [f"nearly full: {words}" for words in found[LOW]]
    if not subprocess.run(["systemctl", "-q", "is-failed", "apollo-data-grow"], check=False, timeout=20).returncode:
        warnings.append("/data did not grow with its disk, which a reboot may do; see journalctl -u apollo-data-grow")
    return judged("; ".join(parts), warnings)


def bridge(facts: Facts) -> str:
    mtu = network.mtu("weave")
    if mtu is None:
        raise Failed("weave is not up; see journalctl -u weave-bridge")
    expect("the MTU of weave", mtu, int(facts["BRIDGE_MTU"]))
    # Where it has nothing to show ip prints [], [{}] or nothing at all.
    links = json.loads(run("ip", "-j", "-4", "addr", "show", "dev", "weave") or "[]")
    addresses = [f"{entry['local']}/{entry['prefixlen']}" for link in links for entry in link.get("addr_info", ())]
    expect("the address of weave", addresses, [f"{facts['BRIDGE_ADDRESS']}/{facts['BRIDGE_PREFIX']}"])
    routes = json.loads(run("ip", "-j", "route", "get", facts["VPC_RESOLVER"]) or "[]")
    uplink = next((route["dev"] for route in routes if "dev" in route), "")
    underlay = network.mtu(uplink) if uplink else None
    if underlay is None:
        raise Failed(f"no device leads to {facts['VPC_RESOLVER']}")
    if underlay < int(facts["UNDERLAY_MTU"]):
        raise Failed(f"the MTU of {uplink} is {underlay}, planned {facts['UNDERLAY_MTU']}")
    return f"{addresses[0]}, MTU {mtu}"


def rules(_: Facts) -> str:
    if wrong := firewall.complaint():
        raise Failed(wrong)
    if wrong := firewall.off_limits():
        raise Failed(f"{', '.join(wrong)}; see journalctl -u apollo-firewall")
    return f"all stand, and {len(firewall.limits())} settings of the kernel"


def docker(facts: Facts) -> str:
    network = json.loads(run("docker", "network", "inspect", "bridge"))[0]
    expect("Docker's bridge", network["Options"].get("com.docker.network.bridge.name"), "weave")
    expect("Docker's subnet", network["IPAM"]["Config"][0].get("IPRange"), facts["DOCKER_SUBNET"])
    return f"{facts['DOCKER_SUBNET']} on weave, {len(network['Containers'])} containers"


def judged(stands: str, warnings: Sequence[str]) -> str:
    if warnings:
        raise Warned("; ".join([stands, *warnings]))
    return stands


def routed(facts: Facts) -> str:
    from host.apollo.mesh import routed

    return judged(*routed.check(routed.link(facts), facts))


def weave(facts: Facts) -> str:
    if not Path("/usr/local/bin/weaver").exists():
        why = "see journalctl -u apollo-weave-programs"
        raise Failed(f"Weave's router is not at /usr/local/bin/weaver: containers reach their own host only; {why}")
    from host.apollo.mesh.weave import status

    return judged(*status.check(facts))


def consul(facts: Facts) -> str:
    leader, _ = local.consul("status/leader")
    if not leader:
        raise Failed("no server leads; see journalctl -u consul on the control nodes")
    own, _ = local.consul(f"catalog/node/{facts['NODE_NAME']}", local.secret(f"consul/{facts['ROLE']}-token"))
    if not own:
        raise Failed("this node is not in the catalog; see journalctl -u consul")
    expect("the catalog's address", own["Node"]["Address"], facts["PRIVATE_IP"])
    expect("the catalog's bridge", own["Node"]["Meta"].get("bridge"), facts["BRIDGE_ADDRESS"])
    return f"joined, led by {leader}"


def zookeeper(facts: Facts) -> str:
    from host.apollo import zookeeper as server

    if not Path("/usr/share/java/zookeeper.jar").exists():
        raise Failed("ZooKeeper is not installed: there is no /usr/share/java/zookeeper.jar")
    mode = server.mode(facts["PRIVATE_IP"])
    if not mode:
        raise Failed(f"ZooKeeper does not serve: {server.silence()}; see journalctl -u apollo-zookeeper")
    voters = [number for number, (_, role) in server.members(facts["PRIVATE_IP"]).items() if role == "participant"]
    if int(facts["INDEX"]) not in voters:
        raise Failed(f"this node is no voter of the ensemble {voters} yet; see journalctl -u apollo-scheduler")
    return f"{mode} of control nodes {', '.join(map(str, sorted(voters)))}"


def asked(name: str, facts: Facts) -> tuple[bool, str]:
    """(whether a program of Mesos that runs here does its work, how it is in words)"""
    try:
        if name == "agent":
            from host.apollo.mesos import agent

            return agent.look(facts)
        from host.apollo.mesos import control
        from host.apollo.mesos import scheduler as servers

        state = {"master": servers.look_at_master, "marathon": servers.look_at_marathon}[name](facts)
        # One that stands by does not know whether the one that leads has a majority of the logs.
        if name == "master" and "leader" not in state.tags and state.passing and control.leading() is None:
            return False, f"{state.detail}, and no master leads with a majority"
        return state.passing, state.detail
    except local.ConsulError as error:
        return False, f"whether it does its work Consul does not say: {error}"
    except (OSError, ValueError) as error:
        return False, f"does not answer: {error}"


def scheduler(facts: Facts) -> str:
    """Warns at most: the network does not need Mesos, so no `up` and no roll may wait for it."""
    parts: list[str] = []
    wrong: list[str] = []
    for name in {"control": ("master", "marathon"), "slave": ("agent",)}[facts["ROLE"]]:
        shown = run("systemctl", "show", "-p", "ActiveState,ConditionResult,ConditionTimestamp", mesos.UNITS[name])
        state = dict(line.split("=", 1) for line in shown.splitlines())
        complaint = mesos.complaint(name)
        if is_off(state):
            parts.append(f"{name} off: there is no such program here")
        elif state["ActiveState"] != "active" or complaint:
            why = complaint or f"it is {state['ActiveState']}; see journalctl -u {mesos.UNITS[name]}"
            wrong.append(f"{name} does not run: {why}")
        else:
            well, detail = asked(name, facts)
            (parts if well else wrong).append(f"{name} runs: {detail}")
    if wrong:
        raise Warned(f"{'; '.join(wrong + parts)}. The overlay does not need it")
    return ", ".join(parts)


def names(facts: Facts) -> str:
    # Containers ask here; the host itself asks 127.0.0.1.
    socket.create_connection((facts["BRIDGE_ADDRESS"], ports.DNS), 5).close()
    name = f"consul.service.{facts['CONSUL_DOMAIN']}"
    return f"{name} is {', '.join(sorted(socket.gethostbyname_ex(name)[2]))}"


def web(_: Facts) -> str:
    try:
        urllib.request.urlopen("http://127.0.0.1/", timeout=5).close()
    except urllib.error.HTTPError as error:
        expect("HAProxy's answer to an unknown name", error.code, 404)
    return "HAProxy answers"


def checks(facts: Facts) -> dict[str, Callable[[Facts], str]]:
    found = {"units": units, "secrets": secrets, "disks": disks, "bridge": bridge, "rules": rules}
    if facts["DATA_DEVICE"]:
        found["data"] = data
    if facts["DOCKER_SUBNET"]:
        found["docker"] = docker
    found |= {"mesh": weave if facts["MESH"] == "weave" else routed, "consul": consul, "names": names}
    if facts["ROLE"] == "edge":
        found["web"] = web
    if facts["ROLE"] == "control":
        found["zookeeper"] = zookeeper
    if facts["ROLE"] != "edge":
        found["mesos"] = scheduler
    return found


def results(facts: Facts) -> list[dict[str, Any]]:
    """What each check found: its name, whether the host has its place, whether it is a warning, and words."""
    found: list[dict[str, Any]] = []
    for name, check in checks(facts).items():
        try:
            found.append({"check": name, "ok": True, "detail": check(facts)})
        except Warned as warning:
            found.append({"check": name, "ok": True, "warning": True, "detail": str(warning)})
        except (Failed, local.ConsulError, subprocess.SubprocessError, OSError, ValueError) as error:
            found.append({"check": name, "ok": False, "detail": str(error)})
        except Exception as error:
            # Some program's answer had another shape than ever before; the other checks go on.
            found.append({"check": name, "ok": False, "detail": f"could not be made: {error!r}"})
    return found


def main(argv: Sequence[str]) -> int:
    facts = local.facts()
    asked = argparse.ArgumentParser(prog="apollo check", description="Checks this host against its plan.")
    asked.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    asked.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long to try until all is well")
    options = asked.parse_args(argv)
    end = time.monotonic() + options.wait
    while True:
        found = results(facts)
        good = all(result["ok"] for result in found)
        if good or time.monotonic() > end:
            break
        time.sleep(1)
    if options.json:
        print(json.dumps({"host": facts["NODE_NAME"], "ok": good, "checks": found}))
    else:
        for result in found:
            word = "FAILED" if not result["ok"] else "WARN  " if result.get("warning") else "ok    "
            print(word, f"{result['check']:<9}", result["detail"])
    return 0 if good else 1
