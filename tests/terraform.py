"""The real AWS provider of Terraform, which Pulumi's own wraps, as a judge of what the program registers.

Registrations become Terraform's JSON by the provider's own schema: no property is listed here, and one that the provider does
not know is an error. Values of other resources become references again, so that the provider sees the true graph.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from localcloud.paths import cache_dir
from tests.components.recording import IMAGE, Recording, Registration, mock_arn
from tests.host.support import left_out

# An image of the embedded cloud, in the place of the one that the mocks make up.
AMI = "ami-0d12a0e1b8c53f7a2"
SOURCE = "registry.terraform.io/hashicorp/aws"
# Where Terraform itself looks for providers, and where people put a mirror of theirs.
MIRRORS = ("~/.terraform.d/plugins", "/usr/local/share/terraform/plugins", "/usr/share/terraform/plugins", "/opt/*")
# Run by the engine on this machine, or no resources of a cloud.
NOT_AWS = ("command:", "apollo:", "apollo-consumer:", "pulumi:")
# What the mocks answer with, by Pulumi's name.
MADE = {"publicIp": "public_ip", "publicDns": "public_dns", "dnsName": "dns_name"}
SECONDS = 600


def found_mirror() -> Path | None:
    """The folder that has the provider, where there is one."""
    cache = os.environ.get("TF_PLUGIN_CACHE_DIR")
    for pattern in (*([cache] if cache else []), *MIRRORS):
        top = Path(pattern).expanduser()
        for mirror in sorted(top.parent.glob(top.name)):
            if (mirror / SOURCE).is_dir():
                return mirror
    return None


def provider_mirror() -> Path:
    """The folder that has the provider. Where Terraform or the provider is missing, the test is left out and says so; with
    CI=true a Terraform without its provider is a failure."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on PATH: the real AWS provider judged nothing")
    mirror = found_mirror()
    if mirror is None:
        left_out(f"terraform is on PATH, its AWS provider in none of {', '.join(MIRRORS)} and $TF_PLUGIN_CACHE_DIR")
    return mirror


