"""What becomes of deliveries: the only caller of ack, reject and publish on a service's channels.

Each delivery is settled once, and in every case: acknowledged behind its reply, acknowledged once its copy is safe in
the dead queue or back in its own, or, as the last resort, rejected, so that the broker itself dead-letters it. What
was done is noted after it was done: should it fail, `fail` does what is missing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from warren.flood import Flood
from warren.logs import About, get_logger
from warren.printable import printable_bytes
from warren.protocol import evidence, topology
from warren.protocol.dead_message import Death, dead_properties
from warren.protocol.evidence import Ending
from warren.protocol.problems import class_name
from warren.protocol.request import Request
from warren.server.attempt import Attempt
from warren.server.copies import Copies, Copy, Way
from warren.server.releases import Releases
from warren.server.replies import Replies, Reply

log: Final = get_logger("warren.server")

#: Seconds for which a hand-back that the broker refuses is tried again, before its caller is told; less than a worker
#: that stops waits for it (`finish_running`): else its caller would only hear that its worker was lost.
_HAND_BACK_PATIENCE: Final = 3.0
#: Seconds for which setting aside is tried again, before the broker is asked to dead-letter the request itself.
_ASIDE_PATIENCE: Final = 30.0

_CAST_FAILED: Final = "%s: %s failed and is set aside in %s: %s"
_LOST: Final = "%s: %s is lost: it was taken off its queue before it ran; send it again if it is needed"
_COPY_LOST: Final = "%s: a request could not be set aside and is lost (call %s): send it again if it is needed"
_REPLY_LOST: Final = "%s: %s: a reply could not be sent, and its caller waits until its time is over: %s"
_NOT_HANDED_BACK: Final = "the request could not be handed to another worker: call again"
_IN_DOUBT: Final = evidence.WORKER_LOST
_MAYBE_HANDED_BACK: Final = (
    "the request was being handed to another worker, which may have it or not: look before you repeat it"
)


class _Deliveries:
    """What is done with the deliveries of one service where no copy is made."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._gone = Flood(log, logging.WARNING)

    def take_off(self, attempt: Attempt) -> None:
        """Take an ``at-most-once`` request off its queue before it runs.

        Should the ack get lost on its way, the request comes back marked redelivered, and is then not run.
        """
        attempt.channel.ack(attempt.delivery.tag)
        attempt.acked = True
        attempt.channel.flush()

    def reject(self, attempt: Attempt) -> None:
        """Have the broker dead-letter a delivery as it is."""
        if attempt.settled:
            return
        if attempt.acked:
            log.error(_LOST, self._service, attempt.name)
        else:
            attempt.channel.reject(attempt.delivery.tag)
        attempt.settled = True

    def release(self, attempt: Attempt) -> None:
        """Acknowledge a delivery, if that is due."""
        if not attempt.settled:
            if not attempt.acked:
                attempt.channel.ack(attempt.delivery.tag)
            attempt.settled = True

    def _send(self, attempt: Attempt, address: bytes, reply: Reply) -> None:
        if attempt.answered:
            return
        channel = attempt.channel
        if channel.closed is not None:
            self._send_late(attempt, address, reply)
        elif address.startswith(topology.DIRECT_REPLY_TO):
            # RabbitMQ 3.10 closes the connection (541) over such an address if it is forged, or of a node that is
            # gone. Acknowledged before, the request goes with its reply; else it would do the same to the next worker.
            self.release(attempt)
            channel.flush()
            channel.publish_unrouted(b"", address, reply.properties, reply.body)  # `mandatory` would be a false alarm
        else:
            channel.publish(b"", address, reply.properties, reply.body)
        attempt.answered = True

    def _send_late(self, attempt: Attempt, address: bytes, reply: Reply) -> None:
        """The channel of a request is gone before its reply could be sent."""
        self._gone("%s: %s: the connection was lost before a reply could be sent", self._service, attempt.name)

    def comes_again(self, attempt: Attempt) -> bool:
        """Whether the broker delivers it again, as the connection is lost: then nothing is to be done for it here."""
        lost = attempt.channel.closed is not None and not attempt.acked
        if lost:
            self._gone("%s: %s: the connection was lost; the broker delivers it again", self._service, attempt.name)
        return lost

    def _reply_lost(self, attempt: Attempt, why: str) -> None:
        self._gone(_REPLY_LOST, self._service, attempt.name, why)

    def _answer(self, attempt: Attempt, reply: Reply) -> None:
        if attempt.request is not None and attempt.request.properties.reply_to:
            self._send(attempt, attempt.request.properties.reply_to, reply)


