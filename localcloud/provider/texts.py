"""Which texts AWS takes, field by field: characters, lengths, numbers of tags. moto takes them all."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from .schema import Failure
from .values import UNKNOWN, Props


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

# By the type and the name of the property, at any depth of its inputs.
TEXTS: dict[str, dict[str, Text]] = {
    "aws:ec2/securityGroup:SecurityGroup": {
        "name": Text(
            _EC2_DESCRIPTION.allowed,
            _EC2_SHOWN,
            255,
            "InvalidParameterValue",
            "EC2 API, CreateSecurityGroup",
            1,
            whole=r"(?!sg-).*",
        ),
        "description": _EC2_DESCRIPTION,
    },
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": {"description": _EC2_DESCRIPTION},
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": {"description": _EC2_DESCRIPTION},
    # For these two no set is documented: the one of EC2's other descriptions.
    "aws:ec2/networkInterface:NetworkInterface": {"description": _EC2_DESCRIPTION},
    "aws:ec2/subnetCidrReservation:SubnetCidrReservation": {"description": _EC2_DESCRIPTION},
    "aws:ec2/keyPair:KeyPair": {
        "keyName": Text(_of(r"\u0020-\u007e"), "ASCII", 255, "InvalidParameterValue", "EC2 API, ImportKeyPair", 1),
    },
    "aws:iam/role:Role": {
        "name": Text(_IAM_NAME, _IAM_NAME_SHOWN, 64, "ValidationError", "IAM API, CreateRole", 1),
        "description": Text(
            _of(r"\t\n\r\u0020-\u007e\u00a1-\u00ff"), _LATIN_SHOWN, 1000, "ValidationError", "IAM API, CreateRole"
        ),
        "assumeRolePolicy": Text(_LATIN, _LATIN_SHOWN, 2048, "LimitExceeded", "IAM quotas, role trust policy", 1, dense=True),
    },
    "aws:iam/rolePolicy:RolePolicy": {
        "name": Text(_IAM_NAME, _IAM_NAME_SHOWN, 128, "ValidationError", "IAM API, PutRolePolicy", 1),
        "policy": Text(_LATIN, _LATIN_SHOWN, 10240, "LimitExceeded", "IAM quotas, inline policies of a role", 1, dense=True),
    },
    "aws:iam/instanceProfile:InstanceProfile": {
        "name": Text(_IAM_NAME, _IAM_NAME_SHOWN, 128, "ValidationError", "IAM API, CreateInstanceProfile", 1),
    },
    "aws:ssm/parameter:Parameter": {
        "name": Text(
            _of(r"A-Za-z0-9_.\-/"),
            "letters, digits and _.-/, not beginning with aws or ssm, at most 15 levels",
            1011,
            "ValidationException",
            "SSM API, PutParameter",
            1,
            whole=r"(?i)(?!/?(aws|ssm))(/?[^/]+){1,15}",
        ),
        "description": Text(_everything, "any character", 1024, "ValidationException", "SSM API, PutParameter"),
    },
    "aws:kms/key:Key": {
        "description": Text(_everything, "any character", 8192, "ValidationException", "KMS API, CreateKey"),
        "policy": Text(_LATIN, _LATIN_SHOWN, 32768, "LimitExceededException", "KMS quotas, key policy document size", 1),
    },
    "aws:cloudwatch/logGroup:LogGroup": {
        "name": Text(
            _of(r"A-Za-z0-9._\-/#"),
            "letters, digits and ._-/#",
            512,
            "InvalidParameterException",
            "Logs API, CreateLogGroup",
            1,
        ),
    },
    "aws:lb/loadBalancer:LoadBalancer": {"name": _BALANCER_NAME},
    "aws:lb/targetGroup:TargetGroup": {
        "name": _BALANCER_NAME,
        "path": Text(_of(r"\u0021-\u007e"), "a path", 1024, "ValidationError", "ELB API, CreateTargetGroup", 1, whole=r"/.*"),
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
# By the service in the type's token: EC2 takes more than others.
TAGS: dict[str, TagRule] = {
    "ec2": _EC2_TAGS,
    "ebs": _EC2_TAGS,
    "vpc": _EC2_TAGS,
    "iam": _strict("ValidationError", "LimitExceeded", "IAM API, Tag"),
    "ssm": _strict("ValidationException", "TooManyTagsError", "SSM API, Tag"),
    "kms": _strict("TagException", "LimitExceededException", "KMS developer guide, tag restrictions"),
    "cloudwatch": _strict("InvalidParameterException", "InvalidParameterException", "Logs API, CreateLogGroup"),
    "lb": _strict("ValidationError", "TooManyTags", "ELB API, Tag"),
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
    return f"{rule.code}: {what}; AWS takes {rule.shortest} to {rule.longest} characters here, {rule.shown} ({rule.source})"


def refused(token: str, inputs: Props) -> Iterable[Failure]:
    """Every text in a resource's inputs that AWS would refuse. Values may be UNKNOWN."""
    return _walk(inputs, "", TEXTS.get(token, {}), TAGS.get(token.split(":")[1].split("/")[0]))


def _walk(value: Any, path: str, texts: dict[str, Text], tags: TagRule | None) -> Iterable[Failure]:
    if isinstance(value, list):
        for index, item in enumerate(cast(list[Any], value)):
            yield from _walk(item, f"{path}[{index}]", texts, tags)
    elif isinstance(value, dict):
        for name, item in cast(Props, value).items():
            where = f"{path}.{name}" if path else name
            if name == "tags" and isinstance(item, dict):
                yield from _tags(cast(Props, item), where, tags)
            elif name in texts and isinstance(item, str):
                if found := problem(item, texts[name]):
                    yield Failure(where, found)
            else:
                yield from _walk(item, where, texts, tags)


def _tags(tags: Props, path: str, rule: TagRule | None) -> Iterable[Failure]:
    if rule is None:
        return
    if len(tags) > MOST_TAGS:
        yield Failure(path, f"{rule.limit_code}: {len(tags)} tags; AWS takes {MOST_TAGS} on a resource")
    for key, value in tags.items():
        if found := problem(key, rule.key):
            yield Failure(f"{path}.{key}", f"the key is refused: {found}")
        if value is not UNKNOWN and (found := problem(str(value), rule.value)):
            yield Failure(f"{path}.{key}", found)
