"""`python -m localcloud serve`: the cloud alone, driven by AWS's own library and nothing else of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from localcloud import paths
from localcloud.machines import namespaces
from localcloud.machines.driver import prefix
from tests.host.support import until
from tests.labs import needs_machines
from tests.localcloud.support import Local

PAGE = "from a host that boto3 started"
USER_DATA = f"""#cloud-config
write_files:
  - path: /srv/index.html
    content: "{PAGE}"
runcmd:
  - [systemd-run, --unit=page, python3, -m, http.server, "80", --directory, /srv]
"""


class Served:
    """A cloud that was started on the command line, and clients that know of it what it printed."""

    def __init__(self, run_dir: Path, *options: str) -> None:
        self.run_dir = run_dir
        env = {**os.environ, "APOLLO_RUN_DIR": str(run_dir)}
        argv = [sys.executable, "-m", "localcloud", "serve", "--json", *options]
        self.process = subprocess.Popen(argv, cwd=paths.REPOSITORY, env=env, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "serve printed nothing"
        self.known: dict[str, Any] = json.loads(line)

    def client(self, service: str, secret: str = "") -> Any:
        return boto3.client(  # pyright: ignore
            service,  # pyright: ignore
            endpoint_url=self.known["AWS_ENDPOINT_URL"],
            region_name=self.known["AWS_REGION"],
            aws_access_key_id=self.known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=secret or self.known["AWS_SECRET_ACCESS_KEY"],
            config=Config(read_timeout=300, retries={"total_max_attempts": 1}),
        )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)


@pytest.fixture
def run_dir() -> Generator[Path]:
    folder = paths.cache_dir() / "tests" / "served"
    yield folder
    assert not folder.exists() or not list(folder.iterdir()), "serve left something behind"


def test_without_machines_it_needs_no_root_and_leaves_nothing(run_dir: Path) -> None:
    served = Served(run_dir, "--no-machines", "--region", "us-east-1")
    try:
        assert served.known["edgePort"] is None
        vpc = served.client("ec2").create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]
        assert vpc["CidrBlock"] == "10.0.0.0/16"
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            served.client("ec2", "another secret").describe_vpcs()
        second = Local(run_dir).run("serve", "--no-machines")
        assert (second.status, "stack serve is in use" in second.err) == (1, True), second.err
    finally:
        assert served.stop() == 0


def page(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=3) as answer:
            return answer.read().decode()
    except (OSError, urllib.error.URLError):
        return ""


@pytest.mark.machines
def test_an_instance_of_a_plain_image_boots_in_its_vpc_behind_its_groups(run_dir: Path) -> None:
    needs_machines(paths.cache_dir(), "an instance that boto3 starts")
    served = Served(run_dir)
    try:
        ec2 = served.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.1.0/24")["Subnet"]["SubnetId"]
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        group = ec2.create_security_group(VpcId=vpc, GroupName="web", Description="web")["GroupId"]
        web = [{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=web)
        image = ec2.describe_images(Filters=[{"Name": "name", "Values": ["debian-12-plain-*"]}])["Images"][0]["ImageId"]
        host = ec2.run_instances(
            ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, UserData=USER_DATA,
            NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "AssociatePublicIpAddress": True}],
        )["Instances"][0]["InstanceId"]  # fmt: skip
        port = served.known["edgePort"]
        until(lambda: page(port) == PAGE, "the instance has its page")
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=web)
        assert page(port) == ""
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=web)
        assert page(port) == PAGE
        name = prefix(run_dir / "serve")
        assert any(host in namespace for namespace in namespaces.existing(name))
        ec2.stop_instances(InstanceIds=[host])
        assert page(port) == ""
        ec2.terminate_instances(InstanceIds=[host])
        assert not any(host in namespace for namespace in namespaces.existing(name))
        assert not (run_dir / "serve" / "machines" / host).exists()
    finally:
        assert served.stop() == 0
    assert namespaces.existing(prefix(run_dir / "serve")) == []
