"""Bare clients with the defaults of other languages' libraries, written with Pika."""

import asyncio
import base64
import datetime
import json
from typing import Annotated, Any

import msgspec
import pika
import pytest

from tests.support.raw import raw_channel
from tests.support.serving import serving
from warren import AsyncClient, Service, current_call

OCTETS = "application/octet-stream"
#: What they write into a request of tutorial six if they are not told otherwise.
LIBRARIES: dict[str, dict[str, Any]] = {
    "Bunny (Ruby)": {"content_type": OCTETS, "delivery_mode": 2, "priority": 0, "headers": {"number": 2**40}},
    "AnyEvent::RabbitMQ (Perl)": {"content_type": OCTETS},
    "amqp_rpc_client (Erlang)": {"content_type": OCTETS, "delivery_mode": 1},
    "node-amqp": {"content_type": OCTETS, "headers": {}},
    "php-amqplib": {},
    "amqplib (Node)": {"headers": {}, "delivery_mode": 2},
    "amqp091-go": {"content_type": "text/plain", "type": "", "app_id": "", "message_id": "", "user_id": None},
    "Spring AMQP (Java)": {"content_type": "text/plain", "content_encoding": "UTF-8", "priority": 0, "headers": {}},
    "kombu (Python)": {"content_type": "text/plain", "content_encoding": "utf-8", "headers": {}},
    ".NET": {"type": "", "headers": {"when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)}},
}


def ask(url: str, queue: str, body: bytes, **properties: Any) -> tuple[Any, bytes]:
    """Publish a bare request and wait for its reply."""
    with raw_channel(url) as channel:
        reply_to = channel.queue_declare("", exclusive=True).method.queue
        written = pika.BasicProperties(reply_to=reply_to, correlation_id="7", **properties)
        channel.basic_publish("", queue, body, written)
        for _method, reply, answer in channel.consume(reply_to, auto_ack=True, inactivity_timeout=10):
            assert reply is not None, "no reply"
            return reply, answer
    raise AssertionError("the consumer ended")


@pytest.fixture
def service(service_name: str) -> Service:
    service = Service(service_name)

    @service.method(default=True)
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    @service.method
    def size(data: Annotated[bytes, msgspec.Meta(min_length=1)] | None) -> int:
        return len(data or b"")

    @service.method
    def numbers() -> dict[str, Any]:
        return dict(current_call().headers)

    return service


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_tutorial_client_gets_its_number(url: str, service: Service, library: str) -> None:
    async with serving(service, url=url):
        reply, answer = await asyncio.to_thread(ask, url, service.name, b"10", **LIBRARIES[library])
    assert (reply.correlation_id, reply.content_type, answer) == ("7", None, b"55")


@pytest.mark.parametrize("body", [b"10", b"[10]", b'{"n": 10}'])
async def test_a_client_that_sends_json_is_answered_in_json_that_says_so(
    url: str, service: Service, body: bytes
) -> None:
    async with serving(service, url=url):
        reply, answer = await asyncio.to_thread(ask, url, service.name, body, content_type="application/json")
    assert (reply.content_type, json.loads(answer)) == ("application/json", 55)


@pytest.mark.parametrize("content_type", [None, OCTETS, "text/plain"])
async def test_bytes_arrive_as_they_are(url: str, service: Service, content_type: str | None) -> None:
    raw = base64.b64encode(b"abc")  # it could be taken for base64
    async with serving(service, url=url):
        _reply, answer = await asyncio.to_thread(ask, url, service.name, raw, type="size", content_type=content_type)
    assert answer == b"4"


async def test_long_integers_in_headers_reach_a_handler_as_integers_and_can_be_returned(
    url: str, service: Service
) -> None:
    async with serving(service, url=url):
        _reply, answer = await asyncio.to_thread(ask, url, service.name, b"", type="numbers", headers={"n": 2**40})
    assert json.loads(answer) == {"n": 2**40}


async def test_a_compressed_body_is_refused_clearly(url: str, service: Service) -> None:
    async with serving(service, url=url):
        reply, answer = await asyncio.to_thread(ask, url, service.name, b"\x1f\x8b", content_encoding="gzip")
    assert reply.headers["rpc-reason"] == "ENCODING"
    assert b"in gzip" in answer


@pytest.mark.parametrize("content_type", [None, OCTETS, "application/json", "image/png"])
async def test_a_bare_call_takes_a_reply_of_any_content_type(
    url: str, service_name: str, content_type: str | None
) -> None:
    def answer() -> None:
        with raw_channel(url) as channel:
            channel.queue_declare(service_name, auto_delete=True)
            ready.set()
            for method, asked, _body in channel.consume(service_name, inactivity_timeout=10):
                assert asked is not None, "no request"
                properties = pika.BasicProperties(correlation_id=asked.correlation_id, content_type=content_type)
                channel.basic_publish("", asked.reply_to, b"\xff55", properties)
                channel.basic_ack(method.delivery_tag)
                return

    loop = asyncio.get_running_loop()
    declared = asyncio.Event()

    class Ready:
        def set(self) -> None:
            loop.call_soon_threadsafe(declared.set)

    ready = Ready()
    server = asyncio.create_task(asyncio.to_thread(answer))
    await asyncio.wait_for(declared.wait(), 20)
    async with AsyncClient(url) as client:
        assert await client.call_bare(service_name, b"10") == b"\xff55"
    await server
