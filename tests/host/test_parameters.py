"""What fetches a host's programs and secrets, run for real against a metadata service and an SSM of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from host import package
from host.render import Bundle, bundles
from tests.host.support import EXAMPLES, files_of

# Base64's awkward characters, as in a real key; a session token is long.
KEYS = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "ab/cd+ef=" * 4, "Token": "IQoJb3Jp/+==" * 60}
TOKEN = "metadata-token=="
NAMES = [f"consul/token-{n}" for n in range(11)] + ["mesh/password", "ssh/host-key"]
VALUES = {name: f"value of {name}" for name in NAMES} | {
    "ssh/host-key": "-----BEGIN KEY-----\nab+/=\n-----END KEY-----\n",
    "mesh/password": "quotes \" ' \\ $HOME `id` and ü",
}


class Cloud(BaseHTTPRequestHandler):
    """169.254.169.254 and SSM in one. SSM checks the signature as AWS does, with botocore's own arithmetic."""

    values: dict[str, str]
    seen: list[int]

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200, TOKEN)

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
            return self.answer(401, "")
        role = self.path.removeprefix("/latest/meta-data/iam/security-credentials/")
        return self.answer(200, json.dumps(KEYS) if role == "slave-role" else "slave-role")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != self.expected(body):
            return self.answer(400, '{"__type": "InvalidSignatureException"}')
        assert self.headers["X-Amz-Target"] == "AmazonSSM.GetParameters"
        asked = json.loads(body)
        assert asked["WithDecryption"] is True and 1 <= len(asked["Names"]) <= 10
        self.seen.append(len(asked["Names"]))
        names = {name: name.removeprefix("/apollo/dev/") for name in asked["Names"]}
        found = [{"Name": name, "Value": self.values[short]} for name, short in names.items() if short in self.values]
        missing = [name for name, short in names.items() if short not in self.values]
        return self.answer(200, json.dumps({"Parameters": found, "InvalidParameters": missing}))

    def expected(self, body: bytes) -> str:
        signed = re.findall(r"SignedHeaders=([^,]+)", self.headers["Authorization"])[0].split(";")
        # AWS refuses a request whose session token or target is not part of what was signed.
        assert {"host", "x-amz-date", "x-amz-security-token", "x-amz-target"} <= set(signed)
        request = AWSRequest("POST", f"http://{self.headers['Host']}/", {n: self.headers[n] for n in signed}, body)
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        auth = SigV4Auth(Credentials(KEYS["AccessKeyId"], KEYS["SecretAccessKey"], KEYS["Token"]), "ssm", "eu-west-1")
        text = auth.string_to_sign(request, auth.canonical_request(request))
        signature = auth.signature(text, request)
        scope = f"{KEYS['AccessKeyId']}/{self.headers['X-Amz-Date'][:8]}/eu-west-1/ssm/aws4_request"
        return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


