"""Security groups and their rules."""

from __future__ import annotations

from collections.abc import Iterable

from ..api.client import Aws
from .aws import Ec2
from .kind import Failure
from .values import Props

_EVERYTHING = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]


class SecurityGroup(Ec2):
    """Its rules are resources of their own."""

    token = "aws:ec2/securityGroup:SecurityGroup"
    noun, key = "security_group", "GroupId"
    sends = replaces = ("name", "description", "vpcId")
    inputs = (*sends, "tags")
    renamed = {"name": "GroupName"}
    computed = ("vpcId",)
    required = (("vpcId",), ("description",))
    autoname = "name"

    def complete(self, aws: Aws, id: str, inputs: Props) -> None:
        # AWS opens every outbound flow of a new group; the provider takes that rule away, so that only what the
        # program declares is open.
        aws.client("ec2").revoke_security_group_egress(GroupId=id, IpPermissions=_EVERYTHING)


class DefaultSecurityGroup(SecurityGroup):
    """The group that AWS makes with each VPC: taken over without a rule, never made or deleted."""

    token = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
    inputs = ("vpcId", "ingress", "egress", "tags")
    replaces = ("vpcId",)
    autoname = None

    def validate(self, inputs: Props) -> Iterable[Failure]:
        for direction in ("ingress", "egress"):
            if inputs.get(direction):
                yield Failure(direction, "the embedded cloud takes a default group over without any rule; give []")

    def make(self, aws: Aws, inputs: Props) -> tuple[str, Props]:
        filters = [{"Name": "vpc-id", "Values": [inputs["vpcId"]]}, {"Name": "group-name", "Values": ["default"]}]
        id = str(aws.client("ec2").describe_security_groups(Filters=filters)["SecurityGroups"][0]["GroupId"])
        return id, self.change(aws, id, {}, inputs, {"ingress", "egress"})

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        # What someone added is drift, whatever it is; the next update cannot say it, so it is only shown.
        rules = {"ingress": record["IpPermissions"], "egress": record["IpPermissionsEgress"]}
        return {name: [{"protocol": "any"}] if found else [] for name, found in rules.items()}

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        group = self.record(aws, id, {}) or {}
        for direction, rules in (("ingress", group["IpPermissions"]), ("egress", group["IpPermissionsEgress"])):
            if rules and direction in changed:
                self.call(aws, f"revoke_security_group_{direction}", {"GroupId": id, "IpPermissions": rules})

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        pass


# A property of a rule → the member that a flat rule has it in, and where a permission has it.
_PEERS = {
    "cidrIpv4": ("CidrIpv4", "IpRanges", "CidrIp"),
    "referencedSecurityGroupId": ("ReferencedGroupId", "UserIdGroupPairs", "GroupId"),
}
_PORTS = {"ipProtocol": "IpProtocol", "fromPort": "FromPort", "toPort": "ToPort"}


class _Rule(Ec2):
    """One rule of a security group with an id of its own."""

    noun = "security_group_rule"
    sends = ("securityGroupId", *_PORTS, *_PEERS, "description")
    inputs = (*sends, "tags")
    renamed = {"securityGroupId": "GroupId"}
    required = (tuple(_PEERS),)
    replaces = ("securityGroupId",)

    def replacing(self, name: str, old: Props, new: Props) -> bool:
        # A rule cannot change what kind of peer it speaks of.
        other = {n for n in _PEERS if n in old} != {n for n in _PEERS if n in new}
        return name in self.replaces or (other and name in _PEERS)

    def creation(self, aws: Aws, inputs: Props) -> Props:
        peer = next(name for name in _PEERS if inputs.get(name))
        _, place, member = _PEERS[peer]
        about = {"Description": inputs["description"]} if inputs.get("description") else {}
        permission = {**_ports(inputs), place: [{member: inputs[peer], **about}]}
        return {"GroupId": inputs["securityGroupId"], "IpPermissions": [permission], **self.tag_specification(inputs)}

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        portless = record.get("FromPort") in (None, -1) and record["IpProtocol"] not in ("icmp", "icmpv6")
        none = {"fromPort": None, "toPort": None} if portless else {}
        return {**none, "referencedSecurityGroupId": record.get("ReferencedGroupInfo", {}).get("GroupId")}

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        if changed:
            peers = {_PEERS[name][0]: inputs[name] for name in _PEERS if inputs.get(name)}
            about = {"Description": inputs.get("description") or ""}
            rule = {"FromPort": -1, "ToPort": -1, **_ports(inputs), **peers, **about}
            change = [{"SecurityGroupRuleId": id, "SecurityGroupRule": rule}]
            aws.client("ec2").modify_security_group_rules(GroupId=inputs["securityGroupId"], SecurityGroupRules=change)

    def deletion(self, aws: Aws, id: str, known: Props) -> Props:
        return {"GroupId": known["securityGroupId"], "SecurityGroupRuleIds": [id]}


def _ports(inputs: Props) -> Props:
    """Protocols without ports (all, ESP …) may leave them out."""
    return {member: inputs[name] for name, member in _PORTS.items() if inputs.get(name) is not None}


class IngressRule(_Rule):
    token = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
    creates, deletes = "authorize_security_group_ingress", "revoke_security_group_ingress"


class EgressRule(_Rule):
    token = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
    creates, deletes = "authorize_security_group_egress", "revoke_security_group_egress"


KINDS = (SecurityGroup, DefaultSecurityGroup, IngressRule, EgressRule)
