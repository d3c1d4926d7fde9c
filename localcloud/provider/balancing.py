"""Network load balancers (ELBv2): balancer, target group, attachment, listener."""

from __future__ import annotations

from typing import Any, ClassVar

from ..api.client import Aws
from .aws import Api, absent, tag_list, tag_map
from .values import Props


class _Balancing(Api):
    """What the three tagged types share. A property that AWS keeps as an attribute is named in `attributes`."""

    service = "elbv2"
    naming = ("describe_{}s", "Arn")
    attributes: ClassVar[dict[str, str]] = {}

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        values = self.attributes_of(aws, id)
        spelt = {name: _spelt(values[key], known.get(name)) for name, key in self.attributes.items() if key in values}
        return {**spelt, "arn": id}

    def attributes_of(self, aws: Aws, id: str) -> dict[str, str]:
        records = self.call(aws, f"describe_{self.noun}_attributes", {self.key: id})["Attributes"]
        return {record["Key"]: record["Value"] for record in records}

    def attributes_for(self, inputs: Props) -> Props:
        return {key: inputs[name] for name, key in self.attributes.items() if inputs.get(name) is not None}

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        super().settle(aws, id, inputs, changed)
        given = self.attributes_for(inputs)
        if given and changed.intersection((*self.attributes, "targetHealthStates")):
            spelt = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in given.items()}
            attributes = [{"Key": key, "Value": value} for key, value in spelt.items()]
            self.call(aws, f"modify_{self.noun}_attributes", {self.key: id, "Attributes": attributes})

    def tags_of(self, aws: Aws, id: str, record: Props) -> dict[str, str]:
        tags = aws.client("elbv2").describe_tags(ResourceArns=[id])["TagDescriptions"]
        return tag_map(tags[0]["Tags"]) if tags else {}

    def tag(self, aws: Aws, id: str, tags: dict[str, str]) -> None:
        aws.client("elbv2").add_tags(ResourceArns=[id], Tags=tag_list(tags))

    def untag(self, aws: Aws, id: str, keys: list[str]) -> None:
        aws.client("elbv2").remove_tags(ResourceArns=[id], TagKeys=keys)


def _spelt(text: str, known: Any) -> Any:
    """An attribute's text as the value that it says, where the program does not spell it as text."""
    if isinstance(known, str):
        return text
    return text == "true" if text in ("true", "false") else int(text) if text.isdigit() else text


class LoadBalancer(_Balancing):
    token = "aws:lb/loadBalancer:LoadBalancer"
    noun = "load_balancer"
    attributes = {
        "enableDeletionProtection": "deletion_protection.enabled",
        "enableCrossZoneLoadBalancing": "load_balancing.cross_zone.enabled",
    }
    sends = ("name", "loadBalancerType", "subnets", "securityGroups")
    inputs = (*sends, "internal", *attributes, "tags")
    shows = ("name", "loadBalancerType", "securityGroups", "dnsName", "zoneId", "vpcId")
    renamed = {"name": "LoadBalancerName", "loadBalancerType": "Type", "dnsName": "DNSName", "zoneId": "CanonicalHostedZoneId"}
    setters = {"subnets": "set_subnets", "securityGroups": "set_security_groups"}
    required = (("subnets",),)
    replaces, computed = ("name", "internal", "loadBalancerType"), ("internal", "securityGroups")
    autoname = "name"
    name_limit = 32
    unordered = ("subnets", "securityGroups")

    def replacing(self, name: str, old: Props, new: Props) -> bool:
        """A network load balancer gains subnets, but loses none."""
        after = new.get("subnets") or []
        loses = isinstance(after, list) and any(subnet not in after for subnet in old.get("subnets") or ())
        return name in self.replaces or (loses and name == "subnets")

    def creation(self, aws: Aws, inputs: Props) -> Props:
        return {**super().creation(aws, inputs), "Scheme": "internal" if inputs.get("internal") else "internet-facing"}

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        subnets = [zone["SubnetId"] for zone in record.get("AvailabilityZones", [])]
        live = super().describe(aws, id, record, known)
        return {**live, "internal": record["Scheme"] == "internal", "subnets": subnets}


_HEALTH = {
    "protocol": "HealthCheckProtocol",
    "port": "HealthCheckPort",
    "path": "HealthCheckPath",
    "interval": "HealthCheckIntervalSeconds",
    "timeout": "HealthCheckTimeoutSeconds",
    "healthyThreshold": "HealthyThresholdCount",
    "unhealthyThreshold": "UnhealthyThresholdCount",
}
# What a target group's only entry of targetHealthStates holds, as the attributes that AWS keeps it in.
_STATE = {
    "enableUnhealthyConnectionTermination": "target_health_state.unhealthy.connection_termination.enabled",
    "unhealthyDrainingInterval": "target_health_state.unhealthy.draining_interval_seconds",
}