class Host:
    """A folder in the place of /, and the program as it would find itself there."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder / "root"
        self.kept = self.folder / "etc/apollo/secrets"
        for place in ("etc/apollo", "etc/ssh", "programs/host/apollo", "programs/plan"):
            (self.folder / place).mkdir(parents=True)
        self.no_ssh = self.folder / "etc/ssh/sshd_not_to_be_run"
        self.no_ssh.touch()
        (self.folder / "etc/apollo/parameters").write_text("".join(f"{name}\n" for name in NAMES))
        self.endpoint(port)
        for name in package.BOOT:
            text = package.sources()[name].read_text().replace("http://169.254.169.254", f"http://127.0.0.1:{port}")
            text = text.replace('"/etc', f'"{self.folder}/etc').replace('Path("/")', f'Path("{self.folder}")')
            # The deadlines without and with a copy.
            text = text.replace("= 300.0, 20.0", "= 1.0, 0.5").replace("PAUSE = 2.0", "PAUSE = 0.1")
            (self.folder / "programs" / name).write_text(text)

    def endpoint(self, port: int) -> None:
        lines = [f'AWS_ENDPOINT="http://127.0.0.1:{port}"', 'REGION="eu-west-1"', 'SSM_PREFIX="/apollo/dev"']
        (self.folder / "etc/apollo/node.env").write_text("\n".join(lines) + "\n")

    def run(self, verb: str = "secrets") -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-S", "-E", ".", verb]
        return subprocess.run(
            argv,
            cwd=self.folder / "programs",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": os.defpath},
        )


@pytest.fixture
def host(tmp_path: Path) -> Generator[Host]:
    Cloud.values, Cloud.seen = dict(VALUES), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield Host(tmp_path, server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_secret_is_fetched_with_a_signature_that_aws_takes_and_kept_for_root_alone(host: Host) -> None:
    done = host.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert Cloud.seen == [10, 3]
    for name in NAMES:
        assert (host.kept / name).read_text().rstrip("\n") == VALUES[name].rstrip("\n")
        assert (host.kept / name).stat().st_mode & 0o777 == 0o600
    assert host.kept.stat().st_mode & 0o777 == 0o700
    key = host.folder / "etc/ssh/apollo_host_ed25519_key"
    assert key.read_text().rstrip("\n") == VALUES["ssh/host-key"].rstrip("\n") and key.stat().st_mode & 0o777 == 0o600


def test_ssh_is_held_back_until_its_key_is_here(host: Host) -> None:
    key = Cloud.values.pop("ssh/host-key")
    assert host.run().returncode == 1 and host.no_ssh.exists()
    Cloud.values["ssh/host-key"] = key
    for _ in range(2):
        assert host.run().returncode == 0 and not host.no_ssh.exists()


def test_no_value_reaches_the_log(host: Host) -> None:
    done = host.run()
    del Cloud.values["mesh/password"]
    failed = host.run()
    said = done.stdout + done.stderr + failed.stdout + failed.stderr
    for line in "\n".join((*VALUES.values(), *KEYS.values(), TOKEN)).splitlines():
        assert not line or line not in said


def test_without_ssm_the_copies_of_the_last_boot_serve(host: Host) -> None:
    assert host.run().returncode == 0
    host.endpoint(1)
    done = host.run()
    assert done.returncode == 0 and "the secrets of the last boot serve" in done.stdout
    assert (host.kept / "mesh/password").read_text().rstrip("\n") == VALUES["mesh/password"]


def test_a_rotated_value_replaces_the_copy(host: Host) -> None:
    host.run()
    Cloud.values["mesh/password"] = "another"
    assert host.run().returncode == 0
    assert (host.kept / "mesh/password").read_text() == "another\n"


def test_a_missing_parameter_is_named_and_fails_the_unit(host: Host) -> None:
    del Cloud.values["mesh/password"]
    done = host.run()
    assert done.returncode == 1
    assert "SSM has no /apollo/dev/mesh/password" in done.stdout
    assert "there is no copy of all" in done.stderr


# -- programs


def put_bundles(host: Host) -> list[Bundle]:
    """The example slave's bundles, in SSM and named by its user-data."""
    needed = bundles(EXAMPLES["weave"], "slave")
    for bundle in needed:
        Cloud.values |= {f"programs/{bundle.name}/{part}": text for part, text in enumerate(bundle.parts, 1)}
    lines = [f"{bundle.name} {len(bundle.parts)} {bundle.digest}\n" for bundle in needed]
    (host.folder / "etc/apollo/programs").write_text("".join(lines))
    return needed


def test_programs_are_unpacked_in_their_places_with_their_modes(host: Host) -> None:
    put_bundles(host)
    done = host.run("programs")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = EXAMPLES["weave"]
    fetched = [file for file in files_of(plan, plan.slaves[0]).values() if file.bundle]
    assert len(fetched) > 10
    for file in fetched:
        assert (host.folder / file.path[1:]).read_text() == file.content
        assert (host.folder / file.path[1:]).stat().st_mode & 0o777 == file.mode
    assert host.run("programs").returncode == 0


def test_programs_other_than_those_of_the_user_data_are_refused(host: Host) -> None:
    put_bundles(host)
    Cloud.values["programs/slave/1"] = bundles(EXAMPLES["weave"], "edge")[2].parts[0]
    done = host.run("programs")
    assert done.returncode == 1
    assert "the programs in slave are not those that this host's user-data names" in done.stdout
    assert not (host.folder / "etc/haproxy").exists()


def test_a_missing_bundle_is_named(host: Host) -> None:
    put_bundles(host)
    del Cloud.values["programs/weave/1"]
    done = host.run("programs")
    assert done.returncode == 1 and "SSM has no /apollo/dev/programs/weave/1" in done.stdout
