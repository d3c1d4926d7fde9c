"""S3 buckets and what is in them."""

from __future__ import annotations

import base64

from ..api.client import Aws
from .aws import Api, absent, pascal, tag_list, tag_map
from .values import Props


class _OfBucket(Api):
    service = "s3"
    naming = ("get_{}", "")
    identity = replaces = ("bucket",)

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        if changed:
            self.call(aws, self.creates, self.creation(aws, inputs))  # S3 puts the new one in the old one's place


class Bucket(_OfBucket):
    token = "aws:s3/bucket:Bucket"
    noun, reads = "bucket", "head_bucket"
    sends = ("bucket",)
    inputs = ("bucket", "bucketPrefix", "forceDestroy", "tags")
    replaces = ("bucket", "bucketPrefix")
    autoname = "bucket"
    name_limit = 63

    def creation(self, aws: Aws, inputs: Props) -> Props:
        # S3 takes the one region that is not a constraint for none at all.
        place = {} if aws.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
        return super().creation(aws, inputs) | place

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {
            "arn": f"arn:aws:s3:::{id}",
            "bucketDomainName": f"{id}.s3.amazonaws.com",
            "bucketRegionalDomainName": f"{id}.s3.{aws.region}.amazonaws.com",
        }

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        """The rest is for its deletion alone."""

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        s3 = aws.client("s3")
        if known.get("forceDestroy") and self.record(aws, id, known):
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=id):
                for entry in page.get("Contents", ()):
                    s3.delete_object(Bucket=id, Key=entry["Key"])
        super().delete(aws, id, known)

    def tags_of(self, aws: Aws, id: str, record: Props) -> dict[str, str]:
        tags = absent(lambda: aws.client("s3").get_bucket_tagging(Bucket=id))
        return tag_map(tags["TagSet"] if tags else ())

    def change_tags(self, aws: Aws, id: str, old: Props, new: Props) -> None:
        aws.client("s3").put_bucket_tagging(Bucket=id, Tagging={"TagSet": tag_list(new.get("tags"))})


class PublicAccessBlock(_OfBucket):
    token = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
    noun, creates, found = "public_access_block", "put_public_access_block", "PublicAccessBlockConfiguration"
    shows = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    inputs = sends = ("bucket", *shows)
    required = (("bucket",),)

    def creation(self, aws: Aws, inputs: Props) -> Props:
        return {"Bucket": inputs["bucket"], self.found: {pascal(name): bool(inputs.get(name)) for name in self.shows}}


class BucketPolicy(_OfBucket):
    token = "aws:s3/bucketPolicy:BucketPolicy"
    noun, creates = "bucket_policy", "put_bucket_policy"
    inputs = sends = ("bucket", "policy")
    required = (("bucket",), ("policy",))
    json_text = ("policy",)


class BucketObject(_OfBucket):
    token = "aws:s3/bucketObjectv2:BucketObjectv2"
    noun, creates = "object", "put_object"
    identity = replaces = ("bucket", "key")
    shows = ("contentType",)
    # The content comes by no other input here.
    inputs = sends = ("bucket", "key", "contentType", "contentBase64")
    required = (("bucket",), ("key",), ("contentBase64",))
    base64_text = ("contentBase64",)
    # A program may leave an object behind (retainOnDelete), and its bucket takes it away in the end.
    journaled = False

    def creation(self, aws: Aws, inputs: Props) -> Props:
        about = self.arguments(aws, self.creates, inputs, ("bucket", "key", "contentType"))
        return about | {"Body": base64.b64decode(inputs["contentBase64"])}

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        content = base64.b64encode(record["Body"].read()).decode()
        return {"arn": f"arn:aws:s3:::{id}", "contentBase64": content, "etag": record["ETag"].strip('"')}


KINDS = (Bucket, PublicAccessBlock, BucketPolicy, BucketObject)
