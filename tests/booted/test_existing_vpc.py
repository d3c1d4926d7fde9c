"""A VPC that another program made: the stack goes into it, works there, and leaves it as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from localcloud import cloud as clouds
from tests import other_vpc
from tests.booted.conftest import Stack, traces


def test_a_stack_lives_in_a_vpc_that_exists_and_leaves_it_as_it_was(unbooted: Callable[[], Stack]) -> None:
    stack = unbooted()
    try:
        cloud = clouds.start(stack.run_dir / "local", other_vpc.REGION, edge_port=stack.edge_port)
        ec2 = cloud.api().client("ec2")
        existing: dict[str, Any] = {**other_vpc.make(ec2), "s3Endpoint": True}
        before = other_vpc.described(ec2, existing["id"])

        settings = ("slaves.count=2", "control.count=1", f"network.existing={json.dumps(existing)}")
        outputs = stack.up(*(item for pair in settings for item in ("--set", pair)))["outputs"]
        assert outputs["vpcId"] == existing["id"]
        assert outputs["slaves"]["slave-1"]["privateIp"] == f"10.8.0.{other_vpc.FIRST + 25}"
        results = stack.checked()
        assert results and not [result for result in results if not result["passed"]]

        gone = stack.cli("pulumi", "destroy", "--yes", "--skip-preview", timeout=900)
        assert gone.returncode == 0, gone.stdout[-3000:] + gone.stderr[-2000:]
        assert other_vpc.described(ec2, existing["id"]) == before
    finally:
        # `down` itself would refuse, as the other program's VPC is left in the cloud.
        stack.cli("down", "--force", timeout=600)
    assert not traces(stack.run_dir)
