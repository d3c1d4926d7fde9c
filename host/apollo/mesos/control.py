"""Runs Mesos's master or Marathon on a control node, and drains agents. What of it ran with the real ones: docs/mesos.md.

apollo mesos master | marathon    becomes that program
apollo mesos needs ADDRESS        the seconds that moving Marathon's tasks off the agent there may take, and which they are
apollo mesos down ADDRESS         moves them, then takes its machine out of use
apollo mesos up ADDRESS           gives the machine back

A master's quorum follows from how many control nodes are planned (SSM's control/count, as of the last start of
apollo-secrets), so that no user-data changes when they grow. Growing, the old masters must have the larger quorum before a
new one's log counts; a new master waits for that.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from host.apollo import local, zookeeper
from host.apollo.mesos import mesos

# Principals: of Marathon, of the agents, and of whoever asks the master or drains.
MARATHON, AGENT, OPERATOR = "marathon", "agent", "operator"
# What each may do at the master, and the name that Mesos's acls.proto has for what it is done to. Everything else is refused:
# the agents' password is on every slave, and Marathon's with all who use it. From 1.7 on; other versions skip names they lack.
MAY: Mapping[str, Mapping[str, str]] = {
    MARATHON: {
        "register_frameworks": "roles",
        "run_tasks": "users",
        "reserve_resources": "roles",
        "unreserve_resources": "reserver_principals",
        "create_volumes": "roles",
        "destroy_volumes": "creator_principals",
        "resize_volumes": "roles",
    },
    AGENT: {"register_agents": "agents"},
    OPERATOR: {
        "teardown_frameworks": "framework_principals",
        "get_maintenance_schedules": "machines",
        "update_maintenance_schedules": "machines",
        "get_maintenance_statuses": "machines",
        "start_maintenances": "machines",
        "stop_maintenances": "machines",
        "drain_agents": "agents",
        "deactivate_agents": "agents",
        "reactivate_agents": "agents",
        "mark_agents_gone": "agents",
        "get_quotas": "roles",
        "update_quotas": "roles",
        "update_weights": "roles",
        "reserve_resources": "roles",
        "unreserve_resources": "reserver_principals",
        "create_volumes": "roles",
        "destroy_volumes": "creator_principals",
        "resize_volumes": "roles",
        "get_endpoints": "paths",
        "view_roles": "roles",
        "view_frameworks": "users",
        "view_executors": "users",
        "view_tasks": "users",
        "view_flags": "flags",
        "access_mesos_logs": "logs",
        "set_log_level": "level",
    },
}
LOG = Path(mesos.WORK) / "replicated_log"
QUORUM = mesos.RUN / "quorum"
# What Marathon gets by its environment: passwords, and what has no flag.
MARATHON_VARIABLES = ("MESOSPHERE_HTTP_CREDENTIALS", "MARATHON_ZK", "JAVA_OPTS", "LIBPROCESS_IP", "LIBPROCESS_PORT")
# Its image's own user cannot read the file with the password.
MARATHON_OPTIONS = ("--user=0:0",)
# Marathon logs what it reads from variables MARATHON_*, and its login for ZooKeeper has no other way in: this is its own log's
# form, without what stands before the @ of an address.
MARATHON_LOG = mesos.RUN / "marathon-log.xml"
LOG_FORM = """\
<configuration>
  <appender name="stdout" class="ch.qos.logback.core.ConsoleAppender">
    <encoder>
      <pattern>%replace([%date] %-5level %message \\(%logger:%thread\\)%n%ex){'zk://[^@ ]*@', 'zk://'}%nopex</pattern>
    </encoder>
  </appender>
  <root level="INFO"><appender-ref ref="stdout"/></root>