class TargetGroup(_Balancing):
    token = "aws:lb/targetGroup:TargetGroup"
    noun = "target_group"
    attributes = {
        "deregistrationDelay": "deregistration_delay.timeout_seconds",
        "preserveClientIp": "preserve_client_ip.enabled",
        "proxyProtocolV2": "proxy_protocol_v2.enabled",
    }
    shows = replaces = ("name", "port", "protocol", "vpcId", "targetType")
    sends = (*shows, "healthCheck")
    inputs = (*sends, "targetHealthStates", *attributes, "tags")
    renamed = {"name": "TargetGroupName"}
    parts = {"healthCheck": (*_HEALTH, "matcher"), "targetHealthStates": tuple(_STATE)}
    computed = ("healthCheck", "preserveClientIp")
    autoname = "name"
    name_limit = 32

    def creation(self, aws: Aws, inputs: Props) -> Props:
        return self.arguments(aws, self.creates, inputs, self.shows) | self._health(inputs)

    def attributes_for(self, inputs: Props) -> Props:
        (state,) = inputs.get("targetHealthStates") or [{}]
        return super().attributes_for(inputs) | {key: state[name] for name, key in _STATE.items() if name in state}

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        values = self.attributes_of(aws, id)
        state = {name: _spelt(values[key], None) for name, key in _STATE.items() if key in values}
        health = {name: record[member] for name, member in _HEALTH.items() if member in record}
        matcher = record.get("Matcher", {}).get("HttpCode")
        return {
            **super().describe(aws, id, record, known),
            "arnSuffix": id.split(":")[-1],
            "healthCheck": health | ({"matcher": matcher} if matcher else {}),
            "targetHealthStates": [state] if state else [],
        }

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        super().settle(aws, id, inputs, changed)
        if "healthCheck" in changed:
            aws.client("elbv2").modify_target_group(TargetGroupArn=id, **self._health(inputs))

    def _health(self, inputs: Props) -> Props:
        health = {k: v for k, v in (inputs.get("healthCheck") or {}).items() if v is not None}
        args = {member: health[name] for name, member in _HEALTH.items() if name in health}
        return args | ({"Matcher": {"HttpCode": health["matcher"]}} if "matcher" in health else {})


class TargetGroupAttachment(Api):
    token = "aws:lb/targetGroupAttachment:TargetGroupAttachment"
    service, creates, deletes = "elbv2", "register_targets", "deregister_targets"
    inputs = sends = shows = replaces = ("targetGroupArn", "targetId", "port")

    def id_of(self, inputs: Props, answer: Props) -> str:
        return f"{inputs['targetGroupArn']}-{inputs['targetId']}-{inputs.get('port', 'default')}"

    def creation(self, aws: Aws, inputs: Props) -> Props:
        port = {"Port": inputs["port"]} if inputs.get("port") else {}
        return {"TargetGroupArn": inputs["targetGroupArn"], "Targets": [{"Id": inputs["targetId"], **port}]}

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("elbv2").describe_target_health(TargetGroupArn=known["targetGroupArn"])) or {}
        targets = [item["Target"] for item in answer.get("TargetHealthDescriptions", [])]
        found = [t for t in targets if t["Id"] == known["targetId"] and known.get("port") in (None, t.get("Port"))]
        return known if found else None

    def deletion(self, aws: Aws, id: str, known: Props) -> Props:
        return self.creation(aws, known)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.record(aws, id, known):
            super().delete(aws, id, known)


class Listener(_Balancing):
    token = "aws:lb/listener:Listener"
    noun = "listener"
    sends = ("loadBalancerArn", "port", "protocol", "defaultActions")
    shows = sends[:3]
    setters = dict.fromkeys(sends[1:], "modify_listener")
    attributes = {"tcpIdleTimeoutSeconds": "tcp.idle_timeout.seconds"}
    inputs = (*sends, *attributes, "tags")
    parts = {"defaultActions": ("type", "targetGroupArn")}
    replaces, computed = ("loadBalancerArn",), ("protocol", "tcpIdleTimeoutSeconds")

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        # AWS repeats a single target as a forward block.
        actions = [{"type": one["Type"], "targetGroupArn": one.get("TargetGroupArn")} for one in record["DefaultActions"]]
        return {**super().describe(aws, id, record, known), "defaultActions": actions}


KINDS = (LoadBalancer, TargetGroup, TargetGroupAttachment, Listener)
