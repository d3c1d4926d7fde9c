"""The hosts of a stack, as their tags tell: the same for a plan and for what runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ..api.client import Aws
    from ..engine.events import Step


@dataclass(frozen=True)
class HostRow:
    """One host, in the names of the export contract. state: of the instance, or `planned`. What a role lacks is empty."""

    name: str
    role: str
    slot: int
    zone: str
    privateIp: str
    bridgeAddress: str
    dockerSubnet: str
    state: str
    instanceId: str = ""
    # What of Mesos runs on a booted host: its units, or `off`.
    mesos: str = ""

    def public(self) -> dict[str, Any]:
        return asdict(self)


HEADINGS = ("name", "role", "slot", "zone", "VPC address", "bridge address", "Docker subnet", "state")


def cells(row: HostRow) -> tuple[str, ...]:
    """The row's values under HEADINGS."""
    return (row.name, row.role, str(row.slot), row.zone, row.privateIp, row.bridgeAddress, row.dockerSubnet, row.state)


def live_hosts(aws: Aws) -> list[HostRow]:
    """Every instance of the cloud that carries the tags of a host. Terminated ones are left out.

    In the cloud's own process, which has AWS's client loaded; others ask it (`Cloud.hosts`).
    """
    from ..provider.aws import tag_map

    ec2 = aws.client("ec2")
    rows: list[HostRow | None] = []
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in cast(list[dict[str, Any]], reservation["Instances"]):
            state = str(instance["State"]["Name"])
            if state != "terminated":
                address = instance.get("PrivateIpAddress", "")
                rows.append(_row(tag_map(instance.get("Tags")), address, state, instance["InstanceId"]))
    return _sorted(rows)


def planned_hosts(steps: Iterable[Step]) -> list[HostRow]:
    """The hosts of a preview. Those that it deletes are left out."""
    kept = [step for step in steps if step.op != "delete" and "delete" not in step.op]
    # A host whose interface is made beforehand has its address there; both carry the same Name.
    by_name = {
        (step.inputs.get("tags") or {}).get("Name"): (step.inputs.get("privateIps") or [""])[0]
        for step in kept
        if step.type == "aws:ec2/networkInterface:NetworkInterface"
    }
    rows: dict[str, HostRow | None] = {}
    for step in kept:
        if step.type == "aws:ec2/instance:Instance":
            tags = cast(Mapping[str, str], step.inputs.get("tags") or {})
            address = step.inputs.get("privateIp") or by_name.get(tags.get("Name"), "")
            rows[step.urn] = _row(tags, str(address), "planned", "")
    return _sorted(rows.values())


def _row(tags: Mapping[str, str], address: str, state: str, instance: str) -> HostRow | None:
    if "apollo:host" not in tags:
        return None
    return HostRow(
        name=tags["apollo:host"],
        role=tags.get("apollo:role", ""),
        slot=int(tags.get("apollo:slot", 0)),
        zone=tags.get("apollo:zone", ""),
        privateIp=address,
        bridgeAddress=tags.get("apollo:bridge", ""),
        dockerSubnet=tags.get("apollo:docker-subnet", ""),
        state=state,
        instanceId=instance,
    )


def _sorted(rows: Iterable[HostRow | None]) -> list[HostRow]:
    order = {"control": 0, "slave": 1, "edge": 2}
    return sorted((row for row in rows if row), key=lambda row: (order.get(row.role, 3), row.slot, row.name))
