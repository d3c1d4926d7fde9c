"""Which containers are registered, and as what. With Docker it all runs on booted hosts (tests/booted/test_names.py)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from host.apollo import local, register
from host.apollo.consul import acl
from host.apollo.consul.configure import METRICS
from tests.host.conftest import Agent

SUBNET = "10.2.1.0/24"


def container(
    env: list[str],
    ports: list[str],
    labels: dict[str, str] | None = None,
    address: str = "10.2.1.7",
    mode: str = "default",
    bound: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What `docker inspect` says, as far as it matters."""
    return {
        "Id": "0123456789abcdef" * 4,
        "Name": "/hello",
        "Config": {"Env": ["PATH=/bin", *env], "Labels": labels, "ExposedPorts": {port: {} for port in ports} or None},
        "HostConfig": {"PortBindings": {port: [{"HostPort": "31000"}] for port in bound} or None, "NetworkMode": mode},
        "NetworkSettings": {"IPAddress": address},
    }


def services(*arguments: Any, **more: Any) -> tuple[dict[str, dict[str, Any]], list[str]]:
    found, problems = register.services(container(*arguments, **more), SUBNET)
    return found, [problem.words for problem in problems]


def named(*arguments: Any, **more: Any) -> list[str]:
    return sorted(entry["Name"] for entry in services(*arguments, **more)[0].values())


def test_a_container_is_registered_by_its_overlay_address_and_container_port() -> None:
    found, problems = services(["SERVICE_NAME=hello", "SERVICE_TAGS=public, v1"], ["80/tcp"])
    entry = found["apollo:0123456789ab:80"]
    assert (entry["Name"], entry["Address"], entry["Port"], entry["Tags"]) == ("hello", "10.2.1.7", 80, ["public", "v1"])
    assert "Check" not in entry and problems == []


def test_a_container_that_names_no_service_is_left_alone() -> None:
    assert services([], ["80/tcp"]) == ({}, [])
    assert services(["SERVICE_TAGS=public"], []) == ({}, [])


def test_labels_name_a_service_and_the_environment_wins() -> None:
    for labels in ({"SERVICE_NAME": "hello"}, {"apollo.service": "hello"}):
        assert named([], ["80/tcp"], labels) == ["hello"]
        assert named(["SERVICE_NAME=web"], ["80/tcp"], labels) == ["web"]


def test_what_asks_to_be_ignored_is_ignored_whole_or_by_port() -> None:
    assert services(["SERVICE_NAME=hello", "SERVICE_IGNORE=1"], ["80/tcp"]) == ({}, [])
    # What is left is one port, so its name needs no number.
    assert named(["SERVICE_NAME=hello", "SERVICE_9000_IGNORE=true"], ["80/tcp", "9000/tcp"]) == ["hello"]


def test_marathons_app_id_names_only_a_task_that_asks_for_something_and_gives_no_name() -> None:
    task = ["MARATHON_APP_ID=/prod/web", "PORT_80=31000", "PORT0=31000"]
    assert named([*task, "SERVICE_TAGS=public"], ["80/tcp"]) == ["prod-web"]
    assert named([*task, "SERVICE_CHECK_HTTP=/"], [], bound=("80/tcp",)) == ["prod-web"]
    # Without a port in the image and without a binding, Marathon's own variables tell the ports.
    assert named([*task, "SERVICE_TAGS=public"], []) == ["prod-web"]
    assert named([*task, "SERVICE_NAME=shop"], ["80/tcp"]) == ["shop"]
    assert named([*task, "SERVICE_80_NAME=shop"], ["80/tcp", "81/tcp"]) == ["shop"]
    assert named(task, ["80/tcp"]) == []


def test_each_exposed_port_is_an_instance_with_a_name_of_its_own() -> None:
    env = ["SERVICE_NAME=hello", "SERVICE_9000_NAME=hello-admin", "SERVICE_9000_TAGS=inside", "SERVICE_TAGS=public"]
    found, _ = services(env, ["80/tcp", "9000/tcp", "53/udp"])
    assert {(key, e["Name"], *e["Tags"]) for key, e in found.items()} == {
        ("apollo:0123456789ab:80", "hello-80", "public"),
        ("apollo:0123456789ab:9000", "hello-admin", "inside"),
        ("apollo:0123456789ab:53:udp", "hello-53", "udp"),
    }


