"""What a host writes for Prometheus: well formed, whole where one part of the host fails, and without anything secret."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from host.apollo import check, local, metrics
from host.apollo.edge import apply
from host.apollo.mesh import routed, vxlan
from host.apollo.mesh.weave import status
from host.render import node_facts
from ops.secrets import generate
from tests.host.support import EXAMPLES, STACK, Handler, needs, served
from tests.host.test_verbs import Clock

PLAN = EXAMPLES["vxlan-baked"]
FACTS = node_facts(PLAN, PLAN.slaves[0], STACK)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A slave's folders, with its programs' key, its table of two peers and Consul's certificate in them."""
    monkeypatch.setattr(metrics, "PROGRAMS", tmp_path / "programs")
    monkeypatch.setattr(metrics, "CERTIFICATES", tmp_path)
    monkeypatch.setattr(metrics, "TARGET", tmp_path / "metrics/apollo.prom")
    monkeypatch.setattr(routed, "TABLE", tmp_path / "mesh.json")
    (tmp_path / "programs").write_text(f"programs/slave/{'ab' * 32}\n")
    (tmp_path / "own.pem").write_text(generate()["consulAgentCertificate"])
    peers = (PLAN.slaves[1], PLAN.control[0])
    table = [routed.Peer(p.name, str(p.private_ip), str(p.bridge_address.ip), str(p.docker_subnet or "")) for p in peers]
    routed.save(FACTS, {peer.name: peer for peer in table})
    return tmp_path


def found(samples: list[metrics.Sample], name: str) -> dict[Any, float]:
    return {next(iter(sample.labels.values()), ""): sample.value for sample in samples if sample.name == name}


def present(*names: str) -> routed.Tables:
    return vxlan.LINK.wanted([peer for peer in routed.load(FACTS).values() if peer.name in names])


def test_peers_and_certificates_are_counted_as_they_are(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del host
    monkeypatch.setattr(vxlan.LINK, "present", lambda: present("slave-2"))
    samples = [*metrics.host(FACTS), *metrics.mesh(FACTS), *metrics.certificates(FACTS)]
    assert found(samples, "apollo_mesh_peers_wanted") == {"": 2}
    assert found(samples, "apollo_mesh_peers_present") == {"": 1}
    assert found(samples, "apollo_host_generation") == {"": 1}
    (info,) = [sample.labels for sample in samples if sample.name == "apollo_host_info"]
    assert (info["host"], info["programs"]) == ("slave-1", "ab" * 32)
    ((name, end),) = found(samples, "apollo_certificate_expiry_timestamp_seconds").items()
    assert name == "consul" and end > time.time() + 86400


def test_an_edge_says_the_services_of_the_catalog_and_none_that_haproxy_alone_still_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "NEW", tmp_path / "services.cfg")
    routes = "#!route web.example/ web\n#!warning web wants a.b/ which a has\n"
    apply.NEW.write_text(f"{routes}backend service:web\n    server a 10.2.1.0:80 check\n#!end\n")
    samples = list(metrics.parts({**FACTS, "ROLE": "edge", "DOCKER_SUBNET": ""})["edge"](FACTS))
    assert [sample for sample in samples if isinstance(sample, str)] == []
    assert 'apollo_services_refused{reason="route"} 1' in metrics.text(samples)
    assert metrics.text(samples).endswith('apollo_service_published{proxy="service:web"} 1\n')
    apply.NEW.write_text("#!end\n")
    assert {sample.name: sample.value for sample in metrics.edge(FACTS) if isinstance(sample, metrics.Sample)} == {
        "apollo_services_refused": 0,
        "apollo_services_published": 0,
    }, "none is no failure"


