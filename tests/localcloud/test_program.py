"""The real program under the real engine: each change of the settings does exactly what was asked for."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localcloud.engine.programs import pulumi
from localcloud.engine.workspace import read_project
from localcloud.paths import REPOSITORY
from plan.secrets import CERTIFICATE, SECRETS, parameter_name
from tests.localcloud.support import DEADLINE, Local, given, keep_record

# One worker takes them all: most share one stack.
pytestmark = pytest.mark.engine


class Stack(Local):
    """The local stack without machines, in a run directory of its own."""

    def up(self, *sets: str) -> dict[str, Any]:
        status, out, err = self.run("up", "--no-machines", "--json", *given(sets))
        assert status == 0, f"{out[-3000:]}{err[-3000:]}"
        return json.loads(out)

    def keep(self, record: Any, name: str = "settings") -> None:
        """Puts a record into the state in place of the one that the last `up` left."""
        keep_record(self.run_dir, record, name)

    def running(self) -> dict[str, dict[str, Any]]:
        """Each running instance by its host's name, as the API has it."""
        answer = self.client("ec2").describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running"]}])
        found = [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]
        return {tag["Value"]: instance for instance in found for tag in instance["Tags"] if tag["Key"] == "apollo:host"}

    def user_data(self) -> dict[str, str]:
        """Of each running instance, by its host's name."""
        ask = self.client("ec2").describe_instance_attribute
        ids = {host: instance["InstanceId"] for host, instance in self.running().items()}
        return {host: ask(InstanceId=id, Attribute="userData")["UserData"]["Value"] for host, id in ids.items()}


def brought_up(run_dir: Path) -> Iterator[Stack]:
    """A stack in a run directory, for a fixture: taken down at the end."""
    found = Stack(run_dir)
    found.up()
    yield found
    status, _, err = found.run("down")
    assert status == 0, err


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    run_dir = tmp_path_factory.mktemp("program") / "run"
    yield from brought_up(run_dir)
    assert not run_dir.exists()


def names(result: dict[str, Any], operation: str) -> set[str]:
    return {f"{step['type'].rpartition(':')[2]} {step['name']}" for step in result["steps"] if step["op"] == operation}


def host(name: str, *, data: bool = True) -> set[str]:
    extra = {f"Volume {name}-data", f"VolumeAttachment {name}-data"} if data else set[str]()
    return {f"Host {name}", f"Instance {name}-instance", f"Command {name}-drain"} | extra


def changed(result: dict[str, Any]) -> set[str]:
    return {operation for operation in result["changes"] if operation != "same"}


def test_up_again_changes_nothing(stack: Stack) -> None:
    assert changed(stack.up()) == set()


def test_scaling_to_five_and_back_touches_just_the_two_slaves(stack: Stack) -> None:
    before = stack.user_data()
    grown = stack.up("slaves.count=5")
    assert (names(grown, "create"), changed(grown)) == (host("slave-4") | host("slave-5"), {"create"})
    after = stack.user_data()
    assert {name: after[name] for name in before} == before
    shrunk = stack.up()
    assert (names(shrunk, "delete"), changed(shrunk)) == (host("slave-4") | host("slave-5"), {"delete"})


# Setting → what it is refused with once the stack stands. Each is refused with the others, in one message.
FIXED = {
    "network.cidr=10.8.0.0/16": "network.cidr: 10.8.0.0/16 is not what this stack was made with, 10.0.0.0/16",
    "network.mtu=1500": "network.mtu: 1500 is not what this stack was made with, 9001",
    "overlay.cidr=10.2.0.0/15": "overlay.cidr: 10.2.0.0/15 is not what this stack was made with, 10.2.0.0/16",
    "overlay.hostPrefix=25": "overlay.hostPrefix: 25 is not what this stack was made with, 24",
    "consul.datacenter=dc2": "consul.datacenter: dc2 is not what this stack was made with, dc1",
    "consul.domain=internal": "consul.domain: internal is not what this stack was made with, consul",
    "consul.tls=true": "consul.tls: true is not what this stack was made with, false",
    "zones=[b, a]": "zones: [eu-west-1b, eu-west-1a] does not begin with this stack's, [eu-west-1a, eu-west-1b]",
    "slaves.dataGib=2": "slaves.dataGib: 2 is less than this stack's volumes have, 4 GiB",
    "overlay.mesh=wireguard": "overlay.mesh: wireguard is not what this stack runs, vxlan",
}


