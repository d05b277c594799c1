"""What telemetry costs: CPU of a client and a server in one process, per call, with and without it, in paired runs.

    python -m benchmarks.telemetry [--calls 2000] [--rounds 5] [--url amqp://…]

Without a URL an embedded broker in a process of its own is used: its CPU is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry

from warren import AsyncClient, Server, Service
from warren.telemetry.otel import Tracing, tracing
from warren.telemetry.prometheus import ClientMetrics, ServerMetrics

_AT_A_TIME = 50


class _Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def _nothing(_call: Any, proceed: Any) -> Any:
    return await proceed()


def _traced(share: float, *, metrics: bool) -> Tracing:
    tracers = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)), shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(_Nowhere()))
    meters = MeterProvider([InMemoryMetricReader()] if metrics else [], shutdown_on_exit=False)
    return tracing(tracer_provider=tracers, meter_provider=meters)


def layers() -> dict[str, tuple[list[Any], list[Any]]]:
    """Middleware of client and server, by what it is called in the table."""
    every, few, spans = _traced(1.0, metrics=True), _traced(0.01, metrics=True), _traced(1.0, metrics=False)
    counted = ClientMetrics(registry=None)
    return {
        "none": ([], []),
        "empty middleware": ([_nothing], [_nothing]),
        "prometheus": ([counted], []),
        "otel, no SDK": ([tracing()], [tracing()]),
        "otel, all traces, no durations": ([spans], [spans]),
        "otel, all traces": ([every], [every]),
        "otel, 1 % of traces": ([few], [few]),
        "both, 1 % of traces": ([few, counted], [few]),
        "both, all traces": ([every, counted], [every]),
    }


async def measure(url: str, name: str, client_layers: list[Any], server_layers: list[Any], calls: int) -> float:
    """Seconds of CPU for each call."""
    service = Service(name, middleware=server_layers)

    @service.method
    async def add(a: int, b: int) -> int:
        return a + b

    server = Server(service, url=url)
    ServerMetrics(server, registry=CollectorRegistry())
    async with server, AsyncClient(url, middleware=client_layers) as client:

        async def make(count: int) -> None:
            for _ in range(count):
                await client.call(add, 1, 2)

        await make(100)
        began = time.process_time()
        await asyncio.gather(*(make(calls // _AT_A_TIME) for _ in range(_AT_A_TIME)))
        return (time.process_time() - began) / (calls // _AT_A_TIME * _AT_A_TIME)


@contextmanager
def _broker() -> Iterator[str]:
    program = "with Broker() as b:\n    print(b.url, flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", f"import sys\nfrom warren.broker import Broker\n{program}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        try:
            yield broker.stdout.readline().strip()
        finally:
            broker.terminate()


def main() -> None:
    """Print a table: the median over rounds of what each way costs more than none, in the same round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url")
    options = parser.parse_args()
    ways = layers()
    cost: dict[str, list[float]] = {name: [] for name in ways}
    with _broker() as own:
        for round_ in range(options.rounds):
            for number, (name, (made, served)) in enumerate(ways.items()):
                queue = f"telemetry-{round_}-{number}"
                cost[name].append(asyncio.run(measure(options.url or own, queue, made, served, options.calls)))
    for name, values in cost.items():
        more = statistics.median(value / none - 1 for value, none in zip(values, cost["none"], strict=True))
        print(f"{name:32} {statistics.median(values) * 1e6:7.1f} µs {more:+7.1%}")


if __name__ == "__main__":
    main()
