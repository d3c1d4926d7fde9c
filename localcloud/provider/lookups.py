"""The look-ups (invokes): images, subnets, zones, region, caller, partition, parameters."""

# One signature for all look-ups.
# ruff: noqa: ARG001
from __future__ import annotations

import re
from collections.abc import Callable

from .identity import absent_parameter, caller
from .kind import Aws, CloudError, camel, tag_map
from .values import Props


def get_ami(aws: Aws, args: Props) -> Props:
    filters = [{"Name": f["name"], "Values": f["values"]} for f in args.get("filters") or []]
    query: Props = {"Filters": filters} if filters else {}
    if args.get("owners"):
        query["Owners"] = args["owners"]
    images = aws.client("ec2").describe_images(**query)["Images"]
    if args.get("nameRegex"):
        images = [i for i in images if re.search(args["nameRegex"], i["Name"])]
    asked = ", ".join(f"{f['Name']}={'|'.join(f['Values'])}" for f in filters) or "no filter"
    if not images:
        raise CloudError(f"your query returned no image ({asked}; owners {args.get('owners') or 'any'}) in {aws.region}")
    if len(images) > 1 and not args.get("mostRecent"):
        raise CloudError(f"your query returned {len(images)} images ({asked}); narrow it, or set mostRecent")
    image = max(images, key=lambda i: i["CreationDate"])
    skipped = ("Tags", "BlockDeviceMappings", "ProductCodes", "StateReason")
    return {
        **args,
        **{camel(k): v for k, v in image.items() if k not in skipped and isinstance(v, (str, bool, int))},
        "id": image["ImageId"],
        "arn": f"arn:aws:ec2:{aws.region}::image/{image['ImageId']}",
        "blockDeviceMappings": [
            {
                "deviceName": m["DeviceName"],
                "virtualName": "",
                "noDevice": "",
                "ebs": {camel(k): str(v).lower() if isinstance(v, bool) else str(v) for k, v in m.get("Ebs", {}).items()},
            }
            for m in image.get("BlockDeviceMappings", [])
        ],
        "tags": tag_map(image.get("Tags")),
    }


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


def get_availability_zones(aws: Aws, args: Props) -> Props:
    zones = aws.client("ec2").describe_availability_zones()["AvailabilityZones"]
    wanted = {f["name"]: f["values"] for f in args.get("filters") or []}
    members = {"zone-name": "ZoneName", "zone-id": "ZoneId", "region-name": "RegionName", "zone-type": "ZoneType"}
    members["state"] = "State"
    for name, values in wanted.items():
        if name == "opt-in-status":  # moto has only zones that need no opting in
            zones = zones if "opt-in-not-required" in values else []
        elif name in members:
            zones = [z for z in zones if z[members[name]] in values]
        else:
            raise CloudError(f"filter {name!r} of getAvailabilityZones is not known; use {', '.join(members)}")
    if args.get("state"):
        zones = [z for z in zones if z["State"] == args["state"]]
    zones = [z for z in zones if z["ZoneName"] not in (args.get("excludeNames") or [])]
    zones = sorted((z for z in zones if z["ZoneId"] not in (args.get("excludeZoneIds") or [])), key=lambda z: z["ZoneName"])
    return {
        **args,
        "id": aws.region,
        "region": aws.region,
        "names": [z["ZoneName"] for z in zones],
        "zoneIds": [z["ZoneId"] for z in zones],
        "groupNames": sorted({z["RegionName"] for z in zones}),
    }


def get_region(aws: Aws, args: Props) -> Props:
    region = args.get("region") or args.get("name") or aws.region
    known = [r["RegionName"] for r in aws.client("ec2").describe_regions(AllRegions=True)["Regions"]]
    if region not in known:
        raise CloudError(f"there is no AWS region {region!r}")
    endpoint = f"ec2.{region}.amazonaws.com"
    return {"id": region, "name": region, "region": region, "endpoint": endpoint, "description": region}


def get_caller_identity(aws: Aws, args: Props) -> Props:
    return caller(aws)


def get_partition(aws: Aws, args: Props) -> Props:
    return {"id": "aws", "partition": "aws", "dnsSuffix": "amazonaws.com", "reverseDnsPrefix": "com.amazonaws"}


def get_parameter(aws: Aws, args: Props) -> Props:
    found = absent_parameter(aws, args["name"])
    if found is None:
        raise CloudError(f"there is no SSM parameter {args['name']!r}")
    return {
        "id": args["name"],
        "name": args["name"],
        "arn": aws.arn("ssm", f"parameter/{args['name'].lstrip('/')}"),
        "type": found["Type"],
        "value": found["Value"],
        "insecureValue": "" if found["Type"] == "SecureString" else found["Value"],
        "version": found["Version"],
        "region": aws.region,
        "withDecryption": args.get("withDecryption", True),
    }


LOOKUPS: dict[str, Callable[[Aws, Props], Props]] = {
    "aws:ec2/getAmi:getAmi": get_ami,
    "aws:ec2/getSubnet:getSubnet": get_subnet,
    "aws:index/getAvailabilityZones:getAvailabilityZones": get_availability_zones,
    "aws:index/getRegion:getRegion": get_region,
    "aws:index/getCallerIdentity:getCallerIdentity": get_caller_identity,
    "aws:index/getPartition:getPartition": get_partition,
    "aws:ssm/getParameter:getParameter": get_parameter,
}
SECRET_RESULTS = {"aws:ssm/getParameter:getParameter": ("value",)}
