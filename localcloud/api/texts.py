"""Which texts AWS takes, field by field: characters, lengths, numbers of tags. moto takes them all."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

Params = dict[str, Any]


@dataclass(frozen=True)
class Characters:
    """Those that a field takes: which, and the same for people."""

    allowed: Callable[[str], bool]
    shown: str


@dataclass(frozen=True)
class Text:
    """What AWS takes in a field.

    longest, shortest: characters, both taken; white space does not count with `dense`. whole: a pattern for the whole text
    beside its characters. code: AWS's error code. source: where AWS says so.
    """

    characters: Characters
    longest: int
    code: str
    source: str
    shortest: int = 0
    whole: str = ""
    dense: bool = False


@dataclass(frozen=True)
class TagRule:
    """What a service takes in its tags. limit_code: AWS's error code for more than 50 of them."""

    key: Text
    value: Text
    limit_code: str


def _of(characters: str, shown: str) -> Characters:
    return Characters(lambda character: bool(re.fullmatch(f"[{characters}]", character)), shown)


def _of_tag(character: str) -> bool:
    # \p{L}, \p{Z} and \p{N}, which Python's re does not have.
    return unicodedata.category(character)[0] in "LZN" or character in "_.:/=+-@"


_ANY = Characters(lambda _: True, "any character")
_ASCII = _of(r"\u0020-\u007e", "ASCII")
_LATIN = _of(r"\t\n\r\u0020-\u00ff", "the characters of Latin-1")
_PRINTED_LATIN = _of(r"\t\n\r\u0020-\u007e\u00a1-\u00ff", "the characters of Latin-1")
_EC2 = _of(r"a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*", "a-z, A-Z, 0-9, spaces and ._-:/()#,@[]+=&;{}!$*")
_IAM = _of(r"A-Za-z0-9_+=,.@\-", "letters, digits and _+=,.@-")
_LOGS = _of(r"A-Za-z0-9._\-/#", "letters, digits and ._-/#")
_SSM = _of(r"A-Za-z0-9_.\-/", "letters, digits and _.-/, not beginning with aws or ssm, at most 15 levels")
_S3 = _of(r"a-z0-9.\-", "lower-case letters, digits, hyphens and dots, neither of these at an end")
_ELB = _of(r"A-Za-z0-9\-", "letters, digits and hyphens, no hyphen at either end")
_PATH = _of(r"\u0021-\u007e", "a path")
_TAG = Characters(_of_tag, "letters, digits, spaces and _.:/=+-@")

# Patterns for whole texts.
_NOT_AWS = r"(?is)(?!aws:).*"
_BUCKET = r"(?!xn--|sthree-|amzn-s3-demo-)(?!.*\.\.)(?!\d+(\.\d+){3}$)[^-.].*[^-.](?<!-s3alias)(?<!--ol-s3)"
_BALANCER = r"(?!internal-)[^-]|(?!internal-)[^-].*[^-]"
_PARAMETER = r"(?i)(?!/?(aws|ssm))(/?[^/]+){1,15}"

_EC2_TEXT = {"Description": Text(_EC2, 255, "InvalidParameterValue", "EC2 API, CreateSecurityGroup and IpRange")}
_ELB_NAME = Text(_ELB, 32, "ValidationError", "ELB API, CreateLoadBalancer and CreateTargetGroup", 1, _BALANCER)

# By the call and the name of the parameter, at any depth.
TEXTS: dict[str, dict[str, Text]] = {
    "ec2:CreateSecurityGroup": {
        "GroupName": Text(_EC2, 255, "InvalidParameterValue", "EC2 API, CreateSecurityGroup", 1, r"(?!sg-).*"),
        **_EC2_TEXT,
    },
    "ec2:AuthorizeSecurityGroupIngress": _EC2_TEXT,
    "ec2:AuthorizeSecurityGroupEgress": _EC2_TEXT,
    "ec2:ModifySecurityGroupRules": _EC2_TEXT,
    # For these two no set is documented: the one of EC2's other descriptions.
    "ec2:CreateNetworkInterface": _EC2_TEXT,
    "ec2:CreateSubnetCidrReservation": _EC2_TEXT,
    "ec2:ImportKeyPair": {"KeyName": Text(_ASCII, 255, "InvalidParameterValue", "EC2 API, ImportKeyPair", 1)},
    "iam:CreateRole": {
        "RoleName": Text(_IAM, 64, "ValidationError", "IAM API, CreateRole", 1),
        "Description": Text(_PRINTED_LATIN, 1000, "ValidationError", "IAM API, CreateRole"),
        "AssumeRolePolicyDocument": Text(_LATIN, 2048, "LimitExceeded", "IAM quotas, role trust policy", 1, dense=True),
    },
    "iam:PutRolePolicy": {
        "PolicyName": Text(_IAM, 128, "ValidationError", "IAM API, PutRolePolicy", 1),
        "PolicyDocument": Text(_LATIN, 10240, "LimitExceeded", "IAM quotas, inline policies of a role", 1, dense=True),
    },
    "iam:CreateInstanceProfile": {
        "InstanceProfileName": Text(_IAM, 128, "ValidationError", "IAM API, CreateInstanceProfile", 1)
    },
    "ssm:PutParameter": {
        "Name": Text(_SSM, 1011, "ValidationException", "SSM API, PutParameter", 1, _PARAMETER),
        "Description": Text(_ANY, 1024, "ValidationException", "SSM API, PutParameter"),
    },
    "kms:CreateKey": {
        "Description": Text(_ANY, 8192, "ValidationException", "KMS API, CreateKey"),
        "Policy": Text(_LATIN, 32768, "LimitExceededException", "KMS quotas, key policy document size", 1),
    },
    "s3:CreateBucket": {"Bucket": Text(_S3, 63, "InvalidBucketName", "S3 user guide, bucket naming rules", 3, _BUCKET)},
    "s3:PutBucketPolicy": {"Policy": Text(_LATIN, 20480, "MalformedPolicy", "S3 user guide, bucket policies", 1)},
    "s3:PutObject": {"Key": Text(_ANY, 1024, "KeyTooLongError", "S3 user guide, object key names", 1)},
    "logs:CreateLogGroup": {"logGroupName": Text(_LOGS, 512, "InvalidParameterException", "Logs API, CreateLogGroup", 1)},
    "elbv2:CreateLoadBalancer": {"Name": _ELB_NAME},
    "elbv2:CreateTargetGroup": {
        "Name": _ELB_NAME,
        "HealthCheckPath": Text(_PATH, 1024, "ValidationError", "ELB API, CreateTargetGroup", 1, r"/.*"),
    },
}

