"""KMS keys."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: RUF012
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .identity import json_failure, same_json
from .kind import Aws, Kind, absent, arguments, tag_changes
from .schema import Failure
from .values import UNKNOWN, Props


class Key(Kind):
    token = "aws:kms/key:Key"
    inputs = ("description", "policy", "enableKeyRotation", "deletionWindowInDays", "tags")
    kept = {"deletionWindowInDays": "an instruction to the provider, applied at deletion"}
    defaults = {"enableKeyRotation": False, "deletionWindowInDays": 30}
    json_text = ("policy",)
    changes_cloud = False

    def validate(self, inputs: Props) -> Iterable[Failure]:
        yield from json_failure(inputs, "policy")
        days = inputs.get("deletionWindowInDays", 30)
        if days is not UNKNOWN and not 7 <= days <= 30:
            yield Failure("deletionWindowInDays", f"ValidationException: is {days}; AWS takes 7 to 30")

    def create(self, aws: Aws, inputs: Props) -> str:
        kms = aws.client("kms")
        args = arguments(kms, "create_key", inputs, ("description", "policy"))
        id = str(kms.create_key(**args, Tags=_tag_list(inputs.get("tagsAll")))["KeyMetadata"]["KeyId"])
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
            "policy": same_json(kms.get_key_policy(KeyId=id, PolicyName="default")["Policy"], known.get("policy")),
            "enableKeyRotation": kms.get_key_rotation_status(KeyId=id)["KeyRotationEnabled"],
            "deletionWindowInDays": known.get("deletionWindowInDays"),
            "isEnabled": about["Enabled"],
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
        removed, set_tags = tag_changes(old.get("tagsAll"), new.get("tagsAll"))
        if removed:
            kms.untag_resource(KeyId=id, TagKeys=removed)
        if set_tags:
            kms.tag_resource(KeyId=id, Tags=_tag_list(set_tags))

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.read(aws, id, known):
            days = known.get("deletionWindowInDays") or 30
            aws.client("kms").schedule_key_deletion(KeyId=id, PendingWindowInDays=days)

    def _rotate(self, aws: Aws, id: str, inputs: Props) -> None:
        kms = aws.client("kms")
        (kms.enable_key_rotation if inputs["enableKeyRotation"] else kms.disable_key_rotation)(KeyId=id)


def _tag_list(tags: Props | None) -> list[dict[str, Any]]:
    return [{"TagKey": key, "TagValue": value} for key, value in (tags or {}).items()]


KINDS = (Key,)