class Terraform:
    """A root module in `folder` with a module for each recording. environment: AWS's, to apply; without, nothing is called."""

    def __init__(self, folder: Path, recordings: Mapping[str, Recording], environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._mirror = provider_mirror()
        # Nobody's own configuration; the mirror is named.
        config = folder / "terraform.rc"
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text("")
        self._env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "TF_"))}
        self._env |= {"TF_CLI_CONFIG_FILE": str(config), "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
        self._env |= {"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
        self._env |= {"AWS_EC2_METADATA_DISABLED": "true", **(environment or {})}
        skipped = ("credentials_validation", "metadata_api_check", "region_validation")
        provider = {f"skip_{name}": True for name in skipped} | {"s3_use_path_style": True, "max_retries": 3}
        provider["skip_requesting_account_id"] = environment is None
        required = {"required_providers": {"aws": {"source": SOURCE}}}
        modules = {label(name): {"source": f"./{label(name)}"} for name in recordings}
        self._write(folder, {"terraform": required, "provider": {"aws": provider}, "module": modules})
        schemas = self._schemas()
        for name, recording in recordings.items():
            module = folder / label(name)
            module.mkdir(exist_ok=True)
            self._write(module, {"terraform": required, "resource": Translation(recording, schemas).resources()})
        self.run("init", "-input=false", f"-plugin-dir={self._mirror}")

    def validate(self) -> list[str]:
        """What the provider finds wrong without asking a cloud, a line each."""
        answer = json.loads(self.run("validate", "-json", check=False))
        return [_said(diagnostic) for diagnostic in answer["diagnostics"]]

    def changes(self, verb: str, *options: str) -> list[str]:
        """Plans, applies or destroys; "create ADDRESS" and alike for each change. AssertionError: it failed, or warned."""
        options = (*options, *([] if verb == "plan" else ["-auto-approve"]))
        lines = self.run(verb, "-json", "-input=false", "-parallelism=32", *options, check=False).splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        said = [_said(event["diagnostic"]) for event in events if event["type"] == "diagnostic"]
        assert not said, "\n".join(said)
        assert any(event["type"] == "change_summary" for event in events), lines[-5:]
        kind = "planned_change" if verb == "plan" else "apply_complete"
        if verb == "plan":
            return [f"{e['change']['action']} {e['change']['resource']['addr']}" for e in events if e["type"] == kind]
        return [f"{e['hook']['action']} {e['hook']['resource']['addr']}" for e in events if e["type"] == kind]

    def differences(self) -> dict[str, dict[str, tuple[Any, Any]]]:
        """What a plan would change though nothing was changed: address → attribute → before and after."""
        self.run("plan", "-input=false", "-parallelism=32", "-out=again")
        found: dict[str, dict[str, tuple[Any, Any]]] = {}
        for change in json.loads(self.run("show", "-json", "again")).get("resource_changes", []):
            before, after = change["change"]["before"] or {}, change["change"]["after"] or {}
            if change["change"]["actions"] != ["no-op"]:
                unlike = {key for key in {*before, *after} if before.get(key) != after.get(key)}
                found[change["address"]] = {key: (before.get(key), after.get(key)) for key in sorted(unlike)}
        return found

    def run(self, *arguments: str, check: bool = True) -> str:
        argv = ["terraform", *arguments]
        done = subprocess.run(
            argv, cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert not check or done.returncode == 0, f"terraform {arguments[0]}: {done.stderr[-3000:]}{done.stdout[-3000:]}"
        return done.stdout

    def _schemas(self) -> dict[str, Any]:
        """The provider's resources by name. Read once for a version: it takes a while to say."""
        (version,) = [path.name for path in sorted((self._mirror / SOURCE).iterdir())[-1:]]
        kept = cache_dir() / "terraform" / f"{version}.json"
        if not kept.exists():
            empty = self.folder / "schema"
            empty.mkdir()
            self._write(empty, {"terraform": {"required_providers": {"aws": {"source": SOURCE}}}})
            for arguments in (["init", f"-plugin-dir={self._mirror}"], ["providers", "schema", "-json"]):
                said = self.run(f"-chdir={empty}", *arguments)
            kept.parent.mkdir(parents=True, exist_ok=True)
            draft = kept.with_suffix(f".{os.getpid()}")
            draft.write_text(said)
            draft.rename(kept)
        return json.loads(kept.read_text())["provider_schemas"][SOURCE]["resource_schemas"]

    def _write(self, folder: Path, content: Mapping[str, Any]) -> None:
        (folder / "main.tf.json").write_text(json.dumps(content, indent=1))


@dataclass(frozen=True)
class Translation:
    """A recording as Terraform's resources. schemas: the provider's, by resource type. AssertionError: it has no such thing."""

    recording: Recording
    schemas: Mapping[str, Any]

    def resources(self) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {}
        for one in self.recording.resources.values():
            if one.type.startswith(NOT_AWS):
                continue
            block = self.schemas[self.type(one)]["block"]
            body = self.body(block, one.inputs, one, "")
            after = sorted({self.address(other) for urn in one.dependencies for other in self.custom(urn)})
            found.setdefault(self.type(one), {})[label(one.name)] = {**body, **({"depends_on": after} if after else {})}
        return found

    def type(self, one: Registration) -> str:
        _, module, name = one.type.split(":")
        name = snake(name).replace("load_balancer", "lb").replace("bucket_object", "object")
        candidates = (f"aws_{module.partition('/')[0]}_{name}", f"aws_{name}")
        known = [candidate for candidate in candidates if candidate in self.schemas]
        assert known, f"{one.type}: the provider has none of {', '.join(candidates)}"
        return known[0]

    def address(self, one: Registration) -> str:
        return f"{self.type(one)}.{label(one.name)}"

    def custom(self, urn: str) -> Iterator[Registration]:
        """The cloud's resources that a dependency stands for: itself, or a component's children."""
        one = self.recording.resources.get(urn)
        if one is not None and one.type.startswith("aws:"):
            yield one
        elif one is not None and not one.request.custom:
            for other in self.recording.resources.values():
                if other.request.parent == urn:
                    yield from self.custom(other.urn)

    def body(self, block: Mapping[str, Any], inputs: Mapping[str, Any], one: Registration, above: str) -> dict[str, Any]:
        attributes, blocks = block.get("attributes", {}), block.get("block_types", {})
        names = {plain: name for name in (*attributes, *blocks) for plain in (name.replace("_", ""),)}
        found: dict[str, Any] = {}
        for key, value in inputs.items():
            top = above or key
            if key == "primaryNetworkInterface" and "primary_network_interface" not in blocks:
                # Of versions before 6: the same under another name.
                key, value = "networkInterface", {**value, "deviceIndex": 0}
            name = next((names[form] for form in forms(key.lower()) if form in names), None)
            assert name is not None, f"{one.type} {one.name}: the provider has no {above and above + '.'}{key}"
            if name in blocks:
                items = cast(list[Any], value if isinstance(value, list) else [value])
                found[name] = [self.body(blocks[name]["block"], item, one, top) for item in items]
            else:
                many = isinstance(attributes[name].get("type"), list) and attributes[name]["type"][0] in ("list", "set")
                found[name] = self.value([value] if many and not isinstance(value, list) else value, one, top)
        return found

    def value(self, value: Any, one: Registration, key: str) -> Any:
        if isinstance(value, dict):
            return {name: self.value(item, one, key) for name, item in cast(dict[str, Any], value).items()}
        if isinstance(value, list):
            return [self.value(item, one, key) for item in cast(list[Any], value)]
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return self.referring(value, one, key) if isinstance(value, str) else value

    def referring(self, text: str, one: Registration, key: str) -> str:
        """The text with what is another resource's as a reference; only those that the property depends on are looked for."""
        given = one.request.propertyDependencies.get(key)
        known: dict[str, str] = {}
        for urn in given.urns if given else ():
            other = self.recording.resources.get(urn)
            if other is None or not other.type.startswith("aws:"):
                continue
            made = {"id": f"{other.name}-id", "arn": mock_arn(other.type, other.name)}
            if text == other.name and "name" not in other.inputs:
                made["name"] = text
            made |= {
                name: self.recording.made[urn][pulumi] for pulumi, name in MADE.items() if pulumi in self.recording.made[urn]
            }
            for name, value in made.items():
                reference = f"${{{self.address(other)}.{name}}}"
                either = known.setdefault(value, reference) != reference and value in text
                assert not either, f"{one.type} {one.name}: {key}: {value} is {known[value]} or {reference}"
        escaped = re.sub(r"([$%])\{", r"\1\1{", text).replace(IMAGE, AMI)
        longest = sorted(known, key=len, reverse=True)
        if longest:
            escaped = re.sub("|".join(map(re.escape, longest)), lambda match: known[match[0]], escaped)
        lost = "arn:aws:test:" in escaped or escaped in {f"{other.name}-id" for other in self.recording.resources.values()}
        assert not lost, f"{one.type} {one.name}: {key} names a resource that it does not depend on: {escaped}"
        return escaped


def forms(key: str) -> Iterator[str]:
    """A property's name as the provider may have it: Pulumi names lists in the plural."""
    yield key
    for plural, singular in (("ies", "y"), ("es", ""), ("s", "")):
        if key.endswith(plural):
            yield key.removesuffix(plural) + singular


def label(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("v2")).lower()


def _said(diagnostic: Mapping[str, Any]) -> str:
    at = diagnostic.get("address") or (diagnostic.get("snippet") or {}).get("context") or ""
    return f"{diagnostic['severity']}: {at}: {diagnostic['summary']}: {diagnostic.get('detail', '')}"
