"""Talks to the providers as the engine does, and to the command line as a user does."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from pulumi.runtime.proto import provider_pb2 as pb
from pulumi.runtime.proto.provider_pb2_grpc import ResourceProviderStub

from localcloud import cloud as clouds
from localcloud.cloud import Cloud
from localcloud.engine import enclosed
from localcloud.paths import REPOSITORY
from localcloud.provider.values import Props, decode, encode, plain
from tests.host.support import left_out

PROGRAMS = Path(__file__).with_name("programs")
REGION = "eu-west-1"
NOBODY = 65534


@dataclass
class Change:
    """A Diff's answer. paths: changed property → its kind; replaces: the properties that replace."""

    paths: dict[str, str]
    replaces: list[str]


class Client:
    """A provider (aws or command) of a cloud over its real socket, configured for a region."""

    _count = itertools.count()

    def __init__(self, cloud: Cloud, provider: str, config: Props) -> None:
        # A connection of its own, as the engine has one for each provider resource, carried as the engine's are.
        listener, path = socket.socket(socket.AF_UNIX), cloud.folder / f"client-{os.getpid()}-{next(self._count)}"
        listener.bind(str(path))
        listener.listen()
        carried = (listener, lambda: enclosed.provider(str(cloud.folder), provider))
        threading.Thread(target=enclosed.pass_on, args=carried, daemon=True).start()
        self.channel = grpc.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = ResourceProviderStub(self.channel)
        answer = self.stub.CheckConfig(pb.CheckRequest(news=encode(config)))
        assert not answer.failures, answer.failures
        self.stub.Configure(pb.ConfigureRequest(args=encode(config), acceptSecrets=True))

    def check(self, type: str, inputs: Props, old: Props | None = None, name: str = "thing") -> tuple[Props, list[str]]:
        """The checked inputs and the failures."""
        request = pb.CheckRequest(
            urn=urn(type, name), type=type, name=name, news=encode(inputs), olds=encode(old or {}), randomSeed=b"seed"
        )
        answer = self.stub.Check(request)
        return decode(answer.inputs), [failure.reason for failure in answer.failures]

    def create(
        self, type: str, inputs: Props, name: str = "thing", preview: bool = False, timeout: float = 0
    ) -> tuple[str, Props]:
        """timeout: the resource's custom one, in seconds; 0 for none."""
        checked, failures = self.check(type, inputs, name=name)
        assert not failures, failures
        request = pb.CreateRequest(
            urn=urn(type, name), type=type, name=name, properties=encode(checked), preview=preview, timeout=timeout
        )
        answer = self.stub.Create(request)
        return answer.id, decode(answer.properties)

    def diff(self, type: str, id: str, outputs: Props, old: Props, new: Props) -> Change:
        request = pb.DiffRequest(
            urn=urn(type), type=type, id=id, olds=encode(outputs), old_inputs=encode(old), news=encode(new)
        )
        answer = self.stub.Diff(request)
        kinds = {path: pb.PropertyDiff.Kind.Name(diff.kind) for path, diff in answer.detailedDiff.items()}
        assert (answer.changes == pb.DiffResponse.DIFF_SOME) == bool(kinds)
        return Change(kinds, list(answer.replaces))

    def update(self, type: str, id: str, outputs: Props, old: Props, new: Props) -> Props:
        request = pb.UpdateRequest(
            urn=urn(type), type=type, id=id, olds=encode(outputs), old_inputs=encode(old), news=encode(new)
        )
        return decode(self.stub.Update(request).properties)

    def read(self, type: str, id: str, outputs: Props | None = None, inputs: Props | None = None) -> tuple[str, Props, Props]:
        """Id (empty where it is gone), outputs, inputs."""
        request = pb.ReadRequest(urn=urn(type), type=type, id=id, properties=encode(outputs or {}), inputs=encode(inputs or {}))
        answer = self.stub.Read(request)
        return answer.id, decode(answer.properties), decode(answer.inputs)

    def delete(self, type: str, id: str, outputs: Props) -> None:
        self.stub.Delete(pb.DeleteRequest(urn=urn(type), type=type, id=id, properties=encode(outputs)))

    def invoke(self, token: str, args: Props) -> Props:
        answer = self.stub.Invoke(pb.InvokeRequest(tok=token, args=encode(args)))
        assert not answer.failures, answer.failures
        return plain(decode(getattr(answer, "return")))


def urn(type: str, name: str = "thing") -> str:
    return f"urn:pulumi:test::test::{type}::{name}"


def refusal(call: Callable[[], Any]) -> str:
    """The message with which the provider refuses a call."""
    try:
        call()
    except grpc.RpcError as error:
        return str(error.details())  # pyright: ignore[reportAttributeAccessIssue]
    raise AssertionError("the call was not refused")


