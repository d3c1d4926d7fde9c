"""The engine's work directory: a generated Pulumi.yaml and stack file, so that the checkout's stay as they are."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import secrets as random_source
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from plan.secrets import together

from ..errors import LocalCloudError
from ..paths import cache_dir, write_private
from ..stack.project import read_config, read_project, read_yaml
from ..stack.running import state_file

_ITERATIONS = 1_000_000  # the passphrase provider's own
# Of a cloud whose stack names none. The program is left to say what it thinks of that.
DEFAULT_REGION = "eu-west-1"
# A file in the folder of a cloud whose stack was begun with Pulumi's own plugin for AWS, and that plugin's configuration.
REAL_PROVIDER = "real-provider"
_REAL_CONFIG = {"aws:s3UsePathStyle": "true", "aws:skipCredentialsValidation": "true"}


@dataclass(frozen=True)
class Workspace:
    """folder: the cloud's. program: the directory with Pulumi.yaml and __main__.py. project, stack: their names.

    place: the work directory's name below the folder; each program of a cloud has its own.
    """

    folder: Path
    program: Path
    project: str
    stack: str
    region: str
    place: str = "work"

    @property
    def work(self) -> Path:
        return self.folder / self.place

    @property
    def state_file(self) -> Path:
        return state_file(self.folder, self.project, self.stack)

    @property
    def log(self) -> Path:
        return self.folder / "engine.log"

    @property
    def locks(self) -> Path:
        return self.folder / "state" / ".pulumi" / "locks"

    @property
    def real_provider(self) -> bool:
        """Whether Pulumi's own plugin for AWS calls the cloud, in the place of ours."""
        return (self.folder / REAL_PROVIDER).exists()

    def environment(self, programs: Path) -> dict[str, str]:
        """The engine's environment. programs: the folder where `pulumi` and the language host are found."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PULUMI_")) and k != "PYTHONPATH"}
        return env | {
            "PATH": f"{programs}{os.pathsep}{env.get('PATH', os.defpath)}",
            "PULUMI_HOME": str(cache_dir() / "pulumi-home"),
            # A checkpoint follows each step; without a file of its checksum beside it, it costs a third less.
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'state'}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "PULUMI_DEBUG_COMMANDS": "true",  # brings --event-log
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            **({"APOLLO_PROVIDERS": "command"} if self.real_provider else {}),
            "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "true",
        }


def prepare(
    folder: Path,
    program: Path,
    stack: str,
    overrides: Sequence[str],
    generate: Callable[[], dict[str, str]],
    plain: Mapping[str, Any] | None = None,
    hidden: Mapping[str, str] | None = None,
    rotate: Sequence[str] = (),
    place: str = "work",
) -> Workspace:
    """Writes the work directory of one run and returns it.

    overrides: `slaves.count=5` or `aws:region=eu-west-1`, values in YAML; they hold for this run only.
    generate: makes the stack's secrets; called once for each cloud, as they are kept encrypted in its folder.
    rotate: keys of secrets to make anew, for good.
    plain, hidden: configuration that the cloud adds where the stack has none that can be read, the latter encrypted.
    LocalCloudError: no such stack, a file that is no YAML, or an override that does not fit.
    """
    project = read_project(program)
    name = str(project["name"])
    given = read_config(program, stack)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place == "work":
        _harvest(folder, name, stack)
    vault = Vault(folder)
    config = copy.deepcopy(given)
    # Somebody else's ciphertext cannot be read without their passphrase. What it holds is of no use here either.
    for key in hidden or {}:
        if isinstance(config.get(key), dict):
            del config[key]
    config = {key: _without_ciphertext(value, vault) for key, value in config.items()}
    made = config.get(f"{name}:secrets")
    config[f"{name}:secrets"] = {**(made if isinstance(made, dict) else {}), **vault.config(generate, rotate)}
    if place == "work":
        _keep(config, name, folder)
    real = _REAL_CONFIG if (folder / REAL_PROVIDER).exists() else {}
    added = {**real, **(plain or {}), **{key: {"secure": vault.encrypt(value)} for key, value in (hidden or {}).items()}}
    config = {**added, **config}
    for override in overrides:
        _override(config, name, override)
    region = config.get("aws:region", DEFAULT_REGION)
    work = folder / place
    work.mkdir(mode=0o700, exist_ok=True)
    (folder / "state").mkdir(mode=0o700, exist_ok=True)
    generated = {key: value for key, value in project.items() if key not in ("runtime", "main", "backend")}
    generated |= {"runtime": "python", "main": str(program)}
    write_private(work / "Pulumi.yaml", yaml.safe_dump(generated, sort_keys=False))
    stack_file = {"encryptionsalt": vault.salt, "config": config}
    write_private(work / f"Pulumi.{stack}.yaml", yaml.safe_dump(stack_file, sort_keys=False))
    return Workspace(folder, program, name, stack, str(region), place)


# Sections with a map of generations.
_ROLES = ("slaves", "control", "edge")


@contextmanager
def keep_generations(workspace: Workspace) -> Generator[None]:
    """Around a command that may raise generations in the stack file of a run, which a real stack would have kept.

    They are kept with the cloud, also where the command does not live to its end, and hold until `down`.
    """
    marker = workspace.folder / "rolling"
    marker.touch()
    try:
        yield
    finally:
        _harvest(workspace.folder, workspace.project, workspace.stack)


def _harvest(folder: Path, project: str, stack: str) -> None:
    marker = folder / "rolling"
    if not marker.exists():
        return
    config = read_yaml(folder / "work" / f"Pulumi.{stack}.yaml").get("config") or {}
    rolled = {role: config.get(f"{project}:{role}", {}).get("generations") or {} for role in _ROLES}
    write_private(folder / "generations.json", json.dumps(rolled))
    marker.unlink()


def _keep(config: dict[str, Any], project: str, folder: Path) -> None:
    """Raises the configuration's generations to those that a roll of this cloud has reached."""
    kept = folder / "generations.json"
    for role, rolled in (json.loads(kept.read_text()) if kept.exists() else {}).items():
        if rolled:
            given = config.setdefault(f"{project}:{role}", {}).setdefault("generations", {})
            now = {str(index): generation for index, generation in given.items()}
            given.clear()
            given |= now | {index: max(generation, now.get(index, 1)) for index, generation in rolled.items()}


