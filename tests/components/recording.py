"""Runs the whole program under Pulumi mocks and keeps every registration with its options, and the exports.

The stock mock monitor drops parent, ignore_changes, replacement_trigger, dependencies and exports, and lets a second
resource of one name overwrite the first; this one keeps the former and refuses the latter.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import runpy
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import yaml
from google.protobuf import empty_pb2, json_format
from pulumi.runtime import mocks, rpc, settings
from pulumi.runtime.config import set_all_config
from pulumi.runtime.stack import run_in_stack

from localcloud.paths import REPOSITORY
from plan.secrets import SECRETS

ACCOUNT = "123456789012"
IMAGE = "ami-0123456789abcdef0"
# What marks a wrapped value, such as a secret, in the engine's protocol.
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
TEST_CERTIFICATE = "".join(
    f"-----BEGIN {kind}-----\nvalue-of-{kind[-3:]}\n-----END {kind}-----\n" for kind in ("PRIVATE KEY", "CERTIFICATE")
)


def mock_arn(type_: str, name: str) -> str:
    """What the mocks take for the ARN of a resource: of two types that share a name, each has its own."""
    return f"arn:aws:test:eu-west-1:{ACCOUNT}:{type_.rpartition(':')[2]}:{name}"


def _text(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


_PUBLIC = _text(b"ssh-ed25519") + _text(bytes(32))
# Of _host_key.
TEST_PUBLIC_KEY = f"ssh-ed25519 {base64.b64encode(_PUBLIC).decode()}"


def _host_key() -> str:
    """A key in OpenSSH's format, whose public half is all zeros."""
    blob = b"openssh-key-v1\0" + _text(b"none") * 3 + (1).to_bytes(4, "big") + _text(_PUBLIC)
    name = "OPENSSH " + "PRIVATE KEY"
    return f"-----BEGIN {name}-----\n{base64.b64encode(blob).decode()}\n-----END {name}-----\n"


TEST_SECRETS = {secret.key: f"value-of-{secret.key}" for secret in SECRETS} | {"sshHostKey": _host_key()}


@dataclass(frozen=True)
class Registration:
    """One RegisterResource call. inputs: plain values, unknown ones absent. request: the call itself, with all its options."""

    type: str
    name: str
    urn: str
    inputs: dict[str, Any]
    request: Any

    @property
    def dependencies(self) -> set[str]:
        return set(self.request.dependencies)


@dataclass
class Recording:
    resources: dict[str, Registration] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    # What each component says of itself, and what the cloud answered, by URN.
    told: dict[str, Any] = field(default_factory=dict)
    made: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, type_: str) -> dict[str, Registration]:
        """Registrations of a type by their logical name."""
        return {r.name: r for r in self.resources.values() if r.type == type_}

    def named(self, type_: str, name: str) -> Registration:
        return self.of(type_)[name]


# Answers a look-up by its token and arguments; None for one that it does not know.
Lookups = Callable[[str, dict[str, Any]], dict[str, Any] | None]


class _Cloud(mocks.Mocks):
    """exports: what a stack reference finds."""

    def __init__(self, exports: Mapping[str, Any], lookups: Lookups) -> None:
        self._exports, self._lookups = exports, lookups

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        if args.typ == "pulumi:pulumi:StackReference":
            return args.name, {"name": args.name, "outputs": dict(self._exports), "secretOutputNames": []}
        state: dict[str, Any] = {"arn": mock_arn(args.typ, args.name), **args.inputs}
        if args.typ == "aws:ec2/eip:Eip":
            state |= {"publicIp": "203.0.113.10", "publicDns": "ec2-203-0-113-10.example.com"}
        if args.typ == "aws:lb/loadBalancer:LoadBalancer":
            state["dnsName"] = "balancer.example.com"
        if args.typ.startswith("aws:iam/"):
            state.setdefault("name", args.name)
        return f"{args.name}-id", state

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        if (answer := self._lookups(args.token, args.args)) is not None:
            return answer, []
        if args.token == "aws:ec2/getAmi:getAmi":
            return {**args.args, "id": IMAGE}, []
        if args.token == "aws:ec2/getSubnet:getSubnet":
            return {**args.args, "cidrBlock": "10.0.0.0/19"}, []
        raise AssertionError(f"the program looked up {args.token}, which these mocks do not know")


class _RecordingMonitor(mocks.MockMonitor):
    def __init__(self, recording: Recording, preview: bool, exports: Mapping[str, Any], lookups: Lookups) -> None:
        super().__init__(_Cloud(exports, lookups))
        self._recording, self._preview = recording, preview

    def RegisterResource(self, request: Any) -> Any:
        response = super().RegisterResource(request)
        if request.type != "pulumi:pulumi:Stack":
            if response.urn in self._recording.resources:
                raise AssertionError(f"two resources are named {response.urn}")
            inputs = _plain(rpc.deserialize_properties(request.object))
            self._recording.resources[response.urn] = Registration(request.type, request.name, response.urn, inputs, request)
            self._recording.made[response.urn] = _plain(rpc.deserialize_properties(response.object))
        if self._preview and request.custom:
            # As the engine answers in a preview: an id and what the cloud decides are not known yet.
            response.id = ""
            response.object.CopyFrom(request.object)
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:
        if request.urn.split("::")[2] == "pulumi:pulumi:Stack":
            self._recording.outputs = json_format.MessageToDict(request.outputs)
        else:
            self._recording.told[request.urn] = _plain(rpc.deserialize_properties(request.outputs))
        return empty_pb2.Empty()


