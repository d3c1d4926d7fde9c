"""The images and archives that hosts fetch and run as root, and whether each is pinned to a digest."""

from __future__ import annotations

from collections.abc import Iterator

from plan.problems import Problem
from plan.settings import Settings


def images(s: Settings) -> dict[str, str]:
    """Key → image or URL, for each that hosts of these settings fetch."""
    found = {"overlay.weaveFrom": s.overlay.weave_from} if s.overlay.mesh == "weave" else {}
    if s.mesos.source == "images":
        found |= {
            "mesos.masterImage": s.mesos.master_image,
            "mesos.agentImage": s.mesos.agent_image,
            "mesos.marathonImage": s.mesos.marathon_image,
        }
    return found


def unpinned(s: Settings) -> dict[str, str]:
    """The images that are named by a tag, which its owner can point at another image at any time."""
    return {key: image for key, image in images(s).items() if "@sha256:" not in image}


def check_pinned(s: Settings, stack: str) -> Iterator[Problem]:
    """Refuses tags on AWS. The embedded cloud (awsEndpoint) shows what a stack would be before anything was pinned."""
    if s.aws_endpoint is None:
        for key, image in unpinned(s).items():
            yield Problem(
                key,
                f"{image} is a tag, and hosts would run as root whatever it names when they boot; "
                f"put its digest in with: python -m ops pin-images --stack {stack}",
            )
