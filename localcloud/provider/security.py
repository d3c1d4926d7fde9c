"""Security groups, their rules, and key pairs."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, ClassVar, cast

from .diff import Found
from .kind import Aws, CloudError, Ec2, Kind, absent, arguments, first, retag, tag_changes, tag_list, tag_map
from .schema import Failure
from .values import Props, is_unknown

_ALL_PROTOCOLS = ("-1", "all")
_WITH_PORTS = ("tcp", "udp", "6", "17")
_SOURCES = ("cidrIpv4", "cidrIpv6", "prefixListId", "referencedSecurityGroupId")


def port_problem(rule: Props, protocol_name: str) -> str | None:
    """What is wrong with a rule's ports, or None. Other protocols have none; for ICMP the two are type and code."""
    protocol, low, high = (rule.get(name) for name in (protocol_name, "fromPort", "toPort"))
    if is_unknown([protocol, low, high]) or str(protocol).lower() not in _WITH_PORTS:
        return None
    if low is None or high is None:
        return f"a rule for {protocol} needs both fromPort and toPort, 0 to 65535"
    if not 0 <= low <= 65535 or not 0 <= high <= 65535:
        return f"ports {low} to {high} are not within 0 to 65535"
    if low > high:
        return f"fromPort {low} is above toPort {high}; the lower port comes first"
    return None


def cidr_problem(cidr: Any) -> str | None:
    """What is wrong with a rule's CIDR, or None."""
    if not isinstance(cidr, str):
        return None
    try:
        ipaddress.ip_network(cidr)
    except ValueError as error:
        return f"{cidr} is no network: {error}"
    return None


class SecurityGroup(Ec2):
    token = "aws:ec2/securityGroup:SecurityGroup"
    noun, snake = "SecurityGroup", "security_group"
    inputs = ("name", "namePrefix", "description", "vpcId", "ingress", "egress", "revokeRulesOnDelete", "tags")
    kept = {"revokeRulesOnDelete": "moto deletes a group with its rules"}
    defaults = {"description": "Managed by Pulumi", "revokeRulesOnDelete": False}
    autoname = "name"
    unordered = ("ingress", "egress")

    def validate(self, inputs: Props) -> Iterable[Failure]:
        for direction in ("ingress", "egress"):
            rules = inputs.get(direction)
            for index, rule in enumerate(cast(list[Props], rules) if isinstance(rules, list) else []):
                problem = port_problem(rule, "protocol")
                if problem and not (rule.get("fromPort") == 0 == rule.get("toPort")):
                    yield Failure(f"{direction}[{index}]", problem)

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        vpc = {"VpcId": inputs["vpcId"]} if inputs.get("vpcId") else {}
        tags = self.tag_specification(inputs)
        more = {"TagSpecifications": tags} if tags else {}
        answer = ec2.create_security_group(GroupName=inputs["name"], Description=inputs["description"], **vpc, **more)
        id = str(answer["GroupId"])
        # AWS opens every outbound flow of a new group; the provider takes that rule away, so that only what the
        # program declares is open.
        everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
        with self.undo_on_error(aws, id):
            ec2.revoke_security_group_egress(GroupId=id, IpPermissions=everything)
            self.settle(aws, id, inputs, None)
        return id

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        ec2 = aws.client("ec2")
        for direction in ("ingress", "egress"):
            if changed is not None and direction not in changed:
                continue
            current = (self.record(aws, id) or {}).get("IpPermissions" + ("" if direction == "ingress" else "Egress"))
            if changed is not None and current:
                getattr(ec2, f"revoke_security_group_{direction}")(GroupId=id, IpPermissions=current)
            if inputs.get(direction):
                permissions = [_permission(rule, id) for rule in inputs[direction]]
                getattr(ec2, f"authorize_security_group_{direction}")(GroupId=id, IpPermissions=permissions)

    def record(self, aws: Aws, id: str) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_security_groups(GroupIds=[id]))
        return first(answer["SecurityGroups"]) if answer else None

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {
            "name": record["GroupName"],
            "arn": aws.arn("ec2", f"security-group/{id}"),
            "ingress": [_inline(p, id) for p in record.get("IpPermissions", [])],
            "egress": [_inline(p, id) for p in record.get("IpPermissionsEgress", [])],
        }

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("ec2").delete_security_group(GroupId=id))


