"""How much runs at a time: of one method, and of what a client has under way."""

from __future__ import annotations

import asyncio
import threading

from tests.support.serving import serving
from warren import AsyncClient, Service


async def test_a_method_runs_as_often_at_a_time_as_it_allows_and_others_overtake_it(
    client: AsyncClient, url: str, service_name: str
) -> None:
    service = Service(service_name, concurrency=10)
    gate, full = asyncio.Event(), asyncio.Event()
    begun: list[int] = []

    @service.method(concurrency=2)
    async def heavy(n: int) -> int:
        begun.append(n)
        if len(begun) == 2:
            full.set()
        await gate.wait()
        return n

    @service.method
    async def light() -> str:
        return "light"

    async with serving(service, url=url):
        heavies = [asyncio.create_task(client.call(heavy, n)) for n in range(6)]
        await full.wait()
        assert await client.call(light) == "light"  # behind four that wait for their turn
        assert begun == [0, 1]
        gate.set()
        assert await asyncio.gather(*heavies) == list(range(6))
    assert begun == list(range(6))


async def test_a_method_in_threads_runs_as_often_at_a_time_as_it_allows(
    client: AsyncClient, url: str, service_name: str
) -> None:
    service = Service(service_name, concurrency=10)
    gate, busy = threading.Event(), threading.Semaphore(1)
    overlaps: list[int] = []

    @service.method(concurrency=1)
    def heavy(n: int) -> int:
        if not busy.acquire(blocking=False):
            overlaps.append(n)
            return n
        gate.wait(30)
        busy.release()
        return n

    @service.method
    def light() -> str:
        return "light"

    async with serving(service, url=url):
        heavies = [asyncio.create_task(client.call(heavy, n)) for n in range(4)]
        assert await client.call(light) == "light"
        gate.set()
        assert await asyncio.gather(*heavies) == list(range(4))
    assert overlaps == []


async def test_what_waits_for_its_method_too_long_makes_room_for_other_methods(
    client: AsyncClient, url: str, service_name: str
) -> None:
    """The prefetch is full of requests of one method, nobody waits for them any more, and that method does not end."""
    service = Service(service_name, concurrency=3)
    gate, full = asyncio.Event(), asyncio.Event()

    @service.method(concurrency=1)
    async def heavy() -> None:
        full.set()
        await gate.wait()

    @service.method
    async def light() -> str:
        return "light"

    async with serving(service, url=url):
        first = asyncio.create_task(client.call(heavy))
        await full.wait()
        short = client.options(timeout=0.3)
        waiting = [asyncio.create_task(short.call(heavy)) for _ in range(2)]
        assert await client.call(light) == "light"
        gate.set()
        await first
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_waits_for_its_method_is_handed_back_by_a_drain(
    client: AsyncClient, url: str, service_name: str
) -> None:
    gate, full = asyncio.Event(), asyncio.Event()

    def declared(where: str) -> Service:
        service = Service(service_name, concurrency=5)

        @service.method(concurrency=1)
        async def heavy() -> str:
            if where == "first":
                full.set()
                await gate.wait()
            return where

        return service

    async with serving(declared("first"), url=url) as first:
        calls = [asyncio.create_task(client.call(f"{service_name}.heavy")) for _ in range(4)]
        await full.wait()
        async with serving(declared("second"), url=url):
            first.stop()
            assert await asyncio.gather(*calls[1:]) == ["second"] * 3
            gate.set()
            assert await calls[0] == "first"
