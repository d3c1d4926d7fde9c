"""EBS volumes and their attachments."""

from __future__ import annotations

import zlib
from typing import Any

from .compute import instance_state
from .kind import Aws, Ec2, Kind, absent, wait
from .values import Props


class Volume(Ec2):
    token = "aws:ebs/volume:Volume"
    noun = "volume"
    sends = ("availabilityZone", "size", "type", "encrypted")
    renamed = {"type": "VolumeType"}
    setters = dict.fromkeys(("size", "type"), "modify_volume")
    inputs = (*sends, "tags")
    required = (("size",),)
    replaces, computed = ("availabilityZone", "encrypted"), ("encrypted", "type")


class VolumeAttachment(Kind):
    token = "aws:ec2/volumeAttachment:VolumeAttachment"
    inputs = ("deviceName", "instanceId", "volumeId", "stopInstanceBeforeDetaching")
    replaces = inputs[:3]

    def create(self, aws: Aws, inputs: Props) -> str:
        device, instance, volume = (inputs[name] for name in self.replaces)
        aws.client("ec2").attach_volume(Device=device, InstanceId=instance, VolumeId=volume)
        return f"vai-{zlib.crc32(f'{device}-{instance}-{volume}-'.encode())}"

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_volumes(VolumeIds=[known["volumeId"]]))
        attachments: list[Any] = answer["Volumes"][0]["Attachments"] if answer else []
        wanted = (known["instanceId"], known["deviceName"])
        attached = any((a["InstanceId"], a["Device"]) == wanted for a in attachments)
        return {name: known[name] for name in self.replaces} if attached else None

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        """Only an instruction for the deletion changes in place; the state keeps it."""

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.read(aws, id, known) is None:
            return
        ec2 = aws.client("ec2")
        instance, volume = known["instanceId"], known["volumeId"]
        if known.get("stopInstanceBeforeDetaching") and instance_state(aws, instance) == "running":
            ec2.stop_instances(InstanceIds=[instance])
            wait(f"the stop of {instance}", lambda: instance_state(aws, instance) == "stopped")
        ec2.detach_volume(VolumeId=volume, InstanceId=instance, Device=known["deviceName"])


KINDS = (Volume, VolumeAttachment)
