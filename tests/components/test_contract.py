"""The export contract, frozen. A change here is a change for every stack that consumes ours: see outputs.py."""

from __future__ import annotations

from typing import Any

from tests.components.recording import run_program

CONTRACT: dict[str, Any] = {
    "contractVersion": "number",
    "vpcId": "string",
    "privateSubnetIds": ["string"],
    "publicSubnetIds": ["string"],
    "securityGroupIds": {"client": "string", "slaves": "string"},
    "overlay": {"cidr": "string", "bridge": "string", "mesh": "string", "mtu": "number"},
    "slaves": {
        "slave-1": {
            "slot": "number",
            "zone": "string",
            "privateIp": "string",
            "bridgeAddress": "string",
            "dockerSubnet": "string",
            "instanceId": "string",
            "generation": "number",
        }
    },
    "consul": {"datacenter": "string", "domain": "string", "servers": ["string"], "httpPort": "number", "dnsPort": "number"},
    "edge": {"publicIps": ["string"], "dnsName": "string", "url": "string", "domain": "string", "overlayAddresses": ["string"]},
    "sshHostKey": "string",
    "mesos": {"masters": ["string"], "zookeeper": "string", "marathonUrl": "string"},
}


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return {str: "string", float: "number", int: "number", bool: "boolean"}[type(value)]


def test_names_and_shapes_of_the_exports_are_frozen() -> None:
    outputs = run_program("dev", {"aws:region": "eu-west-1", "apollo:slaves": {"count": 1}}).outputs
    assert shape(outputs) == CONTRACT


def test_the_exports_say_what_the_plan_says() -> None:
    outputs = run_program("dev").outputs
    assert outputs["contractVersion"] == 1
    assert outputs["overlay"] == {"cidr": "10.2.0.0/16", "bridge": "weave", "mesh": "weave", "mtu": 8916}
    assert outputs["slaves"]["slave-1"] == {
        "slot": 1,
        "zone": "eu-west-1a",
        "privateIp": "10.0.0.33",
        "bridgeAddress": "10.2.0.1/16",
        "dockerSubnet": "10.2.1.0/24",
        "instanceId": "slave-1-instance-id",
        "generation": 1,
    }
    assert outputs["consul"]["servers"] == ["10.0.0.11", "10.0.32.12", "10.0.0.13"]
    assert outputs["edge"]["url"] == "http://ec2-203-0-113-10.example.com"
    assert outputs["mesos"]["zookeeper"] == "zk://10.0.0.11:2181,10.0.32.12:2181,10.0.0.13:2181/mesos"
