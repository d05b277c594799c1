"""Attempts whose time is over: while they wait for a place, or while they run, as then their tasks are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from warren.connection.alarms import Alarms
from warren.protocol import evidence
from warren.protocol.evidence import Ending
from warren.server.attempt import Attempt

_CUT_OFF: Final = "the handler was cut off at the caller's deadline: allow more time, or make it faster"
_OVER_LIMIT: Final = "the handler was cut off at its method's time_limit of {:g} s: allow more, or make it faster"


class CutOffs:
    """When attempts have to end."""

    def __init__(self, cut_off: Callable[[Attempt], None]) -> None:
        """`cut_off` ends one whose time is over; it must not raise."""
        self._alarms: Alarms[Attempt] = Alarms(cut_off)
        self._timers = self._alarms.timers

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

    def clear(self) -> None:
        """Forget all of them."""
        self._alarms.clear()
        self._timers = self._alarms.timers


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
    if limit is evidence.HANDLER_DEADLINE:
        stop(attempt, limit, _CUT_OFF)
    else:
        stop(attempt, limit, _OVER_LIMIT.format(attempt.method.time_limit or 0))


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