def test_the_peers_of_weave_are_those_of_the_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {"10.0.32.34": status.Host("slave-2", "10.2.0.2"), "10.0.0.11": status.Host("control-1", "10.2.0.250")}
    lines = [
        "<- 10.0.32.34:6783 established fastdp x",
        "-> 10.0.0.11:6783 retrying x",
        "-> 10.0.0.99:6783 established fastdp x",
    ]
    monkeypatch.setattr(status, "hosts", lambda _: (hosts, []))
    monkeypatch.setattr(status, "connections", lambda: lines)
    samples = list(metrics.mesh({**FACTS, "MESH": "weave"}))
    assert (found(samples, "apollo_mesh_peers_wanted"), found(samples, "apollo_mesh_peers_present")) == ({"": 2}, {"": 1})


def test_findings_say_what_fails_and_what_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [{"check": "units", "ok": True}, {"check": "disks", "ok": True, "warning": True}, {"check": "mesh", "ok": False}]
    monkeypatch.setattr(check, "results", lambda _: results)
    samples = list(metrics.findings(FACTS))
    assert found(samples, "apollo_check_ok") == {"units": 1, "disks": 1, "mesh": 0}
    assert found(samples, "apollo_check_warning") == {"units": 0, "disks": 1, "mesh": 0}


