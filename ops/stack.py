"""A deployed stack as the day-two commands see it: configuration, plan, state, exports, and the engine to change it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pulumi import automation as auto

from ops import preview
from ops.errors import OpsError
from ops.reach import Access
from ops.text import lines as safe_lines
from plan.cluster import Cluster, plan_cluster
from plan.parse import parse
from plan.place import SECTIONS
from plan.problems import PlanError
from plan.secrets import public_half
from plan.settings import SECRET_KEYS

# How the engine says that it read the state in a file backend just while another engine wrote it. It has done nothing then, and
# the next look finds the file whole; what stays damaged is reported after _LOOKS looks, _BETWEEN seconds apart.
_TORN, _LOOKS, _BETWEEN = "failed to load checkpoint", 10, 0.3


class Engine(auto.PulumiCommand):
    """The Pulumi CLI in a process group of its own: Ctrl-C on the terminal reaches only us, and we decide what the CLI does."""

    def __init__(self) -> None:
        try:
            super().__init__()
        except FileNotFoundError:
            raise OpsError("pulumi is not on PATH; https://www.pulumi.com/docs/install/ says how to install it") from None
        self._running: subprocess.Popen[str] | None = None

    def interrupt(self) -> None:
        """Asks what runs to stop: it ends what is under way and records it."""
        if self._running is not None:
            self._running.send_signal(signal.SIGINT)

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], Any] | None = None,
        on_error: Callable[[str], Any] | None = None,
    ) -> auto.CommandResult:
        argv = [self.command, *([] if "--non-interactive" in args else ["--non-interactive"]), *args]
        env = {**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"}
        result = self._once(argv, cwd, env, on_output, on_error)
        for _ in range(_LOOKS):
            if not result.code or _TORN not in result.stderr:
                break
            time.sleep(_BETWEEN)
            result = self._once(argv, cwd, env, on_output, on_error)
        if result.code:
            raise auto.errors.create_command_error(result)
        return result

    def _once(
        self,
        argv: list[str],
        cwd: str,
        env: Mapping[str, str],
        on_output: Callable[[str], Any] | None,
        on_error: Callable[[str], Any] | None,
    ) -> auto.CommandResult:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._running = process
        said: list[list[str]] = [[], []]

        def follow(stream: Any, lines: list[str], tell: Callable[[str], Any] | None) -> None:
            for line in stream:
                lines.append(line.rstrip())
                if tell:
                    tell(lines[-1])

        threads = [
            threading.Thread(target=follow, args=arguments)
            for arguments in ((process.stdout, said[0], on_output), (process.stderr, said[1], on_error))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        result = auto.CommandResult("\n".join(said[0]), "\n".join(said[1]), process.wait())
        self._running = None
        return result


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
        self.folder = Path(os.environ.get("APOLLO_WORK") or ".").resolve()
        self.engine = Engine()
        options = auto.LocalWorkspaceOptions(work_dir=str(self.folder), pulumi_command=self.engine)
        try:
            self.automation = auto.select_stack(name, work_dir=str(self.folder), opts=options)
        except auto.StackNotFoundError:
            raise OpsError(
                f"there is no stack {name} in this backend; `pulumi stack ls` lists them, `pulumi stack init {name}` makes it"
            ) from None
        except auto.CommandError as error:
            raise OpsError(_last_words(error)) from None

    @property
    def file(self) -> str:
        return f"Pulumi.{self.name}.yaml"

    def pulumi(self, *arguments: str) -> str:
        """What a command of the CLI on this stack printed. OpsError with its own words."""
        try:
            return self.engine.run([*arguments, "--stack", self.name], str(self.folder), {}).stdout
        except auto.CommandError as error:
            raise OpsError(_last_words(error)) from None

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

    def up(self, on_event: Callable[[auto.events.EngineEvent], None]) -> None:
        """Brings the stack up. OpsError with the engine's words where that fails."""
        try:
            self.automation.up(on_event=on_event, suppress_outputs=True)
        except Exception as error:  # the Automation API raises several kinds, all with the engine's words
            raise OpsError(_last_words(error)) from None

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
            printed = self.engine.run(["preview", "--json", *options, "--stack", self.name], str(self.folder), {}).stdout
        except auto.CommandError as error:
            # A preview that fails says why in its JSON.
            printed = str(error).partition("stdout: ")[2].rpartition("\n stderr:")[0]
            if not printed.strip():
                raise OpsError(_last_words(error)) from None
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


def _last_words(error: Exception) -> str:
    """The engine's own error, without what Pulumi puts around it. Hosts' words may be in it, so it is made safe to print."""
    text = safe_lines(str(error))
    lines = [line.strip().removeprefix("stderr: ") for line in text.splitlines()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error:")]
    if isinstance(error, auto.errors.ConcurrentUpdateError):
        owner = next((line for line in lines if "created by" in line), "")
        return f"somebody else is updating the stack{f' ({owner})' if owner else ''}"
    return "\n  ".join(dict.fromkeys(errors or [line for line in lines if line][-5:]))
