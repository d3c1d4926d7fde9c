"""The Pulumi CLI, for commands that read and write a stack's configuration."""

from __future__ import annotations

import os
import subprocess

from ops.errors import OpsError


def pulumi(*arguments: str, stdin: str | None = None) -> str:
    """What `pulumi` prints, in the folder that APOLLO_WORK names, else in the current one.

    OpsError where it is not on PATH, or with its own words where it fails.
    """
    try:
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=os.environ.get("APOLLO_WORK") or None,
        )
    except FileNotFoundError:
        raise OpsError("pulumi is not on PATH; https://www.pulumi.com/docs/install/ says how to install it") from None
    if done.returncode:
        raise OpsError(done.stderr.strip() or f"pulumi {arguments[0]} ended with {done.returncode}")
    return done.stdout
