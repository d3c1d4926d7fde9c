"""Debian's Prometheus beside booted hosts: what it reads of them is so, and what breaks there fires its alert and clears."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from localcloud.apollo import monitoring
from plan import ports
from tests.booted.clients import CONTROL, HOSTS, SLAVES, pid_of, scan
from tests.booted.conftest import Stack, until

# A slave, as the worst that an operator could make a member of the group.
MEMBER = "slave-1"


@dataclass(frozen=True)
class Prometheus:
    """port: of 127.0.0.1."""

    stack: Stack
    port: int

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        opener, said = urllib.request.build_opener(urllib.request.ProxyHandler({})), list[Any]()

        def answers() -> bool:
            # While it begins, or on a busy machine, it does not.
            with contextlib.suppress(OSError, http.client.HTTPException), opener.open(url, timeout=30) as answer:
                said.append(json.loads(answer.read())["data"])
            return bool(said)

        until(answers, f"Prometheus answers {path} {query}")
        return said[0]

    def hosts(self, expression: str) -> dict[str, float]:
        """The expression's value of each host."""
        result = self.ask("query", query=expression)["result"]
        found = {one["metric"]["host"]: float(one["value"][1]) for one in result}
        assert len(found) == len(result), result
        return found

    def look(self, *hosts: str) -> None:
        """These look at themselves now, not within a minute; one that is down does not."""
        for host in hosts:
            self.stack.run(host, "systemctl", "start", "apollo-metrics")

    def firing(self, alert: str) -> set[str]:
        """Of which hosts it is."""
        alerts = self.ask("alerts")["alerts"]
        return {
            one["labels"].get("host", "") for one in alerts if one["labels"]["alertname"] == alert and one["state"] == "firing"
        }


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Generator[Prometheus]:
    """As `up --metrics` starts it, then with its example at the pace of a test: nothing else of it is changed."""
    cloud = stack.cloud
    try:
        made = Prometheus(stack, stack.up("--metrics", "0")["metricsPort"])
        configuration = monitoring.configuration(cloud, "local")
        configuration["global"] = {"scrape_interval": "2s", "evaluation_interval": "1s"}
        rules = yaml.safe_load((monitoring.EXAMPLES / "rules.yml").read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
            rule["for"] = "0s"
        monitoring.configure(cloud, configuration, rules)
        until(lambda: len(made.hosts('up{job="apollo"} == 1')) == len(HOSTS), "Prometheus reaches every host")
        yield made
    finally:
        monitoring.stop(cloud)


def test_every_target_that_the_example_finds_is_up(prometheus: Prometheus) -> None:
    def found() -> dict[tuple[str, str], str]:
        targets = prometheus.ask("targets", state="active")["activeTargets"]
        return {(one["labels"]["job"], one["labels"]["host"]): one["health"] for one in targets}

    wanted = {**{("apollo", host): "up" for host in HOSTS}, ("apollo-edge", "edge-1"): "up"}
    until(lambda: found() == wanted, "all targets are up", why=lambda: str(found()))


def test_what_hosts_say_is_so(prometheus: Prometheus) -> None:
    def wrong() -> Any:
        prometheus.look(*HOSTS)
        return prometheus.ask("query", query="apollo_metrics_part_ok == 0 or apollo_check_ok == 0")["result"]

    def peers(which: str) -> dict[str, float]:
        return prometheus.hosts(f"apollo_mesh_peers_{which}")

    # A slave that another test had for a while may be a peer still.
    whole = len(HOSTS) - 1
    until(lambda: [n >= whole for n in peers("wanted").values()] == [True] * len(HOSTS), "every host wants six peers")
    until(lambda: peers("present") == peers("wanted"), "every host has its peers", why=lambda: f"{peers('present')}")
    until(lambda: not wrong(), "every part of every host is well", why=lambda: str(wrong()))
    for host in HOSTS:
        digest = prometheus.stack.out(host, "cat", "/etc/apollo/programs").rpartition("/")[2]
        assert prometheus.hosts(f'apollo_host_info{{programs="{digest}",host="{host}"}}') == {host: 1}
    running = prometheus.hosts('engine_daemon_container_states_containers{state="running"}')
    assert running == prometheus.hosts("apollo_containers_running") and running.keys() == SLAVES.keys()
    assert prometheus.hosts("consul_raft_state_leader").keys() == CONTROL.keys()
    # A few hundred a host, whatever runs on it, and some for each of its processors.
    assert max(prometheus.hosts('count by (host) ({job="apollo",cpu=""})').values()) < 1000


def test_each_panel_shows_something_and_all_that_a_rule_looks_at_is_there(prometheus: Prometheus) -> None:
    panels = json.loads((monitoring.EXAMPLES / "dashboard.json").read_text())["panels"]
    asked = [target["expr"].replace("$stack", "local") for panel in panels for target in panel["targets"]]
    rules = yaml.safe_load((monitoring.EXAMPLES / "rules.yml").read_text())["groups"]
    # Each metric with its labels, whatever a rule compares it with.
    metric = r"\b(?:up|[a-z]+[_:][\w:]+)\b(?:{[^}]*})?(?!\()"
    asked += [found for group in rules for rule in group["rules"] for found in re.findall(metric, rule["expr"])]

    def empty() -> list[str]:
        return [expression for expression in asked if not prometheus.ask("query", query=expression)["result"]]

    # A rate needs two samples.
    until(lambda: not empty(), "nothing is empty", why=lambda: "\n".join(empty()))


def test_a_host_whose_disks_take_nothing_says_all_the_same(stack: Stack) -> None:
    def looked(host: str) -> tuple[int, str]:
        """The status, and the parts that failed."""
        sealed = ("--wait", "--pipe", "--quiet", "-p", "ProtectSystem=strict", "-p", "ReadWritePaths=/run")
        done = stack.run(host, "systemd-run", *sealed, "apollo", "metrics")
        return done.returncode, done.stdout.strip()

    for host in ("slave-1", "control-1", "edge-1"):
        until(lambda host=host: looked(host) == (0, ""), f"{host} says all")


@pytest.fixture(scope="module")
def member(stack: Stack) -> Generator[None]:
    """While a host is in the group `metrics`."""
    cloud = stack.cloud
    ec2 = cloud.api().client("ec2")
    query = [{"Name": "private-ip-address", "Values": [HOSTS[MEMBER]]}, {"Name": "instance-state-name", "Values": ["running"]}]
    (instance,) = ec2.describe_instances(Filters=query)["Reservations"][0]["Instances"]
    groups = [group["GroupId"] for group in instance["SecurityGroups"]]
    more = [*groups, stack.exports["securityGroupIds"]["metrics"]]
    try:
        ec2.modify_instance_attribute(InstanceId=instance["InstanceId"], Groups=more)
        yield
    finally:
        ec2.modify_instance_attribute(InstanceId=instance["InstanceId"], Groups=groups)


def test_no_other_host_and_no_container_not_even_of_a_member_reaches_them(stack: Stack, member: None) -> None:
    del member
    pid = pid_of(stack, MEMBER, "demo-web")
    for host, address in HOSTS.items():
        assert scan(stack, MEMBER, address, ports.METRICS) == [ports.METRICS], host
        assert scan(stack, MEMBER, address, ports.METRICS, ports.EDGE_STATS, pid=pid) == [], host
        if host != "slave-2":
            assert scan(stack, "slave-2", address, ports.METRICS, ports.EDGE_STATS) == [], host


def test_members_see_of_haproxy_its_metrics_alone_and_no_secret_of_any_host(stack: Stack, member: None) -> None:
    del member
    edge = f"http://{HOSTS['edge-1']}:{ports.EDGE_STATS}"
    assert "haproxy_frontend_http_responses_total" in stack.out(MEMBER, "curl", "-sSf", "-m", "30", f"{edge}/metrics")
    assert stack.run(MEMBER, "curl", "-sf", "-m", "30", f"{edge}/").returncode == 22
    for host, address in HOSTS.items():
        text = stack.out(MEMBER, "curl", "-sSf", "-m", "30", f"http://{address}:{ports.METRICS}/metrics")
        shown = stack.out(host, "sh", "-c", "cd /etc/apollo/secrets && cat $(find . -type f ! -name bucket)")
        assert not [line for line in shown.splitlines() if len(line) > 15 and line in text], host


def test_the_catalog_says_where_metrics_are(stack: Stack) -> None:
    ask = "curl -sf -H @- http://127.0.0.1:8500/v1/catalog/service/apollo-metrics"
    header = "printf 'X-Consul-Token: %s' \"$(cat /etc/apollo/secrets/consul/control-token)\""
    entries = json.loads(stack.out("control-1", "sh", "-c", f"{header} | {ask}"))
    assert {entry["Node"]: (entry["Address"], entry["ServicePort"]) for entry in entries} == {
        host: (address, ports.METRICS) for host, address in HOSTS.items()
    }


Fault = tuple[str, str, Callable[[], object], Callable[[], object]]


def mesh_cut(stack: Stack) -> Fault:
    rules = "table inet cut { chain out { type filter hook output priority 0; udp dport 4789 drop; }; }"
    return (
        *("MeshFails", "slave-2"),
        lambda: stack.out("slave-2", "nft", rules),
        lambda: stack.run("slave-2", "nft", "delete table inet cut"),
    )


def disk_filled(stack: Stack) -> Fault:
    fill = "fallocate -l $(df --output=avail -B1 /data | tail -1) /data/filled"
    return (
        *("DiskNearlyFull", "slave-3"),
        lambda: stack.out("slave-3", "sh", "-c", fill),
        lambda: stack.run("slave-3", "rm", "-f", "/data/filled"),
    )


def edge_stopped(stack: Stack) -> Fault:
    return "HostAway", "edge-1", lambda: stack.order("stop", "edge-1"), lambda: stack.order("start", "edge-1")


def leader_gone(stack: Stack) -> Fault:
    led = stack.leader()
    return (
        *("NoConsulLeader", led),
        lambda: stack.out(led, "systemctl", "stop", "consul"),
        lambda: stack.run(led, "systemctl", "start", "consul"),
    )


def service_without_instance(stack: Stack) -> Fault:
    def move(*names: str) -> None:
        stack.run("slave-3", "docker", "exec", "demo-api", "sh", "-c", f"mv /www/{names[0]} /www/{names[1]}")

    return "ServiceWithoutInstance", "edge-1", lambda: move("index.html", "away"), lambda: move("away", "index.html")


def not_looked_yet(stack: Stack) -> Fault:
    """As on a host that boots: the exporter serves before anything has looked."""
    off = "/run/systemd/system/apollo-metrics.service.d"
    condition = f"mkdir {off}; printf '[Unit]\\nConditionPathExists=/none\\n' > {off}/off.conf; systemctl daemon-reload"
    return (
        *("HostSaysNothingNew", "slave-1"),
        lambda: stack.out("slave-1", "sh", "-ec", f"{condition}; systemctl stop apollo-metrics; rm -r /run/apollo/metrics"),
        lambda: stack.run("slave-1", "sh", "-c", f"rm -r {off}; systemctl daemon-reload"),
    )


@pytest.mark.parametrize("broken", [mesh_cut, disk_filled, not_looked_yet, service_without_instance, leader_gone, edge_stopped])
def test_a_fault_fires_its_alert_which_clears_after_it(
    stack: Stack, prometheus: Prometheus, broken: Callable[[Stack], Fault]
) -> None:
    alert, host, begin, end = broken(stack)

    def fires() -> bool:
        prometheus.look(host)
        return host in prometheus.firing(alert)

    until(lambda: not fires(), f"{alert} of {host} is silent before", why=lambda: str(prometheus.ask("alerts")))
    try:
        begin()
        until(fires, f"{alert} of {host} fires", why=lambda: str(prometheus.ask("alerts")))
    finally:
        end()
    until(lambda: not fires(), f"{alert} of {host} clears", why=lambda: str(prometheus.ask("alerts")))
    until(lambda: len(prometheus.hosts('up{job="apollo"} == 1')) == len(HOSTS), "every host is up again")
    until(lambda: re.match("api on", stack.curl("api.apollo.test")) is not None, "the edge serves")
