"""Makes the stack's secrets and puts them into its configuration, encrypted.

A value never appears in an argument or on a terminal.
"""

from __future__ import annotations

import argparse
import base64
import json
import secrets
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

from ops.cli import Cli
from ops.errors import OpsError
from plan.secrets import CERTIFICATES, SECRETS, together

_GOSSIP_KEY_BYTES = 32
_CERTIFICATE_DAYS = 3650


class SecretsError(OpsError):
    """The secrets could not be made or stored. The message has the tool's own words."""


def generate(datacenter: str = "dc1", domain: str = "consul") -> dict[str, str]:
    """A fresh value for every secret of the plan, by its key. datacenter, domain: Consul's, for its certificates.

    Raises SecretsError where `ssh-keygen` or `openssl` is missing or fails.
    """
    values = {
        **_certificates(datacenter, domain),
        "gossipKey": base64.b64encode(secrets.token_bytes(_GOSSIP_KEY_BYTES)).decode(),
        "meshPassword": secrets.token_urlsafe(32),
        "marathonPassword": secrets.token_urlsafe(32),
        "operatorPassword": secrets.token_urlsafe(32),
        "zookeeperPassword": secrets.token_urlsafe(32),
        "agentPassword": secrets.token_urlsafe(32),
        "sshHostKey": _host_key(),
    }
    tokens = {
        secret.key: str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        for secret in SECRETS
        if secret.key.endswith("Token")
    }
    return {secret.key: (values | tokens)[secret.key] for secret in SECRETS}


def missing(stack: str) -> list[str]:
    """Keys of the secrets that the stack's configuration lacks. Raises OpsError where `pulumi` cannot read it."""
    # Without --show-secrets `pulumi` hides the keys too of an object that holds a secret. The values go no further than here.
    present: object = _config(stack, "apollo:secrets", "--show-secrets").get("objectValue")
    known: set[str] = set(present) if isinstance(present, dict) else set()
    return together(secret.key for secret in SECRETS if secret.key not in known)


def store(stack: str, keys: list[str]) -> None:
    """Makes the named secrets and stores each in the stack's configuration. Others keep their values."""
    consul = _config(stack, "apollo:consul").get("objectValue") or {}
    values = generate(**{name: consul[name] for name in ("datacenter", "domain") if name in consul})
    for key in together(keys):
        Cli().run("config", "set", "--stack", stack, "--path", "--secret", f"apollo:secrets.{key}", stdin=values[key])


def _config(stack: str, key: str, *options: str) -> dict[str, Any]:
    entry = json.loads(Cli().run("config", "--stack", stack, "--json", *options)).get(key)
    return entry if isinstance(entry, dict) else {}


def _host_key() -> str:
    with tempfile.TemporaryDirectory(prefix="apollo-key-") as folder:
        path = Path(folder) / "key"
        _tool("openssh-client", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "apollo", "-f", str(path))
        return path.read_text()


def _certificates(datacenter: str, domain: str) -> dict[str, str]:
    """Consul's authority, whose key is dropped at once, and what it signed. Agents know a server by its name alone."""
    with tempfile.TemporaryDirectory(prefix="apollo-certificates-") as name:
        folder = Path(name)
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        days = ["-days", str(_CERTIFICATE_DAYS)]

        def openssl(*arguments: str) -> None:
            _tool("openssl", "openssl", *arguments, folder=folder)

        openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", *days, "-subj", "/CN=Apollo Consul")
        found = {CERTIFICATES[0]: (folder / "ca.pem").read_text()}
        for key, role in zip(CERTIFICATES[1:], ("server", "client"), strict=True):
            subject = f"{role}.{datacenter}.{domain}"
            openssl("req", "-new", *new, "-keyout", "own.key", "-out", "own.csr", "-subj", f"/CN={role}")
            (folder / "extensions").write_text(
                f"subjectAltName=DNS:{subject}\nbasicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n"
            )
            signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions"]
            openssl("x509", "-req", "-in", "own.csr", *signing, *days, "-out", "own.pem")
            found[key] = (folder / "own.pem").read_text() + (folder / "own.key").read_text()
        return found


def _tool(package: str, *argv: str, folder: Path | None = None) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, cwd=folder)
    except FileNotFoundError:
        raise SecretsError(f"{argv[0]} is not installed; install {package}") from None
    except subprocess.CalledProcessError as error:
        raise SecretsError(f"{argv[0]} failed: {error.stderr.strip()}") from None


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", required=True, help="which Pulumi.<stack>.yaml, such as dev")
    parser.add_argument("--rotate", action="append", default=[], choices=[s.key for s in SECRETS], help="make this one anew")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(given: argparse.Namespace) -> int:
    wanted = together(given.rotate) or missing(given.stack)
    if not given.json:
        print(f"{len(wanted)} of {len(SECRETS)} secrets to make for stack {given.stack}")
    store(given.stack, wanted)
    if given.json:
        print(json.dumps({"stack": given.stack, "made": wanted}))
    else:
        print("".join(f"  made {key}\n" for key in wanted), end="")
        print(f"Pulumi.{given.stack}.yaml holds them encrypted; commit it. `pulumi up` stores them in SSM.")
    return 0
