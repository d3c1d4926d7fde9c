"""A build of Mesos that the user brings, and what is said of Mesos on the hosts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localcloud import mesos
from localcloud.errors import LocalCloudError
from localcloud.hosts import HostRow

ROW = HostRow("slave-1", "slave", 1, "eu-west-1a", "10.0.0.33", "10.2.0.1/16", "10.2.1.0/24", "running")


def test_a_folder_without_any_of_the_programs_is_no_build(tmp_path: Path) -> None:
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/mesos-agent").write_text("not executable\n")
    with pytest.raises(LocalCloudError, match=r"there is none of sbin/mesos-master, sbin/mesos-agent, bin/marathon to execute"):
        mesos.adopt(tmp_path, tmp_path)


def test_another_build_takes_the_place_of_the_first(tmp_path: Path) -> None:
    for name in ("one", "two"):
        program = tmp_path / name / "bin/marathon"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        mesos.adopt(tmp_path, tmp_path / name)
    assert (tmp_path / "mesos-root").resolve() == tmp_path / "two"


def test_status_says_what_runs_or_how_it_would() -> None:
    assert mesos.line([ROW]) == ""
    assert mesos.line([replace(ROW, mesos="off")]).startswith(
        "Mesos is off: the hosts have no programs of it; `up --mesos-root"
    )
    both = [replace(ROW, mesos="mesos-agent"), replace(ROW, name="slave-2", mesos="off")]
    assert mesos.line(both) == "Mesos: mesos-agent on slave-1"
