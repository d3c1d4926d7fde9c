"""moto's server behind a hook: who may call, what AWS refuses, and the machines that a change is about.

Each request is read whole, its signature checked, and what it asks for compared with what AWS takes (`refusals.py`), all
before moto sees it. moto's data is not made for several threads, so its part has one caller at a time. After a call that
changes machines, networks or rules the machines are brought to match, and the caller waits for that.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

# Read by moto when it is imported.
os.environ |= {
    "MOTO_AMIS_PATH": str(Path(__file__).parents[1] / "images.json"),
    "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "1",
    "MOTO_ENABLE_AMI_VALIDATION": "1",
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "1",
    "DISABLE_CORS": "true",
}

from moto.core.parse import PROTOCOL_PARSERS
from moto.core.utils import get_service_model
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import s3_backends
from moto.sts.models import sts_backends
from werkzeug.datastructures import Headers, MultiDict
from werkzeug.serving import BaseWSGIServer, make_server

from . import moto_buckets, moto_faults, moto_policies, refusals, roles
from .client import ACCOUNT, Keys
from .errors import ApiError
from .signatures import Signed, signed, verify

# The longest request that is read, in bytes: programs for hosts are put into S3.
MOST_BYTES = 512 * 2**20
# AWS signs for a name that botocore has for two services; the newer one has load balancers of every type.
_SERVICES = {"elasticloadbalancing": "elbv2"}
_READS = ("Describe", "Get", "List", "Search", "Export")
# Of the services that machines are made from, the calls that change nothing about any.
_APART = re.compile(
    r"(Create|Modify)(Vpc|Subnet|SecurityGroup|VpcAttribute|SubnetAttribute|SubnetCidrReservation|InternetGateway|RouteTable"
    r"|VpcEndpoint|FlowLogs|KeyPair|Snapshot|TargetGroup)|DeleteSubnetCidrReservation|DeleteFlowLogs|DeleteKeyPair"
    r"|ImportKeyPair|AllocateAddress|ReleaseAddress|AddTags|RemoveTags"
)
_INSTANCE = re.compile(r"\bi-[0-9a-f]{8,17}\b")
_ADDRESS = re.compile(r"[\d.]+(:\d+)?")
# What is said of machines that could not be brought to match: by instance, or "" for the network they share.
Failures = dict[str, str]
# Status, headers and body.
_Answer = tuple[int, list[tuple[str, str]], bytes]


@dataclass
class Call:
    """One request as the API understands it. service: botocore's name. operation: "" where the path alone tells it.

    params: as boto3's keyword arguments.
    """

    service: str
    region: str
    protocol: str
    operation: str = ""
    params: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def changes_machines(self) -> bool:
        return (
            self.service in ("ec2", "elbv2") and not self.operation.startswith(_READS) and not _APART.fullmatch(self.operation)
        )


class _Handler(MotoRequestHandler):
    # An answer leaves as one packet. Status and headers by themselves let Go's AWS SDK end a call before Go's HTTP client is
    # through with the request: it then closes the connection, loses the body and sends the call once more.
    wbufsize = 2**18


class Api:
    """port: 0 for any free one of 127.0.0.1. owner: the key of whoever the cloud is for. machines: the key of what boots the
    machines, whose calls change none. OSError: the port is taken."""

    def __init__(self, port: int, owner: Keys, machines: Keys) -> None:
        moto_faults.repair()
        moto_policies.install()
        moto_buckets.install()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._secrets = {owner.id: owner.secret, machines.id: machines.secret}
        self._machines = machines.id
        self._turn = threading.Lock()
        self._tokens: dict[tuple[str, str, str], tuple[dict[str, Any], _Answer]] = {}
        # Brings the machines to what the API says.
        self.settle: Callable[[], Failures] | None = None
        self.http: BaseWSGIServer = make_server("127.0.0.1", port, self._application, threaded=True, request_handler=_Handler)
        self.endpoint = f"http://127.0.0.1:{self.http.server_port}"

    def _application(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        protocol = "query"
        try:
            given = None if _public_object(environ) else signed(environ)
            if given is None:
                call = Call("s3", "us-east-1", "rest-xml")
                self._require_public(environ)
            else:
                protocol = _protocol(given)
                call = self._understood(given, environ)
            status, headers, body = self._answer(call, environ)
            if call.changes_machines and self.settle and status < 300 and given and given.key != self._machines:
                self._settle(call, body)
        except Exception as broken:
            if isinstance(broken, ApiError):
                error = broken
            else:
                logging.exception("a call broke")
                error = ApiError(400, "InternalError", "the embedded cloud broke at this call; its log has the details")
            kind, body = error.answer(protocol)
            status, headers = error.status, [("Content-Type", kind), ("Content-Length", str(len(body)))]
        start_response(f"{status} {_REASONS.get(status, 'Refused')}", headers)
        return [body]

    # --- before moto ---

    def _understood(self, given: Signed, environ: dict[str, Any]) -> Call:
        """The call, once it is known to be signed by someone who may make it, with its body in place for moto."""
        role = None
        if given.key in self._secrets:
            secret = self._secrets[given.key]
        else:
            role = sts_backends[ACCOUNT]["aws"].get_assumed_role_from_access_key(given.key)
            if role is None or role.session_token != environ.get("HTTP_X_AMZ_SECURITY_TOKEN"):
                raise ApiError(
                    403, "InvalidClientTokenId", "the access key is none of this cloud's; `serve` prints the one to use"
                )
            secret = str(role.secret_access_key)
        body = _body(environ)
        verify(given, environ, lambda: body, secret)
        # moto believes these: another account, another action, another region.
        for name in ("HTTP_X_MOTO_ACCOUNT_ID", "HTTP_ACTION", "HTTP_USER_AGENT"):
            environ.pop(name, None)
        if str(environ.get("PATH_INFO", "")).startswith(("/moto-api", "/latest/")):
            raise ApiError(404, "UnknownOperationException", f"there is no AWS call at {environ['PATH_INFO']}")
        call, body = _parsed(given, environ, body)
        if role is not None:
            if not by_address(environ):
                raise ApiError(403, "AccessDenied", "a host calls this cloud by its address; Host names something else")
            wants = roles.wanted(call.service, call.region, call.operation, call.params, environ)
            roles.check(role.arn, _policies(role), wants)
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        return call

    def _require_public(self, environ: dict[str, Any]) -> None:
        """An object that everybody may read needs no signature, as on AWS."""
        bucket, _, key = str(environ["PATH_INFO"]).lstrip("/").partition("/")
        with self._turn:
            found = s3_backends[ACCOUNT]["aws"].buckets.get(bucket)
            item = found.keys.get(key) if found else None
            if item is None or not (item.acl and item.acl.public_read):
                raise ApiError(403, "AccessDenied", "Access Denied")

    # --- moto ---

    def _answer(self, call: Call, environ: dict[str, Any]) -> _Answer:
        """moto's. A call that is sent once more with its ClientToken has the first one's answer, as in "Ensuring idempotency in
        Amazon EC2 API requests"."""
        with self._turn:
            token = (call.region, call.operation, str(call.params.get("ClientToken") or ""))
            params, answer = self._tokens.get(token, (call.params, None))
            if params != call.params:
                words = f"ClientToken {token[2]} was used in a {call.operation} with other parameters"
                raise ApiError(400, "IdempotentParameterMismatch", words)
            if answer is None:
                answer = self._first_answer(call, environ)
                if token[2] and answer[0] < 300:
                    self._tokens[token] = (call.params, answer)
            return answer

    def _first_answer(self, call: Call, environ: dict[str, Any]) -> _Answer:
        said: list[Any] = []
        body = b""

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            said[:] = [int(status.split()[0]), headers]
            return lambda _: None

        try:
            if call.operation:
                refusals.check(call.service, call.operation, call.region, call.params)
            body = b"".join(cast(Iterator[bytes], self._moto(environ, start)))
        except ApiError:
            raise
        except Exception:
            logging.exception("moto broke at a call")
            said[:] = [500, []]
        if said[0] >= 500:
            name = f"{call.service}:{call.operation or environ['REQUEST_METHOD']}"
            words = f"the embedded cloud does not implement {name}, or broke at it; its log has the details"
            raise ApiError(400, "InternalError", words)
        return said[0], said[1], body

    # --- after moto ---

    def _settle(self, call: Call, body: bytes) -> None:
        """ApiError: what this call is about could not be brought to match. Instances that it was to run are none then."""
        assert self.settle is not None
        failures = self.settle()
        made = _INSTANCE.findall(body.decode(errors="replace")) if call.operation == "RunInstances" else []
        mine = {"", *made, *_INSTANCE.findall(json.dumps(call.params, default=str))}
        reasons = [reason for about, reason in failures.items() if about in mine]
        if not reasons:
            return
        if made:
            with self._turn:
                ec2_backends[ACCOUNT][call.region].terminate_instances(list(dict.fromkeys(made)))
            self.settle()
        raise ApiError(400, "InternalError", "\n".join(dict.fromkeys(reasons)))


