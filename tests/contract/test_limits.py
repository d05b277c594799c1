"""How much runs at a time: of one method, and of what a client has under way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Cancelled, Client, Execution, Overloaded, Service


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


class Gate:
    """A service whose calls are under way until it opens."""

    def __init__(self, name: str) -> None:
        self.service = Service(name, concurrency=50)
        self.opened = asyncio.Event()
        self.entered: list[int] = []
        self.service.method(name="pass")(self._pass())

    def _pass(self) -> Callable[[int], Coroutine[Any, Any, int]]:
        async def wait(n: int) -> int:
            self.entered.append(n)
            await self.opened.wait()
            return n

        return wait


async def test_a_call_that_waits_for_room_is_made_when_another_has_ended(url: str, service_name: str) -> None:
    gate = Gate(service_name)
    async with serving(gate.service, url=url), AsyncClient(url, max_in_flight=2) as client:
        waiting = client.options(wait=True)
        calls = [asyncio.create_task(waiting.call(f"{service_name}.pass", n)) for n in range(9)]
        await until(lambda: len(gate.entered) == 2)
        with pytest.raises(Overloaded, match="2 calls are in flight"):
            await client.call(f"{service_name}.pass", 99)
        gate.opened.set()
        assert await asyncio.gather(*calls) == list(range(9))
        assert gate.entered == list(range(9))


async def test_casts_and_bare_calls_wait_for_room_too(url: str, service_name: str) -> None:
    service = Service(service_name)
    got: list[str] = []

    @service.method(default=True)
    async def note(word: str) -> str:
        got.append(word)
        return word

    async with serving(service, url=url), AsyncClient(url, max_in_flight=1) as client:
        waiting = client.options(wait=True)
        bare = asyncio.create_task(waiting.call_bare(service_name, "bare"))
        await asyncio.gather(*(waiting.cast(note, str(n)) for n in range(5)))
        assert await bare == b"bare"
        await until(lambda: len(got) == 6)
        assert got == ["bare", *map(str, range(5))]


async def test_a_call_whose_time_is_up_before_there_is_room_was_not_sent(url: str, service_name: str) -> None:
    gate = Gate(service_name)
    async with serving(gate.service, url=url), AsyncClient(url, max_in_flight=1) as client:
        first = asyncio.create_task(client.call(f"{service_name}.pass", 1))
        await until(lambda: gate.entered)
        with pytest.raises(Overloaded, match="no room in time: 1 calls are in flight") as caught:
            await client.options(wait=True, timeout=0.2).call(f"{service_name}.pass", 2)
        assert (caught.value.reason, caught.value.execution) == ("CLIENT_LIMIT", Execution.NOT_SENT)
        assert caught.value.safe_to_retry
        gate.opened.set()
        assert await first == 1
    assert gate.entered == [1]


async def test_cancelling_a_call_that_waits_for_room_lets_the_next_one_have_its_turn(
    url: str, service_name: str
) -> None:
    gate = Gate(service_name)
    async with serving(gate.service, url=url), AsyncClient(url, max_in_flight=1) as client:
        waiting = client.options(wait=True)
        calls = [asyncio.create_task(waiting.call(f"{service_name}.pass", n)) for n in range(3)]
        await until(lambda: gate.entered)
        calls[1].cancel()
        await asyncio.wait([calls[1]])
        gate.opened.set()
        assert [await calls[0], await calls[2]] == [0, 2]
    assert gate.entered == [0, 2]


async def test_closing_a_client_ends_what_waits_for_room_as_cancelled_and_unsent(url: str, service_name: str) -> None:
    gate = Gate(service_name)
    async with serving(gate.service, url=url):
        client = AsyncClient(url, max_in_flight=1)
        waiting = client.options(wait=True)
        calls = [asyncio.create_task(waiting.call(f"{service_name}.pass", n)) for n in range(4)]
        await until(lambda: gate.entered)
        await client.close()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(end) for end in ends] == [Cancelled] * 4
        told = [end.execution for end in ends if isinstance(end, Cancelled)]
        assert told == [Execution.UNKNOWN, *[Execution.NOT_SENT] * 3]
        gate.opened.set()


async def test_a_request_that_could_never_wait_is_refused_at_once(service_name: str) -> None:
    async with AsyncClient("amqp://127.0.0.1:1", max_waiting_bytes=100) as client:
        with pytest.raises(Overloaded, match="would never have room to wait to be sent"):
            await client.options(wait=True).call(f"{service_name}.x", "x" * 200)


async def test_calls_of_threads_and_futures_wait_for_room(url: str, service_name: str) -> None:
    service = Service(service_name)

    @service.method
    async def double(n: int) -> int:
        return 2 * n

    def use() -> tuple[list[int], list[int]]:
        with Client(url, max_in_flight=3) as client, ThreadPoolExecutor(8) as pool:
            waiting = client.options(wait=True)
            futures = [waiting.submit(double, n) for n in range(50)]
            called = list(pool.map(lambda n: waiting.call(double, n), range(50)))
            return called, [future.result() for future in futures]

    async with serving(service, url=url):
        assert await asyncio.to_thread(use) == ([2 * n for n in range(50)],) * 2


def test_closing_a_blocking_client_ends_what_waits_for_room(service_name: str) -> None:
    client = Client("amqp://127.0.0.1:1", max_in_flight=1)
    futures = [client.options(wait=True).submit(f"{service_name}.x", n) for n in range(3)]
    assert futures[2].cancel()
    client.close()
    errors = [future.exception() for future in futures[:2]]
    assert [type(error) for error in errors] == [Cancelled] * 2
    assert [error.execution for error in errors if isinstance(error, Cancelled)] == [Execution.NOT_SENT] * 2
