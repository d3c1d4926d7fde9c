"""Instances and network interfaces."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterable

from .diff import Found
from .kind import Aws, CloudError, Ec2, Kind, absent, arguments, first, from_aws, pascal, retag, tag_list, tag_map, wait
from .network import public_dns, vpc_of_subnet
from .schema import Failure
from .security import same_vpc
from .values import UNKNOWN, Props, is_unknown

USER_DATA_LIMIT = 16384  # bytes, after base64


def check_address(aws: Aws, subnet_id: str, address: str) -> None:
    """CloudError where AWS keeps the address of the subnet for itself, it is in use, or the subnet does not hold it."""
    subnet = aws.client("ec2").describe_subnets(SubnetIds=[subnet_id])["Subnets"][0]
    network = ipaddress.ip_network(subnet["CidrBlock"])
    wanted = ipaddress.ip_address(address)
    if wanted not in network:
        raise CloudError(f"InvalidParameterValue: address {address} is not in subnet {subnet_id} ({network})")
    if int(wanted) - int(network.network_address) < 4 or wanted == network.broadcast_address:
        first_free, last_free = network[4], network[-2]
        raise CloudError(
            f"InvalidParameterValue: address {address} is one of the five that AWS reserves in subnet {subnet_id} "
            f"({network}); {first_free} to {last_free} are free to use"
        )
    filters = [{"Name": "subnet-id", "Values": [subnet_id]}, {"Name": "private-ip-address", "Values": [address]}]
    holder = first(aws.client("ec2").describe_network_interfaces(Filters=filters)["NetworkInterfaces"])
    if holder:
        raise CloudError(
            f"InvalidIPAddress.InUse: address {address} of subnet {subnet_id} is already in use by "
            f"{holder.get('Attachment', {}).get('InstanceId') or holder['NetworkInterfaceId']}"
        )


class NetworkInterface(Ec2):
    token = "aws:ec2/networkInterface:NetworkInterface"
    noun, snake = "NetworkInterface", "network_interface"
    inputs = ("subnetId", "privateIp", "privateIps", "securityGroups", "description", "sourceDestCheck", "tags")
    defaults = {"sourceDestCheck": True}
    unordered = ("privateIps", "securityGroups")

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        # Secondary addresses come and go; only the loss of the primary one replaces.
        olds, news = old.get("privateIps") or [], new.get("privateIps") or []
        keeps_primary = bool(olds) and not is_unknown(news) and olds[0] in news
        return [Found(f.path, f.change, f.replaces and not (f.path == "privateIps" and keeps_primary)) for f in found]

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        addresses = [*([inputs["privateIp"]] if inputs.get("privateIp") else []), *(inputs.get("privateIps") or [])]
        for address in addresses:
            check_address(aws, inputs["subnetId"], address)
        args = arguments(ec2, "create_network_interface", inputs, ("subnetId", "description"))
        if groups := inputs.get("securityGroups"):
            same_vpc(aws, groups, f"subnet {inputs['subnetId']}", vpc_of_subnet(aws, inputs["subnetId"]))
            args["Groups"] = groups
        if addresses:
            args["PrivateIpAddress"] = addresses[0]
        if specification := self.tag_specification(inputs):
            args["TagSpecifications"] = specification
        id = str(ec2.create_network_interface(**args)["NetworkInterface"]["NetworkInterfaceId"])
        with self.undo_on_error(aws, id):
            if addresses[1:]:
                ec2.assign_private_ip_addresses(NetworkInterfaceId=id, PrivateIpAddresses=addresses[1:])
            if not inputs["sourceDestCheck"]:
                ec2.modify_network_interface_attribute(NetworkInterfaceId=id, SourceDestCheck={"Value": False})
        return id

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        ec2 = aws.client("ec2")
        for name in changed or ():
            if name == "securityGroups" and inputs.get(name):
                vpc = vpc_of_subnet(aws, inputs["subnetId"])
                same_vpc(aws, inputs[name], f"network interface {id}", vpc)
                ec2.modify_network_interface_attribute(NetworkInterfaceId=id, Groups=inputs[name])
            elif name == "sourceDestCheck":
                ec2.modify_network_interface_attribute(NetworkInterfaceId=id, SourceDestCheck={"Value": inputs[name]})
            elif name == "description":
                about = {"Value": inputs.get(name) or ""}
                ec2.modify_network_interface_attribute(NetworkInterfaceId=id, Description=about)
            elif name == "privateIps":
                self._secondary(aws, id, inputs.get(name) or [])

    def _secondary(self, aws: Aws, id: str, wanted: list[str]) -> None:
        ec2 = aws.client("ec2")
        record = self.record(aws, id) or {}
        held = [a["PrivateIpAddress"] for a in record.get("PrivateIpAddresses", []) if not a.get("Primary")]
        extra = [a for a in held if a not in wanted]
        missing = [a for a in wanted if a not in held and a != record.get("PrivateIpAddress")]
        if extra:
            ec2.unassign_private_ip_addresses(NetworkInterfaceId=id, PrivateIpAddresses=extra)
        for address in missing:
            check_address(aws, record["SubnetId"], address)
        if missing:
            ec2.assign_private_ip_addresses(NetworkInterfaceId=id, PrivateIpAddresses=missing)

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {
            "privateIp": record["PrivateIpAddress"],
            "privateIps": [a["PrivateIpAddress"] for a in record.get("PrivateIpAddresses", [])],
            "securityGroups": [g["GroupId"] for g in record.get("Groups", [])],
            "description": record.get("Description") or None,
            "privateDnsName": private_dns(aws, record["PrivateIpAddress"]),
            "attachments": None,
        }

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        record = self.record(aws, id)
        if record is None:
            return
        # moto leaves the interface of a terminated instance attached to it, and would refuse to detach it.
        attachment = record.get("Attachment", {})
        if attachment.get("AttachmentId") and live_instance(aws, attachment.get("InstanceId", "")):
            absent(lambda: aws.client("ec2").detach_network_interface(AttachmentId=attachment["AttachmentId"], Force=True))
        absent(lambda: aws.client("ec2").delete_network_interface(NetworkInterfaceId=id))


def live_instance(aws: Aws, id: str) -> Props | None:
    """AWS's record of an instance, or None where there is none or it is terminated."""
    answer = absent(lambda: aws.client("ec2").describe_instances(InstanceIds=[id])) if id else None
    record = first(answer["Reservations"][0]["Instances"]) if answer and answer["Reservations"] else None
    return None if record is None or record["State"]["Name"] == "terminated" else record


