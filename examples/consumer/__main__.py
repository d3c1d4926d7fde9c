"""A second stack beside Apollo's: a database in its private subnets, reachable by its containers alone, by its Consul name.

Containers leave the overlay with their slave's address, so the database admits the slaves' security group and no one else. It
has no Consul agent: it is an external service, registered on a control node over SSH, and taken out again with the stack.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import shlex
from pathlib import Path
from typing import Any

import pulumi
from contract import Apollo
from pulumi_aws import ec2
from pulumi_aws import vpc as rules
from pulumi_command import remote

NAME = "database"
PORT = 5432
TAGS = {"Name": "apollo-consumer-database"}
SERVE = f"""#cloud-config
write_files:
  - path: /usr/local/bin/database
    permissions: "0755"
    encoding: b64
    content: {base64.b64encode(Path(__file__).with_name("database.py").read_bytes()).decode()}
  - path: /etc/systemd/system/database.service
    content: |
      [Service]
      ExecStart=/usr/local/bin/database
      Restart=always
runcmd:
  - [systemctl, start, database.service]
"""

config = pulumi.Config()
apollo = Apollo(config.require("apollo"))
subnet = ec2.get_subnet_output(id=apollo.output("privateSubnetIds", 0))
# Apollo gives out a subnet's addresses from its beginning; its end is free for others.
address = subnet.cidr_block.apply(lambda block: str(ipaddress.ip_network(block)[-10]))

group = ec2.SecurityGroup(
    NAME, vpc_id=apollo.output("vpcId"), description="The database, for containers on Apollo slaves", tags=TAGS
)
rule = rules.SecurityGroupIngressRule(
    f"{NAME}-from-slaves",
    security_group_id=group.id,
    ip_protocol="tcp",
    from_port=PORT,
    to_port=PORT,
    referenced_security_group_id=apollo.output("securityGroupIds", "slaves"),
    description="Containers come with the address of their slave",
)
image = ec2.get_ami_output(
    owners=["136693071363"], filters=[ec2.GetAmiFilterArgs(name="name", values=["debian-12-amd64-*"])], most_recent=True
)
machine = ec2.Instance(
    NAME,
    ami=image.id,
    instance_type="t3.micro",
    subnet_id=subnet.id,
    private_ip=address,
    vpc_security_group_ids=[group.id],
    user_data_base64=base64.b64encode(SERVE.encode()).decode(),
    metadata_options=ec2.InstanceMetadataOptionsArgs(
        http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
    ),
    root_block_device=ec2.InstanceRootBlockDeviceArgs(encrypted=True, tags=TAGS),
    tags=TAGS,
    opts=pulumi.ResourceOptions(depends_on=[rule], delete_before_replace=True, ignore_changes=["ami"]),
)


def consul_call(verb: str, body: dict[str, Any]) -> str:
    """A call of Consul's catalog on a control node. The token stays there, and is in no list of processes."""
    token = "$(sudo cat /etc/apollo/secrets/consul/management-token)"
    call = f"curl -sS --fail -K - -X PUT --data {shlex.quote(json.dumps(body))} http://127.0.0.1:8500/v1/catalog/{verb}"
    return f"""printf 'header = "X-Consul-Token: %s"' "{token}" | {call}"""


def entry(at: str) -> dict[str, Any]:
    service = {"Service": NAME, "Address": at, "Port": PORT}
    return {"Node": TAGS["Name"], "Address": at, "NodeMeta": {"external-node": "true"}, "Service": service}


if config.get_secret("adminPrivateKey") is None:
    pulumi.log.info("not registered in Consul: set the secret apollo-consumer:adminPrivateKey")
else:
    key, host_key = config.require_secret("adminPrivateKey"), apollo.output("sshHostKey")
    remote.Command(
        f"{NAME}-registration",
        connection=remote.ConnectionArgs(
            host=apollo.output("consul", "servers", 0),
            proxy=remote.ProxyConnectionArgs(
                host=apollo.output("edge", "publicIps", 0), user="admin", private_key=key, host_key=host_key
            ),
            user="admin",
            private_key=key,
            host_key=host_key,
        ),
        create=address.apply(lambda at: consul_call("register", entry(at))),
        delete=consul_call("deregister", {"Node": TAGS["Name"]}),
        triggers=[machine.id],
        add_previous_output_in_env=False,
        opts=pulumi.ResourceOptions(depends_on=[machine], delete_before_replace=True),
    )

pulumi.export("address", pulumi.Output.concat(address, f":{PORT}"))
pulumi.export("name", pulumi.Output.concat(f"{NAME}.service.", apollo.output("consul", "domain")))
