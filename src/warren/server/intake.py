"""How requests come to a worker: its consumers, how many requests they let in at a time, and how they stop.

One step is taken after the other: a prefetch is for the consumer that follows it.
"""

from __future__ import annotations

import asyncio
import contextlib

from warren.connection.channel import HotChannel
from warren.connection.errors import ChannelClosed, LinkLost
from warren.protocol import topology
from warren.server.worker import Worker


class Intake:
    """The consumers of one service, on whatever channel there is.

    Attributes:
        channel: the one that they are on.
        surely_classic: whether the queue is known to be a classic one, of which nothing goes back unseen when a
            consumer stops (see `HotChannel.cancel`).
        has_consumed: whether it ever did.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._step = asyncio.Lock()
        self._first = 0  # the prefetch of the first consumer
        self._more = 0  # and of those that widen it
        self._asked = 0  # how much wider it shall be
        self._renews = False  # whether another consumer follows one that has just ended
        self.channel: HotChannel | None = None
        self.surely_classic = False
        self.has_consumed = False

    @property
    def consumers(self) -> int:
        """How many consumers the broker counts for it: more than one once it was widened. One is kept while renewed."""
        return 0 if self.channel is None else len(self.channel.consumers) or int(self._renews)

    @property
    def consumes(self) -> bool:
        """Whether requests come."""
        return self.channel is not None and self.channel.consumes

    def know_queue(self, sure: bool) -> None:
        """Whether the queue that is there now is surely as the service declares it; one that was deleted is not."""
        service = self._worker.service
        self.surely_classic = classic = sure and service.queue == "classic"
        self._worker.replies.lean = classic and service.max_length is None

    async def start(self, channel: HotChannel) -> None:
        """Consume on this channel, unless that is so already, or the worker drains.

        Raises:
            ChannelClosed, LinkLost: it is gone.
        """
        async with self._step:
            if not channel.consumes:
                await self._begin(channel)
        await self._stop_behind(channel)

    async def _begin(self, channel: HotChannel) -> None:
        self._first, self._more, self._asked = self._worker.concurrency, 0, 0
        await channel.qos(self._first)
        if not self._worker.draining:  # it may have been told to stop meanwhile
            await channel.consume(topology.service_queue(self._worker.service.name), no_ack=False)
            self.has_consumed = True

    async def _stop_behind(self, channel: HotChannel) -> None:
        """What has begun to consume behind the drain's back is nobody else's to stop."""
        if self._worker.draining and channel.consumes:
            await self.stop(channel)
            self._worker.hand_back()

    async def stop(self, channel: HotChannel) -> None:
        """Consume no more, if the worker still drains; waits for the broker for as long as it takes."""
        async with self._step:
            if self._worker.draining:
                with contextlib.suppress(ChannelClosed, LinkLost):
                    await self._cancel(channel)

    async def _cancel(self, channel: HotChannel) -> None:
        await channel.cancel(window=0 if self.surely_classic else self._first + self._more)

    async def renew(self) -> None:
        """Consume with the prefetch that the worker has now: that of a consumer cannot change."""
        channel = self.channel
        if channel is None:
            return
        with contextlib.suppress(ChannelClosed, LinkLost):  # then another follows, with a window of its own
            async with self._step:
                if channel.consumes:
                    await self._replace_consumers(channel)
            await self._stop_behind(channel)

    async def _replace_consumers(self, channel: HotChannel) -> None:
        self._renews = True
        try:
            await self._cancel(channel)
            await self._begin(channel)
        finally:
            self._renews = False

    def asks_more(self, count: int) -> bool:
        """Whether it has to be widened, and nobody has asked for it yet, so that `count` requests hold up no others."""
        count = min(count, self._worker.concurrency)
        if not self.consumes or count <= self._asked or self._worker.draining:
            return False
        self._asked = count
        return True

    async def widen(self) -> None:
        """Let in as many more as was asked for."""
        channel = self.channel
        if channel is None:
            return
        with contextlib.suppress(ChannelClosed, LinkLost):  # then another follows, with a window of its own
            async with self._step:
                more = self._asked - self._more
                if more > 0 and channel.consumes and not self._worker.draining:
                    await channel.widen(more)
                    self._more += more
            await self._stop_behind(channel)
