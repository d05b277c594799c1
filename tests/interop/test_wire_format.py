"""Peers written in plain Pika after docs/wire.md alone: what it says is enough to speak with Warren in full."""

import asyncio
import json
import time
from typing import Any

import pika
import pytest

from tests.support.raw import raw_channel
from tests.support.serving import serving
from warren import AsyncClient, Code, Execution, InvalidArgument, Service


def request(url: str, service: str, method: str, body: bytes, **headers: Any) -> tuple[Any, bytes]:
    """Publish one request with the headers of version 1, and wait for its reply."""
    with raw_channel(url) as channel:
        reply_to = channel.queue_declare("", exclusive=True).method.queue
        properties = pika.BasicProperties(
            type=method,
            content_type="application/json",
            correlation_id="call-1",
            reply_to=reply_to,
            headers={"rpc-v": 1, "rpc-timeout-ms": 5000, **headers},
        )
        channel.basic_publish("warren", service, body, properties, mandatory=True)
        for _method, reply, answer in channel.consume(reply_to, auto_ack=True, inactivity_timeout=10):
            assert reply is not None, "no reply"
            return reply, answer
    raise AssertionError("the consumer ended")


def answer_one(url: str, queue: str, body: bytes, **properties: Any) -> Any:
    """Take one request off a queue and answer it; returns the request's properties."""
    with raw_channel(url) as channel:
        for method, asked, _body in channel.consume(queue, inactivity_timeout=10):
            assert asked is not None, "no request"
            reply = pika.BasicProperties(correlation_id=asked.correlation_id, **properties)
            channel.basic_publish("", asked.reply_to, body, reply)
            channel.basic_ack(method.delivery_tag)
            return asked, _body
    raise AssertionError("the consumer ended")


@pytest.fixture
def service(service_name: str) -> Service:
    service = Service(service_name)

    @service.method
    def scale(x: float, by: float = 2.0) -> dict[str, float]:
        return {"scaled": x * by}

    return service


@pytest.fixture
def queue(url: str, service_name: str) -> str:
    """A queue that Warren's clients can reach, without a Warren server."""
    with raw_channel(url) as channel:
        channel.exchange_declare("warren", "direct", durable=True)
        channel.queue_declare(service_name, durable=True)
        channel.queue_bind(service_name, "warren", service_name)
    return service_name


@pytest.mark.parametrize("body", [b"[3, 4]", b'{"by": 4, "x": 3}'], ids=["by position", "by name"])
async def test_a_plain_client_calls_a_method_with_json(url: str, service: Service, body: bytes) -> None:
    async with serving(service, url=url):
        reply, answer = await asyncio.to_thread(request, url, service.name, "scale", body)

    assert (reply.correlation_id, reply.content_type) == ("call-1", "application/json")
    assert reply.type in (None, "ok")
    assert json.loads(answer) == {"scaled": 12.0}


async def test_a_plain_client_gets_an_error_as_headers_and_problem_json(url: str, service: Service) -> None:
    async with serving(service, url=url):
        reply, answer = await asyncio.to_thread(request, url, service.name, "scale", b'["three"]')

    assert (reply.type, reply.content_type) == ("error", "application/problem+json")
    assert reply.headers == {
        "rpc-status": "INVALID_ARGUMENT",
        "rpc-reason": "VALIDATION",
        "rpc-executed": "NOT_EXECUTED",
    }
    problem = json.loads(answer)
    assert problem["title"] == "INVALID_ARGUMENT/VALIDATION"
    assert problem["detail"] == "x must be a float, not a str; the signature is scale(x: float, by: float = 2.0)"


async def test_a_plain_client_whose_deadline_is_over_gets_told(url: str, service: Service) -> None:
    past = int(time.time() * 1000) - 1000
    async with serving(service, url=url):
        reply, _answer = await asyncio.to_thread(request, url, service.name, "scale", b"[3]", **{"rpc-deadline": past})

    assert reply.headers["rpc-status"] == "DEADLINE_EXCEEDED"
    assert reply.headers["rpc-reason"] == "ON_ARRIVAL"


async def test_a_plain_server_reads_the_request_and_answers_with_json(url: str, queue: str) -> None:
    server = asyncio.create_task(
        asyncio.to_thread(answer_one, url, queue, b'{"scaled": 6}', content_type="application/json")
    )
    async with AsyncClient(url, name="shop") as client:
        result = await client.options(timeout=5, headers={"tenant": "blue"}).call(f"{queue}.scale", 3)
    asked, body = await server

    assert result == {"scaled": 6}
    assert (asked.type, asked.content_type, body) == ("scale", "application/json", b"[3]")
    assert (asked.app_id, asked.headers["tenant"], asked.headers["rpc-v"]) == ("shop", "blue", 1)
    assert 0 < asked.headers["rpc-timeout-ms"] <= 5000
    assert abs(asked.headers["rpc-deadline"] / 1000 - time.time()) < 10
    assert 0 < int(asked.expiration) <= 5000
    assert asked.message_id


async def test_a_plain_server_answers_with_an_error(url: str, queue: str) -> None:
    headers = {"rpc-status": "INVALID_ARGUMENT", "rpc-reason": "NOT_A_NUMBER", "rpc-executed": "NOT_EXECUTED"}
    problem = json.dumps({"title": "no", "detail": "three is no number", "status": 400}).encode()
    server = asyncio.create_task(
        asyncio.to_thread(
            answer_one,
            url,
            queue,
            problem,
            type="error",
            content_type="application/problem+json",
            headers=headers,
        )
    )
    async with AsyncClient(url) as client:
        with pytest.raises(InvalidArgument, match="three is no number") as caught:
            await client.call(f"{queue}.scale", "three")
    await server

    error = caught.value
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "NOT_A_NUMBER")
    assert (error.execution, error.method) == (Execution.NOT_EXECUTED, f"{queue}.scale")
