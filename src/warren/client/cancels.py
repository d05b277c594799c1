"""Telling workers what becomes of their calls: which were given up, and how far streams were consumed.

What there is to tell goes out together, once a turn of the loop.

On a channel of its own, opened when it is first needed: the broker may refuse it, and that must not touch the calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import msgspec

from warren.amqp.frames import Delivery, Properties
from warren.client.calls import ASKED, CONFIRMED, WRITTEN, PendingCall
from warren.client.lane import Spawn
from warren.client.requests import queues
from warren.client.uplink import Uplink
from warren.connection.channel import HotChannel, Returned
from warren.connection.declare import declare_control_exchange
from warren.connection.errors import ACCESS_REFUSED, ChannelClosed, LinkLost
from warren.connection.link import Link
from warren.logs import get_logger
from warren.protocol import topology
from warren.protocol.content import as_text
from warren.protocol.control import CANCEL, LONGEST, MOST_CANCELLED, Cancel, Question, question_properties, to_service
from warren.protocol.streaming import CREDIT, MARK, Credit, read_items
from warren.protocol.uploading import CONVERSATION_MARK, TAKEN, UPLOAD_MARK, read_taken

log = get_logger("warren.client")

_EXCHANGE = topology.CONTROL_EXCHANGE.encode()
_MARKS = (MARK, UPLOAD_MARK, CONVERSATION_MARK)
#: Seconds that such a message may wait in a control queue.
_PATIENCE = 10.0
#: Seconds before another channel is opened where the broker has closed one: it may do the same to each of them.
_PAUSE = 1.0


class Cancels:
    """What one client has to tell (Receiver of its channel).

    Attributes:
        uplink: the way of what it has to send.
    """

    def __init__(
        self,
        link: Callable[[], Link | None],
        reply_to: Callable[[], bytes],
        spawn: Spawn,
        on_mute: Callable[[ChannelClosed], None],
    ) -> None:
        """`on_mute`: nothing can be told on this link, as the broker refuses it."""
        self._link = link
        self._reply_to = reply_to
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self.uplink = Uplink(link, reply_to, spawn)
        self._given_up: dict[bytes, dict[str, int]] = defaultdict(dict)  # by route: ids and the milliseconds left
        self._strays = Strays()
        self._credits: dict[bytes, dict[str, int]] = defaultdict(dict)  # by route: ids and items consumed
        self._on_mute = on_mute
        self._channel: HotChannel | None = None
        self._opened_on: Link | None = None
        self._opening: asyncio.Task[None] | None = None
        self._opens_again = 0.0
        self._refused_on: Link | None = None

    def add(self, call: PendingCall) -> None:
        """A call is given up; nothing happens where no worker can have it."""
        if call.state not in (WRITTEN, CONFIRMED, ASKED) or not call.awaits_reply:
            return
        self._send_soon()
        now = time.monotonic()
        if call.target.method.endswith(_MARKS):  # what is on its way of it needs no other message
            self._strays.is_due(call.id, now)
        for queue in queues(call.target):
            self._given_up[to_service(queue).encode()][call.id.decode()] = max(0, int((call.deadline - now) * 1000))

    def stray(self, p: Properties) -> None:
        """A message with or about items came that nobody waits for: its worker has not heard that it is given up."""
        said, id = read_taken(p) if p.type == TAKEN else read_items(p), as_text(p.correlation_id)
        if said is not None and id and self._strays.is_due(p.correlation_id or b"", time.monotonic()):
            self._send_soon()
            self._given_up[said.source.encode()][id] = 0

    def credit(self, source: bytes, call: PendingCall, count: int) -> None:
        """So many items of a stream were consumed in all; `source` is the process that sends them."""
        self._send_soon()
        self._credits[source][call.id.decode()] = count

    def _send_soon(self) -> None:
        if not self._given_up and not self._credits:
            self._loop.call_soon(self._send)

    def add_all(self, calls: Iterable[PendingCall]) -> None:
        """All calls are given up; also on a loop that is closed, where there is no way to tell anybody."""
        with contextlib.suppress(RuntimeError):
            for call in calls:
                self.add(call)

    async def sent(self, patience: float) -> None:
        """Wait until what there was to tell is written; `patience` seconds at most."""
        if self._given_up:
            self._send()
        if self._opening is not None:
            await asyncio.wait([self._opening], timeout=patience)

    def _send(self) -> None:
        link = self._link()
        if link is None or link is self._refused_on:
            self._forget()
        elif self._channel is not None and self._channel.closed is None and self._opened_on is link:
            self._write(self._channel)
        elif self._opening is None or self._opening.done():
            self._opening = self._spawn(self._open(link))

    def _write(self, channel: HotChannel) -> None:
        given_up, reply_to = dict(self._given_up), self._reply_to().decode()
        self._given_up.clear()
        self._write_credits(channel, reply_to)
        for route, calls in given_up.items():
            if len(route) > LONGEST:  # a stranger's queue: no service has such a name
                continue
            for some in _chunks(calls):
                body = msgspec.json.encode(Cancel(some, reply_to))
                properties = question_properties(Question(CANCEL, {}), patience=_PATIENCE)
                channel.publish_unrouted(_EXCHANGE, route, properties, body)

    def _write_credits(self, channel: HotChannel, reply_to: str) -> None:
        credits, self._credits = self._credits, defaultdict(dict)
        for route, streams in credits.items():
            for some in _chunks(streams):
                body = msgspec.json.encode(Credit(some, reply_to))
                properties = question_properties(Question(CREDIT, {}), patience=_PATIENCE)
                channel.publish_unrouted(_EXCHANGE, route, properties, body)

    def _forget(self) -> None:
        """What cannot be told now is not told: nothing is kept for it."""
        self._given_up.clear()
        self._credits.clear()

    async def _open(self, link: Link) -> None:
        try:
            if (pause := self._opens_again - self._loop.time()) > 0:
                await asyncio.sleep(pause)
            await declare_control_exchange(link)
            channel = await link.hot_channel()
            channel.attach(self, body_limit=0)
            channel.on_closed = lambda reason: self._on_closed(channel, link, reason)
            self._channel, self._opened_on = channel, link
            self._write(channel)
        except (ChannelClosed, LinkLost) as error:
            log.debug("workers are not told which calls are given up: %s", error)
        except Exception:  # nobody waits for this task, who could be told
            log.exception("workers could not be told which calls are given up, and their handlers run on")
        finally:
            self._forget()

    def _on_closed(self, channel: HotChannel, link: Link, reason: Exception) -> None:
        if channel is self._channel:
            self._channel = None
        if not isinstance(reason, ChannelClosed):
            return
        if reason.code == ACCESS_REFUSED:
            self._refused_on = link
            self._on_mute(reason)
            log.info("workers cannot be told that calls are given up: the broker refuses it: %s", reason.text)
        else:  # somebody has deleted the exchange, say: it is declared again with the next channel
            self._opens_again = self._loop.time() + _PAUSE
            log.info("workers are told what becomes of calls on another channel from now on: %s", reason)

    # --- from the channel (Receiver): nothing comes -------------------------------------------------------------

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        """Nothing is consumed on this channel."""

    def confirmed(self, tag: int, multiple: bool) -> None:
        """Nothing is confirmed on it."""

    def refused(self, tag: int, multiple: bool) -> None:
        """See `confirmed`."""

    def returned(self, message: Returned) -> None:
        """Nothing is returned: whether anybody hears it does not matter."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """See `delivered`."""


class Strays:
    """Streams of which messages come though nobody waits: which of them were told so lately, and need not hear it."""

    def __init__(self, pause: float = 2.0, most: int = 1000) -> None:
        """`most`: how many are told in `pause` seconds; the others when their next message comes."""
        self._pause = pause
        self._most = most
        self._told: dict[bytes, float] = {}  # the oldest first

    def is_due(self, id: bytes, now: float) -> bool:
        """Whether to tell this one; then it is told now."""
        told = self._told
        while told and told[oldest := next(iter(told))] <= now - self._pause:
            del told[oldest]
        if id in told or len(told) >= self._most:
            return False
        told[id] = now
        return True


def _chunks(calls: dict[str, int]) -> Iterator[dict[str, int]]:
    items = list(calls.items())
    for at in range(0, len(items), MOST_CANCELLED):
        yield dict(items[at : at + MOST_CANCELLED])
