"""Copies of requests that are put elsewhere before the originals are let go: the dead queue, or their own queue again.

Over a channel of its own, as the broker closes the channel of a publish that it refuses, and with confirms: an original
is let go only after the broker has its copy. A copy that is refused for certain is sent by the next of its ways, then
by the first again, with growing pauses, until its patience is over. One that may have been taken, as its channel closed
before it was confirmed, is its owner's to judge; from then on they go one by one, so that the next time the one that
the broker closes the channel over is known. When the link goes, the broker still has the originals and delivers
them again, so their copies are dropped; those whose original was acknowledged before wait for the next link.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from warren.amqp.confirms import Confirms
from warren.amqp.frames import Delivery
from warren.connection.channel import LEAST_ROOM, HotChannel, Returned
from warren.connection.errors import ChannelClosed
from warren.connection.supervisor import Backoff
from warren.logs import get_logger

log = get_logger("warren.server")


class Way(NamedTuple):
    """One way to publish a copy."""

    exchange: bytes
    routing_key: bytes
    properties: bytes


@dataclass(slots=True, eq=False)
class Copy:
    """A request that shall be put elsewhere.

    Attributes:
        ways: to be tried in this order.
        body: its body.
        id: its correlation id.
        patience: seconds from the first refusal on for which it is tried again.
        outlives_link: whether nobody else has the request any more.
        taken: called when the broker has it.
        refused: called when it is certain that the broker does not have it and its patience is over.
        doubtful: called when the broker may have it, or may not; None: it is sent again.
    """

    ways: list[Way]
    body: bytes
    id: bytes | None
    patience: float
    outlives_link: bool
    taken: Callable[[], None]
    refused: Callable[[str], None]
    doubtful: Callable[[str], None] | None = None
    _tries: int = 0
    _gives_up: float = field(default=float("inf"))
    returned: str | None = None

    @property
    def way(self) -> Way:
        return self.ways[self._tries % len(self.ways)]

    def next_way(self, now: float) -> bool:
        """Take the next way; False when its patience is over."""
        if not self._tries:
            self._gives_up = now + self.patience
        self._tries += 1
        return now < self._gives_up or self._tries < len(self.ways)

    @property
    def tried_all(self) -> bool:
        return self._tries % len(self.ways) == 0


class Copies:
    """The copies of one service that are not safe yet; the receiver of their channel."""

    def __init__(self) -> None:
        self._channel: HotChannel | None = None
        self._confirms: Confirms[Copy] = Confirms()
        self._waiting: deque[Copy] = deque()  # for a channel, or for their turn
        self._one_by_one = False
        self._pauses: dict[Copy, asyncio.TimerHandle] = {}
        self._backoff = Backoff(random.Random())
        self._empty = asyncio.Event()
        self._empty.set()
        self.on_broken: Callable[[], None] | None = None
        self.on_change: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._confirms) + len(self._waiting) + len(self._pauses)

    @property
    def room(self) -> int:
        """Bytes that the properties of a copy may take."""
        return self._channel.room if self._channel is not None else LEAST_ROOM

    @property
    def open(self) -> bool:
        """Whether there is a channel to publish on."""
        return self._channel is not None

    def attach(self, channel: HotChannel) -> HotChannel | None:
        """Publish on this channel from now on; returns the one before, for the caller to close."""
        before, self._channel = self._channel, channel
        unsure = self._confirms.lost()
        channel.attach(self, body_limit=0)
        channel.on_closed = lambda reason: self._on_closed(channel, reason)
        for copy in unsure:
            self._in_doubt(copy, "its channel was replaced")
        self._publish_waiting()
        return before

    def send(self, copy: Copy) -> None:
        """Put a request elsewhere; one of the copy's three functions is called in the end, unless the link goes."""
        self._empty.clear()
        self._waiting.append(copy)
        self._publish_waiting()

    def _publish_waiting(self) -> None:
        while self._waiting and self._may_publish():
            copy = self._waiting.popleft()
            exchange, routing_key, properties = copy.way
            copy.returned = None
            assert self._channel is not None
            self._confirms.sent(self._channel.publish(exchange, routing_key, properties, copy.body), copy)

    def _may_publish(self) -> bool:
        if self._channel is None or self._channel.closed is not None:
            return False
        return not (self._one_by_one and len(self._confirms))

    async def settled(self) -> None:
        """Wait until nothing is on its way."""
        await self._empty.wait()

    def drop(self) -> list[Copy]:
        """Forget all that is on its way; returns the copies of which nobody else has the original."""
        copies = [*self._confirms.lost(), *self._waiting, *self._pauses]
        for pause in self._pauses.values():
            pause.cancel()
        self._waiting.clear()
        self._pauses.clear()
        self._changed()
        return [copy for copy in copies if copy.outlives_link]

    def link_lost(self) -> None:
        """The link is gone: the broker delivers again what was not acknowledged."""
        self._channel = None
        self._waiting.extend(self.drop())
        self._changed()

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def confirmed(self, tag: int, multiple: bool) -> None:
        for copy in self._confirms.settle(tag, multiple):
            if copy.returned is not None:
                self._refused(copy, copy.returned)
            else:
                self._call(copy.taken)
        self._changed()

    def refused(self, tag: int, multiple: bool) -> None:
        for copy in self._confirms.settle(tag, multiple):
            self._refused(copy, "the broker refuses it")
        self._changed()
        # A channel that a quorum queue without a leader has refused stays refused (RabbitMQ 3.10.8).
        if self.on_broken is not None:
            self.on_broken()

    def returned(self, message: Returned) -> None:
        """Nothing took a copy; its confirm follows."""
        for copy in self._confirms.open():
            if copy.returned is None and copy.id == message.correlation_id and copy.way[:2] == message.route:
                copy.returned = f"there is no queue for it ({message.why})"
                return

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        """Nothing is consumed on this channel."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """See `delivered`."""

    def _on_closed(self, channel: HotChannel, reason: Exception) -> None:
        if channel is not self._channel or not isinstance(reason, ChannelClosed):
            return  # replaced, or the link is going: `link_lost` follows
        self._channel = None
        unsure = self._confirms.lost()
        for copy in unsure:
            if copy.returned is not None:
                self._refused(copy, copy.returned)
            elif len(unsure) == 1:
                self._refused(copy, str(reason), for_good=True)
            else:
                self._in_doubt(copy, str(reason))
        self._one_by_one = True
        self._changed()
        if self.on_broken is not None:
            self.on_broken()

    # --- what was not taken -------------------------------------------------------------------------------------

    def _refused(self, copy: Copy, why: str, *, for_good: bool = False) -> None:
        """The broker does not have it; what is refused `for_good` would be by this way again."""
        now = time.monotonic()
        if not copy.next_way(now) or (for_good and copy.tried_all):
            self._call(lambda: copy.refused(why))
        elif not copy.tried_all:
            self.send(copy)
        else:
            log.warning("%s; trying again", why)
            pause = self._backoff.next(now)
            self._pauses[copy] = asyncio.get_running_loop().call_later(pause, self._after_pause, copy)

    def _after_pause(self, copy: Copy) -> None:
        if self._pauses.pop(copy, None) is not None:
            self.send(copy)

    def _in_doubt(self, copy: Copy, why: str) -> None:
        doubtful = copy.doubtful
        if doubtful is None:
            self.send(copy)
        else:
            self._call(lambda: doubtful(why))

    def _call(self, function: Callable[[], None]) -> None:
        """One owner that fails must not hold up the others."""
        try:
            function()
        except Exception:
            log.exception("letting a request go failed")

    def _changed(self) -> None:
        self._publish_waiting()
        if not len(self):
            self._one_by_one = False
            self._empty.set()
        if self.on_change is not None:
            self.on_change()
