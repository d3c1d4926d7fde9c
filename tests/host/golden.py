"""Writes tests/host/golden/: what each kind of host gets, to be read in a review.

files.txt: every file that hosts have alike, with mode, owner, size, digest and on which hosts it is; it is whole in host/files
or host/apollo. <kind of host>.txt: what is made for that host alone. mesos-commands.txt, packet-rules.txt: what hosts' programs
make of it.

python -m tests.host.golden   after a change of host/ that is meant; prints the difference
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from host.apollo import firewall, local
from host.apollo.mesh import routed
from host.apollo.mesos import agent, control, mesos
from host.render import HostFile, cloud_config, host_files, node_facts
from plan.cluster import Cluster, PlannedHost
from tests.host.support import EXAMPLES, STACK, one_of_each

FOLDER = Path(__file__).parent / "golden"


def kinds() -> dict[str, dict[str, HostFile]]:
    """Kind of host, such as weave-slave-1 → its files by path."""
    return {
        f"{name}-{host.name}": {file.path: file for file in host_files(plan, host, STACK)}
        for name, plan in EXAMPLES.items()
        for host in one_of_each(plan)
    }


def own(file: HostFile) -> bool:
    """Whether the file is made for one host."""
    return file.source is None or file.own


def line(file: HostFile) -> str:
    """Mode, owner, size in bytes, digest (SHA-256) and path. Every file is root's."""
    content = file.content.encode()
    return f"{file.mode:04o} root:root {len(content):6} {hashlib.sha256(content).hexdigest()[:16]} {file.path}"


def where(names: Iterable[str], every: Iterable[str]) -> str:
    """Those kinds of host in few words: `all`, a mesh or a role with all its kinds, or each by its name."""
    left, found = set(names), list[str]()
    if left == set(every):
        return "all"
    for part in ("-slave-1", "-control-1", "-edge-1", *(f"{mesh}-" for mesh in EXAMPLES)):
        group = {name for name in every if part in f"{name}-"}
        if group <= set(names) and group & left:
            found.append(part.strip("-").removesuffix("-1"))
            left -= group
    return " ".join((*found, *sorted(left)))


def listed(files: Mapping[str, Mapping[str, HostFile]]) -> str:
    """Every file that several hosts have alike, a line each, by path."""
    found: dict[tuple[str, str], list[str]] = {}
    for kind, on in files.items():
        for file in on.values():
            if not own(file):
                found.setdefault((file.path, line(file)), []).append(kind)
    return "".join(f"{text}  on: {where(names, files)}\n" for (_, text), names in sorted(found.items()))


def decoded(plan: Cluster, host: PlannedHost, files: Mapping[str, HostFile]) -> str:
    """The host's cloud-config, then the files made for it alone."""
    config = cloud_config(plan, host, [*files.values()]).items()
    parts = [f"{key}: {json.dumps(value)}\n" for key, value in config if key != "write_files"]
    return "".join([*parts, *(f"--- {line(file)}\n{file.content}" for file in files.values() if own(file))])


def mesos_commands() -> str:
    """The command lines of Mesos and Marathon from images, one flag a line."""
    plan = EXAMPLES["weave"]
    on_control, on_slave = (node_facts(plan, host, STACK) for host in (plan.control[0], plan.slaves[0]))
    wanted = plan.settings.mesos
    images = {"master": wanted.master_image, "marathon": wanted.marathon_image, "agent": wanted.agent_image}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder) / "images.env"
        file.write_text("".join(f'{name.upper()}="{image}"\n' for name, image in images.items()))
        stack.callback(setattr, mesos, "IMAGES", mesos.IMAGES)
        mesos.IMAGES = file
        stack.callback(setattr, local, "SECRETS", local.SECRETS)
        local.SECRETS = Path(folder)
        local.write(Path(folder) / "control/count", f"{plan.settings.control.count}\n")
        lines = {
            "master": mesos.command("master", control.master_flags(on_control, control.quorum(plan.settings.control.count))),
            "marathon": mesos.command(
                "marathon", control.marathon_flags(on_control), control.MARATHON_OPTIONS, control.MARATHON_VARIABLES
            ),
            "agent": mesos.command(
                "agent", agent.flags(on_slave, agent.resources(3_932_160, 2, wanted_disk(plan))), agent.DOCKER_OPTIONS
            ),
        }
    return "".join(f"--- {name}\n" + "".join(f"{word}\n" for word in words) for name, words in lines.items())


def wanted_disk(plan: Cluster) -> int:
    """Bytes of a slave's data disk."""
    return plan.settings.slaves.data_gib << 30


def as_peer(host: PlannedHost) -> routed.Peer:
    return routed.Peer(host.name, str(host.private_ip), str(host.bridge_address.ip), str(host.docker_subnet or ""))


def packet_rules() -> str:
    """The packet rules of a slave with each mesh, of a control node and of an edge. Each knows a slave and a control node as
    peers, and a slave one container."""
    hosts = [(name, plan, plan.slaves[0]) for name, plan in EXAMPLES.items()]
    weave, vxlan = EXAMPLES["weave"], EXAMPLES["vxlan-baked"]
    hosts += [("vxlan-baked", vxlan, vxlan.control[0]), ("weave", weave, weave.edges[0])]
    parts: list[str] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for module, name in ((routed, "TABLE"), (firewall, "KERNEL")):
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, Path(folder) / name)
        for name, plan, host in hosts:
            facts = node_facts(plan, host, STACK)
            routed.save(facts, {peer.name: as_peer(peer) for peer in (plan.slaves[1], plan.control[0])})
            places = [("veth0a1b2c3", "02:42:0a:02:01:05", str(host.docker_subnet[5]))] if host.docker_subnet else []
            inet = firewall.packets(facts, "ens5", firewall.senders(facts))
            bridge = firewall.frames(facts, places, [facts["BRIDGE_ADDRESS"]] if places else [])
            parts.append(f"--- {name}-{host.name}\n{inet}{bridge}")
    return "".join(parts)


def made() -> dict[Path, str]:
    """What hosts' programs make. Unlike the others these files have no digest of a program in them."""
    return {FOLDER / "mesos-commands.txt": mesos_commands(), FOLDER / "packet-rules.txt": packet_rules()}


def golden_files() -> dict[Path, str]:
    files = kinds()
    hosts = [(f"{name}-{host.name}", plan, host) for name, plan in EXAMPLES.items() for host in one_of_each(plan)]
    return {
        FOLDER / "files.txt": listed(files),
        **{FOLDER / f"{kind}.txt": decoded(plan, host, files[kind]) for kind, plan, host in hosts},
    }


def different(files: Mapping[Path, str]) -> list[str]:
    """The golden files that do not say this."""
    return [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]


def write() -> str:
    """Writes them anew; gives what that changes, as a unified difference without context."""
    before = {path: path.read_text() for path in FOLDER.glob("*.txt")}
    after = golden_files() | made()
    FOLDER.mkdir(exist_ok=True)
    for path in before.keys() - after.keys():
        path.unlink()
    changes: list[str] = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path, ""), after.get(path, "")
        if path in after:
            path.write_text(new)
        changes += difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path.name}", f"b/{path.name}", n=0)
    return "".join(changes)


if __name__ == "__main__":
    print(write() or "no golden file changes", end="")
