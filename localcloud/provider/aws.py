"""What AWS's resource types have in common: their calls as tables, properties in AWS's own shapes, tags, waiting."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar, cast

from botocore.exceptions import ClientError

from ..api.client import Aws, says_absent
from ..processes import wait_until
from .kind import CloudError, Kind
from .values import Props

WAIT_SECONDS = 60.0


# --- AWS's own shapes -------------------------------------------------------------------------------------------------


def pascal(name: str) -> str:
    """cidrBlock → CidrBlock, as AWS spells its members."""
    return name[:1].upper() + name[1:]


def camel(name: str) -> str:
    """VpcId → vpcId; a leading abbreviation goes down as a whole word would (DNSName → dnsName)."""
    upper = len(name) - len(name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    return name[:1].lower() + name[1:] if upper < 2 else name[: upper - 1].lower() + name[upper - 1 :]


def to_aws(value: Any, shape: Any) -> Any:
    """A property value as the botocore shape wants it. Names that the shape lacks raise KeyError: the table is wrong."""
    if shape.type_name == "structure":
        # EC2 wraps the new value of an attribute.
        parts = cast(Props, value) if isinstance(value, dict) else {"value": value}
        return {pascal(k): to_aws(v, shape.members[pascal(k)]) for k, v in parts.items() if v is not None}
    if shape.type_name == "list":
        return [to_aws(item, shape.member) for item in cast(list[Any], value)]
    return value


def from_aws(value: Any) -> Any:
    """An AWS record in the program's spelling; times become ISO text."""
    if isinstance(value, dict):
        return {camel(k): from_aws(v) for k, v in cast(Props, value).items()}
    if isinstance(value, list):
        return [from_aws(item) for item in cast(list[Any], value)]
    return value.isoformat() if hasattr(value, "isoformat") else value


def tag_list(tags: Props | None) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in (tags or {}).items()]


def tag_map(tags: Iterable[dict[str, str]] | None) -> dict[str, str]:
    """AWS's tag list as a map, without the tags that AWS itself sets."""
    return {tag["Key"]: tag["Value"] for tag in tags or () if not tag["Key"].startswith("aws:")}


# --- calls ------------------------------------------------------------------------------------------------------------


def absent(call: Callable[[], Any]) -> Any | None:
    """The call's answer, or None where AWS says that the thing does not exist."""
    try:
        return call()
    except ClientError as error:
        if says_absent(error):
            return None
        raise


def first(items: list[Any] | None) -> Any | None:
    return items[0] if items else None


def wait(what: str, done: Callable[[], bool]) -> None:
    """Polls until done. CloudError after WAIT_SECONDS."""
    if not wait_until(done, WAIT_SECONDS):
        raise CloudError(f"{what} did not happen within {WAIT_SECONDS:.0f} s")


