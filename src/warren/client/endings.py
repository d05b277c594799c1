"""Everything that ends calls, or decides that they go on: what the broker says of them, the timer, lost links.

`outcomes` has the words; here is who ends in which, and when.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

from warren.amqp.frames import Delivery, Properties
from warren.client import outcomes
from warren.client.calls import ASKED, CONFIRMED, OUTSIDE, PARKED, WAITING, WRITTEN, Calls, PendingCall
from warren.client.inlet import Inlet
from warren.client.lane import Spawn
from warren.client.lean import LeanQueues
from warren.client.pipeline import bounced_stage
from warren.connection.errors import ChannelClosed
from warren.connection.explainer import NOT_KNOWN, Explainer, Question, Standing
from warren.connection.link import Link
from warren.connection.supervisor import copy_of
from warren.errors import CallError
from warren.protocol import evidence
from warren.protocol.bounce import Bounce, is_bounce, read_bounce
from warren.protocol.progress import PROGRESS, read_progress
from warren.protocol.reply import doubted, reply_too_large
from warren.protocol.slip import queue_of
from warren.protocol.streaming import ITEM
from warren.protocol.uploading import TAKEN


class Endings:
    """Takes calls out of the table and tells their waiters; the owner of the lanes' and the reply queue's events."""

    def __init__(
        self,
        calls: Callable[[Callable[[float], None]], Calls],
        spawn: Spawn,
        *,
        link: Callable[[], Link | None],
        why_unwritten: Callable[[], str],
        max_size: int,
        durable: bool,
    ) -> None:
        """`calls` makes the table, given what sets its timer; `why_unwritten` says why calls wait to be written."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.calls = calls(self._wake_at)
        self._why_unwritten = why_unwritten
        self._max_size = max_size
        self._durable = durable
        self._explainer: Explainer[PendingCall] = Explainer(link, self._answered, spawn)
        self.lean = LeanQueues()
        self.on_retry: Callable[[], None] = lambda: None  # calls are parked that may be sent again

    # --- one call -----------------------------------------------------------------------------------------------

    def end(self, call: PendingCall, error: CallError) -> None:
        """End a call with an error; one that has ended is ignored."""
        if self.calls.end(call):
            self._finish(call, outcomes.locate(error, call))

    @staticmethod
    def _finish(call: PendingCall, outcome: Any) -> None:
        try:
            call.waiter.finish(outcome)
        except BaseException:
            outcomes.waiter_failed(call)

    def _ask(
        self, call: PendingCall, verdict: Callable[[PendingCall, Standing], CallError | None], queue: str = ""
    ) -> None:
        """End a call once it is known how its queue stands, or is known not to be found out."""
        self.calls.ask(call, self._explainer.question(queue or call.target.queue), verdict)

    def _answered(self, question: Question[PendingCall], standing: Standing) -> None:
        for call, verdict in list(question.items()):
            if call.state is ASKED:
                error = verdict(call, standing)
                if error is not None:
                    self.end(call, error)
        if self.calls.parked:
            self.on_retry()

    # --- from the lanes (LaneOwner) -----------------------------------------------------------------------------

    def on_confirmed(self, casts: list[PendingCall]) -> None:
        for cast in casts:
            self._finish(cast, None)

    def on_refused(self, calls: list[PendingCall]) -> None:
        for call in calls:
            self.lean.refused(call.target.queue, time.monotonic())
            self._ask(call, self._judge_refused)

    def _judge_refused(self, call: PendingCall, standing: Standing) -> CallError | None:
        """A node that goes down refuses, too, what a consumer may have got: only a queue that answers proves it."""
        if not call.target.resend or call.deadline <= time.monotonic():
            return outcomes.refused(*standing)
        call.earlier = call.earlier or not standing.there
        self.calls.park(call, standing)
        return None

    def retry_refused(self) -> None:
        """Let the calls that were refused wait to be written again."""
        self.calls.wait_again(list(self.calls.parked), first=False)

    def on_returned(self, call: PendingCall, text: str) -> None:
        self._finish(call, outcomes.locate(outcomes.no_route(call.target.queue, text), call))

    def on_channel_closed(self, calls: list[PendingCall], reason: ChannelClosed) -> None:
        for call in calls:
            self.end(call, outcomes.channel_closed(reason))

    # --- from the reply queue (ReplyOwner) ----------------------------------------------------------------------

    def on_special(self, call: PendingCall, p: Properties, delivery: Delivery) -> None:
        if p.type == PROGRESS and not is_bounce(p):  # before all else: it ends nothing, however damaged it is
            _tell_progress(call, delivery.body)
            return
        try:
            bounce = read_bounce(p)
        except CallError as error:
            self.end(call, error)
            return
        if bounce is not None:
            self._on_bounce(call, bounce, p)
        elif delivery.body is None:
            self.end(call, reply_too_large(p, delivery.body_size, self._max_size))
        elif p.type == ITEM:
            if isinstance(call.waiter, Inlet):  # else somebody's mistake: a call has one reply
                call.waiter.came(p, delivery.body, again=delivery.redelivered)
        elif p.type == TAKEN:
            if isinstance(call.waiter, Inlet):
                call.waiter.taken(p)
        elif self.calls.end(call):
            if call.target.trusting and not self._durable:
                self.lean.weigh(call, p, time.monotonic())
            p.correlation_id = call.first_id  # what the call is known by, whichever of its attempts is answered
            self._finish(call, (doubted(p) if call.earlier else p, delivery.body))

    def _on_bounce(self, call: PendingCall, bounce: Bounce, p: Properties) -> None:
        stage = bounced_stage(p, call.target)
        queue = call.target.queue if stage is None else queue_of(call.target.stages.names[stage - 1])
        if bounce.ending is evidence.QUEUE_TTL:
            self._ask(call, lambda call, standing: outcomes.bounced(call, bounce, standing.text, stage), queue)
        else:
            self.lean.refused(queue, time.monotonic())
            self.end(call, outcomes.bounced(call, bounce, "", stage))

    def on_replies_lost(self, reason: ChannelClosed) -> None:
        for call in self.calls:
            if call.state is CONFIRMED:
                self.end(call, outcomes.connection_lost(f"the reply queue is lost: {reason}"))

    def on_mute(self, reason: ChannelClosed) -> None:
        """Workers cannot be told anything: no stream can go on."""
        for call in self.calls:
            if isinstance(call.waiter, Inlet):
                self.end(call, outcomes.stream_mute(reason))

    # --- time ---------------------------------------------------------------------------------------------------

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # In a context of its own: the present one may be a caller's.
        self._timer = self._loop.call_later(max(0.0, when - time.monotonic()), self._expire, context=Context())

    def _expire(self) -> None:
        self._timer = None
        for call in self.calls.expired(time.monotonic()):
            self._time_is_up(call)
        due = self.calls.next_expiry()
        if due is not None and self._timer is None:
            self._wake_at(due)

    def _time_is_up(self, call: PendingCall) -> None:
        state = call.state
        if state is OUTSIDE:
            self.end(call, outcomes.no_room(self.calls.lacking(len(self.calls.outside[call]))))
        elif state is WAITING:
            self.end(call, outcomes.never_written(call, self._why_unwritten()))
        elif state is PARKED:
            self.end(call, outcomes.refused(*self.calls.parked[call]))
        elif state in (WRITTEN, CONFIRMED):  # one that is asked about ends with the answer
            sure = state is CONFIRMED or call.target.kind == "bare"
            self._ask(call, lambda call, standing: outcomes.timed_out(call, sure, standing.text))

    # --- the link -----------------------------------------------------------------------------------------------

    def link_lost(self, reason: CallError) -> None:
        """End what was written to it, except what carries on, and line up what is to be sent again."""
        self.lean.forget()
        again = []
        for call in self.calls:
            if call.state not in (WRITTEN, CONFIRMED):
                continue
            if call.state is CONFIRMED and self._durable and call.target.kind != "bare":
                continue  # its reply will be in the queue when we are back
            if call.target.resend:
                call.earlier = True
                again.append(call)
            else:
                self.end(call, outcomes.connection_lost(reason.message))
        self.calls.wait_again([call for call in again if call in self.calls], first=True)
        self.retry_refused()

    def no_link(self, reason: CallError, for_good: bool) -> None:
        """A round of attempts failed: fail-fast calls end, and all of them when there will be no other."""
        for call in self.calls:
            if call.state in (OUTSIDE, WAITING) and (for_good or call.target.fail_fast):
                self.end(call, copy_of(reason))
            elif call.state is CONFIRMED and for_good:
                self.end(call, outcomes.connection_lost(reason.message))

    def close(self) -> None:
        """End every call."""
        for call in self.calls:
            self.end(call, self._verdict_at_close(call))
        if self._timer is not None:
            self._timer.cancel()

    def _verdict_at_close(self, call: PendingCall) -> CallError:
        if call.state is ASKED and call.place is not None:
            error: CallError | None = call.place[call](call, NOT_KNOWN)
            return error or outcomes.refused(*NOT_KNOWN)
        return outcomes.closed(call)


def _tell_progress(call: PendingCall, body: bytes | None) -> None:
    """Tell whoever has asked; what nobody has asked for is dropped."""
    own = call.target.own
    said = None if own is None or own.on_progress is None else read_progress(body)
    if said is not None:
        try:
            own.on_progress(said)
        except BaseException:
            outcomes.on_progress_failed(call)
