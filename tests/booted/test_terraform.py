"""With nothing but Terraform's AWS provider: hosts boot from the registered user-data, their network is whole, a second plan is
empty, and nothing stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from localcloud import cloud as clouds
from localcloud.apollo import boot, check
from localcloud.apollo.fleet import fleet
from ops.secrets import generate
from tests.booted.conftest import Stack, traces
from tests.components.recording import run_program, stack_config
from tests.terraform import Terraform, provider_mirror


def test_the_real_provider_boots_the_local_stack_and_every_check_passes(unbooted: Callable[[], Stack], tmp_path: Path) -> None:
    provider_mirror()
    stack = unbooted()
    folder = stack.run_dir / "local"
    boot.prepare_machine(folder, stack.edge_port)
    cloud = clouds.start(folder, "eu-west-1", edge_port=stack.edge_port)
    try:
        config = {**stack_config("local"), "apollo:edgeCertificate": boot.edge_certificate(folder, "apollo.test")}
        recording = run_program("local", config, secrets=generate())
        terraform = Terraform(tmp_path / "terraform", {"local": recording}, cloud.credentials())
        terraform.changes("apply")
        rows = cloud.hosts()
        boot.wait_ready(cloud, rows)
        overlay, edge, consul = (recording.outputs[key] for key in ("overlay", "edge", "consul"))
        expected = check.Expectations(
            mtu=int(overlay["mtu"]),
            domain=edge["domain"],
            consul_domain=consul["domain"],
            edge=("127.0.0.1", stack.edge_port),
            demo=tuple(boot.start_demo(cloud, rows, edge["domain"])),
        )
        results = check.run(fleet(folder, rows), expected)
        assert [result for result in results if not result.passed] == []
        assert len(rows) == 7 and len(results) > 50
        assert terraform.differences() == {}
        terraform.changes("destroy")
        assert cloud.ask("leftovers")["leftovers"] == []
        assert cloud.hosts() == []
        assert [trace for trace in traces(stack.run_dir) if "systemd-nspawn" in trace] == []
    finally:
        # Fails where anything is left in the API or on this machine.
        stack.down()
