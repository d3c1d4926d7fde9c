"""The commands over one stack's cloud: who may, in what order, and what is left afterwards."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from . import cloud as clouds
from .apollo import boot, monitoring
from .apollo.hosts import HostRow, planned_hosts
from .cloud import EDGE_PORT, Cloud
from .engine.programs import pulumi, pulumi_beside
from .engine.run import Engine, Operation, Run, begin_stack
from .engine.workspace import REAL_PROVIDER, Workspace, prepare
from .errors import LocalCloudError
from .machines.prepare import BEGUN_WITH, Kind
from .paths import cloud_dir, run_dir
from .processes import end
from .show import Progress, say
from .stack.project import program_dir, read_config, read_project
from .stack.running import cloud_of
from .stack.state import outputs, resources

# Where hosts boot from a disk of the user's: without our packages, which the first boot installs.
PLAIN_SETS = ("image.baked=false", "image.name=debian-12-plain-*")
# The program waits ten minutes for a host that it reached, and an emulated processor may take longer to install packages.
UNCHECKED_SETS = ("admin.allowedCidrs=[]",)
# Of this repository's stack, as virtual machines: seven on two emulated processors came to no end, and take 10 GiB.
FEWER_SETS = ("control.count=1", "slaves.count=2")
# In a cloud's folder: settings that come before those of each command.
SETS = "sets.json"


@dataclass(frozen=True)
class Request:
    """What the user asked for. sets: the --set options. port: of the AWS endpoint, 0 for any.

    rotate: keys of secrets to make anew.
    machines: whether hosts boot; kind: what makes them, None for containers, or for what a running cloud began with.
    edge_port: where the edge is offered, 0 for any port; None for the usual one, or where a running cloud offers it.
    host_files: a folder to lay over the root of hosts that are made from now on; None leaves it as it is.
    image: a disk with Debian that virtual machines boot from; for a cloud that does not run yet.
    metrics: where Prometheus is offered, 0 for any port; None starts none.
    real_provider: whether Pulumi's own plugin for AWS calls the cloud; a stack stays with what it began with.
    """

    stack: str = "local"
    sets: Sequence[str] = ()
    port: int = 0
    machines: bool = False
    kind: Kind | None = None
    edge_port: int | None = None
    demo: bool = False
    rotate: Sequence[str] = ()
    host_files: Path | None = None
    image: Path | None = None
    metrics: int | None = None
    real_provider: bool = False


@dataclass
class Outcome:
    """What came of it. changes: number of resources by what was done; hosts and outputs as they are now or are planned."""

    operation: str
    stack: str
    result: str
    seconds: float = 0.0
    changes: Counter[str] = field(default_factory=Counter[str])
    types: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    steps: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    hosts: list[HostRow] = field(default_factory=list[HostRow])
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    errors: list[str] = field(default_factory=list[str])
    # The demo's services and the host names they answer to, at a port of 127.0.0.1.
    urls: dict[str, str] = field(default_factory=dict[str, str])
    edge_port: int = 0
    # Prometheus', of 127.0.0.1, where this `up` was to start it.
    metrics_port: int = 0

    def public(self) -> dict[str, Any]:
        return {
            "operation": self.operation,
            "stack": self.stack,
            "result": self.result,
            "seconds": round(self.seconds, 1),
            "changes": dict(self.changes),
            "types": self.types,
            "steps": self.steps,
            "hosts": [host.public() for host in self.hosts],
            "outputs": self.outputs,
            "errors": self.errors,
            "metricsPort": self.metrics_port,
        }


def boots_machines(stack: str) -> bool:
    """Whether the stack is made for hosts that boot here: it says where they reach this cloud's API."""
    project = read_project(program_dir())
    return f"{project['name']}:awsEndpoint" in read_config(program_dir(), stack)


