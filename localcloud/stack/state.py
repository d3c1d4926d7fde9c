"""The engine's state file: what a stack consists of, and what it exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from ..errors import LocalCloudError

# What Pulumi marks a secret in its files with.
_SIGNATURE = "4dabf18193072939515e22adb298388d"


def read_state(path: Path) -> dict[str, Any] | None:
    """The engine's state file, None where there is none yet. LocalCloudError: it cannot be read; nothing is touched."""
    try:
        state = json.loads(path.read_text())
        resources = (state["checkpoint"].get("latest") or {}).get("resources") or []
        if not all(isinstance(resource["urn"], str) for resource in resources):
            raise ValueError("a resource has no URN")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LocalCloudError(
            f"the state file {path} is damaged ({type(error).__name__}: {error}); nothing was changed.\n"
            f"The copy before the last run's is {path.name}.bak beside it. Or give this cloud up with "
            f"`./apollo down --force --stack {path.stem}` and start anew."
        ) from None
    return state


def resources(path: Path) -> list[dict[str, Any]]:
    """The resources in a state file, the stack's own among them."""
    state = read_state(path)
    return [] if state is None else (state["checkpoint"].get("latest") or {}).get("resources") or []


def outputs(path: Path) -> dict[str, Any]:
    """The stack's outputs, secrets shown as [secret]."""
    for resource in resources(path):
        if resource["type"] == "pulumi:pulumi:Stack":
            return _masked(resource.get("outputs") or {})
    return {}


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return "[secret]" if _SIGNATURE in fields else {k: _masked(v) for k, v in fields.items()}
    return [_masked(item) for item in cast(list[Any], value)] if isinstance(value, list) else value
