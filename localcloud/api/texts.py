"""Which texts AWS takes, field by field: characters, lengths, numbers of tags. moto takes them all."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

Params = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """What AWS takes in a field.

    allowed: whether it takes a character. shown: the same for people. longest, shortest: characters, both taken; white
    space does not count with `dense`. whole: a pattern for the whole text beside that. code: AWS's error code.
    source: where AWS says so.
    """

    allowed: Callable[[str], bool]
    shown: str
    longest: int
    code: str
    source: str
    shortest: int = 0
    whole: str = ""
    dense: bool = False


def _of(characters: str) -> Callable[[str], bool]:
    return re.compile(f"[{characters}]").fullmatch  # pyright: ignore[reportReturnType]  # a match is as good as true


def _everything(character: str) -> bool:
    del character
    return True


def _tag_character(character: str) -> bool:
    # \p{L}, \p{Z} and \p{N}, which Python's re does not have.
    return unicodedata.category(character)[0] in "LZN" or character in "_.:/=+-@"


_TAG_SHOWN = "letters, digits, spaces and _.:/=+-@"
_EC2_SHOWN = "a-z, A-Z, 0-9, spaces and ._-:/()#,@[]+=&;{}!$*"
_EC2_DESCRIPTION = Text(
    _of(r"a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*"),
    _EC2_SHOWN,
    255,
    "InvalidParameterValue",
    "EC2 API, CreateSecurityGroup and IpRange",
)
_IAM_NAME = _of(r"A-Za-z0-9_+=,.@\-")
_IAM_NAME_SHOWN = "letters, digits and _+=,.@-"
_LATIN = _of(r"\t\n\r\u0020-\u00ff")
_LATIN_SHOWN = "the characters of Latin-1"
_BALANCER_NAME = Text(
    _of(r"A-Za-z0-9\-"),
    "letters, digits and hyphens, no hyphen at either end",
    32,
    "ValidationError",
    "ELB API, CreateLoadBalancer and CreateTargetGroup",
    shortest=1,
    whole=r"(?!internal-)[^-]|(?!internal-)[^-].*[^-]",
)
_BUCKET = Text(
    _of(r"a-z0-9.\-"),
    "lower-case letters, digits, hyphens and dots, neither of these at an end",
    63,
    "InvalidBucketName",
    "S3 user guide, bucket naming rules",
    shortest=3,
    whole=r"(?!xn--|sthree-|amzn-s3-demo-)(?!.*\.\.)(?!\d+(\.\d+){3}$)[^-.].*[^-.](?<!-s3alias)(?<!--ol-s3)",
)

_GROUP_NAME = Text(
    _EC2_DESCRIPTION.allowed, _EC2_SHOWN, 255, "InvalidParameterValue", "EC2 API, CreateSecurityGroup", 1, whole=r"(?!sg-).*"
)
_EC2_DESCRIPTIONS = {"Description": _EC2_DESCRIPTION}

# By the call and the name of the parameter, at any depth.
TEXTS: dict[str, dict[str, Text]] = {
    "ec2:CreateSecurityGroup": {"GroupName": _GROUP_NAME, **_EC2_DESCRIPTIONS},
    "ec2:AuthorizeSecurityGroupIngress": _EC2_DESCRIPTIONS,
    "ec2:AuthorizeSecurityGroupEgress": _EC2_DESCRIPTIONS,
    "ec2:ModifySecurityGroupRules": _EC2_DESCRIPTIONS,
    # For these two no set is documented: the one of EC2's other descriptions.
    "ec2:CreateNetworkInterface": _EC2_DESCRIPTIONS,
    "ec2:CreateSubnetCidrReservation": _EC2_DESCRIPTIONS,
    "ec2:ImportKeyPair": {
        "KeyName": Text(_of(r"\u0020-\u007e"), "ASCII", 255, "InvalidParameterValue", "EC2 API, ImportKeyPair", 1),
    },
    "iam:CreateRole": {
        "RoleName": Text(_IAM_NAME, _IAM_NAME_SHOWN, 64, "ValidationError", "IAM API, CreateRole", 1),
        "Description": Text(
            _of(r"\t\n\r\u0020-\u007e\u00a1-\u00ff"), _LATIN_SHOWN, 1000, "ValidationError", "IAM API, CreateRole"
        ),
        "AssumeRolePolicyDocument": Text(
            _LATIN, _LATIN_SHOWN, 2048, "LimitExceeded", "IAM quotas, role trust policy", 1, dense=True
        ),
    },
    "iam:PutRolePolicy": {
        "PolicyName": Text(_IAM_NAME, _IAM_NAME_SHOWN, 128, "ValidationError", "IAM API, PutRolePolicy", 1),
        "PolicyDocument": Text(
            _LATIN, _LATIN_SHOWN, 10240, "LimitExceeded", "IAM quotas, inline policies of a role", 1, dense=True
        ),
    },
    "iam:CreateInstanceProfile": {
        "InstanceProfileName": Text(_IAM_NAME, _IAM_NAME_SHOWN, 128, "ValidationError", "IAM API, CreateInstanceProfile", 1),
    },
    "ssm:PutParameter": {
        "Name": Text(
            _of(r"A-Za-z0-9_.\-/"),
            "letters, digits and _.-/, not beginning with aws or ssm, at most 15 levels",
            1011,
            "ValidationException",
            "SSM API, PutParameter",
            1,
            whole=r"(?i)(?!/?(aws|ssm))(/?[^/]+){1,15}",
        ),
        "Description": Text(_everything, "any character", 1024, "ValidationException", "SSM API, PutParameter"),
    },
    "kms:CreateKey": {
        "Description": Text(_everything, "any character", 8192, "ValidationException", "KMS API, CreateKey"),
        "Policy": Text(_LATIN, _LATIN_SHOWN, 32768, "LimitExceededException", "KMS quotas, key policy document size", 1),
    },
    "s3:CreateBucket": {"Bucket": _BUCKET},
    "s3:PutBucketPolicy": {
        "Policy": Text(_LATIN, _LATIN_SHOWN, 20480, "MalformedPolicy", "S3 user guide, bucket policies", 1),
    },
    "s3:PutObject": {
        "Key": Text(_everything, "any character", 1024, "KeyTooLongError", "S3 user guide, object key names", 1),
    },
    "logs:CreateLogGroup": {
        "logGroupName": Text(
            _of(r"A-Za-z0-9._\-/#"),
            "letters, digits and ._-/#",
            512,
            "InvalidParameterException",
            "Logs API, CreateLogGroup",
            1,
        ),
    },
    "elbv2:CreateLoadBalancer": {"Name": _BALANCER_NAME},
    "elbv2:CreateTargetGroup": {
        "Name": _BALANCER_NAME,
        "HealthCheckPath": Text(
            _of(r"\u0021-\u007e"), "a path", 1024, "ValidationError", "ELB API, CreateTargetGroup", 1, whole=r"/.*"
        ),
    },
}


@dataclass(frozen=True)
class TagRule:
    """What a service takes in its tags. limit_code: AWS's error code for more than 50 of them."""

    key: Text
    value: Text
    limit_code: str


