"""What AWS would refuse, the cloud's API refuses too, to whatever client: here AWS's own library."""

# One case a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto import settings

from localcloud.api.client import Aws, Keys
from localcloud.api.errors import ApiError
from localcloud.api.refusals import RULES, Params, check
from localcloud.api.server import Api

# Of no other test, as moto's data outlives its server.
REGION = "eu-west-2"
TRUST = '{"Version":"2012-10-17","Statement":[]}'


def refusal(call: Callable[[], Any]) -> str:
    """AWS's error code and message."""
    with pytest.raises(ClientError) as caught:
        call()
    error: Any = caught.value.response["Error"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    return f"{error['Code']}: {error['Message']}"


class World:
    """The cloud's API in this process, so that `make mutants` can change it."""

    def __init__(self) -> None:
        keys = Keys.new()
        self.http = Api(0, keys, Keys.new()).http
        self.boto = Aws(f"http://127.0.0.1:{self.http.server_port}", REGION, keys).client
        numbers = itertools.count(1)
        self.number = lambda: next(numbers)


@pytest.fixture(scope="module")
def world() -> Generator[World]:
    found = World()
    threading.Thread(target=found.http.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patched:
        # moto reads the server's word for these when it is imported, which another test may have done before the server.
        for name in ("ENABLE_AMI_VALIDATION", "EC2_ENABLE_INSTANCE_TYPE_VALIDATION"):
            patched.setattr(settings, name, True)
        yield found
    found.http.shutdown()
    found.http.server_close()


class Account:
    """What a user of the cloud makes with boto3."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ec2, self.elb = world.boto("ec2"), world.boto("elbv2")
        self.number = world.number

    def vpc(self, *, gateway: bool = False) -> str:
        self.net = f"10.{self.number() % 100 + 100}"
        vpc = str(self.ec2.create_vpc(CidrBlock=f"{self.net}.0.0/16")["Vpc"]["VpcId"])
        if gateway:
            self.attach(vpc)
        return vpc

    def attach(self, vpc: str) -> None:
        made = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=made, VpcId=vpc)

    def subnet(self, vpc: str, cidr: str = "") -> str:
        answer = self.ec2.create_subnet(VpcId=vpc, CidrBlock=cidr or f"{self.net}.1.0/24", AvailabilityZone=f"{REGION}a")
        return str(answer["Subnet"]["SubnetId"])

    def group(self, vpc: str) -> str:
        return str(self.ec2.create_security_group(GroupName=f"group-{self.number()}", Description="d", VpcId=vpc)["GroupId"])

    def image(self) -> str:
        newest = {"Name": "name", "Values": ["debian-12-amd64-20260112-2355"]}
        return str(self.ec2.describe_images(Filters=[newest])["Images"][0]["ImageId"])

    def launch(self, **more: Any) -> Any:
        known = {"ImageId": self.image(), "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        return self.ec2.run_instances(**known | more)["Instances"][0]

    def interface(self, subnet: str, **more: Any) -> Any:
        return self.ec2.create_network_interface(SubnetId=subnet, **more)["NetworkInterface"]

    def address(self) -> str:
        return str(self.ec2.allocate_address(Domain="vpc")["AllocationId"])

    def permit(self, group: str, **rule: Any) -> Any:
        known = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
        return self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[known | rule])


@pytest.fixture
def account(world: World) -> Account:
    return Account(world)


@pytest.mark.parametrize("last", [0, 1, 2, 3, 255])
def test_the_five_addresses_that_aws_reserves_in_a_subnet_are_refused(last: int, account: Account) -> None:
    subnet = account.subnet(account.vpc())
    address = f"{account.net}.1.{last}"
    words = refusal(lambda: account.launch(SubnetId=subnet, PrivateIpAddress=address))
    assert words.startswith("InvalidParameterValue: ")
    assert "reserves in subnet" in words and f"{account.net}.1.4 to {account.net}.1.254 are free" in words
    assert "reserves" in refusal(
        lambda: account.interface(subnet, PrivateIpAddresses=[{"PrivateIpAddress": address, "Primary": True}])
    )
    cards = [{"DeviceIndex": 0, "SubnetId": subnet, "PrivateIpAddress": address}]
    assert "reserves" in refusal(lambda: account.launch(NetworkInterfaces=cards))


def test_an_address_outside_its_subnet_or_in_use_is_refused(account: Account) -> None:
    subnet = account.subnet(account.vpc())
    assert "is not in subnet" in refusal(lambda: account.launch(SubnetId=subnet, PrivateIpAddress=f"{account.net}.9.9"))
    ten = {"SubnetId": subnet, "PrivateIpAddress": f"{account.net}.1.10"}
    first = account.launch(**ten)["InstanceId"]
    words = refusal(lambda: account.launch(**ten))
    assert words.startswith("InvalidIPAddress.InUse: ") and first in words
    account.ec2.terminate_instances(InstanceIds=[first])
    again = account.launch(**ten)
    assert (again["InstanceId"] != first, again["PrivateIpAddress"]) == (True, f"{account.net}.1.10")


def test_a_security_group_of_another_vpc_or_of_none_is_refused(account: Account) -> None:
    foreign = account.group(other := account.vpc())
    own = account.group(vpc := account.vpc())
    subnet = account.subnet(vpc)
    words = refusal(lambda: account.launch(SubnetId=subnet, SecurityGroupIds=[foreign]))
    assert words.startswith("InvalidGroup.NotFound: ") and foreign in words and other in words
    cards = [{"DeviceIndex": 0, "SubnetId": subnet, "Groups": [own, foreign]}]
    assert foreign in refusal(lambda: account.launch(NetworkInterfaces=cards))
    assert foreign in refusal(lambda: account.interface(subnet, Groups=[foreign]))
    card = account.interface(subnet, Groups=[own])["NetworkInterfaceId"]
    change = account.ec2.modify_network_interface_attribute
    assert foreign in refusal(lambda: change(NetworkInterfaceId=card, Groups=[foreign]))
    assert foreign in refusal(lambda: account.permit(own, IpRanges=[], UserIdGroupPairs=[{"GroupId": foreign}]))
    assert "does not exist" in refusal(lambda: account.interface(subnet, Groups=["sg-0123456789abcdef0"]))


def test_what_faces_the_internet_is_refused_until_the_vpc_has_its_gateway(account: Account) -> None:
    vpc = account.vpc()
    subnet, address = account.subnet(vpc), account.address()
    card = account.interface(subnet)["NetworkInterfaceId"]

    def balancer(scheme: str) -> Any:
        return account.elb.create_load_balancer(Name=f"lb-{account.number()}", Type="network", Subnets=[subnet], Scheme=scheme)

    def gateway() -> Any:
        return account.ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)

    def bound() -> Any:
        return account.ec2.associate_address(AllocationId=address, NetworkInterfaceId=card)

    assert f"InvalidSubnet: VPC {vpc} has no internet gateway" in refusal(lambda: balancer("internet-facing"))
    mapped = {"Name": f"lb-{account.number()}", "Type": "network", "SubnetMappings": [{"SubnetId": subnet}]}
    assert f"InvalidSubnet: VPC {vpc} has no internet gateway" in refusal(lambda: account.elb.create_load_balancer(**mapped))
    assert f"Gateway.NotAttached: Network {vpc}" in refusal(gateway)
    assert f"Gateway.NotAttached: Network {vpc}" in refusal(bound)
    balancer("internal")
    account.attach(vpc)
    balancer("internet-facing")
    bound()


def test_reserved_addresses_go_to_whoever_names_them_and_to_no_other(account: Account) -> None:
    vpc = account.vpc(gateway=True)
    subnet = account.subnet(vpc, f"{account.net}.5.0/28")
    # Of sixteen addresses five are AWS's; these leave .4, .5, .6 and .7.
    reserve = account.ec2.create_subnet_cidr_reservation
    reserve(SubnetId=subnet, Cidr=f"{account.net}.5.8/29", ReservationType="explicit")
    assert "InvalidParameterValue" in refusal(
        lambda: reserve(SubnetId=subnet, Cidr=f"{account.net}.5.12/30", ReservationType="explicit")
    )
    assert "one of prefix, explicit" in refusal(
        lambda: reserve(SubnetId=subnet, Cidr=f"{account.net}.5.0/30", ReservationType="none")
    )
    nat = account.ec2.create_nat_gateway(SubnetId=subnet, AllocationId=account.address())["NatGateway"]["NatGatewayId"]
    found = account.ec2.describe_nat_gateways(NatGatewayIds=[nat])["NatGateways"][0]["NatGatewayAddresses"][0]["PrivateIp"]
    addresses = [found, *(account.interface(subnet)["PrivateIpAddress"] for _ in range(3))]
    assert sorted(addresses) == [f"{account.net}.5.{last}" for last in (4, 5, 6, 7)]
    assert "InsufficientFreeAddressesInSubnet" in refusal(lambda: account.interface(subnet))
    assert account.interface(subnet, PrivateIpAddress=f"{account.net}.5.9")["PrivateIpAddress"] == f"{account.net}.5.9"


def test_a_subnet_in_two_route_tables_and_a_second_route_are_refused(account: Account) -> None:
    vpc = account.vpc(gateway=True)
    subnet = account.subnet(vpc)
    tables = [account.ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"] for _ in range(2)]
    account.ec2.associate_route_table(SubnetId=subnet, RouteTableId=tables[0])
    words = refusal(lambda: account.ec2.associate_route_table(SubnetId=subnet, RouteTableId=tables[1]))
    assert words.startswith("Resource.AlreadyAssociated") and all(name in words for name in (subnet, *tables))
    way = account.ec2.describe_internet_gateways(Filters=[{"Name": "attachment.vpc-id", "Values": [vpc]}])
    gateway = way["InternetGateways"][0]["InternetGatewayId"]
    route = {"RouteTableId": tables[0], "DestinationCidrBlock": "0.0.0.0/0", "GatewayId": gateway}
    account.ec2.create_route(**route)
    assert refusal(lambda: account.ec2.create_route(**route)).startswith("RouteAlreadyExists: ")


def test_user_data_that_is_too_long_or_no_base64_is_refused(account: Account) -> None:
    subnet = account.subnet(account.vpc())
    account.launch(SubnetId=subnet, UserData="x" * 16384)
    words = refusal(lambda: account.launch(SubnetId=subnet, UserData="x" * 16385))
    assert words == "InvalidParameterValue: User data is limited to 16384 bytes before base64, and has 16385"

    # AWS's own library encodes it, so that a client which forgets to is played with the bytes that it would send.
    def spoil(params: Any, **_: Any) -> None:
        params["body"].update(UserData="not base64!")

    account.ec2.meta.events.register("before-call.ec2.RunInstances", spoil)
    try:
        words = refusal(lambda: account.launch(SubnetId=subnet, UserData="x"))
    finally:
        account.ec2.meta.events.unregister("before-call.ec2.RunInstances", spoil)
    assert words.startswith("InvalidUserData.Malformed: UserData is not base64")


def test_a_protected_instance_is_not_terminated(account: Account) -> None:
    host = account.launch(SubnetId=account.subnet(account.vpc()))["InstanceId"]
    account.ec2.modify_instance_attribute(InstanceId=host, DisableApiTermination={"Value": True})
    assert refusal(lambda: account.ec2.terminate_instances(InstanceIds=[host])).startswith("OperationNotPermitted: ")
    account.ec2.modify_instance_attribute(InstanceId=host, DisableApiTermination={"Value": False})
    account.ec2.terminate_instances(InstanceIds=[host])


def test_an_interface_of_a_living_instance_cannot_be_given_to_another(account: Account) -> None:
    card = account.interface(account.subnet(account.vpc()))["NetworkInterfaceId"]
    cards = [{"DeviceIndex": 0, "NetworkInterfaceId": card}]
    host = account.launch(NetworkInterfaces=cards)["InstanceId"]
    words = refusal(lambda: account.launch(NetworkInterfaces=cards))
    assert words.startswith("InvalidNetworkInterface.InUse: ") and host in words
    account.ec2.terminate_instances(InstanceIds=[host])
    second = account.launch(NetworkInterfaces=cards)
    assert second["NetworkInterfaces"][0]["NetworkInterfaceId"] == card
    account.ec2.terminate_instances(InstanceIds=[second["InstanceId"]])


def test_an_image_an_instance_type_and_a_zone_that_do_not_exist_are_refused(account: Account) -> None:
    subnet = account.subnet(vpc := account.vpc())
    assert "ami-0123" in refusal(lambda: account.launch(SubnetId=subnet, ImageId="ami-01234567"))
    assert "t99.huge" in refusal(lambda: account.launch(SubnetId=subnet, InstanceType="t99.huge"))
    zone = {"VpcId": vpc, "CidrBlock": f"{account.net}.8.0/24", "AvailabilityZone": f"{REGION}x"}
    assert f"{REGION}x" in refusal(lambda: account.ec2.create_subnet(**zone))


def test_a_protected_load_balancer_is_not_deleted(account: Account) -> None:
    subnet = account.subnet(account.vpc(gateway=True))
    made = account.elb.create_load_balancer(Name=f"lb-{account.number()}", Type="network", Subnets=[subnet])
    arn = made["LoadBalancers"][0]["LoadBalancerArn"]

    def protect(value: str) -> None:
        given = [{"Key": "deletion_protection.enabled", "Value": value}]
        account.elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=given)

    protect("true")
    assert refusal(lambda: account.elb.delete_load_balancer(LoadBalancerArn=arn)).startswith("OperationNotPermitted: ")
    protect("false")
    account.elb.delete_load_balancer(LoadBalancerArn=arn)


def test_a_parameter_under_a_key_that_cannot_encrypt_and_one_that_is_too_long_are_refused(world: World) -> None:
    kms, ssm = world.boto("kms"), world.boto("ssm")
    made = kms.create_key(Description="test")["KeyMetadata"]
    key, id = made["Arn"], made["KeyId"]
    kms.create_alias(AliasName="alias/own", TargetKeyId=id)
    for name in (id, key, "alias/own", key.replace(f"key/{id}", "alias/own")):
        check("ssm", "PutParameter", REGION, {"Value": "x", "KeyId": name})
    about = {"Name": f"/keyed/{world.number()}", "Type": "SecureString", "Value": "one"}
    assert refusal(lambda: kms.schedule_key_deletion(KeyId=id, PendingWindowInDays=1)).endswith("AWS takes 7 to 30")
    kms.schedule_key_deletion(KeyId=id, PendingWindowInDays=7)
    assert "InvalidKeyId" in refusal(lambda: ssm.put_parameter(**about, KeyId=key))
    assert "InvalidKeyId" in refusal(lambda: ssm.put_parameter(**about, KeyId=f"{key}0"))
    assert "at most 4096" in refusal(lambda: ssm.put_parameter(**about | {"Value": "x" * 4097}))
    assert "one of String, StringList, SecureString" in refusal(lambda: ssm.put_parameter(**about | {"Type": "SecretString"}))


def test_texts_tags_policies_and_days_are_those_that_aws_takes(world: World) -> None:
    iam, logs = world.boto("iam"), world.boto("logs")
    role = {"RoleName": f"role-{world.number()}", "AssumeRolePolicyDocument": TRUST}
    words = refusal(lambda: iam.create_role(**role, Tags=[{"Key": "team", "Value": "R&D (core)"}]))
    assert words.startswith("ValidationError: Tags: team has '&()'")
    iam.create_role(**role)
    assert "MalformedPolicyDocument" in refusal(
        lambda: iam.put_role_policy(RoleName=role["RoleName"], PolicyName="p", PolicyDocument="{")
    )
    logs.create_log_group(logGroupName=(group := f"/days/{world.number()}"))
    assert "retentionInDays is 2" in refusal(lambda: logs.put_retention_policy(logGroupName=group, retentionInDays=2))
    assert "InvalidParameterException" in refusal(lambda: logs.create_log_group(logGroupName="a b"))


IN, OUT, CHANGE = "ec2:AuthorizeSecurityGroupIngress", "ec2:AuthorizeSecurityGroupEgress", "ec2:ModifySecurityGroupRules"
NEEDS = "InvalidParameterValue: a rule for {} needs both FromPort and ToPort, 0 to 65535"
OUTSIDE = "InvalidParameterValue: ports {} to {} are not within 0 to 65535"
PREFIX_LISTS = "UnsupportedOperation: prefix lists are not enforced here; name CIDR blocks or security groups"


def allowed(**rule: Any) -> Params:
    return {"IpPermissions": [{"IpProtocol": "-1"}, rule]}


def new(**rule: Any) -> Params:
    return {"SecurityGroupRules": [{"SecurityGroupRuleId": "sgr-1"}, {"SecurityGroupRule": {"IpProtocol": "-1"} | rule}]}


@pytest.mark.parametrize(
    ("call", "params", "words"),
    [
        ("ssm:PutParameter", {"Value": "x" * 4096}, ""),
        ("ssm:PutParameter", {"Value": "x" * 4097}, "ValidationException: Value has 4097 bytes; tier Standard takes at most 4096"),
        ("ssm:PutParameter", {"Value": "é" * 2049}, "ValidationException: Value has 4098 bytes; tier Standard takes at most 4096"),
        ("ssm:PutParameter", {"Value": "x" * 8192, "Tier": "Advanced"}, ""),
        ("ssm:PutParameter", {"Value": "x" * 8193, "Tier": "Advanced"}, "ValidationException: Value has 8193 bytes; tier Advanced takes at most 8192"),
        ("ssm:PutParameter", {"Value": "x" * 8192, "Tier": "Intelligent-Tiering"}, ""),
        ("ssm:PutParameter", {"Value": "x", "KeyId": "alias/aws/ssm"}, ""),
        ("ssm:PutParameter", {"Value": "x", "KeyId": "alias/mine"}, "InvalidKeyId: alias/mine is no KMS key of this account and region"),
        ("kms:ScheduleKeyDeletion", {}, ""),
        ("kms:ScheduleKeyDeletion", {"PendingWindowInDays": 7}, ""),
        ("kms:ScheduleKeyDeletion", {"PendingWindowInDays": 30}, ""),
        ("kms:ScheduleKeyDeletion", {"PendingWindowInDays": 6}, "ValidationException: PendingWindowInDays is 6; AWS takes 7 to 30"),
        ("kms:ScheduleKeyDeletion", {"PendingWindowInDays": 31}, "ValidationException: PendingWindowInDays is 31; AWS takes 7 to 30"),
        ("logs:PutRetentionPolicy", {"retentionInDays": 3653}, ""),
        (
            "logs:PutRetentionPolicy", {"retentionInDays": 2},
            "InvalidParameterException: retentionInDays is 2; AWS takes 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, "
            "731, 1096, 1827, 2192, 2557, 2922, 3288, 3653",
        ),
        ("elbv2:CreateTargetGroup", {"TargetType": "ip"}, ""),
        ("elbv2:CreateTargetGroup", {}, "UnsupportedOperation: target groups of type instance are not carried here; use ip"),
        ("elbv2:CreateTargetGroup", {"TargetType": "lambda"}, "UnsupportedOperation: target groups of type lambda are not carried here; use ip"),
        ("ec2:AllocateAddress", {}, ""),
        ("ec2:AllocateAddress", {"Address": "203.0.113.254"}, ""),
        ("ec2:AllocateAddress", {"Address": "203.0.114.1"}, "UnsupportedOperation: Address 203.0.114.1 cannot be routed here; leave it out, or take one of 203.0.113.0/24"),
        (IN, allowed(IpProtocol="tcp", FromPort=1), NEEDS.format("tcp")),
        (IN, allowed(IpProtocol="UDP", ToPort=1), NEEDS.format("udp")),
        (OUT, {"IpProtocol": "17"}, NEEDS.format("17")),
        (IN, allowed(IpProtocol="icmp", FromPort=-1, ToPort=-1), ""),
        (IN, allowed(IpProtocol="tcp", FromPort=0, ToPort=65535), ""),
        (IN, allowed(IpProtocol="tcp", FromPort=0, ToPort=0), ""),
        (IN, allowed(IpProtocol="tcp", FromPort=65535, ToPort=65535), ""),
        (IN, allowed(IpProtocol="tcp", FromPort=-1, ToPort=1), OUTSIDE.format(-1, 1)),
        (IN, allowed(IpProtocol="tcp", FromPort=1, ToPort=65536), OUTSIDE.format(1, 65536)),
        (IN, allowed(IpProtocol="tcp", FromPort=65536, ToPort=1), OUTSIDE.format(65536, 1)),
        (CHANGE, new(IpProtocol="6", FromPort=5, ToPort=4), "InvalidParameterValue: FromPort 5 is above ToPort 4; the lower port comes first"),
        (CHANGE, new(IpProtocol="6", FromPort=5, ToPort=5), ""),
        (CHANGE, new(CidrIpv4="10.0.0.1/8"), "InvalidParameterValue: 10.0.0.1/8 is no network: 10.0.0.1/8 has host bits set"),
        (CHANGE, new(CidrIpv6="::1/64"), "InvalidParameterValue: ::1/64 is no network: ::1/64 has host bits set"),
        (IN, allowed(IpProtocol="-1", Ipv6Ranges=[{"CidrIpv6": "::1/64"}]), "InvalidParameterValue: ::1/64 is no network: ::1/64 has host bits set"),
        (IN, allowed(IpProtocol="-1", IpRanges=[{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "x"}]), "InvalidParameterValue: x is no network: 'x' does not appear to be an IPv4 or IPv6 network"),
        (IN, allowed(IpProtocol="-1", IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "Marathon's API"}]), """InvalidParameterValue: IpPermissions[1].IpRanges[0].Description has "'"; AWS takes 0 to 255 characters here"""),
        (OUT, {"IpProtocol": "-1", "CidrIp": "10.0.0.1/8"}, "InvalidParameterValue: 10.0.0.1/8 is no network: 10.0.0.1/8 has host bits set"),
        (OUT, allowed(IpProtocol="-1", PrefixListIds=[{"PrefixListId": "pl-1"}]), PREFIX_LISTS),
        (CHANGE, new(PrefixListId="pl-1"), PREFIX_LISTS),
        ("ec2:CreateVolume", {"VolumeType": "gp9"}, "InvalidParameterValue: VolumeType is 'gp9'; one of standard, io1, io2, gp2, sc1, st1, gp3 is needed"),
        (
            "elbv2:ModifyListener", {"DefaultActions": [{"Type": "forward"}, {"Type": "away"}]},
            "ValidationException: DefaultActions[1].Type is 'away'; one of forward, authenticate-oidc, authenticate-cognito, redirect, fixed-response",
        ),
        # moto has newer instance types than the model, and says itself what does not exist.
        ("ec2:RunInstances", {"InstanceType": "t99.huge"}, ""),
        ("ec2:RunInstances", {"SubnetId": "subnet-9", "PrivateIpAddress": "10.0.0.4"}, ""),
        ("ec2:CreateRoute", {"RouteTableId": "rtb-9", "DestinationCidrBlock": "0.0.0.0/0"}, ""),
        ("elbv2:DeleteLoadBalancer", {"LoadBalancerArn": "arn:none"}, ""),
        # What the API has no model or no rule of passes.
        ("ec2:DescribeRegions", {}, ""),
    ],
)  # fmt: skip
def test_a_limit_is_awss_own_to_the_last_number(call: str, params: Params, words: str) -> None:
    service, operation = call.split(":")
    said = ""
    try:
        check(service, operation, REGION, params)
    except ApiError as error:
        said = f"{error.code}: {error}"
    assert said.startswith(words) if words else said == ""


def test_every_rule_has_a_source_and_a_test_here_that_names_its_code() -> None:
    own = Path(__file__).read_text()
    for rule in RULES:
        assert rule.source and rule.calls
        assert rule.code in own or rule.code == "ValidationException", rule.code


# --- moto's faults, as the real AWS provider saw them


def test_a_rule_has_its_description_whatever_its_peer(account: Account) -> None:
    group = account.group(vpc := account.vpc())
    pair = {"GroupId": account.group(vpc), "Description": "from the other"}
    made = account.permit(group, IpRanges=[], UserIdGroupPairs=[pair])["SecurityGroupRules"][0]
    rules = account.ec2.describe_security_group_rules(SecurityGroupRuleIds=[made["SecurityGroupRuleId"]])["SecurityGroupRules"]
    assert (made["Description"], rules[0]["Description"]) == ("from the other", "from the other")


@pytest.mark.parametrize("ports", [{}, {"FromPort": -1, "ToPort": -1}])
def test_a_protocol_without_ports_needs_none(ports: dict[str, int], account: Account) -> None:
    group = account.group(account.vpc())
    rule = {"IpProtocol": "50", "IpRanges": [{"CidrIp": "10.0.0.0/8"}], **ports}
    account.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    seen = account.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert seen[0]["IpProtocol"] == "50"


def test_an_instance_has_its_groups_and_they_can_be_changed(account: Account) -> None:
    vpc = account.vpc()
    groups = [account.group(vpc) for _ in range(2)]
    subnet = account.subnet(vpc)
    for how in (
        {"SubnetId": subnet, "SecurityGroupIds": groups[:1]},
        {"NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": subnet, "Groups": groups[:1]}]},
    ):
        host = account.launch(**how)["InstanceId"]

        def of(host: str = host) -> tuple[list[str], ...]:
            found = account.ec2.describe_instances(InstanceIds=[host])["Reservations"][0]["Instances"][0]
            both = (found["SecurityGroups"], found["NetworkInterfaces"][0]["Groups"])
            return tuple([group["GroupId"] for group in some] for some in both)

        assert of() == (groups[:1], groups[:1])
        account.ec2.modify_instance_attribute(InstanceId=host, Groups=groups[1:])
        assert of() == (groups[1:], groups[1:])


def test_a_terminated_instance_leaves_no_interface_no_root_disk_and_no_address_and_its_volumes_stay(account: Account) -> None:
    vpc = account.vpc()
    subnet = account.subnet(vpc)
    kept = account.interface(subnet)["NetworkInterfaceId"]
    data = account.ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1)["VolumeId"]
    before = {v["VolumeId"] for v in account.ec2.describe_volumes()["Volumes"]}
    disk = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 9, "DeleteOnTermination": True}}]
    for how in (
        {"SubnetId": subnet},
        {"SubnetId": subnet, "BlockDeviceMappings": disk},
        {"NetworkInterfaces": [{"DeviceIndex": 0, "NetworkInterfaceId": kept}]},
    ):
        host = account.launch(**how)["InstanceId"]
        account.ec2.attach_volume(VolumeId=data, InstanceId=host, Device="/dev/sdf")
        account.ec2.terminate_instances(InstanceIds=[host])
        assert account.ec2.describe_volumes(VolumeIds=[data])["Volumes"][0]["State"] == "available"
        (left,) = account.ec2.describe_network_interfaces(Filters=[{"Name": "subnet-id", "Values": [subnet]}])[
            "NetworkInterfaces"
        ]
        assert (left["NetworkInterfaceId"], left["Status"], "Attachment" in left) == (kept, "available", False)
        gone = account.ec2.describe_instances(InstanceIds=[host])["Reservations"][0]["Instances"][0]
        assert (gone["State"]["Name"], gone["NetworkInterfaces"]) == ("terminated", [])
    assert {v["VolumeId"] for v in account.ec2.describe_volumes()["Volumes"]} == before


def test_a_deleted_nat_gateway_leaves_no_interface_and_frees_its_address(account: Account) -> None:
    subnet = account.subnet(account.vpc(gateway=True))
    address = account.address()
    nat = account.ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)["NatGateway"]["NatGatewayId"]
    account.ec2.delete_nat_gateway(NatGatewayId=nat)
    assert (
        account.ec2.describe_network_interfaces(Filters=[{"Name": "subnet-id", "Values": [subnet]}])["NetworkInterfaces"] == []
    )
    assert not account.ec2.describe_addresses(AllocationIds=[address])["Addresses"][0].get("AssociationId")
    account.ec2.release_address(AllocationId=address)
