"""Setting aside: a request leaves its own queue only when its copy is safe, and is called lost only when it is."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pika
import pytest

from tests.contract.brokers import BrokerUnderTest
from tests.support.raw import depth, raw_channel, take
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, DeadlineExceeded, Service
from warren.protocol import topology
from warren.protocol.dead_message import Death
from warren.server.copies import Copies, Copy


def make_service(name: str) -> Service:
    service = Service(name, concurrency=5)

    @service.method(delivery="at-least-once", max_attempts=1)
    async def fragile() -> None:
        raise AssertionError("this request has used up its attempts")

    @service.method
    async def ping() -> str:
        return "pong"

    return service


async def declared(service: Service, url: str) -> None:
    """The service's queues, without anybody who serves them."""
    async with serving(service, url=url):
        pass


def put_redelivered(raw: Any, queue: str, method: str, reply_to: str | None) -> None:
    """A request that looks as after the death of a worker that held it."""
    properties = pika.BasicProperties(
        type=method, correlation_id="1", reply_to=reply_to, content_type="application/json", headers={"rpc-v": 1}
    )
    raw.basic_publish("warren", queue, b"[]", properties)
    taken, _properties, _body = raw.basic_get(queue)
    raw.basic_nack(taken.delivery_tag, requeue=True)


