"""Names, tags, drift, regions, replacement rules and look-ups: what holds for all types."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

from typing import Any

import pytest
from pulumi.runtime.proto import provider_pb2 as pb

from localcloud.provider.values import UNKNOWN, Props, Secret, encode

from .support import REGION, World, refusal

VPC = "aws:ec2/vpc:Vpc"
INSTANCE = "aws:ec2/instance:Instance"
GROUP = "aws:ec2/securityGroup:SecurityGroup"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"


def test_a_name_is_the_logical_one_with_seven_digits_and_stays(world: World) -> None:
    inputs, _ = world.aws.check(GROUP, {"description": "d"}, name="front")
    stem, _, digits = inputs["name"].rpartition("-")
    assert (stem, len(digits)) == ("front", 7)
    assert world.aws.check(GROUP, {"description": "d"}, name="front")[0]["name"] == inputs["name"], "same seed, same name"
    later, _ = world.aws.check(GROUP, {"description": "d"}, old={"name": "front-older00"}, name="front")
    assert later["name"] == "front-older00"
    assert world.aws.check(GROUP, {"name": "own"}, name="front")[0]["name"] == "own"
    long, _ = world.aws.check("aws:lb/targetGroup:TargetGroup", {}, name="x" * 50)
    assert len(long["name"]) == 32


@pytest.mark.parametrize(
    ("type", "old", "new", "paths", "replaces"),
    [
        (INSTANCE, {"instanceType": "a"}, {"instanceType": "b"}, {"instanceType": "UPDATE"}, []),
        (INSTANCE, {"ami": "a"}, {"ami": "b"}, {"ami": "UPDATE_REPLACE"}, ["ami"]),
        (INSTANCE, {"subnetId": "a"}, {}, {}, []),
        (INSTANCE, {"userDataBase64": "a"}, {"userDataBase64": "b"}, {"userDataBase64": "UPDATE"}, []),
        (INSTANCE, {}, {"rootBlockDevice": {"encrypted": True}}, {"rootBlockDevice": "ADD"}, []),
        (INSTANCE, {"rootBlockDevice": {"encrypted": True}}, {}, {}, []),
        (INSTANCE, {"vpcSecurityGroupIds": ["a", "b"]}, {"vpcSecurityGroupIds": ["b", "a"]}, {}, []),
        (INSTANCE, {"tags": {"a": "b"}}, {}, {"tags": "DELETE"}, []),
        (INGRESS, {"cidrIpv4": "10.0.0.0/8"}, {"cidrIpv4": "11.0.0.0/8"}, {"cidrIpv4": "UPDATE"}, []),
        (INGRESS, {"cidrIpv4": "10.0.0.0/8"}, {"referencedSecurityGroupId": "sg-1"},
         {"cidrIpv4": "DELETE_REPLACE", "referencedSecurityGroupId": "ADD_REPLACE"}, ["cidrIpv4", "referencedSecurityGroupId"]),
        ("aws:iam/rolePolicy:RolePolicy", {"policy": '{"a": 1, "b": 2}'}, {"policy": '{"b":2,"a":1}'}, {}, []),
        ("aws:ec2/networkInterface:NetworkInterface", {"privateIps": ["a"]}, {"privateIps": ["b"]},
         {"privateIps": "UPDATE_REPLACE"}, ["privateIps"]),
        ("aws:ec2/volumeAttachment:VolumeAttachment", {"instanceId": "a"}, {"instanceId": "b"},
         {"instanceId": "UPDATE_REPLACE"}, ["instanceId"]),
        ("aws:ssm/parameter:Parameter", {"tier": "Advanced"}, {}, {}, []),
        ("aws:lb/loadBalancer:LoadBalancer", {"subnets": ["a"]}, {"subnets": ["b", "a"]}, {"subnets": "UPDATE"}, []),
        ("aws:lb/loadBalancer:LoadBalancer", {"subnets": ["a", "b"]}, {"subnets": ["b"]}, {"subnets": "UPDATE_REPLACE"}, ["subnets"]),
    ],
)  # fmt: skip
def test_a_change_does_what_the_real_provider_plans(
    type: str, old: Props, new: Props, paths: dict[str, str], replaces: list[str], world: World
) -> None:
    change = world.aws.diff(type, "id", {}, old, new)
    assert (change.paths, change.replaces) == (paths, replaces)


def test_a_change_behind_our_back_is_drift_and_is_put_right(world: World) -> None:
    inputs = {"cidrBlock": f"10.{world.number() + 100}.0.0/16", "enableDnsHostnames": True, "tags": {"a": "b"}}
    id, outputs = world.aws.create(VPC, inputs)
    ec2 = world.boto("ec2")
    ec2.create_tags(Resources=[id], Tags=[{"Key": "a", "Value": "other"}, {"Key": "new", "Value": "one"}])
    ec2.modify_vpc_attribute(VpcId=id, EnableDnsHostnames={"Value": False})
    _, seen, seen_inputs = world.aws.read(VPC, id, outputs, inputs)
    assert seen_inputs["tags"] == {"a": "other", "new": "one"}
    assert seen_inputs["enableDnsHostnames"] is False
    assert set(world.aws.diff(VPC, id, seen, seen_inputs, inputs).paths) == {"tags", "enableDnsHostnames"}
    outputs = world.aws.update(VPC, id, seen, seen_inputs, inputs)
    assert world.aws.read(VPC, id, outputs, inputs)[2] == inputs


def test_tags_on_a_resource_without_any_are_drift_as_well(world: World) -> None:
    inputs = {"cidrBlock": f"10.{world.number() + 100}.0.0/16"}
    id, outputs = world.aws.create(VPC, inputs)
    world.boto("ec2").create_tags(Resources=[id], Tags=[{"Key": "a", "Value": "b"}])
    assert world.aws.read(VPC, id, outputs, inputs)[2] == {**inputs, "tags": {"a": "b"}}


def test_what_is_gone_reads_as_gone_and_cannot_be_updated(world: World) -> None:
    vpc = world.vpc()
    inputs = world.host(vpc, world.subnet(vpc), 9)
    id, outputs = world.aws.create(INSTANCE, inputs)
    world.boto("ec2").terminate_instances(InstanceIds=[id])
    assert world.aws.read(INSTANCE, id, outputs, inputs)[0] == ""
    new = {**inputs, "instanceType": "t3.small"}
    assert "is gone" in refusal(lambda: world.aws.update(INSTANCE, id, outputs, inputs, new))


def test_what_an_instance_keeps_until_it_is_replaced_is_refused_by_name(world: World) -> None:
    vpc = world.vpc()
    inputs = world.host(vpc, world.subnet(vpc), 9, userDataBase64="b25l")
    id, outputs = world.aws.create(INSTANCE, inputs)
    kept = {
        "iamInstanceProfile": "other",
        "instanceType": "t3.small",
        "rootBlockDevice": {"volumeSize": 9},
        "userDataBase64": "dHdv",
    }
    words = refusal(lambda: world.aws.update(INSTANCE, id, outputs, inputs, {**inputs, **kept}))
    assert words == f"{id}: the embedded cloud does not change {', '.join(kept)} of an instance; replace it"


def test_a_new_security_group_lets_nothing_out(world: World) -> None:
    group = world.group(world.vpc())
    found = world.boto("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    assert found["IpPermissionsEgress"] == []


def host(**more: Any) -> Props:
    return {"ami": "ami-1", "instanceType": "t3.micro", "subnetId": "subnet-1", **more}


def rule(**more: Any) -> Props:
    return {"securityGroupId": "sg-1", "ipProtocol": "tcp", "fromPort": 1, "toPort": 2, "cidrIpv4": "10.0.0.0/8", **more}


CHECKS: list[tuple[str, Props, str]] = [
    (INSTANCE, host(instnceType="t3.micro"), "instnceType: the embedded cloud does not implement this property of aws:ec2/instance:Instance; did you mean instanceType?"),
    (INSTANCE, host(metadataOptions={"httpToken": "required"}), "metadataOptions.httpToken: the embedded cloud does not implement"),
    (INSTANCE, host(hibernation=True), "hibernation: the embedded cloud does not implement this property of aws:ec2/instance:Instance"),
    (INSTANCE, host(rootBlockDevice={"iops": 3000}), "rootBlockDevice.iops: the embedded cloud does not implement this property of"),
    ("aws:lb/listener:Listener", {"defaultActions": [{"type": "forward"}, {"order": 1}]}, "defaultActions[1].order: the embedded cloud does not"),
    (INSTANCE, host(userDataBase64="not base64!"), "userDataBase64: is not base64"),
    (INSTANCE, {"instanceType": "t3.micro", "subnetId": "subnet-1"}, "ami: missing"),
    (INGRESS, rule(referencedSecurityGroupId="sg-2"), "exactly one of"),
    (GROUP, {"ingress": [{"protocol": "tcp"}]}, "ingress: the embedded cloud does not implement this property of aws:ec2/securityGroup:SecurityGroup"),
    ("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", {"vpcId": "v", "ingress": [{"protocol": "tcp", "fromPort": 1, "toPort": 2}]}, "ingress: the embedded cloud takes a default group"),
    ("aws:ec2/vpc:Vpcs", {}, "the embedded cloud does not implement aws:ec2/vpc:Vpcs; did you mean aws:ec2/vpc:Vpc?"),
    ("aws:sqs/queue:Queue", {}, "the embedded cloud does not implement aws:sqs/queue:Queue"),
]  # fmt: skip


@pytest.mark.parametrize(("type", "inputs", "words"), CHECKS, ids=[words[:40] for _, _, words in CHECKS])
def test_bad_inputs_fail_the_check_by_name(type: str, inputs: Props, words: str, world: World) -> None:
    _, failures = world.aws.check(type, inputs)
    assert any(words in failure for failure in failures), failures


def test_unknown_values_pass_the_check_and_the_preview(world: World) -> None:
    inputs = host(ami=UNKNOWN, subnetId=UNKNOWN, vpcSecurityGroupIds=[UNKNOWN], userDataBase64=UNKNOWN, tags={"a": UNKNOWN})
    id, outputs = world.aws.create(INSTANCE, inputs, preview=True)
    assert id == ""
    assert outputs["instanceType"] == "t3.micro"
    assert outputs["privateIp"] is UNKNOWN
    assert outputs["vpcSecurityGroupIds"] == [UNKNOWN]


def test_what_the_api_refuses_is_said_with_aws_s_code_and_leaves_nothing(world: World) -> None:
    vpc = world.vpc()
    subnet = world.subnet(vpc)
    taken = {**world.host(vpc, subnet, 9), "privateIp": f"{world.cidr(vpc)}.1.1"}
    assert refusal(lambda: world.aws.create(INSTANCE, taken)).startswith("InvalidParameterValue: address")
    profile = {"role": "no-such-role", "name": f"profile-{world.number()}"}
    assert refusal(lambda: world.aws.create("aws:iam/instanceProfile:InstanceProfile", profile)).startswith("NoSuchEntity: ")
    left = [p["InstanceProfileName"] for p in world.boto("iam").list_instance_profiles()["InstanceProfiles"]]
    assert profile["name"] not in left, "the first of its two calls is taken back"


def test_a_default_security_group_that_is_taken_over_has_no_rule_left_and_one_that_comes_is_drift(world: World) -> None:
    kind, inputs = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", {"vpcId": world.vpc(), "ingress": [], "egress": []}
    id, outputs = world.aws.create(kind, inputs)

    def rules() -> list[Any]:
        (group,) = world.boto("ec2").describe_security_groups(GroupIds=[id])["SecurityGroups"]
        return [*group["IpPermissions"], *group["IpPermissionsEgress"]]

    assert rules() == []
    rule = [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]
    world.boto("ec2").authorize_security_group_ingress(GroupId=id, IpPermissions=rule)
    _, seen, seen_inputs = world.aws.read(kind, id, outputs, inputs)
    assert set(world.aws.diff(kind, id, seen, seen_inputs, inputs).paths) == {"ingress"}
    world.aws.update(kind, id, seen, seen_inputs, inputs)
    assert rules() == []


def test_secrets_stay_marked_and_out_of_messages(world: World) -> None:
    name = f"/secret/{world.number()}"
    inputs = {"name": name, "type": "SecureString", "value": Secret("hush"), "description": "d"}
    _, outputs = world.aws.create("aws:ssm/parameter:Parameter", inputs)
    assert outputs["value"] == Secret("hush")
    assert outputs["description"] == "d"
    _, seen, seen_inputs = world.aws.read("aws:ssm/parameter:Parameter", name, outputs, inputs)
    assert seen["value"] == seen_inputs["value"] == Secret("hush")


def test_nothing_is_taken_over_by_its_id(world: World) -> None:
    assert "takes no resource over by its id" in refusal(lambda: world.aws.read(VPC, world.vpc()))


def test_the_provider_itself_is_checked(world: World) -> None:
    def reasons(config: Props) -> list[str]:
        return [f.reason for f in world.aws.stub.CheckConfig(pb.CheckRequest(news=encode(config))).failures]

    assert reasons({"region": "eu-west-1", "version": "7.51.1"}) == []
    assert any("did you mean region?" in reason for reason in reasons({"regon": "eu-west-1"}))
    assert any("region: missing" in reason for reason in reasons({}))
    assert reasons({"region": "us-east-1"}) == ["region: is us-east-1, and this cloud is in eu-west-1"]
    tags = {"region": "eu-west-1", "defaultTags": '{"tags": {"owner": "ops"}}'}
    assert reasons(tags) == ["defaultTags: is not implemented in the embedded cloud"]


def test_the_image_is_the_newest_that_matches_and_none_is_an_error(world: World) -> None:
    query: Props = {"owners": ["136693071363"], "filters": [{"name": "name", "values": ["debian-12-amd64-*"]}]}
    newest = world.aws.invoke("aws:ec2/getAmi:getAmi", {**query, "mostRecent": True})
    assert newest["name"] == "debian-12-amd64-20260112-2355"
    assert newest["rootDeviceName"] == "/dev/xvda"
    assert "returned 2 images" in refusal(lambda: world.aws.invoke("aws:ec2/getAmi:getAmi", query))
    none: Props = {**query, "filters": [{"name": "name", "values": ["debian-99-*"]}]}
    assert "debian-99-*" in refusal(lambda: world.aws.invoke("aws:ec2/getAmi:getAmi", none))
    request = pb.InvokeRequest(tok="aws:ec2/getAmi:getAmi", args=encode({**query, "nameRegex": "debian"}))
    (failure,) = world.aws.stub.Invoke(request).failures
    assert failure.reason == "nameRegex: is an argument of aws:ec2/getAmi:getAmi that the embedded cloud does not implement"
    assert "no look-up aws:ec2/getAmis" in refusal(lambda: world.aws.invoke("aws:ec2/getAmis:getAmis", {}))


def test_what_is_left_in_the_cloud_is_named_and_what_aws_keeps_for_itself_is_not(world: World) -> None:
    # moto makes a key of AWS's own for the first encrypted volume.
    volume, outputs = world.aws.create(
        "aws:ebs/volume:Volume", {"availabilityZone": f"{REGION}a", "size": 1, "encrypted": True}
    )
    world.aws.delete("aws:ebs/volume:Volume", volume, outputs)
    key, outputs = world.aws.create("aws:kms/key:Key", {"description": "left"})
    group, _ = world.aws.create("aws:cloudwatch/logGroup:LogGroup", {"name": f"/left/{world.number()}"})
    left = world.cloud.ask("leftovers")["leftovers"]
    keys = {name for name in left if ":key/" in name}
    assert f"arn:aws:kms:{REGION}:123456789012:key/{key}" in keys
    assert not [
        k for k in keys if "Default master key" in world.boto("kms").describe_key(KeyId=k)["KeyMetadata"]["Description"]
    ]
    assert any(group in name for name in left)
    world.aws.delete("aws:kms/key:Key", key, outputs)
    assert f"arn:aws:kms:{REGION}:123456789012:key/{key}" not in world.cloud.ask("leftovers")["leftovers"]
