"""What hosts fetch and run as root: on AWS by its digest alone."""

from __future__ import annotations

from typing import Any

import pytest

from plan.images import check_pinned, images, unpinned
from tests.plan.support import settings

WEAVE, MASTER, AGENT, MARATHON = "overlay.weaveFrom", "mesos.masterImage", "mesos.agentImage", "mesos.marathonImage"
PINNED = f"example.com/x@sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [WEAVE, MASTER, AGENT, MARATHON]),
        ({"overlay": {"mesh": "vxlan"}}, [MASTER, AGENT, MARATHON]),
        ({"mesos": {"source": "host"}}, [WEAVE]),
        ({"overlay": {"mesh": "vxlan"}, "mesos": {"source": "host"}}, []),
        ({"overlay": {"weaveFrom": PINNED}}, [MASTER, AGENT, MARATHON]),
        ({"mesos": {"masterImage": PINNED}}, [WEAVE, AGENT, MARATHON]),
        ({"mesos": {"agentImage": PINNED}}, [WEAVE, MASTER, MARATHON]),
        ({"mesos": {"marathonImage": PINNED}}, [WEAVE, MASTER, AGENT]),
    ],
)
def test_on_aws_each_tag_of_what_the_settings_make_hosts_fetch_is_refused(keys: dict[str, Any], expected: list[str]) -> None:
    given = settings(**keys)
    assert [problem.key for problem in check_pinned(given, "prod")] == expected == [*unpinned(given)]
    for key, problem in zip(expected, check_pinned(given, "prod"), strict=True):
        assert problem.text == (
            f"{images(given)[key]} is a tag, and hosts would run as root whatever it names when they boot; "
            "put its digest in with: python -m ops pin-images --stack prod"
        )
    assert not [*check_pinned(settings(awsEndpoint="http://127.0.0.1:1", **keys), "prod")]


def test_an_image_is_the_one_of_its_own_setting() -> None:
    keys = {
        "masterImage": "example.com/master:1",
        "agentImage": "example.com/agent:2",
        "marathonImage": "example.com/marathon:3",
    }
    assert images(settings(overlay={"weaveFrom": "example.com/weave:4"}, mesos=keys)) == {
        WEAVE: "example.com/weave:4",
        MASTER: "example.com/master:1",
        AGENT: "example.com/agent:2",
        MARATHON: "example.com/marathon:3",
    }