</configuration>
"""
# Seconds from a task's end until its successor runs, where the image is not on that slave yet, and that all tasks of a machine
# have at most; nanoseconds of the window that a drained machine is given.
START, LONGEST = 30, 600
WINDOW = 24 * 3600 * 10**9


class MesosError(Exception):
    """A server refused or did not answer. The text never holds a password."""


def password(user: str) -> str:
    return local.secret(f"mesos/{user}-password")


def login(user: str) -> str:
    """user:password."""
    return f"{user}:{password(user)}"


def zookeeper_login() -> str:
    """user:password of masters and Marathon."""
    return f"{zookeeper.USER}:{password('zookeeper')}"


def quorum(count: int) -> int:
    """The majority of so many masters."""
    return count // 2 + 1


def smaller(own: int, catalog: Sequence[Mapping[str, Any]]) -> list[str]:
    """Nodes whose master, as the catalog has it, runs with a smaller quorum than ours."""
    return [entry["Node"] for entry in catalog if int((entry.get("ServiceMeta") or {}).get("quorum", own)) < own]


def master(facts: Mapping[str, str]) -> None:
    own = quorum(int(local.secret("control/count")))
    if not LOG.exists():
        token = local.secret("consul/control-token")
        try:
            old = smaller(own, local.consul("catalog/service/mesos-master", token)[0])
        except local.ConsulError as error:
            mesos.problem("master", f"cannot ask which masters there are: {error}")
        if old:
            mesos.problem("master", f"waits: {', '.join(old)} must run with the quorum {own} first; see docs/operations.md")
    await_zookeeper("master")
    mesos.fetch("master")
    credentials = [{"principal": user, "secret": password(user)} for user in (MARATHON, AGENT, OPERATOR)]
    local.write(mesos.RUN / "credentials.json", json.dumps({"credentials": credentials}), 0o600)
    local.write(mesos.RUN / "acls.json", json.dumps(acls()), 0o600)
    # With a login, the nodes it makes can be read by all and changed by it alone.
    local.write(mesos.RUN / "zookeeper", mesos.zookeeper(facts, "mesos", zookeeper_login()), 0o600)
    local.write(QUORUM, f"{own}\n")
    mesos.start("master", mesos.command("master", master_flags(facts, own)))


def await_zookeeper(name: str) -> None:
    """A master without a login, or Marathon's library, that is there first would make a tree that is open to all."""
    if not zookeeper.CLAIMED.exists():
        mesos.problem(name, "waits for this node's ZooKeeper; see journalctl -u apollo-scheduler")


def acls() -> dict[str, Any]:
    """MAY in Mesos's form."""
    found: dict[str, Any] = {"permissive": False}
    for user, actions in MAY.items():
        for action, on in actions.items():
            found.setdefault(action, []).append({"principals": {"values": [user]}, on: {"type": "ANY"}})
    return found


def master_flags(facts: Mapping[str, str], own_quorum: int) -> list[str]:
    return [
        f"--zk=file://{mesos.RUN}/zookeeper",
        f"--quorum={own_quorum}",
        f"--work_dir={mesos.WORK}",
        f"--ip={facts['PRIVATE_IP']}",
        f"--port={mesos.MASTER_PORT}",
        f"--hostname={facts['PRIVATE_IP']}",
        f"--cluster={facts['STACK']}",
        "--authenticate_frameworks=true",
        # Those that come by HTTP have flags of their own, and without them need no password.
        "--authenticate_http_frameworks=true",
        "--http_framework_authenticators=basic",
        "--authenticate_agents=true",
        "--authenticate_http_readonly=true",
        "--authenticate_http_readwrite=true",
        f"--credentials=file://{mesos.RUN}/credentials.json",
        f"--acls=file://{mesos.RUN}/acls.json",
        "--registry_fetch_timeout=2mins",
    ]


def marathon(facts: Mapping[str, str]) -> None:
    await_zookeeper("marathon")
    mesos.fetch("marathon")
    local.write(mesos.RUN / "marathon-secret", password(MARATHON), 0o600)
    environment = {
        "MESOSPHERE_HTTP_CREDENTIALS": login(MARATHON),
        "MARATHON_ZK": mesos.zookeeper(facts, "marathon", zookeeper_login()),
        "JAVA_OPTS": f"-Xmx512m -Dlogback.configurationFile={MARATHON_LOG}",
        # The hosts' Java 17 has closed a way by which its injector opens classes. An image brings a Java of its own.
        "JDK_JAVA_OPTIONS": "--add-opens=java.base/java.lang=ALL-UNNAMED",
        # Masters speak to it here; by default it takes any free port.
        "LIBPROCESS_IP": facts["PRIVATE_IP"],
        "LIBPROCESS_PORT": str(mesos.MARATHON_SCHEDULER_PORT),
    }
    local.write(MARATHON_LOG, LOG_FORM)
    argv = mesos.command("marathon", marathon_flags(facts), MARATHON_OPTIONS, MARATHON_VARIABLES)
    mesos.start("marathon", argv, environment)


