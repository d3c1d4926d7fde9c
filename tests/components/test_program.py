"""What the whole program registers, for each stack file and for changes of it."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from typing import Any

import pytest
from pulumi import RunError

from components.programs import bucket_prefix
from components.readiness import DEADLINE
from host.render import programs
from localcloud.api.texts import TEXTS, problem
from ops import drain
from plan.aws import MOST_RULES, OWN_TAGS
from plan.cluster import Role
from plan.parse import parse
from plan.rules import rules_of
from plan.secrets import LARGEST
from tests.components.recording import (
    TEST_CERTIFICATE,
    TEST_SECRETS,
    Recording,
    plain_text,
    run_program,
    stack_config,
    traces,
)
from tests.host.support import text_of
from tests.plan.support import cluster

INSTANCE = "aws:ec2/instance:Instance"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


def merged(stack: str = "dev", **changes: Any) -> dict[str, Any]:
    """The stack's configuration with sections changed key by key."""
    config = stack_config(stack)
    for section, value in changes.items():
        key = f"apollo:{section}"
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    return config


def stack_settings(stack: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The sections of merged() as the program's own parser reads them."""
    return {key.removeprefix("apollo:"): value for key, value in merged(stack, **changes).items() if key.startswith("apollo:")}


def machines(recording: Recording) -> dict[str, dict[str, Any]]:
    return {name: dict(r.inputs) for name, r in recording.of(INSTANCE).items()}


@pytest.fixture(scope="module")
def dev() -> Recording:
    return run_program("dev")


@pytest.mark.parametrize(("stack", "hosts"), [("dev", 7), ("prod", 11), ("local", 7)])
def test_each_stack_file_registers_all_its_hosts(stack: str, hosts: int) -> None:
    assert len(run_program(stack).of(INSTANCE)) == hosts


def test_a_stack_file_with_a_region_alone_means_all_defaults() -> None:
    assert sorted(run_program("dev", {"aws:region": "eu-west-1"}).of(INSTANCE)) == sorted(
        f"{host}-instance" for host in ("slave-1", "slave-2", "slave-3", "control-1", "control-2", "control-3", "edge-1")
    )


def test_a_preview_knows_every_address_and_all_user_data_and_no_cloud_id(dev: Recording) -> None:
    preview = run_program("dev", preview=True)
    assert preview.outputs["slaves"]["slave-2"]["bridgeAddress"] == "10.2.0.2/16"
    assert preview.outputs["slaves"]["slave-2"]["instanceId"] == UNKNOWN
    assert preview.outputs["vpcId"] == UNKNOWN
    for name, machine in machines(dev).items():
        assert machines(preview)[name]["userDataBase64"] == machine["userDataBase64"]


def test_logical_names_do_not_carry_the_stack(dev: Recording) -> None:
    assert set(dev.resources) == {
        urn.replace("urn:pulumi:other::", "urn:pulumi:dev::") for urn in run_program("other", stack_config("dev")).resources
    }


# The instance: what it is given, what may replace it, what must exist before it.


# What the engine is asked to do otherwise than by default, by type; by name where resources of a type differ. A resource that
# is deleted before its successor is made leaves a gap, and one that is not needs its name, address or place twice.
FIRST = {"deleteBeforeReplace": True}
TRIGGERED: dict[str, Any] = {"replaceOnChanges": ["triggers[*]"]}  # the SDK's own
OPTIONS: dict[str, dict[str, Any]] = {
    INSTANCE: FIRST
    | {"ignoreChanges": ["ami", "userDataBase64", "instanceType", "rootBlockDevice"], "replacementTrigger": 1.0},
    "aws:ec2/volumeAttachment:VolumeAttachment": FIRST,
    "aws:ec2/subnetCidrReservation:SubnetCidrReservation": FIRST,
    "command:local:Command": FIRST | TRIGGERED,
    "readiness-way": TRIGGERED,
    "command:remote:Command": TRIGGERED | {"additionalSecretOutputs": ["connection"], "customTimeouts": DEADLINE},
    "aws:ssm/parameter:Parameter": {"additionalSecretOutputs": ["value", "valueWo"]},
    "pulumi:index:Stash": {"aliases": ["mesh"]},
    # A host of the last `up` may still be at its first boot; the bucket takes them with it.
    "aws:s3/bucketObjectv2:BucketObjectv2": {"retainOnDelete": True},
}


def test_only_these_resources_are_replaced_kept_or_left_alone_otherwise_than_by_default() -> None:
    changes: dict[str, Any] = {
        "admin": {"allowedCidrs": ["203.0.113.7/32"], "publicKey": "ssh-ed25519 AAAA"},
        "edge": {"count": 2, "tls": {"enabled": True}},
    }
    recording = run_program("prod", merged("prod", **changes) | {"apollo:adminPrivateKey": "key"})
    for resource in recording.resources.values():
        request = resource.request
        limits = {request.customTimeouts.create, request.customTimeouts.update, request.customTimeouts.delete} - {""}
        options: dict[str, Any] = {
            "deleteBeforeReplace": request.deleteBeforeReplace,
            "ignoreChanges": list(request.ignoreChanges),
            "replacementTrigger": request.replacement_trigger.number_value,
            "replaceOnChanges": list(request.replaceOnChanges),
            "additionalSecretOutputs": sorted(set(request.additionalSecretOutputs)),
            "customTimeouts": int(limits.pop()[:-1]) if limits else None,
            "protect": request.protect,
            "retainOnDelete": request.retainOnDelete,
            "deletedWith": request.deletedWith,
            # Some come with the SDK, for types that had another name.
            "aliases": [alias.spec.name for alias in request.aliases if alias.spec.name],
        }
        expected = OPTIONS.get(resource.name, OPTIONS.get(resource.type, {}))
        assert {name: value for name, value in options.items() if value} == expected, resource.urn
    assert {resource.type for resource in recording.resources.values()} >= OPTIONS.keys() - {"readiness-way"}


def test_a_raised_generation_changes_the_trigger_of_that_host_alone() -> None:
    after = run_program("dev", merged(slaves={"generations": {"1": 2}}))
    triggers = {name: r.request.replacement_trigger.number_value for name, r in after.of(INSTANCE).items()}
    assert triggers.pop("slave-1-instance") == 2
    assert set(triggers.values()) == {1}


def test_data_volumes_outlive_the_machine_and_are_attached_by_id(dev: Recording) -> None:
    volumes = dev.of("aws:ebs/volume:Volume")
    assert sorted(volumes) == sorted(
        f"{n}-data" for n in ("slave-1", "slave-2", "slave-3", "control-1", "control-2", "control-3")
    )
    attachment = dev.named("aws:ec2/volumeAttachment:VolumeAttachment", "slave-1-data")
    assert attachment.inputs["volumeId"] == "slave-1-data-id"
    assert attachment.inputs["instanceId"] == "slave-1-instance-id"
    assert not any(dev.named(INSTANCE, "slave-1-instance").urn in r.dependencies for r in volumes.values())


# Changes: exactly what was asked for.


@pytest.mark.parametrize(
    "changes",
    [
        {"slaves": {"count": 5}},
        {"slaves": {"count": 3, "retired": [2]}},
        {"control": {"count": 5}},
        {"zones": ["a", "b", {"name": "c", "fromSlot": 13}]},
        {"edge": {"domain": "apollo-dev.example.com", "count": 2}},
    ],
)
def test_growing_retiring_and_appending_change_no_input_of_a_machine_that_stays(
    dev: Recording, changes: dict[str, Any]
) -> None:
    before, after = machines(dev), machines(run_program("dev", merged(**changes)))
    for name in before.keys() & after.keys():
        assert after[name] == before[name]


def test_scaling_out_adds_five_resources_for_each_slave(dev: Recording) -> None:
    after = run_program("dev", merged(slaves={"count": 5}))
    assert {after.resources[urn].name for urn in after.resources.keys() - dev.resources.keys()} == {
        name
        for slot in (4, 5)
        for name in (f"slave-{slot}", f"slave-{slot}-instance", f"slave-{slot}-data", f"slave-{slot}-drain")
    }
    # The volume and its attachment have one name.
    assert len(after.resources) - len(dev.resources) == 2 * 5
    assert dev.resources.keys() <= after.resources.keys()


def test_one_nat_gateway_for_each_zone_changes_no_subnet_and_no_table(dev: Recording) -> None:
    after = run_program("dev", merged(network={"nat": "perZone"}))
    new = [after.resources[urn] for urn in after.resources.keys() - dev.resources.keys()]
    assert {r.name for r in new} == {"network-nat-b"}
    assert after.named("aws:ec2/route:Route", "network-private-b-nat").inputs["natGatewayId"] == "network-nat-b-id"


# Security.


def test_the_rules_of_the_plan_are_registered_as_they_are_there() -> None:
    """What they must be: tests/plan/test_access.py."""
    changes: dict[str, Any] = {
        "admin": {"allowedCidrs": ["203.0.113.7/32"], "publicKey": "ssh-ed25519 AAAA"},
        "edge": {"count": 2, "tls": {"enabled": True}},
    }
    registered = run_program("dev", merged(**changes)).of(INGRESS)
    rules = rules_of(parse({"region": "eu-west-1", **stack_settings("dev", changes)}))
    assert sorted(registered) == sorted(f"security-{rule.name}" for rule in rules)
    for rule in rules:
        inputs, flow = registered[f"security-{rule.name}"].inputs, rule.flow
        source = (
            {"cidrIpv4": rule.source} if "/" in rule.source else {"referencedSecurityGroupId": f"security-{rule.source}-id"}
        )
        ports = {"fromPort": flow.first_port, "toPort": flow.last_port} if flow.ported else {}
        expected = {"securityGroupId": f"security-{rule.to}-id", "ipProtocol": flow.protocol, "description": flow.purpose}
        assert {key: value for key, value in inputs.items() if key != "tags"} == expected | source | ports
        assert flow.purpose
    for type_ in ("Ingress", "Egress"):
        every = run_program("dev").of(f"aws:vpc/securityGroup{type_}Rule:SecurityGroup{type_}Rule")
        world = [name for name, rule in every.items() if rule.inputs.get("cidrIpv4") == "0.0.0.0/0"]
        assert world == {"Ingress": ["security-edge-tcp-80-from-internet"], "Egress": ["security-node-out"]}[type_]


def test_the_balancer_ends_no_connection_before_the_edge_does() -> None:
    prod = run_program("prod", merged("prod", edge={"count": 2, "tls": {"enabled": True}}))
    haproxy = text_of("edge", "/etc/haproxy/haproxy.cfg")
    timeouts = {name: int(hours) * 3600 for name, hours in re.findall(r"timeout (tunnel) (\d+)h", haproxy)}
    listeners, groups = prod.of("aws:lb/listener:Listener"), prod.of("aws:lb/targetGroup:TargetGroup")
    assert len(listeners) == len(groups) == 2
    for listener in listeners.values():
        # AWS takes 60 to 6000 (ELB API, ModifyListenerAttributes).
        assert timeouts["tunnel"] < listener.inputs["tcpIdleTimeoutSeconds"] <= 6000
    for group in groups.values():
        (state,) = group.inputs["targetHealthStates"]
        assert state["enableUnhealthyConnectionTermination"] is False
        assert state["unhealthyDrainingInterval"] > drain.SECONDS


def test_prod_records_its_traffic_and_protects_its_load_balancer_and_dev_does_neither(dev: Recording) -> None:
    prod = run_program("prod")
    assert prod.named("aws:ec2/flowLog:FlowLog", "network-flow-logs").inputs["trafficType"] == "ALL"
    assert prod.named("aws:lb/loadBalancer:LoadBalancer", "edge-balancer").inputs["enableDeletionProtection"] is True
    for type_ in ("aws:ec2/flowLog:FlowLog", "aws:cloudwatch/logGroup:LogGroup"):
        assert not dev.of(type_)


def test_a_host_boots_after_its_programs_are_in_the_bucket_that_it_is_given(dev: Recording) -> None:
    names: tuple[tuple[Role, str], ...] = (("slave", "slave-1"), ("control", "control-1"), ("edge", "edge-1"))
    for role, name in names:
        needs = {urn.rpartition("::")[2] for urn in dev.named(INSTANCE, f"{name}-instance").dependencies}
        assert needs >= {f"programs-{role}", "programs-bucket", "network-s3"}
        given = dev.named("aws:s3/bucketObjectv2:BucketObjectv2", f"programs-{role}")
        wanted = programs(cluster(), role)
        assert (given.inputs["bucket"], given.inputs["key"]) == ("programs-bucket-id", wanted.key)
        assert base64.b64decode(given.inputs["contentBase64"]) == wanted.archive
    where = dev.named("aws:ssm/parameter:Parameter", "programs-bucket").inputs
    assert (where["name"], where["type"], where["value"]) == ("/apollo/dev/bucket", "String", "programs-bucket-id")


@pytest.mark.parametrize(
    ("stack", "prefix"),
    [
        ("dev", "apollo-dev-"),
        ("Team_A.Prod--", "apollo-team-a-prod-"),
        ("a" * 100, f"apollo-{'a' * 29}-"),
        ("ä", "apollo-"),
        (f"{'b' * 28}.c", f"apollo-{'b' * 28}-"),
    ],
)
def test_any_stacks_name_makes_a_bucket_that_s3_takes(stack: str, prefix: str) -> None:
    assert bucket_prefix(stack) == prefix
    # Of whole names S3 takes 63 characters, 26 of which are the provider's.
    assert problem(prefix + "2" * 26, TEXTS["s3:CreateBucket"]["Bucket"]) is None and "." not in prefix


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_no_secrets_value_is_in_plain_in_any_input_any_export_or_any_user_data(stack: str) -> None:
    changes: dict[str, Any] = {
        "edge": {"tls": {"enabled": True}, "count": 2},
        "admin": {"allowedCidrs": ["203.0.113.7/32"], "publicKey": "ssh-ed25519 AAAA"},
    }
    key = "\n".join(("-----BEGIN X-----", "value-of-adminPrivateKey", "-----END X-----"))
    recording = run_program(stack, merged(stack, **changes) | {"apollo:adminPrivateKey": key})
    told = {r.name: plain_text(r.request.object) for r in recording.resources.values()}
    assert any("adminPrivateKey" in str(r.inputs) for r in recording.resources.values())
    told |= {f"export {name}": json.dumps(value) for name, value in recording.outputs.items()}
    for name, machine in machines(recording).items():
        told[f"user-data of {name}"] = gzip.decompress(base64.b64decode(machine["userDataBase64"])).decode()
    for value in (*TEST_SECRETS.values(), TEST_CERTIFICATE, key):
        assert traces(value)
        for trace in traces(value):
            assert [name for name, text in told.items() if trace in text] == [], trace


@pytest.mark.parametrize(("stack", "tls"), [("dev", False), ("dev", True), ("prod", False), ("prod", True)])
def test_as_many_administrators_networks_as_are_taken_fill_a_group_and_no_group_has_more(stack: str, tls: bool) -> None:
    networks = [f"203.0.113.{n}/32" for n in range(MOST_RULES - (4 if tls else 2))]
    changes = {
        "admin": {"allowedCidrs": networks, "publicKey": "ssh-ed25519 AAAA"},
        "edge": {"tls": {"enabled": tls}},
        "overlay": {"mesh": "weave", "switchFrom": "vxlan"},
        "mesos": {"published": ["marathon", "mesos-master"]},
    }
    rules = Counter(
        rule.inputs["securityGroupId"] for rule in run_program(stack, merged(stack, **changes)).of(INGRESS).values()
    )
    assert rules["security-edge-id"] == max(rules.values()) == MOST_RULES


def test_the_programs_own_tags_are_as_many_as_the_settings_leave_room_for(dev: Recording) -> None:
    assert max(len(resource.inputs.get("tags") or {}) for resource in dev.resources.values()) == OWN_TAGS


# Refusals reach the engine as clean errors, before anything is registered, and show nothing of a secret.

REGION, TLS = {"aws:region": "eu-west-1"}, {"aws:region": "eu-west-1", "apollo:edge": {"tls": {"enabled": True}}}
MAKE = "make it with: python -m ops secrets --stack dev"
SET = "set it with: pulumi config set --stack dev --secret apollo:edgeCertificate < bundle.pem"
WHOLE = f"give key, certificate and chain in PEM, one after the other; {SET}"
NO_CERTIFICATE = f"edgeCertificate: has no whole CERTIFICATE; {WHOLE}"
NO_KEY = f"edgeCertificate: has no whole PRIVATE KEY; {WHOLE}"
NO_GOSSIP_KEY = f"secrets.gossipKey: is missing (Consul gossip encryption, 32 bytes in base64); {MAKE}"
TAG = "is a tag, and hosts would run as root whatever it names when they boot; put its digest in with: python -m ops pin-images --stack dev"
KEY_PART, _, REST = TEST_CERTIFICATE.partition("-----BEGIN CERT")
ENCRYPTED = TEST_CERTIFICATE.replace("PRIVATE", "ENCRYPTED PRIVATE")


@pytest.mark.parametrize(
    ("config", "secrets", "problems"),
    [
        # The environment's region, which the test sets, is none of the stack's.
        ({}, {}, ["aws:region: is missing; give one such as eu-west-1"]),
        (REGION | {"apollo:slaves": {"count": -1}}, {}, ["slaves.count: -1 is out of range; give 0 or more"]),
        (REGION | {"apollo:tags": "{broken"}, {}, ["tags: {broken is not a set of keys; give key: value lines below it"]),
        (REGION, "value-of-a-key", [f"secrets: is not a set of keys; take it out, then {MAKE}"]),
        (
            REGION, {"gossipKey": "", "meshPassword": 7, "other": "value-of-other"},
            [NO_GOSSIP_KEY, f"secrets.meshPassword: is missing (Password of the mesh's encryption); {MAKE}", f"secrets.other: unknown secret; valid: {', '.join(sorted(TEST_SECRETS))}"],
        ),
        (TLS | {"apollo:edgeCertificate": ""}, {}, [f"edgeCertificate: is missing, and edge.tls.enabled is true; {SET}"]),
        (TLS | {"apollo:edgeCertificate": KEY_PART}, {}, [NO_CERTIFICATE]),
        (TLS | {"apollo:edgeCertificate": f"-----BEGIN CERT{REST}"}, {}, [NO_KEY]),
        (TLS | {"apollo:edgeCertificate": ENCRYPTED.ljust(LARGEST)}, {}, ["edgeCertificate: has a key under a passphrase, which no host knows; give it without"]),
        (
            TLS | {"apollo:edgeCertificate": TEST_CERTIFICATE.ljust(LARGEST + 1)}, {},
            ["edgeCertificate: has 8193 characters, and SSM holds 8192; leave the root out of the chain, or take a key of P-256"],
        ),
        # On AWS an image is named by its digest. After a problem in their sections, the images may be the defaults.
        (
            REGION | {"apollo:awsEndpoint": None}, {},
            [f"overlay.weaveFrom: docker.io/rajchaudhuri/weave:2.9.0 {TAG}", *(f"mesos.{name}Image: {image} {TAG}" for name, image in (("master", "mesosphere/mesos-master:1.7.0"), ("agent", "mesosphere/mesos-slave:1.7.0"), ("marathon", "mesosphere/marathon:v1.7.50")))],
        ),
        *((REGION | {"apollo:awsEndpoint": None, f"apollo:{section}": "x"}, {}, [f"{section}: x is not a set of keys; give key: value lines below it"]) for section in ("overlay", "mesos")),
        # Settings, limits of AWS and secrets in one error.
        (
            TLS | {"apollo:region": "eu-west-1", "apollo:slaves": {"count": True}, "apollo:network": {"cidr": "10.0.0.0/12"}, "apollo:overlay": {"cidr": "10.16.0.0/16"}, "apollo:edgeCertificate": "no PEM"},
            {"gossipKey": ""},
            [
                "region: is the AWS provider's to know; set aws:region instead of apollo:region",
                "network.cidr: 10.0.0.0/12 is larger than AWS allows for a VPC; give a /16 to /21 such as 10.0.0.0/16",
                *("slaves.count: true is not a whole number; give one such as 3", NO_GOSSIP_KEY, NO_CERTIFICATE, NO_KEY),
            ],
        ),
    ],
)  # fmt: skip
def test_all_that_is_wrong_is_refused_in_one_error(
    config: dict[str, Any], secrets: Any, problems: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises(RunError) as caught:
        run_program("dev", config, secrets=TEST_SECRETS | secrets if isinstance(secrets, dict) else secrets)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    assert str(caught.value).splitlines() == [
        f"Pulumi.dev.yaml: {count}, nothing was created.",
        *(f"  {one}" for one in problems),
    ]
    assert "value-of" not in str(caught.value)
