"""Attempts whose time is over: while they wait for a place, or while they run, as then their tasks are cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from warren.protocol import evidence
from warren.protocol.deadline import Timers
from warren.protocol.evidence import Ending
from warren.server.attempt import Attempt

_CUT_OFF = "the handler was cut off at the caller's deadline: allow more time, or make it faster"
_OVER_LIMIT = "the handler was cut off at its method's time_limit of {:g} s: allow more, or make it faster"


class CutOffs:
    """When attempts have to end."""

    def __init__(self, cut_off: Callable[[Attempt], None]) -> None:
        """`cut_off` ends one whose time is over; it must not raise."""
        self._loop = asyncio.get_running_loop()
        self._end = cut_off
        self._timers: Timers[Attempt] = Timers(self._wake_at)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Attempts that are watched."""
        return len(self._timers)

    def watch(self, attempt: Attempt, deadline: float | None) -> None:
        """End the attempt at this time, if there is one; it is watched in one place at a time."""
        if deadline is not None:
            attempt.slice = self._timers.add(deadline, attempt)

    def forget(self, attempt: Attempt) -> None:
        """It is not waited for any more."""
        if attempt.slice is not None:
            self._timers.remove(attempt.slice, attempt)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, when - time.monotonic()), self._cut_off)

    def _cut_off(self) -> None:
        self._timer = None
        for attempt in self._timers.due(time.monotonic()):
            self._end(attempt)
        due = self._timers.next_due()
        if due is not None and self._timer is None:
            self._wake_at(due)

    def clear(self) -> None:
        """Forget all of them."""
        self._timers = Timers(self._wake_at)

    def close(self) -> None:
        """End nothing more."""
        if self._timer is not None:
            self._timer.cancel()


def limit_time(attempt: Attempt, seconds: float) -> float:
    """When an attempt that begins now has to end: after so many seconds, or at its caller's deadline."""
    limit = attempt.began + seconds
    if attempt.deadline is not None and attempt.deadline <= limit:
        return attempt.deadline
    attempt.limit = evidence.TIME_LIMIT
    return limit


def stop_late(attempt: Attempt) -> None:
    """Cancel a handler whose time is over."""
    limit = attempt.limit
    words = _CUT_OFF if limit is evidence.HANDLER_DEADLINE else _OVER_LIMIT.format(attempt.method.time_limit)
    stop(attempt, limit, words)


async def stop_all(attempts: Iterable[Attempt], ending: Ending, message: str, patience: float) -> None:
    """Cancel handlers, and give them time to reply that they were stopped."""
    if tasks := [task for attempt in attempts if (task := stop(attempt, ending, message))]:
        await asyncio.wait(tasks, timeout=patience)


def stop(attempt: Attempt, ending: Ending, message: str) -> asyncio.Task[None] | None:
    """Cancel a handler; its caller is told why. Returns its task; None for a thread, which cannot be cancelled."""
    if attempt.task is None or attempt.ended:
        return None
    attempt.stopped_by = (ending, message)
    attempt.task.cancel()
    return attempt.task
