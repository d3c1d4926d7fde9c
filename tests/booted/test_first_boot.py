"""Hosts of an image without our packages: the first boot installs them, over the network, from a Debian repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.booted.conftest import Stack, until

# An AMI that has what Debian's has and nothing of ours; see localcloud/images.json.
PLAIN = ("--set", "image.baked=false", "--set", "image.name=debian-12-plain-*")
SMALL = ("--set", "slaves.count=1", "--set", "control.count=1")


# Stands for a build of Mesos: says how it was called, and stays.
PROGRAM = '#!/bin/sh\nprintf "%s\\n" "$0" "$@" > /run/apollo-mesos/called-${0##*/}\nexec sleep 1000000\n'


def test_hosts_install_themselves_and_serve_with_a_build_of_mesos_of_ones_own(
    unbooted: Callable[[], Stack], tmp_path: Path
) -> None:
    plain = unbooted()
    for name in ("opt/mesos/sbin/mesos-master", "opt/mesos/sbin/mesos-agent", "opt/mesos/bin/marathon", "usr/local/bin/mine"):
        # A folder of one's own may be closed to others; the host's /usr stays as it is.
        (tmp_path / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (tmp_path / name).write_text(PROGRAM)
        (tmp_path / name).chmod(0o755)
    try:
        # The engine's own gate is apollo-check on each host.
        result = plain.up(*PLAIN, *SMALL, "--host-files", str(tmp_path))
        assert {h["name"] for h in result["hosts"]} == {"slave-1", "control-1", "edge-1"}
        holds = set(plain.out("slave-1", "apt-mark", "showhold").split())
        assert {"docker.io", "containerd", "consul", "consul-template"} <= holds
        until(lambda: plain.curl("web.apollo.test").startswith("web on slave-1"), "the edge serves")
        failed = [r for r in plain.checked() if not r["passed"]]
        assert not failed
        called = "/run/apollo-mesos/called-mesos-agent"
        until(lambda: plain.run("slave-1", "test", "-s", called).returncode == 0, "the agent")
        agent = plain.out("slave-1", "cat", called).splitlines()
        assert agent[0] == "/opt/mesos/sbin/mesos-agent" and "--ip=10.0.0.33" in agent
        assert plain.out("edge-1", "stat", "-c", "%a %U", "/usr", "/usr/local/bin/mine").split() == ["755", "root"] * 2
        # Not before this node's ZooKeeper has its trees.
        called = "/run/apollo-mesos/called-mesos-master"
        until(lambda: plain.run("control-1", "test", "-s", called).returncode == 0, "the master")
        master = plain.out("control-1", "cat", called).splitlines()
        assert "--quorum=1" in master
        until(lambda: plain.run("control-1", "test", "-e", "/run/apollo-mesos/called-marathon").returncode == 0, "Marathon")
        hosts = json.loads(plain.cli("status", "--json").stdout)
        assert {h["name"]: h["mesos"] for h in hosts} == {
            "control-1": "mesos-master, marathon", "slave-1": "mesos-agent", "edge-1": "",
        }  # fmt: skip
    finally:
        plain.down()