class Settler(_Deliveries):
    """Settles the deliveries of one service."""

    def __init__(self, service: str, user: str, instance: str, replies: Replies) -> None:
        """`user` is the AMQP user that the server runs as, and `instance` what this process is called."""
        super().__init__(service)
        self._user, self._instance = user, instance
        self._dead = topology.dead_queue(service).encode()
        self._replies = replies
        self.copies = Copies()
        self.releases: Releases[Attempt] = Releases(self.copies)
        #: Takes what a stage of a pipeline has ended in; False where it goes the way of all others.
        self.on_stage: Callable[[Attempt, Reply], bool] = lambda _attempt, _reply: False

    def reply(self, attempt: Attempt, reply: Reply) -> None:
        """Send a reply where one is wanted, and let the delivery go; a cast that failed is set aside."""
        request = attempt.request
        assert request is not None
        if attempt.slip is not None and self.on_stage(attempt, reply):
            return
        address = request.properties.reply_to
        if address:
            self._send(attempt, address, reply)
            self.release(attempt)
        elif reply.failure is None:
            self.release(attempt)
        else:
            self.set_aside_cast(attempt, reply)

    def _send_late(self, attempt: Attempt, address: bytes, reply: Reply) -> None:
        """On another channel, if no other worker will get the request and answer it.

        A direct reply-to address may cost the connection there, and the acks of others with it.
        """
        if attempt.acked and not address.startswith(topology.DIRECT_REPLY_TO):
            self.copies.send(_reply_copy(attempt, address, reply, partial(self._reply_lost, attempt)))
        else:
            super()._send_late(attempt, address, reply)

    # --- setting aside ------------------------------------------------------------------------------------------

    def set_aside_cast(self, attempt: Attempt, reply: Reply, instead: Request | None = None) -> None:
        """Set a cast aside that has failed; `instead` as for `set_aside`."""
        assert reply.failure is not None
        cause, reply.cause = reply.cause, None  # the copy would keep what the handler had in hand
        self.set_aside(attempt, reply, instead)
        log.error(_CAST_FAILED, self._service, attempt.name, self._dead.decode(), reply.failure, exc_info=cause)

    def set_aside(self, attempt: Attempt, reply: Reply, instead: Request | None = None) -> None:
        """Set a request aside with what it ended in, then reply where one is wanted, and let it go.

        `instead` is what is kept where that is another one: that of a pipeline's next stage.
        """
        request = instead or attempt.request
        assert request is not None
        if attempt.settled:
            return
        if request.delivery.body is None or not request.readable:  # not whole here, but the broker still has it
            self._answer(attempt, reply)
            self.reject(attempt)
            return
        if self.comes_again(attempt):
            return
        refused = partial(self.surely, attempt, evidence.SERVER, self.not_set_aside, reply)
        self.set_apart(request, reply, partial(self.copied, attempt, reply), refused, outlives_link=attempt.acked)
        attempt.settled = True

    def set_apart(
        self,
        request: Request,
        reply: Reply,
        taken: Callable[[], None],
        refused: Callable[[str], None],
        *,
        outlives_link: bool,
    ) -> None:
        """Publish a request to the dead queue, with what it ended in; see `Copy` for the others."""
        death = _death(request, reply, self._instance)
        copy = Copy(
            ways=[Way(b"", self._dead, dead_properties(request, death, server_user=self._user, room=self.copies.room))],
            body=request.delivery.body or b"",
            id=request.properties.correlation_id,
            patience=_ASIDE_PATIENCE,
            outlives_link=outlives_link,
            taken=taken,
            refused=refused,
        )
        self.copies.send(copy)

    def not_set_aside(self, attempt: Attempt, reply: Reply, why: str) -> None:
        """The dead queue has not taken it: the broker itself has to see what it can do."""
        log.error("%s: %s cannot be set aside: %s; rejecting it instead", self._service, attempt.name, why)
        self._answer(attempt, reply)
        self.reject(attempt)

    def copied(self, attempt: Attempt, reply: Reply | None) -> None:
        """The copy is safe: answer, if that is due, and let the original go. Never raises, and makes no second copy."""
        attempt.settled = False
        try:
            if reply is not None:
                self._answer(attempt, reply)
            self._let_go(attempt)
        except BaseException as error:
            _complain(self._service, attempt, error)
            if reply is not None:
                with _logged():
                    self._answer(attempt, self._replies.failed(attempt, error))
            with _logged():
                self._let_go(attempt)
            with _logged():
                self.reject(attempt)

    def _let_go(self, attempt: Attempt) -> None:
        """Acknowledge the original, and find out when that has arrived."""
        self.release(attempt)
        if not attempt.acked and attempt.channel.closed is None:
            self.releases.prove(attempt.channel)

    # --- handing back -------------------------------------------------------------------------------------------

    def hand_back(self, attempt: Attempt, left: float | None, number: int | None) -> None:
        """Publish a request again with the seconds that it has left, as attempt `number`, then let the original go.

        Not a requeue: that would mark it redelivered, which must keep meaning that a worker may have started it. The
        original comes back if its ack is lost; without a `number`, the copy says that it is not run then.
        """
        request = attempt.request
        assert request is not None
        if attempt.settled or attempt.channel.closed is not None:
            return
        kept = evidence.DRAIN if attempt.entered else evidence.HAND_BACK  # what it ends in that stays here
        try:
            ways = _ways_back(request, self._service, self._user, left, number, self.copies.room)
        except ValueError as error:
            self._end_held(attempt, kept, _NOT_HANDED_BACK, str(error))
            return
        surely = partial(self.surely, attempt)
        certain = request.delivery.redelivered or attempt.entered  # so it is `at-least-once`, and may run once more
        self.copies.send(
            Copy(
                ways=ways,
                body=request.delivery.body or b"",
                id=request.properties.correlation_id,
                patience=_HAND_BACK_PATIENCE,
                outlives_link=False,
                taken=partial(self.copied, attempt, None),
                refused=partial(surely, evidence.SERVER, self._end_held, kept, _NOT_HANDED_BACK),
                doubtful=None if certain else partial(surely, _IN_DOUBT, self._end_held, _IN_DOUBT, _MAYBE_HANDED_BACK),
            )
        )
        attempt.settled = True

    def _end_held(self, attempt: Attempt, ending: Ending, message: str, why: str) -> None:
        self.reply(attempt, self._replies.ended(attempt, ending, f"{message}: {why}"))

    # --- when something of ours goes wrong ----------------------------------------------------------------------

    def surely(self, attempt: Attempt, instead: Ending, step: Callable[..., None], *args: Any) -> None:
        """A copy was not taken, and this is the last step; `instead` is told should it fail. Never raises."""
        attempt.settled = False
        try:
            step(attempt, *args)
        except BaseException as error:
            self.fail(attempt, error, instead)

    def fail(self, attempt: Attempt, error: BaseException, ending: Ending = evidence.SERVER) -> Reply | None:
        """Answer what is not answered yet, and settle what is not settled. Returns the answer. Never raises."""
        _complain(self._service, attempt, error)
        reply = None
        if attempt.request is not None:
            with _logged():
                reply = self._replies.failed(attempt, error, ending)
                (self._answer if attempt.settled else self.reply)(attempt, reply)
        with _logged():
            self.reject(attempt)
        return reply

    def close(self) -> None:
        """Give up what is still on its way: the broker has the originals, except of those named in the log."""
        self.releases.close()  # first: what waits must not begin because the copies are given up
        for copy in self.copies.drop():
            if copy.dropped is not None:
                copy.dropped("the server stops")
            else:
                log.error(_COPY_LOST, self._service, _call(self._service, copy.id))
        self._gone.sum_up()


