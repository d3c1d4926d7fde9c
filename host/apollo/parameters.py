"""What this host reads from SSM with its instance role.

apollo programs   once, before anything else of ours runs: unpacks the programs that /etc/apollo/programs names, each
                  bundle only if it is what the user-data was made for
apollo secrets    at each boot: what /etc/apollo/parameters names, kept below /etc/apollo/secrets with mode 0600, for
                  boots without SSM

It needs no package beyond the Python that cloud-init brings, and no value reaches a log or an argument. Signing: AWS's
"Signature Version 4", as its documentation of the IAM service describes it.
"""

from __future__ import annotations

import base64
import datetime
import gzip
import hashlib
import hmac
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

from host.apollo.apollo import SECRETS, facts, write

METADATA = "http://169.254.169.254/latest"
ETC = Path("/etc")
ROOT = Path("/")
SSH_KEY = ETC / "ssh/apollo_host_ed25519_key"
# While it exists ssh.service does not start, which takes no daemon-reload: the image's own boot starts it ahead of us.
NO_SSH = ETC / "ssh/sshd_not_to_be_run"
# Seconds between two tries.
PAUSE = 2.0
# Seconds. A fresh host's role takes a while to be known everywhere; with a copy of everything a host must not wait so long.
PATIENCE, PATIENCE_WITH_COPIES = 300.0, 20.0
# The most that SSM gives at once.
BATCH = 10


class Unavailable(Exception):
    """SSM or the metadata service did not give what was asked. The text holds no value."""


def ask(url: str, headers: dict[str, str], body: bytes | None = None, method: str | None = None) -> bytes:
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise Unavailable(
            f"{urllib.parse.urlsplit(url).netloc}: {error.code} {error.read(300).decode(errors='replace')}"
        ) from None
    except OSError as error:
        raise Unavailable(f"{urllib.parse.urlsplit(url).netloc}: {error}") from None


def credentials() -> dict[str, str]:
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = {"X-aws-ec2-metadata-token": ask(f"{METADATA}/api/token", ttl, method="PUT").decode()}
    roles = f"{METADATA}/meta-data/iam/security-credentials/"
    return json.loads(ask(roles + ask(roles, token).decode(), token))


def signed(keys: dict[str, str], region: str, url: str, target: str, body: bytes, stamp: str) -> dict[str, str]:
    """The headers of a request to SSM. stamp: the time, such as 20260102T030405Z."""
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": urllib.parse.urlsplit(url).netloc,
        "x-amz-date": stamp,
        "x-amz-security-token": keys["Token"],
        "x-amz-target": target,
    }
    names = ";".join(headers)
    lines = [f"{name}:{value}" for name, value in headers.items()]
    canonical = "\n".join(["POST", "/", "", *lines, "", names, hashlib.sha256(body).hexdigest()])
    scope = f"{stamp[:8]}/{region}/ssm/aws4_request"
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
    host, keys, values = facts(), credentials(), dict[str, str]()
    url, prefix = host["AWS_ENDPOINT"] or f"https://ssm.{host['REGION']}.amazonaws.com", host["SSM_PREFIX"] + "/"
    for start in range(0, len(names), BATCH):
        wanted = [prefix + name for name in names[start : start + BATCH]]
        body = json.dumps({"Names": wanted, "WithDecryption": True}).encode()
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = signed(keys, host["REGION"], url, "AmazonSSM.GetParameters", body, stamp)
        answer = json.loads(ask(f"{url}/", headers, body))
        values |= {found["Name"].removeprefix(prefix): found["Value"] for found in answer["Parameters"]}
        missing = [name for name in wanted if name.removeprefix(prefix) not in values]
        if missing:
            raise Unavailable(f"SSM has no {' '.join(missing)}")
    return values


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
    lines = [line.split() for line in (ETC / "apollo/programs").read_text().splitlines()]
    bundles = {
        name: ([f"programs/{name}/{part}" for part in range(1, int(parts) + 1)], digest) for name, parts, digest in lines
    }
    values = get_parameters([part for parts, _ in bundles.values() for part in parts])
    for name, (parts, digest) in bundles.items():
        try:
            archive = gzip.decompress(base64.b64decode("".join(values[part] for part in parts)))
        except (OSError, EOFError, ValueError, zlib.error):
            # Parts of two archives, where a newer one is cut into more of them.
            archive = b""
        if hashlib.sha256(archive).hexdigest() != digest:
            raise Unavailable(f"the programs in {name} are not those that this host's user-data names: raise its generation")
        subprocess.run(["tar", "-x", "-C", str(ROOT)], input=archive, check=True)


def secrets() -> None:
    names = (ETC / "apollo/parameters").read_text().split()
    for name, value in get_parameters(names).items():
        write(SECRETS / name, f"{value.rstrip()}\n", 0o600)


def main(verb: str) -> str:
    if verb == "programs":
        problem = persistently(programs, PATIENCE)
        return problem and "the programs of this host cannot be had"
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