def up(request: Request) -> Outcome:
    """Brings the stack's cloud to what the program says; starts it where there is none."""
    with alone(request.stack, "up") as folder:
        real = folder / REAL_PROVIDER
        if not (folder / "state").exists():
            # Also where an earlier `up` was refused before it began.
            real.touch() if request.real_provider else real.unlink(missing_ok=True)
        elif request.real_provider and not real.exists():
            raise LocalCloudError("the stack was begun with the cloud's own provider; `down`, then `up --provider real`")
        found = clouds.find(folder)
        running = found if found and found.alive() else None
        machines = running.edge_port is not None if running else request.machines
        kind = running.kind if running else request.kind or "container"
        edge_port = EDGE_PORT if request.edge_port is None else request.edge_port
        if running and machines and request.edge_port not in (None, 0, running.edge_port):
            raise LocalCloudError(
                f"the cloud offers its edge at port {running.edge_port} already; "
                f"`down` ends it, then --edge-port {edge_port} holds"
            )
        if machines and request.kind is not None and request.kind != kind:
            raise LocalCloudError(
                f"the cloud was begun with {BEGUN_WITH[kind]}; `down` ends it, then {BEGUN_WITH[request.kind]} holds"
            )
        if machines and kind != "container" and (request.host_files is not None or request.metrics is not None):
            raise LocalCloudError("--host-files and --metrics are for hosts that are containers; leave out --machines vm")
        if request.image is not None and (running or kind == "container"):
            words = "the cloud runs, and its hosts have their image; `down` ends it, then --image holds"
            raise LocalCloudError(words if running else "--image is for virtual machines; give --machines vm with it")
        if request.metrics is not None and machines:
            monitoring.check()
        if machines:
            # On a cold machine both take minutes, each mostly on one core.
            with pulumi_beside():
                boot.prepare_machine(folder, None if running else edge_port, request.host_files, kind, request.image)
        elif request.machines:
            raise LocalCloudError("this cloud runs without machines; `down` ends it, then `up` boots them (or: --no-machines)")
        elif request.host_files is not None or request.metrics is not None or request.kind is not None:
            words = "--host-files, --metrics and --machines are for hosts that boot, and these are in the AWS API only"
            raise LocalCloudError(words)
        binary = pulumi()
        if not running:
            (folder / SETS).write_text(json.dumps(begun := settings_of(request, kind)))
            if begun:
                say(f"with {' '.join(begun)}, where --set says nothing else")
        workspace = workspace_of(folder, request, machines)
        cloud = _cloud(binary, workspace, request.port, edge_port if machines else None, kind)
        outcome = _run("up", binary, workspace, cloud)
        if machines:
            _finish_boot(request, cloud, outcome)
        return outcome


def settings_of(request: Request, kind: Kind) -> list[str]:
    """What comes before the settings of each command on the cloud that this request begins."""
    fewer = FEWER_SETS if kind != "container" and request.stack == Request.stack else ()
    return [*fewer, *(PLAIN_SETS if request.image else ()), *(UNCHECKED_SETS if request.image and kind == "vm" else ())]


def refresh(request: Request) -> Outcome:
    """Brings the state to what the cloud holds, so that changes made behind the program's back show."""
    with alone(request.stack, "refresh") as folder:
        cloud = cloud_of(request.stack)
        return _run("refresh", pulumi(), workspace_of(folder, request, cloud.edge_port is not None), cloud)


def preview(request: Request) -> Outcome:
    """What `up` would do: on the stack's cloud where one runs, else on an empty one that is gone afterwards."""
    folder = cloud_dir(request.stack)
    cloud = clouds.find(folder)
    if cloud and cloud.alive():
        with alone(request.stack, "preview"):
            return _run("preview", pulumi(), workspace_of(folder, request, cloud.edge_port is not None), cloud)
    with passing_folder() as passing:
        workspace = workspace_of(passing, request)
        binary = pulumi()
        begin = partial(begin_stack, binary, workspace)
        cloud = clouds.start(passing, workspace.region, port=request.port, ephemeral=True, meanwhile=begin)
        return _run("preview", binary, workspace, cloud)


