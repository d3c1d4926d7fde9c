"""The engine's provider protocol, over any set of resource types."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterable
from typing import Any, cast

import grpc
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from google.protobuf import empty_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2
from pulumi.runtime.proto.provider_pb2_grpc import ResourceProviderServicer

from ..api.client import Aws, error_code
from . import sdk
from .command import Runner
from .journal import Journal, Made
from .kind import CloudError, Failure, Kind
from .lookups import LOOKUPS
from .values import UNKNOWN, Props, Secret, decode, encode, is_secret, plain


def answers(call: Callable[..., Any]) -> Callable[..., Any]:
    """Turns exceptions of a call into the engine's errors: one line for what AWS refuses, a pointer to the log for our bugs."""

    def wrapped(self: Servicer, request: Any, context: grpc.ServicerContext) -> Any:
        self.journal.ready.wait()
        try:
            return call(self, request, context)
        except ClientError as error:
            words = f"{error_code(error)}: {cast(Any, error.response).get('Error', {}).get('Message', '')}"
        except (CloudError, BotoCoreError, ValueError) as error:
            words = str(error)
        except ResponseParserError:  # moto broke at the call, and answered with a page of HTML
            words = "the AWS API of the embedded cloud broke at this call; its log has the details"
        except Exception as error:
            traceback.print_exc()
            words = f"error inside the embedded cloud ({type(error).__name__}: {error}); its log has the details"
        return context.abort(grpc.StatusCode.UNKNOWN, words)

    return wrapped


