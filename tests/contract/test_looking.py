"""What a running server tells of itself: who it is, what it offers, what it does and did, and how it is."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
import pytest

from tests.support.serving import serving
from warren import AsyncClient, CallError, Service
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.protocol.control import to_service


class Item(msgspec.Struct):
    name: str
    price: float = 0.0


class SoldOut(LookupError):
    """There is none left."""


class Mixed(SoldOut):
    """Registered nowhere."""


class Closed(Mixed):
    pass


class Shop:
    """A service of several kinds of methods; `hang` runs until it is let go."""

    def __init__(self, name: str) -> None:
        self.service = Service(
            name, version="2.1", description="Sells things.", concurrency=2, errors=[SoldOut, Closed]
        )
        self.go = asyncio.Event()

        @self.service.method(time_limit=9.0, concurrency=1, delivery="at-least-once")
        async def place(item: Item, qty: Annotated[int, msgspec.Meta(gt=0)] = 1, *, gift: bool = False) -> list[Item]:
            """Place an order.

            It is paid later.
            """
            return [item] * qty

        @self.service.method
        async def hang() -> None:
            await self.go.wait()

        self.place, self.hang = place, hang


@asynccontextmanager
async def shop_and_asking(url: str, name: str) -> AsyncIterator[tuple[Shop, Asking]]:
    shop = Shop(name)
    async with serving(shop.service, url=url), Asking(make_settings(url)) as asking:
        yield shop, asking


async def ask(asking: Asking, verb: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    (answer,) = await asking.gather(verb, to_service(name), body, patience=60, first=True)
    assert answer.error is None, answer.error
    return answer.body


async def test_info_has_all_that_a_caller_without_the_code_needs(url: str, service_name: str) -> None:
    async with shop_and_asking(url, service_name) as (_, asking):
        ping, info = await ask(asking, "ping", service_name), await ask(asking, "info", service_name)
        (service,) = info.pop("services")
        assert ping.pop("services") == [service_name]
        assert info == {**ping, "control": "look", "connection": ping["name"]}
        methods = {method["name"]: method for method in service.pop("methods")}
        assert service == {
            "name": service_name,
            "version": "2.1",
            "description": "Sells things.",
            "queue": "classic",
            "concurrency": 2,
            "max_length": None,
            "errors": [
                {"name": "SoldOut", "doc": "There is none left.", "base": "LookupError"},
                {"name": "Closed", "doc": None, "base": "SoldOut"},
            ],
        }
        item = {
            "title": "Item",
            "type": "object",
            "properties": {"name": {"type": "string"}, "price": {"type": "number", "default": 0.0}},
            "required": ["name"],
        }
        assert methods["place"] == {
            "name": "place",
            "doc": "Place an order.\n\nIt is paid later.",
            "signature": "place(item: Item, qty: int = 1, *, gift: bool = False) -> list[Item]",
            "delivery": "at-least-once",
            "max_attempts": methods["place"]["max_attempts"],
            "time_limit": 9.0,
            "concurrency": 1,
            "default": False,
            "is_async": True,
            "streams": False,
            "takes": False,
            "taken": None,
            "broadcast": False,
            "resumable": False,
            "arguments": {
                "type": "object",
                "properties": {
                    "item": {"$ref": "#/$defs/Item"},
                    "qty": {"type": "integer", "exclusiveMinimum": 0},
                    "gift": {"type": "boolean"},
                },
                "required": ["item"],
                "additionalProperties": False,
                "$defs": {"Item": item},
            },
            "result": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "$defs": {"Item": item}},
        }
        assert methods["hang"]["signature"] == "hang() -> None"
        assert methods["hang"]["doc"] is None


async def test_stats_count_what_ended_and_say_for_whom(url: str, service_name: str) -> None:
    async with shop_and_asking(url, service_name) as (shop, asking), AsyncClient(url, name="till") as client:
        for _ in range(3):
            await client.call(shop.place, Item("tea"))
        with pytest.raises(CallError, match="has no method"):
            await client.call(f"{service_name}.nothing")
        stats = await ask(asking, "stats", service_name)
        service = stats["services"][service_name]
        place = service["methods"]["place"]
        assert (service["running"], service["waiting"], service["concurrency"]) == (0, 0, 2)
        assert place["ended"] == 3
        assert place["callers"]["till"]["count"] == 3
        assert sum(place["wait"]["buckets"].values()) == sum(place["work"]["buckets"].values()) == 3
        assert service["lately"]["ended"] == 3
        assert service["lately"]["seconds"] > 0
        assert service["refused"] == {"": {"METHOD": 1}}
        assert stats["uptime"] > 0
        assert stats["process"]["cpu"] > 0
        assert stats["process"]["memory"] > 1_000_000
        assert stats["process"]["lag"] >= 0
        assert stats["process"]["reconnects"] == 0


async def test_calls_are_what_runs_and_what_waits_the_oldest_first_without_arguments(
    url: str, service_name: str
) -> None:
    async with shop_and_asking(url, service_name) as (shop, asking), AsyncClient(url, name="till") as client:
        one = asyncio.create_task(client.call(shop.hang))
        await until_calls(asking, service_name, 1)
        await client.cast(f"{service_name}.hang")
        (first, second) = await until_calls(asking, service_name, 2)
        assert first["age"] >= second["age"] >= 0
        assert 0 < first.pop("left") <= 60
        assert first.pop("age") < 60
        assert len(first.pop("call_id")) == 24
        assert first == {
            "service": service_name,
            "method": "hang",
            "caller": "till",
            "user": None,
            "attempt": 1,
            "kind": "call",
            "state": "running",
        }
        assert (second["kind"], second["left"]) == ("cast", None)
        shop.go.set()
        await one
        assert await until_calls(asking, service_name, 0) == []


async def until_calls(asking: Asking, name: str, count: int) -> list[dict[str, Any]]:
    while True:
        calls: list[dict[str, Any]] = (await ask(asking, "calls", name))["calls"]
        if len(calls) == count:
            return calls


async def test_a_process_that_takes_requests_of_all_its_services_is_healthy(url: str, service_name: str) -> None:
    async with shop_and_asking(url, service_name) as (_, asking):
        assert await ask(asking, "health", service_name) == {
            "healthy": True,
            "state": "serving",
            "checks": {"connection": True, "consuming": {service_name: True}},
        }


async def test_a_loop_that_was_blocked_shows_as_lag(url: str, service_name: str) -> None:
    async with shop_and_asking(url, service_name) as (_, asking):
        time.sleep(0.6)  # noqa: ASYNC251  # this is what is measured
        stats = await ask(asking, "stats", service_name)
        assert stats["process"]["lag"] > 0.3
