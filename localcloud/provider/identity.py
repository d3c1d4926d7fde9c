"""IAM roles, their policies and instance profiles, KMS keys, and the SSM parameter store."""

# One interface for all types: not every argument is of use to each.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

import json
from typing import Any, cast

from .diff import Found
from .kind import Aws, Kind, absent, arguments, change_tags, tag_list, tag_map
from .values import Props


def text_of(document: Any) -> str:
    """A policy as text; the spelling of an equal one that we know is kept by the caller."""
    return document if isinstance(document, str) else json.dumps(document)


class Role(Kind):
    token = "aws:iam/role:Role"
    inputs = ("name", "assumeRolePolicy", "description", "tags")
    replaces = ("name",)
    autoname = "name"
    name_limit = 64
    json_text = ("assumeRolePolicy",)

    def create(self, aws: Aws, inputs: Props) -> str:
        iam = aws.client("iam")
        args = {"RoleName": inputs["name"], "AssumeRolePolicyDocument": inputs["assumeRolePolicy"]}
        args |= {"Description": inputs["description"]} if inputs.get("description") else {}
        iam.create_role(**args, Tags=tag_list(inputs.get("tagsAll")))
        return str(inputs["name"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("iam").get_role(RoleName=id))
        if answer is None:
            return None
        role = answer["Role"]
        return {
            "name": id,
            "arn": role["Arn"],
            "uniqueId": role["RoleId"],
            "description": role.get("Description") or None,
            "assumeRolePolicy": text_of(role["AssumeRolePolicyDocument"]),
            "tags": tag_map(role.get("Tags")),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        iam = aws.client("iam")
        if "assumeRolePolicy" in changed:
            iam.update_assume_role_policy(RoleName=id, PolicyDocument=new["assumeRolePolicy"])
        if "description" in changed:
            iam.update_role(RoleName=id, Description=new.get("description") or "")
        _tag(iam.tag_role, iam.untag_role, old, new, RoleName=id)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("iam").delete_role(RoleName=id))


def _tag(tag: Any, untag: Any, old: Props, new: Props, **named: str) -> None:
    """Brings tags to the new ones by a service's two calls, in IAM's form. named: what they are on."""
    change_tags(old, new, lambda tags: tag(**named, Tags=tag_list(tags)), lambda keys: untag(**named, TagKeys=keys))


class RolePolicy(Kind):
    token = "aws:iam/rolePolicy:RolePolicy"
    inputs = ("name", "role", "policy")
    replaces = ("name", "role")
    autoname = "name"
    name_limit = 128
    json_text = ("policy",)

    def create(self, aws: Aws, inputs: Props) -> str:
        id = f"{inputs['role']}:{inputs['name']}"
        self.update(aws, id, {}, inputs, {"policy"})
        return id

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        role, _, name = id.partition(":")
        answer = absent(lambda: aws.client("iam").get_role_policy(RoleName=role, PolicyName=name))
        return answer and {"role": role, "name": name, "policy": text_of(answer["PolicyDocument"])}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        role, _, name = id.partition(":")
        aws.client("iam").put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=text_of(new["policy"]))

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        role, _, name = id.partition(":")
        absent(lambda: aws.client("iam").delete_role_policy(RoleName=role, PolicyName=name))


