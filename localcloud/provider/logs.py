"""Log groups, and flow logs of the network into them. Nothing is written here: moto keeps the records of both."""

# One interface for all types: not every argument is of use to each, and tables are class attributes.
# ruff: noqa: ARG002, RUF012
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .kind import Aws, CloudError, Ec2, Kind, absent, arguments, first, retag, tag_changes, tag_list
from .schema import Failure
from .values import Props, is_unknown

# CloudWatch Logs API, PutRetentionPolicy.
RETENTION_DAYS = (0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)


class LogGroup(Kind):
    token = "aws:cloudwatch/logGroup:LogGroup"
    inputs = ("name", "namePrefix", "retentionInDays", "tags")
    defaults = {"retentionInDays": 0}
    autoname = "name"
    name_limit = 512
    changes_cloud = False

    def validate(self, inputs: Props) -> Iterable[Failure]:
        days = inputs.get("retentionInDays", 0)
        if not is_unknown(days) and days not in RETENTION_DAYS:
            yield Failure("retentionInDays", f"InvalidParameterException: is {days}; AWS takes {RETENTION_DAYS}")

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
        return {
            "name": id,
            "arn": arn,
            "retentionInDays": record.get("retentionInDays", 0),
            "tags": aws.client("logs").list_tags_for_resource(resourceArn=arn)["tags"],
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        if "retentionInDays" in changed:
            self._retain(aws, id, new)
        removed, set_tags = tag_changes(old.get("tagsAll"), new.get("tagsAll"))
        if removed:
            aws.client("logs").untag_resource(resourceArn=old["arn"], tagKeys=removed)
        if set_tags:
            aws.client("logs").tag_resource(resourceArn=old["arn"], tags=set_tags)

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


_RESOURCES = {"vpcId": "VPC", "subnetId": "Subnet", "eniId": "NetworkInterface"}


class FlowLog(Ec2):
    token = "aws:ec2/flowLog:FlowLog"
    noun, snake = "FlowLog", "flow_log"
    inputs = (*_RESOURCES, "trafficType", "logDestination", "iamRoleArn", "maxAggregationInterval", "tags")
    defaults = {"maxAggregationInterval": 600}
    changes_cloud = False

    def validate(self, inputs: Props) -> Iterable[Failure]:
        given = [name for name in _RESOURCES if inputs.get(name) is not None]
        if len(given) != 1:
            yield Failure("vpcId", f"exactly one of {', '.join(_RESOURCES)} is needed; given: {given or 'none'}")
        for name in ("logDestination", "iamRoleArn", "trafficType"):
            if inputs.get(name) is None:
                yield Failure(name, "missing: a flow log to CloudWatch Logs needs it")

    def create(self, aws: Aws, inputs: Props) -> str:
        ec2 = aws.client("ec2")
        name = next(name for name in _RESOURCES if inputs.get(name))
        args = arguments(ec2, "create_flow_logs", inputs, ("trafficType", "maxAggregationInterval"))
        if tags := tag_list(inputs.get("tagsAll")):
            args["TagSpecifications"] = [{"ResourceType": "vpc-flow-log", "Tags": tags}]
        answer = ec2.create_flow_logs(
            ResourceType=_RESOURCES[name],
            ResourceIds=[inputs[name]],
            # AWS takes the ARN; moto looks for the group by its name only.
            LogGroupName=inputs["logDestination"].split(":log-group:")[-1],
            LogDestinationType="cloud-watch-logs",
            DeliverLogsPermissionArn=inputs["iamRoleArn"],
            **args,
        )
        id = str(answer["FlowLogIds"][0])
        record = self.record(aws, id) or {}
        if record["DeliverLogsStatus"] != "SUCCESS":
            aws.client("ec2").delete_flow_logs(FlowLogIds=[id])
            raise CloudError(f"{inputs['logDestination']}: {record.get('DeliverLogsErrorMessage')}; is there such a log group?")
        return id

    def record(self, aws: Aws, id: str) -> Props | None:
        return first(aws.client("ec2").describe_flow_logs(FlowLogIds=[id])["FlowLogs"])

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        name = next((n for n in _RESOURCES if known.get(n)), "vpcId")
        group = aws.arn("logs", f"log-group:{record['LogGroupName']}")
        return {
            name: record["ResourceId"],
            "arn": aws.arn("ec2", f"vpc-flow-log/{id}"),
            "iamRoleArn": record["DeliverLogsPermissionArn"],
            "logDestination": group,
        }

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        retag(aws, id, old, new)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: aws.client("ec2").delete_flow_logs(FlowLogIds=[id]))


KINDS = (LogGroup, FlowLog)
