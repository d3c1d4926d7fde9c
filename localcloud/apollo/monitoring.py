"""Prometheus in the booted VPC, on a machine of its own that is in the stack's group `metrics`: what `up --metrics` shows.

It asks what examples/monitoring says, of this stack. Like an operator's own Prometheus it is no part of the stack's program.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import yaml

from ..cloud import PROMETHEUS_PORT, Cloud
from ..errors import LocalCloudError
from ..machines.machine import entry
from ..machines.prepare import SEARCH
from ..paths import REPOSITORY
from . import boot

NAME = "prometheus"
EXAMPLES = REPOSITORY / "examples/monitoring"
READY_SECONDS = 120.0
# On its machine. The program is this machine's own, which is a Debian 12 too.
PROGRAM, CONFIGURATION, RULES = "usr/local/bin/prometheus", "etc/prometheus/prometheus.yml", "etc/prometheus/rules.yml"
UNIT = "etc/systemd/system/prometheus.service"
RUN = f"""[Service]
ExecStart=/{PROGRAM} --config.file=/{CONFIGURATION} --storage.tsdb.path=/var/lib/prometheus \\
    --web.listen-address=127.0.0.1:{PROMETHEUS_PORT}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always

[Install]
WantedBy=multi-user.target
"""
_OWN: list[dict[str, Any]] = [{"Name": "tag:Name", "Values": [NAME]}]


def check() -> None:
    """Raises LocalCloudError where this machine has no Prometheus."""
    if shutil.which("prometheus", path=SEARCH) is None:
        raise LocalCloudError("--metrics needs Prometheus: apt-get install --no-install-recommends prometheus")


def start(cloud: Cloud, stack: str, exports: dict[str, Any], port: int) -> int:
    """Gives the port of 127.0.0.1 that leads to Prometheus. port: 0 for any. LocalCloudError where it does not come up."""
    if not _machine(cloud):
        _launch(cloud, exports)
    cloud.order("ready", NAME, seconds=READY_SECONDS)
    configure(cloud, configuration(cloud, stack), yaml.safe_load((EXAMPLES / "rules.yml").read_text()))
    return int(cloud.order("offer", NAME, port=port, far=PROMETHEUS_PORT)["port"])


def stop(cloud: Cloud) -> None:
    """Ends the machine and removes its group, where there are any: the stack's own groups could not go before."""
    ec2 = cloud.api().client("ec2")
    if machine := _machine(cloud):
        ec2.terminate_instances(InstanceIds=[machine])
    for group in ec2.describe_security_groups(Filters=_OWN)["SecurityGroups"]:
        ec2.delete_security_group(GroupId=group["GroupId"])


def configuration(cloud: Cloud, stack: str) -> dict[str, Any]:
    """The example's, for this stack, with the embedded cloud's API."""
    made: dict[str, Any] = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())
    for found in (found for job in made["scrape_configs"] for found in job["ec2_sd_configs"]):
        found |= {"endpoint": boot.ENDPOINT, "region": cloud.region, "refresh_interval": "5s"}
        found |= {"access_key": cloud.keys["id"], "secret_key": cloud.keys["secret"]}
        for one in found["filters"]:
            one["values"] = [stack] if one["name"] == "tag:apollo:stack" else one["values"]
    return made


def configure(cloud: Cloud, configuration: dict[str, Any], rules: dict[str, Any]) -> None:
    """Gives Prometheus another configuration, and starts it where it does not run. LocalCloudError: systemd's words."""
    root = Path(f"/proc/{_leader(cloud)}/root")
    if not (root / PROGRAM).exists():
        shutil.copy2(str(shutil.which("prometheus", path=SEARCH)), root / PROGRAM)
    (root / CONFIGURATION).parent.mkdir(mode=0o700, exist_ok=True)
    for place, text in ((CONFIGURATION, json.dumps(configuration)), (RULES, json.dumps(rules)), (UNIT, RUN)):
        (root / place).write_text(text)
    for words in (["enable", "--quiet"], ["reload-or-restart"]):
        argv = entry({"leader": _leader(cloud)}, ["systemctl", *words, "prometheus"])
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LocalCloudError(f"Prometheus does not start: {done.stderr.strip()}")


def _machine(cloud: Cloud) -> str:
    """The id of its instance, "" where there is none."""
    states: dict[str, Any] = {"Name": "instance-state-name", "Values": ["pending", "running", "stopped"]}
    found = cloud.api().client("ec2").describe_instances(Filters=[*_OWN, states])["Reservations"]
    return found[0]["Instances"][0]["InstanceId"] if found else ""


def _leader(cloud: Cloud) -> int:
    return int(json.loads((cloud.folder / "machines" / _machine(cloud) / "machine.json").read_text())["leader"])


def _launch(cloud: Cloud, exports: dict[str, Any]) -> None:
    ec2 = cloud.api().client("ec2")
    (subnet,) = ec2.describe_subnets(SubnetIds=exports["privateSubnetIds"][:1])["Subnets"]
    (host,) = ec2.describe_instances(InstanceIds=[cloud.hosts()[0].instanceId])["Reservations"][0]["Instances"]
    tags = [{"Key": "Name", "Value": NAME}]
    # The group `metrics` holds no rules: this one lets out, as any does that is made by hand.
    group = ec2.create_security_group(
        GroupName=NAME,
        Description="Prometheus",
        VpcId=exports["vpcId"],
        TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
    )["GroupId"]
    ec2.run_instances(
        ImageId=host["ImageId"],
        InstanceType="t3.small",
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet["SubnetId"],
        # The stack gives out a subnet's addresses from its beginning.
        PrivateIpAddress=str(IPv4Network(subnet["CidrBlock"])[-2]),
        SecurityGroupIds=[group, exports["securityGroupIds"]["metrics"]],
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
