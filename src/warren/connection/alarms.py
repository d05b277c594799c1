"""What happens to many things at a time of their own: one timer of the event loop for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import Generic, TypeVar

from warren.protocol.deadline import Timers

T = TypeVar("T")


class Alarms(Generic[T]):
    """Rings for each item when its time has come.

    Attributes:
        timers: where items are added and removed, with their times in seconds of `time.monotonic`.
    """

    def __init__(self, ring: Callable[[T], None]) -> None:
        """`ring` is called on the present event loop, in no call's context; it must not raise."""
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self.timers: Timers[T] = Timers(self._wake_at)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, when - time.monotonic()), self._wake, context=Context())

    def _wake(self) -> None:
        self._timer = None
        for item in self.timers.due(time.monotonic()):
            self._ring(item)
        due = self.timers.next_due()
        if due is not None and self._timer is None:
            self._wake_at(due)

    def rest(self) -> None:
        """Keep no timer of the loop where there is nothing to ring for; items may be added all the same."""
        if not len(self.timers):
            self.clear()

    def clear(self) -> None:
        """Forget all of them; others may be added."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.timers = Timers(self._wake_at)
