"""One way for requests to the broker: a publishing channel, and the next one when that is closed or in doubt."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, Protocol

from warren.amqp.confirms import Confirms
from warren.amqp.frames import Delivery
from warren.client.calls import Calls, PendingCall
from warren.connection.backoff import Backoff
from warren.connection.channel import HotChannel, Returned
from warren.connection.declare import declare_exchanges
from warren.connection.errors import ChannelClosed, LinkLost
from warren.connection.link import Link
from warren.logs import get_logger

log: Final = get_logger("warren.client")

#: Seconds after which a channel without confirms asks whether what was published on it is routed.
_PROOF_AFTER: Final = 0.05

#: Starts a task that its owner keeps and, at last, waits for.
Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


class LaneOwner(Protocol):
    """Who hears what became of the calls on a lane. None of these may raise."""

    def on_confirmed(self, casts: list[PendingCall]) -> None:
        """These have ended."""

    def on_refused(self, calls: list[PendingCall]) -> None:
        """The broker refused these (nack)."""

    def on_returned(self, call: PendingCall, text: str) -> None:
        """The call has ended: there is no queue for it."""

    def on_channel_closed(self, calls: list[PendingCall], reason: ChannelClosed) -> None:
        """The broker closed the channel before it had settled these."""


class _Publisher:
    """One channel's life: its publish numbers, and what it hears of them (Receiver)."""

    def __init__(self, lane: Lane, channel: HotChannel) -> None:
        self.lane = lane
        self.channel = channel
        self.confirms: Confirms[PendingCall] = Confirms()
        self.retired = False
        self.proving = False  # whether the broker owes it an answer

    def confirmed(self, tag: int, multiple: bool) -> None:
        casts = self.lane.calls.confirmed(self.confirms.take(tag, multiple))
        if casts:
            self.lane.owner.on_confirmed(casts)
        if self.retired:
            self.lane.close_retired()

    async def prove(self) -> None:
        """Wait for the answer to a later method: by then all that is published now is routed [AMQP 0-9-1, 4.7]."""
        tag = self.channel.published
        self.proving = True
        try:
            await self.channel.settled()
        except (ChannelClosed, LinkLost):
            return  # whoever tells of that ends them
        except Exception:  # which proves nothing
            log.exception("whether requests have arrived cannot be asked; asking again")
        else:
            self.confirmed(tag, multiple=True)
        finally:
            self.proving = False
        if self.confirms:
            self.lane.prove_soon()

    def refused(self, tag: int, multiple: bool) -> None:
        self.lane.owner.on_refused(self.confirms.take(tag, multiple))
        if self.retired:
            self.lane.close_retired()
        else:
            self.lane.doubt()

    def returned(self, message: Returned) -> None:
        call = self.lane.calls.take(message.correlation_id)
        if call is not None:
            self.lane.owner.on_returned(call, message.why)

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        """Nothing is consumed on this channel."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """See `delivered`."""

    def on_closed(self, reason: Exception) -> None:
        self.lane.channel_closed(self, reason)


class Lane:
    """A publishing channel of the present link, and its replacement.

    Publish numbers belong to a channel, so each channel has its own `Confirms`; one that was replaced stays open until
    the broker has settled what was published on it.

    Without confirms a call in doubt is asked about from time to time: so that a channel's end puts only the last ones
    into doubt, not all that wait for their replies.

    Attributes:
        current: what is published on; None while there is no channel: calls have to wait.
    """

    def __init__(
        self,
        calls: Calls,
        owner: LaneOwner,
        spawn: Spawn,
        *,
        confirm: bool,
        on_ready: Callable[[], None],
        on_broken: Callable[[Link], None],
    ) -> None:
        """`on_ready`: there is a channel again, or still; `on_broken`: this link will not have one any more."""
        self.calls = calls
        self.owner = owner
        self._spawn = spawn
        self._on_ready = on_ready
        self._on_broken = on_broken
        self._confirm = confirm
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self.current: _Publisher | None = None
        self._retired: _Publisher | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._proof: asyncio.TimerHandle | None = None
        self._refusal_backoff = Backoff(random.Random())

    @property
    def changing(self) -> bool:
        """Whether another channel is on its way."""
        return self._replacing is not None or self._pause is not None

    async def open(self, link: Link) -> None:
        """Begin on a new link."""
        current = await self._open_channel(link)
        self._link, self.current, self._retired = link, current, None

    def leave(self) -> None:
        """The link is gone."""
        self._link = self.current = self._retired = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._proof is not None:
            self._proof.cancel()
            self._proof = None

    def publish(self, call: PendingCall, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> None:
        """Write a call; there is a channel."""
        current = self.current
        assert current is not None
        tag = current.channel.publish(exchange, routing_key, properties, body)
        self.calls.written(call, current.confirms, tag)
        if self._proof is None and not self._confirm:
            self.prove_soon()

    def prove_soon(self) -> None:
        """Ask, after a while, whether what is published without confirms by then has arrived."""
        if self._proof is None:  # in a context of its own: the present one may be a caller's
            self._proof = self._loop.call_later(_PROOF_AFTER, self._prove, context=Context())

    def _prove(self) -> None:
        self._proof = None
        for publisher in (self._retired, self.current):
            if publisher is not None and publisher.confirms and not publisher.proving:  # else `prove` asks again
                self._spawn(publisher.prove())

    async def _open_channel(self, link: Link) -> _Publisher:
        channel = await link.hot_channel()
        publisher = _Publisher(self, channel)
        channel.attach(publisher, body_limit=0)
        channel.on_closed = publisher.on_closed
        if self._confirm:
            await channel.confirm()
        return publisher

    # --- another channel ----------------------------------------------------------------------------------------

    def channel_closed(self, publisher: _Publisher, reason: Exception) -> None:
        """What was not settled on it may have been lost with it."""
        if not isinstance(reason, ChannelClosed):
            return  # the link is going, which the supervisor tells, or we closed it ourselves
        log.warning("the broker closed a publishing channel: %s; opening another", reason)
        self.owner.on_channel_closed(publisher.confirms.lost(), reason)
        if publisher is self._retired:
            self._retired = None
        elif publisher is self.current:
            self.current = None
            self._replace()

    def doubt(self) -> None:
        """The broker refused a publish: publish on another channel after a pause.

        A channel whose first publish to a quorum queue meets no leader refuses all that follow, for ever
        (RabbitMQ 3.10.8). It looks the same as a full queue; hence the growing pauses.
        """
        if not self.changing and self._link is not None:
            pause = self._refusal_backoff.next(time.monotonic())
            self._pause = self._loop.call_later(pause, self._replace)

    def close_retired(self) -> None:
        """Close the channel that was replaced once the broker has settled what was published on it."""
        retired = self._retired
        if retired is not None and not retired.confirms:
            self._retired = None
            self._spawn(retired.channel.close())

    def _replace(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._link is None or self._replacing is not None:
            return
        self._replacing = self._spawn(self._open_another(self._link))
        self._replacing.add_done_callback(self._replaced)

    def _replaced(self, task: asyncio.Task[None]) -> None:
        self._replacing = None
        if task.cancelled():
            return
        if self.current is None:  # closed at once, or opened on a link that is gone
            self._replace()
        else:
            self._on_ready()

    async def _open_another(self, link: Link) -> None:
        self.close_retired()  # what was published on it may have ended without the broker's word
        if self._retired is not None and self.current is not None:
            return  # the last one in doubt is still open: the broker is slow, and more channels do not help
        try:
            await declare_exchanges(link)
            another = await self._open_channel(link)
        except Exception as error:  # the broker refuses it, or the link is gone
            if link is self._link:
                log.warning("a publishing channel cannot be opened again: %s; reconnecting", error)
                self._link = None
                self._on_broken(link)
            return
        if link is self._link:
            self._take_over(another)

    def _take_over(self, another: _Publisher) -> None:
        old, self.current = self.current, another
        if old is not None:
            old.retired = True
            self._retired = old
            self.close_retired()
