"""IAM roles, policies and instance profiles, and the SSM parameter store."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from .diff import Found
from .kind import ACCOUNT, Aws, CloudError, Kind, absent, arguments, tag_changes, tag_list, tag_map
from .schema import Failure
from .values import UNKNOWN, Props


def json_failure(inputs: Props, name: str) -> Iterable[Failure]:
    text = inputs.get(name)
    if isinstance(text, str):
        try:
            json.loads(text)
        except ValueError as error:
            yield Failure(name, f"is not JSON: {error}")


def same_json(live: Any, known: str | None) -> str:
    """A policy document as text: the text we know where it means the same, so that spacing is no drift."""
    document = live if isinstance(live, dict) else json.loads(live)
    if known is not None:
        try:
            if json.loads(known) == document:
                return known
        except ValueError:
            pass
    return json.dumps(document)


class Role(Kind):
    token = "aws:iam/role:Role"
    inputs = ("name", "namePrefix", "assumeRolePolicy", "description", "path", "maxSessionDuration",
              "permissionsBoundary", "forceDetachPolicies", "tags")  # fmt: skip
    kept = {"forceDetachPolicies": "an instruction to the provider, applied at deletion"}
    defaults = {"path": "/", "maxSessionDuration": 3600, "forceDetachPolicies": False}
    autoname = "name"
    name_limit = 64
    json_text = ("assumeRolePolicy",)
    changes_cloud = False

    def validate(self, inputs: Props) -> Iterable[Failure]:
        return json_failure(inputs, "assumeRolePolicy")

    def create(self, aws: Aws, inputs: Props) -> str:
        iam = aws.client("iam")
        names = ("name", "assumeRolePolicy", "description", "path", "maxSessionDuration", "permissionsBoundary")
        args = arguments(iam, "create_role", inputs, names, name="RoleName", assumeRolePolicy="AssumeRolePolicyDocument")
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
            "createDate": role["CreateDate"].isoformat(),
            "path": role["Path"],
            "description": role.get("Description") or None,
            "maxSessionDuration": role.get("MaxSessionDuration"),
            "permissionsBoundary": role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn"),
            "assumeRolePolicy": same_json(role["AssumeRolePolicyDocument"], known.get("assumeRolePolicy")),
            "tags": tag_map(role.get("Tags")),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        iam = aws.client("iam")
        if "assumeRolePolicy" in changed:
            iam.update_assume_role_policy(RoleName=id, PolicyDocument=new["assumeRolePolicy"])
        if changed & {"description", "maxSessionDuration"}:
            duration = new["maxSessionDuration"]
            iam.update_role(RoleName=id, Description=new.get("description") or "", MaxSessionDuration=duration)
        if "permissionsBoundary" in changed:
            if new.get("permissionsBoundary"):
                iam.put_role_permissions_boundary(RoleName=id, PermissionsBoundary=new["permissionsBoundary"])
            else:
                iam.delete_role_permissions_boundary(RoleName=id)
        removed, set_tags = tag_changes(old.get("tagsAll"), new.get("tagsAll"))
        if removed:
            iam.untag_role(RoleName=id, TagKeys=removed)
        if set_tags:
            iam.tag_role(RoleName=id, Tags=tag_list(set_tags))

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        iam = aws.client("iam")
        if known.get("forceDetachPolicies") and absent(lambda: iam.get_role(RoleName=id)):
            for name in iam.list_role_policies(RoleName=id)["PolicyNames"]:
                iam.delete_role_policy(RoleName=id, PolicyName=name)
            for policy in iam.list_attached_role_policies(RoleName=id)["AttachedPolicies"]:
                iam.detach_role_policy(RoleName=id, PolicyArn=policy["PolicyArn"])
        absent(lambda: iam.delete_role(RoleName=id))


class RolePolicy(Kind):
    token = "aws:iam/rolePolicy:RolePolicy"
    inputs = ("name", "namePrefix", "role", "policy")
    autoname = "name"
    name_limit = 128
    json_text = ("policy",)
    changes_cloud = False

    def validate(self, inputs: Props) -> Iterable[Failure]:
        return json_failure(inputs, "policy")

    def create(self, aws: Aws, inputs: Props) -> str:
        self._put(aws, inputs["role"], inputs["name"], inputs["policy"])
        return f"{inputs['role']}:{inputs['name']}"

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        role, _, name = id.partition(":")
        answer = absent(lambda: aws.client("iam").get_role_policy(RoleName=role, PolicyName=name))
        if answer is None:
            return None
        return {"role": role, "name": name, "policy": same_json(answer["PolicyDocument"], known.get("policy"))}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        role, _, name = id.partition(":")
        self._put(aws, role, name, new["policy"])

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        role, _, name = id.partition(":")
        absent(lambda: aws.client("iam").delete_role_policy(RoleName=role, PolicyName=name))

    def _put(self, aws: Aws, role: str, name: str, policy: Any) -> None:
        text = policy if isinstance(policy, str) else json.dumps(policy)
        aws.client("iam").put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=text)


class RolePolicyAttachment(Kind):
    token = "aws:iam/rolePolicyAttachment:RolePolicyAttachment"
    inputs = ("role", "policyArn")
    changes_cloud = False

    def create(self, aws: Aws, inputs: Props) -> str:
        aws.client("iam").attach_role_policy(RoleName=inputs["role"], PolicyArn=inputs["policyArn"])
        return f"{inputs['role']}/{inputs['policyArn']}"

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        role, _, policy = id.partition("/")
        answer = absent(lambda: aws.client("iam").list_attached_role_policies(RoleName=role))
        attached = answer["AttachedPolicies"] if answer else []
        return {"role": role, "policyArn": policy} if any(p["PolicyArn"] == policy for p in attached) else None

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        role, _, policy = id.partition("/")
        absent(lambda: aws.client("iam").detach_role_policy(RoleName=role, PolicyArn=policy))


class InstanceProfile(Kind):
    token = "aws:iam/instanceProfile:InstanceProfile"
    inputs = ("name", "namePrefix", "role", "path", "tags")
    defaults = {"path": "/"}
    autoname = "name"
    name_limit = 128
    changes_cloud = False

    def create(self, aws: Aws, inputs: Props) -> str:
        iam = aws.client("iam")
        args = arguments(iam, "create_instance_profile", inputs, ("name", "path"), name="InstanceProfileName")
        iam.create_instance_profile(**args, Tags=tag_list(inputs.get("tagsAll")))
        with self.undo_on_error(aws, inputs["name"]):
            self._set_role(aws, inputs["name"], None, inputs.get("role"))
        return str(inputs["name"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("iam").get_instance_profile(InstanceProfileName=id))
        if answer is None:
            return None
        profile = answer["InstanceProfile"]
        return {
            "name": id,
            "arn": profile["Arn"],
            "uniqueId": profile["InstanceProfileId"],
            "createDate": profile["CreateDate"].isoformat(),
            "path": profile["Path"],
            "role": profile["Roles"][0]["RoleName"] if profile["Roles"] else None,
            "tags": tag_map(profile.get("Tags")),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        iam = aws.client("iam")
        if "role" in changed:
            self._set_role(aws, id, (self.read(aws, id, {}) or {}).get("role"), new.get("role"))
        removed, set_tags = tag_changes(old.get("tagsAll"), new.get("tagsAll"))
        if removed:
            iam.untag_instance_profile(InstanceProfileName=id, TagKeys=removed)
        if set_tags:
            iam.tag_instance_profile(InstanceProfileName=id, Tags=tag_list(set_tags))

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


class Parameter(Kind):
    token = "aws:ssm/parameter:Parameter"
    inputs = ("name", "type", "value", "insecureValue", "description", "tier", "keyId", "allowedPattern", "dataType",
              "overwrite", "tags")  # fmt: skip
    kept = {"overwrite": "an instruction to the provider"}
    defaults = {"tier": "Standard", "dataType": "text"}
    autoname = "name"
    secret_outputs = ("value",)
    changes_cloud = False

    def validate(self, inputs: Props) -> Iterable[Failure]:
        if inputs.get("value") is None and inputs.get("insecureValue") is None:
            yield Failure("value", "missing: a parameter needs value or insecureValue")
        value = inputs.get("value")
        limit = 8192 if inputs.get("tier") == "Advanced" else 4096
        if isinstance(value, str) and len(value.encode()) > limit:
            yield Failure("value", f"has {len(value.encode())} bytes; this tier takes at most {limit}")
        if inputs.get("type") not in ("String", "StringList", "SecureString", None, UNKNOWN):
            yield Failure("type", f"is {inputs['type']!r}; one of String, StringList, SecureString is needed")

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        lowered = old.get("tier") == "Advanced" and new.get("tier", "Advanced") == "Standard"
        return [Found(f.path, f.change, f.replaces or (f.path == "tier" and lowered)) for f in found]

    def create(self, aws: Aws, inputs: Props) -> str:
        self._put(aws, inputs, bool(inputs.get("overwrite")))
        if inputs.get("tagsAll"):
            with self.undo_on_error(aws, inputs["name"]):
                self._tag(aws, inputs["name"], {}, inputs["tagsAll"])
        return str(inputs["name"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        ssm = aws.client("ssm")
        answer = absent_parameter(aws, id)
        if answer is None:
            return None
        about = ssm.describe_parameters(ParameterFilters=[{"Key": "Name", "Option": "Equals", "Values": [id]}])
        record = cast(Props, about["Parameters"][0])
        insecure = known.get("insecureValue") is not None
        return {
            "name": id,
            "arn": aws.arn("ssm", f"parameter/{id.lstrip('/')}"),
            "type": answer["Type"],
            "value": answer["Value"],
            "insecureValue": answer["Value"] if insecure else None,
            "version": answer["Version"],
            "dataType": answer.get("DataType", "text"),
            "tier": record.get("Tier", "Standard"),
            "description": record.get("Description") or None,
            "keyId": record.get("KeyId") if answer["Type"] == "SecureString" else None,
            "allowedPattern": record.get("AllowedPattern") or None,
            "tags": tag_map(ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=id)["TagList"]),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        if changed - {"tags", "tagsAll", "overwrite"}:
            self._put(aws, new, True)
        self._tag(aws, id, old.get("tagsAll") or {}, new.get("tagsAll") or {})

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if absent_parameter(aws, id):
            aws.client("ssm").delete_parameter(Name=id)

    def _put(self, aws: Aws, inputs: Props, overwrite: bool) -> None:
        ssm = aws.client("ssm")
        self._check_key(aws, inputs.get("keyId"))
        names = ("name", "type", "description", "tier", "keyId", "allowedPattern", "dataType")
        value = inputs["value"] if inputs.get("value") is not None else inputs["insecureValue"]
        ssm.put_parameter(**arguments(ssm, "put_parameter", inputs, names), Value=value, Overwrite=overwrite)

    def _check_key(self, aws: Aws, key: str | None) -> None:
        """Refuses a key that cannot encrypt; moto takes any text for one."""
        if key is None or key.startswith("alias/aws/"):
            return
        about = absent(lambda: aws.client("kms").describe_key(KeyId=key))
        if about is None:
            raise CloudError(f"InvalidKeyId: {key} is no KMS key of this account and region")
        if about["KeyMetadata"]["KeyState"] != "Enabled":
            raise CloudError(f"InvalidKeyId: {about['KeyMetadata']['Arn']} is {about['KeyMetadata']['KeyState']}")

    def _tag(self, aws: Aws, id: str, old: Props, new: Props) -> None:
        ssm = aws.client("ssm")
        removed, set_tags = tag_changes(old, new)
        if removed:
            ssm.remove_tags_from_resource(ResourceType="Parameter", ResourceId=id, TagKeys=removed)
        if set_tags:
            ssm.add_tags_to_resource(ResourceType="Parameter", ResourceId=id, Tags=tag_list(set_tags))


def absent_parameter(aws: Aws, name: str) -> Props | None:
    """A decrypted SSM parameter, or None where there is none."""
    answer = aws.client("ssm").get_parameters(Names=[name], WithDecryption=True)
    return answer["Parameters"][0] if answer["Parameters"] else None


def caller(aws: Aws) -> Props:
    """Who we are to AWS, as getCallerIdentity answers."""
    answer = aws.client("sts").get_caller_identity()
    return {"accountId": ACCOUNT, "arn": answer["Arn"], "userId": answer["UserId"], "id": ACCOUNT}


KINDS = (Role, RolePolicy, RolePolicyAttachment, InstanceProfile, Parameter)
