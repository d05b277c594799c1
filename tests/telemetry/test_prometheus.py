"""Collectors for programs that have a registry of Prometheus's own client."""

import asyncio
import gc
import subprocess
import sys
import threading
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.support.serving import serving
from warren import AsyncClient, CallError, Client, Server, Service
from warren.telemetry import prometheus
from warren.telemetry.prometheus import ClientMetrics, ServerMetrics


class Sold(Exception):
    pass


def make_service(name: str) -> Service:
    service = Service(name, errors=[Sold])

    @service.method
    async def add(a: int, b: int) -> int:
        return a + b

    @service.method
    async def fail() -> None:
        raise ValueError("the handler's own trouble")

    @service.method
    async def sell() -> None:
        raise Sold("out")

    @service.method
    async def hang() -> None:
        await asyncio.Event().wait()

    return service


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


async def make_calls(client: AsyncClient, name: str) -> None:
    for n in range(3):
        assert await client.call(f"{name}.add", n, 1) == n + 1
    for method, args in (("fail", ()), ("sell", ()), ("add", ("one",)), ("none", ())):
        with pytest.raises((CallError, Sold)):
            await client.call(f"{name}.{method}", *args)


async def test_a_server_is_seen_as_it_counts_anyway(registry: CollectorRegistry, service_name: str, url: str) -> None:
    server = serving(make_service(service_name), url=url)
    ServerMetrics(server, registry=registry)
    async with server, AsyncClient(url) as client:
        await make_calls(client, service_name)
        hanging = asyncio.create_task(client.call(f"{service_name}.hang"))
        async with asyncio.timeout(60):
            while not registry.get_sample_value("warren_server_running", {"service": service_name}):
                await asyncio.sleep(0.01)

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(name, {"service": service_name, **labels})

        assert value("warren_server_handled_total", method="add", code="OK") == 3
        assert value("warren_server_handled_total", method="fail", code="UNKNOWN") == 1
        assert value("warren_server_handling_seconds_count", method="add") == 3
        assert value("warren_server_wait_seconds_count", method="add") == 3
        assert value("warren_server_refused_total", method="add", reason="VALIDATION") == 1
        assert value("warren_server_refused_total", method="", reason="METHOD") == 1
        assert value("warren_server_running") == 1
        assert registry.get_sample_value("warren_server_workers_ready") == 1
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
    assert registry.get_sample_value("warren_server_workers_ready") == 0


async def test_a_client_is_counted_by_code(registry: CollectorRegistry, service_name: str, url: str) -> None:
    metrics = ClientMetrics(registry=registry)
    client = AsyncClient(url, middleware=[metrics], errors=[Sold])
    metrics.watch(client)
    async with serving(make_service(service_name), url=url), client:
        await make_calls(client, service_name)

        def handled(method: str, code: str) -> float | None:
            labels = {"service": service_name, "method": method, "kind": "call", "code": code}
            return registry.get_sample_value("warren_client_handled_total", labels)

        assert handled("add", "OK") == 3
        assert handled("add", "INVALID_ARGUMENT") == 1
        assert handled("none", "UNIMPLEMENTED") == 1
        assert handled("sell", "UNKNOWN") == 1
        labels = {"service": service_name, "method": "add", "kind": "call"}
        assert registry.get_sample_value("warren_client_handling_seconds_count", labels) == 4
        assert registry.get_sample_value("warren_client_connected") == 1
        assert registry.get_sample_value("warren_client_in_flight") == 0
        hanging = asyncio.create_task(client.call(f"{service_name}.hang"))
        async with asyncio.timeout(60):
            while registry.get_sample_value("warren_client_in_flight") != 1:
                await asyncio.sleep(0.01)
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        assert handled("hang", "CANCELLED") == 1


async def test_threads_of_a_blocking_client_lose_no_count(
    registry: CollectorRegistry, service_name: str, url: str
) -> None:
    metrics = ClientMetrics(registry=registry)

    def call(client: Client) -> None:
        for n in range(50):
            client.call(f"{service_name}.add", n, 1)

    def work() -> None:
        with Client(url, middleware=[metrics]) as client:
            metrics.watch(client)
            threads = [threading.Thread(target=call, args=(client,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                generate_latest(registry)
            for thread in threads:
                thread.join()

    async with serving(make_service(service_name), url=url):
        await asyncio.to_thread(work)
    labels = {"service": service_name, "method": "add", "kind": "call", "code": "OK"}
    assert registry.get_sample_value("warren_client_handled_total", labels) == 200


def test_a_server_in_another_thread_is_asked_on_its_own_loop(
    registry: CollectorRegistry, service_name: str, url: str
) -> None:
    server = Server(make_service(service_name), url=url)
    ServerMetrics(server, registry=registry)
    block, blocked = threading.Event(), threading.Event()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with server:
            loop_of.append(loop)
            ready.set()
            while not ended.is_set():
                await asyncio.sleep(0.01)

    def stand_still() -> None:
        blocked.set()
        block.wait(60)

    loop_of: list[asyncio.AbstractEventLoop] = []
    ready, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(60)
        assert registry.get_sample_value("warren_server_workers_ready") == 1
        assert server.health()["healthy"]
        loop_of[0].call_soon_threadsafe(stand_still)
        assert blocked.wait(60)
        assert registry.get_sample_value("warren_server_workers_ready") == 1  # what was known last
        with pytest.raises(TimeoutError):
            server.health()
    finally:
        block.set()
        ended.set()
        thread.join()


async def test_names_of_methods_without_end_are_counted_together(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "MOST_METHODS", 3)
    metrics = ClientMetrics(registry=registry)

    class Call:
        service, kind = "calc", "call"

        def __init__(self, method: str) -> None:
            self.method = method

    async def proceed() -> Any:
        return None

    for number in range(10):
        await metrics(Call(f"m{number}"), proceed)  # type: ignore[arg-type]
    for _ in range(2):
        families = [f for f in registry.collect() if f.name == "warren_client_handled"]
        counted = {s.labels["method"]: s.value for f in families for s in f.samples}
        assert counted == {"m0": 1, "m1": 1, "m2": 1, "others": 7}


async def test_a_client_that_is_gone_is_not_kept(registry: CollectorRegistry, url: str) -> None:
    metrics = ClientMetrics(registry=registry)
    client = AsyncClient(url)
    metrics.watch(client)
    assert registry.get_sample_value("warren_client_connected") == 0
    del client
    gc.collect()
    assert registry.get_sample_value("warren_client_connected") is None


def test_warren_imports_neither_library_by_itself() -> None:
    program = (
        "import sys, warren.cli.serve, warren.testing.plugin, warren; warren.AsyncClient, warren.Server, warren.Client;"
    )
    program += "print(sorted({'opentelemetry', 'prometheus_client'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"
