"""A program that ends in the way that `how` names. `run`: a word in the name of what each run creates anew."""

from __future__ import annotations

import sys
from pathlib import Path

import pulumi
from pulumi_aws import ec2, ssm

sys.path.append(str(Path(__file__).parents[4]))
import sdk_shortcuts

config = pulumi.Config()
how, run = config.get("how") or "well", config.get("run") or "first"
sdk_shortcuts.install()


async def broken() -> str:
    raise ValueError("the coroutine fails")


network = ec2.Vpc("net", cidr_block="10.0.0.0/16")
made = ssm.Parameter(f"made-{run}", type="String", value=how)
pulumi.export("network", network.cidr_block)
pulumi.export("value", made.value.apply(lambda value: f"{value}!"))
if how == "program":
    raise ValueError("the program fails")
if how == "refusal":
    raise pulumi.RunError("the program refuses")
if how == "apply":
    made.value.apply(lambda _: 1 // 0)
if how == "apply-in-apply":
    made.value.apply(lambda value: pulumi.Output.from_input(value).apply(lambda _: 1 // 0))
if how == "coroutine":
    pulumi.Output.from_input(broken())
if how == "provider":
    subnet = ec2.Subnet("subnet", vpc_id=network.id, cidr_block="192.168.0.0/24")
    table = ec2.RouteTable(f"table-{run}", vpc_id=network.id)
    ec2.RouteTableAssociation("member", subnet_id=subnet.id, route_table_id=table.id)
if how == "slow":
    slow = ssm.Parameter(f"slow-{run}", type="String", value=made.value)
    ssm.Parameter(f"after-{run}", type="String", value=slow.value)
