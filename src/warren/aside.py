"""Setting requests aside: what nobody will answer for any more goes to the service's dead queue, not nowhere.

On a channel of its own, as the broker closes the channel of a publish that it refuses. The request is let go from
its queue only after the broker has confirmed the copy, or has refused it, which is then said in the log. When the
connection goes before that, the broker delivers the request again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from warren import wire
from warren.amqp.frames import Delivery
from warren.amqp.link import ChannelClosed, HotChannel
from warren.wire import Request

log = logging.getLogger("warren.server")

#: Answers and acknowledges a request whose copy is safe; None where that was done before.
LetGo = Callable[[], None] | None

_EXCHANGE = wire.BOUNCE_EXCHANGE.encode()


class Aside:
    """The way to one service's dead queue, over one channel; the receiver of that channel."""

    def __init__(self, channel: HotChannel, service: str, user: str, on_broken: Callable[[], None]) -> None:
        """`on_broken` is called when the broker has closed the channel, opened as `user`, and another is needed."""
        self._channel = channel
        self._service = service
        self._key = service.encode()
        self._unconfirmed: dict[int, tuple[str, LetGo]] = {}
        self._user = user
        self._on_broken = on_broken
        channel.attach(self, body_limit=0)
        channel.on_closed = self._on_closed

    @property
    def closed(self) -> bool:
        """Whether its channel is gone, so that another one is needed."""
        return self._channel.closed is not None

    def put(self, request: Request, reason: str, then: LetGo) -> None:
        """Set a request aside; `then` is called when it is safe there, or is known not to be."""
        what = f"a request (id {request.call_id}, {reason})"
        if self._channel.closed is not None:
            self._give_up(what, then, self._channel.closed)
            return
        tag = self._channel.publish(
            _EXCHANGE, self._key, request.dead(reason, server_user=self._user), request.delivery.body or b""
        )
        self._unconfirmed[tag] = what, then

    def confirmed(self, tag: int, multiple: bool) -> None:
        for one in [known for known in self._unconfirmed if known == tag or (multiple and known < tag)]:
            _what, then = self._unconfirmed.pop(one)
            if then is not None:
                then()

    def refused(self, tag: int, multiple: bool) -> None:
        for known in self._unconfirmed:
            if known == tag or (multiple and known < tag):
                self._lost(self._unconfirmed[known][0], "the broker refuses it")
        self.confirmed(tag, multiple)

    def returned(self, correlation_id: bytes | None, reply_code: int, reply_text: str) -> None:
        queue = wire.dead_queue(self._service)
        self._lost("a request", f"there is no queue {queue!r} bound to {wire.BOUNCE_EXCHANGE!r}")

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        """Nothing is consumed on this channel."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """See `delivered`."""

    def _on_closed(self, reason: Exception) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        if isinstance(reason, ChannelClosed):
            self._on_broken()
        for what, then in unconfirmed.values():
            self._give_up(what, then, reason)

    def _give_up(self, what: str, then: LetGo, reason: Exception) -> None:
        """There is no channel to set it aside by."""
        if then is not None and not isinstance(reason, ChannelClosed):  # the connection is gone, the request is not
            log.warning("%s: %s was not set aside: %s; the broker delivers it again", self._service, what, reason)
            return
        self._lost(what, str(reason))
        if then is not None:
            then()

    def _lost(self, what: str, why: str) -> None:
        log.error("%s: %s cannot be set aside and is lost: %s", self._service, what, why)
