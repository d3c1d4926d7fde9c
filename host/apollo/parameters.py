"""What this host reads from AWS with its instance role: secrets from SSM, programs from the stack's bucket in S3.

apollo secrets    at each boot: what /etc/apollo/parameters names, kept below /etc/apollo/secrets with mode 0600, for
                  boots without SSM
apollo programs   once, after the secrets, before anything else of ours runs: unpacks the programs that
                  /etc/apollo/programs names, only if they are what the user-data was made for

It needs no package beyond the Python that cloud-init brings, and no value reaches a log or an argument. Signing: AWS's
"Signature Version 4", as its documentation of the IAM service describes it.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import hashlib
import hmac
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any

from host.apollo.local import SECRETS, facts, secret, write

METADATA = "http://169.254.169.254/latest"
ETC = Path("/etc")
ROOT = Path("/")
SSH_KEY = ETC / "ssh/apollo_host_ed25519_key"
# While it exists ssh.service does not start, which takes no daemon-reload: the image's own boot starts it ahead of us.
NO_SSH = ETC / "ssh/sshd_not_to_be_run"
# Seconds between two tries.
PAUSE = 2.0
# Seconds. A fresh host's role takes a while to be known everywhere; a host that has copies of everything does not wait so long.
PATIENCE, PATIENCE_WITH_COPIES = 300.0, 20.0
# The most that SSM gives at once.
BATCH = 10
# The SHA-256 of no bytes.
NOTHING = hashlib.sha256().hexdigest()


class Unavailable(Exception):
    """AWS or the metadata service did not give what was asked. The text holds no value."""


@contextlib.contextmanager
def opened(
    url: str, headers: dict[str, str], body: Any = None, method: str | None = None, seconds: float = 5.0
) -> Generator[IO[bytes]]:
    """The answer. body: bytes, or an open file. seconds: to wait for a byte."""
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        said = error.read(400).decode(errors="replace")
        raise Unavailable(f"{urllib.parse.urlsplit(url).netloc} refuses: {error.code} {said}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{urllib.parse.urlsplit(url).netloc} cannot be reached: {error}") from None


def ask(url: str, headers: dict[str, str], body: bytes | None = None, method: str | None = None) -> bytes:
    with opened(url, headers, body, method) as answer:
        return answer.read()


def credentials() -> dict[str, str]:
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = {"X-aws-ec2-metadata-token": ask(f"{METADATA}/api/token", ttl, method="PUT").decode()}
    roles = f"{METADATA}/meta-data/iam/security-credentials/"
    return json.loads(ask(roles + ask(roles, token).decode(), token))


def signed(service: str, method: str, url: str, digest: str = NOTHING, headers: dict[str, str] | None = None) -> dict[str, str]:
    """The headers of a request to AWS. digest: the body's SHA-256. headers: those of the service's own."""
    address, keys, region = urllib.parse.urlsplit(url), credentials(), facts()["REGION"]
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        **(headers or {}),
        "host": address.netloc,
        "x-amz-content-sha256": digest,
        "x-amz-date": stamp,
        "x-amz-security-token": keys["Token"],
    }
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    canonical = "\n".join([method, address.path, "", *lines, "", names, digest])
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{keys['SecretAccessKey']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    credential = f"{keys['AccessKeyId']}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "authorization": authorization}


def get_parameters(names: list[str]) -> dict[str, str]:
    """Each parameter's value by its name below the stack's prefix. Raises Unavailable, also if one of them is missing."""
    host, values = facts(), dict[str, str]()
    url, prefix = host["AWS_ENDPOINT"] or f"https://ssm.{host['REGION']}.amazonaws.com", host["SSM_PREFIX"] + "/"
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "AmazonSSM.GetParameters"}
    for start in range(0, len(names), BATCH):
        wanted = [prefix + name for name in names[start : start + BATCH]]
        body = json.dumps({"Names": wanted, "WithDecryption": True}).encode()
        signature = signed("ssm", "POST", f"{url}/", hashlib.sha256(body).hexdigest(), headers)
        answer = json.loads(ask(f"{url}/", signature, body))
        values |= {found["Name"].removeprefix(prefix): found["Value"] for found in answer["Parameters"]}
        missing = [name for name in wanted if name.removeprefix(prefix) not in values]
        if missing:
            raise Unavailable(f"SSM has no {' '.join(missing)}")
    return values


@contextlib.contextmanager
def stored(key: str) -> Generator[IO[bytes]]:
    """An object of the stack's bucket. key: letters, digits and -/ alone. Raises Unavailable."""
    url = _address(key)
    try:
        with opened(url, signed("s3", "GET", url)) as answer:
            yield answer
    except Unavailable as error:
        raise Unavailable(f"{key} of the bucket {secret('bucket')} cannot be read: {error}") from None


def store(key: str, content: IO[bytes], digest: str) -> None:
    """Puts all of an open file into the stack's bucket. digest: its SHA-256. Raises Unavailable."""
    url, size = _address(key), content.seek(0, os.SEEK_END)
    content.seek(0)
    # Without a type Python names a form's, and what takes it for one reads no content.
    headers = signed("s3", "PUT", url, digest, {"content-length": str(size), "content-type": "application/octet-stream"})
    # S3 answers when it has all of it.
    with opened(url, headers, content, "PUT", 60.0):
        pass


def _address(key: str) -> str:
    host, bucket = facts(), secret("bucket")
    place = (
        f"{host['AWS_ENDPOINT']}/{bucket}" if host["AWS_ENDPOINT"] else f"https://{bucket}.s3.{host['REGION']}.amazonaws.com"
    )
    return f"{place}/{key}"


def persistently(act: Callable[[], None], patience: float) -> str:
    """Acts until it works, and then returns ""; or after so many seconds what was wrong last."""
    end, last = time.monotonic() + patience, ""
    while True:
        try:
            act()
            return ""
        except Unavailable as error:
            if str(error) != last:
                print(error, flush=True)
            last = str(error)
        if time.monotonic() >= end:
            return last
        time.sleep(PAUSE)


def programs() -> None:
    key = (ETC / "apollo/programs").read_text().strip()
    with stored(key) as answer:
        found = answer.read()
    try:
        archive = gzip.decompress(found)
    except (OSError, EOFError, zlib.error):
        archive = b""
    if hashlib.sha256(archive).hexdigest() != key.rpartition("/")[2]:
        sys.exit(f"{key} of the stack's bucket is not what its name says: nothing of it was unpacked")
    subprocess.run(["tar", "-x", "-C", str(ROOT)], input=archive, check=True)


def secrets() -> None:
    names = (ETC / "apollo/parameters").read_text().split()
    for name, value in get_parameters(names).items():
        write(SECRETS / name, f"{value.rstrip()}\n", 0o600)


def main(verb: str) -> str:
    if verb == "programs":
        problem = persistently(programs, PATIENCE)
        return problem and f"the programs of this host cannot be had: {problem}"
    SECRETS.mkdir(mode=0o700, exist_ok=True)
    names = (ETC / "apollo/parameters").read_text().split()
    copies = all((SECRETS / name).is_file() for name in names)
    problem = persistently(secrets, PATIENCE_WITH_COPIES if copies else PATIENCE)
    if problem and not copies:
        return "the secrets cannot be had, and there is no copy of all"
    if problem:
        print("the secrets of the last boot serve")
    write(SSH_KEY, (SECRETS / "ssh/host-key").read_text(), 0o600)
    NO_SSH.unlink(missing_ok=True)
    return ""
