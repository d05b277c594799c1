"""Which service queues take whatever is published to them: calls to those ask the broker for less. Pure.

A confirm and a bounce tell a caller that a queue has refused its request, or given it back. Where a queue does neither
they tell nothing, and the broker works for them on every call [docs/adr/0036].
"""

from __future__ import annotations

from typing import Final

from warren.amqp.frames import Properties
from warren.client.calls import PendingCall
from warren.client.requests import Target
from warren.protocol.reply import says_lean, stage_not_reached
from warren.protocol.slip import queue_of

#: Seconds for which a worker's word about its queue counts. As short as this, since a queue may be deleted and made
#: anew with a limit, and the node of a queue may go down.
TRUST: Final = 1.0
#: Seconds for which it does not count, once the broker has refused a request or given one back all the same: then a
#: policy limits the queue, of which its workers do not know.
DISTRUST: Final = 60.0
#: Seconds at the end of `TRUST` in which a call asks for the word again, so that the others need not; and seconds that
#: it gets for the answer until another call asks.
_RENEWAL: Final = 0.25
_ONE_ASKS: Final = 0.05
_MOST: Final = 10_000


class LeanQueues:
    """What one client knows of the queues that it publishes to."""

    __slots__ = ("_barred", "_fresh", "_until")

    def __init__(self) -> None:
        self._fresh: dict[str, float] = {}  # until when nobody has to ask
        self._until: dict[str, float] = {}
        self._barred: dict[str, float] = {}

    def knows(self, target: Target, now: float) -> bool:
        """Whether a call is a lean one: all its queues are known to take everything, and it need not ask again."""
        if self._fresh.get(target.queue, 0.0) <= now and self._is_old(target.queue, now):
            return False
        if target.stages is not None:
            for queue in target.stages.queues:
                if self._fresh.get(queue, 0.0) <= now and self._is_old(queue, now):
                    return False
        return True

    def _is_old(self, queue: str, now: float) -> bool:
        """It is: this call asks, and if the word still counts, those that follow need not until the answer is there."""
        until = self._until.get(queue, 0.0)
        if until > now:
            _put(self._fresh, queue, min(until, now + _ONE_ASKS))
        return True

    def weigh(self, call: PendingCall, reply: Properties, now: float) -> None:
        """A worker may say how its queue is; the last one of a pipeline, how those of all stages were."""
        target: Target = call.target
        stages = target.stages
        if says_lean(reply):
            if stages is None:
                self._heard(target.queue, now)
            else:  # the first ones have said so when the request was there: at the earliest when it was written
                for queue in stages.queues:
                    self._heard(queue, getattr(call, "asked", 0.0))
        elif stages is not None:
            stage = stage_not_reached(reply)
            if stage is not None and stage <= len(stages.names):
                self.refused(queue_of(stages.names[stage - 1]), now)

    def _heard(self, queue: str, now: float) -> None:
        until = now + TRUST
        if self._barred.get(queue, 0.0) <= now and until > self._until.get(queue, 0.0):
            _put(self._until, queue, until)
            _put(self._fresh, queue, until - _RENEWAL)

    def refused(self, queue: str, now: float) -> None:
        """It does not: the broker has refused a request, or given it back."""
        self._until.pop(queue, None)
        self._fresh.pop(queue, None)
        _put(self._barred, queue, now + DISTRUST)

    def forget(self) -> None:
        """There is another link, perhaps to another broker."""
        self._until.clear()
        self._fresh.clear()


def _put(table: dict[str, float], queue: str, when: float) -> None:
    if len(table) >= _MOST and queue not in table:
        table.clear()
    table[queue] = when