def test_a_part_that_fails_is_said_and_keeps_no_other_back(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: str) -> str:
        raise FileNotFoundError("no such program")

    def none(_: Mapping[str, str]) -> list[dict[str, Any]]:
        return []

    monkeypatch.setattr(metrics, "output", nothing)
    monkeypatch.setattr(check, "results", none)
    monkeypatch.setattr(vxlan.LINK, "present", lambda: present())
    monkeypatch.setattr(local, "facts", lambda: FACTS)
    assert metrics.main() == 0
    text = (host / "metrics/apollo.prom").read_text()
    parts = {line for line in text.splitlines() if line.startswith("apollo_metrics_part_ok")}
    assert parts == {
        f'apollo_metrics_part_ok{{part="{part}"}} {ok}'
        for part, ok in {
            "host": 1,
            "mesh": 1,
            **dict.fromkeys(("guards", "containers", "names", "certificates", "findings"), 0),
        }.items()
    }
    assert "apollo_mesh_peers_present 0\n" in text
    # Prometheus' own reader takes it, and its linter finds no fault with the names.
    done = subprocess.run(
        [needs("promtool", "prometheus"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_sample_belongs_to_a_family_that_is_described(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del host
    monkeypatch.setattr(vxlan.LINK, "present", lambda: present("slave-2"))
    for sample in (*metrics.host(FACTS), *metrics.mesh(FACTS), *metrics.certificates(FACTS)):
        assert sample.name in metrics.FAMILIES
    monkeypatch.setattr(metrics, "FAMILIES", {})
    with pytest.raises(KeyError, match="apollo_host_info"):
        metrics.text(metrics.host(FACTS))


def test_what_other_programs_tell_prometheus_is_kept_by_its_families_names() -> None:
    class Told(Handler):
        def do_GET(self) -> None:
            token = self.headers.get("X-Consul-Token", "none")
            own = ("# HELP consul_a1 it", "# TYPE consul_a1 gauge", f'consul_a1{{token="{token}"}} 1', "consul_c 3")
            self.answer(200, "".join(f"{line}\n" for line in (*own, "# HELP other consul_a", "# EOF", "other 2")))

    with served(Told) as place:
        kept = '# HELP consul_a1 it\n# TYPE consul_a1 gauge\nconsul_a1{token="%s"} 1\n'
        assert metrics.told(f"http://{place}/", ("consul_a",)) == kept % "none"
        assert metrics.told(f"http://{place}/", ("consul_a", "consul_c"), "x") == kept % "x" + "consul_c 3\n"
    with pytest.raises(OSError):
        metrics.told(f"http://{place}/", ("consul_a",))


def test_a_slave_counts_its_containers_what_is_refused_them_and_what_its_guards_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rule(comment: str, packets: int) -> dict[str, Any]:
        return {
            "rule": {"comment": comment, "expr": [{"match": {}}, {"counter": {"packets": packets, "bytes": 9}}, {"drop": None}]}
        }

    listed = [{"metainfo": {}}, {"rule": {"expr": [{"counter": {"packets": 1}}]}}, rule("metadata", 3), rule("control", 0)]
    said = {"nft -j list chain inet apollo passing": json.dumps({"nftables": listed}), "docker ps -q": "a\nb\nc\n"}
    asked = {("agent/services", "of consul/slave-token"): {"apollo:a:80": {}, "apollo:b:80": {}, "apollo-metrics": {}}}
    monkeypatch.setattr(metrics, "output", lambda *argv: said[" ".join(argv)])
    monkeypatch.setattr(local, "secret", lambda name: f"of {name}")
    monkeypatch.setattr(local, "consul", lambda path, token: (asked[path, token], None))
    monkeypatch.setattr(metrics, "told", lambda *given: str(given))
    monkeypatch.setattr(metrics, "REFUSED", tmp_path / "refused.json")
    metrics.REFUSED.write_text('{"tag": 2, "name": 0}')
    assert found(list(metrics.guards(FACTS)), "apollo_guard_dropped_packets_total") == {"metadata": 3, "control": 0}
    *samples, docker = metrics.containers(FACTS)
    assert [(s.name, s.value, *s.labels.items()) for s in samples if isinstance(s, metrics.Sample)] == [
        ("apollo_containers_running", 3),
        ("apollo_services_registered", 2),
        ("apollo_services_refused", 2, ("reason", "tag")),
        ("apollo_services_refused", 0, ("reason", "name")),
    ]
    assert docker == str(("http://127.0.0.1:9323/metrics", metrics.OF_DOCKER))
    url = f"{local.CONSUL}/v1/agent/metrics?format=prometheus"
    assert list(metrics.consul(FACTS)) == [str((url, metrics.OF_CONSUL, "of consul/management-token"))]


def test_the_time_that_a_name_takes_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    clock.now = 5.0

    def looked_up(name: str) -> str:
        assert name == "consul.service.consul"
        clock.now += 0.25
        return "10.0.0.11"

    monkeypatch.setattr(metrics, "time", clock)
    monkeypatch.setattr(metrics.socket, "gethostbyname", looked_up)
    assert list(metrics.names(FACTS)) == [metrics.Sample("apollo_names_lookup_seconds", 0.25)]


def test_an_edge_has_a_certificate_of_its_own_where_one_was_given(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SECRETS", host / "secrets")
    local.write(host / "secrets/edge/certificate", (host / "own.pem").read_text())
    end = "notAfter=Nov 28 12:00:00 2027 GMT\n"
    asked: list[str] = []
    monkeypatch.setattr(metrics, "output", lambda *argv: (asked.append(" ".join(argv)), end)[1])
    for role, names in (("edge", ["consul", "edge"]), ("slave", ["consul"])):
        ends = found(list(metrics.certificates(FACTS | {"ROLE": role})), "apollo_certificate_expiry_timestamp_seconds")
        # 2027-11-28 12:00 UTC.
        assert ends == dict.fromkeys(names, 1827403200.0)
    look = "openssl x509 -noout -enddate -in"
    assert asked[:2] == [f"{look} {host}/own.pem", f"{look} {host}/secrets/edge/certificate"]
    (host / "own.pem").unlink()
    assert list(metrics.certificates(FACTS)) == []


def test_each_role_has_parts_of_its_own() -> None:
    every = ["names", "certificates", "findings"]
    for role, own in (("slave", ["guards", "containers"]), ("control", ["consul"]), ("edge", ["edge"])):
        parts = metrics.parts(FACTS | {"ROLE": role})
        assert list(parts) == ["host", "mesh", *own, *every]
        assert all(part.__name__ == name for name, part in parts.items())


def test_a_program_that_fails_tells_nothing() -> None:
    assert metrics.output("echo", "well") == "well\n"
    with pytest.raises(subprocess.CalledProcessError):
        metrics.output("false")
