"""The real AWS provider, in the place of ours, on the embedded cloud: it applies what the program registers, finds nothing to
change afterwards, and leaves nothing when it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from localcloud import cloud as clouds
from localcloud.operations import unprotect
from tests.components.recording import run_program
from tests.terraform import Terraform, provider_mirror

from .support import REGION


@pytest.mark.engine
def test_the_real_provider_applies_dev_and_prod_changes_nothing_after_and_leaves_nothing(tmp_path: Path) -> None:
    provider_mirror()
    cloud = clouds.start(tmp_path / "cloud", REGION, ephemeral=True)
    try:
        recordings = {stack: run_program(stack) for stack in ("dev", "prod")}
        terraform = Terraform(tmp_path / "terraform", recordings, cloud.credentials())
        made = terraform.changes("apply")
        assert len(made) == sum(
            one.type.startswith("aws:") for recording in recordings.values() for one in recording.resources.values()
        )
        assert terraform.differences() == {}
        unprotect(cloud)
        assert len(terraform.changes("destroy")) == len(made)
        assert cloud.ask("leftovers")["leftovers"] == []
    finally:
        cloud.stop()