async def test_a_poisonous_call_is_answered_and_let_go_only_when_its_copy_is_safe(
    client: AsyncClient, url: str, raw: Any, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker may die before the broker has the copy: then the original must still be there."""
    service = make_service(service_name)
    await declared(service, url)
    replies = raw.queue_declare("", exclusive=True).method.queue
    put_redelivered(raw, service_name, "fragile", replies)
    unconfirmed: list[Copy] = []
    monkeypatch.setattr(Copies, "send", lambda _copies, copy: unconfirmed.append(copy))
    async with serving(service, url=url):
        await client.call(f"{service_name}.ping")  # over the same channel, after the poison
        assert len(unconfirmed) == 1
        assert take(raw, replies) is None
    assert depth(raw, service_name) == 1  # the worker is gone, its original is not

    monkeypatch.undo()
    async with serving(service, url=url):
        reply = await until(lambda: take(raw, replies))
        assert reply[0].headers["rpc-reason"] == "POISON"
        assert depth(raw, topology.dead_queue(service_name)) == 1
    assert depth(raw, service_name) == 0


async def test_what_waits_when_a_server_starts_can_be_set_aside_from_the_first_delivery(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    service = make_service(service_name)
    await declared(service, url)
    await client.cast(f"{service_name}.no_such_method")
    async with serving(service, url=url):
        await until(lambda: depth(raw, topology.dead_queue(service_name)) == 1)
    assert depth(raw, service_name) == 0


async def test_a_cast_that_fails_after_its_connection_was_lost_is_delivered_again_and_not_called_lost(
    broker: BrokerUnderTest, url: str, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "warren.server")
    service = Service(service_name)
    began, release, failed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @service.method
    async def fails() -> None:
        began.set()
        await release.wait()
        failed.set()
        raise RuntimeError("after the connection was lost")

    async with AsyncClient(url) as client, serving(service, url=url) as server:
        await client.cast(fails)
        await began.wait()
        await asyncio.to_thread(broker.close_connections)
        await until(lambda: caplog.text.count("lost the connection") >= 2)  # the client's and the server's
        release.set()
        await failed.wait()
        dead = await until(lambda: _dead(url, service_name))
        server.stop()
    assert dead.headers["rpc-dead-reason"] == "WORKER_LOST"
    assert _dead(url, service_name) is None
    assert "is lost" not in caplog.text
    assert "delivers it again" in caplog.text


def _dead(url: str, service: str) -> Any:
    """The properties of the next message in the dead queue, over a connection that nobody has closed yet."""
    with raw_channel(url) as channel:
        found = take(channel, topology.dead_queue(service))
    return None if found is None else found[0]


async def test_a_failed_cast_stays_in_the_dead_queue_whatever_number_of_calls_expires(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    """They shared one bounded queue once: 10,000 expired calls, of an hour without workers, pushed out every cast."""
    async with serving(make_service(service_name), url=url):
        await client.cast(f"{service_name}.fragile", "one argument too many")
        await until(lambda: depth(raw, topology.dead_queue(service_name)) == 1)
    hasty = client.options(timeout=0.2)
    ends = await asyncio.gather(*(hasty.call(f"{service_name}.ping") for _ in range(50)), return_exceptions=True)
    assert {type(end) for end in ends} == {DeadlineExceeded}
    await until(lambda: depth(raw, service_name) == 0)
    assert depth(raw, topology.dead_queue(service_name)) == 1


async def test_what_a_consumer_rejects_is_kept(client: AsyncClient, url: str, raw: Any, service_name: str) -> None:
    async with serving(make_service(service_name), url=url):
        pass
    await client.cast(f"{service_name}.ping")
    tag = (await until(lambda: taken(raw, service_name))).delivery_tag
    raw.basic_reject(tag, requeue=False)
    await until(lambda: depth(raw, topology.dead_queue(service_name)) == 1)


def taken(raw: Any, queue: str) -> Any:
    return raw.basic_get(queue)[0]


async def test_a_dead_queue_that_is_deleted_takes_its_exchange_along(url: str, raw: Any, service_name: str) -> None:
    async with serving(make_service(service_name), url=url):
        pass
    raw.queue_delete(topology.dead_queue(service_name))
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no exchange"):
        raw.exchange_declare(topology.dead_queue(service_name), passive=True)


async def test_a_failed_cast_is_kept_with_what_it_ended_in(
    client: AsyncClient, url: str, raw: Any, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(service_name)

    @service.method
    async def fail() -> None:
        raise KeyError("no such user")

    async with serving(service, url=url):
        await client.cast(fail)
        message = await until(lambda: take(raw, topology.dead_queue(service_name)))
    death = Death.read(message[0].headers)
    assert (death.reason, death.code, death.execution) == ("HANDLER_EXCEPTION", "UNKNOWN", "EXECUTED")
    assert (death.type, death.origin, death.attempt) == ("KeyError", "handler", 1)
    assert "no such user" in str(death.text)
    assert death.instance
    assert death.at is not None
    assert abs((death.at - datetime.now(UTC)).total_seconds()) < 300
    assert message[0].message_id in caplog.text


class OutOfStock(Exception):
    """Travels as itself."""


@pytest.mark.parametrize(
    ("method", "arguments", "ended"),
    [
        ("fail", [], "KeyError: 'no such user' [UNKNOWN/HANDLER_EXCEPTION, execution EXECUTED]"),
        ("sell", [], "OutOfStock: none left [UNKNOWN/HANDLER_EXCEPTION, execution EXECUTED]"),
        (
            "sell",
            [1],
            "too many arguments; the signature is sell() [INVALID_ARGUMENT/VALIDATION, execution NOT_EXECUTED]",
        ),
        ("make", [], "ENCODE_REPLY, execution EXECUTED]"),
        ("large", [], "TOO_LARGE, execution EXECUTED]"),
    ],
)
async def test_a_failed_cast_is_one_line_in_the_log_with_all_there_is_to_know(
    client: AsyncClient,
    url: str,
    raw: Any,
    service_name: str,
    caplog: pytest.LogCaptureFixture,
    method: str,
    arguments: list[Any],
    ended: str,
) -> None:
    caplog.set_level(logging.INFO, "warren.server")
    service = Service(service_name, errors=[OutOfStock], max_message_size=1000)

    @service.method
    async def fail() -> None:
        raise KeyError("no such user")

    @service.method
    async def sell() -> None:
        raise OutOfStock("none left")

    @service.method
    async def make() -> int:
        return "text"  # type: ignore[return-value]

    @service.method
    async def large() -> str:
        return "x" * 2000

    async with serving(service, url=url):
        await client.cast(f"{service_name}.{method}", *arguments)
        message = await until(lambda: take(raw, topology.dead_queue(service_name)))
    about = [record for record in caplog.records if message[0].message_id in record.getMessage()]
    assert len(about) == 1, [record.getMessage() for record in about]
    line = about[0].getMessage()
    assert line.startswith(
        f"{service_name}: {method} (cast {message[0].message_id}) failed and is set aside in {service_name}.dead: "
    )
    assert line.endswith(ended), line
    assert (about[0].exc_info is not None) is (method == "fail")  # its traceback; the others are no bugs of a handler


async def test_a_dead_queue_that_was_deleted_is_made_again_and_holds_up_nobody(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    service, dead = make_service(service_name), topology.dead_queue(service_name)
    failing = 4 * service.concurrency
    async with serving(service, url=url):
        raw.queue_delete(dead)
        await asyncio.gather(*(client.cast(f"{service_name}.no_such_method") for _ in range(failing)))
        assert await client.call(f"{service_name}.ping") == "pong"
    assert depth(raw, dead) == failing  # what the server still held it has set aside before it ended
