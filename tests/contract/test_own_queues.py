"""The queues of a server process itself: however they break, and whoever looks after them, there is one of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from tests.support.serving import serving
from tests.support.taking import Taking
from tests.support.waiting import until
from warren.broker import Broker
from warren.connection.link import Link
from warren.control.answering import Answering
from warren.server.inflows import ItemsQueue


class Own(NamedTuple):
    """A broker on which one server serves, and what looks after its own queues."""

    broker: Broker
    link: Link
    answering: Answering
    items: ItemsQueue

    def queues(self) -> list[int]:
        """How many consumers each of them has."""
        return [queue.consumers for queue in self.broker.status().queues if queue.exclusive]

    @property
    def whole(self) -> bool:
        return self.answering.hears and bool(self.items.name)


@pytest.fixture
async def own() -> AsyncIterator[Own]:
    taking = Taking("taking")
    with Broker() as broker:
        async with serving(taking.service, url=broker.url) as server:
            upkeep, items = server._upkeep, server._posts[0].uploads.queue
            assert upkeep.answering is not None
            assert upkeep.link is not None
            yield Own(broker, upkeep.link, upkeep.answering, items)


async def look_after(own: Own) -> None:
    """As a worker does every 30 s, while it repairs what has broken, and does so again."""
    await asyncio.gather(*(work(own.link) for work in (own.answering.look_after, own.items.look_after) * 3))


async def test_several_who_find_that_a_queue_is_gone_make_one_only(own: Own) -> None:
    own.broker.delete_queue(own.answering._queue)
    own.broker.delete_queue(own.items.name)
    await until(lambda: not own.answering.hears and not own.items.name)
    await look_after(own)
    await asyncio.sleep(0)
    await until(lambda: own.whole)
    await look_after(own)
    assert own.queues() == [1, 1]


async def test_a_queue_whose_channel_is_closed_goes_when_there_is_another(own: Own) -> None:
    broken: list[Any] = [own.answering._channel, own.items._channel]
    for channel in broken:
        channel.publish_unrouted(b"no such exchange", b"", b"\0\0", b"")
        channel.flush()
    await until(lambda: all(channel.closed for channel in broken))
    await look_after(own)
    await until(lambda: own.whole)
    assert own.queues() == [1, 1]
