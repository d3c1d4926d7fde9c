"""examples/monitoring: Prometheus' own tool takes it, each alert fires and clears, and names what hosts really serve."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from host.apollo import check, metrics
from localcloud.paths import REPOSITORY
from plan import ports
from tests.host.support import needs
from tests.test_documents import slug

FOLDER = REPOSITORY / "examples/monitoring"
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yml").read_text())
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("argv", [("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")], ids=" ".join)
def test_prometheus_takes_it_and_each_alert_fires_and_clears(argv: tuple[str, ...]) -> None:
    tool = needs("promtool", "prometheus")
    done = subprocess.run([tool, *argv], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test() -> None:
    tested = [case["name"] for case in yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]]
    assert sorted(tested) == sorted(alert["alert"] for alert in ALERTS)


def test_each_alert_leads_to_a_task_of_the_documents() -> None:
    for alert in ALERTS:
        document, _, anchor = alert["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.*)$", (REPOSITORY / document).read_text(), re.MULTILINE)
        assert anchor in {slug(heading) for heading in headings}, alert["alert"]


def test_rules_and_dashboard_name_metrics_and_checks_that_hosts_have() -> None:
    text = (FOLDER / "rules.yml").read_text() + (FOLDER / "dashboard.json").read_text()
    assert set(re.findall(r"\bapollo_[a-z_]+", text)) <= set(metrics.FAMILIES)
    roles = [
        {"DATA_DEVICE": "/dev/sdf", "DOCKER_SUBNET": "x", "MESH": "vxlan", "ROLE": role}
        for role in ("slave", "control", "edge")
    ]
    named = {name for words in re.findall(r'check!?=~?"([a-z|]+)"', text) for name in words.split("|")}
    assert named and named <= {name for facts in roles for name in check.checks(facts)}


def test_prometheus_asks_at_the_ports_of_the_plan() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    found = {job["job_name"]: job["ec2_sd_configs"][0]["port"] for job in jobs}
    assert found == {"apollo": ports.METRICS, "apollo-edge": ports.EDGE_STATS}