class Api(Kind):
    """A type whose calls are a table: one that creates, one that reads, one that deletes, one for each input that changes.

    Operations are in boto3's spelling. A property is the member of its name with a capital, unless `renamed` has another.
    """

    service: ClassVar[str]
    noun: ClassVar[str] = ""  # nat_gateway: create_nat_gateway, NatGateways in an answer; what differs is named below
    creates: ClassVar[str] = ""
    reads: ClassVar[str] = ""
    deletes: ClassVar[str] = ""
    found: ClassVar[str] = ""  # the record in an answer, or with an s a list of them; else the answer is the record
    key: ClassVar[str] = ""  # the member that names one, where AWS gives the id
    identity: ClassVar[Collection[str]] = ()  # the inputs that are the id, joined, where AWS gives none
    joint: ClassVar[str] = "/"
    sends: ClassVar[Collection[str]] = ()  # inputs that go into the creating call
    setters: ClassVar[dict[str, str]] = {}  # input → the operation that sets it, and after a dot its member there
    shows: ClassVar[Collection[str]] = ()  # properties that stand in the record
    renamed: ClassVar[dict[str, str]] = {}  # property → member
    naming: ClassVar[tuple[str, str]] = ("describe_{}s", "Id")  # the reading call, and the end of the key

    def __init_subclass__(cls) -> None:
        if cls.noun:
            word, (reads, end) = cls.noun.title().replace("_", ""), cls.naming
            usual = {"creates": f"create_{cls.noun}", "reads": reads.format(cls.noun), "deletes": f"delete_{cls.noun}"}
            for name, value in {**usual, "found": word, "key": word + end}.items():
                if not getattr(cls, name):
                    setattr(cls, name, value)

    def call(self, aws: Aws, operation: str, args: Props) -> Any:
        return getattr(aws.client(self.service), operation)(**args)

    def member(self, name: str, members: Collection[str]) -> str:
        """What AWS calls a property in a call or a record that has these members."""
        usual = pascal(name)
        return next((n for n in (self.renamed.get(name, usual), usual, name) if n in members), usual)

    def arguments(self, aws: Aws, operation: str, props: Props, names: Iterable[str]) -> Props:
        """The operation's arguments from those of the named properties that are set."""
        members = members_of(aws.client(self.service), operation)
        given = {self.member(name, members): props[name] for name in names if props.get(name) is not None}
        return {member: to_aws(value, members[member]) for member, value in given.items()}

    def named(self, aws: Aws, operation: str, id: str) -> Props:
        """The operation's arguments that say which one is meant."""
        members = members_of(aws.client(self.service), operation)
        if self.identity:
            parts = id.split(self.joint, len(self.identity) - 1)
            return {self.member(name, members): part for name, part in zip(self.identity, parts, strict=True)}
        return {self.key: id} if self.key in members else {f"{self.key}s": [id]}

    def creation(self, aws: Aws, inputs: Props) -> Props:
        """The arguments of the creating call."""
        return self.arguments(aws, self.creates, inputs, self.sends)

    def id_of(self, inputs: Props, answer: Props) -> str:
        """The id of what the creating call made."""
        return self.joint.join(inputs[name] for name in self.identity) or str(self.picked(answer)[self.key])

    def make(self, aws: Aws, inputs: Props) -> tuple[str, Props]:
        id = self.id_of(inputs, self.call(aws, self.creates, self.creation(aws, inputs)))
        try:
            self.complete(aws, id, inputs)
            given = {name for name in self.inputs if inputs.get(name) is not None}
            self.settle(aws, id, inputs, given - {*self.sends, "tags"})
        except BaseException:  # a failure after the creating call leaves nothing behind
            with contextlib.suppress(Exception):
                self.delete(aws, id, inputs)
            raise
        return id, self.read(aws, id, inputs) or {}

    def complete(self, aws: Aws, id: str, inputs: Props) -> None:
        """What the creating call leaves to do, inputs aside: the tags."""
        self.change_tags(aws, id, {}, inputs)

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str]) -> None:
        """Sets inputs that changed or, after the creating call, that it did not take."""
        calls: dict[tuple[str, str], Props] = {}
        for name in sorted(changed.intersection(self.setters)):
            operation, _, member = self.setters[name].partition(".")
            members = members_of(aws.client(self.service), operation)
            member = member or self.member(name, members)
            kind = members[member].type_name
            value = "" if inputs.get(name) is None and kind == "string" else inputs.get(name)
            if value is not None:
                # Of attributes, which are structures, EC2 takes one a call.
                alone = member if kind == "structure" else ""
                calls.setdefault((operation, alone), {})[member] = to_aws(value, members[member])
        for (operation, _), args in calls.items():
            self.call(aws, operation, self.named(aws, operation, id) | args)

    def picked(self, answer: Props) -> Any:
        record = answer.get(self.found, answer.get(f"{self.found}s", answer))
        return first(cast(list[Any], record)) if isinstance(record, list) else record

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        """AWS's own description of the resource."""
        del known
        answer = absent(lambda: self.call(aws, self.reads, self.named(aws, self.reads, id)))
        return None if answer is None else self.picked(answer)

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self.record(aws, id, known)
        if record is None:
            return None
        live = self.shown(record)
        for name in self.json_text:
            document = record.get(self.member(name, record))
            live[name] = document if isinstance(document, str) else document and json.dumps(document)
        live |= dict(zip(self.identity, id.split(self.joint, len(self.identity) - 1), strict=False))
        live["description"] = live.get("description") or None
        if "tags" in self.inputs:
            live["tags"] = self.tags_of(aws, id, record)
        return live | self.describe(aws, id, record, known)

    def shown(self, record: Props) -> Props:
        return {name: from_aws(record.get(self.member(name, record))) for name in self.shows}

    def describe(self, aws: Aws, id: str, record: Props, known: Props) -> Props:
        """Properties that the record does not give by a name of its own."""
        return {}

    def change(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> Props:
        if self.read(aws, id, old) is None:
            raise CloudError(f"{id} is gone; `refresh` takes it out of the state, so that the next `up` makes it again")
        self.change_tags(aws, id, old, new)
        self.settle(aws, id, new, changed - {"tags"})
        return self.read(aws, id, {**old, **new}) or {}

    def deletion(self, aws: Aws, id: str, known: Props) -> Props:
        """The arguments of the deleting call."""
        return self.named(aws, self.deletes, id)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: self.call(aws, self.deletes, self.deletion(aws, id, known)))

    # --- tags ---

    def tags_of(self, aws: Aws, id: str, record: Props) -> dict[str, str]:
        return tag_map(record.get("Tags") or record.get("TagSet"))

    def change_tags(self, aws: Aws, id: str, old: Props, new: Props) -> None:
        before, after = old.get("tags") or {}, new.get("tags") or {}
        if removed := [key for key in before if key not in after]:
            self.untag(aws, id, removed)
        if changed := {key: value for key, value in after.items() if before.get(key) != value}:
            self.tag(aws, id, changed)

    def tag(self, aws: Aws, id: str, tags: dict[str, str]) -> None:
        raise NotImplementedError

    def untag(self, aws: Aws, id: str, keys: list[str]) -> None:
        raise NotImplementedError


