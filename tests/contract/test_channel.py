"""What a hot channel knows of its acknowledgements: written is not taken."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.raw import depth
from warren.amqp.frames import Delivery, Properties, encode_properties
from warren.connection.channel import HotChannel, Returned
from warren.connection.dial import open_link
from warren.connection.errors import ChannelClosed, LinkLost
from warren.connection.link import Link
from warren.connection.settings import make_settings

MESSAGES = 3


class Inbox:
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.tags: asyncio.Queue[int] = asyncio.Queue()
        self.bounces: asyncio.Queue[Returned] = asyncio.Queue()

    def delivered(self, _channel: HotChannel, delivery: Delivery) -> None:
        self.tags.put_nowait(delivery.tag)

    def confirmed(self, tag: int, multiple: bool) -> None: ...
    def refused(self, tag: int, multiple: bool) -> None: ...

    def returned(self, message: Returned) -> None:
        self.bounces.put_nowait(message)

    def consumer_cancelled(self, channel: HotChannel) -> None: ...


@pytest.fixture
async def link(url: str) -> AsyncIterator[Link]:
    settings = make_settings(url)
    link = await open_link(settings, *settings.hosts[0])
    yield link
    await link.close()


@pytest.fixture
def queue(raw: Any, service_name: str) -> str:
    """A queue with messages."""
    raw.queue_declare(service_name, durable=True)
    for _ in range(MESSAGES):
        raw.basic_publish("", service_name, b"x")
    return service_name


async def consume(link: Link, queue: str) -> tuple[HotChannel, list[int]]:
    """A channel that consumes the queue, and the tags of its messages."""
    inbox = Inbox()
    channel = await link.hot_channel()
    channel.attach(inbox, body_limit=1000)
    await channel.qos(MESSAGES)
    await channel.consume(queue, no_ack=False)
    return channel, [await asyncio.wait_for(inbox.tags.get(), 20) for _ in range(MESSAGES)]


async def test_what_is_settled_does_not_come_back_when_the_connection_is_lost(link: Link, queue: str, raw: Any) -> None:
    channel, (first, second, _third) = await consume(link, queue)
    channel.ack(first)
    channel.reject(second)
    await channel.settled()
    link.stream.fail(ConnectionError("cut by the test"))
    await link.closed
    while not depth(raw, queue):
        await asyncio.sleep(0.02)
    assert depth(raw, queue) == 1


async def test_acks_that_a_cancel_holds_back_are_settled_behind_it(link: Link, queue: str, raw: Any) -> None:
    channel, tags = await consume(link, queue)
    cancelling = asyncio.create_task(channel.cancel(window=MESSAGES))
    await asyncio.sleep(0)
    for tag in tags:
        channel.ack(tag)
    await channel.settled()
    link.stream.fail(ConnectionError("cut by the test"))
    await asyncio.gather(cancelling, return_exceptions=True)
    await link.closed
    while raw.queue_declare(queue, passive=True).method.consumer_count:
        await asyncio.sleep(0.02)
    assert depth(raw, queue) == 0


async def test_many_who_wait_at_once_share_round_trips(link: Link, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    channel, tags = await consume(link, queue)
    asked: list[int] = []
    ask = channel._raw.basic_qos

    def count(prefetch_count: int, callback: Any) -> None:
        asked.append(prefetch_count)
        ask(prefetch_count=prefetch_count, callback=callback)

    monkeypatch.setattr(channel._raw, "basic_qos", count)
    channel.ack(tags[0])
    await asyncio.gather(*(channel.settled() for _ in range(50)))
    assert asked == [MESSAGES] * 2  # the one under way, and one for all who came since


async def test_a_waiter_that_goes_leaves_the_others_waiting_for_their_answer(link: Link, queue: str) -> None:
    channel, _tags = await consume(link, queue)
    first, second = (asyncio.create_task(channel.settled()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 20)
    assert first.cancelled()
    await asyncio.wait_for(channel.settled(), 20)


async def test_a_round_trip_that_cannot_begin_fails_and_the_next_one_begins(
    link: Link, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _tags = await consume(link, queue)

    def fail() -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(link.stream, "flush", fail)
        with pytest.raises(MemoryError):
            await channel.settled()
    await asyncio.wait_for(channel.settled(), 20)


async def test_a_channel_that_is_closed_instead_says_so(link: Link, queue: str) -> None:
    channel, tags = await consume(link, queue)
    channel.ack(tags[0])
    channel.publish(b"there is no such exchange", b"x", b"\0\0", b"")
    with pytest.raises(ChannelClosed) as caught:
        await channel.settled()
    assert caught.value.code == 404
    with pytest.raises(ChannelClosed):
        await channel.settled()


async def test_a_connection_that_goes_meanwhile_ends_the_waiting(link: Link, queue: str) -> None:
    channel, tags = await consume(link, queue)
    channel.ack(tags[0])
    waiting = asyncio.create_task(channel.settled())
    await asyncio.sleep(0)
    link.stream.fail(ConnectionError("cut by the test"))
    with pytest.raises(LinkLost):
        await waiting


async def test_a_bounce_with_a_route_and_an_id_that_are_no_text_comes_as_it_was_sent(link: Link) -> None:
    inbox, noise = Inbox(), b"\xff\xfe\x00"
    channel = await link.hot_channel()
    channel.attach(inbox, body_limit=1000)
    channel.publish(b"", noise, encode_properties(Properties(correlation_id=noise)), b"x")
    bounce = await asyncio.wait_for(inbox.bounces.get(), 20)
    assert (bounce.route, bounce.correlation_id) == ((b"", noise), noise)
    assert not link.closed.done()
