"""Stages of pipelines: what a worker does with the result of one that is not the last, and when one has failed.

A result is published as the next stage's request, and the one that has run is let go once the broker has confirmed
that: so the pipeline is always in a queue, and nobody stands between. What the broker does not take is told, or kept,
as a failure of the stage that it was meant for.

A failure is told when all that undoes the stages before has been confirmed. Nothing is undone while the pipeline may be
going on elsewhere: then it is kept, for people to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from warren.amqp.frames import Delivery, decode_properties, encode_properties
from warren.logs import get_logger
from warren.protocol import evidence, topology
from warren.protocol.evidence import Ending
from warren.protocol.request import Request
from warren.protocol.slip import (
    Slip,
    Stage,
    onward_properties,
    queue_of,
    undo_properties,
    with_slip,
)
from warren.protocol.stage import as_argument
from warren.server.attempt import Attempt
from warren.server.copies import Copy, NoQueue, Way
from warren.server.replies import Replies, Reply
from warren.server.settler import Settler

log: Final = get_logger("warren.server")

#: Seconds for which a request of the next stage that the broker refuses is tried again: while its caller waits, and
#: of a cast.
_PATIENCE: Final = 3.0
_CAST_PATIENCE: Final = 30.0

_EXCHANGES: Final = (topology.EXCHANGE, topology.DEFAULT_EXCHANGE)

_GIVEN_UP: Final = "the caller has given the call up"
_NO_TIME: Final = "no time is left for it: allow more"
_NO_QUEUE: Final = "no queue {!r}: no worker of this service has ever run here: start one, or check its name ({})"
_REFUSED: Final = "its queue {!r} does not take the request: {}; look at the queue, and at its node"
_IN_DOUBT: Final = "whether its queue {!r} has the request is not known: {}; look before you repeat it"
_NOT_UNDONE: Final = "it cannot be published to {!r}, to undo what {} has done: {}; try it again with `warren dead`"
_UNDOES: Final = "; what the stages before it have done is being undone"
_STOPS: Final = (
    "; what {} and those before it have done is not undone, as neither {!r} nor {!r} takes what would undo it: undo it"
    " yourself"
)
_KEEPS: Final = (
    "; what the stages before it have done is not undone by this worker, as the pipeline may go on: it is kept in {!r},"
    " where `warren dead` shows it; look before you try it again"
)


class _Next(NamedTuple):
    """The request of the next stage."""

    slip: Slip
    properties: bytes
    body: bytes

    def as_request(self) -> Request:
        """It, as if it had come."""
        return _as_delivered(self.properties, self.body)


class _Failed(NamedTuple):
    """What a pipeline ends in.

    Attributes:
        slip: of the stage that has failed.
        request: its request, as it came or would have come.
        to_undo: what there is to undo, the last stage first.
        certain: whether it is not going on elsewhere.
    """

    reply: Reply
    slip: Slip
    request: Request
    to_undo: Sequence[Stage]
    certain: bool = True

    def kept(self, *, again: bool = False, undone: bool = False) -> Request:
        """The request as it is kept, with this noted on its slip."""
        properties = with_slip(self.request.properties, self.slip.marked(again=again, undone=undone))
        return _as_delivered(encode_properties(properties), self.request.delivery.body)


class Onward:
    """Hands over the stages of one service, and undoes those before one that fails."""

    def __init__(self, settler: Settler, replies: Replies, service: str, user: str) -> None:
        """`user` is the AMQP user that the server runs as."""
        self._settler = settler
        self._replies = replies
        self._dead = topology.dead_queue(service)
        self._user = user

    def take(self, attempt: Attempt, reply: Reply) -> bool:
        """Undertake what there is to do after a stage; False where that is what is done after any call."""
        slip, request = attempt.slip, attempt.request
        assert slip is not None
        assert request is not None
        if reply.failure is None and slip.is_last:
            return False
        if reply.failure is not None and not slip.to_undo:
            return False
        if attempt.settled or self._settler.comes_again(attempt):
            return True
        if reply.failure is None:
            self._go_on(attempt, request, slip, reply.body)
        else:
            certain = reply.failure.reason != evidence.WORKER_LOST.reason
            self._fail(attempt, _Failed(reply, slip, request, slip.to_undo, certain))
        return True

    # --- handing over -----------------------------------------------------------------------------------------------

    def _go_on(self, attempt: Attempt, request: Request, slip: Slip, result: bytes) -> None:
        body = as_argument(request.content_type, result)
        following = slip.onward(body, again=_came_again(attempt))
        left = attempt.left
        if attempt.answered:  # nobody waits any more
            reply = self._replies.ended(attempt, evidence.GIVEN_UP, _GIVEN_UP)
        elif left is not None and left <= 0:
            reply = self._replies.not_handed_over(attempt, evidence.ON_ARRIVAL, _NO_TIME, following)
        else:
            try:
                ways = self._ways(attempt, request, following, len(body), left)
            except ValueError as error:
                reply = self._replies.ended(attempt, evidence.RESULT_TOO_LARGE, str(error))
            else:
                self._hand_over(attempt, request, _Next(following, ways[-1].properties, body), ways)
                return
        self._fail(attempt, _Failed(reply, slip, request, following.to_undo))

    def _ways(self, attempt: Attempt, request: Request, slip: Slip, size: int, left: float | None) -> list[Way]:
        """By the exchange of all requests, or straight into the queue, without its bounce.

        Raises:
            ValueError: the request does not fit into one frame.
        """
        queue, ways = slip.here.queue.encode(), []
        marked = attempt.number is not None or attempt.earlier
        for exchange in _EXCHANGES:
            properties = onward_properties(
                request,
                slip,
                size=size,
                budget=left,
                marked=marked,
                server_user=self._user,
                word=self._replies.lean,
                bounce=exchange == topology.EXCHANGE,
            )
            if len(properties) > self._settler.copies.room:
                raise ValueError(f"the headers of the request of {slip.here.to} do not fit into a frame: send fewer")
            ways.append(Way(exchange.encode(), queue, properties))
        return ways

    def _hand_over(self, attempt: Attempt, request: Request, following: _Next, ways: list[Way]) -> None:
        failed = partial(self._settler.surely, attempt, evidence.SERVER)
        # Of two, one might fail and undo what the other one builds on.
        twice = attempt.number is not None and not following.slip.to_undo
        self._settler.copies.send(
            Copy(
                ways=ways,
                body=following.body,
                id=request.properties.correlation_id,
                patience=_patience(attempt, request),
                outlives_link=attempt.acked,
                taken=partial(self._taken, attempt),
                refused=partial(failed, self._not_taken, following),
                doubtful=None if twice else partial(failed, self._in_doubt, following),
            )
        )
        attempt.settled = True

    def publish_again(self, attempt: Attempt, slip: Slip, properties: bytes, body: bytes) -> None:
        """The next stage's request, which has this slip, has come back, and nobody else has it."""
        queue = slip.here.queue.encode()
        ways = [Way(exchange.encode(), queue, properties) for exchange in _EXCHANGES]
        following = _Next(slip, properties, body)
        self._hand_over(attempt, following.as_request(), following, ways)

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
        slip = following.slip
        reply = self._replies.not_handed_over(attempt, ending, message.format(slip.here.queue, why), slip)
        certain = ending is evidence.NO_ROUTE
        self._fail(attempt, _Failed(reply, slip, following.as_request(), slip.to_undo, certain))

    # --- what has failed --------------------------------------------------------------------------------------------

    def _fail(self, attempt: Attempt, failed: _Failed) -> None:
        """Undo what can be, if that is right, and tell whoever waits for it."""
        if not failed.to_undo:
            self._tell(attempt, failed.reply, failed.request)
        elif failed.certain and not failed.slip.again and not _came_again(attempt) and self._can_note(attempt, failed):
            self._undo(attempt, failed, failed.to_undo)
        else:
            words = _KEEPS.format(self._dead)
            reply = self._replies.retold(attempt, failed.reply, words, undone=False)
            set_aside = self._settler.set_aside_cast if attempt.is_cast else self._settler.set_aside
            set_aside(attempt, reply, failed.kept(again=True))

    @staticmethod
    def _can_note(attempt: Attempt, failed: _Failed) -> bool:
        """Whether a request that is kept can say that it was undone: only the broker has one that is too large here."""
        return not attempt.is_cast or failed.request.delivery.body is not None

    def _tell(self, attempt: Attempt, reply: Reply, kept: Request) -> None:
        assert attempt.slip is not None
        attempt.slip = attempt.slip.marked(undone=True)  # there is nothing left to undo
        if attempt.is_cast:
            self._settler.set_aside_cast(attempt, reply, kept)
        else:
            self._settler.reply(attempt, reply)

    def _undo(self, attempt: Attempt, failed: _Failed, stages: Sequence[Stage]) -> None:
        """Undo these stages, one after the other, and tell of the failure then."""
        if self._settler.comes_again(attempt):  # and may go on where it comes to
            return
        if not stages:
            reply = self._replies.retold(attempt, failed.reply, _UNDOES, undone=True)
            self._tell(attempt, reply, failed.kept(undone=True))
            return
        stage, *others = stages
        properties = undo_properties(failed.request, stage, server_user=self._user)
        queue = queue_of(stage.undo or "").encode()
        after = partial(self._settler.surely, attempt, evidence.SERVER)
        self._settler.copies.send(
            Copy(
                ways=[Way(e.encode(), queue, properties) for e in _EXCHANGES],
                body=stage.kept or b"",
                id=decode_properties(properties).correlation_id,
                patience=_CAST_PATIENCE,
                outlives_link=attempt.acked,
                taken=partial(after, self._undo, failed, others),
                refused=partial(after, self._keep_undoing, failed, stages, properties),
            )
        )
        attempt.settled = True

    def _keep_undoing(
        self, attempt: Attempt, failed: _Failed, stages: Sequence[Stage], properties: bytes, why: str
    ) -> None:
        """What would undo a stage has no queue: it is kept, and tried again when people want it."""
        stage, *others = stages
        undo = stage.undo or ""
        given = with_slip(decode_properties(properties), Slip((Stage(undo),)))
        message = _NOT_UNDONE.format(queue_of(undo), stage.to, why)
        log.error("%s", message)
        reply = self._replies.not_handed_over(attempt, evidence.NO_ROUTE, message, failed.slip)
        after = partial(self._settler.surely, attempt, evidence.SERVER)
        request = _as_delivered(encode_properties(given), stage.kept or b"")
        taken, refused = partial(after, self._undo, failed, others), partial(after, self._stop_undoing, failed, stage)
        self._settler.set_apart(request, reply, taken, refused, outlives_link=attempt.acked)
        attempt.settled = True

    def _stop_undoing(self, attempt: Attempt, failed: _Failed, stage: Stage, why: str) -> None:
        """What would undo a stage is nowhere: the request, which has it, is left to the broker."""
        words = _STOPS.format(stage.to, queue_of(stage.undo or ""), self._dead)
        self._settler.not_set_aside(attempt, self._replies.retold(attempt, failed.reply, words, undone=False), why)


def _patience(attempt: Attempt, request: Request) -> float:
    left = attempt.left
    if request.properties.expiration == b"0":  # fail-fast
        return 0.0
    return _CAST_PATIENCE if left is None else min(_PATIENCE, left / 2)  # its caller shall still hear of it


def _came_again(attempt: Attempt) -> bool:
    """Whether an earlier attempt at this very stage was lost: it may have handed over."""
    return attempt.delivery.redelivered or (attempt.request is not None and attempt.request.attempt > 1)


def _as_delivered(properties: bytes, body: bytes | None) -> Request:
    """A request that was to be published, as if it had come; without a body if that is only at the broker."""
    delivery = Delivery(0, False, b"\x00")
    delivery.properties, delivery.body, delivery.body_size = properties, body, len(body or b"")
    return Request(delivery)
