"""The look-ups (invokes) of the program and of those that build on it: an image, a subnet."""

from __future__ import annotations

from collections.abc import Callable

from .kind import Aws, CloudError, camel, tag_map
from .values import Props


def get_ami(aws: Aws, args: Props) -> Props:
    filters = [{"Name": f["name"], "Values": f["values"]} for f in args.get("filters") or []]
    query: Props = {"Filters": filters} if filters else {}
    if args.get("owners"):
        query["Owners"] = args["owners"]
    images = aws.client("ec2").describe_images(**query)["Images"]
    asked = ", ".join(f"{f['Name']}={'|'.join(f['Values'])}" for f in filters) or "no filter"
    if not images:
        raise CloudError(f"your query returned no image ({asked}; owners {args.get('owners') or 'any'}) in {aws.region}")
    if len(images) > 1 and not args.get("mostRecent"):
        raise CloudError(f"your query returned {len(images)} images ({asked}); narrow it, or set mostRecent")
    image = max(images, key=lambda i: i["CreationDate"])
    plain = {camel(k): v for k, v in image.items() if isinstance(v, (str, bool, int))}
    return {**args, **plain, "id": image["ImageId"], "tags": tag_map(image.get("Tags"))}


def get_subnet(aws: Aws, args: Props) -> Props:
    if not args.get("id"):
        raise CloudError("getSubnet is implemented for an id alone in the embedded cloud")
    found = aws.client("ec2").describe_subnets(SubnetIds=[args["id"]])["Subnets"][0]
    return {
        **args,
        "arn": found["SubnetArn"],
        "availabilityZone": found["AvailabilityZone"],
        "cidrBlock": found["CidrBlock"],
        "vpcId": found["VpcId"],
        "tags": tag_map(found.get("Tags")),
    }


LOOKUPS: dict[str, Callable[[Aws, Props], Props]] = {
    "aws:ec2/getAmi:getAmi": get_ami,
    "aws:ec2/getSubnet:getSubnet": get_subnet,
}
