"""One open connection to one broker, with awaitable operations on its channels.

Pika runs the life cycle: handshake, heartbeats, channels, declarations, returns, close. Publishing, acknowledging
and deliveries of a `HotChannel` go past it (see `warren.connection.stream`). A link lives once: when it is lost, all
that belongs to it, delivery tags included, is void, and the supervisor opens another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPError

from warren.connection.channel import Channel, HotChannel, nothing
from warren.connection.diagnosis import describe
from warren.connection.errors import ChannelClosed, LinkLost
from warren.connection.futures import resolve
from warren.connection.guard import guard
from warren.connection.lease import Lease
from warren.connection.liveness import Liveness, Verdict
from warren.connection.settings import Settings
from warren.connection.stream import Stream
from warren.logs import get_logger

log = get_logger("warren.amqp")

C = TypeVar("C", bound=Channel)


class Link:
    """An open connection. Made by `warren.connection.dial.open_link`.

    Attributes:
        peer: host and port, for messages.
        closed: resolves, with the reason, when the connection is gone.
        blocked: the broker's reason while it refuses to take publishes (``connection.blocked``), else None.
        may_not_declare_control: whether it has refused that on this connection.
    """

    def __init__(
        self,
        connection: AsyncioConnection,
        stream: Stream,
        settings: Settings,
        peer: str,
        lease: Lease | None = None,
    ) -> None:
        """`lease`: for how long the broker lets us in, if what we logged in with expires."""
        self._connection = connection
        self.stream = stream
        self.peer = peer
        self.closed: asyncio.Future[LinkLost] = asyncio.get_running_loop().create_future()
        self.blocked: str | None = None
        self.may_not_declare_control = False
        self._on_answer: Callable[[], None] = nothing
        self._on_writable: Callable[[], None] | None = None
        connection.add_on_close_callback(self._on_closed)
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        if settings.heartbeat:
            guard.watch(stream, settings.heartbeat)
        self._probes: Channel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        if settings.silence is not None:
            self._spawn(self._watch(settings.silence))
        if lease is not None and lease.expires:
            self._spawn(self._renew(lease))

    async def channel(self) -> Channel:
        """Open a channel for declarations and the like."""
        return await self._open(Channel)

    async def hot_channel(self) -> HotChannel:
        """Open a channel whose messages and confirms go past Pika."""
        return await self._open(HotChannel)

    async def while_answered(self, work: Awaitable[None], limit: float) -> None:
        """Wait for what is done on this link, for as long as the broker answers, and not only to the link's own probes.

        With one limit for all of it, a server that has much to declare would begin again and again.

        Raises:
            TimeoutError: it has not answered for `limit` seconds.
        """
        loop = asyncio.get_running_loop()

        def put_off() -> None:
            if not silence.expired():
                silence.reschedule(loop.time() + limit)

        try:
            async with asyncio.timeout(limit) as silence:
                self._on_answer = put_off
                await work
        finally:
            self._on_answer = nothing

    async def close(self, patience: float = 3.0) -> None:
        """Close the connection and wait until it is closed; it is dropped after `patience` seconds, or on a cancel."""
        if self._connection.is_open:
            self._connection.close()
        try:
            await asyncio.wait([self.closed], timeout=patience)
        finally:
            if not self.closed.done():
                self.stream.abort()
                # Also when cancelled: whoever cancels may stop the loop next, and the socket would stay open.
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
        """Give the connection up when the broker has been silent for `limit` seconds."""
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
                self._probes.on_answer = nothing
            else:
                await self._probes.qos(0)
            liveness.answered()

    # --- does it still let us in? -------------------------------------------------------------------------------

    async def _renew(self, lease: Lease) -> None:
        """Renew the secret before it expires, again and again; a connection whose secret has expired is given up."""
        if not await lease.keep(self._update_secret):
            self.stream.fail(TimeoutError("the password has expired, and could not be renewed"))

    async def _update_secret(self, secret: str) -> None:
        updated: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._connection.update_secret(secret, "the old one expires", lambda _frame: resolve(updated, None))
        except AMQPError as error:  # it is closing
            raise LinkLost(describe(error)) from error
        await updated

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
            raw = self._connection.channel(on_open_callback=lambda _channel: resolve(opened, None))
        except AMQPError as error:  # it is closing
            raise LinkLost(describe(error)) from error
        channel = kind(raw, self.stream)
        channel.pending.add(opened)
        try:
            await opened
        except asyncio.CancelledError:
            channel.drop()
            raise
        channel.check()
        channel.on_answer = self._answered
        self._answered()
        return channel

    def _answered(self) -> None:
        self._on_answer()

    def _on_closed(self, _connection: object, error: BaseException) -> None:
        guard.unwatch(self.stream)
        for task in self._tasks:
            task.cancel()
        if not self.closed.done():
            self.closed.set_result(LinkLost(describe(self.stream.reason or error)))

    def _on_blocked(self, _connection: object, frame: Any) -> None:
        self.blocked = str(frame.method.reason)
        log.warning(
            "%s blocks publishing: %s; free its memory or disk, as calls wait for that", self.peer, self.blocked
        )

    def _on_unblocked(self, _connection: object, _frame: object) -> None:
        log.warning("%s accepts publishing again", self.peer)
        self.blocked = None
        if self._on_writable is not None:
            self._on_writable()
