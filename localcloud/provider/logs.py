"""Log groups, and flow logs of the network into them. Nothing is written here: moto keeps the records of both."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

from typing import Any

from .kind import Aws, Ec2, Kind, absent, arguments, change_tags, first, tag_specifications
from .values import Props


class LogGroup(Kind):
    token = "aws:cloudwatch/logGroup:LogGroup"
    inputs = ("name", "retentionInDays", "tags")
    replaces = ("name",)
    defaults = {"retentionInDays": 0}
    autoname = "name"
    name_limit = 512

    def create(self, aws: Aws, inputs: Props) -> str:
        tags = {"tags": inputs["tagsAll"]} if inputs.get("tagsAll") else {}
        aws.client("logs").create_log_group(logGroupName=inputs["name"], **tags)
        with self.undo_on_error(aws, inputs["name"]):
            self._retain(aws, inputs["name"], inputs)
        return str(inputs["name"])

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self._record(aws, id)
        if record is None:
            return None
        arn = record["arn"].removesuffix(":*")
        tags = aws.client("logs").list_tags_for_resource(resourceArn=arn)["tags"]
        return {"name": id, "arn": arn, "retentionInDays": record.get("retentionInDays", 0), "tags": tags}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        if "retentionInDays" in changed:
            self._retain(aws, id, new)
        logs, arn = aws.client("logs"), old["arn"]
        change_tags(
            old,
            new,
            lambda tags: logs.tag_resource(resourceArn=arn, tags=tags),
            lambda keys: logs.untag_resource(resourceArn=arn, tagKeys=keys),
        )

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        if self._record(aws, id):
            aws.client("logs").delete_log_group(logGroupName=id)

    def _retain(self, aws: Aws, id: str, inputs: Props) -> None:
        if inputs["retentionInDays"]:
            aws.client("logs").put_retention_policy(logGroupName=id, retentionInDays=inputs["retentionInDays"])
        else:
            aws.client("logs").delete_retention_policy(logGroupName=id)

    def _record(self, aws: Aws, id: str) -> Any | None:
        groups = aws.client("logs").describe_log_groups(logGroupNamePrefix=id)["logGroups"]
        return first([group for group in groups if group["logGroupName"] == id])


class FlowLog(Ec2):
    token = "aws:ec2/flowLog:FlowLog"
    noun, snake = "FlowLog", "flow_log"
    inputs = ("vpcId", "trafficType", "logDestination", "iamRoleArn", "tags")
    required = tuple((name,) for name in inputs[:4])
    replaces = inputs[:4]

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        args = arguments(
            ec2,
            "create_flow_logs",
            inputs,
            ("trafficType", "logDestination", "iamRoleArn"),
            iamRoleArn="DeliverLogsPermissionArn",
        )
        more = tag_specifications("vpc-flow-log", inputs)
        answer = ec2.create_flow_logs(
            ResourceType="VPC", ResourceIds=[inputs["vpcId"]], LogDestinationType="cloud-watch-logs", **args, **more
        )
        return str(answer["FlowLogIds"][0])

    def record(self, aws: Aws, id: str) -> Props | None:
        return first(aws.client("ec2").describe_flow_logs(FlowLogIds=[id])["FlowLogs"])

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        arn = aws.arn("ec2", f"vpc-flow-log/{id}")
        return {"vpcId": record["ResourceId"], "arn": arn, "iamRoleArn": record["DeliverLogsPermissionArn"]}

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("ec2").delete_flow_logs(FlowLogIds=[id]))


KINDS = (LogGroup, FlowLog)
