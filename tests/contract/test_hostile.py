"""Peers that send nonsense: server and client stay up and answer the next call."""

import asyncio
import datetime
import decimal
import random
import struct
from typing import Any

import pika
import pytest

from tests.support.raw import depth, take
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Service
from warren.protocol import topology

#: One value of each kind that an AMQP table can hold and Pika can write.
EVERY_TYPE: dict[str, Any] = {
    "bool": True,
    "int": 7,
    "long": 2**40,
    "text": "ä",
    "bytes": b"\xff\x00",
    "decimal": decimal.Decimal("1.5"),
    "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "table": {"a": {"b": [1, None]}},
    "list": [1, "x", {"y": 2}],
    "nothing": None,
}


def make_echo(name: str) -> Service:
    service = Service(name, concurrency=50)

    @service.method(default=True)
    async def echo(text: str) -> str:
        return text

    return service


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_server_survives_a_thousand_random_requests(
    client: AsyncClient, url: str, raw: Any, service_name: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "warren.server")
    rng = random.Random(seed)
    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(make_echo(service_name), url=url):
        for number in range(1000):
            raw.basic_publish("", service_name, rng.randbytes(rng.randrange(60)), _properties(rng, number, replies))
        assert await client.call(f"{service_name}.echo", "still here") == "still here"
        await until(lambda: depth(raw, service_name) == 0)


def _properties(rng: random.Random, number: int, replies: str) -> pika.BasicProperties:
    def maybe(value: Any) -> Any:
        return value if rng.random() < 0.5 else None

    headers = {key: value for key, value in EVERY_TYPE.items() if rng.random() < 0.3}
    for name in ("rpc-v", "rpc-timeout-ms", "rpc-deadline", "rpc-attempt", "CC"):
        if rng.random() < 0.3:
            headers[name] = rng.choice([1, 0, -5, 2**60, "x", None, [1], {"a": 1}, True])
            if name == "CC":
                headers[name] = []  # RabbitMQ itself refuses any other nonsense there
    content_types = ["application/json", "application/msgpack", "text/plain", "application/octet-stream", "x", ""]
    return pika.BasicProperties(
        headers=maybe(headers),
        content_type=maybe(rng.choice(content_types)),
        type=maybe(rng.choice(["echo", "nope", "", "ü" * 100])),
        reply_to=maybe(rng.choice([replies, "no-such-queue", "ü"])),
        correlation_id=maybe(str(number)),
        message_id=maybe("m" * rng.randrange(255)),
        timestamp=maybe(2**62),
        priority=maybe(255),
    )


async def test_a_table_with_a_date_beyond_python_is_answered(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    """Clients are known to send timestamps beyond the year 9999, which Pika's table decoder cannot represent."""
    replies = raw.queue_declare("", exclusive=True).method.queue
    properties = pika.BasicProperties(headers={"when": None}, reply_to=replies, type="echo", correlation_id="1")
    table = struct.pack(">B4scQ", 4, b"when", b"T", 2**60)
    properties.encode = lambda: _with_table(table, replies)
    async with serving(make_echo(service_name), url=url):
        raw.basic_publish("", service_name, b"x", properties)
        assert await client.call(f"{service_name}.echo", "still here") == "still here"
        await until(lambda: depth(raw, topology.dead_queue(service_name)) + depth(raw, replies) == 1)


def _with_table(table: bytes, reply_to: str) -> list[bytes]:
    address = reply_to.encode()
    return [struct.pack(">HI", 0x2200, len(table)), table, bytes((len(address),)), address]


async def test_a_reply_to_a_queue_that_is_gone_is_dropped(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    async with serving(make_echo(service_name), url=url):
        for _ in range(20):
            raw.basic_publish("", service_name, b"x", pika.BasicProperties(reply_to="gone", correlation_id="1"))
        assert await client.call(f"{service_name}.echo", "still here") == "still here"
        await until(lambda: depth(raw, service_name) == 0)


async def test_a_client_survives_nonsense_on_its_reply_queue(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    raw.queue_declare(service_name, durable=True)
    raw.queue_bind(service_name, "warren", service_name)
    call = asyncio.create_task(client.call(f"{service_name}.echo", "x"))
    await until(lambda: depth(raw, service_name) == 1)
    request = take(raw, service_name)
    assert request is not None
    rng = random.Random(4)
    for number in range(300):
        properties = _properties(rng, number, "")
        raw.basic_publish("", request[0].reply_to, rng.randbytes(rng.randrange(60)), properties)
    reply = pika.BasicProperties(correlation_id=request[0].correlation_id, content_type="text/plain")
    raw.basic_publish("", request[0].reply_to, b"the answer", reply)
    assert await asyncio.wait_for(call, 10) == "the answer"
    assert client.ignored_replies == 300
