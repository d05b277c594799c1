"""Copies of requests that are put elsewhere before the originals are let go: the dead queue, or their own queue again.

Over a channel of its own, as the broker closes the channel of a publish that it refuses, and with confirms: an original
is let go only after the broker has its copy. A copy that is refused for certain is sent by the next of its ways, then
by the first again, with growing pauses, until its patience is over. One that may have been taken is its owner's to
judge: if the broker refused it (nack) and its queue does not answer, as a node that goes down refuses what a consumer
may have got; or if its channel closed before it was confirmed. From then on they go one by one, so that the next time
the one that the broker closes the channel over is known. When the link goes, the broker still has the originals and
delivers them again, so their copies are dropped; those whose original was acknowledged before wait for the next link.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from warren.amqp.confirms import Confirms
from warren.amqp.frames import Delivery
from warren.connection.backoff import Backoff
from warren.connection.channel import LEAST_ROOM, HotChannel, Returned
from warren.connection.errors import ChannelClosed
from warren.connection.explainer import NOT_KNOWN, Question, Standing
from warren.logs import About, get_logger
from warren.printable import printable_bytes
from warren.protocol.problems import class_name

log = get_logger("warren.server")

_NACKED: Final = "the broker refuses it"


class NoQueue(str):
    """Why a copy was certainly not taken, also not when it was sent before: there is no queue for it."""

    __slots__ = ()


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
        taken: called when the broker has it. None of these three may raise.
        refused: called when the broker does not take it and its patience is over: it certainly does not have it, except
            of one that is sent again where that is in doubt.
        doubtful: called when the broker may have it, or may not; None: it is sent again. Of one that outlives its link,
            it may be called while there is no link.
        dropped: called instead of all these when the server stops before; None: that is its owner's to tell.
    """

    ways: list[Way]
    body: bytes
    id: bytes | None
    patience: float
    outlives_link: bool
    taken: Callable[[], None]
    refused: Callable[[str], None]
    doubtful: Callable[[str], None] | None = None
    dropped: Callable[[str], None] | None = None
    _tries: int = 0
    _gives_up: float = field(default=float("inf"))
    returned: str | None = None
    published: bool = False  # and the broker has not said that it does not have it
    maybe_taken: bool = False  # when it was sent before
    needless: bool = False  # its original is the broker's again

    @property
    def way(self) -> Way:
        return self.ways[self._tries % len(self.ways)]

    @property
    def about(self) -> About:
        """The call that it is a request of, for the log."""
        id_ = printable_bytes(self.id or b"")
        return About(id_, {"call_id": id_})

    def lose_patience(self, now: float) -> None:
        """It is refused: its time begins with the first of all refusals, also while that is being judged."""
        self._gives_up = min(self._gives_up, now + self.patience)

    def next_way(self, now: float) -> bool:
        """Take the next way; False when its patience is over."""
        self.lose_patience(now)
        self._tries += 1
        return now < self._gives_up or self._tries < len(self.ways)

    def left(self, now: float) -> float:
        """Seconds until its patience is over: there is one more try then."""
        return max(0.0, self._gives_up - now)

    @property
    def tried_all(self) -> bool:
        return self._tries % len(self.ways) == 0


