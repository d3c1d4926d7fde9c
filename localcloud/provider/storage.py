"""EBS volumes and their attachments."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from .compute import instance_state
from .kind import Aws, Ec2, Kind, absent, wait
from .schema import Failure
from .values import Props


class Volume(Ec2):
    token = "aws:ebs/volume:Volume"
    noun, snake = "Volume", "volume"
    creates = ("availabilityZone", "size", "type", "iops", "throughput", "encrypted", "kmsKeyId", "snapshotId")
    renamed = {"type": "VolumeType"}
    inputs = (*creates, "finalSnapshot", "tags")
    defaults = {"finalSnapshot": False, "type": "gp2"}

    def validate(self, inputs: Props) -> Iterable[Failure]:
        if inputs.get("size") is None and not inputs.get("snapshotId"):
            yield Failure("size", "missing: a volume needs a size in GiB, or a snapshotId")

    def create(self, aws: Aws, inputs: Props) -> str:
        return str(aws.client("ec2").create_volume(**self.create_arguments(aws, inputs))["VolumeId"])

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        names = {"size": "Size", "type": "VolumeType", "iops": "Iops", "throughput": "Throughput"}
        change = {names[n]: inputs[n] for n in changed or () if n in names and inputs.get(n) is not None}
        if change:
            aws.client("ec2").modify_volume(VolumeId=id, **change)

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {"type": record["VolumeType"], "createTime": record["CreateTime"].isoformat()}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.record(aws, id) is None:
            return
        if known.get("finalSnapshot"):
            aws.client("ec2").create_snapshot(VolumeId=id, Description=f"last state of {id}")
        super().delete(aws, id, known)


class VolumeAttachment(Kind):
    token = "aws:ec2/volumeAttachment:VolumeAttachment"
    inputs = ("deviceName", "instanceId", "volumeId", "forceDetach", "skipDestroy", "stopInstanceBeforeDetaching")
    kept = dict.fromkeys(inputs[3:], "an instruction to the provider")

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        device, instance, volume = inputs["deviceName"], inputs["instanceId"], inputs["volumeId"]
        ec2.attach_volume(Device=device, InstanceId=instance, VolumeId=volume)
        return f"vai-{zlib.crc32(f'{device}-{instance}-{volume}-'.encode())}"

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        if not known.get("volumeId"):  # an import: DEVICE:VOLUME:INSTANCE, as for the real provider
            device, volume, instance = [*id.split(":"), "", ""][:3]
            known = {"deviceName": device, "volumeId": volume, "instanceId": instance}
        if not self._attached(aws, known):
            return None
        return {name: known[name] for name in ("deviceName", "instanceId", "volumeId")}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        """Only instructions to the provider change in place; the state keeps them."""

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if known.get("skipDestroy") or not self._attached(aws, known):
            return
        ec2 = aws.client("ec2")
        instance, volume = known["instanceId"], known["volumeId"]
        if known.get("stopInstanceBeforeDetaching") and instance_state(aws, instance) == "running":
            ec2.stop_instances(InstanceIds=[instance])
            wait(f"the stop of {instance}", lambda: instance_state(aws, instance) == "stopped")
        ec2.detach_volume(VolumeId=volume, InstanceId=instance, Device=known["deviceName"])
        wait(f"the detachment of {volume}", lambda: not self._attached(aws, known))

    def _attached(self, aws: Aws, known: Props) -> bool:
        answer = absent(lambda: aws.client("ec2").describe_volumes(VolumeIds=[known["volumeId"]]))
        attachments: list[Any] = answer["Volumes"][0]["Attachments"] if answer and answer["Volumes"] else []
        return any(a["InstanceId"] == known["instanceId"] and a["Device"] == known["deviceName"] for a in attachments)


KINDS = (Volume, VolumeAttachment)