class World:
    """A running cloud with both providers, and the means to look behind them."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.aws = Client(cloud, "aws", {"region": REGION})
        self.command = Client(cloud, "command", {})
        self._count = 0

    def boto(self, service: str, region: str = REGION) -> Any:
        return self.cloud.api(region).client(service)

    def number(self) -> int:
        """A number that no other test of this cloud has."""
        self._count += 1
        return self._count

    def vpc(self) -> str:
        return self.aws.create("aws:ec2/vpc:Vpc", {"cidrBlock": f"10.{self.number() + 100}.0.0/16"})[0]

    def open_vpc(self) -> str:
        """A VPC with an internet gateway."""
        vpc = self.vpc()
        self.aws.create("aws:ec2/internetGateway:InternetGateway", {"vpcId": vpc})
        return vpc

    def cidr(self, vpc: str) -> str:
        """The first two numbers of a VPC's addresses."""
        found = self.boto("ec2").describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["CidrBlock"]
        return ".".join(found.split(".")[:2])

    def subnet(self, vpc: str, third: int = 1, zone: str = "a") -> str:
        inputs = {"vpcId": vpc, "cidrBlock": f"{self.cidr(vpc)}.{third}.0/24", "availabilityZone": f"{REGION}{zone}"}
        return self.aws.create("aws:ec2/subnet:Subnet", inputs)[0]

    def group(self, vpc: str) -> str:
        name = f"group-{self.number()}"
        return self.aws.create("aws:ec2/securityGroup:SecurityGroup", {"vpcId": vpc, "description": "test"}, name)[0]

    def image(self) -> str:
        args = {"owners": ["136693071363"], "filters": [{"name": "name", "values": ["debian-12-amd64-*"]}], "mostRecent": True}
        return str(self.aws.invoke("aws:ec2/getAmi:getAmi", args)["id"])

    def host(self, vpc: str, subnet: str, last: int, **more: Any) -> Props:
        """Inputs of an instance at the given last number of its address."""
        third = self.boto("ec2").describe_subnets(SubnetIds=[subnet])["Subnets"][0]["CidrBlock"].split(".")[2]
        return {
            "ami": self.image(),
            "instanceType": "t3.micro",
            "subnetId": subnet,
            "privateIp": f"{self.cidr(vpc)}.{third}.{last}",
            **more,
        }


def start_world(folder: Path) -> World:
    return World(clouds.start(folder, REGION, ephemeral=True))


# Seconds for one run of the engine: a minute for prod on a quiet machine.
DEADLINE = 900


def given(sets: Iterable[str]) -> list[str]:
    """As options of the command line."""
    return [option for value in sets for option in ("--set", value)]


# --- the command line ---------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def changes(self) -> dict[str, int]:
        return self.json["changes"]


@dataclass
class Local:
    """`python -m localcloud` on a run directory of its own."""

    run_dir: Path

    @property
    def folder(self) -> Path:
        return self.run_dir / "local"

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "APOLLO_RUN_DIR": str(self.run_dir)}

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "localcloud", *argv], cwd=REPOSITORY, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *argv: str) -> Said:
        process = self.start(*argv)
        out, err = process.communicate(timeout=DEADLINE)
        return Said(process.returncode, out, err)

    @property
    def cloud(self) -> Cloud:
        found = clouds.find(self.folder)
        assert found is not None
        return found

    def client(self, service: str) -> Any:
        return self.cloud.api().client(service)

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]


@dataclass
class CommandLine(Local):
    """With a small program in place of the real one."""

    program: Path = PROGRAMS / "small"
    extra: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, **self.extra, "APOLLO_PROGRAM": str(self.program)}

    @property
    def state(self) -> Path:
        return self.folder / "state" / ".pulumi" / "stacks" / self.program.name / "local.json"

    def up(self, *sets: str) -> Said:
        return self.run("up", "--json", *given(sets))

    def resources(self) -> list[str]:
        """Names of what the state holds."""
        latest = json.loads(self.state.read_text())["checkpoint"]["latest"]
        return [resource["urn"].split("::")[-1] for resource in latest.get("resources", [])]

    def close(self) -> None:
        """Ends whatever cloud is left."""
        found = clouds.find(self.folder)
        if found and found.alive():
            found.stop()


def keep_record(run_dir: Path, record: Any, name: str = "settings") -> None:
    """Puts a record of settings into the state of the stack local in place of its own, under a name: a test's way back."""
    path = run_dir / "local" / "state" / ".pulumi" / "stacks" / "apollo" / "local.json"
    state = json.loads(re.sub(r"(pulumi:index:Stash::)\w+", rf"\g<1>{name}", path.read_text()))
    (kept,) = (r for r in state["checkpoint"]["latest"]["resources"] if r["type"] == "pulumi:index:Stash")
    kept["inputs"] = {"input": record}
    kept["outputs"] = {"input": record, "output": record}
    path.write_text(json.dumps(state))


def processes(chosen: Callable[[str, Path], bool]) -> list[str]:
    """Command lines of the living processes that are chosen by theirs and their folder of /proc."""
    found: list[str] = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if line and chosen(line, place):
                found.append(line)
    return found


def family(run_dir: Path) -> list[str]:
    """Command lines of living processes that work in the run directory, the cloud's own aside."""
    here = str(run_dir).encode()
    return processes(lambda line, at: here in (at / "environ").read_bytes() and "localcloud.daemon" not in line)


def naming(folder: Path) -> list[str]:
    """Command lines of living processes that name something in the folder."""
    return processes(lambda line, _: f"{folder}/" in line)


def end(process: subprocess.Popen[str], number: signal.Signals) -> Said:
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    return Said(process.returncode, out, err)


def names(steps: Sequence[dict[str, str]], op: str) -> list[str]:
    return sorted(step["name"] for step in steps if step["op"] == op)


def as_nobody(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs argv as another user of this machine."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        left_out("another user of this machine: becoming one takes root and setpriv")
    other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # No interpreter of root's own can be read by others.
    return subprocess.run([*other, *argv], capture_output=True, text=True, cwd="/", check=False)
