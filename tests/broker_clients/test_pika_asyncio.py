"""Pika's AsyncioConnection: callbacks all the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection

from warren.broker import Broker

PATIENCE = 20.0


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A connection with default options; closed in the end."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Any] = loop.create_future()
    closed: asyncio.Future[Any] = loop.create_future()
    AsyncioConnection(
        pika.URLParameters(url),
        on_open_callback=opened.set_result,
        on_open_error_callback=lambda _c, error: opened.set_exception(error),
        on_close_callback=lambda _c, reason: closed.set_result(reason),
    )
    async with asyncio.timeout(PATIENCE):
        connection = await opened
        connection.closed_by = closed
        yield connection
        if connection.is_open:
            connection.close()
        await closed


async def ask(method: Any, *arguments: Any, **options: Any) -> Any:
    """Call a method that answers by a callback."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    method(*arguments, **options, callback=answer.set_result)
    async with asyncio.timeout(PATIENCE):
        return await answer


async def open_channel(connection: Any) -> Any:
    """A channel, open."""
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    connection.channel(on_open_callback=opened.set_result)
    async with asyncio.timeout(PATIENCE):
        return await opened


async def test_declare_publish_confirm_consume_acknowledge_cancel_delete(broker: Broker) -> None:
    async with connected(broker.url) as connection:
        channel = await open_channel(connection)
        await ask(channel.exchange_declare, "x", "direct")
        await ask(channel.queue_declare, "q")
        await ask(channel.queue_bind, "q", "x", "k")
        await ask(channel.basic_qos, prefetch_count=10)
        confirms: asyncio.Queue[Any] = asyncio.Queue()
        await ask(lambda callback: channel.confirm_delivery(confirms.put_nowait, callback))
        deliveries: asyncio.Queue[Any] = asyncio.Queue()
        consumed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        tag = channel.basic_consume("q", lambda *what: deliveries.put_nowait(what), callback=consumed.set_result)
        await consumed
        channel.basic_publish("x", "k", b"hello", pika.BasicProperties(message_id="1"))
        assert (await confirms.get()).method.delivery_tag == 1
        _, method, properties, body = await deliveries.get()
        assert (method.routing_key, properties.message_id, body) == ("k", "1", b"hello")
        channel.basic_nack(method.delivery_tag)
        _, method, _, _ = await deliveries.get()
        assert method.redelivered
        channel.basic_ack(method.delivery_tag)
        await ask(channel.basic_cancel, tag)
        deleted = await ask(channel.queue_delete, "q")
        assert deleted.method.message_count == 0


async def test_returns_come_before_their_confirms(broker: Broker) -> None:
    async with connected(broker.url) as connection:
        channel = await open_channel(connection)
        events: asyncio.Queue[str] = asyncio.Queue()
        channel.add_on_return_callback(lambda *_: events.put_nowait("return"))
        await ask(lambda callback: channel.confirm_delivery(lambda _: events.put_nowait("confirm"), callback))
        channel.basic_publish("", "nowhere", b"lost", mandatory=True)
        assert [await events.get(), await events.get()] == ["return", "confirm"]


async def test_a_consumer_hears_that_its_queue_is_gone(broker: Broker) -> None:
    async with connected(broker.url) as connection:
        channel = await open_channel(connection)
        await ask(channel.queue_declare, "q")
        cancelled: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        channel.add_on_cancel_callback(cancelled.set_result)
        tag = channel.basic_consume("q", lambda *_: None)
        await ask(channel.queue_declare, "q", passive=True)
        broker.delete_queue("q")
        async with asyncio.timeout(PATIENCE):
            assert (await cancelled).method.consumer_tag == tag


async def test_an_error_closes_the_channel(broker: Broker) -> None:
    async with connected(broker.url) as connection:
        channel = await open_channel(connection)
        closed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        channel.add_on_close_callback(lambda _channel, reason: closed.set_result(reason))
        channel.queue_declare("nowhere", passive=True, callback=lambda _: None)
        async with asyncio.timeout(PATIENCE):
            assert (await closed).reply_code == 404
        await ask((await open_channel(connection)).queue_declare, "q")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_connection_is_noticed(broker: Broker, reset: bool) -> None:
    async with connected(broker.url) as connection:
        await open_channel(connection)
        broker.drop_connections(reset=reset)
        reason = await asyncio.shield(connection.closed_by)
        assert isinstance(reason, pika.exceptions.AMQPConnectionError)