def down(request: Request, *, force: bool = False) -> Outcome:
    """Destroys the stack, sees that nothing is left in the cloud, and ends the cloud. force: without the engine.

    LocalCloudError: something is left; the cloud stays, to be looked into.
    """
    folder = cloud_dir(request.stack)
    if not folder.exists():
        return Outcome("down", request.stack, "succeeded")
    with alone(request.stack, "down"):
        outcome = Outcome("down", request.stack, "succeeded")
        try:
            cloud = clouds.find(folder)
        except clouds.OtherVersion as other:
            if not force:
                raise
            # Its machines shut down first.
            end(other.pid, other.ticks, 60.0)
            cloud = None
        if cloud and cloud.alive() and not force:
            workspace = workspace_of(folder, request, cloud.edge_port is not None)
            # Programs that build on this stack go before it.
            for state in workspace.state_file.parent.parent.glob("*/*.json"):
                project = state.parent.name
                other = Workspace(folder, workspace.program, project, state.stem, workspace.region, f"work-{project}")
                if project != workspace.project and resources(state):
                    outcome = _run("destroy", pulumi(), other, cloud)
                    if outcome.result != "succeeded":
                        return outcome
            if resources(workspace.state_file):
                unprotect(cloud)
                monitoring.stop(cloud)
                outcome = _run("destroy", pulumi(), workspace, cloud)
                outcome.operation = "down"
            if outcome.result != "succeeded":
                return outcome
            left = cloud.ask("leftovers")["leftovers"]
            if left:
                raise LocalCloudError(
                    f"the stack is destroyed, but {len(left)} things are left in the cloud: {', '.join(left)}\n"
                    "It stays up so that you can look; `down --force` gives it up."
                )
        if cloud:
            cloud.stop()
        boot.sweep(folder)
        shutil.rmtree(folder)
    _remove_if_empty(run_dir())
    return outcome


def unprotect(cloud: Cloud) -> None:
    """Takes deletion protection off the load balancers. On AWS an `up` must do that first; what is local may go at once."""
    elb = cloud.api().client("elbv2")
    for balancer in elb.describe_load_balancers()["LoadBalancers"]:
        off = [{"Key": "deletion_protection.enabled", "Value": "false"}]
        elb.modify_load_balancer_attributes(LoadBalancerArn=balancer["LoadBalancerArn"], Attributes=off)


@contextmanager
def passing_folder() -> Generator[Path]:
    """A folder for a cloud that ends with this command, and is ended and removed here."""
    clouds.sweep(run_dir())
    folder = run_dir() / f"preview-{os.getpid()}"
    try:
        yield folder
    finally:
        if cloud := clouds.find(folder):
            cloud.stop()
        shutil.rmtree(folder, ignore_errors=True)
        _remove_if_empty(run_dir())


# --- parts ------------------------------------------------------------------------------------------------------------


def _run(operation: Operation, binary: Path, workspace: Workspace, cloud: Cloud) -> Outcome:
    engine = Engine(binary, workspace, cloud)
    for line in engine.repair():
        say(line)
    what = {"up": "updating", "preview": "planning", "refresh": "reading", "destroy": "destroying"}[operation]
    with Progress(f"{what} stack {workspace.stack}", each=operation != "preview") as progress:
        run: Run = engine.run(operation, progress)
    outcome = Outcome(operation, workspace.stack, run.result, run.seconds, run.report.changes, errors=run.report.errors)
    steps = run.report.planned if operation == "preview" else run.report.steps
    for step in steps:
        if step.op in ("create", "update", "replace", "delete", "import"):
            by_op = outcome.types.setdefault(step.type, {})
            by_op[step.op] = by_op.get(step.op, 0) + 1
    outcome.steps = [
        {"op": s.op, "type": s.type, "name": s.name, "urn": s.urn} for s in steps if s.op not in ("same", "refresh", "read")
    ]
    if operation == "preview":
        outcome.hosts = planned_hosts(run.report.planned)
    elif operation != "destroy":
        outcome.hosts = cloud.hosts()
        outcome.outputs = outputs(workspace.state_file)
    return outcome


