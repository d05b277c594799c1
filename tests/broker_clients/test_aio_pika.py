"""aio-pika: plain and robust connections, its RPC patterns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import aio_pika.exceptions
import pytest
from aio_pika.patterns import RPC, JsonRPC, Master

from tests.broker_clients.conftest import HEADERS
from warren.broker import Broker

PATIENCE = 20.0


@pytest.fixture
async def connection(broker: Broker) -> AsyncIterator[Any]:
    """A connection with default options."""
    connection = await aio_pika.connect(broker.url)
    yield connection
    await connection.close()


@pytest.fixture
async def robust(broker: Broker) -> AsyncIterator[Any]:
    """A robust connection that does not wait long before it tries again."""
    connection = await aio_pika.connect_robust(broker.url, reconnect_interval=0.1)
    yield connection
    await connection.close()


async def test_a_message_goes_through_an_exchange_to_a_queue(connection: Any) -> None:
    channel = await connection.channel()
    exchange = await channel.declare_exchange("x", aio_pika.ExchangeType.HEADERS)
    queue = await channel.declare_queue("", exclusive=True)
    await queue.bind(exchange, arguments={"number": 7, "x-match": "any"})
    await exchange.publish(aio_pika.Message(b"hello", headers=HEADERS, priority=3, message_id="m"), "k")
    message = await queue.get(timeout=PATIENCE)
    assert (message.body, message.headers, message.message_id) == (b"hello", HEADERS, "m")
    await message.ack()
    await queue.unbind(exchange, arguments={"number": 7, "x-match": "any"})
    await exchange.delete()


async def test_what_cannot_be_routed_raises(connection: Any) -> None:
    channel = await connection.channel(on_return_raises=True)
    with pytest.raises(aio_pika.exceptions.DeliveryError):
        await channel.default_exchange.publish(aio_pika.Message(b"lost"), "nowhere")


async def test_a_full_queue_raises(connection: Any) -> None:
    channel = await connection.channel()
    await channel.declare_queue("full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    with pytest.raises(aio_pika.exceptions.DeliveryError):
        await channel.default_exchange.publish(aio_pika.Message(b"refused"), "full")


async def test_consuming_refusing_and_putting_back(connection: Any) -> None:
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=1)
    queue = await channel.declare_queue("q", auto_delete=True)
    for body in (b"a", b"b", b"c"):
        await channel.default_exchange.publish(aio_pika.Message(body), "q")
    seen: list[tuple[bytes, bool]] = []
    async with asyncio.timeout(PATIENCE), queue.iterator() as messages:
        async for message in messages:
            seen.append((message.body, message.redelivered))
            if message.body == b"a" and not message.redelivered:
                await message.nack(requeue=True)
            elif message.body == b"b":
                await message.reject(requeue=False)
            else:
                await message.ack()
            if message.body == b"c":
                break
    assert seen == [(b"a", False), (b"a", True), (b"b", False), (b"c", False)]


@pytest.mark.parametrize("size", [0, 1 << 20])
async def test_bodies_of_all_sizes(connection: Any, size: int) -> None:
    channel = await connection.channel()
    queue = await channel.declare_queue("q")
    await channel.default_exchange.publish(aio_pika.Message(b"x" * size), "q")
    assert (await queue.get(no_ack=True)).body == b"x" * size


async def test_transactions(connection: Any) -> None:
    channel = await connection.channel(publisher_confirms=False)
    queue = await channel.declare_queue("q")
    async with channel.transaction():
        await channel.default_exchange.publish(aio_pika.Message(b"done"), "q")
    transaction = channel.transaction()
    await transaction.select()
    await channel.default_exchange.publish(aio_pika.Message(b"undone"), "q")
    await transaction.rollback()
    assert (await queue.get(no_ack=True)).body == b"done"
    assert await queue.get(fail=False) is None


async def test_an_error_closes_the_channel(connection: Any) -> None:
    channel = await connection.channel()
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await channel.get_queue("nowhere")
    other = await connection.channel()
    await other.declare_queue("q", durable=True)
    with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed):
        await other.declare_queue("q", durable=False)


async def test_direct_replies(connection: Any) -> None:
    client, server = await connection.channel(), await connection.channel()
    requests = await server.declare_queue("requests", exclusive=True)
    replies: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    pseudo = await client.get_queue("amq.rabbitmq.reply-to", ensure=False)
    await pseudo.consume(replies.set_result, no_ack=True)
    question = aio_pika.Message(b"hello", reply_to="amq.rabbitmq.reply-to", correlation_id="7")
    await client.default_exchange.publish(question, "requests")
    async with asyncio.timeout(PATIENCE):
        request = await requests.get(no_ack=True)
        answer = aio_pika.Message(request.body.upper(), correlation_id=request.correlation_id)
        await server.default_exchange.publish(answer, request.reply_to)
        assert ((await replies).body, (await replies).correlation_id) == (b"HELLO", "7")


# --- robust -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
async def test_a_robust_consumer_comes_back(broker: Broker, robust: Any, reset: bool) -> None:
    channel = await robust.channel()
    exchange = await channel.declare_exchange("x")
    queue = await channel.declare_queue("", exclusive=True)
    await queue.bind(exchange, "k")
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(message: Any) -> None:
        got.put_nowait(message.body)
        await message.ack()

    await queue.consume(take)
    await exchange.publish(aio_pika.Message(b"before"), "k")
    back = asyncio.Event()
    robust.reconnect_callbacks.add(lambda *_: back.set())
    async with asyncio.timeout(PATIENCE):
        assert await got.get() == b"before"
        assert broker.drop_connections(reset=reset) == 1
        await back.wait()
        await robust.ready()
        await exchange.publish(aio_pika.Message(b"after"), "k")
        assert await got.get() == b"after"


# --- patterns ---------------------------------------------------------------------------------------------------------


async def _add(*, one: int, other: int) -> int:
    return one + other


async def _fail() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("pattern", [RPC, JsonRPC])
async def test_calls(connection: Any, pattern: Any) -> None:
    rpc = await pattern.create(await connection.channel())
    await rpc.register("add", _add, auto_delete=True)
    async with asyncio.timeout(PATIENCE):
        assert await rpc.proxy.add(one=1, other=2) == 3
        results = await asyncio.gather(*(rpc.call("add", {"one": n, "other": n}) for n in range(50)))
    assert results == [2 * n for n in range(50)]
    await rpc.close()


@pytest.mark.parametrize("pattern", [RPC, JsonRPC])
async def test_a_call_that_fails(connection: Any, pattern: Any) -> None:
    rpc = await pattern.create(await connection.channel())
    await rpc.register("fail", _fail, auto_delete=True)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Exception, match="no"):
            await rpc.proxy.fail()
    await rpc.close()


async def test_a_call_that_nobody_serves(connection: Any) -> None:
    rpc = await RPC.create(await connection.channel())
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(aio_pika.exceptions.MessageProcessError):
            await rpc.call("nobody")
    await rpc.close()


async def test_a_call_that_expires(connection: Any) -> None:
    channel = await connection.channel()
    rpc = await RPC.create(channel)
    await channel.declare_queue("slow", arguments={"x-dead-letter-exchange": RPC.DLX_NAME})
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TimeoutError):
            await rpc.call("slow", expiration=0.05)
    await rpc.close()


async def test_calls_go_on_after_a_reconnect(broker: Broker, robust: Any) -> None:
    rpc = await RPC.create(await robust.channel())
    await rpc.register("add", _add, auto_delete=True)
    back = asyncio.Event()
    robust.reconnect_callbacks.add(lambda *_: back.set())
    async with asyncio.timeout(PATIENCE):
        assert await rpc.proxy.add(one=1, other=2) == 3
        broker.drop_connections()
        await back.wait()
        await robust.ready()
        assert await rpc.proxy.add(one=3, other=4) == 7
    await rpc.close()


async def test_tasks_by_a_master(connection: Any) -> None:
    master = Master(await connection.channel())
    done: asyncio.Queue[int] = asyncio.Queue()

    async def work(*, number: int) -> None:
        done.put_nowait(number)

    await master.create_worker("work", work, auto_delete=True)
    for number in range(5):
        await master.proxy.work(number=number)
    async with asyncio.timeout(PATIENCE):
        assert sorted([await done.get() for _ in range(5)]) == list(range(5))
