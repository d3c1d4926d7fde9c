"""What an instance's role may do: what its policies allow, of reading parameters and objects, and nothing else.

A statement with a condition allows nothing here, as conditions are not evaluated. Everything else that AWS lets a role do
(change machines, rules, other roles) is refused whatever the policies say: a host must not reach the cloud that boots it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, cast
from urllib.parse import unquote

from .client import ACCOUNT
from .errors import ApiError

_PARAMETERS = ("GetParameter", "GetParameters", "GetParametersByPath")
_OBJECTS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject"}


def wanted(
    service: str, region: str, operation: str, params: Mapping[str, Any], environ: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The actions of a request and what each is on, as policies name them. ApiError: no host has any business with it."""
    if service == "ssm" and operation in _PARAMETERS:
        names = [*params.get("Names", []), *(params[key] for key in ("Name", "Path") if key in params)]
        return [(f"ssm:{operation}", f"arn:aws:ssm:{region}:{ACCOUNT}:parameter/{name.lstrip('/')}") for name in names]
    if service == "sts" and operation == "GetCallerIdentity":
        return []
    if service == "s3":
        method, path = str(environ["REQUEST_METHOD"]), unquote(str(environ.get("RAW_URI", "")).partition("?")[0]).lstrip("/")
        bucket, _, key = path.partition("/")
        if bucket and key and method in _OBJECTS:
            return [(_OBJECTS[method], f"arn:aws:s3:::{bucket}/{key}")]
        if bucket and method == "GET":
            return [("s3:ListBucket", f"arn:aws:s3:::{bucket}")]
    raise ApiError(403, "AccessDenied", f"hosts have no business with {service}:{operation or environ['REQUEST_METHOD']}")


def check(role: str, documents: Iterable[str], wants: Iterable[tuple[str, str]]) -> None:
    """ApiError unless the policies allow each action on its resource. role: for the message."""
    statements = [statement for document in documents for statement in _listed(json.loads(document).get("Statement"))]
    for action, resource in wants:
        effects = {str(s["Effect"]) for s in statements if _covers(s, action, resource)}
        if "Deny" in effects or "Allow" not in effects:
            raise ApiError(403, "AccessDeniedException", f"{role} is not allowed to {action} on {resource} by its policies")


def _covers(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    if statement.get("Condition") and statement["Effect"] == "Allow":
        return False
    actions, resources = _listed(statement.get("Action")), _listed(statement.get("Resource"))
    # Actions are compared without case, resources with it.
    return any(fnmatchcase(action.lower(), str(a).lower()) for a in actions) and any(
        fnmatchcase(resource, str(r).replace("[", "[[]")) for r in resources
    )


def _listed(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else [] if value is None else [value]
