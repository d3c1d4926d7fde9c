"""The program's own files: which program is run, its Pulumi.yaml and its stack files, as they stand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import yaml

from ..errors import LocalCloudError
from ..paths import REPOSITORY


def program_dir() -> Path:
    """The program that is run: this checkout, or for tests the one that APOLLO_PROGRAM names."""
    return Path(os.environ.get("APOLLO_PROGRAM") or REPOSITORY).resolve()


def read_project(program: Path) -> dict[str, Any]:
    """Pulumi.yaml as it stands. LocalCloudError where there is none to read."""
    path = program / "Pulumi.yaml"
    project = read_yaml(path)
    if not isinstance(project.get("name"), str):
        raise LocalCloudError(f"{path} has no name")
    return project


def read_config(program: Path, stack: str) -> dict[str, Any]:
    """The configuration in Pulumi.<stack>.yaml. LocalCloudError: no such stack, or a file that is no YAML."""
    path = program / f"Pulumi.{stack}.yaml"
    if not path.exists():
        found = ", ".join(stacks(program)) or "none"
        raise LocalCloudError(f"there is no stack {stack!r}: {path} does not exist; stacks here: {found}")
    return cast(dict[str, Any], read_yaml(path).get("config") or {})


def stacks(program: Path) -> list[str]:
    """The stacks that have a file, sorted."""
    return sorted(path.name.split(".")[1] for path in program.glob("Pulumi.*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a file. LocalCloudError where it is missing, no YAML, or holds something else."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise LocalCloudError(f"{path} does not exist") from None
    except yaml.YAMLError as error:
        raise LocalCloudError(f"{path} is not YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise LocalCloudError(f"{path} holds {type(content).__name__}, not keys and values")
    return cast(dict[str, Any], content)
