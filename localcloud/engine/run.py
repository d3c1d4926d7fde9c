"""Runs the Pulumi engine over a workspace, and repairs what an earlier, killed run left."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ops.interrupts import counted

from ..cloud import Cloud
from ..errors import LocalCloudError
from ..processes import supervised
from ..show import say
from ..stack.state import read_state, resources
from .events import Report, Step, follow
from .programs import engine_programs
from .workspace import Workspace

Operation = Literal["up", "preview", "refresh", "destroy"]
_PARALLEL = 32  # an instance that boots takes long, and the others need not wait for it
_GRACE_SECONDS = 10.0  # for the engine to notice by itself that the cloud is gone


@dataclass(frozen=True)
class Run:
    """How a run ended. result: succeeded, failed or interrupted. seconds: how long it took."""

    report: Report
    result: Literal["succeeded", "failed", "interrupted"]
    seconds: float


def environment(cloud: Cloud, workspace: Workspace, binary: Path) -> dict[str, str]:
    """What `pulumi` and `ops` find in their environment instead of an AWS account. binary: the Pulumi CLI, which `pulumi` runs.

    APOLLO_CLOUD: the cloud's folder. APOLLO_WORK: the folder of the stack file. APOLLO_SSH: how to call ssh so that it reaches
    the machines' network.
    """
    env = workspace.environment(engine_programs(binary))
    env |= {"APOLLO_CLOUD": str(cloud.folder), "APOLLO_WORK": str(workspace.work), **cloud.credentials()}
    return env | ssh_environment(cloud)


def ssh_environment(cloud: Cloud) -> dict[str, str]:
    """How the administrator's computer is entered where machines are booted; nothing where none are."""
    if cloud.edge_port is None:
        return {}
    from ..machines.driver import prefix

    return {"APOLLO_SSH": f"nsenter --net=/run/netns/{prefix(cloud.folder)}-admin -- ssh"}


class Engine:
    """The engine over one workspace and one cloud. binary: the Pulumi CLI."""

    def __init__(self, binary: Path, workspace: Workspace, cloud: Cloud) -> None:
        self._workspace = workspace
        self._cloud = cloud
        self._binary = binary
        self._env = environment(cloud, workspace, binary)
        self._log = workspace.log

    def run(self, operation: Operation, progress: Callable[[Report, Step | None], None]) -> Run:
        """One operation, to its end. progress: called after each step, and a few times a second in between.

        Ctrl-C is passed on once: the engine finishes what is under way and records it. The second one ends it at once.
        LocalCloudError: the cloud died meanwhile.
        """
        begin_stack(self._binary, self._workspace)
        events = self._workspace.folder / "events.jsonl"
        events.unlink(missing_ok=True)
        argv = [operation, "--stack", self._workspace.stack, "--non-interactive", "--color", "never"]
        argv += ["--event-log", str(events), "--suppress-outputs", "--parallel", str(_PARALLEL)]
        if operation != "preview":
            argv += ["--yes", "--skip-preview"]
        # Nothing is drained where everything goes. An emulated processor takes minutes until its SSH answers.
        ending = operation == "destroy"
        added = {"APOLLO_DRAIN": "off"} if ending else {"APOLLO_PATIENCE": "3600"} if self._cloud.kind == "vm" else {}
        self._cloud.ask("begin", {"environment": added, "ending": ending})
        report = Report()
        started = time.monotonic()
        process = supervised(["pulumi", *argv], self._env, self._workspace.work, self._log)
        interrupts = 0
        lost: float | None = None
        with counted() as pressed:
            try:
                ended = False
                for event in follow(events):
                    if event is not None:
                        progress(report, report.take(event))
                        continue
                    if ended:
                        break
                    progress(report, None)
                    # One more look at the file after the end: nothing that was written is missed.
                    ended = process.poll() is not None
                    if pressed() > interrupts:
                        interrupts += 1
                        process.send_signal(signal.SIGINT)
                        say("stopping once what is under way is done and recorded; Ctrl-C again stops at once")
                    if lost is None and not self._cloud.alive():
                        lost = time.monotonic()
                    if lost is not None and time.monotonic() - lost > _GRACE_SECONDS:
                        process.terminate()
                    time.sleep(0 if ended else 0.05)
            finally:
                process.terminate()
                process.wait()
        if not self._cloud.alive():
            raise LocalCloudError(
                f"the cloud (process {self._cloud.pid}) ended while the engine was running; see {self._cloud.log}\n"
                "What it held is gone: the next `up` starts from an empty state."
            )
        if process.returncode and not report.errors and not interrupts:
            report.errors.append(_last_words(self._log))
        result = "interrupted" if interrupts and process.returncode else "failed" if process.returncode else "succeeded"
        return Run(report, result, time.monotonic() - started)

    def repair(self) -> list[str]:
        """Makes the state usable again after a run that was killed; returns what was done, a line each.

        To be called only while no engine of ours runs. The lock is removed, operations that never ended are taken off the
        state, and resources that were made but not recorded are deleted: the next `up` makes them again.
        """
        done: list[str] = []
        locks = [path for path in self._workspace.locks.rglob("*.json") if path.is_file()]
        if locks:
            shutil.rmtree(self._workspace.locks)
            done.append("removed the lock of an engine that is gone")
        state = read_state(self._workspace.state_file)
        if state is None:
            return done
        latest = cast(dict[str, Any], state["checkpoint"].get("latest") or {})
        pending = latest.get("pending_operations") or []
        if pending:
            del latest["pending_operations"]
            draft = self._workspace.state_file.with_suffix(".draft")
            draft.write_text(json.dumps(state, indent=4))
            draft.replace(self._workspace.state_file)
            done.append(f"took {len(pending)} unfinished operations off the state")
        # No one waits any more for what the killed run began; a command on a host would go on for many minutes.
        self._cloud.ask("cancel", {})
        self._cloud.wait_idle()
        # Other programs of this cloud have states of their own.
        every = [r for path in self._workspace.state_file.parent.parent.glob("*/*.json") for r in resources(path)]
        known = [{"type": r["type"], "id": r["id"]} for r in every if r.get("id")]
        orphans = self._cloud.ask("orphans", {"known": known})["removed"]
        return done + [f"deleted {o['id']} ({o['type']}), made by a run that did not live to record it" for o in orphans]


def begin_stack(binary: Path, workspace: Workspace) -> None:
    """Gives the workspace's stack an empty state where it has none. It needs no cloud. LocalCloudError: Pulumi refuses."""
    if workspace.state_file.exists():
        return
    env = workspace.environment(engine_programs(binary)) | {"APOLLO_CLOUD": str(workspace.folder)}
    argv = ["pulumi", "stack", "init", workspace.stack, "--non-interactive", "--color", "never"]
    if supervised(argv, env, workspace.work, workspace.log).wait():
        raise LocalCloudError(f"pulumi stack init failed: {_last_words(workspace.log)}")


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return "\n  ".join(lines[-5:]) or f"the engine said nothing; see {log}"
