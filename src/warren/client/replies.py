"""The way back: the queue that replies and bounces come to."""

from __future__ import annotations

import contextlib
import secrets
import time
from asyncio import timeout
from collections.abc import Callable
from typing import Final, Protocol

from warren.amqp.frames import Delivery, FrameError, Properties, decode_properties
from warren.client.calls import Calls, PendingCall
from warren.client.outcomes import waiter_failed
from warren.connection.channel import HotChannel, Returned
from warren.connection.errors import NOT_FOUND, ChannelClosed, LinkLost
from warren.connection.link import Link
from warren.logs import get_logger
from warren.protocol import topology
from warren.protocol.bounce import is_bounce
from warren.protocol.streaming import ITEM
from warren.protocol.uploading import TAKEN

log: Final = get_logger("warren.client")

#: Replies from a durable queue that may be under way to us unacknowledged; acks are coalesced, so few would do.
_PREFETCH: Final = 1000
#: Seconds between two lines about replies that nobody waited for.
_QUIET: Final = 10.0


class ReplyOwner(Protocol):
    """Who hears what comes back. None of these may raise."""

    def on_special(self, call: PendingCall, p: Properties, delivery: Delivery) -> None:
        """An error, a bounce, a reply with headers, or one too large to keep; the call has not ended yet."""

    def on_replies_lost(self, reason: ChannelClosed) -> None:
        """The durable reply queue is gone, or cannot be used again: replies to what was sent may be lost."""


class ReplyRoute:
    """The reply queue of one client: exclusive to each connection, or durable over all of them (Receiver).

    Attributes:
        address: where replies shall go on the present link.
        on_stray: hears of messages of a stream, or about an upload, for which nobody waits.
    """

    def __init__(
        self, calls: Calls, owner: ReplyOwner, *, durable: bool, max_size: int, on_gone: Callable[[Link], None]
    ) -> None:
        """`on_gone`: somebody deleted the queue that this link consumes."""
        self._calls = calls
        self._owner = owner
        self._on_gone = on_gone
        self.on_stray: Callable[[Properties], None] = lambda _p: None
        self._durable = durable
        self._max_size = max_size
        self._name = _new_name()
        self._connections = 0
        self._consuming: tuple[HotChannel, Link] | None = None
        self._late = LateReplies(_QUIET)
        self.address = b""

    async def open(self, link: Link) -> None:
        """Declare, bind and consume the queue; the consumer proves that it is there."""
        if self._durable and self._connections:
            await self._look_for_old_one(link)
        channel = await link.hot_channel()
        self._consuming = channel, link
        channel.attach(self, body_limit=self._max_size)
        self.address = (
            await (self._open_durable(channel) if self._durable else self._open_exclusive(channel))
        ).encode()

    async def _open_exclusive(self, channel: HotChannel) -> str:
        queue = await channel.declare_reply_queue(arguments=topology.REPLY_ARGUMENTS)
        await channel.bind(queue, topology.BOUNCE_EXCHANGE, queue)
        await channel.consume(queue, no_ack=True)
        return queue

    async def _look_for_old_one(self, link: Link) -> None:
        """Say so if the queue of the links before is gone, as what was in it is, or came to no queue since."""
        channel = await link.channel()
        try:
            await channel.inspect_queue(self._name)
            await channel.close()
        except ChannelClosed as error:
            if error.code == NOT_FOUND:
                log.warning(
                    "the reply queue %s is gone, with what was in it, and is declared again: look who deletes it",
                    self._name,
                )
                self._owner.on_replies_lost(error)

    async def _open_durable(self, channel: HotChannel) -> str:
        queue = self._name
        try:
            await channel.declare_queue(queue, arguments=topology.DURABLE_REPLY_ARGUMENTS)
        except ChannelClosed as error:  # its node may be down for good
            log.warning("the reply queue %s cannot be used again: %s; taking another", queue, error)
            self._name, self._connections = _new_name(), 0
            self._owner.on_replies_lost(error)
            raise
        await channel.bind(queue, topology.BOUNCE_EXCHANGE, queue)
        await channel.qos(_PREFETCH)
        # Our own last connection may still seem to consume, if the broker has not noticed that it is gone: a higher
        # priority gets the replies, and what went to the dead consumer comes back when the broker drops it.
        self._connections += 1
        await channel.consume(queue, no_ack=False, priority=self._connections)
        return queue

    async def delete(self, link: Link | None) -> None:
        """Leave nothing behind; where that fails, the broker deletes the queue once it has expired."""
        if not self._durable or link is None:
            return
        with contextlib.suppress(ChannelClosed, LinkLost, TimeoutError):
            async with timeout(1.0):
                channel = await link.channel()
                await channel.delete_queue(self._name)

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        try:
            p = decode_properties(delivery.properties)
        except FrameError:
            p = Properties()  # nobody's: it will be counted as such
        if p.table is None and delivery.body is not None:
            call = self._calls.take(p.correlation_id)
            if call is not None:
                p.correlation_id = call.first_id  # see `Endings.on_special`
                try:
                    call.waiter.finish((p, delivery.body))
                except BaseException:
                    waiter_failed(call)
        else:
            call = self._calls.find(p.correlation_id)
            if call is not None:
                self._owner.on_special(call, p, delivery)
        if call is None:
            self._late.came(p, time.monotonic())
            if p.type == ITEM or p.type == TAKEN:
                self.on_stray(p)
        if self._durable:
            channel.ack(delivery.tag)

    def consumer_cancelled(self, channel: HotChannel) -> None:
        if self._consuming is not None and self._consuming[0] is channel:
            self._on_gone(self._consuming[1])

    def confirmed(self, tag: int, multiple: bool) -> None:
        """Nothing is published on this channel."""

    def refused(self, tag: int, multiple: bool) -> None:
        """See `confirmed`."""

    def returned(self, message: Returned) -> None:
        """See `confirmed`."""


class LateReplies:
    """Log lines about replies that nobody waited for: the first at once, then what came since, in one line."""

    def __init__(self, quiet: float) -> None:
        """`quiet`: seconds between two lines, at least."""
        self._quiet = quiet
        self._last = float("-inf")
        self._since = 0

    def came(self, p: Properties, now: float) -> None:
        self._since += 1
        if now - self._last < self._quiet:
            return
        method = p.type or b"not known" if is_bounce(p) else b"not known"  # a bounce is the request itself
        log.info(
            "replies that nobody waited for (late, duplicate or foreign): %d since the last such line, now one with"
            " id %r, method %r",
            self._since,
            *(text.decode("utf-8", "replace") for text in (p.correlation_id or b"", method)),
        )
        self._last, self._since = now, 0


def _new_name() -> str:
    return topology.reply_queue(secrets.token_hex(6))
