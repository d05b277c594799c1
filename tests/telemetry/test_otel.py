"""OpenTelemetry: one trace through clients, services and nested calls, and durations with few labels."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, NamedTuple

import pika
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import rpc_attributes as rpc
from opentelemetry.semconv._incubating.metrics import rpc_metrics
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.raw import raw_channel
from tests.support.serving import serving
from warren import (
    AsyncClient,
    CallError,
    Cancelled,
    Client,
    ClientCall,
    InvalidArgument,
    Service,
    Unavailable,
    current_call,
)
from warren.middleware import Proceed
from warren.protocol import evidence
from warren.telemetry import conventions
from warren.telemetry.otel import Tracing, tracing


class Seen:
    """What telemetry said in one test."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(), MeterProvider([self.reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.layer: Tracing = tracing(tracer_provider=self.tracers, meter_provider=self.meters)

    def span(self, name: str, kind: SpanKind) -> ReadableSpan:
        (found,) = [span for span in self.exporter.get_finished_spans() if (span.name, span.kind) == (name, kind)]
        return found

    async def until(self, count: int) -> None:
        """Wait for so many spans: a server's ends behind its reply, and a cast's whenever it does."""
        async with asyncio.timeout(60):
            while len(self.exporter.get_finished_spans()) < count:
                await asyncio.sleep(0.01)

    def points(self, name: str) -> dict[tuple[Any, ...], HistogramDataPoint]:
        data = self.reader.get_metrics_data()
        assert data is not None
        metrics = [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
        (metric,) = [metric for metric in metrics if metric.name == name]
        assert metric.unit == "s"
        points = [point for point in metric.data.data_points if isinstance(point, HistogramDataPoint)]
        assert len(points) == len(metric.data.data_points)
        return {tuple(sorted((point.attributes or {}).items())): point for point in points}


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    seen.tracers.shutdown()
    seen.meters.shutdown()


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def two_services(seen: Seen, name: str, url: str) -> tuple[Service, Service, AsyncClient]:
    """A front whose handlers, one of each kind, call a back."""
    back = Service(f"{name}-back", middleware=[seen.layer])
    front = Service(f"{name}-front", middleware=[seen.layer])
    inside = AsyncClient(url, middleware=[seen.layer])

    @back.method
    def double(n: int) -> int:
        with seen.tracers.get_tracer("mine").start_as_current_span("in a thread"):
            return 2 * n

    @back.method
    async def note(what: str) -> None: ...

    @front.method
    async def relay(n: int) -> int:
        await inside.cast(note, "relayed")
        return await inside.call(double, n)

    return back, front, inside


async def test_nested_calls_and_casts_of_two_services_are_one_trace(seen: Seen, service_name: str, url: str) -> None:
    back, front, inside = two_services(seen, service_name, url)
    async with serving(back, front, url=url), inside, AsyncClient(url, middleware=[seen.layer]) as client:
        with seen.tracers.get_tracer("web").start_as_current_span("GET /double") as request:
            assert await client.call(f"{front.name}.relay", 4) == 8
        await seen.until(8)
    relay, double, note = f"{front.name}.relay", f"{back.name}.double", f"{back.name}.note"
    outer = seen.span(relay, SpanKind.CLIENT)
    served = seen.span(relay, SpanKind.SERVER)
    assert parent_of(outer) == request.get_span_context().span_id
    assert parent_of(served) == id_of(outer)
    for method in (double, note):
        assert parent_of(seen.span(method, SpanKind.CLIENT)) == id_of(served)
        assert parent_of(seen.span(method, SpanKind.SERVER)) == id_of(seen.span(method, SpanKind.CLIENT))
    assert parent_of(seen.span("in a thread", SpanKind.INTERNAL)) == id_of(seen.span(double, SpanKind.SERVER))
    assert len({span.get_span_context().trace_id for span in seen.exporter.get_finished_spans()}) == 1  # type: ignore[union-attr]


async def test_a_blocking_client_takes_the_trace_of_its_thread_along(seen: Seen, service_name: str, url: str) -> None:
    back, _, inside = two_services(seen, service_name, url)

    def work() -> None:
        job = seen.tracers.get_tracer("web").start_as_current_span("job")
        with Client(url, middleware=[seen.layer]) as client, job:
            assert client.call(f"{back.name}.double", 4) == 8
            assert client.submit(f"{back.name}.double", 5).result() == 10

    async with serving(back, url=url), inside:
        await asyncio.to_thread(work)
        await seen.until(7)
    job = seen.span("job", SpanKind.INTERNAL)
    made = [span for span in seen.exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
    assert [parent_of(span) for span in made] == [id_of(job)] * 2


async def test_a_stream_is_one_span_at_each_side(seen: Seen, service_name: str, url: str) -> None:
    service = Service(service_name, middleware=[seen.layer])

    @service.method
    async def rows(number: int) -> AsyncIterator[int]:
        for row in range(number):
            yield row

    async with serving(service, url=url), AsyncClient(url, middleware=[seen.layer]) as client:
        with seen.tracers.get_tracer("web").start_as_current_span("job"):
            stream = client.stream(rows, 3)
        assert [row async for row in stream] == [0, 1, 2]
        await seen.until(3)
    name = f"{service_name}.rows"
    made, served = (seen.span(name, kind) for kind in (SpanKind.CLIENT, SpanKind.SERVER))
    assert parent_of(made) == id_of(seen.span("job", SpanKind.INTERNAL))
    assert parent_of(served) == id_of(made)
    assert made.attributes is not None
    assert made.attributes["warren.kind"] == "stream"
    assert made.attributes["rpc.response.status_code"] == "OK"


async def test_attributes_are_those_of_the_conventions(seen: Seen, service_name: str, url: str) -> None:
    back, _, inside = two_services(seen, service_name, url)
    async with serving(back, url=url), inside:
        await inside.call(f"{back.name}.double", 4)
        await seen.until(3)
    method = f"{back.name}.double"
    made, served = (seen.span(method, kind) for kind in (SpanKind.CLIENT, SpanKind.SERVER))
    call_id = attributes(made)["warren.call_id"]
    assert attributes(made) == {
        "rpc.system.name": "warren",
        "rpc.method": method,
        "rpc.response.status_code": "OK",
        "server.address": back.name,
        "warren.call_id": call_id,
        "warren.kind": "call",
    }
    assert attributes(served) == {
        "rpc.system.name": "warren",
        "rpc.method": method,
        "rpc.response.status_code": "OK",
        "warren.call_id": call_id,
        "warren.attempt": 1,
    }
    assert made.status.status_code is served.status.status_code is StatusCode.UNSET


def test_the_names_are_those_of_the_installed_conventions() -> None:
    assert conventions.RPC_SYSTEM == "rpc.system.name"  # not in the package, which has its deprecated forebear only
    assert conventions.RPC_METHOD == rpc.RPC_METHOD
    assert conventions.RPC_METHOD_ORIGINAL == rpc.RPC_METHOD_ORIGINAL
    assert conventions.STATUS_CODE == rpc.RPC_RESPONSE_STATUS_CODE
    assert conventions.ERROR_TYPE == error_attributes.ERROR_TYPE
    assert conventions.SERVER_ADDRESS == server_attributes.SERVER_ADDRESS
    assert conventions.CLIENT_DURATION == rpc_metrics.RPC_CLIENT_CALL_DURATION
    assert conventions.SERVER_DURATION == rpc_metrics.RPC_SERVER_CALL_DURATION
    assert conventions.SCHEMA_URL in {schema.value for schema in Schemas}


async def test_durations_have_the_buckets_and_few_labels(seen: Seen, service_name: str, url: str) -> None:
    back, _, inside = two_services(seen, service_name, url)
    async with serving(back, url=url), inside:
        for n in range(3):
            await inside.call(f"{back.name}.double", n)
        with pytest.raises(InvalidArgument):
            await inside.call(f"{back.name}.double", "four")
        await seen.until(10)
    labels = (("rpc.method", f"{back.name}.double"), ("rpc.response.status_code", "OK"), ("rpc.system.name", "warren"))
    made, served = seen.points("rpc.client.call.duration"), seen.points("rpc.server.call.duration")
    well = made[(*labels, ("server.address", back.name))]
    assert (well.count, tuple(well.explicit_bounds)) == (3, conventions.BUCKETS)
    assert served[labels].count == 3
    badly = [point for key, point in made.items() if ("error.type", "INVALID_ARGUMENT") in key]
    assert [point.count for point in badly] == [1]
    assert not [key for key in served if "error.type" in dict(key)]


async def test_failures_say_what_kind_they_are(seen: Seen, service_name: str, url: str) -> None:
    service = Service(service_name, middleware=[seen.layer])

    @service.method
    async def fail() -> None:
        raise ValueError("the handler's own trouble")

    @service.method
    async def deny() -> None:
        raise InvalidArgument("the caller's fault")

    async with serving(service, url=url), AsyncClient(url, middleware=[seen.layer]) as client:
        for method in ("fail", "deny"):
            with pytest.raises(CallError):
                await client.call(f"{service_name}.{method}")
        await seen.until(4)
    made, served = (seen.span(f"{service_name}.fail", kind) for kind in (SpanKind.CLIENT, SpanKind.SERVER))
    assert (made.status.status_code, served.status.status_code) == (StatusCode.ERROR, StatusCode.ERROR)
    assert attributes(made)["error.type"] == "UNKNOWN"
    assert attributes(made)["warren.reason"] == "HANDLER_EXCEPTION"
    assert attributes(made)["warren.execution"] == "EXECUTED"
    assert attributes(served)["error.type"] == "ValueError"
    assert [event.name for event in served.events] == ["exception"]
    denied = seen.span(f"{service_name}.deny", SpanKind.SERVER)  # the server has done right
    assert (denied.status.status_code, attributes(denied)["rpc.response.status_code"]) == (
        StatusCode.UNSET,
        "INVALID_ARGUMENT",
    )


async def test_the_clients_span_covers_all_that_middleware_behind_it_does(
    seen: Seen, service_name: str, url: str
) -> None:
    service = Service(service_name, middleware=[seen.layer])
    came = 0

    @service.method
    async def twice() -> int:
        nonlocal came
        came += 1
        if came == 1:
            raise Unavailable("not yet")
        return came

    async def again(call: ClientCall, proceed: Proceed) -> Any:
        try:
            return await proceed()
        except Unavailable:
            return await proceed()

    async with serving(service, url=url), AsyncClient(url, middleware=[seen.layer, again]) as client:
        assert await client.call(twice) == 2
        await seen.until(3)
    made = seen.span(f"{service_name}.twice", SpanKind.CLIENT)
    served = [span for span in seen.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert [parent_of(span) for span in served] == [id_of(made)] * 2
    assert attributes(made)["rpc.response.status_code"] == "OK"


async def test_a_later_attempt_is_linked_and_no_child(seen: Seen, service_name: str, url: str) -> None:
    service = Service(service_name, middleware=[seen.layer])
    trace_id, span_id = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331

    @service.method
    async def note() -> None: ...

    headers = {"traceparent": f"00-{trace_id:032x}-{span_id:016x}-01", "rpc-v": 1, "rpc-attempt": 2}
    properties = pika.BasicProperties(content_type="application/json", type="note", message_id="one", headers=headers)
    async with serving(service, url=url):
        with raw_channel(url) as channel:
            channel.basic_publish("", service_name, b"[]", properties)
        await seen.until(1)
    (span,) = seen.exporter.get_finished_spans()
    assert span.parent is None
    assert attributes(span)["warren.attempt"] == 2
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(trace_id, span_id)]


async def test_baggage_travels_unless_there_is_no_room_for_it(seen: Seen, service_name: str, url: str) -> None:
    service = Service(service_name, middleware=[seen.layer])

    @service.method
    async def tenant() -> list[Any]:
        return [baggage.get_baggage("tenant"), sorted(current_call().headers)]

    async with serving(service, url=url), AsyncClient(url, middleware=[seen.layer], headers={"own": "x"}) as client:
        for value, expected in (
            ("acme", ["acme", ["baggage", "own", "traceparent"]]),
            ("a" * 4000, [None, ["own", "traceparent"]]),
        ):
            token = context.attach(baggage.set_baggage("tenant", value))
            try:
                assert await client.call(tenant) == expected
            finally:
                context.detach(token)
        full = client.options(headers={"own": "y" * 2980})
        assert await full.call(tenant) == [None, ["own"]]


@pytest.mark.parametrize(
    "header", [7, "", "00-zz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", {"a": ["b"]}, "x" * 2000]
)
async def test_headers_of_strangers_make_no_call_fail(seen: Seen, service_name: str, url: str, header: object) -> None:
    service = Service(service_name, middleware=[seen.layer])

    @service.method
    async def add(a: int, b: int) -> int:
        return a + b

    async with serving(service, url=url), AsyncClient(url, headers={"traceparent": header}) as client:
        assert await client.call(add, 1, 2) == 3
        await seen.until(1)
    assert seen.span(f"{service_name}.add", SpanKind.SERVER).parent is None


class B3(TextMapPropagator):
    """Writes a name that Warren reserves, and one that it does not."""

    def extract(
        self, carrier: Any, context: context.Context | None = None, getter: object = None
    ) -> context.Context:  # pragma: no cover - the service is not traced
        raise NotImplementedError

    def inject(self, carrier: Any, context: context.Context | None = None, setter: Any = None) -> None:
        for name in ("x-b3-traceid", "b3"):
            setter.set(carrier, name, "1")

    @property
    def fields(self) -> set[str]:
        return {"x-b3-traceid", "b3"}


async def test_names_that_may_not_be_sent_are_left_out(seen: Seen, service_name: str, url: str) -> None:
    service = Service(service_name)

    @service.method
    async def names() -> list[str]:
        return sorted(current_call().headers)

    layer = tracing(tracer_provider=seen.tracers, meter_provider=seen.meters, propagator=B3())
    async with serving(service, url=url), AsyncClient(url, middleware=[layer]) as client:
        assert await client.call(names) == ["b3"]


async def test_a_call_that_is_given_up_is_seen_as_cancelled(seen: Seen, service_name: str, url: str) -> None:
    service = Service(service_name, middleware=[seen.layer])
    begun = asyncio.Event()

    @service.method
    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with serving(service, url=url), AsyncClient(url, middleware=[seen.layer]) as client:
        task = asyncio.create_task(client.call(hang))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await seen.until(2)
    made, served = (seen.span(f"{service_name}.hang", kind) for kind in (SpanKind.CLIENT, SpanKind.SERVER))
    assert attributes(made)["rpc.response.status_code"] == attributes(served)["rpc.response.status_code"] == "CANCELLED"
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_stream_that_its_caller_leaves_is_no_failure(seen: Seen, service_name: str, url: str) -> None:
    service = Service(service_name, middleware=[seen.layer])

    @service.method
    async def ticks() -> AsyncIterator[int]:
        for tick in itertools.count():
            yield tick

    @service.method
    async def echo(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield number

    async with serving(service, url=url), AsyncClient(url, middleware=[seen.layer]) as client:
        for left in (client.stream(ticks), client.converse(echo, itertools.count())):
            assert await anext(left) == 0
            await left.aclose()
        await seen.until(4)
        closed = client.stream(ticks)
        assert await anext(closed) == 0
        await client.close()
        with pytest.raises(Cancelled):
            _ = [tick async for tick in closed]
    await seen.until(6)
    *left_ones, lost = (span for span in seen.exporter.get_finished_spans() if span.kind is SpanKind.CLIENT)
    assert [attributes(span)["rpc.response.status_code"] for span in (*left_ones, lost)] == ["CANCELLED"] * 3
    assert ["error.type" in attributes(span) for span in (*left_ones, lost)] == [False, False, True]
    assert [span.status.status_code for span in (*left_ones, lost)] == [StatusCode.UNSET] * 2 + [StatusCode.ERROR]
    assert [span.events for span in left_ones] == [()] * 2


class Request(NamedTuple):
    """What a service is told of a request that it refuses."""

    method: str | None
    headers: dict[str, Any]
    service: str = "calc"
    call_id: str | None = "one"
    attempt: int = 1


async def test_a_refused_request_is_a_span_that_ends_at_once(seen: Seen) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    told = seen.layer.refused
    told(Request("add", {"traceparent": parent}), evidence.conclude(evidence.VALIDATION, "a must be an int: mend it"))
    told(Request("drop tables", {}), evidence.conclude(evidence.METHOD, "there is none: call another"))
    wrong, unknown = seen.exporter.get_finished_spans()
    assert (wrong.name, wrong.kind, parent_of(wrong)) == ("calc.add", SpanKind.SERVER, 0xB7AD6B7169203331)
    assert attributes(wrong)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert (unknown.name, attributes(unknown)["rpc.method"]) == ("warren", "_OTHER")
    assert attributes(unknown)["rpc.method_original"] == "calc.drop tables"
    assert attributes(unknown)["error.type"] == "UNIMPLEMENTED"
    assert {dict(key)["rpc.method"] for key in seen.points("rpc.server.call.duration")} == {"calc.add", "_OTHER"}


async def test_what_a_service_refuses_is_in_the_trace_of_its_caller(seen: Seen, service_name: str, url: str) -> None:
    service = Service(service_name, middleware=[seen.layer], on_refused=seen.layer.refused)

    @service.method
    async def double(n: int) -> int:
        return 2 * n

    async with serving(service, url=url), AsyncClient(url, middleware=[seen.layer]) as client:
        with pytest.raises(InvalidArgument):
            await client.call(f"{service_name}.double", "x")
    refused, made = seen.exporter.get_finished_spans()
    assert (refused.name, refused.kind, made.kind) == (f"{service_name}.double", SpanKind.SERVER, SpanKind.CLIENT)
    assert refused.context is not None
    assert made.context is not None
    assert parent_of(refused) == made.context.span_id
    assert refused.context.trace_id == made.context.trace_id


class Collector(HTTPServer):
    """An OTLP receiver: what it was sent."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
                owner.spans += [f"{scope.scope.name} {span.name}" for scope in scopes for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)


async def test_spans_reach_a_collector_over_otlp(service_name: str, url: str) -> None:
    service = Service(service_name)

    @service.method
    async def add(a: int, b: int) -> int:
        return a + b

    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        tracers = TracerProvider(shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"http://127.0.0.1:{collector.server_port}/v1/traces", timeout=60)
        tracers.add_span_processor(SimpleSpanProcessor(exporter))
        layer = tracing(tracer_provider=tracers, meter_provider=MeterProvider(shutdown_on_exit=False))
        try:
            async with serving(service, url=url), AsyncClient(url, middleware=[layer]) as client:
                assert await client.call(add, 1, 2) == 3
        finally:
            await asyncio.to_thread(tracers.shutdown)
            collector.shutdown()
            thread.join()
    assert collector.spans == [f"warren.telemetry.otel {service_name}.add"]
