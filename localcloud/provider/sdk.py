"""The names of properties that the installed Pulumi SDKs have."""

from __future__ import annotations

import difflib
import functools
import importlib
import threading
from collections.abc import Iterable
from typing import Any, cast

from pulumi import _types as sdk_types  # pyright: ignore[reportPrivateUsage]  # the SDK's own introspection

_PACKAGES = {"aws": "pulumi_aws", "command": "pulumi_command"}
# The SDKs load their modules lazily, and two threads that load one at once can see it half-made.
_loading = threading.RLock()


def outputs(token: str) -> frozenset[str]:
    """The outputs of a type token such as aws:ec2/vpc:Vpc, which the SDK has."""
    with _loading:
        return _outputs(token)


@functools.cache
def _outputs(token: str) -> frozenset[str]:
    package, home, name = token.split(":")
    module = importlib.import_module(f"{_PACKAGES[package]}.{home.split('/')[0]}")
    return frozenset(cast(dict[str, Any], sdk_types.resource_types(getattr(module, name))))


def provider_config(package: str) -> frozenset[str]:
    """The inputs of the provider resource itself, such as aws:region."""
    with _loading:
        return frozenset(sdk_types.input_type_types(importlib.import_module(_PACKAGES[package]).ProviderArgs))


def closest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean …?" for the nearest of the names, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