class _Outlet:
    """One channel for copies, and what is unconfirmed on it: publish numbers mean nothing on another one."""

    def __init__(self, owner: Copies, channel: HotChannel) -> None:
        self.owner = owner
        self.channel = channel
        self.confirms: Confirms[Copy] = Confirms()

    def publish(self, copy: Copy) -> None:
        exchange, routing_key, properties = copy.way
        copy.returned, copy.published = None, True
        self.confirms.sent(self.channel.publish(exchange, routing_key, properties, copy.body), copy)

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def confirmed(self, tag: int, multiple: bool) -> None:
        self.owner.confirmed(self.confirms.take(tag, multiple))

    def refused(self, tag: int, multiple: bool) -> None:
        self.owner.refused(self.confirms.take(tag, multiple))

    def returned(self, message: Returned) -> None:
        """Nothing took a copy; its confirm follows."""
        for copy in self.confirms.open():
            if copy.returned is None and copy.id == message.correlation_id and copy.way[:2] == message.route:
                copy.returned = NoQueue(f"there is no queue for it ({message.why})")
                return

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        """Nothing is consumed on this channel."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """See `delivered`."""


class _Pauses:
    """Copies that are sent again after a pause."""

    def __init__(self, over: Callable[[Copy], None]) -> None:
        self._over = over
        self._timers: dict[Copy, asyncio.TimerHandle] = {}
        self._backoff = Backoff(random.Random())
        self._next_round = 0.0  # when what is here is tried again

    def __len__(self) -> int:
        return len(self._timers)

    def __iter__(self) -> Iterator[Copy]:
        return iter(self._timers)

    def add(self, copy: Copy, now: float) -> None:
        """All that is refused meanwhile waits for the same moment, so pauses grow by rounds."""
        if not self._timers or self._next_round <= now:
            self._next_round = now + self._backoff.next(now)
        pause = min(self._next_round - now, copy.left(now))
        self._timers[copy] = asyncio.get_running_loop().call_later(pause, self._end, copy)

    def _end(self, copy: Copy) -> None:
        if self._timers.pop(copy, None) is not None:
            self._over(copy)

    def clear(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


class _Nacked:
    """Copies that the broker refused, until their queue has answered: only then that proves anything.

    Attributes:
        ask: the next question about a queue, to be put into.
    """

    def __init__(self, judge: Callable[[list[Copy], Standing], None]) -> None:
        self._judge = judge
        self._open: dict[Copy, None] = {}
        self.ask: Callable[[str], Question[Copy]] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Copy]:
        return iter(self._open)

    def add(self, copy: Copy) -> None:
        if self.ask is None:
            self._judge([copy], NOT_KNOWN)
        else:
            self.ask(copy.way.routing_key.decode())[copy] = None  # which is what all queues of services are bound by
            self._open[copy] = None

    def answered(self, question: Question[Copy], standing: Standing) -> None:
        """So the queue stood after the broker had refused these."""
        copies = [copy for copy in question if copy in self._open]
        for copy in copies:
            del self._open[copy]
        self._judge(copies, standing)

    def clear(self) -> None:
        self._open.clear()


class Copies:
    """The copies of one service that are not safe yet."""

    def __init__(self) -> None:
        self._outlet: _Outlet | None = None
        self._retired: _Outlet | None = None  # the one before, until the broker has answered all that it carried
        self._waiting: deque[Copy] = deque()  # for a channel, or for their turn
        self._one_by_one = False
        self.nacked = _Nacked(self._answered)
        self._pauses = _Pauses(self.send)
        self._room = LEAST_ROOM
        self._empty = asyncio.Event()
        self._empty.set()
        self.on_broken: Callable[[], None] | None = None
        self.on_retired: Callable[[HotChannel], None] | None = None
        self.on_change: Callable[[], None] | None = None
        self.on_parked: Callable[[int], None] | None = None

    def __len__(self) -> int:
        unconfirmed = sum(len(outlet.confirms) for outlet in self._outlets)
        return unconfirmed + len(self._waiting) + len(self.nacked) + len(self._pauses)

    @property
    def _kept(self) -> list[Copy]:
        """Those that are on no channel."""
        return [*self._waiting, *self.nacked, *self._pauses]

    @property
    def _outlets(self) -> list[_Outlet]:
        return [outlet for outlet in (self._retired, self._outlet) if outlet is not None]

    @property
    def room(self) -> int:
        """Bytes that the properties of a copy may take: what its last channel says, while there is none."""
        return self._room

    def attach(self, channel: HotChannel) -> None:
        """Publish on this channel from now on; the one before is given to `on_retired` once it has no use any more."""
        outlet = _Outlet(self, channel)
        channel.attach(outlet, body_limit=0)
        channel.on_closed = lambda reason: self._on_closed(outlet, reason)
        replaced, self._retired, self._outlet, self._room = self._retired, self._outlet, outlet, channel.room
        if replaced is not None:  # the broker has had the time of two channels to answer
            self._give_up(replaced)
        self._changed()

    def _give_up(self, outlet: _Outlet) -> None:
        for copy in outlet.confirms.lost():
            self._judge(copy, partial(self._in_doubt, copy, "its channel was replaced"))
        self._let_go(outlet)

    def _let_go(self, outlet: _Outlet) -> None:
        if outlet.channel.closed is None and self.on_retired is not None:
            self.on_retired(outlet.channel)

    def send(self, copy: Copy) -> None:
        """Put a request elsewhere; one of the copy's three functions is called in the end, unless the link goes."""
        self._waiting.append(copy)
        self._changed()

    def _publish_waiting(self) -> None:
        while self._waiting and (outlet := self._free_outlet()) is not None:
            copy = self._waiting.popleft()
            if not copy.needless:
                self._judge(copy, partial(outlet.publish, copy))

    def _free_outlet(self) -> _Outlet | None:
        outlet = self._outlet
        if outlet is None or outlet.channel.closed is not None or (self._one_by_one and len(outlet.confirms)):
            return None
        return outlet

    async def settled(self) -> None:
        """Wait until nothing is on its way."""
        await self._empty.wait()

    def drop(self) -> list[Copy]:
        """Forget all that is on its way; returns the copies of which nobody else has the original."""
        copies = self._take_out()
        self._changed()
        return copies

    def originals_lost(self) -> None:
        """Their channel is gone, and the broker delivers them again: what has no copy yet needs none."""
        unconfirmed = [copy for outlet in self._outlets for copy in outlet.confirms.open()]
        for copy in (*unconfirmed, *self._kept):
            copy.needless = not copy.outlives_link
        self._changed()

    def link_lost(self) -> None:
        """The link is gone: the broker delivers again what was not acknowledged."""
        lost, self._outlet, self._retired = self._take_out(), None, None
        for copy in lost:
            self._judge(copy, partial(self._in_doubt, copy, "the connection was lost"))
        self._changed()

    def _take_out(self) -> list[Copy]:
        unconfirmed = [copy for outlet in self._outlets for copy in outlet.confirms.lost()]
        copies = [*unconfirmed, *self._kept]
        self._waiting.clear()
        self.nacked.clear()
        self._pauses.clear()
        return [copy for copy in copies if copy.outlives_link]

    # --- from the outlet ----------------------------------------------------------------------------------------

    def confirmed(self, copies: list[Copy]) -> None:
        """The broker has taken these, except those that it has returned before."""
        for copy in copies:
            if copy.returned is not None:
                self._judge(copy, partial(self._refused, copy, copy.returned))
            else:
                copy.taken()
        self._changed()

    def refused(self, copies: list[Copy]) -> None:
        """The broker has not taken these, or not for certain."""
        now = time.monotonic()
        for copy in copies:
            copy.lose_patience(now)
            if copy.doubtful is None or copy.returned is not None:  # a second one does no harm, or there is no first
                copy.maybe_taken |= copy.returned is None
                self._judge(copy, partial(self._refused, copy, _NACKED))
            else:
                self._judge(copy, partial(self.nacked.add, copy))
        self._changed()
        # A channel that a quorum queue without a leader has refused stays refused (RabbitMQ 3.10.8). While one that was
        # replaced is not answered, the broker is slow, and more channels do not help.
        if self.on_broken is not None and self._retired is None:
            self.on_broken()

    def _answered(self, copies: list[Copy], standing: Standing) -> None:
        judgement = self._refused if standing.there else self._in_doubt
        for copy in copies:
            self._judge(copy, partial(judgement, copy, _NACKED + standing.text))
        self._changed()

    def _on_closed(self, outlet: _Outlet, reason: Exception) -> None:
        if outlet not in self._outlets or not isinstance(reason, ChannelClosed):
            return  # given up, or the link is going: `link_lost` follows
        current = outlet is self._outlet
        self._outlet, self._retired = (None, self._retired) if current else (self._outlet, None)
        unsure = outlet.confirms.lost()
        self._one_by_one = True
        for copy in unsure:
            if copy.returned is not None:
                self._judge(copy, partial(self._refused, copy, copy.returned))
            elif len(unsure) == 1:
                self._judge(copy, partial(self._refused, copy, str(reason), for_good=True))
            else:
                self._judge(copy, partial(self._in_doubt, copy, str(reason)))
        self._changed()
        if current and self.on_broken is not None:
            self.on_broken()

    # --- what was not taken -------------------------------------------------------------------------------------

    def _refused(self, copy: Copy, why: str, *, for_good: bool = False) -> None:
        """The broker does not have it; what is refused `for_good` would be by this way again."""
        now, copy.published = time.monotonic(), False
        if not copy.next_way(now) or (for_good and copy.tried_all):
            copy.refused(str(why) if copy.maybe_taken else why)  # a text that proves nothing
        elif not copy.tried_all:
            self.send(copy)
        else:
            log.warning("a request cannot be published elsewhere now: %s (call %s); trying again", why, copy.about)
            self._pauses.add(copy, now)
            if self.on_parked is not None:
                self.on_parked(sum(not parked.outlives_link for parked in self._pauses))

    def _in_doubt(self, copy: Copy, why: str) -> None:
        if copy.doubtful is None or not copy.published:
            copy.maybe_taken |= copy.published
            self.send(copy)
        else:
            copy.doubtful(why)

    def _judge(self, copy: Copy, judgement: Callable[[], None]) -> None:
        """Do this for a copy; should it fail, its owner has to decide, and the others are not held up."""
        try:
            judgement()
        except BaseException as error:
            log.exception("a request could not be published into another queue")
            (copy.doubtful or copy.refused)(f"it failed: {class_name(type(error))}")

    def _changed(self) -> None:
        if self._retired is not None and not len(self._retired.confirms):
            retired, self._retired = self._retired, None
            self._let_go(retired)
        self._publish_waiting()
        if len(self):
            self._empty.clear()
        else:
            self._one_by_one = False
            self._empty.set()
        if self.on_change is not None:
            self.on_change()
