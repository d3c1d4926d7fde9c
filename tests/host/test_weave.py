"""Where Weave's programs come from: a registry and an archive served here, right ones and wrong ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from host.apollo import images, local, parameters
from host.apollo.mesh.weave import programs as weave
from host.apollo.mesh.weave import status
from host.render import node_facts
from ops import pin_images
from ops.__main__ import main
from plan.settings import Settings
from tests.host.conftest import Agent
from tests.host.support import EXAMPLES, Handler, files_of, needs, raising, served, stand_in, text_of, until
from tests.host.test_parameters import BUCKET, Cloud
from tests.host.test_verbs import Clock
from tests.plan.support import cluster

TOKEN = "a-token-of-the-registry"


def archive(**files: bytes) -> bytes:
    """A layer: each file at a path of its own, as in Weave's image. A double underscore stands for a slash."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as members:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size, member.mode = len(content), 0o755
            members.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("usr/sbin/weaver")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        members.addfile(link)
    return gzip.compress(buffer.getvalue(), mtime=0)


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Store(Handler):
    """A registry that wants a token and hands out its blobs elsewhere, as the large ones do; elsewhere wants none."""

    contents: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        own = f"http://{self.headers['Host']}"
        path, _, _ = self.path.partition("?")
        if path == "/token":
            self.answer(200, json.dumps({"token": TOKEN}))
        elif path.startswith("/elsewhere/"):
            assert "Authorization" not in self.headers
            self.answer(200, self.contents[path.rpartition("/")[2]])
        elif path.endswith(".tar.gz"):
            self.answer(200, self.contents["archive"])
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b"", {"WWW-Authenticate": f'Bearer realm="{own}/token",service="here",scope="pull"'})
        elif path.startswith("/v2/some/weave/blobs/"):
            self.answer(307, b"", {"Location": f"{own}/elsewhere/{path.rpartition('/')[2]}"})
        elif path.rpartition("/")[2] in self.contents:
            self.answer(200, self.contents[path.rpartition("/")[2]])
        else:
            self.answer(404)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Generator[dict[str, bytes]]:
    """What is in the stack's bucket, which this host reads and writes."""
    Cloud.objects, Cloud.refusal = {}, ""
    with served(Cloud) as place:
        facts = {"AWS_ENDPOINT": f"http://{place}", "REGION": "eu-west-1", "INDEX": "1"}
        monkeypatch.setattr(parameters, "METADATA", f"http://{place}/latest")
        monkeypatch.setattr(parameters, "secret", {"bucket": BUCKET}.__getitem__)
        for module in (local, parameters):
            monkeypatch.setattr(module, "facts", lambda: facts)
        yield Cloud.objects


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bucket: dict[str, bytes]) -> Generator[str]:
    del bucket
    lower = archive(home__weave__weaver=b"old", usr__bin__weaveutil=b"util", etc__passwd=b"no")
    upper = archive(home__weave__weaver=b"router", home__weave__weave=b"script")
    config = b'{"architecture": "amd64"}'
    # One layer twice, as images have it.
    layers = [{"digest": digest(layer)} for layer in (lower, lower, upper)]
    manifest = json.dumps({"config": {"digest": digest(config)}, "layers": layers}).encode()
    places = [{"os": "linux", "architecture": name} for name in ("s390x", "amd64", "arm64")]
    index = json.dumps({"manifests": [{"digest": digest(manifest), "platform": place} for place in places]}).encode()
    Store.contents = {digest(content): content for content in (config, lower, upper, manifest, index)}
    Store.contents |= {"2.9.0": index, "archive": upper}
    real = images.Registry
    monkeypatch.setattr(images, "Registry", lambda image, _scheme="", patience=0.0: real(image, "http", patience))
    # The real places below another root: /usr/local/bin is on every host, /usr/local/lib/weave on none.
    monkeypatch.setattr(weave, "TARGETS", {name: below(tmp_path, place) for name, place in weave.TARGETS.items()})
    monkeypatch.setattr(weave, "RECORD", below(tmp_path, weave.RECORD))
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    with served(Store) as place:
        yield place


