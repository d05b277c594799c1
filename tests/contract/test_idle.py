"""Proxies and load balancers that close connections on which nothing moves; a second here is fifteen in real life."""

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.proxy import Proxy
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Service
from warren.connection.settings import DEFAULT_HEARTBEAT

#: After a minute, say.
LIMIT = 60 / DEFAULT_HEARTBEAT


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    port = urlsplit(url).port
    assert port is not None
    with Proxy(port) as proxy:
        proxy.idle_limit = LIMIT
        yield proxy


@pytest.fixture
def echo(service_name: str) -> Service:
    service = Service(service_name)

    @service.method
    async def echo(text: str) -> str:
        return text

    return service


async def test_heartbeats_keep_a_connection_on_which_nothing_else_moves(proxy: Proxy, echo: Service) -> None:
    async with (
        serving(echo, url=proxy.url, heartbeat=1, liveness_timeout=600),
        AsyncClient(proxy.url, heartbeat=1, liveness_timeout=600, timeout=30) as client,
    ):
        await client.connect()
        beats = proxy.seen["up", "Heartbeat"]
        await asyncio.sleep(2 * LIMIT)
        assert proxy.seen["up", "Heartbeat"] > beats
        assert len(proxy.accepted) == 2
        assert await client.call(f"{echo.name}.echo", "still here") == "still here"


async def test_without_heartbeats_it_is_closed_and_an_idle_client_is_back_before_the_next_call(
    proxy: Proxy, echo: Service
) -> None:
    async with (
        serving(echo, url=proxy.url, heartbeat=0, liveness_timeout=600),
        AsyncClient(proxy.url, heartbeat=0, liveness_timeout=600, timeout=30) as client,
    ):
        await client.connect()
        await until(lambda: len(proxy.accepted) >= 4)
        proxy.idle_limit = float("inf")
        quickly = client.options(timeout=10)
        assert await quickly.call(f"{echo.name}.echo", "back") == "back"
