"""The control plane: who answers, to whom, and what hostile questions do."""

import asyncio
import json
from typing import Any

import pika
import pytest

from rabbit import free_ports
from tests.support.serving import serving
from warren import AsyncClient, CallError, Code, Server, Service
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.protocol import topology
from warren.protocol.control import TO_ALL, to_instance, to_service


def service(name: str) -> Service:
    made = Service(name)

    @made.method
    async def ping() -> str:
        return "pong"

    return made


async def test_each_process_answers_once_to_the_name_of_its_service_its_own_and_all(
    url: str, service_name: str
) -> None:
    a, b = service(f"{service_name}.a"), service(f"{service_name}.b")
    async with Server(a, b, url=url), Server(b, url=url), Asking(make_settings(url)) as asking:
        both = await asking.gather("ping", to_service(b.name))
        one = await asking.gather("ping", to_service(a.name))
        assert len(both) == 2
        assert len(one) == 1
        assert one[0].body["services"] == [a.name, b.name]
        assert len(one[0].instance) == 12
        again = await asking.gather("ping", to_instance(one[0].instance), first=True)
        assert [(answer.instance, answer.body) for answer in again] == [(one[0].instance, one[0].body)]
        assert {answer.instance for answer in both} <= {a.instance for a in await asking.gather("ping", TO_ALL)}
        assert await asking.gather("ping", to_service("nobody")) == []


async def test_an_unknown_verb_is_unimplemented_and_says_what_is_known(url: str, service_name: str) -> None:
    async with serving(service(service_name), url=url), Asking(make_settings(url)) as asking:
        (answer,) = await asking.gather("dance", to_service(service_name))
        assert answer.error is not None
        assert answer.error.code is Code.UNIMPLEMENTED
        assert "ping" in answer.error.message
        (answer,) = await asking.gather("cancel", to_service(service_name), {"calls": 3})
        assert answer.error is not None
        assert answer.error.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("properties", "body"),
    [
        ({}, b""),
        ({"type": "ping"}, b"[]"),
        ({"type": "ping"}, b"\xff"),
        ({"type": "cancel"}, b"{}"),
        ({"type": "cancel"}, b'{"calls":{"a":1e300},"reply_to":"x"}'),
        ({"type": "cancel"}, b'{"calls":{"a":-5},"reply_to":"x"}'),
        ({"type": "cancel"}, b'{"calls":{"a":9},"reply_to":""}'),
        ({"type": "cancel"}, json.dumps({"calls": {str(n): 9 for n in range(2000)}, "reply_to": "x"}).encode()),
        ({"type": "ping", "reply_to": "amq.rabbitmq.reply-to.forged"}, b"{}"),
        ({"type": "ping", "reply_to": "no such queue"}, b"{}"),
        ({"type": "p\x00ng", "headers": {"when": 2**60, "x": [{}]}}, b"[" * 100_000),
        ({"type": "ping"}, b"{" + b" " * 300_000 + b"}"),
    ],
)
async def test_hostile_questions_change_nothing(
    url: str, raw: Any, service_name: str, properties: dict[str, Any], body: bytes
) -> None:
    async with serving(service(service_name), url=url), AsyncClient(url) as client:
        for _ in range(3):
            raw.basic_publish(
                topology.CONTROL_EXCHANGE, to_service(service_name), body, pika.BasicProperties(**properties)
            )
        async with Asking(make_settings(url)) as asking:
            assert len(await asking.gather("ping", to_service(service_name), patience=30, first=True)) == 1
        assert await client.call(f"{service_name}.ping") == "pong"


async def test_a_control_exchange_that_was_deleted_takes_no_call_along(url: str, raw: Any, service_name: str) -> None:
    hanging = asyncio.Event()
    made = service(service_name)

    @made.method
    async def hang() -> None:
        hanging.set()
        await asyncio.Event().wait()

    async with serving(made, url=url), AsyncClient(url) as client:
        for _ in range(3):  # the first one finds it, the others do not
            calling = asyncio.create_task(client.call(hang))
            await hanging.wait()
            calling.cancel()
            assert await client.call(f"{service_name}.ping") == "pong"
            raw.exchange_delete(topology.CONTROL_EXCHANGE)


def test_who_may_ask_is_checked_when_a_server_is_made() -> None:
    with pytest.raises(ValueError, match="must be 'look', 'full' or None"):
        Server(service("any"), control="all")  # type: ignore[arg-type]


async def test_a_queue_for_answers_that_was_deleted_is_not_taken_for_silence(url: str, service_name: str) -> None:
    async with Server(service(service_name), url=url), Asking(make_settings(url)) as asking:
        channel = await asking.link.channel()
        await channel.delete_queue(asking._queue.decode())
        with pytest.raises(CallError, match="the queue for answers was deleted at the broker: ask again"):
            await asking.gather("ping", to_service(service_name), patience=5)


async def test_asking_without_a_broker_is_a_clear_error() -> None:
    [free_port] = free_ports(1)
    with pytest.raises(CallError, match="refused"):
        async with Asking(make_settings(f"amqp://127.0.0.1:{free_port}")):
            pass
