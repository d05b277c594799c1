"""What is to be done later, in order of time. Whoever owns the clock calls `run`."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

_SWEEP = 1000  # cancelled timers that are not worth looking for


class Timer:
    """Something to be done at a time; it can be cancelled."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, when: float, callback: Callable[[], object], timers: Timers) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback
        self._timers = timers

    def cancel(self) -> None:
        """Never call back; again, or afterwards: nothing."""
        if self.callback is not None:
            self.callback = None
            self._timers.cancelled()


class Timers:
    """A heap of timers; those that are cancelled stay until they are many."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._cancelled = 0
        self.on_earlier: Callable[[], None] = lambda: None  # something is due before all else

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back once it is `when` or later."""
        timer = Timer(when, callback, self)
        entry = (when, next(self._order), timer)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self.on_earlier()
        return timer

    def cancelled(self) -> None:
        """One of them has been cancelled."""
        self._cancelled += 1
        if self._cancelled > max(_SWEEP, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def run(self, now: float) -> None:
        """Make it `now`, and call what is due by then. Time never goes back."""
        self.now = now = max(now, self.now)
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._cancelled -= 1
            else:
                callback()

    def next(self) -> float | None:
        """When something is due next."""
        return self._heap[0][0] if self._heap else None


class Alarms:
    """The timers of one connection, by what they call: nothing keeps a connection that has ended."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._set: dict[Callable[[], None], Timer] = {}

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call back, unless the connection has ended by then."""
        self._set[callback] = self._timers.at(when, callback)

    def cancel(self, callback: Callable[[], None]) -> None:
        """Do not call back; what was not set is ignored."""
        if (timer := self._set.pop(callback, None)) is not None:
            timer.cancel()

    def end(self) -> None:
        """Cancel all."""
        for timer in self._set.values():
            timer.cancel()
        self._set.clear()
