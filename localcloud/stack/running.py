"""What runs of a stack, and what its last run left: read without the engine, AWS's client and the settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .. import cloud as clouds
from ..apollo.hosts import HostRow
from ..cloud import Cloud
from ..errors import LocalCloudError
from ..paths import cloud_dir
from .state import outputs, resources


def cloud_of(stack: str) -> Cloud:
    """The running cloud of a stack. LocalCloudError where none runs."""
    cloud = clouds.find(cloud_dir(stack))
    if cloud is None or not cloud.alive():
        raise LocalCloudError(f"no cloud runs for stack {stack}; start it with `./apollo up --stack {stack}`")
    return cloud


def booted_cloud(stack: str) -> Cloud:
    """The running cloud of a stack whose hosts boot, to enter them. LocalCloudError where there is none, or we are not root."""
    cloud = cloud_of(stack)
    if cloud.edge_port is None:
        raise LocalCloudError(f"the cloud of stack {stack} runs without machines; `down`, then `up` boots them")
    if os.geteuid() != 0:
        raise LocalCloudError("not root: only root can enter a host")
    return cloud


def status(stack: str) -> list[HostRow]:
    """The hosts of the stack's cloud, and what of Mesos runs on those that boot. LocalCloudError where none runs."""
    from ..apollo import mesos
    from ..apollo.fleet import fleet

    cloud = cloud_of(stack)
    rows = cloud.hosts()
    return rows if cloud.edge_port is None else mesos.looked_at(fleet(cloud.folder, rows))


def stack_outputs(stack: str) -> dict[str, Any]:
    """The exports of the stack as the last run left them, secrets masked. LocalCloudError where no cloud runs."""
    cloud_of(stack)
    return outputs(_state_file(stack))


def host_names(stack: str) -> list[str]:
    """The hosts that the last run left, whatever became of them since."""
    tags = [
        r.get("inputs", {}).get("tags") or {} for r in resources(_state_file(stack)) if r["type"] == "aws:ec2/instance:Instance"
    ]
    return sorted(str(tag["apollo:host"]) for tag in tags if "apollo:host" in tag)


def _state_file(stack: str) -> Path:
    from .project import program_dir, read_project

    return state_file(cloud_dir(stack), str(read_project(program_dir())["name"]), stack)


def state_file(folder: Path, project: str, stack: str) -> Path:
    """Where the engine keeps a stack's state, below the cloud's folder."""
    return folder / "state" / ".pulumi" / "stacks" / project / f"{stack}.json"
