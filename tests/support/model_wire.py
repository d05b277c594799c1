"""A broker between a client's real objects and a worker's: what is published comes when the test lets it.

It has queues, bindings, acknowledgements and returns; and a kind for each queue, by which messages can be held up, lost
and muddled. What a link was told lies in its outbox while that is held up, and is lost with the link.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from warren.amqp import frames
from warren.amqp.frames import Delivery, Properties, decode_properties, shortstr
from warren.connection.channel import Returned
from warren.connection.errors import ChannelClosed, LinkLost
from warren.connection.supervisor import State
from warren.errors import CallError, Code, Execution, make_error
from warren.protocol import topology

ROUTE = b"\x06warren\x03any"
KINDS = ("requests", "replies", "control", "items")


@dataclass(eq=False)
class Message:
    """A message in a queue."""

    properties: bytes
    body: bytes
    redelivered: bool = False

    @property
    def p(self) -> Properties:
        return decode_properties(self.properties)


@dataclass(eq=False)
class Queue:
    """A queue, and who consumes it."""

    name: str
    kind: str
    link: WireLink | None  # whose alone it is
    messages: deque[Message] = field(default_factory=deque)
    consumer: WireChannel | None = None
    no_ack: bool = False


class Wire:
    """The broker."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.bindings: dict[tuple[str, str], list[str]] = {}
        self.links: list[WireLink] = []
        self.held: set[str] = set()  # kinds of queues of which nothing is delivered
        self.on_publish: Callable[[str, str, Properties, bytes], None] = lambda *_: None
        self.on_dropped: Callable[[Message], None] = lambda _message: None
        self._names = itertools.count(1)

    # --- queues -------------------------------------------------------------------------------------------------

    def declare(self, name: str, kind: str, link: WireLink | None) -> str:
        name = name or f"amq.gen-{next(self._names)}"
        self.queues.setdefault(name, Queue(name, kind, link))
        return name

    def delete(self, name: str) -> None:
        queue = self.queues.pop(name, None)
        if queue is not None:
            for message in queue.messages:
                self.on_dropped(message)
            if queue.consumer is not None and queue.consumer.closed is None:
                queue.consumer.consumes = False
                queue.consumer.receiver.consumer_cancelled(queue.consumer)

    def of_kind(self, kind: str) -> list[Queue]:
        return [queue for queue in self.queues.values() if queue.kind == kind]

    # --- messages -----------------------------------------------------------------------------------------------

    def route(self, exchange: str, key: str, message: Message) -> bool:
        if exchange in (topology.CONTROL_EXCHANGE, topology.BOUNCE_EXCHANGE):
            names = self.bindings.get((exchange, key), [])
        else:
            names = [key]
        queues = [self.queues[name] for name in names if name in self.queues]
        for queue in queues:
            queue.messages.append(Message(message.properties, message.body))
        if not queues:
            self.on_dropped(message)
        return bool(queues)

    def step(self) -> bool:
        """Bring one message one step further, where that is not held up; whether there was one."""
        for link in self.links:
            if link.outbox and not link.held:
                link.outbox.popleft()()
                return True
        return any(self.deliver(queue) for queue in list(self.queues.values()) if queue.kind not in self.held)

    def deliver(self, queue: Queue) -> bool:
        """Hand the first message of a queue to its consumer, if there are both; a link that is held up is slow."""
        channel = queue.consumer
        if channel is None or channel.closed is not None or not queue.messages:
            return False
        message = queue.messages.popleft()
        channel.tag += 1
        delivery = Delivery(channel.tag, message.redelivered, ROUTE)
        delivery.properties, delivery.body_size, delivery.body = message.properties, len(message.body), message.body
        if not queue.no_ack:
            channel.unacked[channel.tag] = queue, message
        channel.receiver.delivered(channel, delivery)
        return True


