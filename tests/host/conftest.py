"""A real Consul for the tests of hosts' programs, with a host's secrets."""

from __future__ import annotations

import builtins
import contextlib
import json
import subprocess
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from host.apollo import local
from host.apollo.consul import acl, configure
from host.render import node_facts
from localcloud.errors import LocalCloudError
from localcloud.machines.programs import host_program
from ops.secrets import generate
from plan.cluster import PlannedHost
from plan.secrets import SECRETS
from tests.host.support import EXAMPLES, STACK, files_of, free_ports, left_out

PLAN = EXAMPLES["vxlan-baked"]


@pytest.fixture(scope="session")
def consul() -> Path:
    try:
        return host_program("consul")
    except LocalCloudError as error:
        left_out(f"consul: {error}")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """The folders that Consul's scripts know, somewhere else, with secrets in them. Whatever a test has the programs do, they
    print none of these, which would be in the journal, and give none to a program as an argument, which every user may see."""
    monkeypatch.setattr(local, "SECRETS", tmp_path / "secrets")
    places = {"DATA": "data", "SEEN_DATA": "lib/seen", "NEW_CLUSTER": "new-cluster", "FORGOTTEN": "run/forgotten"}
    for name, value in places.items():
        monkeypatch.setattr(configure, name, tmp_path / value)
    values = generate()
    for secret in SECRETS:
        local.write(tmp_path / "secrets" / secret.parameter, values[secret.key] + "\n", 0o600)
    (tmp_path / "data").mkdir()
    shown, said, start = print, list[str](), subprocess.Popen[Any].__init__

    def prints(*values: object, **how: Any) -> None:
        said.append(" ".join(map(str, values)))
        shown(*values, **how)

    def starts(self: Any, argv: Any, *more: Any, **how: Any) -> None:
        said.append(str(argv))
        start(self, argv, *more, **how)

    monkeypatch.setattr(builtins, "print", prints)
    monkeypatch.setattr(subprocess.Popen, "__init__", starts)
    yield tmp_path
    for path in (path for path in local.SECRETS.rglob("*") if path.is_file()):
        value = max(path.read_text().splitlines(), key=len)
        assert not [text for text in said if value in text], f"{path.relative_to(local.SECRETS)} was shown"


class Agent:
    """A Consul agent on ports of its own, with the configuration of a planned host; by default control-1's, which leads."""

    def __init__(
        self,
        consul: Path,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        planned: PlannedHost = PLAN.control[0],
        tls: str = "0",
        join: Sequence[str] = (),
    ) -> None:
        self.facts = node_facts(PLAN, planned, STACK) | {"PRIVATE_IP": "127.0.0.1", "CONSUL_TLS": tls}
        token = acl.node_token(local.secret("consul/management-token"), planned.name)
        files = files_of(PLAN, planned)
        (folder / "consul.d").mkdir(parents=True)
        (folder / "consul.d/consul.hcl").write_text(files["/etc/consul.d/consul.hcl"].content)
        self.ports = ports = dict(zip(("http", "dns", "server", "serf_lan", "serf_wan"), free_ports(5), strict=True))
        own = configure.config(self.facts, token, join, planned.role == "control") | {
            "client_addr": "127.0.0.1",
            "data_dir": str(folder / "data"),
            "ports": ports,
        }
        (folder / "consul.d/node.json").write_text(json.dumps(own))
        monkeypatch.setattr(local, "CONSUL", f"http://127.0.0.1:{ports['http']}")
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen([consul, "agent", f"-config-dir={folder}/consul.d"], stdout=self.log, stderr=self.log)

    def until_it_leads(self) -> None:
        """And has compared the catalog with the members, as it is in there itself: it takes out whoever else stands there as
        one, then and each minute."""
        token, deadline = local.secret("consul/management-token"), time.monotonic() + 300
        own = f"health/node/{self.facts['NODE_NAME']}"
        while True:
            with contextlib.suppress(local.ConsulError):
                if local.consul("status/leader")[0] and local.consul("acl/token/self", token):
                    checks = local.consul(own, token)[0] or []
                    if any(check["CheckID"] == "serfHealth" for check in checks):
                        return
            assert time.monotonic() < deadline and self.process.poll() is None, Path(self.log.name).read_text()[-2000:]
            time.sleep(0.1)

    def restart(self) -> None:
        """As after a boot, with what is in its data."""
        self.process.terminate()
        self.process.wait(30)
        self.process = subprocess.Popen(self.process.args, stdout=self.log, stderr=self.log)
        self.until_it_leads()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture
def agent(consul: Path, host: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Agent]:
    agent = Agent(consul, host, monkeypatch)
    try:
        agent.until_it_leads()
        yield agent
    finally:
        agent.close()