class InstanceProfile(Kind):
    token = "aws:iam/instanceProfile:InstanceProfile"
    inputs = ("name", "role", "tags")
    replaces = ("name",)
    autoname = "name"
    name_limit = 128

    def create(self, aws: Aws, inputs: Props) -> str:
        name = str(inputs["name"])
        aws.client("iam").create_instance_profile(InstanceProfileName=name, Tags=tag_list(inputs.get("tagsAll")))
        with self.undo_on_error(aws, name):
            self._set_role(aws, name, None, inputs.get("role"))
        return name

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("iam").get_instance_profile(InstanceProfileName=id))
        if answer is None:
            return None
        profile = answer["InstanceProfile"]
        return {
            "name": id,
            "arn": profile["Arn"],
            "uniqueId": profile["InstanceProfileId"],
            "role": profile["Roles"][0]["RoleName"] if profile["Roles"] else None,
            "tags": tag_map(profile.get("Tags")),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        iam = aws.client("iam")
        if "role" in changed:
            self._set_role(aws, id, (self.read(aws, id, {}) or {}).get("role"), new.get("role"))
        _tag(iam.tag_instance_profile, iam.untag_instance_profile, old, new, InstanceProfileName=id)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        live = self.read(aws, id, {})
        if live:
            self._set_role(aws, id, live["role"], None)
            aws.client("iam").delete_instance_profile(InstanceProfileName=id)

    def _set_role(self, aws: Aws, id: str, old: str | None, new: str | None) -> None:
        iam = aws.client("iam")
        if old:
            iam.remove_role_from_instance_profile(InstanceProfileName=id, RoleName=old)
        if new:
            iam.add_role_to_instance_profile(InstanceProfileName=id, RoleName=new)


class Key(Kind):
    token = "aws:kms/key:Key"
    inputs = ("description", "policy", "enableKeyRotation", "tags")
    defaults = {"enableKeyRotation": False}
    computed = ("policy",)
    json_text = ("policy",)

    def create(self, aws: Aws, inputs: Props) -> str:
        kms = aws.client("kms")
        args = arguments(kms, "create_key", inputs, ("description", "policy"))
        id = str(kms.create_key(**args, Tags=_key_tags(inputs.get("tagsAll")))["KeyMetadata"]["KeyId"])
        with self.undo_on_error(aws, id):
            self._rotate(aws, id, inputs)
        return id

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        kms = aws.client("kms")
        answer = absent(lambda: kms.describe_key(KeyId=id))
        if answer is None or answer["KeyMetadata"]["KeyState"] == "PendingDeletion":
            return None
        about = answer["KeyMetadata"]
        return {
            "arn": about["Arn"],
            "keyId": about["KeyId"],
            "description": about.get("Description") or None,
            "policy": kms.get_key_policy(KeyId=id, PolicyName="default")["Policy"],
            "enableKeyRotation": kms.get_key_rotation_status(KeyId=id)["KeyRotationEnabled"],
            "tags": {tag["TagKey"]: tag["TagValue"] for tag in kms.list_resource_tags(KeyId=id)["Tags"]},
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        kms = aws.client("kms")
        if "policy" in changed and new.get("policy"):
            kms.put_key_policy(KeyId=id, PolicyName="default", Policy=new["policy"])
        if "description" in changed:
            kms.update_key_description(KeyId=id, Description=new.get("description") or "")
        if "enableKeyRotation" in changed:
            self._rotate(aws, id, new)
        change_tags(
            old,
            new,
            lambda tags: kms.tag_resource(KeyId=id, Tags=_key_tags(tags)),
            lambda keys: kms.untag_resource(KeyId=id, TagKeys=keys),
        )

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.read(aws, id, known):
            aws.client("kms").schedule_key_deletion(KeyId=id)

    def _rotate(self, aws: Aws, id: str, inputs: Props) -> None:
        kms = aws.client("kms")
        (kms.enable_key_rotation if inputs["enableKeyRotation"] else kms.disable_key_rotation)(KeyId=id)


def _key_tags(tags: Props | None) -> list[dict[str, Any]]:
    return [{"TagKey": key, "TagValue": value} for key, value in (tags or {}).items()]


class Parameter(Kind):
    token = "aws:ssm/parameter:Parameter"
    inputs = ("name", "type", "value", "insecureValue", "description", "tier", "keyId", "tags")
    required = (("value", "insecureValue"),)
    replaces, computed = ("name",), ("keyId", "tier")
    defaults = {"tier": "Standard"}
    autoname = "name"
    secret_outputs = ("value",)

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        lowered = old.get("tier") == "Advanced" and new.get("tier", "Advanced") == "Standard"
        return [Found(f.path, f.change, f.replaces or (f.path == "tier" and lowered)) for f in found]

    def create(self, aws: Aws, inputs: Props) -> str:
        self._put(aws, inputs, overwrite=False)
        with self.undo_on_error(aws, inputs["name"]):
            self._tag(aws, inputs["name"], {}, inputs)
        return str(inputs["name"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        ssm = aws.client("ssm")
        found = ssm.get_parameters(Names=[id], WithDecryption=True)["Parameters"]
        if not found:
            return None
        about = ssm.describe_parameters(ParameterFilters=[{"Key": "Name", "Option": "Equals", "Values": [id]}])
        record, value = cast(Props, about["Parameters"][0]), found[0]["Value"]
        return {
            "name": id,
            "arn": aws.arn("ssm", f"parameter/{id.lstrip('/')}"),
            "type": found[0]["Type"],
            "value": value,
            "insecureValue": value if known.get("insecureValue") is not None else None,
            "version": found[0]["Version"],
            "tier": record.get("Tier", "Standard"),
            "description": record.get("Description") or None,
            "keyId": record.get("KeyId") if found[0]["Type"] == "SecureString" else None,
            "tags": tag_map(ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=id)["TagList"]),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        if changed - {"tags", "tagsAll"}:
            self._put(aws, new, overwrite=True)
        self._tag(aws, id, old, new)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("ssm").delete_parameter(Name=id))

    def _put(self, aws: Aws, inputs: Props, *, overwrite: bool) -> None:
        ssm = aws.client("ssm")
        value = inputs["value"] if inputs.get("value") is not None else inputs["insecureValue"]
        args = arguments(ssm, "put_parameter", inputs, ("name", "type", "description", "tier", "keyId"))
        ssm.put_parameter(**args, Value=value, Overwrite=overwrite)

    def _tag(self, aws: Aws, id: str, old: Props, new: Props) -> None:
        ssm = aws.client("ssm")
        _tag(ssm.add_tags_to_resource, ssm.remove_tags_from_resource, old, new, ResourceType="Parameter", ResourceId=id)


KINDS = (Role, RolePolicy, InstanceProfile, Key, Parameter)
