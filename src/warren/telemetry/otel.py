"""OpenTelemetry: a span and a duration for each call, at the client and at the server. Needs the extra ``otel``::

    from warren.telemetry.otel import tracing

    client = AsyncClient(url, middleware=[tracing()])
    service = Service("calc", middleware=[tracing()])

What is not passed in is taken from OpenTelemetry's globals, which ``opentelemetry-instrument`` or your program sets.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Protocol

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.propagators.textmap import Setter, TextMapPropagator
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider

from warren.amqp.frames import FrameError
from warren.client.chain import ClientCall
from warren.errors import CallError, Code
from warren.middleware import Proceed
from warren.protocol import evidence
from warren.protocol.request import encode_headers
from warren.server.context import CurrentCall
from warren.telemetry import conventions as names
from warren.version import __version__

#: Codes that are a server's own failure; with others it has done right to refuse what the caller wanted.
_OF_SERVERS = frozenset(
    {Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
)
#: Kinds of calls that their callers may leave before the end.
_LEFT = frozenset({"stream", "conversation"})
#: Characters of a trace's headers that surely fit beside no others.
_SURELY_FITS = 1000


class _Headers(Setter[MutableMapping[str, Any]]):
    """Writes a trace's headers, except for names that may not be sent, as those of B3's long form."""

    def set(self, carrier: MutableMapping[str, Any], key: str, value: str) -> None:
        if _may_be_sent(key):
            carrier[key] = value


class Refused(Protocol):
    """A request that was refused, as a service's hook is told of it."""

    @property
    def service(self) -> str: ...
    @property
    def method(self) -> str | None: ...
    @property
    def call_id(self) -> str | None: ...
    @property
    def attempt(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...


_HEADERS = _Headers()


@lru_cache
def _may_be_sent(name: str) -> bool:
    try:
        encode_headers({name: ""})
    except ValueError:
        return False
    return True


class Tracing:
    """Middleware of clients and services; see `tracing`."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        propagator: TextMapPropagator | None,
    ) -> None:
        self._tracer = trace.get_tracer(__name__, __version__, tracer_provider, names.SCHEMA_URL)
        meter = metrics.get_meter(__name__, __version__, meter_provider, names.SCHEMA_URL)
        self._made, self._served = (
            meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=names.BUCKETS)
            for name, description in (
                (names.CLIENT_DURATION, names.CLIENT_DESCRIPTION),
                (names.SERVER_DURATION, names.SERVER_DESCRIPTION),
            )
        )
        self._propagator = propagator or propagate.get_global_textmap()

    async def __call__(self, call: ClientCall | CurrentCall, proceed: Proceed) -> Any:
        """Around one call."""
        if isinstance(call, ClientCall):
            return await self._make(call, proceed)
        return await self._serve(call, proceed)

    async def _make(self, call: ClientCall, proceed: Proceed) -> Any:
        common = _of_client(call.service, call.method, call.kind)
        span = self._tracer.start_span(
            common.name, kind=SpanKind.CLIENT, attributes=common.span, record_exception=False
        )
        around = trace.set_span_in_context(span)
        if call.kind != "bare":
            self._tell(call.headers, around)
        try:
            is_failure = _unless_left if call.kind in _LEFT else _any
            return await _measured(span, around, self._made, common, proceed, is_failure)
        finally:
            if call.call_id is not None and span.is_recording():
                span.set_attribute(names.CALL_ID, call.call_id)
            span.end()

    async def _serve(self, call: CurrentCall, proceed: Proceed) -> Any:
        common = _of_server(call.method)
        parent, links = self._origin(call)
        span = self._tracer.start_span(
            call.method,
            parent,
            SpanKind.SERVER,
            common.span,
            links,
            record_exception=False,
        )
        if span.is_recording():
            span.set_attributes({names.CALL_ID: call.call_id or "", names.ATTEMPT: call.attempt})
        try:
            around = trace.set_span_in_context(span, parent)
            return await _measured(span, around, self._served, common, proceed, _is_of_server)
        finally:
            span.end()

    def refused(self, call: Refused, error: CallError) -> None:
        """A request was refused before its handler: a span that ends at once, and a call without duration."""
        known = call.method is not None and error.reason != evidence.METHOD.reason
        method = f"{call.service}.{call.method}" if known else names.OTHER
        common = {names.RPC_SYSTEM: names.SYSTEM, names.RPC_METHOD: method}
        ended = {names.STATUS_CODE: error.code.value}
        parent, links = self._origin(call)
        said: dict[str, Any] = {**common, **ended, names.CALL_ID: call.call_id or "", names.ATTEMPT: call.attempt}
        if not known:
            said[names.RPC_METHOD_ORIGINAL] = f"{call.service}.{call.method or ''}"
        span = self._tracer.start_span(
            method if known else names.SYSTEM, parent, SpanKind.SERVER, said, links, record_exception=False
        )
        if error.code in _OF_SERVERS:
            ended = _failed(error.code, error.code.value)
            span.set_attributes(ended)
            _tell_failure(span, error)
        span.end()
        self._served.record(0.0, {**common, **ended}, trace.set_span_in_context(span, parent))

    def _tell(self, headers: dict[str, Any], around: context.Context) -> None:
        """Write where the call belongs into its headers; what finds no room there must not end the call."""
        told: dict[str, Any] = {}
        self._propagator.inject(told, around, _HEADERS)
        if headers or sum(map(len, told)) + sum(map(len, told.values())) > _SURELY_FITS:
            told = _fitting(headers, told)
        headers.update(told)

    def _origin(self, call: CurrentCall | Refused) -> tuple[context.Context, list[Link]]:
        """Where a call comes from: the parent, unless it was attempted before. Then that one is only linked."""
        said = self._propagator.extract(_texts(call), context.Context())
        if call.attempt == 1:
            return said, []
        origin = trace.get_current_span(said).get_span_context()
        return trace.set_span_in_context(trace.INVALID_SPAN, said), [Link(origin)] if origin.is_valid else []


def tracing(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    propagator: TextMapPropagator | None = None,
) -> Tracing:
    """Middleware for `Client`, `AsyncClient` and `Service`; the same one will do for all of them.

    A client's span covers the call with all that middleware behind it does, such as sending it again: put it first.
    Its context goes in the headers ``traceparent``, ``tracestate`` and ``baggage``, also of casts, and is the parent of
    the server's span, that of later attempts excepted: they begin traces of their own with a link. Calls made in a
    handler are children of its span. Durations are ``rpc.client.call.duration`` and ``rpc.server.call.duration``.

    Args:
        tracer_provider: where spans go; None: the global one.
        meter_provider: where durations go; None: the global one.
        propagator: how the context is written; None: the global one, W3C's by default.
    """
    return Tracing(tracer_provider, meter_provider, propagator)


class _Common:
    """What all calls of one method are told with, made once.

    Attributes:
        name: of their spans.
        span: their spans' first attributes.
    """

    def __init__(self, name: str, said: dict[str, Any], **more: Any) -> None:
        """`said` goes with durations, too, `more` with spans only."""
        self.name = name
        self.span = said | more
        self._said = said
        self._succeeded = said | {names.STATUS_CODE: Code.OK.value}

    def ended(self, code: Code, failure: str | None) -> dict[str, Any]:
        """What a duration is told with; a `failure` has a type."""
        if failure is not None:
            return self._said | _failed(code, failure)
        return self._succeeded if code is Code.OK else self._said | {names.STATUS_CODE: code.value}


@lru_cache(maxsize=1024)
def _of_client(service: str, method: str, kind: str) -> _Common:
    name = f"{service}.{method}" if method else service
    said = {names.RPC_SYSTEM: names.SYSTEM, names.RPC_METHOD: name, names.SERVER_ADDRESS: service}
    return _Common(name, said, **{names.KIND: kind})


@lru_cache(maxsize=1024)
def _of_server(method: str) -> _Common:
    return _Common(method, {names.RPC_SYSTEM: names.SYSTEM, names.RPC_METHOD: method})


async def _measured(
    span: Span,
    around: context.Context,
    durations: Histogram,
    common: _Common,
    proceed: Proceed,
    is_failure: Callable[[BaseException], bool],
) -> Any:
    """Proceed inside a span, and say how it ended."""
    began = time.perf_counter()
    token = context.attach(around)
    code, failure = Code.OK, None
    try:
        return await proceed()
    except BaseException as error:
        code = _code_of(error)
        if is_failure(error):
            failure = _type_of(error)
            _tell_failure(span, error)
        raise
    finally:
        context.detach(token)
        if span.is_recording():
            span.set_attributes({names.STATUS_CODE: code.value} if failure is None else _failed(code, failure))
        durations.record(time.perf_counter() - began, common.ended(code, failure), around)


def _failed(code: Code, failure: str) -> dict[str, str]:
    return {names.STATUS_CODE: code.value, names.ERROR_TYPE: failure}


def _any(_error: BaseException) -> bool:
    return True


def _unless_left(error: BaseException) -> bool:
    """Whether a stream has failed: to leave the loop over it is how one ends that has no end."""
    return not isinstance(error, asyncio.CancelledError)


def _is_of_server(error: BaseException) -> bool:
    return _code_of(error) in _OF_SERVERS


def _code_of(error: BaseException) -> Code:
    if isinstance(error, CallError):
        return error.code
    return Code.CANCELLED if isinstance(error, asyncio.CancelledError) else Code.UNKNOWN


def _type_of(error: BaseException) -> str:
    """What kind of failure it is, of few: the code, or the class of what is no ending of ours."""
    if isinstance(error, CallError):
        return error.code.value
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _tell_failure(span: Span, error: BaseException) -> None:
    if not span.is_recording():
        return
    span.set_status(Status(StatusCode.ERROR))
    with contextlib.suppress(Exception):  # a stranger's exception may fail to say what it is
        if isinstance(error, CallError):
            span.set_attributes({names.REASON: error.reason, names.EXECUTION: error.execution.value})
        else:
            span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, str(error)))


def _texts(call: CurrentCall | Refused) -> dict[str, str]:
    """Those of a request's headers that a propagator can read; they may be why it is refused."""
    try:
        return {name: value for name, value in call.headers.items() if isinstance(value, str)}
    except FrameError:
        return {}


def _fitting(headers: Mapping[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """As much as there is room for: all, without the baggage, or nothing."""
    for some in (told, {name: value for name, value in told.items() if name != "baggage"}):
        try:
            encode_headers({**headers, **some})
        except ValueError:
            continue
        return some
    return {}
