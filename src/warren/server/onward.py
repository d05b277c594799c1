"""Stages of pipelines: what a worker does with the result of one that is not the last.

It is published as the next stage's request, and the one that has run is let go once the broker has confirmed that: so
the pipeline is always in a queue, and nobody stands between. What the broker does not take is told, or kept, as a
failure of the stage that it was meant for.
"""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

from warren.amqp.frames import Delivery
from warren.protocol import evidence, topology
from warren.protocol.evidence import Ending
from warren.protocol.request import Request
from warren.protocol.slip import Slip, as_argument, onward_properties
from warren.server.attempt import Attempt
from warren.server.copies import Copy, NoQueue, Way
from warren.server.replies import Replies, Reply
from warren.server.settler import Settler

#: Seconds for which a request of the next stage that the broker refuses is tried again: while its caller waits, and
#: of a cast.
_PATIENCE: Final = 3.0
_CAST_PATIENCE: Final = 30.0

_GIVEN_UP: Final = "the caller has given the call up"
_NO_TIME: Final = "no time is left for it: allow more"
_NO_QUEUE: Final = "no queue {!r}: no worker of this service has ever run here: start one, or check its name ({})"
_REFUSED: Final = "its queue {!r} does not take the request: {}; look at the queue, and at its node"
_IN_DOUBT: Final = "whether its queue {!r} has the request is not known: {}; look before you repeat it"


class _Next(NamedTuple):
    """The request of the next stage."""

    slip: Slip
    properties: bytes
    body: bytes

    def as_request(self) -> Request:
        """It, as if it had come."""
        delivery = Delivery(0, False, b"\x00")
        delivery.properties, delivery.body, delivery.body_size = self.properties, self.body, len(self.body)
        return Request(delivery)


class Onward:
    """Hands over the stages of one service."""

    def __init__(self, settler: Settler, replies: Replies, user: str) -> None:
        """`user` is the AMQP user that the server runs as."""
        self._settler = settler
        self._replies = replies
        self._user = user

    def take(self, attempt: Attempt, reply: Reply) -> bool:
        """Undertake what there is to do after a stage; False where that is what is done after any call."""
        slip = attempt.slip
        assert slip is not None
        if reply.failure is not None or slip.is_last:
            return False
        if not attempt.settled and not self._settler.comes_again(attempt):
            self._go_on(attempt, slip, reply.body)
        return True

    def _go_on(self, attempt: Attempt, slip: Slip, result: bytes) -> None:
        if attempt.answered:  # nobody waits any more
            self._end(attempt, evidence.GIVEN_UP, _GIVEN_UP)
            return
        content_type = attempt.request.content_type if attempt.request is not None else ""
        body = as_argument(content_type, result)
        following = slip.onward(body, again=_came_again(attempt))
        left = attempt.left
        if left is not None and left <= 0:
            self._settler.reply(
                attempt, self._replies.not_handed_over(attempt, evidence.ON_ARRIVAL, _NO_TIME, following)
            )
            return
        try:
            ways = self._ways(attempt, following, len(body), left)
        except ValueError as error:
            self._end(attempt, evidence.RESULT_TOO_LARGE, str(error))
            return
        self._hand_over(attempt, following, ways, body, left)

    def _end(self, attempt: Attempt, ending: Ending, message: str) -> None:
        """This stage has failed after all."""
        self._settler.reply(attempt, self._replies.ended(attempt, ending, message))

    def _ways(self, attempt: Attempt, slip: Slip, size: int, left: float | None) -> list[Way]:
        """By the exchange of all requests, or straight into the queue, without its bounce.

        Raises:
            ValueError: the request does not fit into one frame.
        """
        request, queue = attempt.request, slip.here.queue
        assert request is not None
        marked = attempt.number is not None or attempt.earlier
        ways = []
        for exchange in (topology.EXCHANGE, topology.DEFAULT_EXCHANGE):
            properties = onward_properties(
                request,
                slip,
                size=size,
                budget=left,
                marked=marked,
                server_user=self._user,
                bounce=exchange == topology.EXCHANGE,
            )
            if len(properties) > self._settler.copies.room:
                raise ValueError(f"the headers of the request of {slip.here.to} do not fit into a frame: send fewer")
            ways.append(Way(exchange.encode(), queue.encode(), properties))
        return ways

    def _hand_over(self, attempt: Attempt, slip: Slip, ways: list[Way], body: bytes, left: float | None) -> None:
        request = attempt.request
        assert request is not None
        following = _Next(slip, ways[-1].properties, body)
        failed = partial(self._settler.surely, attempt, evidence.SERVER)
        self._settler.copies.send(
            Copy(
                ways=ways,
                body=body,
                id=request.properties.correlation_id,
                patience=_patience(request, left),
                outlives_link=attempt.acked,
                taken=partial(self._taken, attempt),
                refused=partial(failed, self._not_taken, following),
                doubtful=None if attempt.number is not None else partial(failed, self._in_doubt, following),
            )
        )
        attempt.settled = True

    # --- what becomes of it ---------------------------------------------------------------------------------------

    def _taken(self, attempt: Attempt) -> None:
        if attempt.number is not None:  # it would run again, and go on again, if its ack were lost
            self._settler.copied(attempt, None)
        else:
            self._settler.surely(attempt, evidence.SERVER, self._settler.release)

    def _not_taken(self, attempt: Attempt, following: _Next, why: str) -> None:
        """The broker does not have the next stage's request, or says so."""
        if isinstance(why, NoQueue):
            self._fail_next(attempt, following, evidence.NO_ROUTE, _NO_QUEUE, why)
        else:
            self._fail_next(attempt, following, evidence.QUEUE_DOWN, _REFUSED, why)

    def _in_doubt(self, attempt: Attempt, following: _Next, why: str) -> None:
        self._fail_next(attempt, following, evidence.CHANNEL_CLOSED, _IN_DOUBT, why)

    def _fail_next(self, attempt: Attempt, following: _Next, ending: Ending, message: str, why: str) -> None:
        """The pipeline ends at its next stage: its caller is told, or the request kept, to be resumed there."""
        message = message.format(following.slip.here.queue, why)
        reply = self._replies.not_handed_over(attempt, ending, message, following.slip)
        if attempt.is_cast:
            self._settler.set_aside_cast(attempt, reply, following.as_request())
        else:
            self._settler.reply(attempt, reply)


def _patience(request: Request, left: float | None) -> float:
    if request.properties.expiration == b"0":  # fail-fast
        return 0.0
    return _CAST_PATIENCE if left is None else min(_PATIENCE, left)


def _came_again(attempt: Attempt) -> bool:
    """Whether an earlier attempt at this very stage was lost: it may have handed over."""
    return attempt.delivery.redelivered or (attempt.request is not None and attempt.request.attempt > 1)