def test_a_udp_port_has_a_name_and_no_route_and_tcp_on_the_same_port_keeps_its_own() -> None:
    found, problems = services(["SERVICE_NAME=hello", "SERVICE_TAGS=public,host=a.example.com,v1"], ["443/tcp", "443/udp"])
    assert {key: e["Tags"] for key, e in found.items()} == {
        "apollo:0123456789ab:443": ["public", "host=a.example.com", "v1"],
        "apollo:0123456789ab:443:udp": ["v1", "udp"],
    }
    assert problems == [
        f"hello: tag {tag!r} of port 443/udp is left out: the edge leads to TCP ports only"
        for tag in ("public", "host=a.example.com")
    ]


def test_one_container_cannot_ask_for_more_tags_or_ports_than_the_stack_can_carry() -> None:
    tags = ",".join(f"host=h{number}.example.com" for number in range(600))
    found, problems = services(["SERVICE_NAME=hello", f"SERVICE_TAGS=public,{tags}"], ["80/tcp"])
    (entry,) = found.values()
    assert entry["Tags"] == ["public", *(f"host=h{number}.example.com" for number in range(31))]
    assert problems == ["hello: tag 'host=h31.example.com' of port 80/tcp and all after it are left out: 32 are the most"]
    every = [f"{port}/tcp" for port in range(1, 65536)]
    found, problems = services(["SERVICE_NAME=hello"], every)
    most = "hello: exposes 65535 ports, and 32 are registered at most: of those with a name of their own, such as "
    most += "SERVICE_80_NAME, "
    assert found == {} and problems == [f"{most}there is none"]
    found, problems = services(["SERVICE_NAME=hello", "SERVICE_80_NAME=web", "SERVICE_443_NAME=web-tls"], every)
    assert sorted(e["Name"] for e in found.values()) == ["web", "web-tls"]
    assert problems == [f"{most}443/tcp, 80/tcp"]
    found, _ = services(["SERVICE_NAME=hello", *(f"SERVICE_{port}_NAME=n{port}" for port in range(1, 100))], every)
    assert len(found) == 32
    assert len(services(["SERVICE_NAME=hello"], every[:32])[0]) == 32


def test_only_the_named_ports_are_registered_without_a_name_for_all() -> None:
    found, problems = services(["SERVICE_80_NAME=hello"], ["80/tcp", "9000/tcp"])
    assert [e["Name"] for e in found.values()] == ["hello"] and problems == []


def test_a_named_check_starts_critical_with_its_own_timing() -> None:
    env = [
        "SERVICE_NAME=hello",
        "SERVICE_CHECK_HTTP=health?deep=1",
        "SERVICE_CHECK_INTERVAL=1s",
        "SERVICE_CHECK_TIMEOUT=5 parsecs",
    ]
    (entry,) = services(env, ["80/tcp"])[0].values()
    check = entry["Check"]
    assert (check["HTTP"], check["Interval"], check["Timeout"]) == ("http://10.2.1.7:80/health?deep=1", "1s", "2s")
    # Two answers in a row change it, either way, and a container leads nobody elsewhere.
    assert (check["FailuresBeforeCritical"], check["SuccessBeforePassing"], check["DisableRedirects"]) == (1, 1, True)
    assert check["Status"] == "critical"
    (entry,) = services(["SERVICE_NAME=hello", "SERVICE_80_CHECK_TCP=true"], ["80/tcp"])[0].values()
    assert entry["Check"]["TCP"] == "10.2.1.7:80"


@pytest.mark.parametrize("name", ["he llo", "-hello", "hello-", "a" * 64, "hel\nlo", "häl", "a.b", "a/b", '"', "$(id)"])
def test_a_name_that_dns_cannot_hold_is_reported_and_not_registered(name: str) -> None:
    found, problems = services([f"SERVICE_NAME={name}"], ["80/tcp"])
    assert found == {} and len(problems) == 1 and "is no DNS label" in problems[0]


