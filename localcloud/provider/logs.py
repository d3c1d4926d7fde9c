"""Log groups, and flow logs of the network into them. Nothing is written here: moto keeps the records of both."""

from __future__ import annotations

from ..api.client import Aws
from .aws import Api, Ec2, first
from .values import Props


class LogGroup(Api):
    token = "aws:cloudwatch/logGroup:LogGroup"
    service, noun = "logs", "log_group"
    renamed = {"name": "logGroupName"}
    identity = sends = replaces = ("name",)
    inputs = ("name", "retentionInDays", "tags")
    required = (("name",),)
    setters = {"retentionInDays": "put_retention_policy"}
    shows = ("retentionInDays",)

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        groups = aws.client("logs").describe_log_groups(logGroupNamePrefix=id)["logGroups"]
        return first([group for group in groups if group["logGroupName"] == id])

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        return {"arn": record["arn"].removesuffix(":*")}

    def tags_of(self, aws: Aws, id: str, record: Props) -> dict[str, str]:
        return aws.client("logs").list_tags_for_resource(resourceArn=_arn(aws, id))["tags"]

    def tag(self, aws: Aws, id: str, tags: dict[str, str]) -> None:
        aws.client("logs").tag_resource(resourceArn=_arn(aws, id), tags=tags)

    def untag(self, aws: Aws, id: str, keys: list[str]) -> None:
        aws.client("logs").untag_resource(resourceArn=_arn(aws, id), tagKeys=keys)


def _arn(aws: Aws, group: str) -> str:
    return aws.arn("logs", f"log-group:{group}")


class FlowLog(Ec2):
    token = "aws:ec2/flowLog:FlowLog"
    noun, tagged = "flow_log", "vpc-flow-log"
    creates, deletes = "create_flow_logs", "delete_flow_logs"
    sends = replaces = ("vpcId", "trafficType", "logDestination", "iamRoleArn")
    renamed = {"vpcId": "ResourceId", "iamRoleArn": "DeliverLogsPermissionArn"}
    inputs = (*sends, "tags")
    required = tuple((name,) for name in sends)

    def creation(self, aws: Aws, inputs: Props) -> Props:
        where = {"ResourceType": "VPC", "ResourceIds": [inputs["vpcId"]], "LogDestinationType": "cloud-watch-logs"}
        how = self.arguments(aws, self.creates, inputs, ("trafficType", "logDestination", "iamRoleArn"))
        return {**where, **how, **self.tag_specification(inputs)}

    def picked(self, answer: Props) -> Props | None:
        return {"FlowLogId": answer["FlowLogIds"][0]} if "FlowLogIds" in answer else first(answer["FlowLogs"])


KINDS = (LogGroup, FlowLog)
