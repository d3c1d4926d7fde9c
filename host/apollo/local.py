"""What the Python scripts of a host share: its facts, its secrets and the local Consul agent."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from plan import ports

NODE_ENV = Path("/etc/apollo/node.env")
SECRETS = Path("/etc/apollo/secrets")
CONSUL = f"http://127.0.0.1:{ports.CONSUL_HTTP}"
# Where servers give each host its own token (consul/acl.py).
TOKEN_PORT = ports.CONSUL_TOKENS


class ConsulError(Exception):
    """Consul refused (status: HTTP's) or did not answer (status 0). The text never holds a token."""

    status = 0


def facts() -> dict[str, str]:
    """This host's line of the plan, as written by its user-data."""
    pairs = (line.split("=", 1) for line in NODE_ENV.read_text().splitlines())
    return {key: value.strip('"') for key, value in pairs}


def secret(name: str) -> str:
    """A secret by its name below the stack's SSM prefix. Raises FileNotFoundError where it was never fetched."""
    return (SECRETS / name).read_text().strip()


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Puts text at path in one step, at no moment readable beyond mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    new.replace(path)


def consul(path: str, token: str = "", method: str = "GET", body: Any = None) -> tuple[Any, Any]:
    """(answer, headers) of the local agent. Raises ConsulError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{CONSUL}/v1/{path}", data, {"X-Consul-Token": token}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null"), answer.headers
    except urllib.error.HTTPError as error:
        refused = ConsulError(f"{path}: {error.code} {error.read(300).decode(errors='replace')}")
        refused.status = error.code
        raise refused from None
    except (OSError, ValueError) as error:
        raise ConsulError(f"{path}: {error}") from None
