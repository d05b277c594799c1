"""A broker with one service's queue, as a plain model: what happens in it, and when, is the test's to say.

What a channel is told waits in its outbox until `read`: an ack that was given may get lost with its channel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from warren.amqp import frames
from warren.amqp.frames import Delivery, decode_properties
from warren.connection.channel import Returned
from warren.connection.errors import ChannelClosed, LinkLost

FRAME_MAX = 131_072
ROUTE = b"\x06warren\x03any"


@dataclass(eq=False)
class Message:
    """A message in the broker; `request` is the model's, the same for all its copies."""

    request: Any
    properties: bytes
    body: bytes
    redelivered: bool = False
    large: bool = False  # larger than the worker takes


@dataclass(eq=False)
class Handed:
    """A delivery: what the worker has got, and how often it has settled it."""

    message: Message
    channel: ModelChannel
    tag: int
    settled: list[str] = field(default_factory=list)
    copied: bool = False  # whether a copy was published into its queue


class ModelChannel:
    """Stands for a `HotChannel`."""

    room = FRAME_MAX - frames.OVERHEAD - frames.CONTENT_HEAD

    def __init__(self, broker: ModelBroker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.closed: Exception | None = None
        self.on_closed: Callable[[Exception], None] | None = None
        self.receiver: Any = None
        self.outbox: deque[tuple[Any, ...]] = deque()
        self.inbox: deque[tuple[str, int, bool]] = deque()  # confirms and refusals on their way to us
        self.unacked: dict[int, Handed] = {}
        self.handed: dict[int, Handed] = {}
        self._published = 0
        self._tag = 0

    @property
    def next_tag(self) -> int:
        """The tag of the next delivery."""
        return self._tag + 1

    # --- what the worker calls ----------------------------------------------------------------------------------

    def attach(self, receiver: Any, *, body_limit: int) -> None:
        self.receiver = receiver

    def ack(self, tag: int) -> None:
        self._settle("ack", tag)

    def reject(self, tag: int) -> None:
        self._settle("reject", tag)

    def _settle(self, how: str, tag: int) -> None:
        handed = self.handed[tag]
        if self.closed is None:
            handed.settled.append(how)
            once = len(handed.settled) == 1
            self.broker.hold(once, f"{handed.message.request} is settled twice: {handed.settled}")
            if not once:
                return
            self.outbox.append((how, tag))

    def publish(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> int:
        frames.publish_frame(1, exchange, routing_key, mandatory=True)
        frames.content_frames(1, properties, body, FRAME_MAX)
        self.broker.hold(len(properties) <= self.room, "properties of more than a frame")
        self._published += 1
        if self.closed is None:
            self.broker.on_publish(self, routing_key, properties)
            self.outbox.append(("publish", self._published, exchange, routing_key, properties, body))
        return self._published

    def publish_unrouted(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> None:
        self.publish(exchange, routing_key, properties, body)

    def flush(self) -> None:
        pass

    async def settled(self) -> None:
        if self.closed is not None:
            raise self.closed
        answer = asyncio.get_running_loop().create_future()
        self.outbox.append(("ask", answer))
        await answer

    async def close(self) -> None:
        self.lose(LinkLost("closed by us"))

    # --- what the broker does -----------------------------------------------------------------------------------

    def deliver(self, message: Message) -> Handed:
        self._tag += 1
        handed = self.unacked[self._tag] = self.handed[self._tag] = Handed(message, self, self._tag)
        delivery = Delivery(self._tag, message.redelivered, ROUTE)
        delivery.properties, delivery.body_size = message.properties, len(message.body)
        delivery.body = None if message.large else message.body
        self.broker.handed.append(handed)
        self.receiver.delivered(self, delivery)
        return handed

    def read(self, fate: str = "take") -> bool:
        """The broker takes the next thing that it was told; what is published meets this fate."""
        if not self.outbox or self.closed is not None:
            return False
        what, *rest = self.outbox.popleft()
        if what == "ask":
            if not rest[0].done():
                rest[0].set_result(None)
        elif what == "publish":
            self._published_arrives(fate, *rest)
        else:
            self.broker.take_off(self.unacked.pop(rest[0]), rejected=what == "reject")
        return True

    def _published_arrives(self, fate: str, tag: int, exchange: bytes, key: bytes, head: bytes, body: bytes) -> None:
        if fate == "close" and self.name == "copies":
            self.lose(ChannelClosed(404, "no exchange"))
        elif fate == "refuse" and self.name == "copies":
            self.inbox.append(("refused", tag, False))
        elif fate == "refuse taken" and self.name == "copies":  # as a node that goes down refuses
            self.broker.route(self, key, head, body)
            self.broker.on_refused_taken(head)
            self.inbox.append(("refused", tag, False))
        elif fate == "return" and self.name == "copies":
            returned = Returned((exchange, key), decode_properties(head).correlation_id, "NO_ROUTE")
            self.receiver.returned(returned)
            self.inbox.append(("confirmed", tag, False))
        else:
            self.broker.route(self, key, head, body)
            if self.name == "copies":
                self.inbox.append(("confirmed", tag, False))

    def answer(self, count: int = 1) -> bool:
        """Confirms arrive: so many of one kind as one frame."""
        if not self.inbox or self.closed is not None:
            return False
        what, tag, _ = self.inbox.popleft()
        multiple = False
        while count > 1 and self.inbox and self.inbox[0][0] == what:
            tag, multiple, count = self.inbox.popleft()[1], True, count - 1
        getattr(self.receiver, what)(tag, multiple)
        return True

    def lose(self, reason: Exception) -> None:
        """The channel is gone, and what was on its way with it; what is unacknowledged is in its queue again."""
        if self.closed is not None:
            return
        self.closed = reason
        for what, *rest in self.outbox:
            if what == "ask" and not rest[0].done():
                rest[0].set_exception(reason)
        self.outbox.clear()
        self.inbox.clear()
        for handed in reversed(self.unacked.values()):
            self.broker.give_back(handed)
        self.unacked.clear()
        if self.on_closed is not None:
            self.on_closed(reason)


class ModelBroker:
    """The queue of service ``any``, its dead queue, and the replies."""

    def __init__(self) -> None:
        self.queue: deque[Message] = deque()
        self.dead: list[Message] = []
        self.handed: list[Handed] = []
        self.replies: list[tuple[bytes, bytes, bytes]] = []
        self.wrong: list[str] = []
        self.requests: dict[bytes, Any] = {}  # by correlation id
        self.on_publish: Callable[[ModelChannel, bytes, bytes], None] = lambda *_: None
        self.on_reply: Callable[[bytes], None] = lambda _: None
        self.on_back: Callable[[Handed], None] = lambda _: None
        self.on_refused_taken: Callable[[bytes], None] = lambda _: None
        self.on_rejected: Callable[[Handed], None] = lambda _: None

    def hold(self, truth: object, otherwise: str) -> None:
        """An assertion whose failure nobody can catch: the worker catches whatever is raised in its calls."""
        if not truth:
            self.wrong.append(otherwise)

    def route(self, channel: ModelChannel, key: bytes, head: bytes, body: bytes) -> None:
        if key == b"any":
            self.queue.append(Message(self.requests[decode_properties(head).correlation_id or b""], head, body))
        elif key == b"any.dead":
            self.dead.append(Message(self.requests[decode_properties(head).correlation_id or b""], head, body))
        else:
            self.replies.append((key, head, body))
            self.on_reply(head)

    def take_off(self, handed: Handed, *, rejected: bool) -> None:
        if rejected:
            self.dead.append(handed.message)
            self.on_rejected(handed)

    def give_back(self, handed: Handed) -> None:
        handed.message.redelivered = True
        self.queue.appendleft(handed.message)
        self.on_back(handed)
