"""Network load balancers (ELBv2): balancer, target group, attachment, listener."""

# One interface for all types: not every argument is of use to each.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

from typing import Any, ClassVar

from .diff import Found
from .kind import Aws, Kind, absent, arguments, change_tags, first, from_aws, tag_list, tag_map, wait
from .values import Props


class _Balancing(Kind):
    """What the three tagged types share. A property that AWS keeps as an attribute is named in `attributes`."""

    noun: ClassVar[str]  # load_balancer: create_load_balancer answers {"LoadBalancers": [{"LoadBalancerArn": …}]}
    attributes: ClassVar[dict[str, str]] = {}

    @property
    def _names(self) -> tuple[str, str]:
        """The list in an answer, and the argument that names one."""
        word = self.noun.title().replace("_", "")
        return f"{word}s", f"{word}Arn"

    def make_record(self, aws: Aws, args: Props, inputs: Props) -> str:
        """Makes it with its tags and attributes; its ARN."""
        elb, (many, arn) = aws.client("elbv2"), self._names
        if inputs.get("tagsAll"):
            args["Tags"] = tag_list(inputs["tagsAll"])
        id = str(getattr(elb, f"create_{self.noun}")(**args)[many][0][arn])
        with self.undo_on_error(aws, id):
            self._set_attributes(aws, id, inputs)
        return id

    def record(self, aws: Aws, id: str) -> Props | None:
        many, arn = self._names
        answer = absent(lambda: getattr(aws.client("elbv2"), f"describe_{self.noun}s")(**{f"{arn}s": [id]}))
        return first(answer[many]) if answer else None

    def live(self, aws: Aws, id: str, known: Props) -> Props:
        """Its ARN, tags and attributes."""
        elb = aws.client("elbv2")
        records = getattr(elb, f"describe_{self.noun}_attributes")(**{self._names[1]: id})["Attributes"]
        values = {record["Key"]: record["Value"] for record in records}
        found: Props = {name: _spelt(values[key], known.get(name)) for name, key in self.attributes.items() if key in values}
        tags = elb.describe_tags(ResourceArns=[id])["TagDescriptions"]
        return {**found, "arn": id, "tags": tag_map(tags[0]["Tags"]) if tags else {}}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        elb = aws.client("elbv2")
        change_tags(
            old,
            new,
            lambda tags: elb.add_tags(ResourceArns=[id], Tags=tag_list(tags)),
            lambda keys: elb.remove_tags(ResourceArns=[id], TagKeys=keys),
        )
        if changed & {*self.attributes, "targetHealthStates"}:
            self._set_attributes(aws, id, new)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.record(aws, id):
            getattr(aws.client("elbv2"), f"delete_{self.noun}")(**{self._names[1]: id})

    def given_attributes(self, inputs: Props) -> dict[str, Any]:
        return {key: inputs[name] for name, key in self.attributes.items() if inputs.get(name) is not None}

    def _set_attributes(self, aws: Aws, id: str, inputs: Props) -> None:
        given = [
            {"Key": key, "Value": str(value).lower() if isinstance(value, bool) else str(value)}
            for key, value in self.given_attributes(inputs).items()
        ]
        if given:
            getattr(aws.client("elbv2"), f"modify_{self.noun}_attributes")(**{self._names[1]: id}, Attributes=given)


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
    inputs = ("name", "internal", "loadBalancerType", "subnets", "securityGroups", *attributes, "tags")
    required = (("subnets",),)
    replaces, computed = ("name", "internal", "loadBalancerType"), ("internal", "securityGroups")
    defaults = {"internal": False, "loadBalancerType": "application"}
    autoname = "name"
    name_limit = 32
    unordered = ("subnets", "securityGroups")

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        """A network load balancer gains subnets, and changes groups, but loses no subnet and not all groups."""

        def replaces(f: Found) -> bool:
            before, after = old.get(f.property) or [], new.get(f.property) or []
            if f.property == "subnets" and isinstance(after, list):
                return any(subnet not in after for subnet in before)
            return bool(before) != bool(after) if f.property == "securityGroups" else f.replaces

        return [Found(f.path, f.change, replaces(f)) for f in found]

    def create(self, aws: Aws, inputs: Props) -> str:
        names = ("name", "loadBalancerType", "subnets", "securityGroups")
        args = arguments(aws.client("elbv2"), "create_load_balancer", inputs, names, loadBalancerType="Type")
        args["Scheme"] = "internal" if inputs["internal"] else "internet-facing"
        arn = self.make_record(aws, args, inputs)
        wait(f"{inputs['name']} becoming active", lambda: (self.record(aws, arn) or {})["State"]["Code"] == "active")
        return arn

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self.record(aws, id)
        return record and {
            "name": record["LoadBalancerName"],
            "dnsName": record["DNSName"],
            "zoneId": record.get("CanonicalHostedZoneId"),
            "vpcId": record["VpcId"],
            "internal": record["Scheme"] == "internal",
            "loadBalancerType": record["Type"],
            "subnets": [zone["SubnetId"] for zone in record.get("AvailabilityZones", [])],
            "securityGroups": record.get("SecurityGroups", []),
            **self.live(aws, id, known),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        super().update(aws, id, old, new, changed)
        if "subnets" in changed:
            aws.client("elbv2").set_subnets(LoadBalancerArn=id, Subnets=new["subnets"])
        if "securityGroups" in changed:
            aws.client("elbv2").set_security_groups(LoadBalancerArn=id, SecurityGroups=new["securityGroups"])


_HEALTH = {
    "protocol": "HealthCheckProtocol",
    "port": "HealthCheckPort",
    "path": "HealthCheckPath",
    "interval": "HealthCheckIntervalSeconds",
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
    inputs = ("name", "port", "protocol", "vpcId", "targetType", "healthCheck", "targetHealthStates", *attributes, "tags")
    parts = {"healthCheck": (*_HEALTH, "matcher"), "targetHealthStates": tuple(_STATE)}
    replaces = inputs[:5]
    computed = ("healthCheck.matcher", "healthCheck.path", "preserveClientIp")
    defaults = {"targetType": "instance", "proxyProtocolV2": False}
    autoname = "name"
    name_limit = 32

    def create(self, aws: Aws, inputs: Props) -> str:
        names = ("name", "port", "protocol", "vpcId", "targetType")
        args = arguments(aws.client("elbv2"), "create_target_group", inputs, names)
        return self.make_record(aws, args | self._health(inputs), inputs)

    def given_attributes(self, inputs: Props) -> dict[str, Any]:
        (state,) = inputs.get("targetHealthStates") or [{}]
        more = {key: state[name] for name, key in _STATE.items() if state.get(name) is not None}
        return super().given_attributes(inputs) | more

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self.record(aws, id)
        if record is None:
            return None
        records = aws.client("elbv2").describe_target_group_attributes(TargetGroupArn=id)["Attributes"]
        values = {record["Key"]: record["Value"] for record in records}
        state = {name: _spelt(values[key], None) for name, key in _STATE.items() if key in values}
        matcher = record.get("Matcher", {}).get("HttpCode")
        return {
            "name": record["TargetGroupName"],
            "arnSuffix": id.split(":")[-1],
            **{k: v for k, v in from_aws(record).items() if k in ("port", "protocol", "vpcId", "targetType")},
            "healthCheck": {
                **{name: record[member] for name, member in _HEALTH.items() if member in record},
                **({"matcher": matcher} if matcher else {}),
            },
            "targetHealthStates": [state] if state else [],
            **self.live(aws, id, known),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        super().update(aws, id, old, new, changed)
        if "healthCheck" in changed and new.get("healthCheck"):
            aws.client("elbv2").modify_target_group(TargetGroupArn=id, **self._health(new))

    def _health(self, inputs: Props) -> Props:
        health = {k: v for k, v in (inputs.get("healthCheck") or {}).items() if v is not None}
        args = {member: health[name] for name, member in _HEALTH.items() if name in health}
        return args | ({"Matcher": {"HttpCode": health["matcher"]}} if "matcher" in health else {})


class TargetGroupAttachment(Kind):
    token = "aws:lb/targetGroupAttachment:TargetGroupAttachment"
    inputs = replaces = ("targetGroupArn", "targetId", "port")

    def create(self, aws: Aws, inputs: Props) -> str:
        aws.client("elbv2").register_targets(TargetGroupArn=inputs["targetGroupArn"], Targets=[self._target(inputs)])
        return f"{inputs['targetGroupArn']}-{inputs['targetId']}-{inputs.get('port', 'default')}"

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("elbv2").describe_target_health(TargetGroupArn=known["targetGroupArn"]))
        targets = [item["Target"] for item in (answer or {}).get("TargetHealthDescriptions", [])]
        found = [t for t in targets if t["Id"] == known["targetId"] and known.get("port") in (None, t.get("Port"))]
        return {name: known.get(name) for name in self.inputs} if found else None

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.read(aws, id, known):
            target = self._target(known)
            aws.client("elbv2").deregister_targets(TargetGroupArn=known["targetGroupArn"], Targets=[target])

    def _target(self, inputs: Props) -> Props:
        return {"Id": inputs["targetId"], **({"Port": inputs["port"]} if inputs.get("port") else {})}


class Listener(_Balancing):
    token = "aws:lb/listener:Listener"
    noun = "listener"
    inputs = ("loadBalancerArn", "port", "protocol", "defaultActions", "tcpIdleTimeoutSeconds", "tags")
    parts = {"defaultActions": ("type", "targetGroupArn")}
    replaces, computed = ("loadBalancerArn",), ("protocol", "tcpIdleTimeoutSeconds")
    attributes = {"tcpIdleTimeoutSeconds": "tcp.idle_timeout.seconds"}

    def create(self, aws: Aws, inputs: Props) -> str:
        names = ("loadBalancerArn", "port", "protocol", "defaultActions")
        return self.make_record(aws, arguments(aws.client("elbv2"), "create_listener", inputs, names), inputs)

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self.record(aws, id)
        return record and {
            "loadBalancerArn": record["LoadBalancerArn"],
            "port": record["Port"],
            "protocol": record.get("Protocol"),
            # AWS repeats a single target as a forward block.
            "defaultActions": [
                {"type": action["Type"], "targetGroupArn": action.get("TargetGroupArn")} for action in record["DefaultActions"]
            ],
            **self.live(aws, id, known),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        super().update(aws, id, old, new, changed)
        if changed - {"tags", "tagsAll", *self.attributes}:
            elb = aws.client("elbv2")
            elb.modify_listener(
                ListenerArn=id, **arguments(elb, "create_listener", new, ("port", "protocol", "defaultActions"))
            )


KINDS = (LoadBalancer, TargetGroup, TargetGroupAttachment, Listener)
