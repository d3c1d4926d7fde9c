"""S3 buckets and what is in them."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from .identity import text_of
from .kind import Aws, Kind, absent, arguments, tag_list, tag_map
from .schema import Failure
from .values import Props


class Bucket(Kind):
    token = "aws:s3/bucket:Bucket"
    inputs = ("bucket", "bucketPrefix", "forceDestroy", "tags")
    replaces = ("bucket", "bucketPrefix")
    defaults = {"forceDestroy": False}
    autoname = "bucket"
    name_limit = 63

    def create(self, aws: Aws, inputs: Props) -> str:
        s3, id = aws.client("s3"), str(inputs["bucket"])
        # S3 takes the one region that is not a constraint for none at all.
        place = {} if aws.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
        s3.create_bucket(Bucket=id, **place)
        with self.undo_on_error(aws, id):
            self._tag(aws, id, inputs)
        return id

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        s3 = aws.client("s3")
        if absent(lambda: s3.head_bucket(Bucket=id)) is None:
            return None
        tags = absent(lambda: s3.get_bucket_tagging(Bucket=id))
        return {
            "bucket": id,
            "bucketPrefix": known.get("bucketPrefix"),
            "arn": f"arn:aws:s3:::{id}",
            "bucketDomainName": f"{id}.s3.amazonaws.com",
            "bucketRegionalDomainName": f"{id}.s3.{aws.region}.amazonaws.com",
            "forceDestroy": known.get("forceDestroy"),
            "tags": tag_map(tags["TagSet"] if tags else ()),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        self._tag(aws, id, new)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        s3 = aws.client("s3")
        if self.read(aws, id, known) is None:
            return
        if known.get("forceDestroy"):
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=id):
                for entry in page.get("Contents", ()):
                    s3.delete_object(Bucket=id, Key=entry["Key"])
        s3.delete_bucket(Bucket=id)

    def _tag(self, aws: Aws, id: str, inputs: Props) -> None:
        s3, tags = aws.client("s3"), tag_list(inputs.get("tagsAll"))
        if tags:
            s3.put_bucket_tagging(Bucket=id, Tagging={"TagSet": tags})
        else:
            s3.delete_bucket_tagging(Bucket=id)


class PublicAccessBlock(Kind):
    token = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
    switches = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    inputs = ("bucket", *switches)
    required = (("bucket",),)
    replaces = ("bucket",)
    defaults = dict.fromkeys(switches, False)

    def create(self, aws: Aws, inputs: Props) -> str:
        s3 = aws.client("s3")
        shape = s3.meta.service_model.shape_for("PublicAccessBlockConfiguration")
        wanted = {name[:1].upper() + name[1:]: bool(inputs.get(name)) for name in self.switches}
        assert wanted.keys() <= shape.members.keys()
        s3.put_public_access_block(Bucket=inputs["bucket"], PublicAccessBlockConfiguration=wanted)
        return str(inputs["bucket"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("s3").get_public_access_block(Bucket=id))
        if answer is None:
            return None
        live = answer["PublicAccessBlockConfiguration"]
        return {"bucket": id, **{name: live[name[:1].upper() + name[1:]] for name in self.switches}}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        self.create(aws, new)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("s3").delete_public_access_block(Bucket=id))


class BucketPolicy(Kind):
    token = "aws:s3/bucketPolicy:BucketPolicy"
    inputs = ("bucket", "policy")
    required = (("bucket",), ("policy",))
    replaces = ("bucket",)
    json_text = ("policy",)

    def create(self, aws: Aws, inputs: Props) -> str:
        aws.client("s3").put_bucket_policy(Bucket=inputs["bucket"], Policy=inputs["policy"])
        return str(inputs["bucket"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("s3").get_bucket_policy(Bucket=id))
        return answer and {"bucket": id, "policy": text_of(answer["Policy"])}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        self.create(aws, new)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("s3").delete_bucket_policy(Bucket=id))


class BucketObject(Kind):
    token = "aws:s3/bucketObjectv2:BucketObjectv2"
    # The content comes by no other input here.
    inputs = ("bucket", "key", "contentBase64", "contentType")
    required = (("bucket",), ("key",), ("contentBase64",))
    replaces = ("bucket", "key")
    defaults = {"contentType": "application/octet-stream"}
    # A program may leave an object behind (retainOnDelete), and its bucket takes it away in the end.
    journaled = False

    def validate(self, inputs: Props) -> Iterable[Failure]:
        yield from super().validate(inputs)
        content = inputs.get("contentBase64")
        if isinstance(content, str):
            try:
                base64.b64decode(content, validate=True)
            except binascii.Error as error:
                yield Failure("contentBase64", f"is not base64: {error}")

    def create(self, aws: Aws, inputs: Props) -> str:
        s3 = aws.client("s3")
        args = arguments(s3, "put_object", inputs, ("bucket", "key", "contentType"))
        s3.put_object(**args, Body=base64.b64decode(inputs["contentBase64"]))
        return f"{inputs['bucket']}/{inputs['key']}"

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        s3 = aws.client("s3")
        bucket, _, key = id.removeprefix("s3://").partition("/")
        answer = absent(lambda: s3.get_object(Bucket=bucket, Key=key))
        if answer is None:
            return None
        return {
            "bucket": bucket,
            "key": key,
            "arn": f"arn:aws:s3:::{bucket}/{key}",
            "contentBase64": base64.b64encode(answer["Body"].read()).decode(),
            "contentType": answer["ContentType"],
            "etag": answer["ETag"].strip('"'),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        self.create(aws, new)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        bucket, _, key = id.partition("/")
        absent(lambda: aws.client("s3").delete_object(Bucket=bucket, Key=key))


KINDS = (Bucket, PublicAccessBlock, BucketPolicy, BucketObject)
