"""The channels of a link. What is waited for goes through Pika, messages and their acknowledgements past it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol

from pika import spec
from pika.channel import Channel as PikaChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker

from warren.amqp import frames
from warren.amqp.acks import Acks
from warren.amqp.frames import Delivery, decode_properties
from warren.connection.diagnosis import describe
from warren.connection.errors import ChannelClosed, LinkLost
from warren.connection.futures import reject, resolve
from warren.connection.stream import Stream

#: Seconds between two looks at whether more is to come, before a consumer is stopped; how many in a row have to see
#: nothing new; and for how long that is waited at most.
_LOOK, _QUIET_LOOKS, _FILLING = 0.05, 4, 3.0


def nothing() -> None:
    """Who hears of answers where nobody wants to."""


class Channel:
    """A channel; each operation waits for the broker's answer.

    Operations raise `ChannelClosed` when the broker closes the channel instead of answering, and `LinkLost` when
    the connection goes.

    Attributes:
        on_answer: called whenever the broker has answered.
    """

    def __init__(self, raw: PikaChannel, stream: Stream) -> None:
        self.on_answer: Callable[[], None] = nothing
        self._stream = stream
        self.number: int = raw.channel_number
        self.pending: set[asyncio.Future[Any]] = set()
        self.on_closed: Callable[[Exception], None] | None = None
        self.closed: Exception | None = None
        self._raw = raw
        self._prefetch = 0
        raw.add_on_close_callback(self._on_close)

    async def declare_exchange(self, name: str, kind: str, *, auto_delete: bool = False) -> None:
        """Declare a durable exchange; with `auto_delete` it goes with the last of what is bound to it."""
        await self._ask(self._raw.exchange_declare, name, kind, durable=True, auto_delete=auto_delete)

    async def declare_queue(self, name: str, *, arguments: dict[str, Any] | None = None) -> None:
        """Declare a durable queue."""
        await self._ask(self._raw.queue_declare, name, durable=True, arguments=arguments)

    async def declare_reply_queue(self, *, arguments: dict[str, Any] | None = None) -> str:
        """Declare an exclusive queue; the broker names it."""
        frame = await self._ask(self._raw.queue_declare, "", exclusive=True, arguments=arguments)
        return str(frame.method.queue)

    async def inspect_queue(self, name: str) -> tuple[int, int]:
        """Messages ready and consumers of a queue; it must exist."""
        frame = await self._ask(self._raw.queue_declare, name, passive=True)
        return frame.method.message_count, frame.method.consumer_count

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with all that is in it; one that does not exist is ignored."""
        await self._ask(self._raw.queue_delete, name)

    async def bind(
        self, queue: str, exchange: str, routing_key: str, *, arguments: dict[str, Any] | None = None
    ) -> None:
        await self._ask(self._raw.queue_bind, queue, exchange, routing_key, arguments=arguments)

    async def bind_exchange(self, to: str, exchange: str, routing_key: str) -> None:
        """Let one exchange have what another gets under a key."""
        await self._ask(self._raw.exchange_bind, to, exchange, routing_key)

    async def qos(self, prefetch: int) -> None:
        """At most `prefetch` unacknowledged deliveries at a time, for consumers that start from now on."""
        self._prefetch = prefetch
        await self._ask(self._raw.basic_qos, prefetch_count=prefetch)

    async def close(self) -> None:
        if self._raw.is_open:
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._raw.add_on_close_callback(lambda _channel, _reason: resolve(done, None))
            self._raw.close()
            await done

    def drop(self) -> None:
        """Close it, if it is not closed, without waiting for that, as whoever was cancelled cannot."""
        if not (self._raw.is_closing or self._raw.is_closed):
            with contextlib.suppress(AMQPError):  # the connection is closing
                self._raw.close()

    def check(self) -> None:
        """Raise why it is closed, if it is. It may be so right behind an answer, before anybody listens for that."""
        if self.closed is not None:
            raise self.closed

    async def _ask(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.check()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.pending.add(answer)
        try:
            operation(*args, callback=functools.partial(resolve, answer), **kwargs)
            said = await answer
        except AMQPError as error:  # the channel or its connection is closing
            raise LinkLost(describe(error)) from error
        finally:
            self.pending.discard(answer)
        self.on_answer()
        return said

    def _on_close(self, _channel: object, reason: BaseException) -> None:
        if isinstance(reason, ChannelClosedByBroker):
            self.closed = ChannelClosed(reason.reply_code, reason.reply_text)
        else:
            self.closed = LinkLost(describe(reason))
        for answer in self.pending:
            reject(answer, self.closed)
        self.pending.clear()
        self._detach()
        if self.on_closed is not None:
            self.on_closed(self.closed)

    def _detach(self) -> None:
        """Overridden where more than Pika knows of the channel."""


#: Bytes that the properties of a message may take whatever frame size is negotiated [AMQP 0-9-1, 4.2.6].
LEAST_ROOM: Final = 4096 - frames.OVERHEAD - frames.CONTENT_HEAD


class Returned(NamedTuple):
    """A mandatory publish that reached no queue.

    Attributes:
        route: exchange and routing key of the publish.
        channel: on which it was published.
        properties: its property bytes, as they were published.
    """

    route: tuple[bytes, bytes]
    correlation_id: bytes | None
    why: str
    channel: HotChannel | None = None
    properties: bytes = b""
    body: bytes = b""


class Receiver(Protocol):
    """Who takes what arrives on a hot channel. These are called for every message and must not raise."""

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None: ...
    def confirmed(self, tag: int, multiple: bool) -> None: ...
    def refused(self, tag: int, multiple: bool) -> None: ...
    def returned(self, message: Returned) -> None: ...
    def consumer_cancelled(self, channel: HotChannel) -> None: ...


def _returned(channel: HotChannel, delivery: Delivery) -> Returned:
    """Not by way of Pika: it cannot read all headers that AMQP has, and would write others than it has read."""
    why, exchange, key = frames.read_return(delivery.envelope)
    id, body = decode_properties(delivery.properties).correlation_id, delivery.body or b""
    return Returned((exchange, key), id, why.decode("utf-8", "replace"), channel, delivery.properties, body)


class _Proofs:
    """Who waits for a round trip that has not begun; who comes while one is under way shares the next one."""

    def __init__(self, ask: Callable[[Callable[[], None]], None]) -> None:
        """`ask` begins a round trip, and calls back when it is over."""
        self._ask = ask
        self._waiting: list[asyncio.Future[None]] = []
        self._asking = False

    def add(self, answer: asyncio.Future[None]) -> None:
        self._waiting.append(answer)

    def ask(self) -> None:
        """Begin a round trip, for all who wait for one."""
        if self._asking or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        try:
            self._ask(functools.partial(self._answered, waiting))
        except AMQPError:
            return  # it is closing: `_on_close` ends the waiting
        except Exception as error:  # nothing was asked: these will hear nothing, and the next may ask
            for answer in waiting:
                reject(answer, error)
            return
        self._asking = True

    def _answered(self, waiting: list[asyncio.Future[None]]) -> None:
        self._asking = False
        for answer in waiting:
            resolve(answer, None)
        self.ask()


async def _fill(acks: Acks, inspect: Callable[[], Awaitable[tuple[int, int]]], window: int) -> None:
    """Wait until so many deliveries are unacknowledged, or nothing has come for `_QUIET_LOOKS` looks in a row.

    One quiet look proves too little while callers keep calling: what the queue sends between a look and its end is what
    is lost sight of. Looks take longer on a busy machine, and so does what they have to outlast.
    """
    ends, quiet = time.monotonic() + _FILLING, 0
    while (known := len(acks)) < window and quiet < _QUIET_LOOKS and time.monotonic() < ends:
        await asyncio.sleep(_LOOK)
        # The queue's leader answers after all that it has sent to us before; while it has more, it will send that.
        waiting, _consumers = await inspect()
        quiet = 0 if waiting or len(acks) != known else quiet + 1


class HotChannel(Channel):
    """A channel for messages: publishes, acknowledgements, deliveries, returns and confirms go past Pika."""

    def __init__(self, raw: PikaChannel, stream: Stream) -> None:
        super().__init__(raw, stream)
        self._frame_max: int = raw.connection.params.frame_max
        self.published = 0  # so many messages, of those that are mandatory
        self._receiver: Receiver | None = None
        self.consumers: list[str] = []  # their tags
        self._queue = ""  # that it consumes
        self._acks = Acks()
        self._no_ack = False
        self._holds_acks = False
        self._proofs = _Proofs(self._ask_for_proof)
        self._routes: dict[tuple[bytes, bytes, bool], bytes] = {}

    def attach(self, receiver: Receiver, *, body_limit: int) -> None:
        """From now on `receiver` gets what arrives; larger bodies than `body_limit` bytes come as None."""
        self._receiver = receiver
        self._stream.splitter.tap(self.number, self, body_limit=body_limit)
        self._stream.before_flush(self._write_acks)
        self._raw.add_on_cancel_callback(self._on_cancel)

    async def confirm(self) -> None:
        """Ask the broker to confirm every publish."""
        # Pika wants a callback for confirms; they go to the tap and never reach it.
        await self._ask(self._raw.confirm_delivery, lambda _frame: None)
        self.check()

    async def consume(self, queue: str, *, no_ack: bool, priority: int = 0) -> None:
        """Start consuming a queue; of several consumers those of the highest priority are served first."""
        self._no_ack = no_ack
        self._queue = queue
        arguments = {"x-priority": priority} if priority else None
        frame = await self._ask(self._raw.basic_consume, queue, _never, auto_ack=no_ack, arguments=arguments)
        self.consumers.append(frame.method.consumer_tag)

    @property
    def consumes(self) -> bool:
        """Whether it consumes."""
        return bool(self.consumers)

    async def widen(self, more: int) -> None:
        """Let the broker send this many unacknowledged deliveries more, for as long as the channel lives.

        By another consumer of the same queue: the prefetch of one that is there cannot change [RabbitMQ, Consumer
        Prefetch].
        """
        await self.qos(more)
        await self.consume(self._queue, no_ack=self._no_ack)

    async def cancel(self, *, window: int = 0) -> None:
        """Stop consuming; no delivery comes after this has returned.

        With a `window`, the prefetch of all its consumers, nothing is on its way to us at that moment. For a quorum
        queue that matters: what it has sent and the broker's channel has not passed on yet goes back to it, marked
        redelivered though nobody has seen it [RabbitMQ 3.10.8, rabbit_fifo_client:handle_delivery]. Meanwhile no
        acknowledgement is written, so that the window fills up.
        """
        if not self.consumers:
            return
        tags, self.consumers = self.consumers, []
        try:
            if window:
                self._holds_acks = True
                await _fill(self._acks, functools.partial(self.inspect_queue, self._queue), window)
            for tag in tags:
                await self._ask(self._raw.basic_cancel, tag)
            # The answer may overtake deliveries that wait inside the broker's channel; one more round trip does not.
            # That it changes the prefetch matters to no consumer any more.
            await self.qos(1)
        finally:
            self._holds_acks = False
            self._stream.flush_soon()
            self._settle()

    def publish(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> int:
        """Publish, mandatory; returns the number that a confirm will refer to. A closed channel drops it."""
        self._send(exchange, routing_key, properties, body, True)
        self.published += 1
        return self.published

    def get(self, queue: str) -> None:
        """Ask for one message of a queue: it comes as a delivery, or `on_empty` is told that there is none."""
        self._stream.write(frames.get_frame(self.number, queue.encode()))

    def on_empty(self, callback: Callable[[], None]) -> None:
        """Call back when there was no message to `get`."""
        self._raw.add_callback(lambda _frame: callback(), [spec.Basic.GetEmpty], one_shot=False)

    @property
    def room(self) -> int:
        """Bytes that the properties of a message may take: they have to fit into one frame [AMQP 0-9-1, 4.2.6]."""
        return self._frame_max - frames.OVERHEAD - frames.CONTENT_HEAD

    def publish_unrouted(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> None:
        """Publish, without hearing of it if that reaches no queue."""
        self._send(exchange, routing_key, properties, body, False)

    def ack(self, tag: int) -> None:
        """Acknowledge one delivery at the end of this turn; acks of one turn are coalesced."""
        if self.closed is None and self._acks.done(tag):
            self._stream.flush_soon()

    def reject(self, tag: int) -> None:
        """Give one delivery to the queue's dead-letter exchange."""
        if self.closed is None:
            self._acks.forget(tag)
            self._stream.write(frames.reject_frame(self.number, tag))

    async def settled(self) -> None:
        """Wait until the broker has taken every ack and reject of this channel so far; they are sent at once.

        An ack that was written may get lost with the connection, and none is ever answered. But a channel's methods
        are taken in the order they were sent [AMQP 0-9-1, 4.7], so an answer to a later one proves it. Who calls while
        such a round trip is under way shares the next one.

        Raises:
            ChannelClosed, LinkLost: there was no answer, so any of them may be lost, and its delivery come again.
        """
        self.check()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proofs.add(answer)
        self.pending.add(answer)
        self._settle()
        try:
            await answer
        finally:
            self.pending.discard(answer)

    def _settle(self) -> None:
        if not self._holds_acks:  # see `cancel`: they cannot be settled meanwhile
            self._proofs.ask()

    def _ask_for_proof(self, answered: Callable[[], None]) -> None:
        self._stream.flush()
        # The prefetch that it has already: a question that changes nothing.
        self._raw.basic_qos(prefetch_count=self._prefetch, callback=lambda _frame: answered())

    def flush(self) -> None:
        """Send what was written now, rather than at the end of this turn."""
        self._stream.flush()

    def _send(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes, mandatory: bool) -> None:
        # By position, as for all that runs for every message: names cost a few hundred instructions.
        if self.closed is not None:
            return
        key = (exchange, routing_key, mandatory)
        head = self._routes.get(key)
        if head is None:
            if len(self._routes) > 10_000:  # reply queues come and go; the cache must not grow with them
                self._routes.clear()
            head = frames.publish_frame(self.number, exchange, routing_key, mandatory=mandatory)
            self._routes[key] = head
        # Together, so that nothing can come between them [AMQP 0-9-1, 4.2.6].
        content = frames.content_frames(self.number, properties, body, self._frame_max)
        if len(content) == 1:
            self._stream.write(head + content[0])
        else:
            self._stream.write_pieces([head, *content])

    # --- the tap ------------------------------------------------------------------------------------------------

    def delivered(self, delivery: Delivery) -> None:
        assert self._receiver is not None
        if not self._no_ack:
            self._acks.open(delivery.tag)
        self._receiver.delivered(self, delivery)

    def returned(self, delivery: Delivery) -> None:
        assert self._receiver is not None
        self._receiver.returned(_returned(self, delivery))

    def confirmed(self, tag: int, multiple: bool) -> None:
        assert self._receiver is not None
        self._receiver.confirmed(tag, multiple)

    def refused(self, tag: int, multiple: bool) -> None:
        assert self._receiver is not None
        self._receiver.refused(tag, multiple)

    def _write_acks(self) -> None:
        if self.closed is None and not self._holds_acks:
            for tag, multiple in self._acks.collect():
                self._stream.write(frames.ack_frame(self.number, tag, multiple=multiple))

    def _on_cancel(self, frame: Any) -> None:
        """The broker has ended a consumer: its queue is gone, for example."""
        assert self._receiver is not None
        tag = frame.method.consumer_tag
        if tag in self.consumers:
            self.consumers.remove(tag)
        if not self.consumers:
            self._receiver.consumer_cancelled(self)

    def _detach(self) -> None:
        self._stream.splitter.untap(self.number)
        self._stream.forget(self._write_acks)


def _never(*_args: object) -> None:
    raise AssertionError("a delivery of a tapped channel reached Pika")
