"""The stack's bucket, and the programs in it that each host fetches once, at its first boot."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from pulumi import ComponentResource, Input, Resource, ResourceOptions
from pulumi_aws import s3, ssm

from components.security import ROLES, policy
from components.tags import Tags
from host.render import programs
from plan.cluster import Cluster, Role
from plan.secrets import BUCKET, parameter_name

# Characters of a bucket's prefix, to which the provider adds 26 more (S3 takes 63).
LONGEST_PREFIX = 37


@dataclass(frozen=True)
class ProgramsArgs:
    cluster: Cluster
    tags: Tags


class Programs(ComponentResource):
    """What is too large for user-data and the same on every host of a role, type apollo:compute:Programs.

    Creates: {name}-bucket (S3 bucket, its public access block, its policy that refuses what is not TLS), {name}-<role> (an
    object, named by its digest) for each role, and {name}-bucket (SSM String: the bucket's name). S3 encrypts objects and
    takes no ACLs by itself.
    A change of a program makes an object beside the old one, which stays until the bucket goes: user-data names the digest
    that it was made for, so that each host finds its own.
    """

    def __init__(self, name: str, args: ProgramsArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:compute:Programs", name, None, opts)
        child, tags = ResourceOptions(parent=self), args.tags.named("programs")
        bucket = s3.Bucket(
            f"{name}-bucket", bucket_prefix=bucket_prefix(args.tags.stack), force_destroy=True, tags=tags, opts=child
        )
        closed = s3.BucketPublicAccessBlock(
            f"{name}-bucket",
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=child,
        )
        s3.BucketPolicy(
            f"{name}-bucket",
            bucket=bucket.id,
            policy=bucket.arn.apply(tls_only),
            # S3 refuses two changes of one bucket at once (OperationAborted).
            opts=ResourceOptions(parent=self, depends_on=[closed]),
        )
        self.bucket_arn = bucket.arn
        self._objects: dict[Role, Resource] = {}
        for role in ROLES:
            found = programs(args.cluster, role)
            self._objects[role] = s3.BucketObjectv2(
                f"{name}-{role}",
                bucket=bucket.id,
                key=found.key,
                content_base64=base64.b64encode(found.archive).decode(),
                content_type="application/gzip",
                opts=ResourceOptions(parent=self, retain_on_delete=True),
            )
        self._where = ssm.Parameter(
            f"{name}-bucket",
            name=parameter_name(args.tags.stack, BUCKET),
            type="String",
            value=bucket.id,
            description=BUCKET.purpose,
            tags=tags,
            opts=child,
        )
        self.register_outputs({"bucket": bucket.id})

    @property
    def readable_arns(self) -> list[Input[str]]:
        """The SSM parameters that every role reads."""
        return [self._where.arn]

    def ready(self, role: Role) -> list[Resource]:
        """What must exist before a host of the role boots."""
        return [self._objects[role], self._where]


def bucket_prefix(stack: str) -> str:
    """What the bucket's name begins with: the stack's, in the characters that S3 takes in a name that is part of an address."""
    plain = re.sub(r"[^a-z0-9]+", "-", f"apollo-{stack}".lower())
    return f"{plain[: LONGEST_PREFIX - 1].rstrip('-')}-"


def tls_only(arn: str) -> str:
    """The bucket's policy. arn: the bucket's."""
    return policy(
        {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn, f"{arn}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    )