class Vault:
    """The cloud's passphrase, and values encrypted under it as the engine's passphrase provider does (AES-256-GCM).

    Doing it here instead of by one `pulumi config set` for each value spares seconds, and values never pass an argument.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "secrets.json"
        passphrase = folder / "passphrase"
        if not passphrase.exists():
            write_private(passphrase, random_source.token_urlsafe(32))
        if self._file.exists():
            stored: dict[str, Any] = json.loads(self._file.read_text())
        else:
            stored = {"salt": base64.b64encode(random_source.token_bytes(8)).decode(), "values": {}}
        self._values: dict[str, str] = stored["values"]
        self._salt_text: str = stored["salt"]
        # Kept, as it takes a third of a second to make. The passphrase lies beside it.
        self._key: str = stored.get("key") or self._derived(passphrase.read_bytes().strip())
        self._cipher = AESGCM(base64.b64decode(self._key))
        self.salt = stored.get("check") or f"v1:{self._salt_text}:{self.encrypt('pulumi')}"

    def encrypt(self, text: str) -> str:
        nonce = random_source.token_bytes(12)
        sealed = self._cipher.encrypt(nonce, text.encode(), None)
        return f"v1:{base64.b64encode(nonce).decode()}:{base64.b64encode(sealed).decode()}"

    def config(self, generate: Callable[[], dict[str, str]], rotate: Sequence[str] = ()) -> dict[str, dict[str, str]]:
        """The secrets as stack configuration. Those to rotate and those that a newer program asks for are made, others stay."""
        made = generate()
        kept = {key: value for key, value in self._values.items() if key not in rotate}
        if set(made) != set(kept):
            # Some can only be made along with others.
            for key in together(made.keys() - kept.keys()):
                kept.pop(key, None)
            self._values = {key: kept.get(key) or self.encrypt(value) for key, value in made.items()}
        stored = {"salt": self._salt_text, "check": self.salt, "key": self._key, "values": self._values}
        write_private(self._file, json.dumps(stored))
        return {key: {"secure": value} for key, value in self._values.items()}

    def _derived(self, passphrase: bytes) -> str:
        salt = base64.b64decode(self._salt_text)
        return base64.b64encode(hashlib.pbkdf2_hmac("sha256", passphrase, salt, _ITERATIONS, 32)).decode()


def _override(config: dict[str, Any], project: str, text: str) -> None:
    """Applies one `path=value`: a dotted path into the project's configuration, or into another namespace's with `name:`."""
    path, equals, written = text.partition("=")
    path = path.strip()
    if not equals or not path or any(not part for part in path.split(".")):
        raise LocalCloudError(f"--set {text}: give it as key=value, for example --set slaves.count=5")
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise LocalCloudError(f"--set {path}: {written!r} is not YAML: {error}") from None
    first, *rest = path.split(".")
    key = first if ":" in first else f"{project}:{first}"
    if not rest:
        config[key] = value
        return
    place = config.setdefault(key, {})
    for index, part in enumerate(rest):
        if not isinstance(place, dict):
            above = ".".join([first, *rest[:index]])
            raise LocalCloudError(f"--set {path}: {above} is {place!r}, which has no parts")
        inside = cast(dict[str, Any], place)
        if index == len(rest) - 1:
            inside[part] = value
        else:
            place = inside.setdefault(part, {})


def _without_ciphertext(value: Any, vault: Vault) -> Any:
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        if set(fields) == {"secure"}:
            return {"secure": vault.encrypt(random_source.token_urlsafe(24))}
        return {key: _without_ciphertext(item, vault) for key, item in fields.items()}
    if isinstance(value, list):
        return [_without_ciphertext(item, vault) for item in cast(list[Any], value)]
    return value