# What asks the engine for a change: both must refuse.
CHANGES = (("preview",), ("up", "--no-machines"))


def test_what_a_stack_cannot_change_is_refused_in_one_message_and_nothing_is_touched(stack: Stack) -> None:
    seen = len(stack.calls())
    region = (["aws:region=us-east-1"], ["aws:region: us-east-1 is not what this"])
    for command, (sets, words) in itertools.product(CHANGES, ((FIXED, FIXED.values()), region)):
        status, _, err = stack.run(*command, *given(sets))
        assert status == 1
        assert f"Pulumi.local.yaml: {len(words)} problem{'s' * (len(words) > 1)}, nothing was created." in err
        for text in words:
            assert text in err
    assert {call["operation"] for call in stack.calls()[seen:]} <= {"check", "diff"}
    assert changed(stack.up()) == set()


def test_a_zone_appended_from_a_slot_that_is_in_use_is_refused(stack: Stack) -> None:
    for command in CHANGES:
        status, _, err = stack.run(*command, "--set", "zones=[a, b, {name: c, fromSlot: 3}]")
        assert status == 1
        assert "zones: slave-3 would move (VPC address 10.0.0.35 → 10.0.64.35, zone eu-west-1a → eu-west-1c)" in err
    # The record has the zone by then, and the right slot is taken in its place.
    assert changed(stack.up("zones=[a, b, {name: c, fromSlot: 13}]")) <= {"create", "update"}
    stack.up()


def test_a_stack_made_before_the_record_was_kept_goes_over_and_has_it_from_then_on(stack: Stack) -> None:
    # What such a stack has in its state: the mesh alone.
    stack.keep("vxlan", "mesh")
    status, _, err = stack.run("preview", "--set", "overlay.mesh=wireguard")
    assert status == 1 and "set overlay.switchFrom: vxlan" in err
    founded = stack.up()
    assert (names(founded, "update"), changed(founded)) == ({"Stash settings"}, {"update"})
    status, _, err = stack.run("preview", "--set", "consul.domain=internal")
    assert status == 1 and FIXED["consul.domain=internal"] in err


def test_retiring_slot_2_replaces_it_by_slave_4_and_it_never_comes_back(stack: Stack) -> None:
    result = stack.up("slaves.retired=[2]")
    assert names(result, "create") == host("slave-4")
    assert names(result, "delete") == host("slave-2")
    assert names(result, "update") == {"Stash settings"}
    assert changed(result) == {"create", "delete", "update"}
    assert [h["name"] for h in result["hosts"] if h["role"] == "slave"] == ["slave-1", "slave-3", "slave-4"]
    status, _, err = stack.run("preview")
    assert status == 1 and "slaves.retired: slot 2 was retired, and a retired slot never comes back" in err
    stack.keep({})
    stack.up()


def test_a_raised_generation_replaces_that_instance_deleted_first_and_keeps_its_volume(stack: Stack) -> None:
    seen = len(stack.calls())
    result = stack.up("slaves.generations.1=2")
    replaced = {"Instance slave-1-instance", "VolumeAttachment slave-1-data", "Command slave-1-drain"}
    assert names(result, "replace") == replaced
    assert names(result, "update") == {"Host slave-1"}
    assert changed(result) == {"replace", "update"}
    order = [(c["operation"], c["name"]) for c in stack.calls()[seen:] if c["operation"] in ("create", "delete")]
    assert order == [
        ("delete", "slave-1-drain"),
        ("delete", "slave-1-data"),
        ("delete", "slave-1-instance"),
        ("create", "slave-1-instance"),
        ("create", "slave-1-data"),
        ("create", "slave-1-drain"),
    ]
    stack.up()


def test_a_new_type_or_image_waits_for_the_generation(stack: Stack) -> None:
    waiting = stack.up("slaves.instanceType=t3.large", "image.name=debian-12-amd64-2*")
    # The hosts' components alone, which is how a reviewer sees that three machines go apart from the plan.
    assert names(waiting, "update") == {f"Host slave-{slot}" for slot in (1, 2, 3)}
    assert changed(waiting) == {"update"}
    rolled = stack.up("slaves.instanceType=t3.large", "slaves.generations.3=2")
    replaced = {"Instance slave-3-instance", "VolumeAttachment slave-3-data", "Command slave-3-drain"}
    assert names(rolled, "replace") == replaced
    running = stack.running()
    assert [running[f"slave-{slot}"]["InstanceType"] for slot in (3, 1)] == ["t3.large", "t3.medium"]
    stack.up("slaves.generations.3=3")
    stack.up()


