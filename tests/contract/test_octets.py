"""Items that are bytes: they come as they were, small or large, in any encoding, both ways."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.serving import serving, serving_in_thread
from warren import AsyncClient, Client, InvalidArgument, Overloaded, Service
from warren.protocol.streaming import MOST_TOGETHER

MiB = 1024 * 1024
SIZES = (0, 1, MOST_TOGETHER - 3, MOST_TOGETHER, MOST_TOGETHER + 1, 3, 3, 200_000, 2 * MiB, 5, MiB)


def items() -> list[bytes]:
    rng = random.Random(1)
    return [rng.randbytes(size) for size in SIZES]


class Octets:
    """Sends back what it gets."""

    def __init__(self, name: str) -> None:
        self.service = service = Service(name)

        @service.method
        async def on_loop(given: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for one in given:
                yield one

        @service.method
        def in_thread(given: Iterator[bytes]) -> Iterator[bytes]:
            yield from given

        @service.method
        async def anything(given: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for one in given:
                yield one

        @service.method
        async def texts(given: AsyncIterator[str]) -> int:
            return len([one async for one in given])

        @service.method
        async def large() -> AsyncIterator[bytes]:
            yield b"x"
            yield bytes(service.max_message_size + 1)

        self.on_loop, self.in_thread, self.anything, self.texts, self.large = on_loop, in_thread, anything, texts, large


@pytest.fixture
def octets(service_name: str) -> Octets:
    return Octets(service_name)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("kind", ["on_loop", "in_thread"])
async def test_they_come_as_they_were(url: str, octets: Octets, kind: str, encoding: Any) -> None:
    async with serving(octets.service, url=url), AsyncClient(url, timeout=60, encoding=encoding) as client:
        assert [one async for one in client.converse(getattr(octets, kind), items())] == items()


def test_they_come_to_a_thread_as_they_were(url: str, octets: Octets) -> None:
    with serving_in_thread(octets.service, url), Client(url, timeout=60, encoding="msgpack") as client:
        assert list(client.converse(octets.on_loop, items())) == items()


async def test_they_are_bytes_where_their_type_is_not_said(url: str, octets: Octets) -> None:
    async with serving(octets.service, url=url), AsyncClient(url, timeout=60, encoding="msgpack") as client:
        name = f"{octets.service.name}.anything"
        mixed = ["text", bytes(100_000), 1, b"small", [b"x" * 100_000]]
        assert [one async for one in client.converse(name, mixed)] == mixed
        assert [one async for one in client.converse(name, mixed[1:2], returns=bytes)] == mixed[1:2]


async def test_they_are_refused_where_text_is_taken_with_the_number_of_the_item(url: str, octets: Octets) -> None:
    async with serving(octets.service, url=url), AsyncClient(url, timeout=60, encoding="msgpack") as client:
        with pytest.raises(InvalidArgument, match="item 1 must be a str, not bytes"):
            await client.upload(f"{octets.service.name}.texts", ["a", bytes(100_000)])


async def test_one_that_is_too_large_is_refused_on_either_side(url: str, octets: Octets) -> None:
    async with serving(octets.service, url=url), AsyncClient(url, timeout=60, encoding="msgpack") as client:
        with pytest.raises(Overloaded, match="item 1 has"):
            assert [one async for one in client.stream(octets.large)]
        async with AsyncClient(url, timeout=60, encoding="msgpack", max_message_size=100_000) as narrow:
            with pytest.raises(Overloaded, match="item 1 has 100001 bytes"):
                await narrow.upload(f"{octets.service.name}.texts", ["a", bytes(100_001)])