def test_a_check_that_cannot_be_made_is_reported() -> None:
    found, problems = services(["SERVICE_NAME=hello", "SERVICE_CHECK_HTTP=/a b"], ["80/tcp"])
    assert found == {} and problems == ["hello: the check '/a b' is no path, so port 80/tcp is not registered"]
    _, problems = services(["SERVICE_NAME=hello", "SERVICE_CHECK_SCRIPT=/bin/true"], ["80/tcp"])
    assert problems == ["hello: SERVICE_CHECK_SCRIPT is not supported"]
    _, problems = services(["SERVICE_NAME=hello", "SERVICE_CHECK_TCP=1", "SERVICE_CHECK_INTERVAL=soon"], ["80/tcp"])
    assert problems == ["hello: SERVICE_CHECK_INTERVAL 'soon' is no duration such as 2s; it is 5s"]
    # A port of UDP takes no TCP connection, and would never pass.
    (entry,) = services(["SERVICE_NAME=hello", "SERVICE_CHECK_TCP=1"], ["53/udp"])[0].values()
    assert "Check" not in entry


@pytest.mark.parametrize(
    "tag", ["pub\nlic", "x\x00y", "a b", "ü", "t" * 256, 'a"b', "a'b", "a\\b", "#a", "$a", "{a}", "`a`", "a|b", "a\rb"]
)
def test_a_tag_that_could_be_more_than_a_tag_is_left_out(tag: str) -> None:
    found, problems = services(["SERVICE_NAME=hello", f"SERVICE_TAGS=public,{tag}"], ["80/tcp"])
    assert [e["Tags"] for e in found.values()] == [["public"]] and problems[0].startswith(f"hello: tag {tag[:100]!r} of")


@pytest.mark.parametrize(
    ("tag", "kept"), [("host=WWW.Example.COM", "host=www.example.com"), ("Host=a.example.com.", "host=a.example.com")]
)
def test_a_host_name_is_the_same_in_any_case(tag: str, kept: str) -> None:
    found, problems = services(["SERVICE_NAME=hello", f"SERVICE_TAGS=public,{tag},{kept}"], ["80/tcp"])
    assert [e["Tags"] for e in found.values()] == [["public", kept]] and problems == []


@pytest.mark.parametrize("tag", ["host=", "host=*.example.com", "host=-a", "path=api", "path=/a?b", "Path=/a", "host=a/b"])
def test_a_tag_that_makes_no_route_is_named(tag: str) -> None:
    found, problems = services(["SERVICE_NAME=hello", f"SERVICE_TAGS=public,{tag}"], ["80/tcp"])
    assert [e["Tags"] for e in found.values()] == [["public", tag]]
    assert problems == [f"hello: tag {tag!r} of port 80/tcp makes no route: such as host=www.example.com and path=/api do"]


@pytest.mark.parametrize("tag", ["host=www.example.com", "path=/api/v1", "v1.2.3", "rule=a&b;c?d=e%20f*", "urlprefix-/x"])
def test_a_usual_tag_is_kept_as_it_is(tag: str) -> None:
    found, problems = services(["SERVICE_NAME=hello", f"SERVICE_TAGS={tag}"], ["80/tcp"])
    assert [e["Tags"] for e in found.values()] == [[tag]] and problems == []


@pytest.mark.parametrize("name", ["Consul", "marathon", "mesos-master", "zookeeper"])
def test_the_control_nodes_own_names_cannot_be_taken(name: str) -> None:
    assert services([f"SERVICE_NAME={name}"], ["80/tcp"])[0] == {}


def test_the_names_that_consul_refuses_are_those_that_are_reported() -> None:
    rules = acl.TOKENS["apollo-registration"][1]
    assert all(f'service "{name}" {{ policy = "read" }}' in rules for name in register.TAKEN)
    assert rules.count('policy = "read"') == len(register.TAKEN)


def test_a_container_without_overlay_address_or_port_is_reported() -> None:
    _, problems = services(["SERVICE_NAME=hello"], ["80/tcp"], address="", mode="host")
    assert problems == ["hello: has no overlay address (network mode 'host'), so it is not registered"]
    # On a network of Docker's own making.
    assert len(services(["SERVICE_NAME=hello"], ["80/tcp"], address="172.18.0.2", mode="own")[1]) == 1
    _, problems = services(["SERVICE_NAME=hello"], [])
    assert problems == ["hello: exposes no port, so it is not registered"]


