"""The day-two commands and the engine's own command line over a stack's cloud: the same programs as on AWS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from . import tools
from .cloud import Cloud
from .operations import Request, alone, workspace_of
from .paths import REPOSITORY
from .running import cloud_of
from .workspace import Workspace, keep_generations


def pulumi(request: Request, argv: Sequence[str], program: str | None = None) -> int:
    """Runs the Pulumi CLI on the stack, on this terminal; gives its exit status.

    program: the directory of another program, whose stack of the same name lives in the same cloud.
    """
    with alone(request.stack, f"pulumi {' '.join(argv[:1])}") as folder:
        cloud = cloud_of(request.stack)
        other = Path(program).resolve() if program else None
        workspace = workspace_of(folder, request, cloud.edge_port is not None, other)
        env, binary = environment(cloud, workspace), str(tools.pulumi())
        if not workspace.state_file.exists():
            _call([binary, "stack", "init", request.stack, "--non-interactive"], env, workspace.work, own_group=False)
        cloud.ask("begin", {})
        return _call([binary, *argv, "--stack", request.stack], env, workspace.work, own_group=False)


def ops(request: Request, argv: Sequence[str]) -> int:
    """Runs `python -m ops` on the stack, on this terminal; gives its exit status."""
    with alone(request.stack, f"ops {' '.join(argv[:1])}") as folder:
        cloud = cloud_of(request.stack)
        workspace = workspace_of(folder, request, cloud.edge_port is not None)
        stack = ["--stack", request.stack] if argv[:1] and argv[0] not in ("gate", "comment") else []
        with keep_generations(workspace):
            return _call(
                [sys.executable, "-m", "ops", *argv, *stack], environment(cloud, workspace), REPOSITORY, own_group=True
            )


def environment(cloud: Cloud, workspace: Workspace) -> dict[str, str]:
    """What `pulumi` and `ops` find in their environment instead of an AWS account.

    APOLLO_WORK: the folder of the stack file. APOLLO_SSH: how to call ssh so that it reaches the machines' network.
    """
    binary = tools.pulumi()
    env = workspace.environment(cloud.providers(), tools.language_host())
    env |= {
        "PATH": f"{binary.parent}{os.pathsep}{env['PATH']}",
        "APOLLO_WORK": str(workspace.work),
        "AWS_ENDPOINT_URL": cloud.endpoint,
        "AWS_REGION": cloud.region,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }
    return env | ssh_environment(cloud)


def ssh_environment(cloud: Cloud) -> dict[str, str]:
    """How the administrator's computer is entered where machines are booted; nothing where none are."""
    if cloud.edge_port is None:
        return {}
    from .machines.driver import prefix

    return {"APOLLO_SSH": f"nsenter --net=/run/netns/{prefix(cloud.folder)}-admin -- ssh"}


def _call(argv: Sequence[str], env: dict[str, str], cwd: Path, *, own_group: bool) -> int:
    """Runs it on this terminal. What Ctrl-C means is its own matter.

    own_group: it asks nothing, so the terminal's signals come to us alone, and we pass each on once.
    """
    process = subprocess.Popen(list(argv), env=env, cwd=cwd, process_group=0 if own_group else None)

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        if own_group or number != signal.SIGINT:
            process.send_signal(number)

    before = signal.signal(signal.SIGINT, pass_on), signal.signal(signal.SIGTERM, pass_on)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
