"""EBS volumes and their attachments."""

from __future__ import annotations

import zlib
from typing import Any

from ..api.client import Aws
from .aws import Api, Ec2, absent, first, wait
from .compute import instance_state
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


class VolumeAttachment(Api):
    token = "aws:ec2/volumeAttachment:VolumeAttachment"
    service, creates, deletes = "ec2", "attach_volume", "detach_volume"
    sends = shows = replaces = ("deviceName", "instanceId", "volumeId")
    inputs = (*sends, "stopInstanceBeforeDetaching")
    renamed = {"deviceName": "Device"}

    def id_of(self, inputs: Props, answer: Props) -> str:
        parts = "".join(f"{inputs[name]}-" for name in self.sends)
        return f"vai-{zlib.crc32(parts.encode())}"

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_volumes(VolumeIds=[known["volumeId"]]))
        attachments: list[Any] = answer["Volumes"][0]["Attachments"] if answer else []
        wanted = (known["instanceId"], known["deviceName"])
        return first([a for a in attachments if (a["InstanceId"], a["Device"]) == wanted])

    def deletion(self, aws: Aws, id: str, known: Props) -> Props:
        return self.arguments(aws, self.deletes, known, self.sends)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.record(aws, id, known) is None:
            return
        instance = known["instanceId"]
        if known.get("stopInstanceBeforeDetaching") and instance_state(aws, instance) == "running":
            aws.client("ec2").stop_instances(InstanceIds=[instance])
            wait(f"the stop of {instance}", lambda: instance_state(aws, instance) == "stopped")
        super().delete(aws, id, known)


KINDS = (Volume, VolumeAttachment)