def _reply_copy(attempt: Attempt, address: bytes, reply: Reply, lost: Callable[[str], None]) -> Copy:
    """A reply that goes over another channel, once: should it be lost, or perhaps be, it is not sent again."""
    return Copy(
        ways=[Way(b"", address, reply.properties)],
        body=reply.body,
        id=None if attempt.request is None else attempt.request.properties.correlation_id,
        patience=0.0,
        outlives_link=True,
        taken=lambda: None,
        refused=lost,
        doubtful=lost,
        dropped=lost,
    )


def _call(service: str, id: bytes | None) -> About:
    """A call, for the log."""
    id_ = printable_bytes(id or b"")
    return About(id_, {"service": service, "call_id": id_})


def _complain(service: str, attempt: Attempt, error: BaseException) -> None:
    with _logged():
        log.error("%s: %s could not be handled: %s", service, attempt.name, class_name(type(error)), exc_info=error)


def _death(request: Request, reply: Reply, instance: str) -> Death:
    assert reply.failure is not None
    raised = None if reply.problem is None else reply.problem.error
    return Death.of(reply.failure, type=raised, at=time.time(), instance=instance, attempt=request.attempt)


def _ways_back(
    request: Request, service: str, user: str, left: float | None, number: int | None, room: int
) -> list[Way]:
    """By the exchange of all requests, or straight into the queue: without its bounce, which would be at once.

    Raises:
        ValueError: the request cannot be written again, or not into one frame.
    """
    ways = []
    for exchange, key in ((topology.EXCHANGE, service), (topology.DEFAULT_EXCHANGE, topology.service_queue(service))):
        bounce = exchange == topology.EXCHANGE
        properties = request.next_attempt(budget=left, attempt=number, server_user=user, bounce=bounce)
        if len(properties) > room:
            raise ValueError("its headers fill a frame already")
        ways.append(Way(exchange.encode(), key.encode(), properties))
    return ways


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """What fails in here is only logged: the next step has to be taken all the same."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(BaseException):
            log.exception("a request could not be answered or settled")
