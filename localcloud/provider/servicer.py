"""The engine's provider protocol, over any set of resource types."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn, cast

import grpc
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from google.protobuf import empty_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2
from pulumi.runtime.proto.provider_pb2_grpc import ResourceProviderServicer

from ..api.client import error_code
from . import diff, schema
from .journal import Journal, Made
from .kind import Aws, CloudError, Kind
from .lookups import LOOKUPS
from .schema import Failure
from .values import UNKNOWN, Props, Secret, decode, encode, is_secret, plain


def answers(call: Callable[..., Any]) -> Callable[..., Any]:
    """Turns exceptions of a call into the engine's errors: one line for what AWS refuses, a pointer to the log for our bugs."""

    def wrapped(self: Servicer, request: Any, context: grpc.ServicerContext) -> Any:
        self.journal.ready.wait()
        try:
            return call(self, request, context)
        except ClientError as error:
            message = str(cast(Any, error.response).get("Error", {}).get("Message", ""))
            _abort(context, f"{error_code(error)}: {message}")
        except (CloudError, BotoCoreError, ValueError) as error:
            _abort(context, str(error))
        except ResponseParserError:  # moto broke at the call, and answered with a page of HTML
            _abort(context, "the AWS API of the embedded cloud broke at this call; its log has the details")
        except Exception as error:
            traceback.print_exc()
            _abort(context, f"error inside the embedded cloud ({type(error).__name__}: {error}); its log has the details")

    return wrapped


def _abort(context: grpc.ServicerContext, message: str) -> NoReturn:
    context.abort(grpc.StatusCode.UNKNOWN, message)
    raise AssertionError("abort always raises")


