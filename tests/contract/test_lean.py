"""Lean calls: without a confirm and a bounce, to a queue of which a worker has said that it takes everything."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pika
import pytest

from tests.contract.test_endings import declare_queue, ending, error_of
from tests.support.raw import depth
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Service
from warren.client.lean import TRUST

LEAN = {"rpc-lean": True}


async def taken(raw: Any, queue: str) -> Any:
    """The properties of the next request in a queue."""
    return (await until(lambda: _next(raw, queue)))[0]


def _next(raw: Any, queue: str) -> tuple[Any, bytes] | None:
    method, properties, body = raw.basic_get(queue, auto_ack=True)
    return None if method is None else (properties, body)


def answer(raw: Any, request: Any, headers: dict[str, Any] | None) -> None:
    properties = pika.BasicProperties(
        content_type="application/json", correlation_id=request.correlation_id, headers=headers
    )
    raw.basic_publish("", request.reply_to, b"1", properties)


@asynccontextmanager
async def asked(client: AsyncClient, raw: Any, queue: str, headers: dict[str, Any] | None) -> AsyncIterator[Any]:
    """A request of the client's; it is answered in the end."""
    call = asyncio.create_task(client.call(f"{queue}.m"))
    request = await taken(raw, queue)
    yield request
    answer(raw, request, headers)
    assert await call == 1


def is_lean(request: Any) -> bool:
    """Whether it asks for nothing; one that does asks for both the bounce and the worker's word."""
    assert ("CC" in request.headers) == ("rpc-lean" in request.headers)
    return "CC" not in request.headers


async def test_a_client_asks_for_less_once_a_worker_has_said_that_its_queue_takes_everything(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    declare_queue(raw, service_name)
    for word, lean in ((None, False), (LEAN, False), (None, True)):
        async with asked(client, raw, service_name, word) as request:
            assert is_lean(request) is lean
    await asyncio.sleep(TRUST)  # a queue may be made anew, with a limit
    async with asked(client, raw, service_name, LEAN) as request:
        assert not is_lean(request)


async def test_a_call_that_may_be_sent_again_and_one_with_a_durable_reply_never_do_without_a_confirm(
    url: str, raw: Any, service_name: str
) -> None:
    declare_queue(raw, service_name)
    async with AsyncClient(url, reply="durable") as durable, AsyncClient(url) as plain:
        for client in (durable, plain.options(resend=True)):
            for _ in range(2):
                async with asked(client, raw, service_name, LEAN) as request:
                    assert "CC" in request.headers
                    assert "rpc-lean" not in request.headers


async def test_a_fail_fast_call_asks_for_its_bounce_all_the_same(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    async with serving(_echo(service_name), url=url):
        await client.call(f"{service_name}.echo", 1)
        await client.options(fail_fast=True).call(f"{service_name}.echo", 1)
    error = await error_of(client.options(fail_fast=True, timeout=30).call(f"{service_name}.echo", 1))
    assert ending(error)[:2] == ("UNAVAILABLE", "NO_FREE_WORKER")


@pytest.mark.parametrize(
    ("options", "says"),
    [({}, True), ({"max_length": 5}, False), ({"queue": "quorum"}, False), ({"declare": False}, False)],
)
async def test_a_worker_says_so_only_of_a_queue_that_can_refuse_nothing(
    url: str, raw: Any, service_name: str, options: dict[str, Any], says: bool
) -> None:
    if "declare" in options:
        declare_queue(raw, service_name)
    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(_echo(service_name, **options), url=url):
        for headers in ({"rpc-v": 1, **LEAN}, {"rpc-v": 1}, LEAN):
            properties = pika.BasicProperties(type="echo", reply_to=replies, correlation_id="x", headers=headers)
            properties.content_type = "application/json"
            raw.basic_publish("warren", service_name, b"[1]", properties)
            reply = await taken(raw, replies)
            assert (reply.headers or {}) == (LEAN if says and len(headers) == 2 else {})
            assert reply.type is None


async def test_a_queue_that_refuses_a_request_all_the_same_is_not_believed_again(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    """A policy limits it, of which its worker does not know: what is refused without a confirm would be lost."""
    declare_queue(raw, service_name, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    async with asked(client, raw, service_name, LEAN):
        pass
    await asyncio.sleep(TRUST)
    raw.basic_publish("", service_name, b"")
    await until(lambda: depth(raw, service_name) == 1)
    error = await error_of(client.call(f"{service_name}.m"))
    assert ending(error)[:2] == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    raw.basic_get(service_name, auto_ack=True)
    for _ in range(2):
        async with asked(client, raw, service_name, LEAN) as request:
            assert not is_lean(request)


async def test_a_lean_call_to_a_queue_that_is_gone_ends_at_once(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    declare_queue(raw, service_name)
    async with asked(client, raw, service_name, LEAN):
        pass
    raw.queue_delete(service_name)
    error = await error_of(client.call(f"{service_name}.m"))
    assert ending(error)[:3] == ("UNAVAILABLE", "NO_ROUTE", "NOT_EXECUTED")


async def test_lean_calls_that_are_under_way_outlive_their_channel(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    """The broker closes a channel over one publish; those before it are known to be routed, without confirms."""
    service, go = Service(service_name), asyncio.Event()

    @service.method
    async def wait() -> str:
        await go.wait()
        return "done"

    @service.method
    async def echo(n: int) -> int:
        return n

    async with serving(service, url=url):
        await client.call(echo, 1)
        call = asyncio.create_task(client.call(wait))
        lane = client._shared.core()._plain
        await until(lambda: lane.current is not None and len(lane.current.confirms) == 1)
        await until(lambda: lane.current is not None and not lane.current.confirms)  # proven
        await client.call(echo, 2)  # so that the next is lean, too
        raw.exchange_delete("warren")
        error = await error_of(client.call(echo, 3))
        assert ending(error)[1:3] == ("CHANNEL_CLOSED", "UNKNOWN")
        go.set()
        assert await call == "done"


async def test_calls_in_a_row_are_lean_but_for_one_in_a_second(
    client: AsyncClient, url: str, service_name: str
) -> None:
    """Counted by publishes: those with confirms, of a service that is called all the time."""
    async with serving(_echo(service_name), url=url):
        await client.call(f"{service_name}.echo", 1)
        core, began = client._shared.core(), time.monotonic()
        assert core._confirming.current is not None
        before = core._confirming.current.channel.published
        for number in range(200):
            await client.call(f"{service_name}.echo", number)
        safe = core._confirming.current.channel.published - before
        assert safe <= 1 + (time.monotonic() - began) / TRUST


def _echo(name: str, **options: Any) -> Service:
    service = Service(name, **options)

    @service.method
    async def echo(n: int) -> int:
        return n

    return service