class DefaultSecurityGroup(SecurityGroup):
    """The group that AWS makes with each VPC: taken over, never made or deleted. Rules that are not given are taken out."""

    token = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
    inputs = ("vpcId", "ingress", "egress", "revokeRulesOnDelete", "tags")
    defaults = {"revokeRulesOnDelete": False}
    autoname = None

    def create(self, aws: Aws, inputs: Props) -> str:
        filters = [{"Name": "vpc-id", "Values": [inputs["vpcId"]]}, {"Name": "group-name", "Values": ["default"]}]
        id = str(aws.client("ec2").describe_security_groups(Filters=filters)["SecurityGroups"][0]["GroupId"])
        self.settle(aws, id, inputs, {"ingress", "egress"})
        retag(aws, id, {}, inputs)
        return id

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        pass


def _permission(rule: Props, group: str) -> Props:
    """An inline rule of a security group as AWS's IpPermission."""
    about = {"Description": rule["description"]} if rule.get("description") else {}
    groups = [*(rule.get("securityGroups") or []), *([group] if rule.get("self") else [])]
    everything = str(rule["protocol"]) in _ALL_PROTOCOLS
    return {
        "IpProtocol": "-1" if everything else str(rule["protocol"]),
        **({} if everything else {"FromPort": rule["fromPort"], "ToPort": rule["toPort"]}),
        "IpRanges": [{"CidrIp": cidr, **about} for cidr in rule.get("cidrBlocks") or []],
        "Ipv6Ranges": [{"CidrIpv6": cidr, **about} for cidr in rule.get("ipv6CidrBlocks") or []],
        "PrefixListIds": [{"PrefixListId": item, **about} for item in rule.get("prefixListIds") or []],
        "UserIdGroupPairs": [{"GroupId": item, **about} for item in groups],
    }


def _inline(permission: Props, group: str) -> Props:
    """The reverse of `_permission`."""
    ranges = permission.get("IpRanges", [])
    pairs = permission.get("UserIdGroupPairs", [])
    abouts = [item["Description"] for item in (*ranges, *pairs) if item.get("Description")]
    rule: Props = {
        "protocol": permission["IpProtocol"],
        "fromPort": permission.get("FromPort", 0) if permission["IpProtocol"] != "-1" else 0,
        "toPort": permission.get("ToPort", 0) if permission["IpProtocol"] != "-1" else 0,
    }
    if ranges:
        rule["cidrBlocks"] = [item["CidrIp"] for item in ranges]
    others = [pair["GroupId"] for pair in pairs if pair["GroupId"] != group]
    if others:
        rule["securityGroups"] = others
    if len(others) < len(pairs):
        rule["self"] = True
    if abouts:
        rule["description"] = abouts[0]
    return rule


