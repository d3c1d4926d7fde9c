"""A small program for the engine's tests: a network and numbered hosts whose settings the tests change with --set.

hosts: {count, generation (map of host number to generation), data, break}
"""

from __future__ import annotations

import base64
import json

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import ebs, ec2, iam, ssm
from pulumi_aws import vpc as security
from pulumi_command import local

config = pulumi.Config()
hosts = config.get_object("hosts") or {}
count, generations, data = hosts.get("count", 2), hosts.get("generation", {}), hosts.get("data", "v1")
if count < 0:
    raise pulumi.RunError(f"hosts.count: {count} is below 0")

network = ec2.Vpc("net", cidr_block="10.0.0.0/16", enable_dns_hostnames=True, tags={"Name": "net"})
subnet = ec2.Subnet("subnet", vpc_id=network.id, cidr_block="10.0.1.0/24", availability_zone="eu-west-1a")
gateway = ec2.InternetGateway("gateway", vpc_id=network.id)
table = ec2.RouteTable("table", vpc_id=network.id)
route = ec2.Route("way", route_table_id=table.id, destination_cidr_block="0.0.0.0/0", gateway_id=gateway.id)
ec2.RouteTableAssociation("member", route_table_id=table.id, subnet_id=subnet.id)
group = ec2.SecurityGroup("group", vpc_id=network.id, description="hosts")
security.SecurityGroupIngressRule(
    "web", security_group_id=group.id, ip_protocol="tcp", from_port=80, to_port=80, cidr_ipv4="0.0.0.0/0"
)
role = iam.Role(
    "role",
    assume_role_policy=json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
        }
    ),
)
profile = iam.InstanceProfile("profile", role=role.name)
secret = ssm.Parameter("secret", type="SecureString", value=config.get_secret("password") or pulumi.Output.secret("hush-hush"))
image = ec2.get_ami_output(
    owners=["136693071363"],
    filters=[ec2.GetAmiFilterArgs(name="name", values=["debian-12-amd64-*"])],
    most_recent=True,
)

ids: dict[str, pulumi.Output[str]] = {}
for number in range(1, count + 1):
    host = ec2.Instance(
        f"host-{number}",
        ami=image.id,
        instance_type="t3.micro",
        subnet_id=subnet.id,
        private_ip=f"10.0.1.{10 + number}",
        vpc_security_group_ids=[group.id],
        iam_instance_profile=profile.name,
        user_data_base64=base64.b64encode(f"#cloud-config\n# host {number} {data}\n".encode()).decode(),
        tags={
            "Name": f"host-{number}",
            "apollo:host": f"host-{number}",
            "apollo:role": "slave",
            "apollo:slot": str(number),
            "apollo:zone": "eu-west-1a",
            "apollo:bridge": f"10.2.0.{number}/16",
            "apollo:docker-subnet": f"10.2.{number}.0/24",
        },
        opts=ResourceOptions(
            delete_before_replace=True,
            replacement_trigger=generations.get(str(number), 1),
            ignore_changes=["ami", "user_data_base64", "instance_type"],
            depends_on=[route],
        ),
    )
    volume = ebs.Volume(f"data-{number}", availability_zone=subnet.availability_zone, size=1, type="gp3")
    ec2.VolumeAttachment(
        f"data-{number}",
        device_name="/dev/sdf",
        instance_id=host.id,
        volume_id=volume.id,
        opts=ResourceOptions(delete_before_replace=True),
    )
    ids[f"host-{number}"] = host.id

if hosts.get("break"):
    iam.RolePolicy("broken", role=role.name, policy=str(hosts["break"]), opts=ResourceOptions(depends_on=[network]))

if hosts.get("command"):
    local.Command("command", create=str(hosts["command"]))

pulumi.export("hosts", ids)
pulumi.export("vpcId", network.id)
pulumi.export("secret", secret.value)