def test_appending_a_zone_and_growing_control_change_no_host_subnet_or_address(stack: Stack) -> None:
    before = stack.user_data()
    zone = stack.up("zones=[a, b, {name: c, fromSlot: 13}]")
    assert changed(zone) == {"create", "update"}
    # The endpoint's routes reach the new zone's table too, and the record of what stays has the zone.
    assert names(zone, "update") == {"VpcEndpoint network-s3", "Stash settings"}
    assert {name.split()[0] for name in names(zone, "create")} == {
        *("Subnet", "SubnetCidrReservation", "RouteTable", "Route", "RouteTableAssociation")
    }
    stack.up()
    control = stack.up("control.count=5")
    assert (names(control, "create"), changed(control)) == (host("control-4") | host("control-5"), {"create", "update"})
    # How many are planned is a parameter, so that no host's user-data says it.
    assert names(control, "update") == {"Parameter secrets-control-count"}
    after = stack.user_data()
    assert {name: after[name] for name in before} == before
    stack.up()


def test_no_instance_is_created_before_what_its_first_boot_needs(stack: Stack) -> None:
    done = {
        (call["type"].rpartition(":")[2], call["name"]): call
        for call in reversed(stack.calls())
        if call["operation"] == "create" and "error" not in call
    }
    for (kind, name), call in done.items():
        if kind != "Instance" or not name.startswith(("slave-", "control-", "edge-")):
            continue
        role = name.split("-")[0]
        needed = [c for (k, n), c in done.items() if k == "Parameter" and (role == "control" or "gossip" in n)]
        needed += [c for (k, n), c in done.items() if k == "RolePolicy" and n.startswith(role)]
        needed += [
            c for (k, n), c in done.items() if (k, n) in (("BucketObjectv2", f"programs-{role}"), ("VpcEndpoint", "network-s3"))
        ]
        needed += [c for (k, n), c in done.items() if "GroupRule" in k or "IngressRule" in k or "EgressRule" in k
                   if n.startswith(("security-node", f"security-{role}"))]  # fmt: skip
        needed += [c for (k, n), c in done.items() if k == "Route" and (role == "edge") == (n == "network-public-internet")
                   if role == "edge" or call_zone(call, done) in n]  # fmt: skip
        assert len(needed) >= 8
        late = [c["name"] for c in needed if c["ended"] > call["started"]]
        assert not late, f"{name} was created before {late}"


def call_zone(call: dict[str, Any], done: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The letter in the name of the private route that serves the instance's zone: slots and numbers go a, b in turn."""
    del done
    index = int(call["name"].split("-")[1])
    return f"private-{'ab'[(index - 1) % 2]}-"


def test_a_change_behind_pulumis_back_is_seen_by_refresh_and_put_right_by_up(stack: Stack) -> None:
    ec2 = stack.client("ec2")
    (vpc,) = [v for v in ec2.describe_vpcs()["Vpcs"] if v["CidrBlock"] == "10.0.0.0/16"]
    ec2.create_tags(Resources=[vpc["VpcId"]], Tags=[{"Key": "Name", "Value": "renamed by hand"}])
    status, out, err = stack.run("refresh", "--json")
    assert status == 0, err
    assert json.loads(out)["changes"].get("update") == 1
    assert names(stack.up(), "update") == {"Vpc network-vpc"}
    assert changed(stack.up()) == set()


def test_outputs_and_status_are_one_json_document_each(stack: Stack) -> None:
    status, out, _ = stack.run("outputs", "--json")
    assert (status, json.loads(out)["slaves"]["slave-1"]["dockerSubnet"]) == (0, "10.2.1.0/24")
    status, out, _ = stack.run("status", "--json")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == [
        "control-1", "control-2", "control-3", "slave-1", "slave-2", "slave-3", "edge-1",
    ]  # fmt: skip
    assert all(row["state"] == "running" for row in rows)


def test_the_state_and_the_outputs_hold_no_secret_in_plain_text(stack: Stack) -> None:
    ssm = stack.client("ssm")
    pages = ssm.get_paginator("get_parameters_by_path").paginate(Path="/apollo/local", Recursive=True, WithDecryption=True)
    everything = [parameter for page in pages for parameter in page["Parameters"]]
    public = ("/apollo/local/bucket", "/apollo/local/control/count")
    parameters = [p for p in everything if not p["Name"].startswith(public)]
    # The local stack's edge has a certificate too.
    assert {p["Name"] for p in parameters} == {parameter_name("local", secret) for secret in (*SECRETS, CERTIFICATE)}
    # What an operator keeps outside of Pulumi: the passphrase, and the certificate that the stack was given.
    own = ("passphrase", "edge.pem")
    kept = [p for p in (stack.run_dir / "local").rglob("*") if p.is_file() and p.name not in own]
    texts = {path: path.read_text(errors="replace") for path in kept}
    for parameter in parameters:
        assert parameter["Type"] == "SecureString"
        # Of a certificate's bundle the key comes first; the rest is public.
        value = parameter["Value"].strip().partition("-----END ")[0].splitlines()[-1]
        assert not [path.name for path, text in texts.items() if value in text], parameter["Name"]


def test_a_killed_up_converges_at_the_next_with_nothing_orphaned_and_no_lock(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "run")
    try:
        process = stack.start("up", "--no-machines")
        calls = stack.run_dir / "local" / "calls.jsonl"
        assert process.stderr is not None
        for line in process.stderr:
            if "Subnet" in line:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=DEADLINE)
        assert calls.exists()
        stack.up()
        assert changed(stack.up()) == set()
        assert len(stack.running()) == 7
    finally:
        status, _, err = stack.run("down")
    # `down` itself fails where anything is left that the state does not know of.
    assert status == 0, err


