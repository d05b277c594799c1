"""Putting requests elsewhere before they are let go: into the dead queue, or back into their own.

What nobody will answer for any more is set aside: it goes to the service's dead queue, not nowhere. What another
worker or another attempt shall take is handed back. Both go over a channel of their own, as the broker closes the
channel of a publish that it refuses, and with confirms: a request is let go from its queue only after the broker has
its copy. One that cannot be set aside is let go all the same, which is said in the log; one that cannot be handed
back, or whose connection goes first, is not, so the broker delivers it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from warren.amqp.frames import Delivery
from warren.connection.link import ChannelClosed, HotChannel
from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol import wire
from warren.protocol.dead_letter import Death, dead_properties
from warren.protocol.wire import Request

log = get_logger("warren.server")

#: Answers and acknowledges a request whose copy is safe; None where that was done before.
LetGo = Callable[[], None] | None

_EXCHANGE = wire.BOUNCE_EXCHANGE.encode()


@dataclass(slots=True)
class _Sent:
    """A copy that the broker has not confirmed.

    Attributes:
        what: what did not happen if it is lost, for the log.
        id: its correlation id.
        then: lets the original go; None when it is gone or shall stay.
        keeps: whether the original stays when the copy is refused.
    """

    what: str
    id: bytes | None
    then: LetGo
    keeps: bool


class Aside:
    """The way to the dead queue and back to the queue of one service; the receiver of its channel."""

    def __init__(
        self, channel: HotChannel, service: str, user: str, instance: str, on_broken: Callable[[], None]
    ) -> None:
        """Set aside over a channel that was opened as `user`, in the name of the server process `instance`.

        `on_broken` is called once, when the channel is of no more use and another is needed.
        """
        self._channel = channel
        self._service = service
        self._key = service.encode()
        self._unconfirmed: dict[int, _Sent] = {}
        self._settled = asyncio.Event()
        self._settled.set()
        self._user = user
        self._instance = instance
        self._on_broken: Callable[[], None] | None = on_broken
        channel.attach(self, body_limit=0)
        channel.on_closed = self._on_closed

    @property
    def closed(self) -> bool:
        """Whether its channel is gone, so that another one is needed."""
        return self._channel.closed is not None

    async def settled(self) -> None:
        """Wait until nothing is on its way."""
        await self._settled.wait()

    async def close(self) -> None:
        """Close the channel once nothing is on its way; for one that has been replaced."""
        await self.settled()
        await self._channel.close()

    def put(self, request: Request, error: CallError, then: LetGo, raised: str | None = None) -> None:
        """Set a request aside that ended in `error`, or in an exception of the class `raised` that it stands for.

        `then` is called when it is safe there, or is known not to be.
        """
        sent = _Sent(
            f"a request (id {request.call_id}, {error.reason}) cannot be set aside",
            request.properties.correlation_id,
            then,
            keeps=False,
        )
        death = Death.of(error, type=raised, at=time.time(), instance=self._instance, attempt=request.attempt)
        properties = dead_properties(request, death, server_user=self._user, room=self._channel.room)
        self._send(sent, _EXCHANGE, self._key, properties, request)

    def hand_back(self, request: Request, left: float | None, attempt: int, then: LetGo) -> None:
        """Publish a request again, with the seconds that it has left; `then` is called when the broker has it.

        Not a requeue: that would mark it redelivered, which must keep meaning that a worker may have started it.

        Raises:
            ValueError: its headers cannot be written again, or do not fit into a frame with what is added.
        """
        exchange, routing_key = request.delivery.route()
        what = f"a request (id {request.call_id}) cannot be handed back"
        sent = _Sent(what, request.properties.correlation_id, then, keeps=True)
        properties = request.again(budget=left, attempt=attempt, server_user=self._user)
        if len(properties) > self._channel.room:
            raise ValueError("its headers fill a frame already")
        self._send(sent, exchange, routing_key, properties, request)

    def _send(self, sent: _Sent, exchange: bytes, routing_key: bytes, properties: bytes, request: Request) -> None:
        if self._channel.closed is not None:
            self._gone(sent, self._channel.closed)
            return
        tag = self._channel.publish(exchange, routing_key, properties, request.delivery.body or b"")
        self._unconfirmed[tag] = sent
        self._settled.clear()

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def confirmed(self, tag: int, multiple: bool) -> None:
        for sent in [self._unconfirmed.pop(known) for known in self._up_to(tag, multiple)]:
            if sent.then is not None:
                sent.then()
        if not self._unconfirmed:
            self._settled.set()

    def refused(self, tag: int, multiple: bool) -> None:
        for known in self._up_to(tag, multiple):
            self._failed(self._unconfirmed[known], "the broker refuses it")
        self.confirmed(tag, multiple)
        self._break()  # a channel that a quorum queue without a leader has refused stays refused (RabbitMQ 3.10.8)

    def returned(self, correlation_id: bytes | None, reply_code: int, reply_text: str) -> None:
        """Nothing took a copy; its confirm follows."""
        for sent in self._unconfirmed.values():
            if sent.id == correlation_id:
                self._failed(sent, f"there is no queue for it ({reply_text})")
                return

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        """Nothing is consumed on this channel."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """See `delivered`."""

    def _up_to(self, tag: int, multiple: bool) -> list[int]:
        return [known for known in self._unconfirmed if known == tag or (multiple and known < tag)]

    def _on_closed(self, reason: Exception) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        self._settled.set()
        if isinstance(reason, ChannelClosed):
            self._break()
        for sent in unconfirmed.values():
            self._gone(sent, reason)

    def _break(self) -> None:
        on_broken, self._on_broken = self._on_broken, None
        if on_broken is not None:
            on_broken()

    def _gone(self, sent: _Sent, reason: Exception) -> None:
        """There is no channel for it: the broker closed it, or the connection is gone, and with it every delivery."""
        sent.keeps = sent.keeps or not isinstance(reason, ChannelClosed)
        self._failed(sent, str(reason))
        if sent.then is not None:
            sent.then()

    def _failed(self, sent: _Sent, why: str) -> None:
        if sent.keeps and sent.then is not None:
            sent.then = None
            log.warning("%s: %s: %s; the broker delivers it again", self._service, sent.what, why)
        else:
            log.error("%s: %s and is lost: %s", self._service, sent.what, why)
