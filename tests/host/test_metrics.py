"""What a host writes for Prometheus: well formed, whole where one part of the host fails, and without anything secret."""

from __future__ import annotations

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
from tests.host.support import EXAMPLES, STACK, needs

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
