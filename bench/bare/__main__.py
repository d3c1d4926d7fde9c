"""The yardstick: `bare:count` resources of the kinds that a stack of many slaves is made of (an instance, a volume, its
attachment, in turn), registered flat: no plan, no components, no user-data, no dependencies but the attachment's own.

Of those kinds, because the SDK's work grows with the number of outputs, and an instance has ten times those of a volume.
"""

from __future__ import annotations

import pulumi
from pulumi_aws import ebs, ec2

ZONE = "eu-west-1a"
# One of localcloud/images.json: the embedded cloud refuses others, as AWS does.
IMAGE = "ami-0d12a0e1b8c53f7a1"

count = pulumi.Config("bare").require_int("count") - 2
network = ec2.Vpc("vpc", cidr_block="10.0.0.0/16")
subnet = ec2.Subnet("subnet", vpc_id=network.id, cidr_block="10.0.0.0/16", availability_zone=ZONE)
for number in range(-(-count // 3)):
    volume = ebs.Volume(f"volume-{number}", availability_zone=ZONE, size=1)
    if 3 * number + 1 < count:
        instance = ec2.Instance(f"instance-{number}", ami=IMAGE, instance_type="t3.small", subnet_id=subnet.id)
        if 3 * number + 2 < count:
            ec2.VolumeAttachment(f"attachment-{number}", device_name="/dev/sdf", instance_id=instance.id, volume_id=volume.id)
