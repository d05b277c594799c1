"""Deadlines travel with the call."""

import asyncio
import contextlib
import time
from typing import Any

import pika
import pytest

from tests.support.raw import take
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Client, DeadlineExceeded, Execution, Service, current_call


async def test_the_request_carries_its_time_in_three_forms(client: AsyncClient, raw: Any, service_name: str) -> None:
    raw.queue_declare(service_name, durable=True)
    raw.queue_bind(service_name, "warren", service_name)
    before = time.time()
    call = asyncio.create_task(client.options(timeout=20).call(f"{service_name}.x"))
    request = await until(lambda: take(raw, service_name))
    call.cancel()
    properties = request[0]
    assert 19_000 < int(properties.expiration) <= 20_000
    assert properties.headers["rpc-timeout-ms"] == int(properties.expiration)
    assert before + 19 < properties.headers["rpc-deadline"] / 1000 < time.time() + 20.1
    assert properties.headers["rpc-v"] == 1
    assert properties.headers["CC"] == [properties.reply_to]
    assert properties.delivery_mode == 1
    assert properties.message_id == properties.correlation_id


async def test_an_async_handler_is_cancelled_at_its_deadline(client: AsyncClient, url: str, service_name: str) -> None:
    service = Service(service_name)
    cancelled = asyncio.Event()

    @service.method
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(service, url=url):
        with pytest.raises(DeadlineExceeded):
            await client.options(timeout=1.0).call(hang)  # time enough to begin
        await asyncio.wait_for(cancelled.wait(), 10)


async def test_a_handler_that_is_cut_off_says_that_it_ran(url: str, raw: Any, service_name: str) -> None:
    service = Service(service_name)

    @service.method
    async def hang() -> None:
        await asyncio.Event().wait()

    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(service, url=url):
        headers = {"rpc-v": 1, "rpc-timeout-ms": 50}
        properties = pika.BasicProperties(
            headers=headers, reply_to=replies, type="hang", content_type="application/json", correlation_id="7"
        )
        raw.basic_publish("warren", service_name, b"[]", properties)
        reply = await until(lambda: take(raw, replies))
    assert reply[0].headers == {
        "rpc-status": "DEADLINE_EXCEEDED",
        "rpc-reason": "HANDLER",
        "rpc-executed": "EXECUTED",
    }


async def test_a_nested_call_inherits_the_time_that_is_left(client: AsyncClient, url: str, service_name: str) -> None:
    inner, outer = Service(f"{service_name}-inner"), Service(f"{service_name}-outer")

    @inner.method
    async def left() -> float:
        deadline = current_call().deadline
        assert deadline is not None
        return deadline - time.monotonic()

    @outer.method
    async def ask() -> float:
        async with AsyncClient(url, timeout=100) as nested:
            return await nested.call(left)

    async with serving(inner, outer, url=url):
        assert 50 < await client.options(timeout=60).call(ask) <= 60


@pytest.mark.parametrize("skew_ms", [-3_600_000, 3_600_000])
async def test_a_clock_that_disagrees_neither_lengthens_nor_kills_a_call(
    url: str, raw: Any, service_name: str, skew_ms: int
) -> None:
    service = Service(service_name)

    @service.method
    async def left() -> float:
        deadline = current_call().deadline
        assert deadline is not None
        return deadline - time.monotonic()

    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(service, url=url):
        headers = {"rpc-v": 1, "rpc-timeout-ms": 10_000, "rpc-deadline": int(time.time() * 1000) + 10_000 + skew_ms}
        properties = pika.BasicProperties(
            headers=headers, reply_to=replies, type="left", content_type="application/json"
        )
        raw.basic_publish("warren", service_name, b"[]", properties)
        reply = await until(lambda: take(raw, replies))
    assert 5 < float(reply[1]) <= 10


async def test_without_any_time_left_nothing_is_sent(client: AsyncClient, url: str, service_name: str) -> None:
    service = Service(service_name)
    error: list[DeadlineExceeded] = []

    @service.method
    def late() -> None:
        """A thread cannot be cancelled, so it may find itself without time."""
        deadline = current_call().deadline
        assert deadline is not None
        while time.monotonic() < deadline:
            time.sleep(0.01)
        with Client(url) as nested:
            try:
                nested.call("any.thing")
            except DeadlineExceeded as caught:
                error.append(caught)

    async with serving(service, url=url):
        with contextlib.suppress(DeadlineExceeded):  # its reply and the timer race
            await client.options(timeout=1.0).call(late)
    assert error[0].execution is Execution.NOT_SENT


async def test_what_outlives_its_call_is_not_bound_by_it(client: AsyncClient, url: str, service_name: str) -> None:
    service = Service(service_name)
    left_running: list[asyncio.Task[str]] = []
    ended = asyncio.Event()

    @service.method
    async def other() -> str:
        return "other"

    async def later() -> str:
        await ended.wait()
        return await client.call(other)

    @service.method
    async def start() -> float:
        left_running.append(asyncio.create_task(later()))
        deadline = current_call().deadline
        assert deadline is not None
        return deadline

    async with serving(service, url=url):
        deadline = await client.options(timeout=1.0).call(start)
        while time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        ended.set()
        assert await asyncio.wait_for(left_running[0], 20) == "other"


async def test_a_handler_whose_time_is_over_can_undo_what_it_did(
    client: AsyncClient, url: str, service_name: str
) -> None:
    service = Service(service_name)
    undone, cast = asyncio.Event(), asyncio.Event()

    @service.method
    async def undo() -> None:
        undone.set()

    @service.method
    async def tell() -> None:
        cast.set()

    @service.method
    async def book() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await client.cast(tell)
            await client.options(detached=True).call(undo)
            raise

    async with serving(service, url=url):
        with pytest.raises(DeadlineExceeded):
            await client.options(timeout=1.0).call(book)
        await asyncio.wait_for(undone.wait(), 20)
        await asyncio.wait_for(cast.wait(), 20)
