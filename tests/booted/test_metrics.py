"""What every booted host serves for Prometheus: to members of one group and no one else, and what it says is so."""

from __future__ import annotations

import json
import re
from collections.abc import Generator

import pytest

from localcloud import cloud as clouds
from plan import ports
from tests.booted.conftest import Stack, until
from tests.host.test_firewall import SCAN

SLAVES = {"slave-1": "10.0.0.33", "slave-2": "10.0.32.34", "slave-3": "10.0.0.35"}
HOSTS = {
    **SLAVES,
    "control-1": "10.0.0.11",
    "control-2": "10.0.32.12",
    "control-3": "10.0.0.13",
    "edge-1": "10.0.224.11",
}
# A slave, as the worst that an operator could make a member.
MEMBER = "slave-1"


@pytest.fixture(scope="module")
def member(stack: Stack) -> Generator[None]:
    """While a host is in the group `metrics`, as Prometheus' machine is."""
    cloud = clouds.find(stack.run_dir / "local")
    assert cloud is not None
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


def scraped(stack: Stack, host: str, port: int = ports.METRICS) -> str:
    return stack.out(MEMBER, "curl", "-sSf", "-m", "10", f"http://{HOSTS[host]}:{port}/metrics")


def value(text: str, name: str) -> float:
    (found,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found)


@pytest.mark.parametrize("host", HOSTS)
def test_a_member_of_the_group_sees_the_machine_and_what_apollo_knows_of_it(stack: Stack, member: None, host: str) -> None:
    del member
    until(lambda: "apollo_check_ok" in scraped(stack, host), f"{host} has looked at itself", 180)
    text = scraped(stack, host)
    assert "node_memory_MemTotal_bytes" in text
    assert f'apollo_host_info{{host="{host}"' in text
    assert (value(text, "apollo_mesh_peers_wanted"), value(text, "apollo_mesh_peers_present")) == (6, 6)
    assert not re.findall(r"^apollo_metrics_part_ok\{.*\} 0$", text, re.MULTILINE), text
    failing = re.findall(r"^apollo_check_ok\{(.*)\} 0$", text, re.MULTILINE)
    assert not failing
    digest = stack.out(host, "cat", "/etc/apollo/programs").rpartition("/")[2]
    assert f'programs="{digest}"' in text
    # A few hundred series a host, whatever runs on it.
    assert len([line for line in text.splitlines() if not line.startswith("#")]) < 1500


def test_haproxys_own_metrics_are_there_and_its_statistics_are_not(stack: Stack, member: None) -> None:
    del member
    assert "haproxy_frontend_http_responses_total" in scraped(stack, "edge-1", ports.EDGE_STATS)
    page = stack.run(MEMBER, "curl", "-sf", "-m", "10", f"http://{HOSTS['edge-1']}:{ports.EDGE_STATS}/")
    assert page.returncode == 22


def test_no_other_host_and_no_container_not_even_of_the_member_reaches_them(stack: Stack, member: None) -> None:
    del member
    pid = stack.out(MEMBER, "docker", "inspect", "-f", "{{.State.Pid}}", "demo-web")
    for port in (ports.METRICS, ports.EDGE_STATS):
        for host, address in HOSTS.items():
            if host != "slave-2":
                assert json.loads(stack.out("slave-2", "python3", "-c", SCAN, address, str(port))) == [], (host, port)
    for address in HOSTS.values():
        inside = stack.out(MEMBER, "nsenter", "-t", pid, "-n", "python3", "-c", SCAN, address, str(ports.METRICS))
        assert json.loads(inside) == [], address


def test_no_secret_is_among_what_a_host_serves(stack: Stack, member: None) -> None:
    del member
    for host in HOSTS:
        text = scraped(stack, host)
        shown = stack.out(host, "sh", "-c", "cd /etc/apollo/secrets && cat $(find . -type f ! -name bucket)")
        assert not [line for line in shown.splitlines() if len(line) > 15 and line in text], host


def test_the_catalog_says_where_metrics_are(stack: Stack) -> None:
    ask = "curl -sf -H @- http://127.0.0.1:8500/v1/catalog/service/apollo-metrics"
    header = "printf 'X-Consul-Token: %s' \"$(cat /etc/apollo/secrets/consul/control-token)\""
    entries = json.loads(stack.out("control-1", "sh", "-c", f"{header} | {ask}"))
    assert {entry["Node"]: (entry["Address"], entry["ServicePort"]) for entry in entries} == {
        host: (address, ports.METRICS) for host, address in HOSTS.items()
    }


def test_what_a_check_finds_is_a_metric_and_goes_again(stack: Stack, member: None) -> None:
    del member
    try:
        stack.out("slave-2", "systemctl", "stop", "dnsmasq")
        stack.out("slave-2", "systemctl", "start", "apollo-metrics")
        assert value(scraped(stack, "slave-2"), 'apollo_check_ok{check="names"}') == 0
    finally:
        stack.out("slave-2", "systemctl", "start", "dnsmasq")
    stack.out("slave-2", "systemctl", "start", "apollo-metrics")
    assert value(scraped(stack, "slave-2"), 'apollo_check_ok{check="names"}') == 1
