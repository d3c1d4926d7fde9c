"""IAM roles, their policies and instance profiles, KMS keys, and the SSM parameter store."""

from __future__ import annotations

from typing import Any, cast

from ..api.client import Aws
from .aws import Api, tag_list, tag_map
from .values import Props


class _Iam(Api):
    service = "iam"
    naming = ("get_{}", "Name")
    identity = replaces = ("name",)
    autoname = "name"
    name_limit = 128

    def tag(self, aws: Aws, id: str, tags: dict[str, str]) -> None:
        self.call(aws, f"tag_{self.noun}", {self.key: id, "Tags": tag_list(tags)})

    def untag(self, aws: Aws, id: str, keys: list[str]) -> None:
        self.call(aws, f"untag_{self.noun}", {self.key: id, "TagKeys": keys})


class Role(_Iam):
    token = "aws:iam/role:Role"
    noun = "role"
    sends = ("name", "assumeRolePolicy", "description")
    inputs = (*sends, "tags")
    shows = ("arn", "uniqueId", "description")
    renamed = {"name": "RoleName", "uniqueId": "RoleId", "assumeRolePolicy": "AssumeRolePolicyDocument"}
    setters = {"assumeRolePolicy": "update_assume_role_policy.PolicyDocument", "description": "update_role"}
    name_limit = 64
    json_text = ("assumeRolePolicy",)


class RolePolicy(_Iam):
    token = "aws:iam/rolePolicy:RolePolicy"
    noun, creates = "role_policy", "put_role_policy"
    identity, joint = ("role", "name"), ":"
    inputs = sends = ("name", "role", "policy")
    renamed = {"name": "PolicyName", "role": "RoleName", "policy": "PolicyDocument"}
    setters = {"policy": "put_role_policy"}
    replaces = ("name", "role")
    json_text = ("policy",)


class InstanceProfile(_Iam):
    token = "aws:iam/instanceProfile:InstanceProfile"
    noun = "instance_profile"
    sends = ("name",)
    inputs = ("name", "role", "tags")
    shows = ("arn", "uniqueId")
    renamed = {"name": "InstanceProfileName", "uniqueId": "InstanceProfileId", "role": "RoleName"}
    setters = {"role": "add_role_to_instance_profile"}

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {"role": record["Roles"][0]["RoleName"] if record["Roles"] else None}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if role := (self.read(aws, id, known) or {}).get("role"):
            aws.client("iam").remove_role_from_instance_profile(InstanceProfileName=id, RoleName=role)
        super().delete(aws, id, known)


class Key(Api):
    token = "aws:kms/key:Key"
    service, noun, deletes, found = "kms", "key", "schedule_key_deletion", "KeyMetadata"
    naming = ("describe_{}", "Id")
    sends = ("description", "policy")
    inputs = (*sends, "enableKeyRotation", "tags")
    shows = ("arn", "keyId", "description")
    setters = {"description": "update_key_description"}
    computed = ("policy",)
    json_text = ("policy",)

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = super().record(aws, id, known)
        return None if record is None or record["KeyState"] == "PendingDeletion" else record

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        kms = aws.client("kms")
        policy = kms.get_key_policy(KeyId=id, PolicyName="default")["Policy"]
        return {"policy": policy, "enableKeyRotation": kms.get_key_rotation_status(KeyId=id)["KeyRotationEnabled"]}

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        super().settle(aws, id, inputs, changed)
        if "policy" in changed:
            self.call(aws, "put_key_policy", {"KeyId": id, "PolicyName": "default", "Policy": inputs["policy"]})
        if "enableKeyRotation" in changed:
            self.call(aws, "enable_key_rotation" if inputs.get("enableKeyRotation") else "disable_key_rotation", {"KeyId": id})

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.record(aws, id, known):
            super().delete(aws, id, known)

    def tags_of(self, aws: Aws, id: str, record: Props) -> dict[str, str]:
        return {tag["TagKey"]: tag["TagValue"] for tag in aws.client("kms").list_resource_tags(KeyId=id)["Tags"]}

    def tag(self, aws: Aws, id: str, tags: dict[str, str]) -> None:
        spelt = [{"TagKey": key, "TagValue": value} for key, value in tags.items()]
        aws.client("kms").tag_resource(KeyId=id, Tags=spelt)

    def untag(self, aws: Aws, id: str, keys: list[str]) -> None:
        aws.client("kms").untag_resource(KeyId=id, TagKeys=keys)


class Parameter(Api):
    token = "aws:ssm/parameter:Parameter"
    service, noun, creates = "ssm", "parameter", "put_parameter"
    naming = ("get_{}", "")
    identity = replaces = ("name",)
    sends = ("name", "type", "value", "description", "tier", "keyId")
    inputs = (*sends, "tags")
    shows = ("type", "value", "version")
    required = (("value",),)
    computed = ("keyId", "tier")
    autoname = "name"
    secret_outputs = ("value",)

    def named(self, aws: Aws, operation: str, id: str) -> Props:
        decrypted: dict[str, Any] = {"WithDecryption": True} if operation == self.reads else {}
        return super().named(aws, operation, id) | decrypted

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        only = [{"Key": "Name", "Option": "Equals", "Values": [id]}]
        about = cast(Props, aws.client("ssm").describe_parameters(ParameterFilters=only)["Parameters"][0])
        return {
            "arn": aws.arn("ssm", f"parameter/{id.lstrip('/')}"),
            "tier": about.get("Tier", "Standard"),
            "description": about.get("Description") or None,
            "keyId": about.get("KeyId") if record["Type"] == "SecureString" else None,
        }

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        if changed:
            self.call(aws, self.creates, {**self.creation(aws, inputs), "Overwrite": True})

    def tags_of(self, aws: Aws, id: str, record: Props) -> dict[str, str]:
        return tag_map(aws.client("ssm").list_tags_for_resource(ResourceType="Parameter", ResourceId=id)["TagList"])

    def tag(self, aws: Aws, id: str, tags: dict[str, str]) -> None:
        aws.client("ssm").add_tags_to_resource(ResourceType="Parameter", ResourceId=id, Tags=tag_list(tags))

    def untag(self, aws: Aws, id: str, keys: list[str]) -> None:
        aws.client("ssm").remove_tags_from_resource(ResourceType="Parameter", ResourceId=id, TagKeys=keys)


KINDS = (Role, RolePolicy, InstanceProfile, Key, Parameter)
