"""Who must be up before whom on a host, and why: written by hand, compared with the units that each kind of host gets."""

# One promise a line reads as the table it is.
# ruff: noqa: E501
from __future__ import annotations

from typing import NamedTuple

import pytest

from plan.cluster import Cluster, PlannedHost
from tests.host.support import HOSTS, files_of


class Promise(NamedTuple):
    """later starts after `earlier`. strength: After (if both start), Wants (and has it started), Requires (and does not start
    without), Requisite (and is not started where it is not there yet); `alone` where no order is asked for."""

    later: str
    earlier: str
    strength: str


# Later, earlier (services, where nothing else is said), strength, on which hosts, under which mesh, why.
TABLE = """
docker                 weave-bridge           Requires        slave          any        dockerd does not start without its bridge
docker                 apollo-data            Requires        slave,control  any        its data root is on the volume
docker                 apollo-data            After           edge           any        the unit of the volume is every host's
docker                 apollo-firewall        Wants           slave          any        no container may run without packet rules
docker                 apollo-firewall        After           control,edge   any        the rules are every host's
docker                 apollo-mesh            Wants           slave          any        containers reach others; a broken mesh stops none
docker                 apollo-mesh            After           control,edge   any        the mesh is every host's
docker                 consul                 After           slave          any        names of before a boot go before their addresses
consul                 apollo-secrets         Wants           all            any        its keys and tokens
consul                 apollo-data            Requires        all            any        raft on a blank root disk would be another cluster
consul                 network-online.target  Wants           all            any        it asks servers before it starts
consul                 apollo-mesh            After           all            routed     the key of the mesh is in what the agent registers
apollo-secrets         network-online.target  Wants           all            any        SSM is asked
ssh                    apollo-secrets         After           all            any        its host key is a secret
weave-bridge           networking             After           all            any        one ifup at a time
weave-bridge           network.target         Wants-alone     all            any        a shutdown ends the bridge late
weave-bridge           apollo-weave-programs  Wants           all            weave      the bridge is Weave's own where Weave is there
apollo-weave-programs  network-online.target  Wants           all            weave      they are fetched
apollo-mesh            weave-bridge           Requires        all            weave      the router hangs on the bridge
apollo-mesh            weave-bridge           Wants           all            routed     the device takes the bridge's address
apollo-mesh            apollo-secrets         Wants           all            weave      without a password nothing would be encrypted
apollo-mesh            network-online.target  Wants           all            any        peers are reached by the uplink
apollo-mesh            apollo-firewall        After           all            any        what comes out of it is filtered from the start
apollo-mesh-sync       apollo-mesh            Wants           all            routed     the table is the device's
apollo-mesh-sync       consul                 After           all            routed     members are in the catalog
apollo-mesh-sync       apollo-secrets         After           all            routed     it reads the catalog with the role's token
apollo-wireguard       systemd-modules-load   After           all            wireguard  only where the kernel has none
apollo-firewall        network-online.target  Wants           all            any        the uplink is in the rules
apollo-exporter        network-online.target  Wants           all            any        it listens on the host's address
apollo-exporter        apollo-firewall        After           all            any        nothing is open before the rules
apollo-metrics         apollo-secrets         After           all            any        it asks Consul with the role's token
apollo-data-grow       apollo-data            Requisite       all            any        it grows what is mounted, and mounts nothing
dnsmasq                weave-bridge           After           all            any        it answers on the bridge's address
apollo-names           apollo-secrets         After           slave          any        it asks with the role's token
apollo-register        docker                 After           slave          any        it follows Docker's events
apollo-register        consul                 After           slave          any        it registers with the agent
apollo-register        apollo-secrets         After           slave          any        with its own token
mesos-agent            docker                 Requires        slave          any        tasks are containers
mesos-agent            apollo-data            Requires        slave          any        its work directory is on the volume
mesos-agent            apollo-mesh            After           slave          any        tasks need the others
mesos-agent            apollo-register        After           slave          any        a task's name is there with the task
mesos-agent            apollo-secrets         After           slave          any        its password, and how many control nodes there are
apollo-zookeeper       apollo-data            Requires        control        any        its data is on the volume
apollo-zookeeper       apollo-secrets         Wants           control        any        its password
apollo-zookeeper       network-online.target  Wants           control        any        it asks the other members
mesos-master           apollo-zookeeper       After           control        any        the election
mesos-master           docker                 Wants           control        any        it may run from an image
mesos-master           consul                 After           control        any        it asks which masters there are
mesos-master           apollo-secrets         After           control        any        its quorum follows from the count
mesos-master           apollo-data            Requires-alone  control        any        its log is on the volume
marathon               mesos-master           After           control        any        it registers there
marathon               apollo-zookeeper       After           control        any        its state
marathon               docker                 Wants           control        any        it may run from an image
marathon               consul                 After           control        any        its name
marathon               apollo-secrets         After           control        any        its passwords
marathon               apollo-data            Requires-alone  control        any        what its image keeps is on the volume
apollo-scheduler       apollo-zookeeper       After           control        any        it looks after that node
apollo-scheduler       consul                 After           control        any        it registers names
apollo-scheduler       apollo-secrets         After           control        any        it registers with the role's token
apollo-consul-acl      consul                 After           control        any        it writes tokens there
apollo-consul-acl      apollo-secrets         After           control        any        with the management token
apollo-node-tokens     apollo-secrets         After           control        any        it makes tokens of the management token
apollo-node-tokens     network-online.target  After           control        any        it listens on the host's address
haproxy                apollo-secrets         Wants           edge           any        its certificate is a secret
haproxy                weave-bridge           After           edge           any        containers are reached by the bridge
haproxy                apollo-mesh            After           edge           any        and by the mesh
apollo-edge            haproxy                After           edge           any        what it writes is for a running HAProxy
apollo-edge            consul                 After           edge           any        it follows the catalog
apollo-edge            apollo-secrets         After           edge           any        it reads the catalog with a token of its own
"""
ROUTED = ("vxlan", "wireguard")


