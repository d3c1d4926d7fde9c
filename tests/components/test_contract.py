"""The export contract, frozen. A change here is a change for every stack that consumes ours: see outputs.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.components.recording import TEST_PUBLIC_KEY, run_program

# Of the program as it is run below. docs/contract.md describes each field and its type.
EXPORTS: dict[str, Any] = {
    "contractVersion": 1,
    "vpcId": "network-vpc-id",
    "privateSubnetIds": ["network-private-a-id", "network-private-b-id"],
    "publicSubnetIds": ["network-public-a-id", "network-public-b-id"],
    "securityGroupIds": {
        "client": "security-client-id",
        "slaves": "security-slave-id",
        "metrics": "security-metrics-id",
    },
    "overlay": {"cidr": "10.2.0.0/16", "bridge": "weave", "mesh": "weave", "mtu": 8916},
    "slaves": {
        "slave-1": {
            "slot": 1,
            "zone": "eu-west-1a",
            "privateIp": "10.0.0.33",
            "bridgeAddress": "10.2.0.1/16",
            "dockerSubnet": "10.2.1.0/24",
            "instanceId": "slave-1-instance-id",
            "generation": 4,
        }
    },
    "consul": {
        "datacenter": "dc1",
        "domain": "consul",
        "servers": ["10.0.0.11", "10.0.32.12", "10.0.0.13"],
        "httpPort": 8500,
        "dnsPort": 8600,
    },
    "edge": {
        "publicIps": ["203.0.113.10"],
        "dnsName": "ec2-203-0-113-10.example.com",
        "url": "http://ec2-203-0-113-10.example.com",
        "domain": "apollo.test",
        "overlayAddresses": ["10.2.0.240"],
    },
    "sshHostKey": TEST_PUBLIC_KEY,
    "mesos": {
        "masters": ["10.0.0.11:5050", "10.0.32.12:5050", "10.0.0.13:5050"],
        "zookeeper": "zk://10.0.0.11:2181,10.0.32.12:2181,10.0.0.13:2181/mesos",
        "marathonUrl": "http://marathon.service.consul:8080",
    },
}


def test_the_exports_say_what_the_plan_says() -> None:
    config = {"aws:region": "eu-west-1", "apollo:slaves": {"count": 1, "generations": {"1": 4}}}
    assert run_program("dev", config).outputs == EXPORTS


@pytest.mark.parametrize(("control", "masters"), [(1, 1), (3, 3), (5, 5)])
def test_consul_and_mesos_name_as_many_servers_as_there_are(control: int, masters: int) -> None:
    outputs = run_program("dev", {"aws:region": "eu-west-1", "apollo:control": {"count": control}}).outputs
    assert len(outputs["consul"]["servers"]) == len(outputs["mesos"]["masters"]) == masters
    assert outputs["mesos"]["zookeeper"].count(",") == masters - 1


def test_several_edges_are_one_name_that_of_their_load_balancer() -> None:
    edge = run_program("dev", {"aws:region": "eu-west-1", "apollo:edge": {"count": 2, "domain": "example.com"}}).outputs["edge"]
    assert edge == {
        "publicIps": ["203.0.113.10", "203.0.113.10"],
        "dnsName": "balancer.example.com",
        "url": "http://balancer.example.com",
        "domain": "example.com",
        "overlayAddresses": ["10.2.0.240", "10.2.0.241"],
    }
