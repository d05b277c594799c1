"""Where one service is served: its worker, the channel that it consumes on, and the one for copies."""

from __future__ import annotations

import asyncio
import contextlib
import time

from warren.connection.channel import HotChannel
from warren.connection.declare import declare_exchanges
from warren.connection.errors import ChannelClosed, ConnectFailed, LinkLost
from warren.connection.explainer import Explainer, Spawn
from warren.connection.link import Link
from warren.logs import get_logger
from warren.server.declarations import declare, refusal
from warren.server.inflows import Inflows
from warren.server.intake import Intake
from warren.server.progress import Reports
from warren.server.repair import Repair
from warren.server.streaming import Outlets
from warren.server.worker import Worker

log = get_logger("warren.server")

#: Seconds that the broker gets at least to stop a consumer; half of the drain, if that is more. What takes longer than
#: this is taken off the time of the handlers, which run meanwhile.
_CANCEL_PATIENCE = 5.0

#: Seconds that the broker gets to say how a queue stands that has refused a copy. With the patience of a hand-back
#: (`settler`) less than a worker that stops waits for it.
_ASK_PATIENCE = 1.0


class Post:
    """One service on whatever link there is."""

    def __init__(self, worker: Worker, spawn: Spawn) -> None:
        """`spawn` runs what has to be done in the background, for as long as the server is served."""
        self.worker = worker
        self.streams = worker.scope.streams = Outlets(lambda: worker.holding.taken, worker.service.max_message_size)
        self.uploads = worker.scope.uploads = Inflows(lambda: worker.holding.taken, worker.service)
        worker.scope.reporter = Reports(lambda: worker.holding.taken).open
        self._spawn = spawn
        self._link: Link | None = None
        self._intake = Intake(worker)
        self._may_declare = False
        self._consuming = Repair(spawn, self._consume_again)
        self._copying = Repair(spawn, self._open_copies)
        self._declaring = Repair(spawn, self._declare_again)
        self._taking = Repair(spawn, self.uploads.queue.look_after)
        self.uploads.queue.on_broken = self._taking.wanted
        worker.on_queue_deleted = self._on_queue_deleted
        worker.copies.on_broken = self._on_copies_broken
        worker.copies.on_retired = self._close_soon
        worker.copies.on_parked = self._on_parked
        questions = Explainer(lambda: self._link, worker.copies.nacked.answered, spawn, _ASK_PATIENCE)
        worker.copies.nacked.ask = questions.question

    @property
    def name(self) -> str:
        return self.worker.service.name

    async def set_up(self, link: Link) -> None:
        """Begin to serve on a new link; while draining only what has to be set aside still has a way."""
        self._link = link
        await self._open_copies(link)  # first: what is consumed may have to be set aside at once
        await self.uploads.look_after(link)
        await self._consume(link)

    def announce(self) -> None:
        """Log that the service is served, if its requests are being consumed."""
        if self._intake.consumes:
            methods = ", ".join(sorted(self.worker.service.methods))
            log.info("serving %s (%s), %d at a time", self.name, methods, self.worker.concurrency)

    @property
    def connected(self) -> bool:
        """Whether it has a link."""
        return self._link is not None

    @property
    def consumers(self) -> int:
        """How many of the consumers of the service's queue are its own."""
        return self._intake.consumers

    async def declare(self, link: Link) -> bool:
        """Declare what the service needs; False where the broker does not allow all of it."""
        self._intake.know_queue(False)
        self._may_declare = allowed = await declare(link, self.worker.service)
        # What is there already may be of another kind than ours; a declaration that is accepted proves the kind.
        self._intake.know_queue(allowed and self.worker.service.declare)
        return allowed

    def lost(self) -> None:
        """The link is gone."""
        self._link = self._intake.channel = None
        self.worker.link_lost()
        self.worker.scope.lost()

    async def drain(self, timeout: float) -> list[str]:
        """Stop consuming, hand back what has not begun, finish the rest; returns the calls that were abandoned."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(_CANCEL_PATIENCE, timeout / 2)):
                await self._stop_and_hand_back()
        except TimeoutError:
            log.debug("the consumer could not be cancelled; its connection is going anyway")
            self.worker.hand_back()
        late = max(0.0, time.monotonic() - began - _CANCEL_PATIENCE)
        abandoned, handed_on = await self.worker.finish_running(timeout, late)
        if abandoned or self._intake.has_consumed:
            _say_drained(self.name, time.monotonic() - began, abandoned, handed_on)
        return abandoned

    async def _stop_and_hand_back(self) -> None:
        if self._intake.channel is not None:
            await self._intake.stop(self._intake.channel)
        self.worker.hand_back()

    # --- what operators ask for ---------------------------------------------------------------------------------

    def pause(self) -> None:
        """Take no more requests: what has not begun is handed back, and what runs goes on."""
        if not self.worker.draining:
            log.info("%s: taking no more requests, as an operator has asked for it", self.name)
            self.worker.stop_taking()
            self._spawn(self._stop_and_hand_back())

    def resume(self) -> None:
        """Take requests again."""
        if self.worker.draining:
            self.worker.draining = False
            self._resume()

    def set_concurrency(self, concurrency: int) -> None:
        """From now on so many calls at a time."""
        log.info("%s: %d at a time, as an operator has asked for it", self.name, concurrency)
        self.worker.set_concurrency(concurrency)
        self._spawn(self._intake.renew())

    # --- the consuming channel ----------------------------------------------------------------------------------

    async def _consume(self, link: Link) -> None:
        worker = self.worker
        if worker.draining:
            return
        channel = await link.hot_channel()
        channel.attach(worker, body_limit=worker.service.max_message_size)
        channel.on_closed = lambda reason: self._on_channel_closed(channel, reason)
        try:
            self._intake.channel = channel
            await self._intake.start(channel)
        except ChannelClosed as error:
            raise ConnectFailed(refusal(worker.service, error), permanent=True) from error

    def _on_queue_deleted(self, _worker: Worker) -> None:
        log.warning(
            "%s: the broker ended the consumer: the queue is gone, or a handler took longer than its"
            " consumer_timeout; consuming again",
            self.name,
        )
        self._intake.know_queue(False)
        self._resume()

    def _on_channel_closed(self, channel: HotChannel, reason: Exception) -> None:
        if channel is self._intake.channel:
            self._intake.channel = None
        self.worker.channel_lost()
        self.worker.scope.lost()
        if isinstance(reason, ChannelClosed):  # else the link is going, and the supervisor opens another
            log.warning("%s: the broker closed the channel: %s; opening another", self.name, reason)
            self._resume()

    def _resume(self) -> None:
        if self._link is not None and not self.worker.draining:
            self._consuming.wanted(self._link)

    async def _consume_again(self, link: Link) -> None:
        """Declare and consume again on the link that is open."""
        if self.worker.draining:
            return
        await declare_exchanges(link)
        await self.declare(link)
        channel = self._intake.channel
        if channel is None or channel.closed is not None:
            await self._consume(link)
        else:
            await self._intake.start(channel)
        if self._intake.consumes:
            log.warning("%s: serving again", self.name)

    def _on_parked(self, count: int) -> None:
        """Requests wait to be put elsewhere: they must not hold the window that others come through.

        Where they shall go may have been deleted.
        """
        if self._link is not None and self._may_declare:
            self._declaring.wanted(self._link)
        if self._intake.asks_more(count):
            self._spawn(self._intake.widen())

    async def _declare_again(self, link: Link) -> None:
        try:
            await self.declare(link)
        except (ChannelClosed, ConnectFailed) as error:
            log.warning(
                "%s: its exchanges, queues or bindings cannot be declared again: %s; look at the broker's log",
                self.name,
                error,
            )

    # --- the channel for copies ---------------------------------------------------------------------------------

    async def _open_copies(self, link: Link) -> None:
        channel = await link.hot_channel()
        await channel.confirm()
        self.worker.copies.attach(channel)

    def _close_soon(self, channel: HotChannel) -> None:
        self._spawn(_close(channel))

    def _on_copies_broken(self) -> None:
        if self._link is not None:
            self._copying.wanted(self._link)


def _say_drained(name: str, seconds: float, abandoned: list[str], handed_on: int) -> None:
    others = "" if not handed_on else f"; resumable streams that another run goes on with: {handed_on}"
    if abandoned:
        log.error(
            "%s: abandoned after %.1f s of draining: %s%s; raise drain_timeout, or give the methods a time_limit",
            name,
            seconds,
            ", ".join(abandoned),
            others,
        )
    else:
        log.info("%s: drained in %.1f s, nothing was abandoned%s", name, seconds, others)


async def _close(channel: HotChannel) -> None:
    with contextlib.suppress(ChannelClosed, LinkLost):
        await channel.close()
