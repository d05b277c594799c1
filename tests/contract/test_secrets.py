"""A password that expires is renewed on the open connection; calls go on meanwhile."""

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.proxy import Proxy
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Client, Secret, Service
from warren.amqp.methods import Connection, Method
from warren.broker import Broker
from warren.broker import conversation as of_broker
from warren.broker.errors import AmqpError

UPDATE = ("up", "Connection.UpdateSecret")


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    port = urlsplit(url).port
    assert port is not None
    with Proxy(port) as proxy:
        yield proxy


@pytest.fixture
def echo(service_name: str) -> Service:
    service = Service(service_name)

    @service.method
    async def echo(text: str) -> str:
        return text

    return service


async def test_client_and_worker_renew_a_secret_before_it_expires_and_stay_connected(
    proxy: Proxy, echo: Service
) -> None:
    async def password() -> Secret:
        return Secret("guest", expires_in=4)

    async with (
        serving(echo, url=proxy.url, password=password),
        AsyncClient(proxy.url, password=password, timeout=30) as client,
    ):
        assert await client.call(f"{echo.name}.echo", "before") == "before"
        await until(lambda: proxy.seen["down", "Connection.UpdateSecretOk"] >= 4)
        assert await client.call(f"{echo.name}.echo", "after") == "after"
    assert len(proxy.accepted) == 2, "nobody had to connect again"


async def test_one_that_cannot_be_renewed_ends_the_connection_when_it_expires(proxy: Proxy, echo: Service) -> None:
    given = 0

    def password() -> Secret:
        nonlocal given
        given += 1
        if given in (2, 3):
            raise OSError("no provider")
        return Secret("guest", expires_in=1 if given == 1 else 3600)

    proxy.drop("up", "Connection.UpdateSecret")  # and the broker never hears of the others
    async with serving(echo, url=proxy.url):
        before = len(proxy.accepted)
        async with AsyncClient(proxy.url, password=password, timeout=30) as client:
            await client.connect()
            await until(lambda: len(proxy.accepted) == before + 2)
            assert await client.call(f"{echo.name}.echo", "again") == "again"


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The secrets that the embedded broker was given: like RabbitMQ with OAuth 2 it refuses those that are wrong."""
    given: list[str] = []

    def update_secret(self: of_broker.Conversation, method: Method) -> None:
        given.append(method.new_secret)
        if given[-1].startswith("wrong"):
            raise AmqpError(530, "New secret was refused by one of the backends")
        self._send(Connection.UpdateSecretOk())

    monkeypatch.setitem(of_broker._METHODS[of_broker.Phase.RUNNING], Connection.UpdateSecret, update_secret)
    return given


def test_a_secret_that_the_broker_refuses_costs_the_connection_and_the_next_one_asks_again(picky: list[str]) -> None:
    secrets = iter([Secret("guest", 0.5), Secret("wrong", 60), Secret("guest", 0.5), Secret("ünder")])

    with Broker() as broker, Client(broker.url, password=lambda: next(secrets), timeout=30) as client:
        client.connect()
        asyncio.run(until(lambda: len(picky) == 2))
        client.connect()
    assert picky == ["wrong", "ünder"]
