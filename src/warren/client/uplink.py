"""The way of items to workers: a channel of its own, opened when it is first needed.

The broker may refuse it, or what goes over it, and that must not touch the calls. What it returns tells whose worker is
gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from warren.amqp.frames import Delivery
from warren.client.lane import Spawn
from warren.client.outcomes import channel_closed, connection_lost, stream_mute
from warren.connection.channel import HotChannel, Returned
from warren.connection.declare import declare_control_exchange
from warren.connection.errors import ACCESS_REFUSED, ChannelClosed, LinkLost
from warren.connection.link import Link
from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol import topology

log = get_logger("warren.client")

_EXCHANGE = topology.CONTROL_EXCHANGE.encode()

#: Publishes a message to this routing key, with these properties.
Publish = Callable[[bytes, bytes, bytes], None]


class Sender(Protocol):
    """Who sends items: one call."""

    @property
    def id(self) -> bytes: ...
    def write(self, reply_to: bytes, publish: Publish) -> None:
        """Publish what there is to send."""

    def fail(self, error: CallError) -> None:
        """What was sent may be lost, or cannot be sent."""

    def returned(self) -> None:
        """A message came back: nobody takes what is sent."""


class Uplink:
    """The senders of one client (Receiver of its channel)."""

    def __init__(self, link: Callable[[], Link | None], reply_to: Callable[[], bytes], spawn: Spawn) -> None:
        """`reply_to`: the client's reply queue, by which workers know whose items these are."""
        self._link = link
        self._reply_to = reply_to
        self._spawn = spawn
        self._senders: dict[bytes, Sender] = {}  # by their call's id: those that have sent something, or want to
        self._channel: HotChannel | None = None
        self._opened_on: Link | None = None
        self._opening: tuple[Link, list[Sender]] | None = None  # a channel, and who waits for it

    def send(self, sender: Sender) -> None:
        """Let `sender` write what it has, now or as soon as there is a channel."""
        self._senders[sender.id] = sender
        channel, link = self._channel, self._link()
        if link is None:
            sender.fail(connection_lost("the connection was lost while items were sent"))
        elif channel is not None and channel.closed is None and self._opened_on is link:
            self._write(channel, sender)
        else:
            if self._opening is None or self._opening[0] is not link:
                self._opening = link, []
                self._spawn(self._open(*self._opening))
            self._opening[1].append(sender)

    def forget(self, sender: Sender) -> None:
        """Its call has ended."""
        self._senders.pop(sender.id, None)

    def _write(self, channel: HotChannel, sender: Sender) -> None:
        def publish(to: bytes, properties: bytes, body: bytes) -> None:
            channel.publish(_EXCHANGE, to, properties, body)

        try:
            sender.write(self._reply_to(), publish)
        except Exception as error:  # the channel was closed in the breath that opened it, say; others go on
            self._fail([sender], error)

    async def _open(self, link: Link, waiting: list[Sender]) -> None:
        try:
            await declare_control_exchange(link)
            channel = await link.hot_channel()
            channel.attach(self, body_limit=0)
            channel.on_closed = lambda reason: self._on_closed(channel, reason)
        except (ChannelClosed, LinkLost) as error:
            self._fail(waiting, error)
        except Exception as error:  # nobody waits for this task, who could be told
            log.exception("items cannot be sent: no channel could be opened for them")
            self._fail(waiting, error)
        else:
            self._channel, self._opened_on = channel, link
            for sender in waiting:
                self._write(channel, sender)
        if self._opening is not None and self._opening[0] is link:
            self._opening = None

    def _on_closed(self, channel: HotChannel, reason: Exception) -> None:
        if channel is self._channel:
            self._channel = None
            self._fail(list(self._senders.values()), reason)

    @staticmethod
    def _fail(senders: Iterable[Sender], reason: Exception) -> None:
        for sender in senders:
            if not isinstance(reason, ChannelClosed):
                sender.fail(connection_lost(str(reason) or "the connection was lost while items were sent"))
            elif reason.code == ACCESS_REFUSED:
                sender.fail(stream_mute(reason))
            else:
                sender.fail(channel_closed(reason))

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def returned(self, message: Returned) -> None:
        sender = self._senders.get(message.correlation_id or b"")
        if sender is not None:
            sender.returned()

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        """Nothing is consumed on this channel."""

    def confirmed(self, tag: int, multiple: bool) -> None:
        """Nothing is confirmed on it."""

    def refused(self, tag: int, multiple: bool) -> None:
        """See `confirmed`."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """See `delivered`."""