class Servicer(ResourceProviderServicer):
    """One provider. package: aws or command. It serves the cloud's own region, without tags or roles of the provider's own."""

    def __init__(self, package: str, kinds: Iterable[Kind], journal: Journal, aws: Aws) -> None:
        self.package = package
        self.kinds = {kind.token: kind for kind in kinds}
        self.journal = journal
        self.cancel: Callable[[], None] = lambda: None
        self.begin: Callable[[], None] = lambda: None
        # Around a call: the seconds that its resource's custom timeouts give it, 0 for none given.
        self.within: Callable[[float], AbstractContextManager[None]] = lambda _: nullcontext()
        self.aws = aws

    # --- the provider itself ---

    @answers
    def Handshake(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True, accept_resources=False, accept_outputs=False)

    @answers
    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version="0.0.0")

    @answers
    def Attach(self, request: Any, context: grpc.ServicerContext) -> Any:
        # A new run of the engine: what an earlier one had to give up is past.
        self.begin()
        return empty_pb2.Empty()

    @answers
    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        # What changes the cloud finishes, so that the state has it; commands are ended, as they may take any time.
        self.cancel()
        return empty_pb2.Empty()

    @answers
    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        inputs = decode(request.news)
        # `version` is the engine's own.
        config = {name: value for name, value in plain(inputs).items() if name not in ("version", "pluginDownloadURL")}
        failures = list(schema.check(config, schema.provider_config(self.package), f"the {self.package} provider"))
        if self.package == "aws":
            left_out = [name for name in ("defaultTags", "ignoreTags") if config.get(name)]
            failures += [Failure(name, "is not implemented in the embedded cloud") for name in left_out]
            region = config.get("region")
            if not region:
                failures.append(Failure("region", "missing: set aws:region, for example to eu-west-1"))
            elif region not in (self.aws.region, UNKNOWN):
                failures.append(Failure("region", f"is {region}, and this cloud is in {self.aws.region}"))
        return provider_pb2.CheckResponse(inputs=encode(inputs), failures=[_failure(f) for f in failures])

    @answers
    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        old, new = plain(decode(request.olds)), plain(decode(request.news))
        replaces = ["region"] if old.get("region") != new.get("region") else []
        changed = provider_pb2.DiffResponse.DIFF_SOME if old != new else provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(changes=changed, replaces=replaces)

    @answers
    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, acceptResources=False, acceptOutputs=False
        )

    @answers
    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        lookup = LOOKUPS.get(request.tok) if self.package == "aws" else None
        if lookup is None:
            raise CloudError(f"the embedded cloud has no look-up {request.tok}{schema.closest(request.tok, LOOKUPS)}")
        args = plain(decode(request.args))
        refused = f"is an argument of {request.tok} that the embedded cloud does not implement"
        failures = [Failure(name, refused) for name in sorted(args.keys() - lookup.arguments)]
        if failures:
            return provider_pb2.InvokeResponse(failures=[_failure(f) for f in failures])
        result = {**args, **lookup.answer(self.aws, args)}
        response = provider_pb2.InvokeResponse()
        getattr(response, "return").CopyFrom(encode(result))
        return response

    # --- resources ---

    @answers
    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = self.kinds.get(request.type)
        if kind is None:
            reason = self._unknown_type(request.type)
            return provider_pb2.CheckResponse(inputs=request.news, failures=[_failure(Failure("", reason))])
        news = decode(request.news)
        self._name(kind, request, news)
        wanted = plain(news)
        acted = {name: kind.parts.get(name) for name in kind.inputs}
        failures = list(schema.check(wanted, schema.schema(kind.token).inputs, kind.token, acted))
        if not failures:
            failures += kind.validate(wanted)
        return provider_pb2.CheckResponse(inputs=encode(news), failures=[_failure(f) for f in failures])

    @answers
    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = self._kind(request.type)
        found = self._found(kind, plain(decode(request.old_inputs)), plain(decode(request.news)))
        response = provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if found else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=sorted({f.property for f in found}),
            replaces=sorted({f.property for f in found if f.replaces}),
            hasDetailedDiff=True,
        )
        for item in found:
            name = f"{item.change}_replace" if item.replaces else item.change
            change = provider_pb2.PropertyDiff(kind=provider_pb2.PropertyDiff.Kind.Value(name.upper()), inputDiff=True)
            response.detailedDiff[item.path].CopyFrom(change)
        return response

    @answers
    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = self._kind(request.type)
        inputs = decode(request.properties)
        working = {**kind.defaults, **plain(inputs)}
        if request.preview:
            unknown = dict.fromkeys(schema.schema(kind.token).outputs, UNKNOWN)
            return provider_pb2.CreateResponse(id="", properties=encode({**unknown, **self._outputs(kind, inputs, working)}))
        call = self.journal.call("create", request.type, request.name, request.urn)
        with call as record, self.within(request.timeout):
            id, live = kind.make(self.aws, working)
            record["id"] = id
            known = after_change(working, live)
            if kind.journaled:
                self.journal.made(Made(request.urn, request.type, id, known))
        return provider_pb2.CreateResponse(id=id, properties=encode(self._outputs(kind, inputs, known)))

    @answers
    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = self._kind(request.type)
        state, inputs = decode(request.properties), decode(request.inputs)
        known = plain(state)
        if not known:
            raise CloudError(f"{request.id}: the embedded cloud takes no resource over by its id; make it in a program")
        with self.journal.call("read", request.type, request.name, request.urn) as record:
            record["id"] = request.id
            live = kind.read(self.aws, request.id, known)
        if live is None:
            return provider_pb2.ReadResponse()
        # The program's own spelling is kept wherever AWS means the same by it, so that only real drift shows.
        seen = {k: diff.as_known(k, plain(v), live[k], kind) if k in live else v for k, v in inputs.items()}
        if live.get("tags") and "tags" not in inputs:
            seen["tags"] = live["tags"]
        properties = {**known, **{k: diff.as_known(k, known.get(k), v, kind) for k, v in live.items()}}
        if "tags" in live:
            properties |= {"tags": seen.get("tags"), "tagsAll": live["tags"]}
        return provider_pb2.ReadResponse(
            id=request.id,
            properties=encode(self._outputs(kind, {**state, **inputs}, given(properties))),
            inputs=encode({k: Secret(v) if is_secret(inputs.get(k)) and v is not None else v for k, v in seen.items()}),
        )

    @answers
    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = self._kind(request.type)
        inputs, old = decode(request.news), plain(decode(request.olds))
        working = {**kind.defaults, **plain(inputs)}
        if request.preview:
            shown = {**old, **self._hidden(kind, inputs, working)}
            return provider_pb2.UpdateResponse(properties=encode(shown))
        changed = {f.property for f in self._found(kind, plain(decode(request.old_inputs)), plain(inputs))}
        with self.journal.call("update", request.type, request.name, request.urn) as record:
            record |= {"id": request.id, "changed": sorted(changed)}
            with self.within(request.timeout):
                live = kind.change(self.aws, request.id, old, working, changed)
            known = after_change(working, live)
            self.journal.changed(request.type, request.id, known)
        return provider_pb2.UpdateResponse(properties=encode(self._outputs(kind, inputs, known)))

    @answers
    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = self._kind(request.type)
        known = plain(decode(request.properties))
        with self.journal.call("delete", request.type, request.name, request.urn) as record:
            record["id"] = request.id
            with self.within(request.timeout):
                kind.delete(self.aws, request.id, known)
                self.journal.gone(request.type, request.id)
        return empty_pb2.Empty()

    def remove(self, made: Made) -> None:
        """Deletes something created by a run that never got to record it."""
        kind = self._kind(made.type)
        name = made.urn.rsplit("::", 1)[-1]
        with self.journal.call("delete", made.type, name, made.urn) as record:
            record |= {"id": made.id, "orphan": True}
            kind.delete(self.aws, made.id, made.props)
            self.journal.gone(made.type, made.id)

    # --- parts ---

    def _kind(self, token: str) -> Kind:
        kind = self.kinds.get(token)
        if kind is None:
            raise CloudError(self._unknown_type(token))
        return kind

    def _unknown_type(self, token: str) -> str:
        near = schema.closest(token, self.kinds)
        return f"the embedded cloud does not implement {token}{near}; it has {', '.join(sorted(self.kinds))}"

    def _found(self, kind: Kind, old: Props, new: Props) -> list[diff.Found]:
        found = diff.compare(old, new, kind)
        # To say what AWS takes anyway, or to stop saying it, changes nothing.
        spoken = {**old, **new}
        found = [
            f for f in found if f.change == "update" or f.path not in spoken or spoken[f.path] != kind.defaults.get(f.path)
        ]
        return kind.reclassify(found, old, new)

    def _name(self, kind: Kind, request: Any, news: Props) -> None:
        """Fills in a name where the program gives none: the logical name and 7 random digits, kept from then on."""
        name = kind.autoname
        if name is None or news.get(name) is not None:
            return
        olds = plain(decode(request.olds))
        stem = plain(news.get(f"{name}Prefix"))
        if isinstance(olds.get(name), str) and (stem is None or olds[name].startswith(stem)):
            news[name] = olds[name]
            return
        # The engine's seed, so that the preview's name is the one that `up` takes.
        seed = request.randomSeed or None
        digits = f"{random.Random(seed).getrandbits(28):07x}"
        stem = f"{request.name}-" if stem is None else stem
        news[name] = f"{stem[: kind.name_limit - len(digits)]}{digits}"

    def _hidden(self, kind: Kind, inputs: Props, props: Props) -> Props:
        """The properties with a secret mark on those whose input is secret, or which always are."""
        secret = {*kind.secret_outputs, *(name for name, value in inputs.items() if is_secret(value))}
        if secret.intersection(("environment", "create", "delete")):
            secret |= {"stdout", "stderr"}  # a command may print what it was given
        return {k: Secret(v) if k in secret and v is not None else v for k, v in props.items()}

    def _outputs(self, kind: Kind, inputs: Props, props: Props) -> Props:
        names = schema.schema(kind.token).outputs
        return self._hidden(kind, inputs, {k: v for k, v in {**props, "region": self.aws.region}.items() if k in names})


def _failure(failure: Failure) -> provider_pb2.CheckFailure:
    reason = f"{failure.path}: {failure.reason}" if failure.path else failure.reason
    return provider_pb2.CheckFailure(property=failure.path, reason=reason)


def after_change(working: Props, live: Props) -> Props:
    """The state after a change: what was asked for, under what AWS says. Of the tags, `tags` are the program's own."""
    known = {**working, **given(live)}
    if "tags" in live:
        known["tagsAll"] = live["tags"]
        known["tags"] = working.get("tags")
    return known


def given(props: Props) -> Props:
    return {k: v for k, v in props.items() if v is not None}