class WireChannel:
    """Stands for a `HotChannel`."""

    room = 131_072 - frames.OVERHEAD - frames.CONTENT_HEAD

    def __init__(self, link: WireLink) -> None:
        self.link = link
        self.wire = link.wire
        self.closed: Exception | None = None
        self.on_closed: Callable[[Exception], None] | None = None
        self.receiver: Any = None
        self.confirming = False
        self.consumes = False
        self.consumers: list[str] = []
        self.tag = self.published = 0
        self.unacked: dict[int, tuple[Queue, Message]] = {}

    def attach(self, receiver: Any, *, body_limit: int) -> None:
        self.receiver = receiver

    # --- what is published and acknowledged ---------------------------------------------------------------------

    def publish(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> int:
        return self._publish(exchange, routing_key, properties, body, mandatory=True)

    def publish_unrouted(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> None:
        self._publish(exchange, routing_key, properties, body, mandatory=False)

    def _publish(self, exchange: bytes, key: bytes, properties: bytes, body: bytes, *, mandatory: bool) -> int:
        shortstr(key)
        if self.closed is not None:
            return 0
        self.published += 1
        tag = self.published
        self.wire.on_publish(exchange.decode(), key.decode(), decode_properties(properties), body)
        self.link.outbox.append(lambda: self._arrives(tag, exchange, key, Message(properties, body), mandatory))
        return tag

    def _arrives(self, tag: int, exchange: bytes, key: bytes, message: Message, mandatory: bool) -> None:
        routed = self.wire.route(exchange.decode(), key.decode(), message)
        if mandatory and not routed:
            self.receiver.returned(Returned((exchange, key), message.p.correlation_id, "NO_ROUTE"))
        if self.confirming and self.closed is None:
            self.receiver.confirmed(tag, False)

    def ack(self, tag: int) -> None:
        self.link.outbox.append(lambda: self.unacked.pop(tag, None))

    reject = ack

    def flush(self) -> None:
        pass

    # --- what is asked ------------------------------------------------------------------------------------------

    async def declare_exchange(self, name: str, kind: str) -> None: ...
    async def qos(self, prefetch: int) -> None: ...
    async def widen(self, more: int) -> None: ...

    async def declare_queue(self, name: str, *, arguments: Any = None) -> None:
        self.wire.declare(name, "replies", None)

    async def declare_reply_queue(self, *, arguments: Any) -> str:
        kinds = {id(topology.ITEMS_ARGUMENTS): "items", id(topology.REPLY_ARGUMENTS): "replies"}
        kind = kinds.get(id(arguments), "control")
        return self.wire.declare("", kind, self.link)

    async def delete_queue(self, name: str) -> None:
        self.wire.delete(name)

    async def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        bound = self.wire.bindings.setdefault((exchange, routing_key), [])
        if queue not in bound:
            bound.append(queue)

    async def inspect_queue(self, name: str) -> tuple[int, int]:
        return len(self.wire.queues[name].messages), 1

    async def confirm(self) -> None:
        self.confirming = True

    async def consume(self, queue: str, *, no_ack: bool, priority: int = 0) -> None:
        if self.closed is not None:
            raise self.closed
        found = self.wire.queues[queue]
        found.consumer, found.no_ack = self, no_ack
        self.consumes = True

    async def settled(self) -> None:
        if self.closed is not None:
            raise self.closed

    async def cancel(self, *, window: int = 0) -> None:
        self.consumes = False

    async def close(self) -> None:
        self.close_with(LinkLost("closed by us"))

    # --- what the broker does -----------------------------------------------------------------------------------

    def close_with(self, reason: Exception) -> None:
        """It is gone; what is unacknowledged is in its queue again."""
        if self.closed is not None:
            return
        self.closed, self.consumes = reason, False
        for queue, message in reversed(self.unacked.values()):
            message.redelivered = True
            queue.messages.appendleft(message)
        self.unacked.clear()
        if self in self.link.channels:
            self.link.channels.remove(self)
        if self.on_closed is not None:
            self.on_closed(reason)


class WireLink:
    """Stands for a `Link`.

    Attributes:
        held: whether what it was told waits.
    """

    peer = "model"
    blocked: str | None = None
    writable = True
    may_not_declare_control = False

    def __init__(self, wire: Wire, on_close: Callable[[], None]) -> None:
        self.wire = wire
        self.channels: list[WireChannel] = []
        self.outbox: deque[Callable[[], object]] = deque()
        self.held = self.gone = False
        self.closed: asyncio.Future[LinkLost] = asyncio.get_running_loop().create_future()
        self._on_close = on_close
        wire.links.append(self)

    def on_writable(self, callback: Callable[[], None]) -> None: ...

    async def channel(self) -> WireChannel:
        return await self.hot_channel()

    async def hot_channel(self) -> WireChannel:
        await asyncio.sleep(0)
        if self.gone:
            raise LinkLost("gone")
        channel = WireChannel(self)
        self.channels.append(channel)
        return channel

    async def close(self, patience: float = 3.0) -> None:
        if not self.gone:
            self._on_close()

    def break_off(self) -> None:
        """It is gone, with what it was told and was not read, and with the queues that are its own."""
        self.gone = True
        self.closed.set_result(LinkLost("gone"))
        self.outbox.clear()
        self.wire.links.remove(self)
        for channel in list(self.channels):
            channel.close_with(LinkLost("gone"))
        for queue in [queue for queue in self.wire.queues.values() if queue.link is self]:
            queue.consumer = None
            self.wire.delete(queue.name)


def lost() -> CallError:
    """What the supervisor says of a lost link."""
    return make_error(Code.UNAVAILABLE, "NOT_CONNECTED", "lost", execution=Execution.NOT_SENT)


class WireSupervisor:
    """Stands for a `Supervisor`: the test connects and breaks off."""

    links = 0

    def __init__(self, wire: Wire, *, setup: Any, lost: Any, failed: Any) -> None:
        self.wire = wire
        self.state = State.CLOSED
        self.failure: CallError | None = None
        self.link: WireLink | None = None
        self._setup, self._lost, self.failed = setup, lost, failed

    def start(self) -> None:
        self.state = State.CONNECTING

    async def connect(self) -> None:
        link = WireLink(self.wire, self.lose)
        await self._setup(link)
        self.link, self.state, self.failure = link, State.OPEN, None

    def lose(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            self.state, self.failure = State.WAITING, lost()
            link.break_off()
            self._lost(lost())

    async def close(self, patience: float) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.break_off()
        self.state = State.CLOSED


def closed_by_broker() -> ChannelClosed:
    """Why a channel may be closed."""
    return ChannelClosed(406, "PRECONDITION_FAILED")