class _Rule(Kind):
    """One rule of a security group with an id of its own."""

    inputs = ("securityGroupId", "ipProtocol", "fromPort", "toPort", *_SOURCES, "description", "tags")
    direction: ClassVar[str]

    def validate(self, inputs: Props) -> Iterable[Failure]:
        if problem := port_problem(inputs, "ipProtocol"):
            yield Failure("fromPort", problem)
        if str(inputs.get("ipProtocol")) in _ALL_PROTOCOLS and inputs.get("fromPort", -1) != -1:
            yield Failure("fromPort", f"a rule for all protocols takes no ports; given: {inputs['fromPort']}")
        given = [name for name in _SOURCES if inputs.get(name) is not None]
        if len(given) != 1:
            yield Failure("cidrIpv4", f"exactly one of {', '.join(_SOURCES)} is needed; given: {given or 'none'}")
        for name in ("cidrIpv4", "cidrIpv6"):
            if problem := cidr_problem(inputs.get(name)):
                yield Failure(name, problem)

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        # A rule cannot change what kind of peer it speaks of.
        if {n for n in _SOURCES if n in old} == {n for n in _SOURCES if n in new}:
            return found
        return [Found(f.path, f.change, f.replaces or f.property in _SOURCES) for f in found]

    def create(self, aws: Aws, inputs: Props) -> str:
        tags = tag_list(inputs.get("tagsAll"))
        more = {"TagSpecifications": [{"ResourceType": "security-group-rule", "Tags": tags}]} if tags else {}
        self._check_peer(aws, inputs)
        authorize = getattr(aws.client("ec2"), f"authorize_security_group_{self.direction}")
        answer = authorize(GroupId=inputs["securityGroupId"], IpPermissions=[self._permission(inputs)], **more)
        rule = first(answer["SecurityGroupRules"])
        if rule is None:
            raise CloudError(f"the rule was not added to {inputs['securityGroupId']}: it has one like it already")
        return str(rule["SecurityGroupRuleId"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self._record(aws, id)
        if record is None:
            return None
        portless = str(record["IpProtocol"]).lower() not in (*_WITH_PORTS, "icmp", "icmpv6", "1", "58")
        return {
            "securityGroupId": record["GroupId"],
            "securityGroupRuleId": id,
            "ipProtocol": record["IpProtocol"],
            "fromPort": None if portless else record.get("FromPort"),
            "toPort": None if portless else record.get("ToPort"),
            "cidrIpv4": record.get("CidrIpv4"),
            "cidrIpv6": record.get("CidrIpv6"),
            "prefixListId": record.get("PrefixListId"),
            "referencedSecurityGroupId": record.get("ReferencedGroupInfo", {}).get("GroupId"),
            "description": record.get("Description") or self._pair_description(aws, record),
            "arn": aws.arn("ec2", f"security-group-rule/{id}"),
            "tags": tag_map(record.get("Tags")),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        retag(aws, id, old, new)
        if changed - {"tags", "tagsAll"}:
            self._check_peer(aws, new)
            flat = {k: v for k, v in self._flat(new).items() if v is not None}
            change = {"SecurityGroupRuleId": id, "SecurityGroupRule": flat}
            aws.client("ec2").modify_security_group_rules(GroupId=new["securityGroupId"], SecurityGroupRules=[change])

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        record = self._record(aws, id)
        if record:
            revoke = getattr(aws.client("ec2"), f"revoke_security_group_{self.direction}")
            revoke(GroupId=record["GroupId"], SecurityGroupRuleIds=[id])

    def _record(self, aws: Aws, id: str) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_security_group_rules(SecurityGroupRuleIds=[id]))
        rules = answer["SecurityGroupRules"] if answer else []
        return first([r for r in rules if r["IsEgress"] == (self.direction == "egress")])

    def _pair_description(self, aws: Aws, record: Props) -> str | None:
        """Where the peer is a group, moto tells the rule's description only in the group's own listing."""
        peer = record.get("ReferencedGroupInfo", {}).get("GroupId")
        if not peer:
            return None
        group = aws.client("ec2").describe_security_groups(GroupIds=[record["GroupId"]])["SecurityGroups"][0]
        permissions = group["IpPermissions" if self.direction == "ingress" else "IpPermissionsEgress"]
        ports = [record.get(name) for name in ("IpProtocol", "FromPort", "ToPort")]
        for permission in permissions:
            if [permission.get(name, -1) for name in ("IpProtocol", "FromPort", "ToPort")] == ports:
                pair = first([p for p in permission["UserIdGroupPairs"] if p["GroupId"] == peer]) or {}
                return pair.get("Description") or None
        return None

    def _check_peer(self, aws: Aws, inputs: Props) -> None:
        peer = inputs.get("referencedSecurityGroupId")
        if peer:
            groups = [inputs["securityGroupId"], peer]
            same_vpc(aws, groups, f"rule of {groups[0]}", None)

    def _flat(self, inputs: Props) -> Props:
        protocol = "-1" if str(inputs["ipProtocol"]) in _ALL_PROTOCOLS else inputs["ipProtocol"]
        # Protocols without ports (all, ESP …) may leave them out on AWS; moto wants numbers.
        low, high = inputs.get("fromPort"), inputs.get("toPort")
        return {
            "IpProtocol": protocol,
            "FromPort": -1 if low is None else low,
            "ToPort": -1 if high is None else high,
            "CidrIpv4": inputs.get("cidrIpv4"),
            "CidrIpv6": inputs.get("cidrIpv6"),
            "PrefixListId": inputs.get("prefixListId"),
            "ReferencedGroupId": inputs.get("referencedSecurityGroupId"),
            "Description": inputs.get("description"),
        }

    def _permission(self, inputs: Props) -> Props:
        flat = self._flat(inputs)
        about = {"Description": flat["Description"]} if flat["Description"] else {}
        peers = {
            "CidrIpv4": ("IpRanges", "CidrIp"),
            "CidrIpv6": ("Ipv6Ranges", "CidrIpv6"),
            "PrefixListId": ("PrefixListIds", "PrefixListId"),
            "ReferencedGroupId": ("UserIdGroupPairs", "GroupId"),
        }
        permission = {name: flat[name] for name in ("IpProtocol", "FromPort", "ToPort") if flat[name] is not None}
        for name, (ranges, member) in peers.items():
            if flat[name]:
                permission[ranges] = [{member: flat[name], **about}]
        return permission


class IngressRule(_Rule):
    token = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
    direction = "ingress"


class EgressRule(_Rule):
    token = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
    direction = "egress"


def same_vpc(aws: Aws, groups: list[str], what: str, vpc: str | None) -> None:
    """CloudError unless all groups are of one VPC (the given one); AWS refuses, moto does not."""
    found = aws.client("ec2").describe_security_groups(GroupIds=list(dict.fromkeys(groups)))["SecurityGroups"]
    wanted = vpc or next(g["VpcId"] for g in found if g["GroupId"] == groups[0])
    for group in found:
        if group["VpcId"] != wanted:
            raise CloudError(
                f"InvalidGroup.NotFound: security group {group['GroupId']} ({group['GroupName']}) is of VPC "
                f"{group['VpcId']}, but {what} is in {wanted}; use a group of {wanted}"
            )


class KeyPair(Kind):
    token = "aws:ec2/keyPair:KeyPair"
    inputs = ("keyName", "keyNamePrefix", "publicKey", "tags")
    autoname = "keyName"

    def create(self, aws: Aws, inputs: Props) -> str:
        tags = tag_list(inputs.get("tagsAll"))
        more: Any = {"TagSpecifications": [{"ResourceType": "key-pair", "Tags": tags}]} if tags else {}
        key = inputs["publicKey"].strip().encode()
        answer = aws.client("ec2").import_key_pair(KeyName=inputs["keyName"], PublicKeyMaterial=key, **more)
        return str(answer["KeyName"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        answer = absent(lambda: aws.client("ec2").describe_key_pairs(KeyNames=[id]))
        record = first(answer["KeyPairs"]) if answer else None
        if record is None:
            return None
        return {
            "keyName": id,
            "keyPairId": record.get("KeyPairId"),
            "keyType": record.get("KeyType"),
            "fingerprint": record.get("KeyFingerprint"),
            "arn": aws.arn("ec2", f"key-pair/{id}"),
            "tags": tag_map(record.get("Tags")),
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        if any(tag_changes(old.get("tagsAll"), new.get("tagsAll"))):
            retag(aws, old["keyPairId"], old, new)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        ec2 = aws.client("ec2")
        absent(lambda: ec2.delete_key_pair(**arguments(ec2, "delete_key_pair", {"keyName": id}, ["keyName"])))


KINDS = (SecurityGroup, DefaultSecurityGroup, IngressRule, EgressRule, KeyPair)
