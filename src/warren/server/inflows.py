"""The uploads of one worker, and the queue of this process that all of them come through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from warren.amqp.frames import Delivery, FrameError, Properties, decode_properties
from warren.connection.channel import HotChannel, Returned
from warren.connection.declare import declare_control_exchange
from warren.connection.errors import ACCESS_REFUSED, ChannelClosed
from warren.connection.link import Link
from warren.logs import get_logger
from warren.protocol import evidence, topology
from warren.protocol.codecs import Decode
from warren.protocol.evidence import conclude
from warren.protocol.streaming import MOST_TOGETHER
from warren.server.admission import Offered
from warren.server.attempt import Attempt
from warren.server.context import CurrentCall, Uploads
from warren.server.inflow import AROUND, Inflow, broken
from warren.server.ways import Ways

log = get_logger("warren.server")


class ItemsQueue:
    """A queue for what callers send, on whatever link there is (Receiver of its channel).

    Attributes:
        name: it is its routing key, too; empty while there is none.
    """

    def __init__(self, max_size: int) -> None:
        """`max_size`: bytes of the largest message."""
        self.name = ""
        self._max_size = max_size
        self._channel: HotChannel | None = None
        self._link: Link | None = None
        self._queue = ""  # the last one that was declared on the link
        self._step = asyncio.Lock()
        self._forbidden = False
        self.on_item: Callable[[Properties, bytes | None], None] = lambda _p, _body: None
        self.on_gone: Callable[[str], None] = lambda _why: None
        self.on_broken: Callable[[Link], None] = lambda _link: None  # it is gone, and the link is not

    @property
    def comes_back(self) -> bool:
        """Whether one that is not there is going to be."""
        return self._link is not None and not self._forbidden

    async def _open(self, link: Link) -> None:
        """Declare, bind and consume it; where the broker refuses that, it is logged, and there is none."""
        if link is not self._link:
            self._queue = ""
        self._link, self.name, self._forbidden = link, "", False
        try:
            await declare_control_exchange(link)
            channel = self._channel
            if channel is None or channel.closed is not None:
                channel = self._channel = await self._open_channel(link)
            if self._queue:  # it stays bound without its channel, and takes what nobody reads, until the link ends
                await channel.delete_queue(self._queue)
            self._queue = queue = await channel.declare_reply_queue(arguments=topology.ITEMS_ARGUMENTS)
            await channel.bind(queue, topology.CONTROL_EXCHANGE, queue)
            await channel.consume(queue, no_ack=True)
        except ChannelClosed as error:
            self._forbidden = error.code == ACCESS_REFUSED
            log.info("serving without a queue for items, so that uploads are refused: %s", error.text)
        else:
            self.name = queue

    async def look_after(self, link: Link) -> None:
        """Bind it again, as somebody may have deleted the exchange; where there is none, open it, if it is allowed.

        One after the other, so that two who do it at once do not make two queues.

        Raises:
            LinkLost: the link is gone.
        """
        async with self._step:
            await self._look_after(link)

    async def _look_after(self, link: Link) -> None:
        if link is not self._link or (not self.name and not self._forbidden):
            await self._open(link)
        elif self.name and self._channel is not None:
            with contextlib.suppress(ChannelClosed):  # `_on_closed` hears of it, too
                await declare_control_exchange(link)
                await self._channel.bind(self.name, topology.CONTROL_EXCHANGE, self.name)

    async def _open_channel(self, link: Link) -> HotChannel:
        channel = await link.hot_channel()
        channel.attach(self, body_limit=self._max_size)
        channel.on_closed = lambda reason: self._on_closed(channel, link, reason)
        return channel

    def _on_closed(self, channel: HotChannel, link: Link, reason: Exception) -> None:
        if channel is self._channel and self.name:  # else it could not be opened, which is told there
            self._gone(f"the channel that its items come through is closed: {reason}")
            if isinstance(reason, ChannelClosed):
                self.on_broken(link)

    def _gone(self, why: str) -> None:
        self.name = ""
        self.on_gone(why)

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        try:
            p = decode_properties(delivery.properties)
        except FrameError:
            return  # nobody's: where it is missing, a gap will show
        self.on_item(p, delivery.body)

    def consumer_cancelled(self, channel: HotChannel) -> None:
        self._gone("the queue that its items come through was deleted")
        if self._link is not None:
            self.on_broken(self._link)

    def confirmed(self, tag: int, multiple: bool) -> None:
        """Nothing is published on this channel."""

    def refused(self, tag: int, multiple: bool) -> None:
        """See `confirmed`."""

    def returned(self, message: Returned) -> None:
        """See `confirmed`."""


class Inflows(Ways[Inflow], Uploads):
    """The uploads of one worker.

    Attributes:
        queue: where their items come from.
    """

    def __init__(self, attempts: Callable[[], list[Attempt]], service: Offered) -> None:
        """`attempts` are those that run."""
        super().__init__(attempts)
        self._max_size = max_size = service.max_message_size
        self._methods = service.methods
        self.queue = ItemsQueue(max(max_size, MOST_TOGETHER) + AROUND)
        self.queue.on_item, self.queue.on_gone = self._came, self._gone

    async def look_after(self, link: Link) -> None:
        """See to it that the queue is there, where a method takes items; also on a new link.

        Raises:
            LinkLost: the link is gone.
        """
        if any(method.takes for method in self._methods.values()):
            await self.queue.look_after(link)

    def open(self, call: CurrentCall, decoder: Callable[[str], Decode]) -> Inflow:
        """The way of items to a call; `decoder` gives what reads those of an encoding.

        Raises:
            CallError: there is none.
        """
        attempt, source = self._attempt_of(call), self.source()
        if source is None:
            self._refuse_without("control queue", comes_back=self.comes_back())
        if not self.queue.name:
            self._refuse_without("queue for items", comes_back=self.queue.comes_back)
        inflow = Inflow(self._loop, attempt, (self.queue.name, source), decoder)
        if not inflow.has_caller:
            raise conclude(evidence.STREAM, "an upload needs a reply queue of the caller's own: call it as an upload")
        return self._add(inflow)

    def _came(self, p: Properties, body: bytes | None) -> None:
        for inflow in self._of(p.correlation_id or b"", p.reply_to or b""):
            inflow.came(p, body, self._max_size)

    def _gone(self, why: str) -> None:
        for inflow in self._all():
            inflow.fail(broken(why))
