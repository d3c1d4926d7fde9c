"""Load balancers (ELBv2): balancer, target group, attachment, listener."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from .diff import Found
from .kind import Aws, CloudError, Kind, absent, arguments, first, from_aws, pascal, tag_changes, tag_list, tag_map, wait
from .network import require_gateway, vpc_of_subnet
from .schema import Failure
from .values import Props


class _Balancing(Kind):
    """What the three tagged types share. A property that AWS keeps as an attribute is named in `attributes`."""

    service = "elbv2"
    attributes: ClassVar[dict[str, str]] = {}

    def _attributes(self, inputs: Props) -> list[dict[str, str]]:
        return [
            {"Key": key, "Value": str(inputs[name]).lower() if isinstance(inputs[name], bool) else str(inputs[name])}
            for name, key in self.attributes.items()
            if inputs.get(name) is not None
        ]

    def _live_attributes(self, records: list[dict[str, str]], known: Props) -> Props:
        values = {record["Key"]: record["Value"] for record in records}
        live: Props = {}
        for name, key in self.attributes.items():
            if key in values:
                text = values[key]
                live[name] = text == "true" if text in ("true", "false") and not _is_text(known.get(name)) else text
                if isinstance(live[name], str) and text.isdigit() and not _is_text(known.get(name)):
                    live[name] = int(text)
        return live

    def _tags(self, aws: Aws, arn: str) -> dict[str, str]:
        answer = aws.client("elbv2").describe_tags(ResourceArns=[arn])["TagDescriptions"]
        return tag_map(answer[0]["Tags"]) if answer else {}

    def _retag(self, aws: Aws, arn: str, old: Props, new: Props) -> None:
        removed, changed = tag_changes(old.get("tagsAll"), new.get("tagsAll"))
        if removed:
            aws.client("elbv2").remove_tags(ResourceArns=[arn], TagKeys=removed)
        if changed:
            aws.client("elbv2").add_tags(ResourceArns=[arn], Tags=tag_list(changed))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


class LoadBalancer(_Balancing):
    token = "aws:lb/loadBalancer:LoadBalancer"
    attributes = {
        "enableDeletionProtection": "deletion_protection.enabled",
        "enableCrossZoneLoadBalancing": "load_balancing.cross_zone.enabled",
        "idleTimeout": "idle_timeout.timeout_seconds",
        "enableHttp2": "routing.http2.enabled",
        "dropInvalidHeaderFields": "routing.http.drop_invalid_header_fields.enabled",
    }
    inputs = ("name", "namePrefix", "internal", "loadBalancerType", "subnets", "subnetMappings", "securityGroups",
              "ipAddressType", *attributes, "tags")  # fmt: skip
    defaults = {"internal": False, "loadBalancerType": "application", "ipAddressType": "ipv4"}
    autoname = "name"
    name_limit = 32
    unordered = ("subnets", "securityGroups", "subnetMappings")

    def validate(self, inputs: Props) -> Iterable[Failure]:
        if not inputs.get("subnets") and not inputs.get("subnetMappings"):
            yield Failure("subnets", "missing: a load balancer needs subnets or subnetMappings")

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        if new.get("loadBalancerType") != "network":
            return found

        def replaces(f: Found) -> bool:
            before, after = old.get(f.property) or [], new.get(f.property) or []
            if not isinstance(after, list):
                return f.replaces
            if f.property in ("subnets", "subnetMappings"):
                return len(after) < len(before) or (f.property == "subnets" and any(s not in after for s in before))
            return bool(before) != bool(after) if f.property == "securityGroups" else f.replaces

        return [Found(f.path, f.change, replaces(f)) for f in found]

    def create(self, aws: Aws, inputs: Props) -> str:
        if not inputs["internal"]:
            subnets = inputs.get("subnets") or [mapping["subnetId"] for mapping in inputs["subnetMappings"]]
            vpc = vpc_of_subnet(aws, subnets[0])
            require_gateway(aws, vpc, f"InvalidSubnet: VPC {vpc} has no internet gateway")
        elb = aws.client("elbv2")
        names = ("name", "loadBalancerType", "subnets", "securityGroups", "ipAddressType")
        args = arguments(elb, "create_load_balancer", inputs, names, loadBalancerType="Type")
        args["Scheme"] = "internal" if inputs["internal"] else "internet-facing"
        if inputs.get("subnetMappings"):
            renames = {"privateIpv4Address": "PrivateIPv4Address", "ipv6Address": "IPv6Address"}
            args["SubnetMappings"] = [
                {renames.get(k, pascal(k)): v for k, v in m.items() if v is not None} for m in inputs["subnetMappings"]
            ]
        if inputs.get("tagsAll"):
            args["Tags"] = tag_list(inputs["tagsAll"])
        arn = str(elb.create_load_balancer(**args)["LoadBalancers"][0]["LoadBalancerArn"])
        with self.undo_on_error(aws, arn):
            if attributes := self._attributes(inputs):
                elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=attributes)
            wait(f"{inputs['name']} becoming active", lambda: (self._record(aws, arn) or {})["State"]["Code"] == "active")
        return arn

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self._record(aws, id)
        if record is None:
            return None
        attributes = aws.client("elbv2").describe_load_balancer_attributes(LoadBalancerArn=id)["Attributes"]
        zones = record.get("AvailabilityZones", [])
        return {
            "name": record["LoadBalancerName"],
            "arn": id,
            "arnSuffix": id.split(":loadbalancer/")[-1],
            "dnsName": record["DNSName"],
            "zoneId": record.get("CanonicalHostedZoneId"),
            "vpcId": record["VpcId"],
            "internal": record["Scheme"] == "internal",
            "loadBalancerType": record["Type"],
            "ipAddressType": record.get("IpAddressType"),
            "subnets": [zone["SubnetId"] for zone in zones],
            "subnetMappings": known.get("subnetMappings"),
            "securityGroups": record.get("SecurityGroups", []),
            **self._live_attributes(attributes, known),
            "tags": self._tags(aws, id),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        elb = aws.client("elbv2")
        self._retag(aws, id, old, new)
        if changed & set(self.attributes):
            elb.modify_load_balancer_attributes(LoadBalancerArn=id, Attributes=self._attributes(new))
        if "subnets" in changed:
            elb.set_subnets(LoadBalancerArn=id, Subnets=new["subnets"])
        if "securityGroups" in changed and new.get("securityGroups"):
            elb.set_security_groups(LoadBalancerArn=id, SecurityGroups=new["securityGroups"])
        if "ipAddressType" in changed:
            elb.set_ip_address_type(LoadBalancerArn=id, IpAddressType=new["ipAddressType"])

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self._record(aws, id) is None:
            return
        attributes = aws.client("elbv2").describe_load_balancer_attributes(LoadBalancerArn=id)["Attributes"]
        if any(a["Key"] == "deletion_protection.enabled" and a["Value"] == "true" for a in attributes):
            raise CloudError(
                f"OperationNotPermitted: Load balancer '{id}' cannot be deleted because deletion protection is enabled; "
                "set enableDeletionProtection to false and run `up` first"
            )
        aws.client("elbv2").delete_load_balancer(LoadBalancerArn=id)

    def _record(self, aws: Aws, arn: str) -> Props | None:
        answer = absent(lambda: aws.client("elbv2").describe_load_balancers(LoadBalancerArns=[arn]))
        return first(answer["LoadBalancers"]) if answer else None


_HEALTH = {
    "enabled": "HealthCheckEnabled",
    "interval": "HealthCheckIntervalSeconds",
    "timeout": "HealthCheckTimeoutSeconds",
    "path": "HealthCheckPath",
    "port": "HealthCheckPort",
    "protocol": "HealthCheckProtocol",
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
    attributes = {
        "deregistrationDelay": "deregistration_delay.timeout_seconds",
        "preserveClientIp": "preserve_client_ip.enabled",
        "proxyProtocolV2": "proxy_protocol_v2.enabled",
        "connectionTermination": "deregistration_delay.connection_termination.enabled",
        "slowStart": "slow_start.duration_seconds",
        "loadBalancingAlgorithmType": "load_balancing.algorithm.type",
        "loadBalancingCrossZoneEnabled": "load_balancing.cross_zone.enabled",
    }
    inputs = ("name", "namePrefix", "port", "protocol", "protocolVersion", "vpcId", "targetType", "ipAddressType",
              "healthCheck", "targetHealthStates", *attributes, "tags")  # fmt: skip
    defaults = {"targetType": "instance", "proxyProtocolV2": False, "connectionTermination": False}
    autoname = "name"
    name_limit = 32

    def create(self, aws: Aws, inputs: Props) -> str:
        elb = aws.client("elbv2")
        names = ("name", "port", "protocol", "protocolVersion", "vpcId", "targetType", "ipAddressType")
        args = arguments(elb, "create_target_group", inputs, names) | self._health(inputs)
        if inputs.get("tagsAll"):
            args["Tags"] = tag_list(inputs["tagsAll"])
        arn = str(elb.create_target_group(**args)["TargetGroups"][0]["TargetGroupArn"])
        with self.undo_on_error(aws, arn):
            if attributes := self._attributes(inputs):
                elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=attributes)
        return arn

    def _attributes(self, inputs: Props) -> list[dict[str, str]]:
        (state,) = inputs.get("targetHealthStates") or [{}]
        values = {key: str(state[name]).lower() for name, key in _STATE.items() if state.get(name) is not None}
        return [*super()._attributes(inputs), *({"Key": key, "Value": value} for key, value in values.items())]

    @staticmethod
    def _states(records: list[dict[str, str]]) -> list[Props]:
        values = {record["Key"]: record["Value"] for record in records}
        found = {name: values[key] for name, key in _STATE.items() if key in values}
        return [{name: int(text) if text.isdigit() else text == "true" for name, text in found.items()}] if found else []

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("elbv2").describe_target_groups(TargetGroupArns=[id]))
        record = first(answer["TargetGroups"]) if answer else None
        if record is None:
            return None
        attributes = aws.client("elbv2").describe_target_group_attributes(TargetGroupArn=id)["Attributes"]
        return {
            "name": record["TargetGroupName"],
            "arn": id,
            "arnSuffix": id.split(":")[-1],
            **{k: v for k, v in from_aws(record).items() if k in ("port", "protocol", "vpcId", "targetType", "ipAddressType")},
            "loadBalancerArns": record.get("LoadBalancerArns", []),
            "healthCheck": {
                **{name: record[member] for name, member in _HEALTH.items() if member in record},
                **({"matcher": record["Matcher"]["HttpCode"]} if record.get("Matcher", {}).get("HttpCode") else {}),
            },
            "targetHealthStates": self._states(attributes),
            **self._live_attributes(attributes, known),
            "tags": self._tags(aws, id),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        elb = aws.client("elbv2")
        self._retag(aws, id, old, new)
        if "healthCheck" in changed and new.get("healthCheck"):
            elb.modify_target_group(TargetGroupArn=id, **self._health(new))
        if changed & {*self.attributes, "targetHealthStates"}:
            elb.modify_target_group_attributes(TargetGroupArn=id, Attributes=self._attributes(new))

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("elbv2").delete_target_group(TargetGroupArn=id))

    def _health(self, inputs: Props) -> Props:
        health = {k: v for k, v in (inputs.get("healthCheck") or {}).items() if v is not None}
        args = {member: health[name] for name, member in _HEALTH.items() if name in health}
        return args | ({"Matcher": {"HttpCode": health["matcher"]}} if "matcher" in health else {})


class TargetGroupAttachment(Kind):
    token = "aws:lb/targetGroupAttachment:TargetGroupAttachment"
    inputs = ("targetGroupArn", "targetId", "port", "availabilityZone")

    def create(self, aws: Aws, inputs: Props) -> str:
        aws.client("elbv2").register_targets(TargetGroupArn=inputs["targetGroupArn"], Targets=[self._target(inputs)])
        return f"{inputs['targetGroupArn']}-{inputs['targetId']}-{inputs.get('port', 'default')}"

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        if not known.get("targetGroupArn"):
            return None
        group = known["targetGroupArn"]
        answer = absent(lambda: aws.client("elbv2").describe_target_health(TargetGroupArn=group))
        targets = [item["Target"] for item in (answer or {}).get("TargetHealthDescriptions", [])]
        found = [t for t in targets if t["Id"] == known["targetId"] and known.get("port") in (None, t.get("Port"))]
        return {name: known.get(name) for name in self.inputs} if found else None

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self.read(aws, id, known):
            target = self._target(known)
            aws.client("elbv2").deregister_targets(TargetGroupArn=known["targetGroupArn"], Targets=[target])

    def _target(self, inputs: Props) -> Props:
        target = {"Id": inputs["targetId"], "Port": inputs.get("port"), "AvailabilityZone": inputs.get("availabilityZone")}
        return {k: v for k, v in target.items() if v is not None}


class Listener(_Balancing):
    token = "aws:lb/listener:Listener"
    inputs = ("loadBalancerArn", "port", "protocol", "certificateArn", "sslPolicy", "alpnPolicy", "defaultActions",
              "tcpIdleTimeoutSeconds", "tags")  # fmt: skip
    attributes = {"tcpIdleTimeoutSeconds": "tcp.idle_timeout.seconds"}

    def create(self, aws: Aws, inputs: Props) -> str:
        elb = aws.client("elbv2")
        args = self._arguments(aws, inputs)
        if inputs.get("tagsAll"):
            args["Tags"] = tag_list(inputs["tagsAll"])
        arn = str(elb.create_listener(LoadBalancerArn=inputs["loadBalancerArn"], **args)["Listeners"][0]["ListenerArn"])
        with self.undo_on_error(aws, arn):
            if attributes := self._attributes(inputs):
                elb.modify_listener_attributes(ListenerArn=arn, Attributes=attributes)
        return arn

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("elbv2").describe_listeners(ListenerArns=[id]))
        record = first(answer["Listeners"]) if answer else None
        if record is None:
            return None
        return {
            "arn": id,
            "loadBalancerArn": record["LoadBalancerArn"],
            "port": record["Port"],
            "protocol": record.get("Protocol"),
            "sslPolicy": record.get("SslPolicy") or None,
            "certificateArn": (first(record.get("Certificates")) or {}).get("CertificateArn"),
            "alpnPolicy": first(record.get("AlpnPolicy")),
            "defaultActions": [_action(action) for action in record.get("DefaultActions", [])],
            **self._live_attributes(aws.client("elbv2").describe_listener_attributes(ListenerArn=id)["Attributes"], known),
            "tags": self._tags(aws, id),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        elb = aws.client("elbv2")
        self._retag(aws, id, old, new)
        if changed - {"tags", "tagsAll", "tcpIdleTimeoutSeconds"}:
            elb.modify_listener(ListenerArn=id, **self._arguments(aws, new))
        if "tcpIdleTimeoutSeconds" in changed and self._attributes(new):
            elb.modify_listener_attributes(ListenerArn=id, Attributes=self._attributes(new))

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("elbv2").delete_listener(ListenerArn=id))

    def _arguments(self, aws: Aws, inputs: Props) -> Props:
        args = arguments(aws.client("elbv2"), "create_listener", inputs, ("port", "protocol", "sslPolicy", "defaultActions"))
        if inputs.get("certificateArn"):
            args["Certificates"] = [{"CertificateArn": inputs["certificateArn"]}]
        if inputs.get("alpnPolicy"):
            args["AlpnPolicy"] = [inputs["alpnPolicy"]]
        return args


def _action(action: Props) -> Props:
    """A default action as the program gives it; AWS repeats a single target as a forward block."""
    live: Props = from_aws(action)
    if live.get("targetGroupArn"):
        live.pop("forward", None)
    return live


KINDS = (LoadBalancer, TargetGroup, TargetGroupAttachment, Listener)