def below(root: Path, place: Path) -> Path:
    return root / place.relative_to("/")


def installed() -> dict[str, bytes]:
    return {name: place.read_bytes() for name, place in weave.TARGETS.items() if place.exists()}


def test_the_programs_come_out_of_an_images_layers_the_upper_ones_winning(registry: str) -> None:
    source = f"{registry}/some/weave:2.9.0"
    assert "pin it" in weave.install(source)
    assert installed() == {"weave": b"script", "weaver": b"router", "weaveutil": b"util"}
    assert all(place.stat().st_mode & 0o777 == 0o755 for place in weave.TARGETS.values())
    Store.contents = {}
    assert weave.install(source) == "here already"


def test_an_image_by_its_digest_is_that_image(registry: str) -> None:
    assert "pin it" not in weave.install(pinned(registry))


@pytest.mark.parametrize("what", ["the tag's index", "the manifest", "a layer"])
def test_what_is_not_what_its_digest_says_is_refused_and_nothing_is_installed(registry: str, what: str) -> None:
    index = Store.contents["2.9.0"]
    manifest = json.loads(index)["manifests"][0]["digest"]
    layer = json.loads(Store.contents[manifest])["layers"][2]["digest"]
    changed = {"the tag's index": digest(index), "the manifest": manifest, "a layer": layer}[what]
    Store.contents[changed] = Store.contents[changed] + b" "
    with pytest.raises(images.Refused, match=f"not {changed}"):
        weave.install(pinned(registry))
    assert installed() == {}


def pinned(registry: str) -> str:
    return f"{registry}/some/weave:2.9.0@{digest(Store.contents['2.9.0'])}"


def uninstall() -> None:
    for place in (*weave.TARGETS.values(), weave.RECORD):
        place.unlink(missing_ok=True)


def test_the_second_host_needs_no_registry_and_gets_the_same(registry: str, bucket: dict[str, bytes]) -> None:
    source, archive_ = pinned(registry), archive(weaver=b"router", weaveutil=b"util")
    Store.contents["archive"] = archive_
    url = f"http://{registry}/weave.tar.gz@{digest(archive_)}"
    for one in (source, url):
        weave.install(one)
        first = installed()
        Store.contents, published = {}, Store.contents
        uninstall()
        weave.install(one)
        assert installed() == first
        uninstall()
        Store.contents = published
    assert bucket and all(f"images/{hashlib.sha256(content).hexdigest()}" == key for key, content in bucket.items())


