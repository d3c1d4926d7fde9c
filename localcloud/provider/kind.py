"""What every resource type has in common: names, property mapping to AWS's own shapes, tags, waiting."""

# ruff: noqa: ARG002
from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Generator, Iterable
from typing import Any, ClassVar, cast

from botocore.exceptions import ClientError

from ..api.client import Aws as Aws
from .diff import Found, Rules
from .schema import Failure
from .values import Props

WAIT_SECONDS = 60.0


class CloudError(Exception):
    """AWS would refuse this, or moto did. The message names the thing, its value and what would do."""


class Kind:
    """One resource type. A subclass says which inputs it knows and how to create, read, update and delete."""

    token: ClassVar[str]
    # Inputs that are acted on. The SDK's other inputs are refused by name: nothing is ignored silently.
    inputs: ClassVar[Collection[str]] = ()
    # Of each group exactly one has to be given.
    required: ClassVar[Collection[Collection[str]]] = ()
    # Of inputs that are blocks, the properties inside that are acted on.
    parts: ClassVar[dict[str, Collection[str]]] = {}
    # What a change means, read off the plans of the real AWS provider (hashicorp/aws 5.100.0): inputs whose other value
    # replaces the resource; and inputs that keep their value when the program stops giving one. `a.b` is b inside block a.
    replaces: ClassVar[Collection[str]] = ()
    computed: ClassVar[Collection[str]] = ()
    # What AWS takes for an input that is not given. Part of the state, never of the compared inputs.
    defaults: ClassVar[Props] = {}
    autoname: ClassVar[str | None] = None
    name_limit: ClassVar[int] = 255
    unordered: ClassVar[Collection[str]] = ()
    json_text: ClassVar[Collection[str]] = ()
    secret_outputs: ClassVar[Collection[str]] = ()
    regional: ClassVar[bool] = True  # whether it lives in one region of the cloud
    journaled: ClassVar[bool] = True  # whether one that no state knows is a leftover of a killed run

    @functools.cached_property
    def rules(self) -> Rules:
        """What a change of its inputs means."""
        nested = {name.partition(".")[0] for name in (*self.replaces, *self.computed) if "." in name}
        sets = (self.replaces, self.computed, self.unordered, self.json_text, nested)
        return Rules(*(frozenset(names) for names in sets))

    def validate(self, inputs: Props) -> Iterable[Failure]:
        """What the real provider refuses in a plan and the SDK's types allow. Values may be UNKNOWN."""
        for names in self.required:
            given = [name for name in names if inputs.get(name) not in (None, "", [])]
            if len(given) != 1:
                among = f"exactly one of {', '.join(names)} is needed; given: {', '.join(given) or 'none'}"
                yield Failure(next(iter(names)), among if len(names) > 1 else f"missing: {self.token} needs it")

    def reclassify(self, found: list[Found], old: Props, new: Props) -> list[Found]:
        """Corrections to the rules of replacement that depend on values."""
        del old, new
        return found

    def make(self, aws: Aws, inputs: Props) -> tuple[str, Props]:
        """Creates the resource; its id and live properties."""
        id = self.create(aws, inputs)
        return id, self.read(aws, id, inputs) or {}

    def change(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> Props:
        """Updates the resource; its live properties. CloudError where it is gone."""
        if self.read(aws, id, old) is None:
            raise CloudError(f"{id} is gone; `refresh` takes it out of the state, so that the next `up` makes it again")
        self.update(aws, id, old, new, changed)
        return self.read(aws, id, {**old, **new}) or {}

    @contextlib.contextmanager
    def undo_on_error(self, aws: Aws, id: str) -> Generator[None]:
        """Around the later steps of a creation: a failure there leaves nothing behind."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):
                self.delete(aws, id, {})
            raise

    def create(self, aws: Aws, inputs: Props) -> str:
        """Makes the resource and returns its id."""
        raise NotImplementedError

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        """The live properties, or None where the resource is gone. known: the last state, empty for an import."""
        raise NotImplementedError

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        """Applies changed top-level inputs. old: the last outputs, new: the new inputs."""
        raise NotImplementedError

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        """Removes the resource; one that is gone already is no error."""
        raise NotImplementedError


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
        members = shape.members
        return {pascal(k): to_aws(v, members[pascal(k)]) for k, v in cast(Props, value).items() if v is not None}
    if shape.type_name == "list":
        return [to_aws(item, shape.member) for item in cast(list[Any], value)]
    return value


def arguments(client: Any, operation: str, props: Props, names: Iterable[str], **renamed: str) -> Props:
    """The operation's arguments from those of the named properties that are set. renamed: property=Member."""
    members = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation]).input_shape.members
    found: Props = {}
    for name in names:
        if props.get(name) is not None:
            member = renamed.get(name, pascal(name))
            found[member] = to_aws(props[name], members[member])
    return found


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


def change_tags(old: Props, new: Props, tag: Callable[[dict[str, str]], Any], untag: Callable[[list[str]], Any]) -> None:
    """Comes from the old inputs' `tagsAll` to the new ones'. tag, untag: a service's calls, made where there is something."""
    before, after = old.get("tagsAll") or {}, new.get("tagsAll") or {}
    if removed := [key for key in before if key not in after]:
        untag(removed)
    if changed := {key: value for key, value in after.items() if before.get(key) != value}:
        tag(changed)


