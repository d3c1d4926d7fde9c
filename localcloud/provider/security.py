"""Security groups and their rules."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from .diff import Found
from .kind import Aws, Ec2, Kind, absent, first, retag, tag_map, tag_specifications
from .schema import Failure
from .values import Props

_EVERYTHING = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]


class SecurityGroup(Ec2):
    """Its rules are resources of their own."""

    token = "aws:ec2/securityGroup:SecurityGroup"
    noun, snake = "SecurityGroup", "security_group"
    inputs = ("name", "description", "vpcId", "tags")
    replaces, computed = inputs[:3], ("vpcId",)
    defaults = {"description": "Managed by Pulumi"}
    required = (("vpcId",),)
    autoname = "name"

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        names = {"GroupName": inputs["name"], "Description": inputs["description"], "VpcId": inputs["vpcId"]}
        id = str(ec2.create_security_group(**names, **tag_specifications("security-group", inputs))["GroupId"])
        # AWS opens every outbound flow of a new group; the provider takes that rule away, so that only what the
        # program declares is open.
        with self.undo_on_error(aws, id):
            ec2.revoke_security_group_egress(GroupId=id, IpPermissions=_EVERYTHING)
        return id

    def record(self, aws: Aws, id: str) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_security_groups(GroupIds=[id]))
        return first(answer["SecurityGroups"]) if answer else None

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        return {"name": record["GroupName"], "arn": aws.arn("ec2", f"security-group/{id}")}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("ec2").delete_security_group(GroupId=id))


class DefaultSecurityGroup(SecurityGroup):
    """The group that AWS makes with each VPC: taken over without a rule, never made or deleted."""

    token = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
    inputs = ("vpcId", "ingress", "egress", "tags")
    replaces = ("vpcId",)
    defaults = {}
    autoname = None

    def validate(self, inputs: Props) -> Iterable[Failure]:
        for direction in ("ingress", "egress"):
            if inputs.get(direction):
                yield Failure(direction, "the embedded cloud takes a default group over without any rule; give []")

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        filters = [{"Name": "vpc-id", "Values": [inputs["vpcId"]]}, {"Name": "group-name", "Values": ["default"]}]
        group = ec2.describe_security_groups(Filters=filters)["SecurityGroups"][0]
        for direction, rules in (("ingress", group["IpPermissions"]), ("egress", group["IpPermissionsEgress"])):
            if rules:
                getattr(ec2, f"revoke_security_group_{direction}")(GroupId=group["GroupId"], IpPermissions=rules)
        retag(aws, group["GroupId"], {}, inputs)
        return str(group["GroupId"])

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        rules = {"ingress": record["IpPermissions"], "egress": record["IpPermissionsEgress"]}
        # What someone added is drift, whatever it is; the next update cannot say it, so it is only shown.
        return super().describe(aws, id, record) | {
            name: [{"protocol": "any"}] if found else [] for name, found in rules.items()
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        retag(aws, id, old, new)
        if changed & {"ingress", "egress"}:
            self.create(aws, new)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        pass


# A property of a rule → the member that a flat rule has it in, and where a permission has it.
_PEERS = {
    "cidrIpv4": ("CidrIpv4", "IpRanges", "CidrIp"),
    "referencedSecurityGroupId": ("ReferencedGroupId", "UserIdGroupPairs", "GroupId"),
}


class _Rule(Kind):
    """One rule of a security group with an id of its own."""

    inputs = ("securityGroupId", "ipProtocol", "fromPort", "toPort", *_PEERS, "description", "tags")
    required = (tuple(_PEERS),)
    replaces = ("securityGroupId",)
    direction: ClassVar[str]

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        # A rule cannot change what kind of peer it speaks of.
        other = {n for n in _PEERS if n in old} != {n for n in _PEERS if n in new}
        return [Found(f.path, f.change, f.replaces or (other and f.property in _PEERS)) for f in found]

    def create(self, aws: Aws, inputs: Props) -> str:
        authorize = getattr(aws.client("ec2"), f"authorize_security_group_{self.direction}")
        peer = next(name for name in _PEERS if inputs.get(name))
        _, place, member = _PEERS[peer]
        about = {"Description": inputs["description"]} if inputs.get("description") else {}
        permission = {**self._ports(inputs), place: [{member: inputs[peer], **about}]}
        more = tag_specifications("security-group-rule", inputs)
        answer = authorize(GroupId=inputs["securityGroupId"], IpPermissions=[permission], **more)
        return str(answer["SecurityGroupRules"][0]["SecurityGroupRuleId"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self._record(aws, id)
        if record is None:
            return None
        portless = record.get("FromPort") in (None, -1) and record["IpProtocol"] not in ("icmp", "icmpv6")
        return {
            "securityGroupId": record["GroupId"],
            "securityGroupRuleId": id,
            "ipProtocol": record["IpProtocol"],
            "fromPort": None if portless else record.get("FromPort"),
            "toPort": None if portless else record.get("ToPort"),
            "cidrIpv4": record.get("CidrIpv4"),
            "referencedSecurityGroupId": record.get("ReferencedGroupInfo", {}).get("GroupId"),
            "description": record.get("Description") or None,
            "arn": aws.arn("ec2", f"security-group-rule/{id}"),
            "tags": tag_map(record.get("Tags")),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        retag(aws, id, old, new)
        if changed - {"tags", "tagsAll"}:
            ports = {"FromPort": -1, "ToPort": -1, **self._ports(new)}
            peers = {_PEERS[name][0]: new[name] for name in _PEERS if new.get(name)}
            rule = {**ports, **peers, "Description": new.get("description") or ""}
            change = [{"SecurityGroupRuleId": id, "SecurityGroupRule": rule}]
            aws.client("ec2").modify_security_group_rules(GroupId=new["securityGroupId"], SecurityGroupRules=change)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if record := self._record(aws, id):
            revoke = getattr(aws.client("ec2"), f"revoke_security_group_{self.direction}")
            revoke(GroupId=record["GroupId"], SecurityGroupRuleIds=[id])

    def _record(self, aws: Aws, id: str) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_security_group_rules(SecurityGroupRuleIds=[id]))
        rules = answer["SecurityGroupRules"] if answer else []
        return first([r for r in rules if r["IsEgress"] == (self.direction == "egress")])

    def _ports(self, inputs: Props) -> Props:
        """Protocols without ports (all, ESP …) may leave them out."""
        members = {"ipProtocol": "IpProtocol", "fromPort": "FromPort", "toPort": "ToPort"}
        return {member: inputs[name] for name, member in members.items() if inputs.get(name) is not None}


class IngressRule(_Rule):
    token = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
    direction = "ingress"


class EgressRule(_Rule):
    token = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
    direction = "egress"


KINDS = (SecurityGroup, DefaultSecurityGroup, IngressRule, EgressRule)