_REASONS = {200: "OK", 204: "No Content", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 409: "Conflict"}


def by_address(environ: dict[str, Any]) -> bool:
    """Whether the cloud is called by its address, so that the path alone says what is asked for: moto also finds a bucket, a
    service and a region in the name of a host."""
    return bool(_ADDRESS.fullmatch(str(environ.get("HTTP_HOST", ""))))


def _public_object(environ: dict[str, Any]) -> bool:
    """Whether it may be the reading of an object by someone without a key."""
    return (
        environ["REQUEST_METHOD"] in ("GET", "HEAD")
        and by_address(environ)
        and "HTTP_AUTHORIZATION" not in environ
        and "HTTP_ORIGIN" not in environ
        and not environ.get("QUERY_STRING")
        and "HTTP_X_AMZ_TARGET" not in environ
        and not str(environ.get("PATH_INFO", "")).startswith(("/moto-api", "/latest/"))
        and "/" in str(environ.get("PATH_INFO", "")).strip("/")
    )


def _body(environ: dict[str, Any]) -> bytes:
    """The whole body. ApiError: too long, or the caller went away in the middle of it."""
    size = str(environ.get("CONTENT_LENGTH") or "")
    if size and not size.isdecimal():
        raise ApiError(400, "InvalidRequest", f"Content-Length is {size!r}, and has to be a number")
    if int(size or 0) > MOST_BYTES:
        raise ApiError(413, "EntityTooLarge", f"the request has {size} bytes; {MOST_BYTES} are the most")
    if not size and environ.get("HTTP_TRANSFER_ENCODING", "").lower() != "chunked":
        return b""
    body = cast(bytes, environ["wsgi.input"].read(int(size or MOST_BYTES)))
    if len(body) < int(size or 0):
        raise ApiError(400, "IncompleteBody", f"the body ended after {len(body)} of {size} bytes")
    return body