def instance_state(aws: Aws, id: str) -> str:
    return str((live_instance(aws, id) or {}).get("State", {}).get("Name", "terminated"))


def private_dns(aws: Aws, address: str) -> str:
    return f"ip-{address.replace('.', '-')}.{aws.region}.compute.internal"


_PLAIN_LAUNCH = ("instanceType", "keyName", "ebsOptimized", "instanceInitiatedShutdownBehavior", "metadataOptions")
_ROOT = ("volumeSize", "volumeType", "iops", "throughput", "encrypted", "kmsKeyId", "deleteOnTermination")


class Instance(Kind):
    """Launched with a NetworkInterfaces block: moto frees a terminated instance's address only then."""

    token = "aws:ec2/instance:Instance"
    inputs = (*_PLAIN_LAUNCH, "disableApiTermination", "disableApiStop", "ami", "subnetId", "privateIp",
              "vpcSecurityGroupIds", "associatePublicIpAddress", "availabilityZone", "iamInstanceProfile", "userData",
              "userDataBase64", "userDataReplaceOnChange", "rootBlockDevice", "ebsBlockDevices", "sourceDestCheck",
              "monitoring", "tenancy", "primaryNetworkInterface", "tags", "volumeTags", "maintenanceOptions",
              "creditSpecification", "privateDnsNameOptions", "forceDestroy")  # fmt: skip
    kept = {
        "maintenanceOptions": "moto does not store it",
        "creditSpecification": "moto does not store it",
        "privateDnsNameOptions": "moto does not store it",
        "userDataReplaceOnChange": "an instruction to the provider",
        "forceDestroy": "an instruction to the provider",
    }
    defaults = {"sourceDestCheck": True, "disableApiTermination": False, "userDataReplaceOnChange": False}
    unordered = ("vpcSecurityGroupIds",)

    def validate(self, inputs: Props) -> Iterable[Failure]:
        for name in ("ami", "instanceType"):
            if not inputs.get(name):
                yield Failure(name, "missing: an instance needs one")
        if inputs.get("userData") is not None and inputs.get("userDataBase64") is not None:
            yield Failure("userData", "give userData or userDataBase64, not both")
        try:
            data = user_data(inputs)
        except CloudError as error:
            yield Failure("userDataBase64", str(error))
        else:
            if data is not None and len(data) > USER_DATA_LIMIT:
                name = "userData" if inputs.get("userData") else "userDataBase64"
                yield Failure(name, f"is {len(data)} bytes; AWS takes at most {USER_DATA_LIMIT} bytes before base64")
        if inputs.get("primaryNetworkInterface"):
            for name in ("subnetId", "privateIp", "vpcSecurityGroupIds", "associatePublicIpAddress"):
                if inputs.get(name):
                    yield Failure(name, "conflicts with primaryNetworkInterface, which brings its own")
        elif not inputs.get("subnetId"):
            yield Failure("subnetId", "missing: the embedded cloud has no default VPC to launch into")

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        replaced = new.get("userDataReplaceOnChange") is True
        data = ("userData", "userDataBase64")
        grown = old.get("rootBlockDevice") is None
        return [
            Found(
                f.path,
                f.change,
                (f.replaces and not (grown and f.property == "rootBlockDevice")) or (replaced and f.property in data),
            )
            for f in found
        ]

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        args = arguments(ec2, "run_instances", inputs, _PLAIN_LAUNCH)
        data = user_data(inputs)
        if data is not None:
            args["UserData"] = data
        if inputs.get("iamInstanceProfile"):
            args["IamInstanceProfile"] = {"Name": inputs["iamInstanceProfile"]}
        if inputs.get("monitoring") is not None:
            args["Monitoring"] = {"Enabled": inputs["monitoring"]}
        placement = {"AvailabilityZone": inputs.get("availabilityZone"), "Tenancy": inputs.get("tenancy")}
        if any(placement.values()):
            args["Placement"] = {k: v for k, v in placement.items() if v}
        image = first(ec2.describe_images(ImageIds=[inputs["ami"]])["Images"])
        if image is None:
            raise CloudError(f"InvalidAMIID.NotFound: there is no image {inputs['ami']} in {aws.region}")
        args["BlockDeviceMappings"] = self._disks(image, inputs)
        args["NetworkInterfaces"] = [self._interface(aws, inputs)]
        tags, volume_tags = inputs.get("tagsAll"), self._volume_tags(inputs)
        args["TagSpecifications"] = [
            {"ResourceType": kind, "Tags": tag_list(value)}
            for kind, value in (("instance", tags), ("volume", volume_tags))
            if value
        ]
        answer = ec2.run_instances(ImageId=inputs["ami"], MinCount=1, MaxCount=1, **{k: v for k, v in args.items() if v})
        id = str(answer["Instances"][0]["InstanceId"])
        with self.undo_on_error(aws, id):
            wait(f"the start of {id}", lambda: instance_state(aws, id) == "running")
            if not inputs["sourceDestCheck"]:
                self._set_source_dest_check(aws, id, False)
            for name in ("disableApiTermination", "disableApiStop"):
                if inputs.get(name):  # moto overlooks them at the launch
                    ec2.modify_instance_attribute(InstanceId=id, **{pascal(name): {"Value": True}})
        return id

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = live_instance(aws, id)
        if record is None:
            return None
        ec2 = aws.client("ec2")
        card = first(record.get("NetworkInterfaces")) or {}
        profile = record.get("IamInstanceProfile", {}).get("Arn")
        address = record.get("PublicIpAddress") or card.get("Association", {}).get("PublicIp")
        root = self._root_disk(aws, record)
        protected = ec2.describe_instance_attribute(InstanceId=id, Attribute="disableApiTermination")
        return {
            "ami": record["ImageId"],
            "instanceType": record["InstanceType"],
            "instanceState": record["State"]["Name"],
            "subnetId": record.get("SubnetId"),
            "availabilityZone": record["Placement"]["AvailabilityZone"],
            "tenancy": record["Placement"].get("Tenancy"),
            "privateIp": record.get("PrivateIpAddress"),
            "privateDns": private_dns(aws, record["PrivateIpAddress"]) if record.get("PrivateIpAddress") else None,
            "publicIp": address,
            "publicDns": public_dns(aws, address) if address else None,
            "associatePublicIpAddress": known.get("associatePublicIpAddress", bool(address)),
            "primaryNetworkInterfaceId": card.get("NetworkInterfaceId"),
            "primaryNetworkInterface": {
                "networkInterfaceId": card.get("NetworkInterfaceId"),
                "deleteOnTermination": card.get("Attachment", {}).get("DeleteOnTermination"),
            },
            "vpcSecurityGroupIds": [g["GroupId"] for g in card.get("Groups", [])],
            "sourceDestCheck": card.get("SourceDestCheck", True),
            "keyName": record.get("KeyName"),
            "iamInstanceProfile": profile.rsplit("/", 1)[-1] if profile else None,
            "metadataOptions": from_aws({k: v for k, v in record.get("MetadataOptions", {}).items() if k != "State"}),
            "monitoring": record.get("Monitoring", {}).get("State") == "enabled",
            "disableApiTermination": protected["DisableApiTermination"]["Value"],
            "rootBlockDevice": root,
            "arn": aws.arn("ec2", f"instance/{id}"),
            "tags": tag_map(record.get("Tags")),
            **self._live_user_data(aws, id, known),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        ec2 = aws.client("ec2")
        retag(aws, id, old, new)
        self._update_running(aws, id, old, new, changed)
        stopped: list[Props] = []
        if "instanceType" in changed:
            stopped.append({"InstanceType": {"Value": new["instanceType"]}})
        if changed & {"userData", "userDataBase64"}:
            stopped.append({"UserData": {"Value": base64.b64encode(user_data(new) or b"")}})
        if "ebsOptimized" in changed:
            stopped.append({"EbsOptimized": {"Value": bool(new.get("ebsOptimized"))}})
        if stopped:
            # AWS takes these only while the instance is stopped.
            ec2.stop_instances(InstanceIds=[id])
            wait(f"the stop of {id}", lambda: instance_state(aws, id) == "stopped")
            for change in stopped:
                ec2.modify_instance_attribute(InstanceId=id, **change)
            ec2.start_instances(InstanceIds=[id])
            wait(f"the start of {id}", lambda: instance_state(aws, id) == "running")

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        record = live_instance(aws, id)
        if record is None:
            return
        ec2 = aws.client("ec2")
        protected = ec2.describe_instance_attribute(InstanceId=id, Attribute="disableApiTermination")
        if protected["DisableApiTermination"]["Value"]:
            if not known.get("forceDestroy"):
                raise CloudError(
                    f"OperationNotPermitted: instance {id} is protected (disableApiTermination is true); set it to false first"
                )
            ec2.modify_instance_attribute(InstanceId=id, DisableApiTermination={"Value": False})
        ec2.terminate_instances(InstanceIds=[id])
        wait(f"the termination of {id}", lambda: live_instance(aws, id) is None)

    def _update_running(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        ec2 = aws.client("ec2")
        card = first((live_instance(aws, id) or {}).get("NetworkInterfaces")) or {}
        if "vpcSecurityGroupIds" in changed and new.get("vpcSecurityGroupIds"):
            groups = new["vpcSecurityGroupIds"]
            same_vpc(aws, groups, f"instance {id}", card["VpcId"])
            ec2.modify_network_interface_attribute(NetworkInterfaceId=card["NetworkInterfaceId"], Groups=groups)
        if "sourceDestCheck" in changed:
            self._set_source_dest_check(aws, id, new["sourceDestCheck"])
        for name in ("disableApiTermination", "disableApiStop"):
            if name in changed:
                value = {"Value": bool(new.get(name))}
                ec2.modify_instance_attribute(InstanceId=id, **{pascal(name): value})
        if "metadataOptions" in changed and new.get("metadataOptions"):
            options = arguments(ec2, "run_instances", new, ("metadataOptions",))["MetadataOptions"]
            ec2.modify_instance_metadata_options(InstanceId=id, **options)
        if "iamInstanceProfile" in changed:
            self._set_profile(aws, id, new.get("iamInstanceProfile"))
        if "monitoring" in changed:
            switch = ec2.monitor_instances if new.get("monitoring") else ec2.unmonitor_instances
            switch(InstanceIds=[id])
        if changed & {"rootBlockDevice", "volumeTags"}:
            self._update_root(aws, id, old, new)

    def _set_source_dest_check(self, aws: Aws, id: str, value: bool) -> None:
        # By way of the interface, which has it: on the instance moto keeps another one.
        card = (live_instance(aws, id) or {})["NetworkInterfaces"][0]["NetworkInterfaceId"]
        aws.client("ec2").modify_network_interface_attribute(NetworkInterfaceId=card, SourceDestCheck={"Value": value})

    def _update_root(self, aws: Aws, id: str, old: Props, new: Props) -> None:
        ec2 = aws.client("ec2")
        before = self._root_disk(aws, live_instance(aws, id) or {}) or {}
        wanted = new.get("rootBlockDevice") or {}
        names = {"volumeSize": "Size", "volumeType": "VolumeType", "iops": "Iops", "throughput": "Throughput"}
        change = {names[k]: v for k, v in wanted.items() if k in names and v is not None and v != before.get(k)}
        if change and before:
            ec2.modify_volume(VolumeId=before["volumeId"], **change)
        if before:
            retag(aws, before["volumeId"], {"tagsAll": self._volume_tags(old)}, {"tagsAll": self._volume_tags(new)})

    def _set_profile(self, aws: Aws, id: str, profile: str | None) -> None:
        ec2 = aws.client("ec2")
        mine = [{"Name": "instance-id", "Values": [id]}]
        found = ec2.describe_iam_instance_profile_associations(Filters=mine)["IamInstanceProfileAssociations"]
        association = first([a for a in found if a["State"] in ("associated", "associating")])
        if association and profile:
            ec2.replace_iam_instance_profile_association(
                AssociationId=association["AssociationId"], IamInstanceProfile={"Name": profile}
            )
        elif profile:
            ec2.associate_iam_instance_profile(InstanceId=id, IamInstanceProfile={"Name": profile})
        elif association:
            ec2.disassociate_iam_instance_profile(AssociationId=association["AssociationId"])

    def _interface(self, aws: Aws, inputs: Props) -> Props:
        existing = inputs.get("primaryNetworkInterface")
        if existing:
            eni = existing["networkInterfaceId"]
            attachment = aws.client("ec2").describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
            holder = attachment.get("Attachment", {}).get("InstanceId", "")
            if live_instance(aws, holder):
                raise CloudError(f"InvalidNetworkInterface.InUse: network interface {eni} is attached to {holder}")
            return {"DeviceIndex": 0, "NetworkInterfaceId": existing["networkInterfaceId"]}
        subnet, groups = inputs["subnetId"], inputs.get("vpcSecurityGroupIds")
        card: Props = {"DeviceIndex": 0, "SubnetId": subnet, "DeleteOnTermination": True}
        if inputs.get("privateIp"):
            check_address(aws, subnet, inputs["privateIp"])
            card["PrivateIpAddress"] = inputs["privateIp"]
        if groups:
            same_vpc(aws, groups, f"subnet {subnet}", vpc_of_subnet(aws, subnet))
            card["Groups"] = groups
        if inputs.get("associatePublicIpAddress") is not None:
            card["AssociatePublicIpAddress"] = inputs["associatePublicIpAddress"]
        return card

    def _disks(self, image: Props, inputs: Props) -> list[Props]:
        # Without an explicit DeleteOnTermination moto leaves the volume behind.
        root: Props = {"volumeSize": 8, "volumeType": "gp3", "deleteOnTermination": True}
        root |= {k: v for k, v in (inputs.get("rootBlockDevice") or {}).items() if v is not None}
        disks = [{"DeviceName": image["RootDeviceName"], "Ebs": self._ebs(root)}]
        more = inputs.get("ebsBlockDevices") or []
        return disks + [{"DeviceName": d["deviceName"], "Ebs": self._ebs({"deleteOnTermination": True, **d})} for d in more]

    def _ebs(self, disk: Props) -> Props:
        return {pascal(k): v for k, v in disk.items() if k in (*_ROOT, "snapshotId") and v is not None}

    def _volume_tags(self, inputs: Props) -> Props:
        return {**(inputs.get("volumeTags") or {}), **((inputs.get("rootBlockDevice") or {}).get("tags") or {})}

    def _root_disk(self, aws: Aws, record: Props) -> Props | None:
        """The root volume as `rootBlockDevice` has it."""
        mappings = record.get("BlockDeviceMappings") or []
        root = first([m for m in mappings if m["DeviceName"] == record.get("RootDeviceName")]) or first(mappings)
        if root is None:
            return None
        volume = first(aws.client("ec2").describe_volumes(VolumeIds=[root["Ebs"]["VolumeId"]])["Volumes"]) or {}
        return {
            "deviceName": root["DeviceName"],
            "volumeId": volume["VolumeId"],
            "volumeSize": volume["Size"],
            "volumeType": volume["VolumeType"],
            "encrypted": volume["Encrypted"],
            "deleteOnTermination": root["Ebs"].get("DeleteOnTermination"),
            "tags": tag_map(volume.get("Tags")) or None,
            **{k: volume[pascal(k)] for k in ("iops", "throughput", "kmsKeyId") if volume.get(pascal(k))},
        }

    def _live_user_data(self, aws: Aws, id: str, known: Props) -> Props:
        answer = aws.client("ec2").describe_instance_attribute(InstanceId=id, Attribute="userData")
        encoded = answer.get("UserData", {}).get("Value")
        if not encoded:
            return {}
        if known.get("userData") is not None:
            return {"userData": base64.b64decode(encoded).decode(errors="replace")}
        return {"userDataBase64": encoded}


def user_data(inputs: Props) -> bytes | None:
    """The bytes that an instance gets, or None where there are none or they are not known yet."""
    text, encoded = inputs.get("userData"), inputs.get("userDataBase64")
    if UNKNOWN in (text, encoded):
        return None
    if isinstance(encoded, str):
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise CloudError(f"is not base64: {error}") from None
    return text.encode() if isinstance(text, str) else None


KINDS = (NetworkInterface, Instance)
