"""One small cloud for all tests of this folder: a VPC with a public and a private subnet, and hosts that really boot."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from localcloud import paths
from localcloud.api.client import ACCOUNT, Aws, Keys
from localcloud.api.server import Api
from localcloud.machines.driver import MachineDriver
from localcloud.machines.image import PLAIN_AMI
from localcloud.machines.orders import binaries
from tests.host.support import free_ports
from tests.labs import needs_machines

REGION = "eu-west-1"
# Seconds: cloud-init with a bridge and Docker takes ten on a quiet machine.
BOOT = 600
USER_DATA = """#cloud-config
write_files:
  - path: /etc/apollo/proof
    content: "from user-data"
  - path: /etc/default/docker
    content: 'DOCKER_OPTS="--bridge=weave --fixed-cidr={docker}"'
runcmd:
  - [ip, link, add, name, weave, type, bridge]
  - [ip, address, add, {bridge}, dev, weave]
  - [ip, link, set, weave, up]
  - [systemctl, start, docker]
"""


class Lab:
    """The cloud's API, and what the hosts of the tests stand in."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.keys, self.machines = Keys.new(), Keys.new()
        self.api = Api(0, self.keys, self.machines)
        self.endpoint = self.api.endpoint
        threading.Thread(target=self.api.http.serve_forever, daemon=True).start()
        (self.edge_port,) = free_ports(1)
        self.ec2 = self.client("ec2")
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.private = self._subnet("10.0.0.0/19")
        self.public = self._subnet("10.0.224.0/24")
        self._routes()
        self.group = self._group("hosts")
        self.edge_group = self._group("edge")
        self.profile = self._profile()
        self.image = self.ec2.describe_images(Filters=[{"Name": "architecture", "Values": ["x86_64"]}])["Images"][0]
        self.driver: MachineDriver = self.new_driver()

    def new_driver(self) -> MachineDriver:
        aws = Aws(self.endpoint, REGION, self.machines)
        return MachineDriver(aws, self.run_dir, paths.cache_dir(), binaries, edge_port=self.edge_port)

    def client(self, service: str) -> Any:
        return Aws(self.endpoint, REGION, self.keys).client(service)

    def launch(self, name: str, subnet: str, address: str, user_data: str, groups: list[str], *, plain: bool = False) -> str:
        """Runs an instance in the API; reconcile() boots it. plain: from an image without our packages."""
        interface: dict[str, Any] = {"DeviceIndex": 0, "SubnetId": subnet, "PrivateIpAddress": address}
        interface |= {"Groups": groups, "DeleteOnTermination": True}
        return self.ec2.run_instances(
            MinCount=1,
            MaxCount=1,
            ImageId=PLAIN_AMI if plain else self.image["ImageId"],
            InstanceType="t3.small",
            UserData=user_data,
            NetworkInterfaces=[interface],
            IamInstanceProfile={"Name": self.profile},
            MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "InstanceMetadataTags": "enabled"},
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}],
        )["Instances"][0]["InstanceId"]

    def open(self, group: str, protocol: str, ports: tuple[int, int], *, cidr: str = "", source: str = "") -> None:
        self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission(protocol, ports, cidr, source)])

    def shut(self, group: str, protocol: str, ports: tuple[int, int], *, cidr: str = "", source: str = "") -> None:
        self.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[permission(protocol, ports, cidr, source)])

    def close(self) -> None:
        self.driver.close()
        self.api.http.shutdown()

    def _subnet(self, cidr: str) -> str:
        zone = f"{REGION}a"
        reply = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=cidr, AvailabilityZone=zone)
        return reply["Subnet"]["SubnetId"]

    def _routes(self) -> None:
        gateway = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=self.vpc)
        nat_address = self.ec2.allocate_address(Domain="vpc", Address="203.0.113.1")["AllocationId"]
        nat = self.ec2.create_nat_gateway(SubnetId=self.public, AllocationId=nat_address)["NatGateway"]["NatGatewayId"]
        for subnet, target in ((self.public, {"GatewayId": gateway}), (self.private, {"NatGatewayId": nat})):
            table = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
            self.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **target)
            self.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)

    def _group(self, name: str) -> str:
        reply = self.ec2.create_security_group(VpcId=self.vpc, GroupName=name, Description=name)
        return reply["GroupId"]

    def _profile(self) -> str:
        iam = self.client("iam")
        trust = '{"Version":"2012-10-17","Statement":[]}'
        iam.create_role(RoleName="host-role", AssumeRolePolicyDocument=trust)
        secrets = {
            "Effect": "Allow",
            "Action": "ssm:GetParameter",
            "Resource": f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/apollo/*",
        }
        document = json.dumps({"Version": "2012-10-17", "Statement": secrets})
        iam.put_role_policy(RoleName="host-role", PolicyName="secrets", PolicyDocument=document)
        iam.create_instance_profile(InstanceProfileName="host-profile")
        iam.add_role_to_instance_profile(InstanceProfileName="host-profile", RoleName="host-role")
        return "host-profile"


def permission(protocol: str, ports: tuple[int, int], cidr: str, source: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"IpProtocol": protocol, "FromPort": ports[0], "ToPort": ports[1]}
    if cidr:
        rule["IpRanges"] = [{"CidrIp": cidr}]
    if source:
        rule["UserIdGroupPairs"] = [{"GroupId": source}]
    return rule


@pytest.fixture(scope="module")
def lab() -> Generator[Lab]:
    """Two private hosts (one, two) and a public one (edge), booted."""
    needs_machines(paths.cache_dir(), "the booted machines")
    run_dir = paths.cache_dir() / "tests" / "machines"
    MachineDriver.sweep(run_dir)
    shutil.rmtree(run_dir, ignore_errors=True)
    lab = Lab(run_dir)
    try:
        boot_hosts(lab)
        yield lab
    finally:
        lab.close()
        shutil.rmtree(run_dir, ignore_errors=True)


def boot_hosts(lab: Lab) -> None:
    lab.open(lab.group, "icmp", (-1, -1), source=lab.group)
    lab.open(lab.group, "icmp", (-1, -1), source=lab.edge_group)
    lab.open(lab.edge_group, "tcp", (80, 80), cidr="0.0.0.0/0")
    for number, name in ((1, "one"), (2, "two")):
        text = USER_DATA.format(docker=f"10.2.{number}.0/24", bridge=f"10.2.0.{number}/16")
        lab.launch(name, lab.private, f"10.0.0.{32 + number}", text, [lab.group])
    edge = lab.launch("edge", lab.public, "10.0.224.11", "#cloud-config\n{}\n", [lab.edge_group])
    address = lab.ec2.allocate_address(Domain="vpc", Address="203.0.113.10")["AllocationId"]
    lab.ec2.associate_address(AllocationId=address, InstanceId=edge)
    lab.driver.reconcile()
    for host in ("one", "two", "edge"):
        lab.driver.wait_ready(host, BOOT)
