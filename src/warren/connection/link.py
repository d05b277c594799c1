"""One open connection to one broker, with awaitable operations on its channels.

Pika runs the life cycle: handshake, heartbeats, channels, declarations, returns, close. Publishing, acknowledging
and deliveries of a `HotChannel` go past it (see `warren.connection.stream`). A link lives once: when it is lost, all
that belongs to it, delivery tags included, is void, and the supervisor opens another.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import pika
from pika import spec
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as PikaChannel
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from warren.amqp import frames
from warren.amqp.acks import Acks
from warren.amqp.frames import Delivery
from warren.connection.liveness import Liveness, Verdict
from warren.connection.settings import Settings
from warren.connection.stream import IOServices, Stream, guard
from warren.errors import CallError, Code, Execution, Origin, PermissionDenied, Unavailable
from warren.logs import get_logger

log = get_logger("warren.amqp")
# Pika reports each step of a failed connection at ERROR. We raise one clear error instead, so without a logging
# configuration (Python then prints warnings to stderr) its lines are kept quiet; configured logging still has them.
logging.getLogger("pika").addHandler(logging.NullHandler())

FRAME_MAX = 131_072  # RabbitMQ's own default, and the most that it offers

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406  # reply codes, AMQP 0-9-1 section 1.2

C = TypeVar("C", bound="Channel")


class ChannelClosed(Exception):
    """The broker closed a channel; `code` and `text` are its reason."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class LinkLost(Exception):
    """The connection is gone."""


