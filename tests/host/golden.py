"""Writes tests/host/golden/: what each kind of host gets, to be read in a review.

python -m tests.host.golden   after a change of host/ that is meant; then look at the difference
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

from host.apollo.mesos import mesos
from host.apollo.mesos import mesos_agent as agent
from host.apollo.mesos import mesos_control as control
from host.render import cloud_config, host_files, node_facts
from plan.cluster import Cluster, PlannedHost
from tests.host.support import EXAMPLES, STACK, one_of_each

FOLDER = Path(__file__).parent / "golden"


def decoded(plan: Cluster, host: PlannedHost) -> str:
    """The host's cloud-config, then its files: those made for this host in full, the others by where they come from."""
    files = host_files(plan, host, STACK)
    config = {key: value for key, value in cloud_config(plan, host, files).items() if key != "write_files"}
    parts = [f"{json.dumps(config, indent=2)}\n"]
    for file in files:
        own = file.source is None or file.source.endswith(".tmpl")
        parts.append(f"--- {file.mode:04o} {file.path}" + ("" if own else f" from {_place(file.source or '')}") + "\n")
        if own:
            parts.append(file.content)
    return "".join(parts)


def _place(source: str) -> str:
    return f"host/{source}" if source.startswith("apollo/") else f"host/files/{source}"


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
        lines = {
            "master": mesos.command("master", control.master_flags(on_control, control.quorum(plan.settings.control.count))),
            "marathon": mesos.command("marathon", control.marathon_flags(on_control), environment=control.MARATHON_VARIABLES),
            "agent": mesos.command(
                "agent", agent.flags(on_slave, agent.resources(3_932_160, 2, wanted_disk(plan))), agent.DOCKER_OPTIONS
            ),
        }
    return "".join(f"--- {name}\n" + "".join(f"{word}\n" for word in words) for name, words in lines.items())


def wanted_disk(plan: Cluster) -> int:
    """Bytes of a slave's data disk."""
    return plan.settings.slaves.data_gib << 30


def golden_files() -> dict[Path, str]:
    return {FOLDER / "mesos-commands.txt": mesos_commands()} | {
        FOLDER / f"{name}-{host.name}.txt": decoded(plan, host) for name, plan in EXAMPLES.items() for host in one_of_each(plan)
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.txt"):
        stale.unlink()
    for path, text in golden_files().items():
        path.write_text(text)