def _finish_boot(request: Request, cloud: Cloud, outcome: Outcome) -> None:
    """Waits for the hosts' first boots and starts the demo. What failed becomes the outcome's failure."""
    try:
        boot.wait_ready(cloud, outcome.hosts, patient=outcome.result == "succeeded")
        if outcome.result == "succeeded" and request.demo:
            domain = outcome.outputs["edge"]["domain"]
            started = boot.start_demo(cloud, outcome.hosts, domain)
            outcome.urls = {c.service: f"{c.service}.{domain}" for c in sorted(started, key=lambda c: c.service)}
            outcome.edge_port = cloud.edge_port or 0
        if outcome.result == "succeeded" and request.metrics is not None:
            outcome.metrics_port = monitoring.start(cloud, request.stack, outcome.outputs, request.metrics)
    except LocalCloudError as error:
        outcome.errors.append(str(error))
        outcome.result = "failed"


def workspace_of(folder: Path, request: Request, machines: bool = False, program: Path | None = None) -> Workspace:
    """The work directory of a run. program: another one than the cloud's own, which builds on it."""
    from ops.secrets import SecretsError, generate

    source = program or program_dir()
    name = str(read_project(source)["name"])
    plain, hidden = boot.admin_config(folder, name) if machines else ({}, {})
    if program is None:
        plain = {f"{name}:awsEndpoint": boot.ENDPOINT, **plain}
    given = read_config(source, request.stack)
    domain = (given.get(f"{name}:edge") or {}).get("domain", "apollo.test")
    hidden = {**hidden, f"{name}:edgeCertificate": boot.edge_certificate(folder, domain)}
    consul = given.get(f"{name}:consul") or {}
    make = partial(generate, **{key: consul[key] for key in ("datacenter", "domain") if key in consul})
    try:
        place = f"work-{name}" if program else "work"
        # They are the stack's, and no other program's.
        begun = json.loads((folder / SETS).read_text()) if program is None and (folder / SETS).exists() else []
        return prepare(folder, source, request.stack, [*begun, *request.sets], make, plain, hidden, request.rotate, place)
    except SecretsError as error:
        raise LocalCloudError(str(error)) from None


def _cloud(binary: Path, workspace: Workspace, port: int, edge_port: int | None, kind: Kind) -> Cloud:
    """The stack's running cloud, or a new one. What the state says of a cloud that is gone is dropped, and said."""
    folder = workspace.folder
    cloud = clouds.find(folder)
    if cloud and cloud.alive():
        if port and not cloud.endpoint.endswith(f":{port}"):
            raise LocalCloudError(f"the cloud runs at {cloud.endpoint} already; `down` ends it, then --port {port} holds")
        return cloud
    if resources(workspace.state_file):
        since = (
            f" (process {cloud.pid}, started {time.strftime('%Y-%m-%d %H:%M', time.localtime(cloud.started))})" if cloud else ""
        )
        say(f"the old cloud{since} is gone, and all that it held with it; starting from an empty state")
        shutil.rmtree(folder / "state")
        (folder / "state").mkdir(mode=0o700)
    say("starting the embedded cloud")
    boot.sweep(folder)
    begin = partial(begin_stack, binary, workspace)
    return clouds.start(folder, workspace.region, port=port, edge_port=edge_port, kind=kind, meanwhile=begin)


@contextmanager
def alone(stack: str, operation: str) -> Generator[Path]:
    """One operation at a time on a stack's cloud. The kernel drops the lock with its holder, so none is ever stale."""
    folder = cloud_dir(stack)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    clouds.sweep(run_dir())
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = _holder(file.read())
            raise LocalCloudError(f"stack {stack} is in use: {holder}; wait for it, or stop it") from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "operation": operation, "since": time.strftime("%H:%M:%S")}))
        file.flush()
        try:
            yield folder
        finally:
            file.truncate(0)


def _holder(text: str) -> str:
    try:
        about = json.loads(text)
        return f"`{about['operation']}` of process {about['pid']}, since {about['since']}"
    except (ValueError, KeyError, TypeError):
        return "another command"


def _remove_if_empty(folder: Path) -> None:
    """Removes the folder and its parents as far as they are empty, up to the cache."""
    for place in (folder, folder.parent):
        try:
            place.rmdir()
        except OSError:
            return