MOST_TAGS = 50


def _strict(code: str, limit_code: str, source: str) -> TagRule:
    key = Text(_tag_character, _TAG_SHOWN, 128, code, source, 1, whole=r"(?i)(?!aws:).*")
    return TagRule(key, Text(_tag_character, _TAG_SHOWN, 256, code, source), limit_code)


_EC2_TAGS = TagRule(
    Text(
        _everything,
        "any character",
        128,
        "InvalidParameterValue",
        "EC2 user guide, tag restrictions",
        1,
        whole=r"(?is)(?!aws:).*",
    ),
    Text(_everything, "any character", 256, "InvalidParameterValue", "EC2 API, Tag"),
    "TagLimitExceeded",
)
TAGS: dict[str, TagRule] = {
    "ec2": _EC2_TAGS,
    "iam": _strict("ValidationError", "LimitExceeded", "IAM API, Tag"),
    "ssm": _strict("ValidationException", "TooManyTagsError", "SSM API, Tag"),
    "s3": _strict("InvalidTag", "BadRequest", "S3 API, PutBucketTagging"),
    "kms": _strict("TagException", "LimitExceededException", "KMS developer guide, tag restrictions"),
    "logs": _strict("InvalidParameterException", "InvalidParameterException", "Logs API, CreateLogGroup"),
    "elbv2": _strict("ValidationError", "TooManyTags", "ELB API, Tag"),
}


def problem(text: str, rule: Text) -> str | None:
    """What AWS would refuse in a text, or None. The message holds nothing of it but the characters that are wrong."""
    length = len("".join(text.split())) if rule.dense else len(text)
    wrong = "".join(dict.fromkeys(character for character in text if not rule.allowed(character)))
    if wrong:
        what = f"has {wrong!r}"
    elif not rule.shortest <= length <= rule.longest:
        what = f"has {length} characters"
    elif rule.whole and not re.fullmatch(rule.whole, text):
        what = "is malformed"
    else:
        return None
    return f"{what}; AWS takes {rule.shortest} to {rule.longest} characters here, {rule.shown} ({rule.source})"


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