def unit(name: str) -> str:
    return name if "." in name else f"{name}.service"


def promised(role: str, mesh: str) -> set[Promise]:
    found: set[Promise] = set()
    for line in TABLE.strip().splitlines():
        later, earlier, strength, roles, meshes, _why = line.split(None, 5)
        here = meshes in ("any", mesh) or (meshes == "routed" and mesh in ROUTED)
        if here and (roles == "all" or role in roles.split(",")):
            found.add(Promise(unit(later), unit(earlier), strength))
    return found


def units(plan: Cluster, host: PlannedHost) -> dict[str, list[tuple[str, str]]]:
    """Unit → its settings, those of files beside it too, continued lines joined."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path, file in files_of(plan, host).items():
        if path.startswith("/etc/systemd/system/"):
            lines = file.content.replace("\\\n", " ").splitlines()
            pairs = [(key, value) for key, equals, value in (line.partition("=") for line in lines) if equals]
            found.setdefault(path.split("/")[4].removesuffix(".d"), []).extend(pairs)
    return found


def kept(plan: Cluster, host: PlannedHost) -> set[Promise]:
    order: set[tuple[str, str]] = set()
    needs: dict[tuple[str, str], str] = {}
    for own, settings in units(plan, host).items():
        for key, value in settings:
            for other in value.split():
                if key == "After":
                    order.add((own, other))
                elif key == "Before":
                    order.add((other, own))
                elif key in ("Wants", "Requires", "Requisite", "BindsTo", "PartOf", "Conflicts"):
                    needs[own, other] = key
    alone = {Promise(*pair, f"{strength}-alone") for pair, strength in needs.items() if pair not in order}
    return {Promise(*pair, needs.get(pair, "After")) for pair in order} | alone


@pytest.mark.parametrize(("plan", "host"), HOSTS)
def test_units_start_in_this_order_and_need_these_others(plan: Cluster, host: PlannedHost) -> None:
    assert sorted(kept(plan, host)) == sorted(promised(host.role, plan.mesh.name))


# What runs as long as its host does, and what runs once.
FOR_EVER = {
    "slave": {"consul", "apollo-exporter", "apollo-firewall", "apollo-names", "apollo-register", "mesos-agent"},
    "control": {
        *("consul", "apollo-exporter", "apollo-firewall", "apollo-node-tokens"),
        *("apollo-zookeeper", "apollo-scheduler", "mesos-master", "marathon"),
    },
    "edge": {"consul", "apollo-exporter", "apollo-firewall", "apollo-edge"},
}
OF_MESH = {"weave": {"apollo-mesh"}, "vxlan": {"apollo-mesh-sync"}, "wireguard": {"apollo-mesh-sync", "apollo-wireguard"}}


@pytest.mark.parametrize(("plan", "host"), HOSTS)
def test_what_runs_for_ever_comes_back_however_often_it_ends(plan: Cluster, host: PlannedHost) -> None:
    found = units(plan, host)
    always = {own for own, settings in found.items() if ("Restart", "always") in settings}
    assert always == {unit(name) for name in FOR_EVER[host.role] | OF_MESH[plan.mesh.name]}
    for own in always:
        # Without this systemd gives up after five starts in ten seconds.
        assert ("StartLimitIntervalSec", "0") in found[own], own
        assert int(dict(found[own])["RestartSec"]) <= 5, own


@pytest.mark.parametrize(("plan", "host"), HOSTS)
def test_no_two_units_wait_for_each_other(plan: Cluster, host: PlannedHost) -> None:
    before: dict[str, set[str]] = {}
    for promise in kept(plan, host):
        if not promise.strength.endswith("alone"):
            before.setdefault(promise.later, set()).add(promise.earlier)
    done: set[str] = set()
    while ready := {own for own in before if before[own] <= done | (before[own] - before.keys()) and own not in done}:
        done |= ready
    assert done == before.keys()
