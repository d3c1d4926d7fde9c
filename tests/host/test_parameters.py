"""What fetches a host's programs and secrets, run for real against a metadata service, an SSM and an S3 of its own."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from host import package
from host.apollo import parameters
from host.render import Programs, programs
from tests.host.support import EXAMPLES, Handler, files_of, served

# Base64's awkward characters, as in a real key; a session token is long.
KEYS = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "ab/cd+ef=" * 4, "Token": "IQoJb3Jp/+==" * 60}
TOKEN = "metadata-token=="
BUCKET = "apollo-dev-20261127092707219100000001"
NAMES = [f"consul/token-{n}" for n in range(11)] + ["mesh/password", "ssh/host-key", "bucket"]
VALUES = {name: f"value of {name}" for name in NAMES} | {
    "bucket": BUCKET,
    "ssh/host-key": "-----BEGIN KEY-----\nab+/=\n-----END KEY-----\n",
    "mesh/password": "quotes \" ' \\ $HOME `id` and ü",
}


class Cloud(Handler):
    """169.254.169.254, SSM and S3 in one. The latter check the signature as AWS does, with botocore's own arithmetic."""

    values: dict[str, str]
    objects: dict[str, bytes]
    # Why S3 refuses everything, empty where it does not.
    refusal: str
    seen: list[int]

    def do_PUT(self) -> None:
        if self.path.startswith(f"/{BUCKET}/"):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/octet-stream"
            if self.refusal or self.headers["Authorization"] != self.expected(S3SigV4Auth, body):
                return self.answer(403, "<Error><Code>AccessDenied</Code></Error>")
            self.objects[self.path.removeprefix(f"/{BUCKET}/")] = body
            return self.answer(200, "")
        assert self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        return self.answer(200, TOKEN)

    def do_GET(self) -> None:
        if self.path.startswith(f"/{BUCKET}/"):
            return self.do_get_object()
        if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
            return self.answer(401, "")
        role = self.path.removeprefix("/latest/meta-data/iam/security-credentials/")
        return self.answer(200, json.dumps(KEYS) if role == "slave-role" else "slave-role")

    def do_get_object(self) -> None:
        if self.headers["Authorization"] != self.expected(S3SigV4Auth, b""):
            return self.answer(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>")
        if self.refusal:
            return self.answer(403, f"<Error><Code>AccessDenied</Code><Message>{self.refusal}</Message></Error>")
        found = self.objects.get(self.path.removeprefix(f"/{BUCKET}/"))
        return self.answer(200, found) if found is not None else self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != self.expected(SigV4Auth, body):
            return self.answer(400, '{"__type": "InvalidSignatureException"}')
        assert self.headers["X-Amz-Target"] == "AmazonSSM.GetParameters"
        asked = json.loads(body)
        assert asked["WithDecryption"] is True and 1 <= len(asked["Names"]) <= 10
        self.seen.append(len(asked["Names"]))
        names = {name: name.removeprefix("/apollo/dev/") for name in asked["Names"]}
        found = [{"Name": name, "Value": self.values[short]} for name, short in names.items() if short in self.values]
        missing = [name for name, short in names.items() if short not in self.values]
        return self.answer(200, json.dumps({"Parameters": found, "InvalidParameters": missing}))

    def expected(self, how: type[SigV4Auth], body: bytes) -> str:
        signed = re.findall(r"SignedHeaders=([^,]+)", self.headers["Authorization"])[0].split(";")
        # AWS refuses a request whose session token is not part of what was signed, nor S3 one without the body's digest.
        assert {"host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"} <= set(signed)
        assert self.headers["X-Amz-Content-Sha256"] == hashlib.sha256(body).hexdigest()
        url = f"http://{self.headers['Host']}{self.path}"
        request = AWSRequest(self.command, url, {n: self.headers[n] for n in signed}, body)
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        service = "s3" if how is S3SigV4Auth else "ssm"
        auth = how(Credentials(KEYS["AccessKeyId"], KEYS["SecretAccessKey"], KEYS["Token"]), service, "eu-west-1")
        text = auth.string_to_sign(request, auth.canonical_request(request))
        signature = auth.signature(text, request)
        scope = f"{KEYS['AccessKeyId']}/{self.headers['X-Amz-Date'][:8]}/eu-west-1/{service}/aws4_request"
        return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"


class Host:
    """A folder in the place of /, and the program as it would find itself there."""

    def __init__(self, folder: Path, cloud: str) -> None:
        self.folder = folder / "root"
        self.kept = self.folder / "etc/apollo/secrets"
        for place in ("etc/apollo", "etc/ssh", "programs/host/apollo", "programs/plan"):
            (self.folder / place).mkdir(parents=True)
        self.no_ssh = self.folder / "etc/ssh/sshd_not_to_be_run"
        self.no_ssh.touch()
        (self.folder / "etc/apollo/parameters").write_text("".join(f"{name}\n" for name in NAMES))
        self.endpoint(cloud)
        for name in package.BOOT:
            text = package.sources()[name].read_text().replace("http://169.254.169.254", f"http://{cloud}")
            text = text.replace('"/etc', f'"{self.folder}/etc').replace('Path("/")', f'Path("{self.folder}")')
            # The deadlines without and with a copy.
            text = text.replace("= 300.0, 20.0", "= 1.0, 0.5").replace("PAUSE = 2.0", "PAUSE = 0.1")
            (self.folder / "programs" / name).write_text(text)

    def endpoint(self, cloud: str) -> None:
        lines = [f'AWS_ENDPOINT="http://{cloud}"', 'REGION="eu-west-1"', 'SSM_PREFIX="/apollo/dev"']
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
    Cloud.values, Cloud.objects, Cloud.refusal, Cloud.seen = dict(VALUES), {}, "", []
    with served(Cloud) as place:
        yield Host(tmp_path, place)


def test_every_secret_is_fetched_with_a_signature_that_aws_takes_and_kept_for_root_alone(host: Host) -> None:
    done = host.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert Cloud.seen == [10, 4]
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
    host.endpoint("127.0.0.1:1")
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


@pytest.fixture
def programs_of_a_slave(host: Host) -> Programs:
    """The example slave's programs, in the bucket and named by its user-data, on a host that has its secrets."""
    needed = programs(EXAMPLES["weave"], "slave")
    Cloud.objects = {needed.key: needed.archive}
    (host.folder / "etc/apollo/programs").write_text(f"{needed.key}\n")
    assert host.run().returncode == 0
    return needed


def test_programs_are_unpacked_whole_in_their_places_with_their_modes(host: Host, programs_of_a_slave: Programs) -> None:
    del programs_of_a_slave
    done = host.run("programs")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = EXAMPLES["weave"]
    fetched = [file for file in files_of(plan, plan.slaves[0]).values() if file.fetched]
    assert len(fetched) > 10
    for file in fetched:
        assert (host.folder / file.path[1:]).read_text() == file.content
        assert (host.folder / file.path[1:]).stat().st_mode & 0o777 == file.mode
    assert host.run("programs").returncode == 0


@pytest.mark.parametrize(
    "content",
    [programs(EXAMPLES["weave"], "edge").archive, b"no archive", b"", gzip.compress(b"cut off", mtime=0)[:-9]],
    ids=["another role's", "no archive", "nothing", "cut off"],
)
def test_an_object_that_is_not_its_digest_unpacks_nothing(host: Host, programs_of_a_slave: Programs, content: bytes) -> None:
    key = programs_of_a_slave.key
    Cloud.objects[key] = content
    done = host.run("programs")
    assert done.returncode == 1
    assert f"{key} of the stack's bucket is not what its name says: nothing of it was unpacked" in done.stderr
    assert not (host.folder / "usr").exists() and not (host.folder / "etc/haproxy").exists()
    # What the next boot finds.
    Cloud.objects[key] = programs_of_a_slave.archive
    assert host.run("programs").returncode == 0


def test_a_bucket_that_cannot_be_read_is_named_with_the_reason(host: Host, programs_of_a_slave: Programs) -> None:
    which = f"{programs_of_a_slave.key} of the bucket {BUCKET} cannot be read: 127.0.0.1:"
    Cloud.refusal = "no identity-based policy allows the s3:GetObject action"
    done = host.run("programs")
    assert done.returncode == 1 and which in done.stderr
    assert "refuses: 403 <Error><Code>AccessDenied</Code>" in done.stderr and Cloud.refusal in done.stderr
    Cloud.refusal, Cloud.objects = "", {}
    done = host.run("programs")
    assert done.returncode == 1 and which in done.stderr and "refuses: 404 <Error><Code>NoSuchKey</Code>" in done.stderr
    # The role's keys come from elsewhere on a host, so that this is S3 alone.
    host.endpoint("127.0.0.1:1")
    done = host.run("programs")
    assert done.returncode == 1 and f"{which}1 cannot be reached: " in done.stderr


def test_on_aws_a_bucket_is_asked_at_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    monkeypatch.setattr(parameters, "facts", lambda: {"AWS_ENDPOINT": "", "REGION": "eu-west-1"})
    monkeypatch.setattr(parameters, "secret", lambda _: BUCKET)
    monkeypatch.setattr(parameters, "credentials", lambda: KEYS)

    @contextlib.contextmanager
    def opened(url: str, headers: dict[str, str]) -> Generator[None]:
        asked.append(f"{headers['host']} {url}")
        yield

    monkeypatch.setattr(parameters, "opened", opened)
    with parameters.stored("programs/slave/abc"):
        pass
    place = f"{BUCKET}.s3.eu-west-1.amazonaws.com"
    assert asked == [f"{place} https://{place}/programs/slave/abc"]
