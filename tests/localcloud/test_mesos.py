"""What is said of Mesos on the hosts."""

from __future__ import annotations

from dataclasses import replace

from localcloud.apollo import mesos
from localcloud.apollo.hosts import HostRow

ROW = HostRow("slave-1", "slave", 1, "eu-west-1a", "10.0.0.33", "10.2.0.1/16", "10.2.1.0/24", "running")


def test_status_says_what_runs_or_how_it_would() -> None:
    assert mesos.line([ROW]) == ""
    assert mesos.line([replace(ROW, mesos="off")]).startswith(
        "Mesos is off: the hosts have no programs of it; `up --host-files"
    )
    both = [replace(ROW, mesos="mesos-agent"), replace(ROW, name="slave-2", mesos="off")]
    assert mesos.line(both) == "Mesos: mesos-agent on slave-1"
