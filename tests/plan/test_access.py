"""Who may read which secret, and who may talk to whom: written by hand, to be read beside what the plan says."""

from __future__ import annotations

import pytest

from plan.rules import groups_of, rules_of
from plan.secrets import SECRETS, parameters, secrets_of
from tests.plan.support import settings

# Secret → whether slaves, control nodes and edges may read it. A slave or an edge that is broken into gives away its column.
READERS = """
consul/gossip-key          slave control edge
consul/management-token    -     control -
consul/slave-token         slave control -
consul/control-token       -     control -
consul/edge-token          -     control edge
consul/registration-token  slave control -
consul/template-token      -     control edge
consul/ca                  slave control edge
consul/server-certificate  -     control -
consul/agent-certificate   slave -       edge
mesh/password              slave control edge
mesos/marathon-password    -     control -
mesos/operator-password    -     control -
mesos/zookeeper-password   -     control -
mesos/agent-password       slave control -
ssh/host-key               slave control edge
edge/certificate           -     -       edge
control/count              slave control -
bucket                     slave control edge
"""
READ = {row.split()[0]: set(row.split()[1:]) - {"-"} for row in READERS.strip().splitlines()}


@pytest.mark.parametrize("role", ["slave", "control", "edge"])
@pytest.mark.parametrize("tls", [True, False])
def test_a_role_reads_the_secrets_of_its_column_and_no_other(role: str, tls: bool) -> None:
    expected = {name for name, readers in READ.items() if role in readers and (tls or name != "edge/certificate")}
    found = parameters(role, settings(edge={"tls": {"enabled": tls}}))  # pyright: ignore[reportArgumentType]
    assert sorted(found) == sorted(expected)


def test_every_secret_is_in_the_table_and_the_certificate_is_one_with_tls_alone() -> None:
    assert {secret.parameter for secret in secrets_of(settings(edge={"tls": {"enabled": True}}))} == READ.keys() - {
        "control/count",
        "bucket",
    }
    assert secrets_of(settings()) == SECRETS
    assert [secret.key for secret in secrets_of(settings(edge={"tls": {"enabled": True}})) if secret.large] == [
        "edgeCertificate"
    ]


# To whom, which protocol and port, from whom. Protocol 50 is ESP.
ALWAYS = """
node     tcp 8301   node
node     udp 8301   node
node     tcp 8520   metrics
node     tcp 8404   metrics
control  tcp 8300   node
control  tcp 8510   node
control  tcp 8500   client
control  tcp 8600   client
control  udp 8600   client
control  tcp 2181   slave
control  tcp 2181   control
control  tcp 2888   control
control  tcp 3888   control
control  tcp 5050   slave
control  tcp 5050   control
control  tcp 8080   control
control  tcp 8080   client
control  tcp 5052   control
slave    tcp 5051   control
edge     tcp 80     client
"""
WEAVE = """
node     tcp 6783       node
node     udp 6783-6784  node
node     50  *          node
"""
VXLAN = "node udp 4789 node"
WIREGUARD = "node udp 51820 node"
ONE_EDGE = "edge tcp 80 0.0.0.0/0"
SEVERAL_EDGES = """
edge      tcp 8081  balancer
balancer  tcp 80    0.0.0.0/0
"""
TLS_ONE = """
edge tcp 443 client
edge tcp 443 0.0.0.0/0
"""
TLS_SEVERAL = """
edge      tcp 443   client
edge      tcp 8444  balancer
balancer  tcp 443   0.0.0.0/0
"""
ADMIN = """
node tcp 22 edge
edge tcp 22 203.0.113.7/32
edge tcp 22 198.51.100.0/24
"""
CASES: list[tuple[dict[str, object], tuple[str, ...]]] = [
    ({}, (WEAVE, ONE_EDGE)),
    ({"overlay": {"mesh": "vxlan"}}, (VXLAN, ONE_EDGE)),
    ({"overlay": {"mesh": "wireguard"}}, (WIREGUARD, ONE_EDGE)),
    ({"overlay": {"mesh": "wireguard", "switchFrom": "vxlan"}}, (WIREGUARD, VXLAN, ONE_EDGE)),
    ({"edge": {"count": 2}}, (WEAVE, SEVERAL_EDGES)),
    ({"edge": {"tls": {"enabled": True}}}, (WEAVE, ONE_EDGE, TLS_ONE)),
    ({"edge": {"count": 10, "tls": {"enabled": True}}}, (WEAVE, SEVERAL_EDGES, TLS_SEVERAL)),
    (
        {"admin": {"allowedCidrs": ["203.0.113.7/32", "198.51.100.0/24"], "publicKey": "ssh-ed25519 AAAA"}},
        (WEAVE, ONE_EDGE, ADMIN),
    ),
    ({"mesos": {"published": ["marathon"]}}, (WEAVE, ONE_EDGE, "control tcp 8080 edge")),
    ({"mesos": {"published": ["mesos-master"]}}, (WEAVE, ONE_EDGE, "control tcp 5050 edge")),
]


@pytest.mark.parametrize(("keys", "parts"), CASES, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_the_rules_of_a_stack_are_these_and_no_others(keys: dict[str, object], parts: tuple[str, ...]) -> None:
    expected = sorted(" ".join(line.split()) for part in (ALWAYS, *parts) for line in part.splitlines() if line.strip())
    found: list[str] = []
    for rule in rules_of(settings(**keys)):
        flow = rule.flow
        last = f"-{flow.last_port}" if flow.last_port != flow.first_port else ""
        found.append(f"{rule.to} {flow.protocol} {f'{flow.first_port}{last}' if flow.ported else '*'} {rule.source}")
    assert sorted(found) == expected


def test_a_balancer_has_a_group_where_there_is_one() -> None:
    assert groups_of(settings()) == ["node", "slave", "control", "edge", "client", "metrics"]
    assert groups_of(settings(edge={"count": 2})) == ["node", "slave", "control", "edge", "client", "balancer", "metrics"]


def test_each_network_of_administrators_has_a_rule_of_its_own_that_names_it() -> None:
    networks = ["203.0.113.7/32", "198.51.100.0/24"]
    rules = rules_of(settings(admin={"publicKey": "ssh-ed25519 AAAA", "allowedCidrs": networks}))
    found = [(rule.source, rule.flow.purpose) for rule in rules if (rule.to, rule.flow.first_port) == ("edge", 22)]
    assert found == [(network, f"SSH for administrators in {network}") for network in networks]
