"""The only reader of `pulumi.Config`: the stack's configuration → plan.Settings and the secrets' values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env

from plan.aws import check_aws_limits
from plan.images import check_pinned
from plan.parse import examine, refuse
from plan.problems import PlanError, Problem
from plan.secrets import CERTIFICATE, LARGEST, SECRETS
from plan.settings import SECRET_KEYS, Settings

NAMESPACE = "apollo"
_SECRETS_KEY, _ADMIN_KEY, _CERTIFICATE_KEY = SECRET_KEYS


def load() -> tuple[Settings, dict[str, pulumi.Output[str]]]:
    """The checked settings of this stack, and each secret's value by its key, as a secret output.

    Raises pulumi.RunError, which the engine shows without a traceback, naming every problem of both at once.
    """
    stack = pulumi.get_stack()
    raw = _section()
    given = raw.pop(_SECRETS_KEY, None)
    for key in (_ADMIN_KEY, _CERTIFICATE_KEY):
        raw.pop(key, None)
    problems: list[Problem] = []
    if "region" in raw:
        del raw["region"]
        problems.append(Problem("region", "is the AWS provider's to know; set aws:region instead of apollo:region"))
    region = pulumi.Config("aws").get("region")
    if region is not None:
        raw["region"] = region
    settings, found = examine(raw)
    values, missing = _secrets(given, settings.edge.tls.enabled, stack)
    # After a problem in their sections, the images in the settings may be the defaults.
    malformed = any(problem.key.startswith(("overlay", "mesos", "awsEndpoint")) for problem in found)
    tags = [] if malformed else check_pinned(settings, stack)
    try:
        refuse([*problems, *found, *check_aws_limits(settings), *tags, *missing], f"Pulumi.{stack}.yaml")
    except PlanError as error:
        raise pulumi.RunError(str(error)) from None
    return settings, {key: pulumi.Output.secret(value) for key, value in values.items()}


def _secrets(given: Any, certificate: bool, stack: str) -> tuple[dict[str, str], list[Problem]]:
    """Values by key, and what is wrong with them. No text holds anything of a value.

    given: what is under `apollo:secrets`. certificate: whether the stack needs one.
    """
    how = f"make it with: python -m ops secrets --stack {stack}"
    present: dict[str, Any] = cast(dict[str, Any], given) if isinstance(given, dict) else {}
    known = {secret.key for secret in SECRETS}
    if given is not None and not isinstance(given, dict):
        problems = [Problem(_SECRETS_KEY, f"is not a set of keys; take it out, then {how}")]
    else:
        problems = [
            Problem(f"{_SECRETS_KEY}.{secret.key}", f"is missing ({secret.purpose}); {how}")
            for secret in SECRETS
            if not isinstance(present.get(secret.key), str) or not present[secret.key]
        ]
    problems += [
        Problem(f"{_SECRETS_KEY}.{key}", f"unknown secret; valid: {', '.join(sorted(known))}")
        for key in present
        if key not in known
    ]
    values = {secret.key: str(present.get(secret.key, "")) for secret in SECRETS}
    if certificate:
        values[CERTIFICATE.key] = bundle = pulumi.Config(NAMESPACE).get(_CERTIFICATE_KEY) or ""
        problems += [Problem(_CERTIFICATE_KEY, text) for text in _certificate_problems(bundle, stack)]
    return values, problems


def _certificate_problems(bundle: str, stack: str) -> Iterator[str]:
    """What keeps the bundle from being one. The texts hold nothing of it."""
    how = f"set it with: pulumi config set --stack {stack} --secret {NAMESPACE}:{_CERTIFICATE_KEY} < bundle.pem"
    if not bundle:
        yield f"is missing, and edge.tls.enabled is true; {how}"
        return
    for kind in ("CERTIFICATE", "PRIVATE KEY"):
        begins = re.findall(rf"^-----BEGIN [A-Z ]*{kind}-----$", bundle, re.MULTILINE)
        if not begins or len(begins) != len(re.findall(rf"^-----END [A-Z ]*{kind}-----$", bundle, re.MULTILINE)):
            yield f"has no whole {kind}; give key, certificate and chain in PEM, one after the other; {how}"
    if "ENCRYPTED" in bundle:
        yield "has a key under a passphrase, which no host knows; give it without"
    if len(bundle) > LARGEST:
        yield f"has {len(bundle)} characters, and SSM holds {LARGEST}; leave the root out of the chain, or take a key of P-256"


def load_admin_key() -> pulumi.Output[str] | None:
    """The administrators' private key where the configuration has one, as a secret output."""
    return pulumi.Config(NAMESPACE).get_secret(_ADMIN_KEY)


def _section() -> dict[str, Any]:
    """Every key under `apollo:`, structured values decoded. `pulumi.Config` cannot list keys, hence the engine's own map."""
    section: dict[str, Any] = {}
    for key, value in {**get_config_env(), **CONFIG.get()}.items():
        namespace, _, name = key.partition(":")
        if namespace == NAMESPACE:
            section[name] = _decoded(value)
    return section


def _decoded(value: Any) -> Any:
    # Structured values reach the program as JSON text. Plain words and numbers are kept as they are: pydantic reads them.
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value