def test_a_piece_in_the_bucket_that_is_not_its_digest_is_fetched_anew(
    registry: str, bucket: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    weave.install(pinned(registry))
    right, first = dict(bucket), installed()
    for key in right:
        uninstall()
        bucket[key] = b"another"
        weave.install(pinned(registry))
        assert installed() == first and bucket == right
        assert f"{key} of the stack's bucket is sha256:" in capsys.readouterr().out


def test_a_bucket_that_cannot_be_used_costs_a_pull_and_nothing_else(
    registry: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Cloud, "refusal", "no right")
    weave.install(pinned(registry))
    assert installed()["weaver"] == b"router"
    assert "other hosts have to fetch it too" in capsys.readouterr().out


def test_a_host_leaves_the_registry_to_those_before_it_for_a_while(
    registry: str, bucket: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    weave.install(pinned(registry))
    uninstall()
    source, root = pinned(registry), f"images/{pinned(registry).rpartition(':')[2]}"
    content, asked = bucket.pop(root), list[str]()
    monkeypatch.setattr(images, "PAUSE", 0.01)
    monkeypatch.setitem(local.facts(), "INDEX", "30")
    real = parameters.stored

    def late(key: str) -> Any:
        asked.append(key)
        if asked.count(root) == 3:
            bucket[root] = content
        return real(key)

    monkeypatch.setattr(parameters, "stored", late)
    Store.contents = {}
    weave.install(source)
    assert asked.count(root) == 3 and installed()["weaver"] == b"router"


def test_docker_is_given_an_image_under_a_name_of_our_own(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in: what is looked at here is what it is given. tests/booted/test_mesos.py gives it to the real one.
    docker = stand_in(tmp_path / "docker", f'[ "$*" = "load --quiet" ] && cat > {tmp_path}/loaded')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    source = pinned(registry)
    images.load(source, 0.0)
    with tarfile.open(tmp_path / "loaded") as loaded:
        contents = {member.name: loaded.extractfile(member).read() for member in loaded}  # pyright: ignore[reportOptionalMemberAccess]
    (about,) = json.loads(contents.pop("manifest.json"))
    assert about["RepoTags"] == [images.named(source)] == [f"apollo/some/weave:{source.rpartition(':')[2][:16]}"]
    assert len(about["Layers"]) == 3 and {about["Config"], *about["Layers"]} == set(contents)
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in contents.items())
    stand_in(docker, "echo no space left >&2; exit 1")
    with pytest.raises(images.Refused, match="docker load: no space left"):
        images.load(source, 0.0)
    assert images.named("mesosphere/marathon:v1.7.50") == "mesosphere/marathon:v1.7.50"


def test_an_archive_by_url_needs_its_checksum_and_both_programs(registry: str) -> None:
    url = f"http://{registry}/weave.tar.gz"
    with pytest.raises(images.Refused, match=f"not sha256:{'0' * 64}"):
        weave.install(f"{url}@sha256:{'0' * 64}")
    with pytest.raises(images.Refused, match="has no weaveutil"):
        weave.install(f"{url}@{digest(Store.contents['archive'])}")
    assert installed() == {}
    Store.contents["archive"] = archive(weaver=b"router", weaveutil=b"util")
    source = f"{url}@{digest(Store.contents['archive'])}"
    # Without Weave's script nothing else made the folder of the record.
    assert weave.install(source).startswith("installed weaver, weaveutil")
    assert weave.install(source) == "here already"


def test_an_installation_that_broke_off_is_not_taken_for_the_images_own(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"{registry}/some/weave:2.9.0"
    with monkeypatch.context() as broken:
        # weaver and weaveutil are written, the script is not: a file stands where its folder should.
        broken.setitem(weave.TARGETS, "weave", tmp_path / "usr/local/bin/weaver/weave")
        with pytest.raises(OSError, match="weaver"):
            weave.install(source)
    assert weave.TARGETS["weaver"].exists()
    assert weave.install(source).startswith("installed weave, weaver, weaveutil")


def test_programs_that_the_image_brought_stay(registry: str) -> None:
    for name in ("weaver", "weaveutil"):
        weave.TARGETS[name].write_bytes(b"own")
    assert weave.install(f"{registry}/some/weave:2.9.0") == "the image's own serve"
    assert installed() == {"weaver": b"own", "weaveutil": b"own"}


DIGEST = f"sha256:{'0123456789abcdef' * 4}"
HUB = "registry-1.docker.io"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (Settings(region="eu-west-1").overlay.weave_from, (HUB, "rajchaudhuri/weave", "2.9.0", "")),
        ("mesosphere/marathon:v1.7.50", (HUB, "mesosphere/marathon", "v1.7.50", "")),
        ("docker.io/a/b", (HUB, "a/b", "latest", "")),
        ("busybox", (HUB, "library/busybox", "latest", "")),
        (f"busybox:1@{DIGEST}", (HUB, "library/busybox", "1", DIGEST)),
        ("127.0.0.1:5000/a:1", ("127.0.0.1:5000", "a", "1", "")),
        (f"Reg.example.com/a/b@{DIGEST}", ("Reg.example.com", "a/b", "latest", DIGEST)),
        *((text, None) for text in ("Upper/case", "a b", "a:1:2", f"a@{DIGEST[:-1]}", f"a@{DIGEST}0", "a@md5:00")),
    ],
)
def test_an_image_is_named_as_docker_names_it(text: str, parts: tuple[str, ...] | None) -> None:
    if parts is None:
        with pytest.raises(images.Refused, match=f"^{re.escape(text)} is no image such as docker.io/name/image:tag$"):
            images.Image.parse(text)
    else:
        assert images.Image.parse(text) == images.Image(*parts)


@pytest.mark.parametrize(
    ("machine", "found"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("s390x", "s390x"), ("riscv64", None)]
)
def test_of_an_image_for_several_machines_this_ones_is_taken(
    machine: str, found: str | None, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.platform, "machine", lambda: machine)
    places = [("windows", "amd64"), ("linux", "amd64"), ("linux", "arm64"), ("linux", "s390x")]
    configs = {place: json.dumps(place).encode() for place in places}
    manifests = {
        place: json.dumps({"config": {"digest": digest(config)}, "layers": []}).encode() for place, config in configs.items()
    }
    entries = [
        {"digest": digest(manifests[place]), "platform": dict(zip(("os", "architecture"), place, strict=True))}
        for place in places
    ]
    Store.contents |= {digest(content): content for content in (*configs.values(), *manifests.values())}
    Store.contents["several"] = json.dumps({"manifests": [{"digest": "of a signature"}, *entries]}).encode()
    pieces = images.Registry(images.Image.parse(f"{registry}/some/weave:several")).pieces()
    if found is None:
        with pytest.raises(images.Refused, match=r"^some/weave has no image for linux on riscv64$"):
            next(pieces)
    else:
        ((name, content),) = pieces
        assert name == digest(configs["linux", found]) and content.read() == configs["linux", found]


def test_what_a_registry_refuses_is_said_with_its_address(registry: str) -> None:
    with pytest.raises(images.Refused, match=f"^http://{registry}/v2/some/weave/manifests/9: 404 "):
        images.Registry(images.Image.parse(f"{registry}/some/weave:9")).digest()
    by_tag, by_digest = (
        images.Registry(images.Image.parse(f"{registry}/some/weave:{of}")) for of in ("2.9.0", f"9@{pinned(registry)[-71:]}")
    )
    assert by_tag.digest() == by_digest.digest() == pinned(registry)[-71:]


def test_a_piece_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST", 3 << 20)
    whole = b"x" * (3 << 20)
    assert images.verified(io.BytesIO(whole), digest(whole), "a layer").read() == whole
    with pytest.raises(images.Refused, match=r"^a layer is larger than 3 MiB$"):
        images.verified(io.BytesIO(whole + b"x"), digest(whole + b"x"), "a layer")


@pytest.mark.parametrize(("index", "patience", "waited"), [(1, 60, 0), (2, 60, 6), (3, 60, 10), (30, 60, 60), (30, 0, 0)])
@pytest.mark.usefixtures("bucket")
def test_each_host_leaves_a_piece_to_those_before_it_for_so_long(
    index: int, patience: float, waited: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setitem(local.facts(), "INDEX", str(index))
    monkeypatch.setattr(images, "time", clock)
    monkeypatch.setattr(parameters, "stored", raising(parameters.Unavailable("no such key")))
    assert images.kept(DIGEST, patience) is None
    assert (clock.now, set(clock.waits) - {images.PAUSE}) == (waited, set())


def test_pin_images_writes_what_the_tag_stands_for_and_leaves_what_is_pinned(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"{registry}/some/weave:2.9.0"
    used: dict[str, Any] = {"mesh": "weave", "weaveFrom": source}
    agent = {"agentImage": source, **{f"{name}Image": f"x/y@sha256:{'0' * 64}" for name in ("master", "marathon")}}
    config = {"apollo:overlay": {"value": "", "objectValue": used}, "apollo:mesos": {"value": "", "objectValue": agent}}
    log = tmp_path / "log"
    # A stand-in for the CLI: what is looked at here is what is asked of it.
    asked = f'if [ "$2" = set ]; then echo "$*" >> {log}; else echo \'{json.dumps(config)}\'; fi'
    pulumi = stand_in(tmp_path / "pulumi", asked)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    pinned = f"{registry}/some/weave@{digest(Store.contents['2.9.0'])}"
    assert pin_images.pin("dev", scheme="http") == {"overlay.weaveFrom": pinned, "mesos.agentImage": pinned}
    assert f"--path apollo:overlay.weaveFrom {pinned} --non-interactive" in log.read_text()
    pulumi.write_text(pulumi.read_text().replace(source, pinned))
    assert main(["pin-images", "--stack", "dev"]) == 0
    assert capsys.readouterr().out == "nothing to pin\n"
    with pytest.raises(pin_images.ImagesError, match="404"):
        pin_images._digest(f"{registry}/some/weave:9", "http")  # pyright: ignore[reportPrivateUsage]


class Router(Handler):
    """Notes what it is asked, as Weave's router would read it. Refuses a host named `nobody`, and as the real one does a report
    for somebody who takes no JSON and gives no format."""

    asked: ClassVar[list[tuple[str, str, dict[str, list[str]]]]] = []

    def do_GET(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        path, _, query = self.path.partition("?")
        self.asked.append((self.command, path, form | parse_qs(query)))
        takes = self.headers.get("Accept") == "application/json" or "format" in parse_qs(query)
        refused = "nobody" in form.get("peer", []) or (path == "/report" and not takes)
        self.answer(400 if refused else 200, "the router's words\n")

    do_POST = do_GET


@pytest.fixture
def router() -> Generator[str]:
    Router.asked = []
    with served(Router) as place:
        yield place


def test_weave_asks_the_router_for_its_own_verbs_with_debians_curl(router: str) -> None:
    needs("curl", "curl")
    script = text_of("slave", "/usr/local/bin/weave")
    assert "127.0.0.1:6784" in script

    def run(*verbs: str) -> subprocess.CompletedProcess[str]:
        own = script.replace("127.0.0.1:6784", router)
        return subprocess.run(["bash", "-s", "--", *verbs], input=own, capture_output=True, text=True, check=False)

    format = "{{range .Router.Peers}}{{.Name}} {{end}}"
    asked = [("status",), ("status", "connections"), ("report",), ("report", "-f", format), ("forget", "10.0.0.33", "b&peer=c")]
    for verbs in [*asked, ("connect", "h")]:
        done = run(*verbs)
        assert (done.returncode, done.stdout) == (0, "the router's words\n"), done.stderr
    assert Router.asked == [
        ("GET", "/status", {}),
        ("GET", "/status/connections", {}),
        ("GET", "/report", {}),
        ("GET", "/report", {"format": [format]}),
        ("POST", "/forget", {"peer": ["10.0.0.33", "b&peer=c"]}),
        ("POST", "/connect", {"peer": ["h"]}),
    ]
    assert run("connect", "nobody").returncode == 22
    assert (run("forget").returncode, run("launch").returncode, run().returncode) == (2, 1, 1)


def test_the_router_does_not_start_without_a_password(tmp_path: Path) -> None:
    (tmp_path / "secrets/mesh").mkdir(parents=True)
    (tmp_path / "node.env").write_text('CONTROL_ADDRESSES="10.0.0.11"\n')
    script = text_of("slave", "/usr/local/lib/apollo/weave-router").replace("/etc/apollo", str(tmp_path))
    for content, said in ((None, "No such file"), ("", "the mesh's password is empty")):
        if content is not None:
            (tmp_path / "secrets/mesh/password").write_text(content)
        done = subprocess.run(["bash", "-s"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and said in done.stderr


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_router_has_all_five_control_addresses_for_seeds_however_many_there_are(count: int, tmp_path: Path) -> None:
    plan = cluster(control={"count": count})
    local.write(tmp_path / "node.env", files_of(plan, plan.slaves[0])["/etc/apollo/node.env"].content)
    local.write(tmp_path / "secrets/mesh/password", "x")
    local.write(tmp_path / "address", "02:77:0a:02:00:01")
    script = text_of("slave", "/usr/local/lib/apollo/weave-router")
    for old, new in (("/etc/apollo", str(tmp_path)), ("/usr/local/bin/weaver", "printf '%s\\n'")):
        script = script.replace(old, new)
    script = script.replace("/sys/class/net/weave/address", str(tmp_path / "address"))
    done = subprocess.run(["bash", "-s"], input=script, capture_output=True, text=True, check=True)
    *options, last = done.stdout.partition("--mtu=8916\n")
    assert last.split() == ["10.0.0.11", "10.0.32.12", "10.0.0.13", "10.0.32.14", "10.0.0.15"]
    assert {"--host=10.0.0.33", "--conn-limit=254", "--nickname=slave-1"} <= set("".join(options).split())
    assert "--password" not in done.stdout


ESTABLISHED = "<- 10.0.0.11:41234      established encrypted   fastdp 02:77:0a:02:00:fa(control-1) mtu=8916"
FAILED = "-> 10.0.0.11:6783       failed      dial tcp4 10.0.0.11:6783: connect: connection refused, retry: 12s"
SLAVE_3 = ESTABLISHED.replace("10.0.0.11", "10.0.0.35")
# Of every host: itself, and the seeds that are not there.
ALWAYS = """-> 10.0.0.33:6783       failed      cannot connect to ourself, retry: never
-> 10.0.0.15:6783       retrying    dial tcp4 10.0.0.15:6783: connect: no route to host"""


BRIDGES = {"control-1": "10.2.0.250", "slave-3": "10.2.0.3", "slave-4": "10.2.0.4"}


@dataclass
class Around:
    """The router's words, who answers no ping, and the other hosts of the catalog as name → (address, mesh), or None where
    Consul is away."""

    connections: str = ""
    hosts: dict[str, tuple[str, str]] | None = None
    dead: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def ping(self, address: str) -> list[str]:
        return ["false" if address in self.silent else "true"]

    def consul(self, path: str, _: str = "") -> tuple[Any, Any]:
        if self.hosts is None:
            raise status.local.ConsulError("no answer")
        if path.startswith("health/state/passing?"):
            return [{"Node": name, "CheckID": "serfHealth"} for name in self.hosts if name not in self.dead], {}
        own = {"slave-1": ("10.0.0.33", "weave")}
        return [
            {"Node": name, "Address": address, "Meta": {"bridge": BRIDGES.get(name, "-f"), "mesh": mesh}}
            for name, (address, mesh) in (self.hosts | own).items()
        ], {}


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Around:
    around = Around()
    monkeypatch.setattr(status.local, "consul", around.consul)
    monkeypatch.setattr(status.local, "secret", lambda _: "a token")
    monkeypatch.setattr(status.network, "ping", around.ping)
    monkeypatch.setattr(status.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(around.connections.encode()))
    return around


FACTS = node_facts(EXAMPLES["weave"], EXAMPLES["weave"].slaves[0], "dev")
TWO = {"control-1": ("10.0.0.11", "weave"), "slave-3": ("10.0.0.35", "weave")}


def test_a_router_connected_to_all_who_live_is_well_whatever_seeds_do_not_exist(around: Around) -> None:
    around.hosts = {**TWO, "slave-4": ("10.0.32.36", "weave")}
    around.dead = ("slave-4",)
    around.connections = f"{ESTABLISHED}\n{SLAVE_3}\n{ALWAYS}\n"
    assert status.check(FACTS) == ("2 connections, 2 of 2 asked answer", [])
    # Consul's absence takes nothing away.
    around.hosts = None
    assert status.check(FACTS) == ("2 connections", [])


def test_connections_over_which_no_packet_comes_are_no_mesh(around: Around) -> None:
    # As with ESP closed: the router goes on saying that all is established.
    around.hosts, around.connections = TWO, f"{ESTABLISHED}\n{SLAVE_3}\n{ALWAYS}"
    around.silent = ("10.2.0.250", "10.2.0.3")
    with pytest.raises(
        ValueError, match=r"no packet crosses weave: no answer from slave-3 \(10\.2\.0\.3\), control-1"
    ) as raised:
        status.check(FACTS)
    assert "though there are 2 connections: is ESP open?" in str(raised.value)
    around.silent = ("10.2.0.3",)
    assert status.check(FACTS) == ("2 connections, 1 of 2 asked answer", ["no answer from slave-3 (10.2.0.3)"])
    # Who claims no address of the overlay is connected, and not asked.
    around.hosts = {**TWO, "slave-5": ("10.0.0.37", "weave")}
    around.connections += f"\n{ESTABLISHED.replace('10.0.0.11', '10.0.0.37')}"
    assert status.check(FACTS)[0] == "3 connections, 1 of 2 asked answer"


@pytest.mark.parametrize("words", ["", ALWAYS, f"{FAILED}\n{ALWAYS}", FAILED.replace("failed  ", "pending ")])
def test_a_host_without_a_single_connection_is_cut_off(around: Around, words: str) -> None:
    around.hosts, around.connections = TWO, words
    with pytest.raises(ValueError, match=r"no connection to any of 2 hosts, such as control-1 \(10.0.0.11\)") as raised:
        status.check(FACTS)
    assert ("connection refused" if "refused" in words else "the router tries none") in str(raised.value)
    around.hosts = None
    with pytest.raises(status.local.ConsulError):
        status.check(FACTS)


def test_a_host_that_is_alone_or_first_in_its_mesh_is_not_cut_off(around: Around) -> None:
    around.hosts, around.connections = {}, ALWAYS
    assert status.check(FACTS) == ("0 connections", [])
    around.hosts = {name: (address, "vxlan") for name, (address, _) in TWO.items()}
    assert status.check(FACTS) == ("0 connections", ["2 hosts of another mesh, such as control-1"])


def test_a_host_that_consul_says_is_dead_is_not_missed(agent: Agent) -> None:
    token = local.secret("consul/management-token")
    local.write(local.SECRETS / "consul/control-token", token)
    nodes = [
        ("slave-2", "10.0.0.34", "weave", "passing"),
        ("slave-3", "10.0.0.35", "weave", "critical"),
        ("edge-1", "10.0.224.11", "vxlan", "passing"),
    ]

    def listed() -> bool:
        # The leader takes out each minute what has such a check and is no member.
        for name, address, mesh, health in nodes:
            node = {"Node": name, "Address": address, "NodeMeta": {"bridge": "10.2.0.2", "mesh": mesh}}
            check = {"CheckID": "serfHealth", "Name": "Serf", "Status": health}
            # A service's check may pass on a host that is dead.
            other = {"CheckID": "other", "Name": "other", "Status": "passing"}
            for one in (check, other):
                local.consul("catalog/register", token, "PUT", {**node, "Check": one})
        return status.hosts(agent.facts | {"MESH": "weave"}) == ({"10.0.0.34": ("slave-2", "10.2.0.2")}, ["edge-1"])

    until(listed, "of two slaves the living one is listed, and the edge of another mesh")


def test_what_is_slow_or_not_connected_is_a_warning(around: Around) -> None:
    around.hosts = TWO
    around.connections = f"{ESTABLISHED.replace('fastdp', 'sleeve')}\n{FAILED.replace('0.11', '0.35')}\n{ALWAYS}"
    _, (slow, missing) = status.check(FACTS)
    assert "1 of 1 connections are on the slow sleeve" in slow
    assert missing.startswith("no connection to slave-3 (10.0.0.35): -> 10.0.0.35:6783 failed dial")
    # And a line about an address that Consul does not have.
    around.connections = f"{ESTABLISHED}\n{SLAVE_3}\n{FAILED.replace('0.11', '0.99')}"
    _, (strange,) = status.check(FACTS)
    assert strange.startswith("1 connections do not come about, such as: -> 10.0.0.99:6783 failed")
