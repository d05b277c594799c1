"""A worker without a broker: what it does with each delivery is written down, and held against the rules."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from warren import Service, current_call
from warren.amqp import frames
from warren.amqp.frames import Delivery, FrameError, Properties, decode_properties
from warren.connection.channel import HotChannel
from warren.server.worker import Worker

FRAME_MAX = 131_072


class FakeChannel:
    """Stands for a `HotChannel`.

    Attributes:
        settlements: how often each delivery was acknowledged or rejected.
        published: routing key and property bytes of all that was published.
    """

    closed: Exception | None = None
    receiver: Any = None
    room = FRAME_MAX - frames.OVERHEAD - frames.CONTENT_HEAD

    def __init__(self) -> None:
        self.settlements: dict[int, int] = {}
        self.published: list[tuple[bytes, bytes]] = []
        self._tags = 0

    def ack(self, tag: int) -> None:
        self.settlements.setdefault(tag, 1)  # once more is no error: the real one ignores it

    def reject(self, tag: int) -> None:
        self.settlements[tag] = self.settlements.get(tag, 0) + 1

    def publish(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> int:
        frames.publish_frame(1, exchange, routing_key, mandatory=True)  # raises on what cannot be written
        frames.content_frames(1, properties, body, FRAME_MAX)
        assert len(properties) <= self.room, "the header does not fit into a frame"
        decode_properties(properties)
        self.published.append((routing_key, properties))
        self.on_publish()
        self._tags += 1
        return self._tags

    def on_publish(self) -> None:
        """Set by whoever confirms."""

    def publish_unrouted(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> None:
        self.publish(exchange, routing_key, properties, body)

    def flush(self) -> None: ...
    async def settled(self) -> None: ...
    async def close(self) -> None: ...
    def attach(self, receiver: Any, *, body_limit: int) -> None:
        self.receiver = receiver


def make_service() -> Service:
    """Methods of all delivery modes, with signatures that can be got wrong."""
    service = Service("any")

    @service.method(default=True)
    async def text(value: str) -> str:
        return value

    @service.method
    async def typed(n: int, names: list[str], more: dict[str, float] | None = None) -> list[str]:
        return names * min(n, 3)

    @service.method(name="again", delivery="at-least-once")
    async def again(value: Any) -> Any:
        return value

    @service.method(name="once", delivery="at-most-once")
    async def once(value: bytes) -> object:
        current_call()
        raise ValueError(value)

    return service


class Bench:
    """A worker of `make_service` and its fake channel; make it where an event loop runs."""

    def __init__(self, *, draining: bool = False) -> None:
        self.channel = FakeChannel()
        self.elsewhere = FakeChannel()
        self.worker = Worker(make_service(), 10, "server", "a process")
        self.worker.copies.attach(cast(HotChannel, self.elsewhere))
        loop = asyncio.get_running_loop()
        self.elsewhere.on_publish = lambda: loop.call_soon(self._confirm)  # type: ignore[method-assign, assignment]
        if draining:
            self.worker.stop_taking()

    async def take(self, delivery: Delivery) -> None:
        """Let the worker handle a delivery to its end, and check what it owes to everybody."""
        self.worker.delivered(cast(HotChannel, self.channel), delivery)
        self.worker.hand_back()
        await self.worker.finish_running(10.0)
        assert self.channel.settlements == {delivery.tag: 1}, "each delivery is settled once"
        self._check_replies(delivery)

    def _confirm(self) -> None:
        self.elsewhere.receiver.confirmed(len(self.elsewhere.published), True)

    def _check_replies(self, delivery: Delivery) -> None:
        try:
            p = decode_properties(delivery.properties)
        except FrameError:
            p = Properties()
        assert len(self.channel.published) + len(self.elsewhere.published) <= 2, "a copy and a reply at the most"
        assert len(self.channel.published) <= (1 if p.reply_to else 0), "one reply, where one is wanted"
        for key, properties in self.channel.published:
            assert key == p.reply_to
            assert decode_properties(properties).correlation_id == (p.correlation_id or b"")