class ConnectFailed(Exception):
    """There is no connection, for the reason in `error`; a `permanent` one stays until somebody acts on it."""

    def __init__(self, error: CallError, *, permanent: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.permanent = permanent


# --- the connection -----------------------------------------------------------------------------------------------


class Link:
    """An open connection. Made by `open_link`.

    Attributes:
        peer: host and port, for messages.
        closed: resolves, with the reason, when the connection is gone.
        blocked: the broker's reason while it refuses to take publishes (``connection.blocked``), else None.
    """

    def __init__(self, connection: AsyncioConnection, stream: Stream, settings: Settings, peer: str) -> None:
        self._connection = connection
        self.stream = stream
        self.peer = peer
        self.closed: asyncio.Future[LinkLost] = asyncio.get_running_loop().create_future()
        self.blocked: str | None = None
        self._on_writable: Callable[[], None] | None = None
        self.frame_max: int = connection.params.frame_max
        connection.add_on_close_callback(self._on_closed)
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        if settings.heartbeat:
            guard.watch(stream, settings.heartbeat)
        self._probes: Channel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        if settings.silence is not None:
            self._spawn(self._watch(settings.silence))

    async def channel(self) -> Channel:
        """Open a channel for declarations and the like."""
        return await self._open(Channel)

    async def hot_channel(self) -> HotChannel:
        """Open a channel whose messages and confirms go past Pika."""
        return await self._open(HotChannel)

    async def close(self, patience: float = 3.0) -> None:
        """Close the connection and wait until it is closed; a silent broker gets so many seconds."""
        if self._connection.is_open:
            self._connection.close()
        if not self.closed.done():
            await asyncio.wait([self.closed], timeout=patience)
        if not self.closed.done():
            self.stream.abort()
            await self.closed

    @property
    def writable(self) -> bool:
        """Whether a publish would be taken now, rather than pile up here or at a blocked broker."""
        return self.blocked is None and not self.stream.congested

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Call back whenever the link becomes writable again."""
        self._on_writable = callback
        self.stream.on_relieved = callback

    # --- is the broker still there? -----------------------------------------------------------------------------

    async def _watch(self, limit: float) -> None:
        """Give the connection up when the broker has been silent for so many seconds."""
        liveness = Liveness(limit, time.monotonic())
        stream = self.stream
        while True:
            await asyncio.sleep(liveness.tick)
            verdict = liveness.look(
                time.monotonic(),
                received=stream.received,
                waiting=stream.undelivered(),
                blocked=self.blocked is not None,
            )
            if verdict is Verdict.PROBE:
                self._spawn(self._probe(liveness))
            elif verdict is Verdict.DEAD:
                stream.fail(TimeoutError(f"no sign of life for {limit:g} s"))
                return

    async def _probe(self, liveness: Liveness) -> None:
        """Ask the broker for something that changes nothing; on a channel of its own, opened by the first probe."""
        with contextlib.suppress(ChannelClosed, LinkLost):
            if self._probes is None:
                self._probes = await self.channel()
            else:
                await self._probes.qos(0)
            liveness.answered()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- inside -------------------------------------------------------------------------------------------------

    async def _open(self, kind: type[C]) -> C:
        if self.closed.done():
            raise self.closed.result()
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            raw = self._connection.channel(on_open_callback=lambda _channel: _resolve(opened, None))
        except AMQPError as error:  # it is closing
            raise LinkLost(describe(error)) from error
        channel = kind(self, raw)
        channel.pending.add(opened)
        await opened
        return channel

    def _on_closed(self, _connection: object, error: BaseException) -> None:
        guard.unwatch(self.stream)
        for task in self._tasks:
            task.cancel()
        if not self.closed.done():
            self.closed.set_result(LinkLost(describe(error)))

    def _on_blocked(self, _connection: object, frame: Any) -> None:
        self.blocked = str(frame.method.reason)
        log.warning("%s blocks publishing: %s", self.peer, self.blocked)

    def _on_unblocked(self, _connection: object, _frame: object) -> None:
        log.warning("%s takes publishing again", self.peer)
        self.blocked = None
        if self._on_writable is not None:
            self._on_writable()


async def open_link(settings: Settings, host: str, port: int) -> Link:
    """Connect to one host; DNS, TCP, TLS and the AMQP handshake share ``settings.connect_timeout``.

    Raises:
        ConnectFailed: why not.
    """
    peer = f"{host}:{port}"
    services = IOServices(asyncio.get_running_loop(), FRAME_MAX)
    attempt: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    connection = AsyncioConnection(
        _parameters(settings, host, port, _password(settings, peer)),
        on_open_callback=lambda _conn: _resolve(attempt, None),
        on_open_error_callback=lambda _conn, error: _resolve(attempt, error),
        custom_ioloop=services,
    )
    try:
        async with asyncio.timeout(settings.connect_timeout):
            error = await asyncio.shield(attempt)
    except TimeoutError:
        await services.abandon()
        raise _no_connection(peer, f"no answer within {settings.connect_timeout:g} s") from None
    except asyncio.CancelledError:
        await services.abandon()
        raise
    if error is not None:
        raise _connect_error(settings, peer, error) from error
    assert services.stream is not None
    return Link(connection, services.stream, settings, peer)


def _parameters(settings: Settings, host: str, port: int, password: str) -> pika.ConnectionParameters:
    return pika.ConnectionParameters(
        host=host,
        port=port,
        virtual_host=settings.vhost,
        credentials=pika.PlainCredentials(settings.username, password),
        ssl_options=pika.SSLOptions(settings.ssl, host) if settings.ssl else None,
        heartbeat=settings.heartbeat,
        frame_max=FRAME_MAX,
        socket_timeout=settings.connect_timeout,
        stack_timeout=settings.connect_timeout,
        client_properties={"connection_name": settings.name, "product": "Warren"} if settings.name else None,
    )


def _password(settings: Settings, peer: str) -> str:
    if isinstance(settings.password, str):
        return settings.password
    try:
        return settings.password()
    except Exception as error:  # the user's function: whatever it raises, it may work the next time
        raise _no_connection(peer, f"the password cannot be had: {error!r}") from error


def _connect_error(settings: Settings, peer: str, error: BaseException) -> ConnectFailed:
    """One clear error for what Pika reports in nested exceptions."""
    causes = list(_causes(error))
    text = describe(error)
    # Pika guesses from when the connection ended. Only what the broker said itself is certain: it may just have died.
    said = text if "ConnectionClosedByBroker" in text else ""
    if "limit" in said and "reached" in said:
        return _no_connection(peer, f"the broker takes no more connections: {said}")
    if said and any(isinstance(e, ProbableAuthenticationError | AuthenticationError) for e in causes):
        return _denied(
            f"{peer} refuses user {settings.username!r}: wrong password, unknown user, or not allowed from here"
            f" ('guest' may only log in from the broker's own machine)",
            Code.UNAUTHENTICATED,
            "AUTHENTICATION",
        )
    if "vhost" in said and "not found" in said:
        return _no_connection(peer, f"there is no vhost {settings.vhost!r}", reason="VHOST", permanent=True)
    if "refused" in said and any(isinstance(e, ProbableAccessDeniedError) for e in causes):
        message = f"{peer} refuses user {settings.username!r} access to vhost {settings.vhost!r}"
        return _denied(message, Code.PERMISSION_DENIED, "VHOST")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted ({cause.verify_message}): give ssl= a context that trusts it"
            return _no_connection(peer, why, reason="TLS", permanent=True)
        if isinstance(cause, ssl.SSLError):
            return _no_connection(peer, f"the TLS handshake failed: {cause}", reason="TLS")
        if isinstance(cause, socket.gaierror):
            return _no_connection(peer, f"the name cannot be resolved: {cause.strerror}")
        if isinstance(cause, ConnectionRefusedError):
            return _no_connection(peer, "connection refused: does RabbitMQ run there?")
    return _no_connection(peer, text)


def _no_connection(peer: str, why: str, reason: str = "NOT_CONNECTED", permanent: bool = False) -> ConnectFailed:
    error = Unavailable(f"cannot connect to {peer}: {why}", reason=reason, execution=Execution.NOT_SENT)
    return ConnectFailed(error, permanent=permanent)


def _denied(message: str, code: Code, reason: str) -> ConnectFailed:
    error = PermissionDenied(message, code=code, reason=reason, execution=Execution.NOT_SENT, origin=Origin.BROKER)
    return ConnectFailed(error, permanent=True)


def _causes(error: BaseException) -> Any:
    """The exceptions inside an exception: Pika nests them in args and in ``exceptions``."""
    yield error
    inner = [
        *getattr(error, "exceptions", ()),
        *error.args,
        getattr(error, "exception", None),
        error.__cause__,
    ]
    for one in inner:
        if isinstance(one, BaseException) and one is not error:
            yield from _causes(one)


def describe(error: BaseException) -> str:
    """The innermost reason, as text."""
    last = list(_causes(error))[-1]
    return str(last) or type(last).__name__


# --- channels -----------------------------------------------------------------------------------------------------


class Channel:
    """A channel; each operation waits for the broker's answer.

    Operations raise `ChannelClosed` when the broker closes the channel instead of answering, and `LinkLost` when
    the connection goes.
    """

    def __init__(self, link: Link, raw: PikaChannel) -> None:
        self.link = link
        self.number: int = raw.channel_number
        self.pending: set[asyncio.Future[Any]] = set()
        self.on_closed: Callable[[Exception], None] | None = None
        self.closed: Exception | None = None
        self._raw = raw
        raw.add_on_close_callback(self._on_close)

    async def declare_exchange(self, name: str, kind: str) -> None:
        """Declare a durable exchange."""
        await self._ask(self._raw.exchange_declare, name, kind, durable=True)

    async def declare_queue(self, name: str, *, arguments: dict[str, Any] | None = None) -> None:
        """Declare a durable queue."""
        await self._ask(self._raw.queue_declare, name, durable=True, arguments=arguments)

    async def declare_reply_queue(self) -> str:
        """Declare an exclusive queue; the broker names it."""
        frame = await self._ask(self._raw.queue_declare, "", exclusive=True)
        return str(frame.method.queue)

    async def inspect_queue(self, name: str) -> tuple[int, int]:
        """Messages ready and consumers of a queue; it must exist."""
        frame = await self._ask(self._raw.queue_declare, name, passive=True)
        return frame.method.message_count, frame.method.consumer_count

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with all that is in it; one that does not exist is no error."""
        await self._ask(self._raw.queue_delete, name)

    async def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        await self._ask(self._raw.queue_bind, queue, exchange, routing_key)

    async def qos(self, prefetch: int) -> None:
        """At most so many unacknowledged deliveries at a time."""
        await self._ask(self._raw.basic_qos, prefetch_count=prefetch)

    async def close(self) -> None:
        if self._raw.is_open:
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._raw.add_on_close_callback(lambda _channel, _reason: _resolve(done, None))
            self._raw.close()
            await done

    async def _ask(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.closed is not None:
            raise self.closed
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.pending.add(answer)
        try:
            operation(*args, callback=functools.partial(_resolve, answer), **kwargs)
            return await answer
        except AMQPError as error:  # the channel or its connection is closing
            raise LinkLost(describe(error)) from error
        finally:
            self.pending.discard(answer)

    def _on_close(self, _channel: object, reason: BaseException) -> None:
        if isinstance(reason, ChannelClosedByBroker):
            self.closed = ChannelClosed(reason.reply_code, reason.reply_text)
        else:
            self.closed = LinkLost(describe(reason))
        for answer in self.pending:
            _reject(answer, self.closed)
        self.pending.clear()
        self._detach()
        if self.on_closed is not None:
            self.on_closed(self.closed)

    def _detach(self) -> None:
        """Overridden where more than Pika knows of the channel."""


class Receiver(Protocol):
    """Who takes what arrives on a hot channel. These are called for every message and must not raise."""

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None: ...
    def confirmed(self, tag: int, multiple: bool) -> None: ...
    def refused(self, tag: int, multiple: bool) -> None: ...
    def returned(self, correlation_id: bytes | None, reply_code: int, reply_text: str) -> None: ...
    def consumer_cancelled(self, channel: HotChannel) -> None: ...


class HotChannel(Channel):
    """A channel for messages: publishes, acknowledgements, deliveries and confirms go past Pika."""

    def __init__(self, link: Link, raw: PikaChannel) -> None:
        super().__init__(link, raw)
        self._stream = link.stream
        self._frame_max = link.frame_max
        self._published = 0
        self._receiver: Receiver | None = None
        self._consumer_tag: str | None = None
        self._queue = ""  # that it consumes
        self._acks = Acks()
        self._no_ack = False
        self._holds_acks = False
        self._routes: dict[tuple[bytes, bytes, bool], bytes] = {}

    def attach(self, receiver: Receiver, *, body_limit: int) -> None:
        """From now on `receiver` gets what arrives; larger bodies than `body_limit` bytes come as None."""
        self._receiver = receiver
        self._stream.splitter.tap(self.number, self, body_limit=body_limit)
        self._stream.before_flush(self._write_acks)
        self._raw.add_on_return_callback(self._on_return)
        self._raw.add_on_cancel_callback(lambda _frame: receiver.consumer_cancelled(self))

    async def confirm(self) -> None:
        """Ask the broker to confirm every publish."""
        # Pika wants a callback for confirms; they go to the tap and never reach it.
        await self._ask(self._raw.confirm_delivery, lambda _frame: None)

    async def consume(self, queue: str, *, no_ack: bool, priority: int = 0) -> None:
        """Start the channel's one consumer; of several on a queue those of the highest priority are served first."""
        self._no_ack = no_ack
        self._queue = queue
        arguments = {"x-priority": priority} if priority else None
        frame = await self._ask(self._raw.basic_consume, queue, _never, auto_ack=no_ack, arguments=arguments)
        self._consumer_tag = frame.method.consumer_tag

    async def cancel(self, *, window: int = 0) -> None:
        """Stop the consumer; no delivery comes after this has returned.

        With a `window`, the consumer's prefetch, nothing is on its way to us at that moment. For a quorum queue that
        matters: what it has sent and the broker's channel has not passed on yet goes back to the queue, marked
        redelivered though nobody has seen it [RabbitMQ 3.10.8, rabbit_fifo_client:handle_delivery]. Meanwhile no
        acknowledgement is written, so that the window fills up.
        """
        if self._consumer_tag is None:
            return
        tag, self._consumer_tag = self._consumer_tag, None
        try:
            if window:
                self._holds_acks = True
                await self._fill(window)
            await self._ask(self._raw.basic_cancel, tag)
            # The answer may overtake deliveries that wait inside the broker's channel; one more round trip does not.
            # That it changes the prefetch matters to no consumer any more.
            await self.qos(1)
        finally:
            self._holds_acks = False
            self._stream.flush_soon()

    async def _fill(self, window: int) -> None:
        """Wait until so many deliveries are unacknowledged, or there is nothing to come; two seconds at most."""
        for _ in range(40):
            known = len(self._acks)
            if known >= window:
                return
            await asyncio.sleep(0.05)
            # The queue's leader answers after all that it has sent to us before; while it has more, it will send that.
            waiting, _consumers = await self.inspect_queue(self._queue)
            if not waiting and len(self._acks) == known:
                return

    def publish(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> int:
        """Publish, mandatory; returns the number that a confirm will refer to. A closed channel drops it."""
        self._send(exchange, routing_key, properties, body, mandatory=True)
        self._published += 1
        return self._published

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

    def publish_unrouted(self, routing_key: bytes, properties: bytes, body: bytes) -> None:
        """Publish to a queue, without hearing of it if there is none."""
        self._send(b"", routing_key, properties, body, mandatory=False)

    def ack(self, tag: int) -> None:
        """Acknowledge one delivery at the end of this turn; acks of one turn are coalesced."""
        if self.closed is None and self._acks.done(tag):
            self._stream.flush_soon()

    def reject(self, tag: int) -> None:
        """Give one delivery to the queue's dead-letter exchange."""
        if self.closed is None:
            self._acks.forget(tag)
            self._stream.write(frames.reject_frame(self.number, tag))

    def _send(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes, *, mandatory: bool) -> None:
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

    def _on_return(self, _channel: object, method: Any, properties: Any, _body: bytes) -> None:
        assert self._receiver is not None
        correlation_id = properties.correlation_id
        if isinstance(correlation_id, str):
            correlation_id = correlation_id.encode()
        self._receiver.returned(correlation_id, method.reply_code, method.reply_text)

    def _detach(self) -> None:
        self._stream.splitter.untap(self.number)
        self._stream.forget(self._write_acks)


def _never(*_args: object) -> None:
    raise AssertionError("a delivery of a tapped channel reached Pika")


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _reject(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error if isinstance(error, Exception) else AMQPError(repr(error)))
