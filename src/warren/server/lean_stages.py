"""Stages of lean pipelines: their results are published as the next stage's requests where a reply would be.

Without a confirm, as nothing can refuse them, and right before the ack, on the same channel: the broker takes both in
this order [AMQP 0-9-1, 4.7], so it lets the one request go when it has the other. One that comes back, as its queue is
gone, is `Onward`'s, as is everything else that a stage may end in.
"""

from __future__ import annotations

import contextlib
import time

from warren.amqp.frames import Delivery, FrameError
from warren.connection.channel import HotChannel, Returned
from warren.connection.errors import ChannelClosed, LinkLost
from warren.protocol.deadline import remaining_budget
from warren.protocol.request import Request
from warren.protocol.slip import method_name, slip_of
from warren.protocol.stage import TRUST, Following, as_argument, lean_next
from warren.server.admission import Offered
from warren.server.attempt import Attempt
from warren.server.onward import Onward
from warren.server.replies import Reply
from warren.server.settler import Settler


class LeanStages:
    """Hands over the stages of one service that can be handed over so."""

    def __init__(self, settler: Settler, onward: Onward, service: Offered) -> None:
        """`onward` takes all others."""
        self._settler = settler
        self._onward = onward
        self._service = service
        self._used: HotChannel | None = None  # by the last hand-over
        self._barred = 0.0  # until then all is confirmed (`time.monotonic`)
        settler.on_stage = self.take

    def take(self, attempt: Attempt, reply: Reply) -> bool:
        """Undertake what there is to do after a stage; False where that is what is done after any call."""
        slip = attempt.slip
        following: Following | None = None if slip is None or reply.failure is not None else slip.following
        if following is not None and self._hand_over(attempt, reply.body, following):
            return True
        return self._onward.take(attempt, reply)

    def _hand_over(self, attempt: Attempt, result: bytes, following: Following) -> bool:
        request, channel, left = attempt.request, attempt.channel, attempt.left
        if request is None or left is None or channel.closed is not None or not _is_due(attempt):
            return False
        waited = (request.timeout_ms or 0) / 1000 - left
        if left <= 0 or waited > TRUST or (self._barred and time.monotonic() < self._barred):
            return False
        properties = lean_next(request, following, int(left * 1000))
        if properties is None or len(properties) > channel.room:
            return False
        channel.publish(b"", following.queue, properties, as_argument(request.content_type, result))
        self._used = channel
        self._settler.release(attempt)
        return True

    async def settled(self) -> None:
        """Wait until nothing is on its way any more, neither what may come back nor a copy."""
        if self._used is not None:
            with contextlib.suppress(ChannelClosed, LinkLost):  # it says no more
                await self._used.settled()  # an answer that stands behind all that comes back
        await self._settler.copies.settled()

    def returned(self, message: Returned) -> bool:
        """Publish a request again that has come back, now with confirms; False where it is none.

        The one before it has been let go. So it is what an ``at-most-once`` stage has in hand: gone with this process.
        And no prefetch bounds how many such there are, so for a while all others are confirmed at once.
        """
        request = _read(message)
        slip = None if request is None else slip_of(request.properties)
        if request is None or slip is None or slip.at == 0:
            return False
        method = self._service.methods.get(method_name(slip.stages[slip.at - 1].to))
        if method is None or message.channel is None:
            return False
        attempt = Attempt(message.channel, request.delivery, time.time(), self._service.name)
        attempt.request, attempt.slip, attempt.method, attempt.acked = request, slip, method, True
        left = remaining_budget(request.timeout_ms, request.deadline_ms, attempt.came)
        attempt.deadline = None if left is None else time.monotonic() + left
        self._barred = time.monotonic() + TRUST
        self._onward.publish_again(attempt, slip, request.delivery.properties, message.body)
        return True


def _read(message: Returned) -> Request | None:
    delivery = Delivery(0, False, b"\x00")
    delivery.properties = message.properties
    try:
        return Request(delivery)
    except FrameError:
        return None


def _is_due(attempt: Attempt) -> bool:
    """Whether it is still the worker's, and never run again: what is, or was let go before, needs the confirm."""
    if attempt.settled or attempt.answered or attempt.acked:
        return False
    return attempt.method.delivery == "report" and not attempt.delivery.redelivered
