"""Handlers that run too long: their tasks are cancelled at the deadline, or at their method's time limit."""

from __future__ import annotations

import asyncio
import time

from warren.protocol import evidence
from warren.protocol.deadline import Timers
from warren.protocol.evidence import Ending
from warren.server.attempt import Attempt

_CUT_OFF = "the handler was cut off at the caller's deadline"
_OVER_LIMIT = "the handler was cut off at its method's time_limit of {:g} s"


class CutOffs:
    """When the tasks of one service have to end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timers: Timers[Attempt] = Timers(self._wake_at)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Attempts that are watched."""
        return len(self._timers)

    def watch(self, attempt: Attempt) -> None:
        """Stop the attempt at its call's deadline, if it has one."""
        if attempt.call.deadline is not None:
            attempt.slice = self._timers.add(attempt.call.deadline, attempt)

    def forget(self, attempt: Attempt) -> None:
        """Its task has ended."""
        if attempt.slice is not None:
            self._timers.remove(attempt.slice, attempt)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, when - time.monotonic()), self._cut_off)

    def _cut_off(self) -> None:
        self._timer = None
        for attempt in self._timers.due(time.monotonic()):
            limit = attempt.limit
            words = _CUT_OFF if limit is evidence.HANDLER_DEADLINE else _OVER_LIMIT.format(attempt.method.time_limit)
            stop(attempt, limit, words)
        due = self._timers.next_due()
        if due is not None and self._timer is None:
            self._wake_at(due)

    def close(self) -> None:
        """Stop nothing more."""
        if self._timer is not None:
            self._timer.cancel()


def stop(attempt: Attempt, ending: Ending, message: str) -> asyncio.Task[None] | None:
    """Cancel a handler; its caller is told why. Returns its task; None for a thread, which cannot be cancelled."""
    if attempt.task is None or attempt.ended:
        return None
    attempt.stopped_by = (ending, message)
    attempt.task.cancel()
    return attempt.task