def marathon_flags(facts: Mapping[str, str]) -> list[str]:
    return [
        *("--master", mesos.zookeeper(facts, "mesos")),
        *("--hostname", facts["PRIVATE_IP"]),
        *("--http_address", facts["PRIVATE_IP"]),
        *("--http_port", str(mesos.MARATHON_PORT)),
        "--mesos_authentication",
        *("--mesos_authentication_principal", MARATHON),
        *("--mesos_authentication_secret_file", f"{mesos.RUN}/marathon-secret"),
        # With three, the default, its histograms alone fill 860 MB; with two all of it takes 28 MB of heap.
        *("--metrics_histogram_reservoir_significant_digits", "2"),
        # As long as an agent waits for an image.
        *("--task_launch_timeout", "600000"),
        *("--enable_features", "maintenance_mode"),
    ]


# -- draining


class Api:
    """The leading master's and Marathon's HTTP API. places: name → http://address:port."""

    def __init__(self, places: Mapping[str, str], logins: Mapping[str, str]) -> None:
        self._places, self._logins = places, logins

    def has(self, server: str) -> bool:
        return server in self._places

    def ask(self, server: str, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            status, answer = mesos.get(f"{self._places[server]}{path}", self._logins[server], data, method)
        except OSError as error:
            raise MesosError(f"{server}{path}: {error}") from None
        if not 200 <= status < 300:
            raise MesosError(f"{server}{path}: {status} {answer[:300].decode(errors='replace')}")
        return json.loads(answer) if answer.strip().startswith((b"{", b"[")) else None


def machine(address: str) -> dict[str, str]:
    """As Mesos names a machine; agents call themselves by their address."""
    return {"hostname": address, "ip": address}


def windows(schedule: Mapping[str, Any], without: str) -> list[dict[str, Any]]:
    """The windows of a maintenance schedule, but for one machine."""
    kept: list[dict[str, Any]] = []
    for window in schedule.get("windows", []):
        machines = [entry for entry in window["machine_ids"] if entry.get("ip") != without]
        if machines:
            kept.append({**window, "machine_ids": machines})
    return kept


def down(api: Api, address: str, now: float, wait: Callable[[Callable[[], bool]], bool]) -> str:
    """Moves the tasks of Marathon's applications off the machine, one by one, then takes the machine down: the master lets no
    agent of it register until `up`. wait: returns whether a condition came true in time. Returns what was done.

    Raises MesosError, and then the machine is in use as before, without the tasks that were moved by then.
    """
    agents = [agent for agent in api.ask("master", "/slaves")["slaves"] if agent["hostname"] == address]
    if not agents:
        return f"no agent at {address}: nothing to drain"
    schedule = api.ask("master", "/maintenance/schedule") or {}
    window = {
        "machine_ids": [machine(address)],
        "unavailability": {"start": {"nanoseconds": int(now * 10**9)}, "duration": {"nanoseconds": WINDOW}},
    }
    api.ask("master", "/maintenance/schedule", {"windows": [*windows(schedule, address), window]})
    try:
        moved = f"moved {move(api, address, wait)} tasks" if api.has("marathon") else "no Marathon answers, so moved no task"
        api.ask("master", "/machine/down", [machine(address)])
    except BaseException:
        # Also after Ctrl-C: else nothing would be started here for as long as the window lasts.
        with suppress(MesosError):
            unplan(api, address)
        raise
    return f"{moved}; {address} is down until `up`"


def tasks_at(api: Api, address: str) -> list[dict[str, Any]]:
    """Marathon's tasks on the machine. Raises MesosError."""
    return [task for task in api.ask("marathon", "/v2/tasks")["tasks"] if task["host"] == address]


def app_of(api: Api, task: Mapping[str, Any]) -> dict[str, Any]:
    return api.ask("marathon", f"/v2/apps/{task['appId'].strip('/')}")["app"]


def seconds_of(app: Mapping[str, Any]) -> int:
    """How long a task of the application may take to end here and be healthy elsewhere, by what it says itself. What it does
    not say has Marathon's defaults."""
    checks = app.get("healthChecks") or []
    healthy = [
        check.get("gracePeriodSeconds", 300) + check.get("intervalSeconds", 60) + check.get("timeoutSeconds", 20)
        for check in checks
    ]
    return int(app.get("taskKillGracePeriodSeconds") or 3) + START + max(healthy, default=0)


def needs(api: Api, address: str) -> str:
    """Seconds for all tasks on the machine, one after the other, and what they are for. Raises MesosError."""
    if not api.has("marathon"):
        return "0 s, as no Marathon answers"
    apps = [app_of(api, task) for task in tasks_at(api, address)]
    each = {app["id"]: (seconds_of(app), sum(other["id"] == app["id"] for other in apps)) for app in apps}
    whole = sum(seconds * count for seconds, count in each.values())
    parts = ", ".join(f"{count} of {name} with {seconds} s each" for name, (seconds, count) in sorted(each.items()))
    return f"{min(whole, LONGEST)} s for {len(apps)} tasks{f': {parts}' if parts else ''}"


def move(api: Api, address: str, wait: Callable[[Callable[[], bool]], bool]) -> int:
    """Moves Marathon's tasks off the machine; returns how many there were. Raises MesosError."""
    tasks = tasks_at(api, address)
    for task in tasks:
        # As many as were healthy by Marathon's knowledge. On the hosts' Java 17 Marathon 1.7.50 knows of none once its leader
        # has changed (it stores a version by the nanosecond, and looks for it by the millisecond).
        before = app_of(api, task).get("tasksHealthy", 0)
        api.ask("marathon", f"/v2/apps/{task['appId'].strip('/')}/tasks/{task['id']}", method="DELETE")
        found = ""

        def moved(task: Mapping[str, Any] = task, before: int = before) -> bool:
            nonlocal found
            app = app_of(api, task)
            entries = [entry for entry in app.get("tasks", []) if entry["id"] != task["id"]]
            running = sum(entry.get("state") == "TASK_RUNNING" for entry in entries)
            wanted, healthy = app["instances"], app.get("tasksHealthy", 0)
            due = min(before, wanted) if app.get("healthChecks") else 0
            found = f"{running} of {wanted} run" + (f", {healthy} of {due} are healthy" if due else "")
            return running >= wanted and healthy >= due

        if not wait(moved):
            raise MesosError(f"{task['appId']} did not come up elsewhere in time ({found}); {address} is still in use")
    return len(tasks)


def unplan(api: Api, address: str) -> None:
    """Takes the machine out of the maintenance schedule. Raises MesosError."""
    schedule = api.ask("master", "/maintenance/schedule") or {}
    api.ask("master", "/maintenance/schedule", {"windows": windows(schedule, address)})


def up(api: Api, address: str) -> str:
    """Gives the machine back, whether it was down or only about to be. Raises MesosError."""
    status = api.ask("master", "/maintenance/status") or {}
    if any(entry.get("ip") == address for entry in status.get("down_machines", [])):
        api.ask("master", "/machine/up", [machine(address)])
    unplan(api, address)
    return f"{address} is in use"


def leading() -> Api | None:
    """The servers to ask, by their names in Consul; None where no master leads. Raises ConsulError."""
    token = local.secret("consul/control-token")
    places: dict[str, str] = {}
    for server, query in (("master", "mesos-master?tag=leader&passing"), ("marathon", "marathon?passing")):
        found, _ = local.consul(f"health/service/{query}", token)
        if found:
            places[server] = f"http://{found[0]['Service']['Address']}:{found[0]['Service']['Port']}"
    return Api(places, {"master": login(OPERATOR), "marathon": login(MARATHON)}) if "master" in places else None


def patience(seconds: float) -> Callable[[Callable[[], bool]], bool]:
    """Waits for conditions, so many seconds for all of them together."""
    end = time.monotonic() + seconds

    def wait(condition: Callable[[], bool]) -> bool:
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(1)
        return True

    return wait


def main(argv: Sequence[str]) -> int | str:
    try:
        return command(argv)
    except (MesosError, local.ConsulError) as error:
        return f"failed: {error}"


def command(argv: Sequence[str]) -> int:
    facts = local.facts()
    match argv:
        case ["master"]:
            master(facts)
        case ["marathon"]:
            marathon(facts)
        case ["needs" | "down" as verb, address]:
            if api := leading():
                needed = needs(api, address)
                print(needed, flush=True)
                if verb == "down":
                    print(down(api, address, time.time(), patience(float(needed.split()[0]))))
            else:
                print("0 s, as no Mesos master leads")
        case ["up", address]:
            api = leading()
            print(up(api, address) if api else "no Mesos master leads: nothing to give back")
        case _:
            print("usage: apollo mesos master | marathon | needs ADDRESS | down ADDRESS | up ADDRESS", file=sys.stderr)
            return 2
    return 0