class Ec2(Api):
    """An EC2 type: all of its record is shown, and the creating call takes the tags."""

    service = "ec2"
    tagged: ClassVar[str] = ""  # the tags' resource type, where it is not the noun with dashes

    def creation(self, aws: Aws, inputs: Props) -> Props:
        return super().creation(aws, inputs) | self.tag_specification(inputs)

    def tag_specification(self, inputs: Props) -> Props:
        kind, tags = self.tagged or self.noun.replace("_", "-"), tag_list(inputs.get("tags"))
        return {"TagSpecifications": [{"ResourceType": kind, "Tags": tags}]} if tags else {}

    def record(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = super().record(aws, id, known) or {}
        # What AWS deletes it shows for a while.
        return record if record and str(record.get("State")).lower() not in ("deleting", "deleted") else None

    def shown(self, record: Props) -> Props:
        live = cast(Props, from_aws({k: v for k, v in record.items() if k not in ("Tags", "TagSet")}))
        return live | {name: from_aws(record.get(self.member(name, record))) for name in self.renamed}

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        live = super().read(aws, id, known)
        kind = self.tagged or self.noun.replace("_", "-")
        return live and {"arn": aws.arn("ec2", f"{kind}/{id}"), **live}

    def complete(self, aws: Aws, id: str, inputs: Props) -> None:
        """Nothing: the creating call took the tags."""

    def tag(self, aws: Aws, id: str, tags: dict[str, str]) -> None:
        aws.client("ec2").create_tags(Resources=[id], Tags=tag_list(tags))

    def untag(self, aws: Aws, id: str, keys: list[str]) -> None:
        aws.client("ec2").delete_tags(Resources=[id], Tags=[{"Key": key} for key in keys])


def members_of(client: Any, operation: str) -> Any:
    """The operation's arguments: name → shape."""
    return client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation]).input_shape.members