@pytest.mark.parametrize("stack_name", ["dev", "prod"])
def test_any_stack_can_be_previewed_without_an_account(stack_name: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path / "run")
    status, out, err = stack.run("preview", "--stack", stack_name, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert set(result["changes"]) == {"create"}
    assert {h["name"] for h in result["hosts"]} >= {"slave-1", "control-1", "edge-1"}
    assert not stack.run_dir.exists()


def test_prod_with_239_slaves_can_be_previewed(tmp_path: Path) -> None:
    status, out, err = Stack(tmp_path / "run").run("preview", "--stack", "prod", "--set", "slaves.count=239", "--json")
    assert status == 0, err
    hosts = {h["name"]: h for h in json.loads(out)["hosts"]}
    assert hosts["slave-239"]["dockerSubnet"] == "10.2.239.0/24"


def test_prod_comes_up_whole_and_goes_although_its_load_balancer_is_protected(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "run")
    try:
        status, _, err = stack.run("up", "--stack", "prod", "--no-machines")
        assert status == 0, err
    finally:
        status, _, err = stack.run("down", "--stack", "prod")
    assert status == 0, err


def test_the_cli_heeds_the_version_that_both_projects_ask_for(tmp_path: Path) -> None:
    ours = {read_project(program)["requiredPulumiVersion"] for program in (REPOSITORY, REPOSITORY / "examples" / "consumer")}
    assert ours == {">=3.214.0"}
    assert "CLI, 3.214 or newer" in (REPOSITORY / "README.md").read_text()
    env = {**os.environ, "PULUMI_BACKEND_URL": f"file://{tmp_path}", "PULUMI_HOME": str(tmp_path / "home")}

    def said(versions: str) -> str:
        project = {"name": "versions", "runtime": "python", "requiredPulumiVersion": versions}
        (tmp_path / "Pulumi.yaml").write_text(json.dumps(project))
        argv = [str(pulumi()), "preview", "--stack", "none", "--non-interactive"]
        return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False).stderr

    assert "does not satisfy the version range" in said("<3.214.0")
    assert "no stack named 'none' found" in said(*ours)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["overlay.cidr=10.0.0.0/16"], "overlay.cidr: 10.0.0.0/16 overlaps network.cidr"),
        (["control.count=4"], "control.count: 4 servers cannot hold a useful majority"),
        (["aws:region=cn-north-1"], "aws:region: cn-north-1 is in a partition of its own"),
        (["slaves.instanceType=t4g.medium"], "slaves.instanceType: t4g.medium is arm64, and image.name debian-12-amd64-* is"),
        (["tags.owner='R&D (core)'"], "tags.owner: its value has &()"),
        (["slaves.cuont=4"], "slaves.cuont: unknown key; did you mean slaves.count?"),
    ],
)
def test_a_bad_setting_is_one_clear_message_and_nothing_is_created(tmp_path: Path, sets: list[str], words: str) -> None:
    status, _, err = Stack(tmp_path / "run").run("preview", *given(sets))
    assert status == 1
    assert "1 problem, nothing was created." in err
    assert words in err
    assert "Traceback" not in err