# --- calls ------------------------------------------------------------------------------------------------------------


def error_code(error: ClientError) -> str:
    return str(cast(Any, error.response).get("Error", {}).get("Code", ""))


def absent(call: Callable[[], Any]) -> Any | None:
    """The call's answer, or None where AWS says that the thing does not exist."""
    try:
        return call()
    except ClientError as error:
        code = error_code(error)
        # S3 says 404 where an answer has no body.
        if "NotFound" in code or code.startswith("NoSuch") or code == "404":
            return None
        raise


def first(items: list[Any] | None) -> Any | None:
    return items[0] if items else None


def wait(what: str, done: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Polls until done. CloudError after the given seconds."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while not done():
        if time.monotonic() > deadline:
            raise CloudError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(pause)
        pause = min(pause * 2, 1.0)


class Ec2(Kind):
    """An EC2 type whose calls follow the pattern create_x, describe_xs, delete_x."""

    noun: ClassVar[str]  # Vpc: create_vpc answers {"Vpc": {"VpcId": …}}
    snake: ClassVar[str]  # vpc: create_vpc, describe_vpcs, delete_vpc
    tagged: ClassVar[str] = ""  # the tag's resource type, where it is not the snake's words with dashes
    creates: ClassVar[Collection[str]] = ()  # inputs that go into the create call as they are
    switches: ClassVar[Collection[str]] = ()  # inputs that modify_x_attribute sets, one a call
    renamed: ClassVar[dict[str, str]] = {}

    @functools.cached_property
    def _id(self) -> str:
        return f"{self.noun}Id"

    def tag_specification(self, inputs: Props) -> Props:
        return tag_specifications(self.tagged or self.snake.replace("_", "-"), inputs)

    def create_arguments(self, aws: Aws, inputs: Props) -> Props:
        ec2 = aws.client("ec2")
        args = arguments(ec2, f"create_{self.snake}", inputs, self.creates, **self.renamed)
        return args | self.tag_specification(inputs)

    def create(self, aws: Aws, inputs: Props) -> str:
        record = getattr(aws.client("ec2"), f"create_{self.snake}")(**self.create_arguments(aws, inputs))
        # A volume's answer is the volume.
        id = str(record.get(self.noun, record)[self._id])
        with self.undo_on_error(aws, id):
            self._switch(aws, id, inputs, None)
            self.settle(aws, id, inputs, None)
        return id

    def settle(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        """Sets what the create call cannot. changed: None after a create, else the inputs that differ."""

    def record(self, aws: Aws, id: str) -> Props | None:
        """AWS's own description of the resource."""
        answer = absent(lambda: getattr(aws.client("ec2"), f"describe_{self.snake}s")(**{f"{self._id}s": [id]}))
        return first(answer[f"{self.noun}s"]) if answer else None

    def read(self, aws: Aws, id: str, known: Props) -> Props | None:
        record = self.record(aws, id)
        if record is None:
            return None
        live = cast(Props, from_aws({k: v for k, v in record.items() if k not in ("Tags", "TagSet")}))
        live |= {name: live[camel(member)] for name, member in self.renamed.items() if camel(member) in live}
        live["tags"] = tag_map(record.get("Tags") or record.get("TagSet"))
        live.setdefault("arn", aws.arn("ec2", f"{self.snake.replace('_', '-')}/{id}"))
        return live | self.describe(aws, id, record)

    def describe(self, aws: Aws, id: str, record: Props) -> Props:
        """Properties that the description does not give by their own name."""
        del aws, id, record
        return {}

    def update(self, aws: Aws, id: str, old: Props, new: Props, changed: set[str]) -> None:
        retag(aws, id, old, new)
        self._switch(aws, id, new, changed)
        self.settle(aws, id, new, changed)

    def delete(self, aws: Aws, id: str, known: Props) -> None:
        absent(lambda: getattr(aws.client("ec2"), f"delete_{self.snake}")(**{self._id: id}))

    def _switch(self, aws: Aws, id: str, inputs: Props, changed: set[str] | None) -> None:
        for name in self.switches:
            if inputs.get(name) is not None and (changed is None or name in changed):
                modify = getattr(aws.client("ec2"), f"modify_{self.snake}_attribute")
                modify(**{self._id: id, pascal(name): {"Value": inputs[name]}})


def tag_specifications(kind: str, inputs: Props) -> Props:
    """The argument of an EC2 call that makes something of a kind with all its tags; none where there are none."""
    tags = tag_list(inputs.get("tagsAll"))
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": tags}]} if tags else {}


def retag(aws: Aws, id: str, old: Props, new: Props) -> None:
    """Brings an EC2 resource's tags to the new inputs' `tagsAll`."""
    ec2 = aws.client("ec2")
    change_tags(
        old,
        new,
        lambda tags: ec2.create_tags(Resources=[id], Tags=tag_list(tags)),
        lambda keys: ec2.delete_tags(Resources=[id], Tags=[{"Key": key} for key in keys]),
    )
