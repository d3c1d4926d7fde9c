"""Settings and clusters for tests, from the keys that a stack file has."""

from __future__ import annotations

from typing import Any

from plan.cluster import Cluster, plan_cluster
from plan.parse import parse
from plan.settings import Settings


def settings(**keys: Any) -> Settings:
    return parse({"region": "eu-west-1", **keys})


def cluster(**keys: Any) -> Cluster:
    return plan_cluster(settings(**keys))