class Servicer(ResourceProviderServicer):
    """One provider. package: aws or command. It serves the cloud's own region, without tags or roles of the provider's own."""

    def __init__(self, package: str, kinds: Iterable[Kind], journal: Journal, aws: Aws, runner: Runner) -> None:
        self.package = package
        self.kinds = {kind.token: kind for kind in kinds}
        self.journal = journal
        self.aws = aws
        self.runner = runner

    # --- the provider itself ---

    @answers
    def Handshake(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    @answers
    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version="0.0.0")

    @answers
    def Attach(self, request: Any, context: grpc.ServicerContext) -> Any:
        # A new run of the engine: what an earlier one had to give up is past.
        self.runner.cancelled.clear()
        return empty_pb2.Empty()

    @answers
    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        # What changes the cloud finishes, so that the state has it; commands are ended, as they may take any time.
        self.runner.cancelled.set()
        return empty_pb2.Empty()

    @answers
    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        inputs = decode(request.news)
        config, known = plain(inputs), sdk.provider_config(self.package)
        # `version` is the engine's own.
        unknown = sorted(config.keys() - known - {"version", "pluginDownloadURL"})
        words = f"unknown property of the {self.package} provider"
        failures = [Failure(name, f"{words}{sdk.closest(name, known)}") for name in unknown]
        if self.package == "aws":
            left_out = [name for name in ("defaultTags", "ignoreTags") if config.get(name)]
            failures += [Failure(name, "is not implemented in the embedded cloud") for name in left_out]
            region = config.get("region")
            if not region:
                failures.append(Failure("region", "missing: set aws:region, for example to eu-west-1"))
            elif region not in (self.aws.region, UNKNOWN):
                failures.append(Failure("region", f"is {region}, and this cloud is in {self.aws.region}"))
        return _checked(inputs, failures)

    @answers
    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @answers
    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        lookup = LOOKUPS.get(request.tok) if self.package == "aws" else None
        if lookup is None:
            raise CloudError(f"the embedded cloud has no look-up {request.tok}{sdk.closest(request.tok, LOOKUPS)}")
        args = plain(decode(request.args))
        refused = f"is an argument of {request.tok} that the embedded cloud does not implement"
        failures = [_failure(Failure(name, refused)) for name in sorted(args.keys() - lookup.arguments)]
        result = {} if failures else {**args, **lookup.answer(self.aws, args)}
        return provider_pb2.InvokeResponse(**{"return": encode(result)}, failures=failures)

    # --- resources ---

    @answers
    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        news = decode(request.news)
        kind = self.kinds.get(request.type)
        if kind is None:
            return _checked(news, [Failure("", self._unknown_type(request.type))])
        self._name(kind, request, news)
        wanted = plain(news)
        return _checked(news, list(kind.unknown(wanted, kind.inputs)) or kind.validate(wanted))

    @answers
    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = self._kind(request.type)
        found = kind.compare(plain(decode(request.old_inputs)), plain(decode(request.news)))
        detailed = {
            name: provider_pb2.PropertyDiff(kind=provider_pb2.PropertyDiff.Kind.Value(change.upper()), inputDiff=True)
            for name, change in found.items()
        }
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if found else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=list(found),
            replaces=[name for name, change in found.items() if change.endswith("_replace")],
            detailedDiff=detailed,
            hasDetailedDiff=True,
        )

    @answers
    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = self._kind(request.type)
        inputs = decode(request.properties)
        working = plain(inputs)
        if request.preview:
            unknown = dict.fromkeys(sdk.outputs(kind.token), UNKNOWN)
            return provider_pb2.CreateResponse(id="", properties=encode({**unknown, **self._outputs(kind, inputs, working)}))
        call = self.journal.call("create", request.type, request.name, request.urn)
        with call as record, self.runner.within(request.timeout):
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
        with self.journal.call("read", request.type, request.name, request.urn, id=request.id):
            live = kind.read(self.aws, request.id, known)
        if live is None:
            return provider_pb2.ReadResponse()
        # The program's own spelling is kept wherever AWS means the same by it, so that only real drift shows.
        seen = {k: kind.as_known(k, plain(v), live[k]) if k in live else v for k, v in inputs.items()}
        if live.get("tags") and "tags" not in inputs:
            seen["tags"] = live["tags"]
        properties = {**known, **{k: kind.as_known(k, known.get(k), v) for k, v in live.items()}}
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
        working = plain(inputs)
        if request.preview:
            return provider_pb2.UpdateResponse(properties=encode({**old, **self._hidden(kind, inputs, working)}))
        changed = kind.compare(plain(decode(request.old_inputs)), working)
        call = self.journal.call("update", request.type, request.name, request.urn, id=request.id, changed=list(changed))
        with call, self.runner.within(request.timeout):
            live = kind.change(self.aws, request.id, old, working, set(changed))
            known = after_change(working, live)
            self.journal.changed(request.type, request.id, known)
        return provider_pb2.UpdateResponse(properties=encode(self._outputs(kind, inputs, known)))

    @answers
    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = self._kind(request.type)
        known = plain(decode(request.properties))
        call = self.journal.call("delete", request.type, request.name, request.urn, id=request.id)
        with call, self.runner.within(request.timeout):
            kind.delete(self.aws, request.id, known)
            self.journal.gone(request.type, request.id)
        return empty_pb2.Empty()

    def remove(self, made: Made) -> None:
        """Deletes something created by a run that never got to record it."""
        kind = self._kind(made.type)
        name = made.urn.rsplit("::", 1)[-1]
        with self.journal.call("delete", made.type, name, made.urn, id=made.id, orphan=True):
            kind.delete(self.aws, made.id, made.props)
            self.journal.gone(made.type, made.id)

    # --- parts ---

    def _kind(self, token: str) -> Kind:
        kind = self.kinds.get(token)
        if kind is None:
            raise CloudError(self._unknown_type(token))
        return kind

    def _unknown_type(self, token: str) -> str:
        near = sdk.closest(token, self.kinds)
        return f"the embedded cloud does not implement {token}{near}; it has {', '.join(sorted(self.kinds))}"

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
        digits = f"{random.Random(request.randomSeed or None).getrandbits(28):07x}"
        stem = f"{request.name}-" if stem is None else stem
        news[name] = f"{stem[: kind.name_limit - len(digits)]}{digits}"

    def _hidden(self, kind: Kind, inputs: Props, props: Props) -> Props:
        """The properties with a secret mark on those whose input is secret, or which always are."""
        secret = {*kind.secret_outputs, *(name for name, value in inputs.items() if is_secret(value))}
        if secret.intersection(("environment", "create", "delete")):
            secret |= {"stdout", "stderr"}  # a command may print what it was given
        return {k: Secret(v) if k in secret and v is not None else v for k, v in props.items()}

    def _outputs(self, kind: Kind, inputs: Props, props: Props) -> Props:
        names = sdk.outputs(kind.token)
        return self._hidden(kind, inputs, {k: v for k, v in {**props, "region": self.aws.region}.items() if k in names})


def _checked(inputs: Props, failures: Iterable[Failure]) -> provider_pb2.CheckResponse:
    return provider_pb2.CheckResponse(inputs=encode(inputs), failures=[_failure(f) for f in failures])


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
