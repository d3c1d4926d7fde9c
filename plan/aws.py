"""What AWS would refuse, as far as the settings show it. The plan's own arithmetic goes further than one VPC does."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from plan.problems import Problem
from plan.rules import rules_of
from plan.settings import REGION_KEY, Image, Settings

# Inbound rules of a security group by default (VPC quotas).
MOST_RULES = 60
# Tags of a resource (EC2 and IAM), and how many of a slave's are the program's own (components/tags.py).
MOST_TAGS = 50
OWN_TAGS = 8

_TAG_SHOWN = "letters, digits, spaces and _.:/=+-@"


def check_aws_limits(s: Settings) -> Iterator[Problem]:
    """Where AWS would refuse the plan, or a part of it does not exist there."""
    yield from _region(s)
    existing = s.network.existing
    vpc = existing.cidr if existing else s.network.cidr
    if vpc.prefixlen < 16:
        yield Problem(
            "network.existing.cidr" if existing else "network.cidr",
            f"{vpc} is larger than AWS allows for a VPC; give a /16 to /21 such as {vpc.ip}/16",
        )
    yield from _instance_types(s)
    own = sum(rule.to == "edge" for rule in rules_of(s)) - len(s.admin.allowed_cidrs)
    most = MOST_RULES - own
    if len(s.admin.allowed_cidrs) > most:
        yield Problem(
            "admin.allowedCidrs",
            f"has {len(s.admin.allowed_cidrs)} networks, and AWS takes {MOST_RULES} rules in a group, a few of them the edge's "
            f"own; give at most {most}, or wider ones",
        )
    yield from _tags(s)


def architecture(instance_type: str) -> str:
    """`arm64` or `x86_64`, as AMIs have it. Graviton's families have a g behind the generation (EC2, "Instance type naming
    conventions"), but for the first, a1."""
    family = instance_type.partition(".")[0]
    options = re.fullmatch(r"[a-z]+\d+(.*)", family)
    return "arm64" if family == "a1" or (options and "g" in options[1]) else "x86_64"


def _region(s: Settings) -> Iterator[Problem]:
    if re.match(r"cn-|us-gov-|[a-z]{2}-iso", s.region):
        yield Problem(
            REGION_KEY,
            f"{s.region} is in a partition of its own, with other endpoints and other owners of images, which this program "
            "does not know; give a region of AWS's main partition such as eu-west-1",
        )


def _instance_types(s: Settings) -> Iterator[Problem]:
    types = {name: getattr(s, name).instance_type for name in ("slaves", "control", "edge")}
    of_image = _of_image(s.image)
    # All hosts have one image. Where its name has no architecture, the slaves' type counts.
    of_stack = of_image or architecture(types["slaves"])
    why = f"image.name {s.image.name}" if of_image else "slaves.instanceType"
    for section, given in types.items():
        if architecture(given) != of_stack:
            yield Problem(
                f"{section}.instanceType",
                f"{given} is {architecture(given)}, and {why} is {of_stack}; give one of that architecture"
                + (" such as t3.small" if of_stack == "x86_64" else " such as t4g.small"),
            )


def _of_image(image: Image) -> str | None:
    """The architecture in the image's name; None where there is none, or the image is given by its id."""
    names = {"arm64": ("arm64", "aarch64"), "x86_64": ("amd64", "x86_64")}
    found = [name for name, words in names.items() if any(word in image.name for word in words)]
    return found[0] if len(found) == 1 and image.id is None else None


def _tags(s: Settings) -> Iterator[Problem]:
    seen: set[str] = set()
    for name, value in s.tags.items():
        # IAM takes two names that differ in case for one.
        if name.lower().startswith(("aws:", "apollo:")) or name.lower() == "name" or not 1 <= len(name) <= 128:
            yield Problem(
                f"tags.{name}",
                "is not yours to set; give a name of 1 to 128 characters not starting with aws: or apollo:",
            )
        elif name.lower() in seen:
            yield Problem(f"tags.{name}", "is there in other letters, which IAM takes for the same; give one of the two")
        seen.add(name.lower())
        for what, text in (("its name", name), ("its value", value)):
            if odd := "".join(sorted({c for c in text if unicodedata.category(c)[0] not in "LNZ" and c not in "_.:/=+-@"})):
                yield Problem(f"tags.{name}", f"{what} has {odd}, which IAM does not take; give {_TAG_SHOWN}")
        if len(value) > 256:
            yield Problem(f"tags.{name}", f"its value has {len(value)} characters; give 256 at most")
    # In a VPC that exists the group `node` has a name, the stack's, and a mark for each subnet.
    own = max(OWN_TAGS, 2 + 2 * len(s.zones)) if s.network.existing else OWN_TAGS
    most = MOST_TAGS - own
    if len(s.tags) > most:
        yield Problem(
            "tags",
            f"has {len(s.tags)}, and AWS takes {MOST_TAGS} with the {own} of the program itself; give at most {most}",
        )
