"""Runs the Mesos agent on a slave. What of it ran with the real agent: docs/mesos.md.

apollo mesos agent          becomes the agent
apollo mesos agent-stopped  after it ended

An agent finds the containers of its last run again by the state in its work directory. State that it cannot use (another
host's, fewer resources than before, a file that a power cut tore) makes it say so and end, each time. So `run` drops the
state, as Mesos's own advice is, where it ended so three times in a row; the agent then registers as a new one, and Mesos
kills what ran under the old one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from host.apollo import local
from host.apollo.mesos import mesos

WORK = Path(mesos.WORK)
LATEST = WORK / "meta/slaves/latest"
FAILURES = mesos.RUN / "agent-failures"
CGROUPS = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")
# It starts containers beside its own, limits them, and looks at their processes.
DOCKER_OPTIONS = (
    *("--pid=host", "--privileged", "--volume=/run/docker.sock:/var/run/docker.sock"),
    f"--volume={CGROUPS}:{CGROUPS}",
)
# What it says, and nothing else, where it cannot use its state (Mesos 1.7.0, Slave::__recover), and how often in a row.
UNUSABLE, MOST = "Failed to perform recovery", 3
# What it says where the leading master knows another password.
REFUSED = "refused authentication"
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
        # A disk that grew is no reason to end tasks.
        "--reconfiguration_policy=additive",
    ]
    if mesos.own("agent"):
        # They inherit nothing else.
        found.append(f"--executor_environment_variables={json.dumps({'LD_LIBRARY_PATH': f'{mesos.OWN}/lib'})}")
    elif mesos.image("agent"):
        # Executors in containers of their own, which a restart of the agent's container does not end.
        found.append(f"--docker_mesos_image={mesos.image('agent')}")
    return found


def drop_unusable_state() -> None:
    """Drops the agent's old state where the agent could not use it time and again. Tasks' files stay."""
    if not FAILURES.exists() or len(FAILURES.read_text().split()) < MOST:
        return
    print(f"the state in {WORK} is dropped: the agent could not use it, {MOST} times in a row", flush=True)
    if LATEST.is_dir() and not LATEST.is_symlink():
        shutil.rmtree(LATEST)
    else:
        LATEST.unlink(missing_ok=True)
    FAILURES.unlink()


def stopped(invocation: str) -> None:
    """Counts an end for which the agent gave the reason that it cannot use its state, while Docker answered, which it asks for
    its containers first. No other end says anything of the state: a refused password, an order, a signal.

    invocation: systemd's name for the run.
    """
    subprocess.run(["journalctl", "--sync"], check=False)
    # The reason is the last that it says.
    argv = ["journalctl", "-o", "cat", "-q", "-n", "200", f"_SYSTEMD_INVOCATION_ID={invocation}"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    if REFUSED in said:
        mesos.say("agent", "the leading master refuses its password: systemctl restart apollo-secrets mesos-agent")
    if UNUSABLE not in said:
        FAILURES.unlink(missing_ok=True)
    elif subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        FAILURES.parent.mkdir(exist_ok=True)
        with FAILURES.open("a") as counted:
            print(time.time(), file=counted)


def run(facts: Mapping[str, str]) -> None:
    lacking = control_groups()
    if lacking:
        mesos.problem("agent", lacking)
    mesos.fetch("agent")
    memory = int(next(line for line in MEMORY.read_text().splitlines() if line.startswith("MemTotal:")).split()[1])
    WORK.mkdir(exist_ok=True)
    what = resources(memory, os.cpu_count() or 1, shutil.disk_usage(WORK).total)
    drop_unusable_state()
    credential = {"principal": USER, "secret": password()}
    local.write(mesos.RUN / "credential.json", json.dumps(credential), 0o600)
    local.write(mesos.RUN / "credentials.json", json.dumps({"credentials": [credential]}), 0o600)
    mesos.start("agent", mesos.command("agent", flags(facts, what), DOCKER_OPTIONS))


def password() -> str:
    return local.secret("mesos/agent-password")


def look(facts: Mapping[str, str]) -> tuple[bool, str]:
    """(whether the running agent does its work, how it is, in words). The leading master decides: the agent itself calls itself
    registered as soon as it knows of a master. Raises OSError or ValueError where one does not answer, and ConsulError."""
    login = f"{USER}:{password()}"
    url = f"http://{facts['PRIVATE_IP']}:{mesos.AGENT_PORT}/metrics/snapshot"
    status, _ = mesos.get(url, login, seconds=mesos.LOOK_SECONDS)
    if status != 200:
        return False, f"{url}: {status}"
    found, _ = local.consul("health/service/mesos-master?tag=leader&passing", local.secret("consul/slave-token"))
    if not found:
        return False, "registered nowhere, as no master leads"
    leader = found[0]["Service"]
    # Of this agent alone, where it has a name.
    which = f"?slave_id={LATEST.resolve().name}" if LATEST.is_symlink() else ""
    url = f"http://{leader['Address']}:{leader['Port']}/slaves{which}"
    status, answer = mesos.get(url, login, seconds=mesos.LOOK_SECONDS)
    if status != 200:
        return False, f"{url}: {status}"
    own = [agent for agent in json.loads(answer)["slaves"] if agent["hostname"] == facts["PRIVATE_IP"]]
    where, why = f"by {leader['Address']}, which leads", f"see journalctl -u {mesos.UNITS['agent']}"
    if not own:
        return False, f"not registered {where}; {why}"
    return (True, "registered and active") if own[0]["active"] else (False, f"registered {where}, and not active; {why}")


def end() -> None:
    """After the agent's unit stopped."""
    stopped(os.environ["INVOCATION_ID"])
