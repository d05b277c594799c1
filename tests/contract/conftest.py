"""Fixtures of the contract suite."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.raw import raw_channel
from warren import AsyncClient


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
