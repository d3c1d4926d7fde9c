"""Runs the Mesos agent on a slave (unproved: no Mesos has run here yet).

apollo mesos agent          becomes the agent
apollo mesos agent-stopped  after it ended, told by systemd how

An agent finds the containers of its last run again by the state in its work directory. State that it cannot use makes it end
at once, each time. So `run` drops the state, as Mesos's own advice is, where the agent is no longer the one that wrote it
(other resources, attributes or address), and where it failed three times within ten minutes; the agent then registers as a
new one, and Mesos kills what ran under the old one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from host.apollo import apollo
from host.apollo.mesos import mesos

WORK = Path(mesos.WORK)
LATEST = WORK / "meta/slaves/latest"
IDENTITY = WORK / "apollo-agent.json"
FAILURES = mesos.RUN / "agent-failures"
CGROUPS = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")
# It starts containers beside its own, limits them, and looks at their processes.
DOCKER_OPTIONS = (
    *("--pid=host", "--privileged", "--volume=/run/docker.sock:/var/run/docker.sock"),
    f"--volume={CGROUPS}:{CGROUPS}",
)
# Failures, and the seconds within which they count.
MOST, SPAN = 3, 600
# Left to the host: MiB of memory and of the data volume, and a part of a processor, for Docker, Consul, mesh and DNS.
HOST_MEMORY, HOST_DISK, HOST_CPUS = 768, 4096, 0.25
USER = "agent"
TASK_PORTS = "[31000-32000]"


def resources(memory_kib: int, cpus: int, disk_bytes: int) -> str:
    """What tasks may have, in Mesos's form. Whole steps, so that a kernel that reports a little less changes nothing."""
    memory = memory_kib // 1024 // 64 * 64
    disk = disk_bytes // (1 << 30) * 1024
    return (
        f"cpus:{max(cpus - HOST_CPUS, 0.25):g};mem:{max(memory - HOST_MEMORY, memory // 4)};"
        f"disk:{max(disk - HOST_DISK, disk // 4)};ports:{TASK_PORTS}"
    )


def control_groups() -> str:
    """What Mesos lacks of the kernel's control groups, empty where all is there."""
    if (CGROUPS / "cgroup.controllers").exists():
        return (
            "control groups are version 2 here, and Mesos needs version 1: boot with systemd.unified_cgroup_hierarchy=0 "
            "(/etc/default/grub.d/apollo.cfg has it: update-grub, then reboot)"
        )
    lacking = [name for name in ("cpu", "cpuacct", "memory") if not (CGROUPS / name).is_dir()]
    return f"no control group hierarchy for {', '.join(lacking)} below {CGROUPS}" if lacking else ""


def flags(facts: Mapping[str, str], what: str) -> list[str]:
    """what: the resources."""
    found = [
        f"--master={mesos.zookeeper(facts, 'mesos')}",
        f"--ip={facts['PRIVATE_IP']}",
        f"--port={mesos.AGENT_PORT}",
        f"--hostname={facts['PRIVATE_IP']}",
        f"--work_dir={WORK}",
        # Its tasks' containers land on the weave bridge, as that is Docker's default network.
        "--containerizers=docker",
        f"--attributes=slot:{facts['INDEX']};zone:{facts['ZONE']}",
        f"--resources={what}",
        # An image is pulled before the task's executor can register.
        "--executor_registration_timeout=10mins",
        "--docker_remove_delay=1hrs",
        "--no-systemd_enable_support",
        f"--credential=file://{mesos.RUN}/credential.json",
        "--authenticate_http_readonly=true",
        "--authenticate_http_readwrite=true",
        f"--http_credentials=file://{mesos.RUN}/credentials.json",
    ]
    # Executors in containers of their own, which a restart of the agent's container does not end.
    return [*found, f"--docker_mesos_image={mesos.image('agent')}"] if mesos.image("agent") else found


def drop_unusable_state(identity: Mapping[str, str], now: float) -> None:
    """Drops the agent's old state if it is another agent's, or has failed too often. Tasks' files stay."""
    reason = ""
    if IDENTITY.exists() and recorded() != identity:
        reason = "it is another agent's"
    elif len(failures(now)) >= MOST:
        reason = f"the agent ended {MOST} times within {SPAN // 60} minutes"
    if reason and (LATEST.is_symlink() or LATEST.exists()):
        print(f"the state in {WORK} is dropped: {reason}", flush=True)
        if LATEST.is_dir() and not LATEST.is_symlink():
            shutil.rmtree(LATEST)
        else:
            LATEST.unlink()
        FAILURES.unlink(missing_ok=True)
    apollo.write(IDENTITY, json.dumps(identity) + "\n")


def recorded() -> Any:
    """Whose state it is; nobody's where a power cut left that unreadable, as the agent must come up all the same."""
    try:
        return json.loads(IDENTITY.read_text())
    except ValueError:
        return None


def failures(now: float) -> list[float]:
    """When the agent failed, within the span."""
    if not FAILURES.exists():
        return []
    return [when for when in map(float, FAILURES.read_text().split()) if now - SPAN < when <= now]


def stopped(result: str, status: str, now: float) -> None:
    """Counts an end that was no order of ours, and not Docker's or our own "not now"."""
    if result not in ("success", "") and status not in (str(mesos.NOT_YET), "125"):
        apollo.write(FAILURES, "".join(f"{when}\n" for when in [*failures(now), now]))


def run(facts: Mapping[str, str]) -> None:
    lacking = control_groups()
    if lacking:
        mesos.problem("agent", lacking)
    mesos.fetch("agent")
    memory = int(next(line for line in MEMORY.read_text().splitlines() if line.startswith("MemTotal:")).split()[1])
    WORK.mkdir(exist_ok=True)
    what = resources(memory, os.cpu_count() or 1, shutil.disk_usage(WORK).total)
    identity = {"address": facts["PRIVATE_IP"], "attributes": f"{facts['INDEX']} {facts['ZONE']}", "resources": what}
    drop_unusable_state(identity, time.time())
    credential = {"principal": USER, "secret": password()}
    apollo.write(mesos.RUN / "credential.json", json.dumps(credential), 0o600)
    apollo.write(mesos.RUN / "credentials.json", json.dumps({"credentials": [credential]}), 0o600)
    mesos.start("agent", mesos.command("agent", flags(facts, what), DOCKER_OPTIONS))


def password() -> str:
    return apollo.secret("mesos/agent-password")


def look(facts: Mapping[str, str]) -> tuple[bool, str]:
    """(whether the running agent does its work, which takes a master that has registered it; how it is, in words). Raises
    OSError or ValueError where it does not answer, and ConsulError."""
    url = f"http://{facts['PRIVATE_IP']}:{mesos.AGENT_PORT}/metrics/snapshot"
    status, answer = mesos.get(url, f"{USER}:{password()}", seconds=mesos.LOOK_SECONDS)
    if status != 200:
        return False, f"{url}: {status}"
    if json.loads(answer).get("slave/registered"):
        return True, "registered"
    found, _ = apollo.consul("health/service/mesos-master?tag=leader&passing", apollo.secret("consul/slave-token"))
    if not found:
        return False, "registered nowhere, as no master leads"
    return False, f"not registered by {found[0]['Service']['Address']}, which leads; see journalctl -u {mesos.UNITS['agent']}"


def end() -> None:
    """After the agent's unit stopped, with systemd's word on how."""
    stopped(os.environ.get("SERVICE_RESULT", ""), os.environ.get("EXIT_STATUS", ""), time.time())
