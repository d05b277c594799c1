"""Fixtures of the contract suite: every test of it runs on RabbitMQ and on the embedded broker.

A test that asks for `url` or `broker`, directly or not, is run once on each. One that needs what the embedded broker
does not have is marked ``rabbitmq_only(reason)``; the reasons are listed in docs/embedded-broker.md.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.contract.brokers import BOTH, BrokerUnderTest, Embedded, RabbitMQ
from tests.support.raw import raw_channel
from warren import AsyncClient
from warren.broker import Broker


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "broker_kind" in metafunc.fixturenames:
        only_one = metafunc.definition.get_closest_marker("rabbitmq_only") is not None
        metafunc.parametrize("broker_kind", BOTH[:1] if only_one else BOTH, scope="session")


@pytest.fixture(scope="session")
def embedded() -> Iterator[Broker]:
    """The session's embedded broker."""
    with Broker() as broker:
        yield broker


@pytest.fixture(scope="session")
def broker(broker_kind: str, request: pytest.FixtureRequest) -> BrokerUnderTest:
    """The broker that the test runs on."""
    if broker_kind == "embedded":
        return Embedded(request.getfixturevalue("embedded"))
    return RabbitMQ(request.getfixturevalue("rabbit"))


@pytest.fixture(scope="session")
def url(broker: BrokerUnderTest) -> str:
    """Its AMQP URL."""
    return broker.url


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    """A connected client that calls itself ``the-tests``."""
    async with AsyncClient(url, name="the-tests") as client:
        await client.connect()
        yield client


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A plain Pika channel."""
    with raw_channel(url) as channel:
        yield channel
