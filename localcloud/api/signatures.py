"""Who signed a request: AWS's Signature Version 4, in the Authorization header, recomputed with the key's secret.

Source: IAM user guide, "Create a signed AWS API request". Signatures in the query string (presigned URLs) are not taken.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from botocore.utils import normalize_url_path

from .errors import ApiError

# How far a request's clock may be from ours, as AWS has it.
SKEW = timedelta(minutes=15)
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^/,\s]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request,\s*"
    r"SignedHeaders=([a-z0-9;_-]+),\s*Signature=([0-9a-f]{64})"
)
# What an S3 client may sign instead of the body's digest.
_UNSIGNED = ("UNSIGNED-PAYLOAD", "STREAMING-")


@dataclass(frozen=True)
class Signed:
    """What an Authorization header says. service: AWS's signing name."""

    key: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str


def signed(environ: Mapping[str, Any]) -> Signed:
    """ApiError: there is no signature of this kind."""
    found = _AUTHORIZATION.fullmatch(str(environ.get("HTTP_AUTHORIZATION", "")).strip())
    if found is None:
        raise ApiError(
            403,
            "MissingAuthenticationToken",
            "this cloud takes requests signed with its own access key, and no others",
        )
    key, date, region, service, headers, signature = found.groups()
    return Signed(key, date, region, service, tuple(headers.split(";")), signature)


def verify(given: Signed, environ: Mapping[str, Any], body: Callable[[], bytes], secret: str) -> None:
    """ApiError unless the request is what was signed with the secret, and fresh."""

    def header(name: str) -> str:
        return str(environ.get(_environ_name(name), ""))

    stamp = header("x-amz-date")
    try:
        moment = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _mismatch("it has no x-amz-date such as 20260102T030405Z") from None
    if abs(datetime.now(UTC) - moment) > SKEW or stamp[:8] != given.date:
        raise _mismatch(f"it was signed for {stamp}, more than {SKEW} from now")
    if not {"host", "x-amz-date"} <= set(given.headers):
        raise _mismatch("host and x-amz-date are not among the signed headers")
    digest, said = hashlib.sha256(body()).hexdigest(), header("x-amz-content-sha256")
    if said and said != digest and not (given.service == "s3" and said.startswith(_UNSIGNED)):
        raise _mismatch("its body is not the one that was signed")
    path, _, query = str(environ.get("RAW_URI") or "/").partition("?")
    if given.service != "s3":
        path = quote(normalize_url_path(path), safe="/~")
    pairs = sorted((name, value) for name, _, value in (pair.partition("=") for pair in query.split("&") if pair))
    canonical = [
        str(environ["REQUEST_METHOD"]),
        path,
        "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{' '.join(header(name).split())}" for name in given.headers),
        "",
        ";".join(given.headers),
        said or digest,
    ]
    scope = f"{given.date}/{given.region}/{given.service}/aws4_request"
    request = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{request}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), given.signature):
        raise _mismatch("it is not what this key's secret gives; check the secret, and what is between")


def _environ_name(header: str) -> str:
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def _mismatch(reason: str) -> ApiError:
    return ApiError(403, "SignatureDoesNotMatch", f"the request's signature is refused: {reason}")
