"""Who may talk to whom, and what a host may ask AWS for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pulumi import ComponentResource, Input, Output, Resource, ResourceOptions
from pulumi_aws import ec2, iam, vpc

from components.tags import Tags
from plan.cluster import Role
from plan.ports import EDGE_BEHIND_BALANCER
from plan.rules import GROUPS, INTERNET, Group, Rule, groups_of, rules_of
from plan.settings import Settings

ROLES: tuple[Role, ...] = ("slave", "control", "edge")


@dataclass(frozen=True)
class SecurityArgs:
    """marks: more tags of the group `node`, by which other stacks in the VPC know of this one."""

    settings: Settings
    vpc_id: Input[str]
    tags: Tags
    marks: Mapping[str, str] = field(default_factory=dict[str, str])


class Security(ComponentResource):
    """Security groups, type apollo:security:Security.

    Creates {name}-<group> for each group of plan/rules.py, an inbound rule for each of its rules, and the ways out:
    {name}-node-out (every host to anywhere) and, with a balancer, one for each port to the edges.
    """

    def __init__(self, name: str, args: SecurityArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:security:Security", name, None, opts)
        self._name, self._tags = name, args.tags
        self._rules: dict[str, list[Resource]] = {}
        self.groups = {
            group: ec2.SecurityGroup(
                f"{name}-{group}",
                vpc_id=args.vpc_id,
                description=GROUPS[group],
                tags={**args.tags.named(group), **(args.marks if group == "node" else {})},
                opts=ResourceOptions(parent=self),
            )
            for group in groups_of(args.settings)
        }
        for rule in rules_of(args.settings):
            self._admit(rule)
            if rule.source == "balancer":
                self._balancer_out(rule.flow.first_port)
        out = vpc.SecurityGroupEgressRule(
            f"{name}-node-out",
            security_group_id=self.groups["node"].id,
            ip_protocol="-1",
            cidr_ipv4=INTERNET,
            description="Hosts and their containers to anywhere: packages, images, AWS, other services",
            tags=args.tags.named("node-out"),
            opts=ResourceOptions(parent=self),
        )
        self._rules["node"].append(out)
        self.register_outputs({"clientGroupId": self.groups["client"].id, "slaveGroupId": self.groups["slave"].id})

    def of_role(self, role: Role) -> list[Output[str]]:
        """The groups a host of the role is in."""
        return [self.groups["node"].id, self.groups[role].id]

    def ready(self, role: Role) -> list[Resource]:
        """The rules that a host of the role needs before it boots."""
        return [*self._rules["node"], *self._rules.get(role, [])]

    def _balancer_out(self, port: int) -> None:
        vpc.SecurityGroupEgressRule(
            # The first of them had its name when there was no other, and names are identities.
            f"{self._name}-balancer-out" + ("" if port == EDGE_BEHIND_BALANCER else f"-{port}"),
            security_group_id=self.groups["balancer"].id,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            referenced_security_group_id=self.groups["edge"].id,
            description="Web to the edges",
            tags=self._tags.named("balancer-out"),
            opts=ResourceOptions(parent=self),
        )

    def _admit(self, rule: Rule) -> None:
        flow, group = rule.flow, self.groups.get(cast(Group, rule.source))
        ingress = vpc.SecurityGroupIngressRule(
            f"{self._name}-{rule.name}",
            security_group_id=self.groups[rule.to].id,
            ip_protocol=flow.protocol,
            from_port=flow.first_port if flow.ported else None,
            to_port=flow.last_port if flow.ported else None,
            referenced_security_group_id=group.id if group else None,
            cidr_ipv4=None if group else rule.source,
            description=flow.purpose,
            tags=self._tags.named(rule.name),
            opts=ResourceOptions(parent=self),
        )
        self._rules.setdefault(rule.to, []).append(ingress)


@dataclass(frozen=True)
class IdentityArgs:
    """readable_arns: the SSM parameters that hosts of this role read at boot, and all that they may ask for.

    encrypted_arns: those of them that are under the key of key_arn. bucket_arn: where the role's programs are.
    """

    role: Role
    readable_arns: Sequence[Input[str]]
    encrypted_arns: Sequence[Input[str]]
    key_arn: Input[str]
    bucket_arn: Input[str]
    tags: Tags


class Identity(ComponentResource):
    """What hosts of one role may ask AWS for, type apollo:security:Identity.

    Creates: {name} (IAM role for EC2), {name}-secrets (policy: read the role's own parameters and programs, and decrypt nothing
    but those), {name} (instance profile).
    """

    def __init__(self, name: str, args: IdentityArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("apollo:security:Identity", name, None, opts)
        child = ResourceOptions(parent=self)
        role = iam.Role(
            name,
            assume_role_policy=policy(
                {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ),
            description=f"Apollo {args.role} hosts",
            tags=args.tags.named(args.role),
            opts=child,
        )
        reading = iam.RolePolicy(
            f"{name}-secrets",
            role=role.id,
            policy=Output.all(
                readable=Output.all(*args.readable_arns),
                encrypted=Output.all(*args.encrypted_arns),
                key=args.key_arn,
                bucket=args.bucket_arn,
            ).apply(
                lambda known: policy(
                    {"Effect": "Allow", "Action": "ssm:GetParameters", "Resource": sorted(known["readable"])},
                    # SSM asks the key in the host's name, and says for which parameter.
                    {
                        "Effect": "Allow",
                        "Action": "kms:Decrypt",
                        "Resource": known["key"],
                        "Condition": {"StringEquals": {"kms:EncryptionContext:PARAMETER_ARN": sorted(known["encrypted"])}},
                    },
                    {
                        "Effect": "Allow",
                        "Action": "s3:GetObject",
                        "Resource": f"{known['bucket']}/programs/{args.role}/*",
                    },
                    # Every reader compares an image with its digest, so the first host that has it may put it there.
                    {
                        "Effect": "Allow",
                        "Action": ["s3:GetObject", "s3:PutObject"],
                        "Resource": f"{known['bucket']}/images/*",
                    },
                    # Without it S3 answers 403 instead of 404 for an object that does not exist.
                    {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": known["bucket"]},
                )
            ),
            opts=child,
        )
        profile = iam.InstanceProfile(name, role=role.name, tags=args.tags.named(args.role), opts=child)
        self.profile_name = profile.name
        self.ready: list[Resource] = [reading, profile]
        self.register_outputs({"instanceProfile": self.profile_name})


def policy(*statements: dict[str, object]) -> str:
    """An IAM policy document."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, sort_keys=True)
