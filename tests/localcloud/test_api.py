"""Who may call the embedded cloud's API, and what comes of a call that is none."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from moto.iam.models import IAMBackend

from components.programs import tls_only
from components.security import policy
from host.apollo import parameters
from localcloud.api import moto_policies
from localcloud.api.client import ACCOUNT, Aws, Keys
from localcloud.api.server import Api
from localcloud.paths import REPOSITORY
from tests.host.support import left_out

from .support import REGION, World, as_nobody

SOCKETS = ("control", "aws", "command")
FORM = "application/x-www-form-urlencoded; charset=utf-8"
TRUST = '{"Version":"2012-10-17","Statement":[]}'


def send(world: World, body: bytes, headers: dict[str, str], method: str = "POST", path: str = "/") -> tuple[int, str]:
    connection = HTTPConnection(world.cloud.endpoint.removeprefix("http://"), timeout=30)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def signed(
    world: World, service: str, body: bytes, headers: dict[str, str], path: str = "/", keys: Credentials | None = None
) -> dict[str, str]:
    known = world.cloud.keys
    request = AWSRequest("POST", f"{world.cloud.endpoint}{path}", headers, body)
    SigV4Auth(keys or Credentials(known["id"], known["secret"]), service, REGION).add_auth(request)
    return dict(request.headers)


def call(world: World, service: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    return send(world, body, signed(world, service, body, headers))


def refused(act: Callable[[], Any]) -> tuple[str, str]:
    """The code and the message that a client of AWS's own library gets."""
    with pytest.raises(ClientError) as caught:
        act()
    error: dict[str, Any] = caught.value.response["Error"]  # pyright: ignore[reportTypedDictNotRequiredAccess, reportAssignmentType]
    return str(error["Code"]), str(error["Message"])


# --- who may


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"aws_access_key_id": "AKIAAAAAAAAAAAAAAAAA"}, "InvalidClientTokenId"),
        ({"aws_secret_access_key": "guessed"}, "SignatureDoesNotMatch"),
    ],
)
def test_a_call_signed_with_another_key_is_refused(world: World, change: dict[str, str], code: str) -> None:
    keys = {"aws_access_key_id": world.cloud.keys["id"], "aws_secret_access_key": world.cloud.keys["secret"], **change}
    for service, ask in (("ec2", "describe_vpcs"), ("ssm", "describe_parameters"), ("s3", "list_buckets")):
        client: Any = boto3.client(service, region_name=REGION, endpoint_url=world.cloud.endpoint, **keys)  # pyright: ignore
        assert refused(getattr(client, ask))[0] == code


