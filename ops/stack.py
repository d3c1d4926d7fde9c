"""A deployed stack as the day-two commands see it: configuration, plan, state, exports, and the engine to change it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from ops import preview
from ops.cli import Cli, CliError, words
from ops.errors import OpsError
from ops.reach import Access
from plan.cluster import Cluster, plan_cluster
from plan.parse import parse
from plan.place import SECTIONS
from plan.problems import PlanError
from plan.secrets import public_half
from plan.settings import SECRET_KEYS


@dataclass(frozen=True)
class DeployedHost:
    """A host in the state. generation, instance_type: those of the plan at its last `up`. running_type: the machine's own."""

    name: str
    generation: int
    instance_id: str
    running_type: str
    host_files: str
    private_ip: str


class Stack:
    """name: of the environment. The folder with Pulumi.yaml is the current one, or the one that APOLLO_WORK names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cli = Cli()
        self.folder = self.cli.folder
        try:
            self.pulumi("stack", "select")
        except CliError as error:
            if "no stack named" not in error.complaint:
                raise
            raise OpsError(
                f"there is no stack {name} in this backend; `pulumi stack ls` lists them, `pulumi stack init {name}` makes it"
            ) from None

    @property
    def file(self) -> str:
        return f"Pulumi.{self.name}.yaml"

    def pulumi(self, *arguments: str, on_line: Callable[[str], object] = lambda _: None) -> str:
        """What a command of the CLI on this stack printed, as Cli.run."""
        return self.cli.run(*arguments, "--stack", self.name, on_line=on_line)

    def config(self, *, secrets: bool = False) -> dict[str, Any]:
        """The program's configuration, structured values decoded, plain keys (`slaves`). secrets: with their values."""
        shown = json.loads(self.pulumi("config", "--json", *(["--show-secrets"] if secrets else [])))
        found: dict[str, Any] = {}
        for key, entry in shown.items():
            namespace, _, name = key.partition(":")
            if namespace == "aws" and name == "region":
                found["region"] = entry.get("value")
            elif namespace != "aws":
                found[name] = entry["objectValue"] if "objectValue" in entry else preview.decoded(entry.get("value"))
        return found

    @property
    def plan(self) -> Cluster:
        """The cluster that the stack file describes now. OpsError with all its problems."""
        raw = {key: value for key, value in self.config().items() if key not in SECRET_KEYS}
        try:
            return plan_cluster(parse(raw, self.file))
        except PlanError as error:
            raise OpsError(str(error)) from None

    def up(self, on_event: Callable[[dict[str, Any]], object]) -> None:
        """Brings the stack up. on_event: called with each of the engine's events, in the JSON of `pulumi up --json`.

        OpsError with the engine's words where that fails.
        """
        errors: list[str] = []

        def take(line: str) -> None:
            if line.startswith("{"):
                event = json.loads(line)
                about = event.get("diagnosticEvent") or {}
                if about.get("severity") == "error":
                    errors.append(f"error: {about['message']}")
                on_event(event)

        try:
            self.pulumi("up", "--yes", "--skip-preview", "--suppress-outputs", "--json", on_line=take)
        except CliError as error:
            raise OpsError(words("\n".join([*errors, error.complaint]))) from None

    def set_generation(self, role: str, index: int, generation: int) -> None:
        self.pulumi("config", "set", "--path", f"{SECTIONS[role]}.generations.{index}", str(generation))

    @cached_property
    def _state(self) -> list[dict[str, Any]]:
        deployment = json.loads(self.pulumi("stack", "export"))["deployment"]
        return cast(list[dict[str, Any]], deployment.get("resources") or [])

    def reread(self) -> None:
        """Forgets what was read of the state."""
        self.__dict__.pop("_state", None)

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The state's resources, secrets encrypted."""
        return self._state

    @property
    def hosts(self) -> dict[str, DeployedHost]:
        """The hosts in the state, by name."""
        machines = {r["parent"]: r for r in self._state if r["type"] == preview.INSTANCE}
        found: dict[str, DeployedHost] = {}
        for resource in self._state:
            if resource["type"] != preview.HOST:
                continue
            name, inputs = resource["urn"].split("::")[-1], resource.get("inputs") or {}
            machine = machines.get(resource["urn"]) or {}
            found[name] = DeployedHost(
                name,
                int(inputs.get("generation", 1)),
                str(machine.get("id", "")),
                str((machine.get("outputs") or {}).get("instanceType", "")),
                str(inputs.get("hostFiles", "")),
                str(inputs.get("privateIp", "")),
            )
        return found

    @property
    def outputs(self) -> dict[str, Any]:
        """The stack's exports. OpsError where nothing is deployed."""
        for resource in self._state:
            if resource["type"] == "pulumi:pulumi:Stack" and resource.get("outputs"):
                return resource["outputs"]
        raise OpsError(f"stack {self.name} is not deployed; `pulumi up -s {self.name}` does that")

    def preview(self, *options: str) -> preview.Preview:
        """What an `up` would do now. OpsError where the program refuses its settings."""
        try:
            printed = self.pulumi("preview", "--json", *options)
        except CliError as error:
            # A preview that fails says why in its JSON.
            printed = error.printed
            if not printed.strip():
                raise
        return preview.parse(printed, "the preview")

    def access(self) -> Access | None:
        """How to reach the hosts over SSH; None where the configuration has no key and no agent for it."""
        config = self.config(secrets=True)
        admin: dict[str, Any] = config.get("admin") or {}
        key = config.get("adminPrivateKey")
        if not admin.get("allowedCidrs") or not (key or admin.get("agent")):
            return None
        host_key = public_half(config["secrets"]["sshHostKey"])
        return Access(str(self.outputs["edge"]["publicIps"][0]), str(key or ""), host_key)