class Docker:
    """As much of Docker's API as the register asks, and a count of what it asked."""

    def __init__(self) -> None:
        self.running: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []

    def run(self, number: int, *env: str, address: str = "", stop_signal: str | None = None) -> str:
        attrs = container([*env], ["80/tcp"], address=address or f"10.2.1.{number % 256}")
        attrs |= {"Id": f"{number:064x}"[::-1], "State": "running"}
        attrs["Config"]["StopSignal"] = stop_signal
        self.running[attrs["Id"]] = attrs
        return attrs["Id"]

    def containers(self) -> list[dict[str, Any]]:
        self.asked.append("list")
        networks = [{"bridge": {"IPAddress": attrs["NetworkSettings"]["IPAddress"]}} for attrs in self.running.values()]
        return [
            {"Id": key, "State": attrs["State"], "NetworkSettings": {"Networks": network}}
            for (key, attrs), network in zip(self.running.items(), networks, strict=True)
        ]

    def inspect_container(self, key: str) -> dict[str, Any]:
        self.asked.append(key)
        return self.running[key]


def event(action: str, key: str, signal: str = "") -> dict[str, Any]:
    return {"Action": action, "Actor": {"ID": key, "Attributes": {"signal": signal}}}


def test_each_container_is_looked_at_once_however_many_there_are() -> None:
    docker = Docker()
    for number in range(500):
        docker.run(number, "SERVICE_NAME=hello")
    known = register.Register(docker, SUBNET)
    assert len(known.wanted()) == 500 and len(docker.asked) == 501
    moved = docker.run(7, "SERVICE_NAME=hello", address="10.2.1.200")
    assert len(known.wanted()) == 500 and docker.asked[501:] == ["list", moved]


def test_a_container_that_is_told_to_end_leaves_before_it_has_ended() -> None:
    docker = Docker()
    key, other = docker.run(1, "SERVICE_NAME=hello"), docker.run(2, "SERVICE_NAME=hello", stop_signal="SIGQUIT")
    known = register.Register(docker, SUBNET)
    assert len(known.wanted()) == 2
    # A signal that is no end: a reload, say, or a thread dump.
    assert not known.matters(event("kill", key, "1")) and not known.matters(event("kill", key, "3"))
    assert not known.matters(event("kill", other, "15"))
    assert known.matters(event("kill", key, "15")) and known.matters(event("kill", other, "3"))
    assert known.wanted() == {}
    # Docker's list may still have it when Docker says that it died.
    assert known.matters(event("die", key)) and known.wanted() == {}
    assert known.matters(event("start", key)) and len(known.wanted()) == 1


def test_a_paused_container_is_not_registered() -> None:
    docker = Docker()
    key = docker.run(1, "SERVICE_NAME=hello")
    known = register.Register(docker, SUBNET)
    docker.running[key]["State"] = "paused"
    assert known.matters(event("pause", key)) and known.wanted() == {}


def test_one_container_that_cannot_be_understood_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    docker = Docker()
    docker.run(1, "SERVICE_NAME=hello")
    broken = docker.run(2, "SERVICE_NAME=hello")
    docker.running[broken]["Config"] = None
    known = register.Register(docker, SUBNET)
    assert len(known.wanted()) == 1 and len(known.wanted()) == 1
    assert capsys.readouterr().out.count("cannot be read") == 1


def test_what_is_refused_is_counted_by_its_reason_while_its_container_runs() -> None:
    docker = Docker()
    known = register.Register(docker, SUBNET)
    none = dict.fromkeys(("network", "ports", "name", "check", "tag", "unreadable"), 0)
    known.wanted()
    assert known.refused() == none
    docker.run(1, "SERVICE_NAME=he llo")
    docker.run(2, "SERVICE_NAME=hello", "SERVICE_CHECK_SCRIPT=x", "SERVICE_CHECK_TCP=1", "SERVICE_CHECK_TIMEOUT=soon")
    docker.run(3, "SERVICE_NAME=hello", "SERVICE_TAGS=a b")
    docker.run(4, "SERVICE_NAME=hello", address="172.18.0.2")
    portless, broken = docker.run(5, "SERVICE_NAME=hello"), docker.run(6, "SERVICE_NAME=hello")
    docker.running[portless]["Config"]["ExposedPorts"] = docker.running[broken]["Config"] = None
    known.wanted()
    assert known.refused() == {**dict.fromkeys(none, 1), "check": 2}
    docker.running.clear()
    known.wanted()
    assert known.refused() == none