def traces(value: str) -> list[str]:
    """What of a secret would be found wherever it is: its lines, less those that every secret of its kind has. Its characters
    between line breaks stay the same in JSON, in a Python literal and in a shell's."""
    return [line for line in value.splitlines() if line and not line.startswith("-----")]


def plain_text(message: Any) -> str:
    """What of a registration or of outputs stands in the state in plain text: all but what is wrapped as a secret."""

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return "[secret]" if value.get(_SIGNATURE) == _SECRET else {key: shown(inner) for key, inner in value.items()}
        return [shown(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(shown(json_format.MessageToDict(message)))


def stack_config(stack: str, folder: Path = REPOSITORY) -> dict[str, Any]:
    """The configuration in Pulumi.<stack>.yaml, as keys and values."""
    return yaml.safe_load((folder / f"Pulumi.{stack}.yaml").read_text()).get("config") or {}


# What was run, by everything that it depends on.
_RAN: dict[str, Recording] = {}


def run_program(
    stack: str = "dev",
    config: Mapping[str, Any] | None = None,
    *,
    secrets: Mapping[str, str] | str = TEST_SECRETS,
    preview: bool = False,
    lookups: Lookups | None = None,
) -> Recording:
    """Runs __main__.py with `config` (default: the stack's file) and `apollo:secrets`; raises what the program raises.

    As on the embedded cloud, so that images may be named by tags, unless the configuration has None for awsEndpoint. It is for
    reading: what was run with the same before is not run again.
    """
    given: dict[str, Any] = dict(stack_config(stack) if config is None else config)
    given.setdefault("apollo:edgeCertificate", TEST_CERTIFICATE)
    if given.setdefault("apollo:awsEndpoint", "http://169.254.169.250:4566") is None:
        del given["apollo:awsEndpoint"]
    given["apollo:secrets"] = secrets if isinstance(secrets, str) else dict(secrets)
    if lookups:
        return _run(REPOSITORY, "apollo", stack, given, preview, {}, lookups)
    key = json.dumps([stack, given, preview, os.environ.get("AWS_REGION")], sort_keys=True)
    if key not in _RAN:
        _RAN[key] = _run(REPOSITORY, "apollo", stack, given, preview, {})
    return _RAN[key]


def run_consumer(exports: Mapping[str, Any]) -> Recording:
    """Runs examples/consumer beside a stack with these exports."""
    folder = REPOSITORY / "examples" / "consumer"
    given = {**stack_config("local", folder), "apollo-consumer:adminPrivateKey": "value-of-adminPrivateKey"}
    return _run(folder, "apollo-consumer", "local", given, False, exports)


def _run(
    folder: Path,
    project: str,
    stack: str,
    config: Mapping[str, Any],
    preview: bool,
    exports: Mapping[str, Any],
    lookups: Lookups = lambda *_: None,
) -> Recording:
    recording = Recording()
    encoded = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    failures: list[BaseException] = []

    def run() -> None:
        settings.configure(
            mocks.MockSettings(
                monitor=_RecordingMonitor(recording, preview, exports, lookups),
                engine=mocks.MockEngine(None),
                project=project,
                stack=stack,
                dry_run=preview,
                organization="organization",
            )
        )
        settings.set_root_resource(None)  # pyright: ignore[reportArgumentType]
        set_all_config(encoded, ["apollo:secrets", "apollo:edgeCertificate", "apollo-consumer:adminPrivateKey"])
        try:
            asyncio.run(run_in_stack(lambda: _program(folder)))
        except BaseException as error:  # handed to the caller's thread
            failures.append(error)

    # Pulumi's runtime lives in context variables: a thread of its own starts with none of an earlier program's.
    thread = threading.Thread(target=run, name=f"program-{stack}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return recording


def _plain(value: Any) -> Any:
    """Secrets unwrapped, so that tests read values; whether one is secret is seen in the request itself."""
    if isinstance(value, dict):
        return _plain(value["value"]) if _SIGNATURE in value else {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _program(folder: Path) -> None:
    # A program finds what lies beside it, as under the language host.
    sys.path.insert(0, str(folder))
    try:
        runpy.run_path(str(folder / "__main__.py"), run_name="__main__")
    finally:
        sys.path.remove(str(folder))


__all__ = ["Recording", "Registration", "pulumi", "run_consumer", "run_program", "stack_config"]