MOST_TAGS = 50


def _tagged(characters: Characters, code: str, limit_code: str, source: str) -> TagRule:
    key = Text(characters, 128, code, source, 1, _NOT_AWS)
    return TagRule(key, Text(characters, 256, code, source), limit_code)


TAGS: dict[str, TagRule] = {
    "ec2": _tagged(_ANY, "InvalidParameterValue", "TagLimitExceeded", "EC2 user guide, tag restrictions"),
    "iam": _tagged(_TAG, "ValidationError", "LimitExceeded", "IAM API, Tag"),
    "ssm": _tagged(_TAG, "ValidationException", "TooManyTagsError", "SSM API, Tag"),
    "s3": _tagged(_TAG, "InvalidTag", "BadRequest", "S3 API, PutBucketTagging"),
    "kms": _tagged(_TAG, "TagException", "LimitExceededException", "KMS developer guide, tag restrictions"),
    "logs": _tagged(_TAG, "InvalidParameterException", "InvalidParameterException", "Logs API, CreateLogGroup"),
    "elbv2": _tagged(_TAG, "ValidationError", "TooManyTags", "ELB API, Tag"),
}


def problem(text: str, rule: Text) -> str | None:
    """What AWS would refuse in a text, or None. The message holds nothing of it but the characters that are wrong."""
    length = len("".join(text.split())) if rule.dense else len(text)
    wrong = "".join(dict.fromkeys(character for character in text if not rule.characters.allowed(character)))
    if wrong:
        what = f"has {wrong!r}"
    elif not rule.shortest <= length <= rule.longest:
        what = f"has {length} characters"
    elif rule.whole and not re.fullmatch(rule.whole, text):
        what = "is malformed"
    else:
        return None
    return f"{what}; AWS takes {rule.shortest} to {rule.longest} characters here, {rule.characters.shown} ({rule.source})"


def refused(service: str, operation: str, params: Params) -> Iterator[tuple[str, str]]:
    """Every text in a call's parameters that AWS would refuse: its error code, and the parameter with what is wrong."""
    return _walk(params, "", TEXTS.get(f"{service}:{operation}", {}), TAGS.get(service))


def _walk(value: Any, path: str, texts: dict[str, Text], tags: TagRule | None) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for index, item in enumerate(cast(list[Any], value)):
            yield from _walk(item, f"{path}[{index}]", texts, tags)
    elif isinstance(value, dict):
        for name, item in cast(Params, value).items():
            where = f"{path}.{name}" if path else name
            if name in ("Tags", "tags") and item and tags:
                yield from _tags(item, where, tags)
            elif name in texts and isinstance(item, str):
                if found := problem(item, texts[name]):
                    yield texts[name].code, f"{where} {found}"
            else:
                yield from _walk(item, where, texts, tags)


def _tags(given: Any, path: str, rule: TagRule) -> Iterator[tuple[str, str]]:
    """given: a map, or a list of pairs that each service spells in its own way."""
    tags: dict[str, str] = (
        given
        if isinstance(given, dict)
        else {str(t.get("Key", t.get("TagKey"))): t.get("Value", t.get("TagValue")) for t in given}
    )
    if len(tags) > MOST_TAGS:
        yield rule.limit_code, f"{path}: {len(tags)} tags; AWS takes {MOST_TAGS} on a resource"
    for key, value in tags.items():
        if found := problem(key, rule.key):
            yield rule.key.code, f"{path}: the key {key} {found}"
        if found := problem(str(value or ""), rule.value):
            yield rule.value.code, f"{path}: {key} {found}"