# -- with a real Consul


def known_to() -> dict[str, tuple[str, str]]:
    """ID → (name, check's status) of what the agent has beside what every host registers."""
    token = local.secret("consul/registration-token")
    checks = {check["ServiceID"]: check["Status"] for check in local.consul("agent/checks", token)[0].values()}
    services = local.consul("agent/services", token)[0].items()
    return {key: (entry["Service"], checks.get(key, "")) for key, entry in services if key != METRICS}


def wanted(number: int, *env: str) -> dict[str, dict[str, Any]]:
    docker = Docker()
    docker.run(number, "SERVICE_NAME=hello", *env)
    return register.Register(docker, SUBNET).wanted()


def test_the_agent_is_brought_in_step_and_what_others_registered_is_left_alone(agent: Agent) -> None:
    acl.stand(agent.facts, local.secret("consul/management-token"))
    token = local.secret("consul/registration-token")
    local.consul("agent/service/register", token, "PUT", {"ID": "theirs", "Name": "theirs"})
    one, two = wanted(1), wanted(2, "SERVICE_CHECK_TCP=1", "SERVICE_CHECK_INTERVAL=1h")
    register.reconcile({**one, **two})
    assert known_to() == {"theirs": ("theirs", ""), next(iter(one)): ("hello", ""), next(iter(two)): ("hello", "critical")}
    register.reconcile(two)
    assert known_to() == {"theirs": ("theirs", ""), next(iter(two)): ("hello", "critical")}


def test_an_entry_that_consul_refuses_stops_no_other(agent: Agent) -> None:
    acl.stand(agent.facts, local.secret("consul/management-token"))
    bad = wanted(1)
    next(iter(bad.values()))["Port"] = "eighty"
    with pytest.raises(local.ConsulError, match="register"):
        register.reconcile({**bad, **wanted(2)})
    assert list(known_to()) == list(wanted(2))


def test_a_rotated_token_registers_everything_anew_and_no_check_starts_over(agent: Agent, host: Path) -> None:
    management = local.secret("consul/management-token")
    acl.stand(agent.facts, management)
    (entry,) = wanted(1, "SERVICE_CHECK_TCP=1").values()
    key = entry["ID"]
    # A check that passes when it is told to, and not by itself.
    entry["Check"] = {"Name": "told", "Status": "critical", "TTL": "10m"}
    register.reconcile({key: entry})
    local.consul(f"agent/check/pass/service:{key}", local.secret("consul/registration-token"), "PUT")
    local.write(host / "secrets/consul/registration-token", f"{uuid.uuid4()}\n", 0o600)
    acl.stand(agent.facts, management, 0)
    register.reconcile({key: entry})
    assert known_to() == {key: ("hello", "passing")}
    # At another address it is another instance, which has passed nothing.
    register.reconcile({key: {**entry, "Address": "10.2.1.99"}})
    assert known_to() == {key: ("hello", "critical")}


def test_hundreds_of_services_are_compared_in_a_moment(agent: Agent) -> None:
    acl.stand(agent.facts, local.secret("consul/management-token"))
    docker = Docker()
    for number in range(300):
        docker.run(number, "SERVICE_NAME=hello", address=f"10.2.1.{number % 256}")
    known = register.Register(docker, SUBNET)
    register.reconcile(known.wanted())
    assert len(known_to()) == 300
    counted: list[str] = []
    real = local.consul

    def counting(path: str, *more: Any) -> Any:
        counted.append(path)
        return real(path, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "consul", counting)
        register.reconcile(known.wanted())
    # In step, one question is all it costs, whatever runs.
    assert counted == ["agent/services"]