@pytest.mark.parametrize("path", ["/", "/moto-api/reset", "/moto-api/data.json", "/latest/meta-data/", "/apollo-cloud/machine"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT"])
def test_nothing_is_served_to_a_caller_without_a_signature(world: World, path: str, method: str) -> None:
    for headers in ({}, {"Origin": "https://evil.example", "Content-Type": "text/plain"}):
        status, text = send(world, b"Action=TerminateInstances&Version=2016-11-15", headers, method, path)
        assert status == 403, text
        assert "Access-Control" not in text


def test_what_is_changed_on_the_way_is_refused(world: World) -> None:
    body = b"Action=DescribeVpcs&Version=2016-11-15"
    headers = signed(world, "ec2", body, {"Content-Type": FORM})
    assert send(world, body, headers)[0] == 200
    assert "SignatureDoesNotMatch" in send(world, body.replace(b"Vpcs", b"Tags"), headers)[1]
    assert "SignatureDoesNotMatch" in send(world, body, headers, path="/?Action=CreateVpc")[1]
    assert "SignatureDoesNotMatch" in send(world, body, {**headers, "X-Amz-Date": "20200101T000000Z"})[1]


def test_a_key_is_a_file_that_its_owner_alone_reads(world: World) -> None:
    assert world.cloud.folder.stat().st_mode & 0o777 == 0o700
    for name in ("cloud.json", *SOCKETS):
        assert (world.cloud.folder / name).stat().st_mode & 0o777 == 0o600


def test_another_user_of_this_machine_gets_nowhere_with_the_api_and_the_sockets(world: World) -> None:
    curl = shutil.which("curl")
    if curl is None:
        left_out("another user's calls: there is no curl")
    for path in ("/", "/moto-api/reset", "/apollo-cloud/status", "/apollo-cloud/machine"):
        said = as_nobody([curl, "-s", "-o", "/dev/stderr", "-w", "%{http_code}", "-X", "POST", f"{world.cloud.endpoint}{path}"])
        assert said.stdout == "403"
    for name in SOCKETS:
        assert as_nobody([curl, "-s", "--unix-socket", str(world.cloud.folder / name), "http://localhost/"]).returncode != 0
    assert as_nobody(["cat", str(world.cloud.folder / "cloud.json")]).returncode != 0


# --- hosts


@pytest.fixture
def host(world: World) -> Callable[[str], Any]:
    """Makes clients with the credentials of an instance's role that may read one parameter and one bucket."""
    number = world.number()
    iam, ssm, s3 = (world.boto(service) for service in ("iam", "ssm", "s3"))
    name = f"host-{number}"
    statements = [
        {
            "Effect": "Allow",
            "Action": "ssm:GetParameters",
            "Resource": f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/{name}/mine",
        },
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{name}/*"]},
        {"Effect": "Deny", "Action": "s3:*", "Resource": f"arn:aws:s3:::{name}/hidden"},
        {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"},
    ]
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    iam.put_role_policy(
        RoleName=name, PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statements})
    )
    for key in ("mine", "other"):
        ssm.put_parameter(Name=f"/{name}/{key}", Type="SecureString", Value=key)
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    for key in ("seen", "hidden"):
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    given = world.boto("sts").assume_role(RoleArn=role, RoleSessionName="i-1")["Credentials"]
    keys = {"aws_access_key_id": given["AccessKeyId"], "aws_secret_access_key": given["SecretAccessKey"]}

    def client(service: str) -> Any:
        config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        made: Any = boto3.client(  # pyright: ignore
            service, region_name=REGION, endpoint_url=world.cloud.endpoint, config=config,  # pyright: ignore
            aws_session_token=given["SessionToken"], **keys,
        )  # fmt: skip
        made.name = name
        return made

    return client


def test_a_host_reads_what_its_role_may_read(host: Callable[[str], Any]) -> None:
    ssm, s3 = host("ssm"), host("s3")
    assert ssm.get_parameters(Names=[f"/{ssm.name}/mine"], WithDecryption=True)["Parameters"][0]["Value"] == "mine"
    assert s3.get_object(Bucket=s3.name, Key="seen")["Body"].read() == b"seen"


def test_a_host_does_nothing_else(host: Callable[[str], Any]) -> None:
    ssm, s3, ec2, iam = (host(service) for service in ("ssm", "s3", "ec2", "iam"))
    name = ssm.name
    attempts: list[Callable[[], Any]] = [
        lambda: ssm.get_parameters(Names=[f"/{name}/mine", f"/{name}/other"]),
        lambda: ssm.put_parameter(Name=f"/{name}/mine", Value="x", Overwrite=True),
        lambda: s3.get_object(Bucket=name, Key="hidden"),
        lambda: s3.put_object(Bucket=name, Key="seen", Body=b"x"),
        ec2.describe_instances,  # though its policy says ec2:*
        lambda: ec2.terminate_instances(InstanceIds=["i-0123456789abcdef0"]),
        lambda: iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument="{}"),
    ]
    for attempt in attempts:
        assert refused(attempt)[0].startswith("AccessDenied")


def test_the_hosts_own_program_reads_and_shares_by_the_signature_and_the_policy_that_it_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, name = world.cloud.api(), f"apollo-{world.number()}"
    s3, iam = api.client("s3"), api.client("iam")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_policy(Bucket=name, Policy=tls_only(f"arn:aws:s3:::{name}"))
    for key in ("programs/slave/one", "programs/control/one"):
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    statements: list[dict[str, object]] = [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{name}/programs/slave/*"},
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"arn:aws:s3:::{name}/images/*"},
    ]
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)
    iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy(*statements))
    given = api.client("sts").assume_role(RoleArn=f"arn:aws:iam::{ACCOUNT}:role/{name}", RoleSessionName="i-1")["Credentials"]
    keys = {**given, "Token": given["SessionToken"]}
    monkeypatch.setattr(parameters, "credentials", lambda: keys)
    monkeypatch.setattr(parameters, "secret", lambda _: name)
    monkeypatch.setattr(parameters, "facts", lambda: {"AWS_ENDPOINT": world.cloud.endpoint, "REGION": REGION})

    def read(key: str) -> bytes:
        with parameters.stored(key) as answer:
            return answer.read()

    assert read("programs/slave/one") == b"programs/slave/one"
    parameters.store("images/one", io.BytesIO(b"a piece"), hashlib.sha256(b"a piece").hexdigest())
    assert read("images/one") == b"a piece"
    for refused_ in (
        lambda: read("programs/control/one"),
        lambda: parameters.store("programs/slave/one", io.BytesIO(b"x"), hashlib.sha256(b"x").hexdigest()),
        lambda: parameters.store("images/one", io.BytesIO(b"x"), hashlib.sha256(b"y").hexdigest()),
    ):
        with pytest.raises(parameters.Unavailable, match="refuses: 403"):
            refused_()
    with pytest.raises(parameters.Unavailable, match="refuses: 404"):
        read("images/two")
    keys["SecretAccessKey"] += "x"
    with pytest.raises(parameters.Unavailable, match="SignatureDoesNotMatch"):
        read("programs/slave/one")


def test_a_host_cannot_have_another_call_read_into_its_own(world: World, host: Callable[[str], Any]) -> None:
    """moto would find an Action in a query, in text that looks like a form, and in a header."""
    client = host("ssm")
    keys = client._request_signer._credentials
    content = "application/x-amz-json-1.1"
    target = {"Content-Type": content, "X-Amz-Target": "AmazonSSM.GetParameters"}
    put = f"Action=PutParameter&Name=/{client.name}/mine&Value=stolen&Overwrite=true"
    own = json.dumps({"Names": [f"/{client.name}/mine"]}).encode()
    tricks: list[tuple[bytes, dict[str, str], str]] = [
        (own, target, f"/?{put}"),
        (put.encode(), {**target, "Content-Type": FORM}, "/"),
        (json.dumps({"Names": [f"/{client.name}/mine"], "x": f"&{put}&"}).encode(), target, "/"),
        (own, {**target, "Action": "PutParameter"}, "/"),
        (own, {**target, "Host": f"ec2.{REGION}.amazonaws.com"}, "/moto-api/reset"),
        (own, {**target, "Host": f"ec2.{REGION}.amazonaws.com"}, "/"),
    ]
    for body, headers, path in tricks:
        send(world, body, signed(world, "ssm", body, headers, path, keys), path=path)
        assert world.boto("ssm").get_parameter(Name=f"/{client.name}/mine", WithDecryption=True)["Parameter"]["Value"] == "mine"


def test_a_host_reads_nothing_of_another_region(world: World, host: Callable[[str], Any]) -> None:
    client = host("ssm")
    name = f"/{client.name}/mine"
    world.boto("ssm", "us-east-1").put_parameter(Name=name, Type="String", Value="of the other region")
    body = json.dumps({"Names": [name]}).encode()
    target = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.GetParameters"}
    for trick in ({"User-Agent": "x region/us-east-1"}, {"Host": "ssm.us-east-1.amazonaws.com"}):
        headers = signed(world, "ssm", body, {**target, **trick}, keys=client._request_signer._credentials)
        assert "of the other region" not in send(world, body, headers | trick)[1]


def test_an_object_that_everybody_may_read_needs_no_signature_and_no_other_is_given(world: World) -> None:
    s3, name = world.boto("s3"), f"open-{world.number()}"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=name, Key="open", Body=b"for all", ACL="public-read")
    s3.put_object(Bucket=name, Key="shut", Body=b"for me")
    assert send(world, b"", {}, "GET", f"/{name}/open") == (200, "for all")
    assert send(world, b"", {}, "GET", f"/{name}/shut")[0] == 403
    s3.put_object(Bucket=name, Key=f"{name}/open", Body=b"for me")
    for trick in ({"Host": f"{name}.s3.amazonaws.com"}, {"Host": f"{name}.localhost"}):
        assert send(world, b"", trick, "GET", f"/{name}/open")[0] == 403
    assert send(world, b"", {}, "PUT", f"/{name}/open")[0] == 403
    assert send(world, b"", {}, "GET", f"/{name}/open?acl")[0] == 403


# --- calls that are none


@pytest.mark.parametrize(
    ("service", "body", "headers", "code", "words"),
    [
        ("ec2", b"\xff\xfe garbage", {"Content-Type": FORM}, "MissingAction", "has no Action"),
        ("ec2", b"Action=RunInstancs&Version=2016-11-15", {"Content-Type": FORM}, "InvalidAction", "did you mean RunInstances"),
        ("ec2", b"Action=RunInstances&MinCount=few", {"Content-Type": FORM}, "MalformedQueryString", "RunInstances"),
        ("iam", b"Action=Nonsense", {"Content-Type": FORM}, "InvalidAction", "not valid for iam; it has"),
        ("ssm", b"{", {"X-Amz-Target": "AmazonSSM.GetParameters"}, "SerializationException", "is no JSON"),
        ("ssm", b"[]", {"X-Amz-Target": "AmazonSSM.GetParameters"}, "SerializationException", "one JSON object"),
        ("ssm", b"{}", {"X-Amz-Target": "AmazonSSM.GetParametrs"}, "InvalidAction", "did you mean GetParameters"),
        ("nosuch", b"", {}, "UnknownEndpoint", "nosuch"),
        ("ec2", b"Action=CreateFpgaImage&Version=2016-11-15", {"Content-Type": FORM}, "InternalError", "ec2:CreateFpgaImage"),
    ],
)
def test_a_call_that_is_none_is_refused_in_aws_s_form(
    world: World, service: str, body: bytes, headers: dict[str, str], code: str, words: str
) -> None:
    status, text = call(world, service, body, headers)
    assert (status, code in text, words in text) == (400, True, True), text
    assert text.startswith("{" if service == "ssm" else "<?xml")


def connected(world: World) -> socket.socket:
    host, _, port = world.cloud.endpoint.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)))


def head_of(world: World, body: bytes) -> bytes:
    """A call of EC2 up to its body."""
    lines = [f"{name}: {value}" for name, value in signed(world, "ec2", body, {"Content-Type": FORM}).items()]
    host = f"Host: {world.cloud.endpoint.removeprefix('http://')}"
    return "\r\n".join(["POST / HTTP/1.1", host, f"Content-Length: {len(body)}", *lines, "", ""]).encode()


def test_a_client_that_dies_in_the_middle_of_its_call_changes_nothing_and_holds_no_one_up(world: World) -> None:
    body = f"Action=CreateVpc&CidrBlock=10.{world.number()}.0.0/16&Version=2016-11-15".encode()
    head, before = head_of(world, body), len(world.boto("ec2").describe_vpcs()["Vpcs"])
    for sent in (b"", body[:10]):
        with connected(world) as connection:
            connection.sendall(head + sent)
            # Still open, and no one waits for it.
            assert len(world.boto("ec2").describe_vpcs()["Vpcs"]) == before
    assert len(world.boto("ec2").describe_vpcs()["Vpcs"]) == before


def test_an_answer_leaves_whole_for_clients_that_hang_up_after_its_headers(world: World) -> None:
    body = b"Action=DescribeRegions&Version=2016-11-15"
    with connected(world) as connection:
        connection.sendall(head_of(world, body) + body)
        answer = connection.recv(2**18)
    assert answer.startswith(b"HTTP/1.1 200") and answer.rstrip().endswith(b"</DescribeRegionsResponse>")


def test_a_launch_sent_once_more_with_its_token_is_the_same_launch(apart: Cloud) -> None:
    image = apart.ec2.describe_images(Owners=["136693071363"])["Images"][0]["ImageId"]
    vpc = apart.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = apart.ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    wanted = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, "SubnetId": subnet}
    wanted |= {"PrivateIpAddress": "10.0.0.33", "ClientToken": "once"}
    first, again = (apart.ec2.run_instances(**wanted)["Instances"][0]["InstanceId"] for _ in range(2))
    assert first == again
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        apart.ec2.run_instances(**wanted | {"PrivateIpAddress": "10.0.0.34"})


def test_two_clients_at_once_are_served_one_after_the_other(world: World) -> None:
    vpc = world.vpc()
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(world.subnet, vpc, number) for number in range(10, 50)]
    assert len({subnet.result() for subnet in made}) == 40
    with ThreadPoolExecutor(8) as pool:
        addresses = [pool.submit(world.boto("ec2").allocate_address, Domain="vpc") for _ in range(20)]
    taken = [address.result() for address in addresses]
    assert len({address["PublicIp"] for address in taken}) == 20
    for address in taken:
        world.boto("ec2").release_address(AllocationId=address["AllocationId"])


# --- the machines


class Cloud:
    """An API of its own in this process, with machines that only say whether they could be brought to match."""

    def __init__(self) -> None:
        self.keys, self.machines = Keys.new(), Keys.new()
        self.api = Api(0, self.keys, self.machines)
        threading.Thread(target=self.api.http.serve_forever, daemon=True).start()
        self.failures: dict[str, str] = {}
        self.looks = 0
        self.api.settle = self.settle
        self.ec2 = self.client(self.keys)

    def settle(self) -> dict[str, str]:
        self.looks += 1
        return self.failures

    def client(self, keys: Keys) -> Any:
        return Aws(self.api.endpoint, "eu-central-1", keys).client("ec2")

    def run(self) -> list[str]:
        image = self.ec2.describe_images(Owners=["136693071363"])["Images"][0]["ImageId"]
        vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = self.ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        try:
            answer = self.ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=2, MaxCount=2, SubnetId=subnet)
        finally:
            self.ec2.describe_instances()
        return [instance["InstanceId"] for instance in answer["Instances"]]


@pytest.fixture
def apart() -> Any:
    cloud = Cloud()
    yield cloud
    # moto's data outlives its server.
    own = cloud.client(cloud.machines)
    found = own.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running", "stopped"]}])
    if left := [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]]:
        own.terminate_instances(InstanceIds=left)
    cloud.api.http.shutdown()


def test_the_machines_are_brought_to_match_after_a_change_of_them_and_after_nothing_else(apart: Cloud) -> None:
    first, second = apart.run()
    assert apart.looks == 1, "one of four calls starts machines"
    apart.ec2.stop_instances(InstanceIds=[first])
    apart.ec2.create_tags(Resources=[first], Tags=[{"Key": "a", "Value": "b"}])
    assert apart.looks == 3
    apart.client(apart.machines).stop_instances(InstanceIds=[second])
    assert apart.looks == 3, "what the machines say of themselves starts no look at them"
    with pytest.raises(ClientError):
        apart.ec2.terminate_instances(InstanceIds=["i-0123456789abcdef0"])
    assert apart.looks == 3, "a refused call changes nothing"


def test_machines_that_cannot_be_brought_to_match_fail_the_call_that_is_about_them_and_no_other(apart: Cloud) -> None:
    first, second = apart.run()
    apart.failures = {first: "host-1 did not start; its console: oh dear"}
    code, message = refused(lambda: apart.ec2.start_instances(InstanceIds=[first]))
    assert (code, "oh dear" in message) == ("InternalError", True)
    apart.ec2.start_instances(InstanceIds=[second])
    apart.failures = {"": "the rules were refused by nft"}
    assert refused(lambda: apart.ec2.stop_instances(InstanceIds=[second]))[0] == "InternalError"
    apart.failures = {}
    apart.ec2.start_instances(InstanceIds=[first, second])


def test_instances_that_do_not_start_are_not_left_behind(apart: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_starts() -> dict[str, str]:
        found = apart.client(apart.machines).describe_instances(
            Filters=[{"Name": "instance-state-name", "Values": ["running"]}]
        )
        return {i["InstanceId"]: "did not start" for r in found["Reservations"] for i in r["Instances"]}

    monkeypatch.setattr(apart.api, "settle", none_starts)
    assert refused(apart.run) == ("InternalError", "did not start")
    states = {i["State"]["Name"] for r in apart.ec2.describe_instances()["Reservations"] for i in r["Instances"]}
    assert states <= {"terminated"}


def test_awss_own_policies_are_read_when_one_is_asked_for_and_not_before() -> None:
    moto_policies.install()
    backend = IAMBackend("aws", ACCOUNT)
    assert "aws_managed_policies" not in vars(backend)
    assert "arn:aws:iam::aws:policy/AdministratorAccess" in backend.managed_policies


def test_the_package_of_the_api_knows_nothing_of_the_program_that_the_cloud_is_for() -> None:
    ours = "[m for m in sys.modules if m.split('.')[0] in ('plan', 'ops', 'pulumi')]"
    script = f"import sys; import localcloud.api.server; print({ours})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
