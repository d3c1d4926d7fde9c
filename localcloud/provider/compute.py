"""Instances and network interfaces."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from ..api.client import Aws
from .aws import Ec2, absent, first, from_aws, tag_list, tag_map, wait
from .kind import CloudError, Failure
from .network import public_dns
from .values import Props, is_unknown


class NetworkInterface(Ec2):
    token = "aws:ec2/networkInterface:NetworkInterface"
    noun = "network_interface"
    sends = ("subnetId", "securityGroups")
    inputs = (*sends, "privateIps", "tags")
    renamed = {"securityGroups": "Groups"}
    setters = {"securityGroups": "modify_network_interface_attribute"}
    replaces, computed = ("subnetId", "privateIps"), ("privateIps", "securityGroups")
    unordered = ("privateIps", "securityGroups")

    def validate(self, inputs: Props) -> Iterable[Failure]:
        addresses = inputs.get("privateIps")
        if not is_unknown(addresses) and len(addresses or ()) > 1:
            yield Failure("privateIps", "the embedded cloud gives an interface one address")

    def creation(self, aws: Aws, inputs: Props) -> Props:
        own = {"PrivateIpAddress": inputs["privateIps"][0]} if inputs.get("privateIps") else {}
        return super().creation(aws, inputs) | own

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {
            "privateIp": record["PrivateIpAddress"],
            "privateIps": [a["PrivateIpAddress"] for a in record.get("PrivateIpAddresses", [])],
            "securityGroups": [g["GroupId"] for g in record.get("Groups", [])],
            "attachments": None,
        }


def instance_state(aws: Aws, id: str) -> str:
    return str((Instance().record(aws, id, {}) or {}).get("State", {}).get("Name", "terminated"))


_DISK = {"volumeSize": "VolumeSize", "volumeType": "VolumeType", "encrypted": "Encrypted"}


class Instance(Ec2):
    token = "aws:ec2/instance:Instance"
    noun, creates, deletes = "instance", "run_instances", "terminate_instances"
    sends = ("instanceType", "metadataOptions", "ami", "subnetId", "privateIp", "vpcSecurityGroupIds",
             "primaryNetworkInterface", "userDataBase64", "iamInstanceProfile", "rootBlockDevice")  # fmt: skip
    inputs = (*sends, "tags")
    parts = {
        "primaryNetworkInterface": ("networkInterfaceId",),
        "metadataOptions": ("httpTokens", "httpPutResponseHopLimit", "httpEndpoint"),
        "rootBlockDevice": (*_DISK, "tags"),
    }
    required = (("ami",), ("instanceType",), ("subnetId", "primaryNetworkInterface"))
    replaces = ("ami", "privateIp", "subnetId", "primaryNetworkInterface")
    computed = ("iamInstanceProfile", "privateIp", "subnetId", "userDataBase64", "vpcSecurityGroupIds",
                "metadataOptions", "rootBlockDevice")  # fmt: skip
    unordered = ("vpcSecurityGroupIds",)
    base64_text = ("userDataBase64",)

    def validate(self, inputs: Props) -> Iterable[Failure]:
        yield from super().validate(inputs)
        for name in ("privateIp", "vpcSecurityGroupIds"):
            if inputs.get("primaryNetworkInterface") and inputs.get(name):
                yield Failure(name, "conflicts with primaryNetworkInterface, which brings its own")

    def creation(self, aws: Aws, inputs: Props) -> Props:
        image = aws.client("ec2").describe_images(ImageIds=[inputs["ami"]])["Images"][0]
        args = self.arguments(aws, self.creates, inputs, ("instanceType", "metadataOptions"))
        args |= {"ImageId": inputs["ami"], "MinCount": 1, "MaxCount": 1, "NetworkInterfaces": [self._interface(inputs)]}
        if inputs.get("userDataBase64"):
            args["UserData"] = base64.b64decode(inputs["userDataBase64"])
        if inputs.get("iamInstanceProfile"):
            args["IamInstanceProfile"] = {"Name": inputs["iamInstanceProfile"]}
        disk: Props = {"volumeSize": 8, "volumeType": "gp3", **(inputs.get("rootBlockDevice") or {})}
        ebs = {member: disk[name] for name, member in _DISK.items() if disk.get(name) is not None}
        args["BlockDeviceMappings"] = [{"DeviceName": image["RootDeviceName"], "Ebs": {**ebs, "DeleteOnTermination": True}}]
        tags: dict[str, Props | None] = {"instance": inputs.get("tags"), "volume": disk.get("tags")}
        args["TagSpecifications"] = [{"ResourceType": kind, "Tags": tag_list(value)} for kind, value in tags.items() if value]
        return {name: value for name, value in args.items() if value}

    def complete(self, aws: Aws, id: str, inputs: Props) -> None:
        wait(f"the start of {id}", lambda: instance_state(aws, id) == "running")

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_instances(InstanceIds=[id]))
        record = first(answer["Reservations"][0]["Instances"]) if answer and answer["Reservations"] else None
        return None if record is None or record["State"]["Name"] == "terminated" else record

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self.record(aws, id, known)
        if record is None:
            return None
        card = first(record.get("NetworkInterfaces")) or {}
        profile = record.get("IamInstanceProfile", {}).get("Arn")
        address = record.get("PublicIpAddress") or card.get("Association", {}).get("PublicIp")
        data = aws.client("ec2").describe_instance_attribute(InstanceId=id, Attribute="userData").get("UserData", {})
        return {
            "ami": record["ImageId"],
            "instanceType": record["InstanceType"],
            "instanceState": record["State"]["Name"],
            "subnetId": record.get("SubnetId"),
            "availabilityZone": record["Placement"]["AvailabilityZone"],
            "privateIp": record.get("PrivateIpAddress"),
            "privateDns": record.get("PrivateDnsName"),
            "publicIp": address,
            "publicDns": public_dns(aws, address) if address else None,
            "primaryNetworkInterfaceId": card.get("NetworkInterfaceId"),
            "primaryNetworkInterface": {"networkInterfaceId": card.get("NetworkInterfaceId")},
            "vpcSecurityGroupIds": [g["GroupId"] for g in record.get("SecurityGroups", [])],
            "iamInstanceProfile": profile.rsplit("/", 1)[-1] if profile else None,
            "metadataOptions": from_aws({k: v for k, v in record.get("MetadataOptions", {}).items() if k != "State"}),
            "rootBlockDevice": self._root_disk(aws, record),
            "userDataBase64": data.get("Value") or None,
            "arn": aws.arn("ec2", f"instance/{id}"),
            "tags": tag_map(record.get("Tags")),
        }

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        ec2 = aws.client("ec2")
        # The program's own instances keep these as they are until they are replaced.
        if kept := changed.intersection(("instanceType", "userDataBase64", "rootBlockDevice", "iamInstanceProfile")):
            raise CloudError(f"{id}: the embedded cloud does not change {', '.join(sorted(kept))} of an instance; replace it")
        if "vpcSecurityGroupIds" in changed:
            ec2.modify_instance_attribute(InstanceId=id, Groups=inputs["vpcSecurityGroupIds"])
        if "metadataOptions" in changed and inputs.get("metadataOptions"):
            options = self.arguments(aws, self.creates, inputs, ("metadataOptions",))["MetadataOptions"]
            ec2.modify_instance_metadata_options(InstanceId=id, **options)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        super().delete(aws, id, known)
        wait(f"the termination of {id}", lambda: self.record(aws, id, known) is None)

    def _interface(self, inputs: Props) -> Props:
        if inputs.get("primaryNetworkInterface"):
            return {"DeviceIndex": 0, "NetworkInterfaceId": inputs["primaryNetworkInterface"]["networkInterfaceId"]}
        members = {"privateIp": "PrivateIpAddress", "vpcSecurityGroupIds": "Groups"}
        more = {member: inputs[name] for name, member in members.items() if inputs.get(name)}
        return {"DeviceIndex": 0, "SubnetId": inputs["subnetId"], "DeleteOnTermination": True, **more}

    def _root_disk(self, aws: Aws, record: Props) -> Props | None:
        """The root volume as `rootBlockDevice` has it."""
        root = first([m for m in record.get("BlockDeviceMappings") or [] if m["DeviceName"] == record.get("RootDeviceName")])
        if root is None:
            return None
        volume = aws.client("ec2").describe_volumes(VolumeIds=[root["Ebs"]["VolumeId"]])["Volumes"][0]
        live = {"volumeSize": volume["Size"], "volumeType": volume["VolumeType"], "encrypted": volume["Encrypted"]}
        return {**live, "volumeId": volume["VolumeId"], "tags": tag_map(volume.get("Tags")) or None}


KINDS = (NetworkInterface, Instance)