def _protocol(given: Signed) -> str:
    try:
        return str(get_service_model(_SERVICES.get(given.service, given.service)).protocol)
    except Exception:
        return "query"


def _parsed(given: Signed, environ: dict[str, Any], body: bytes) -> tuple[Call, bytes]:
    """The call, and its body in the only form that moto cannot read in another way. ApiError: it is none."""
    service = _SERVICES.get(given.service, given.service)
    try:
        model = get_service_model(service)
    except Exception:
        raise ApiError(400, "UnknownEndpoint", f"there is no AWS service with the signing name {given.service}") from None
    call = Call(service, given.region, str(model.protocol))
    target, query = str(environ.get("HTTP_X_AMZ_TARGET", "")), str(environ.get("QUERY_STRING", ""))
    values: dict[str, str] = {}
    if call.protocol in ("query", "ec2"):
        text = body.decode(errors="replace")
        values = dict(parse_qsl(f"{query}&{text}" if query else text, keep_blank_values=True))
        call.operation = values.get("Action", "")
        if not call.operation:
            raise ApiError(400, "MissingAction", f"the request to {service} has no Action; a call's body is Action=…&Version=…")
        body, environ["QUERY_STRING"] = urlencode(values).encode(), ""
        environ["CONTENT_TYPE"] = "application/x-www-form-urlencoded; charset=utf-8"
    elif "json" in call.protocol and target:
        call.operation = target.rpartition(".")[2]
        try:
            content = json.loads(body or b"{}")
        except ValueError as error:
            raise ApiError(400, "SerializationException", f"the request's body is no JSON: {error}") from None
        if query or not isinstance(content, dict):
            raise ApiError(400, "SerializationException", f"a request to {service} is one JSON object, and has no query")
        # moto would also take parts of the text for a form.
        body = json.dumps(content).replace("&", "\\u0026").encode()
        environ["CONTENT_TYPE"] = f"application/x-amz-json-{model.metadata.get('jsonVersion', '1.1')}"
    else:
        return call, body
    names = cast(list[str], model.operation_names)
    if call.operation not in names:
        near = get_close_matches(call.operation, names, 5, 0.5)
        known = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(sorted(names)[:5])} …"
        raise ApiError(400, "InvalidAction", f"The action {call.operation} is not valid for {service}; {known}")
    request = {
        "method": "POST",
        "values": MultiDict(values),
        "headers": Headers(),
        "body": body,
        "url_path": "/",
        "url_params": {},
    }
    try:
        call.params = PROTOCOL_PARSERS[call.protocol](model.operation_model(call.operation)).parse(cast(Any, request))
    except Exception as error:
        raise ApiError(400, "MalformedQueryString", f"{call.operation}: the parameters cannot be read: {error}") from None
    return call, body


def _policies(role: Any) -> list[str]:
    """The documents of an assumed role's policies."""
    known = iam_backends[ACCOUNT]["aws"].get_role_by_arn(role.role_arn)
    managed = [version for policy in known.managed_policies.values() for version in policy.versions if version.is_default]
    return [*known.policies.values(), *(str(version.document) for version in managed)]
