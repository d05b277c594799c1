"""What is to be done later, in order of time. Whoever owns the clock calls `run`."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Timers:
    """A heap of callbacks. There is no cancelling: a callback looks whether it is still wanted."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.on_earlier: Callable[[], None] = lambda: None  # something is due before all else

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call back once it is `when` or later."""
        entry = (when, next(self._order), callback)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self.on_earlier()

    def run(self, now: float) -> None:
        """Make it `now`, and call what is due by then. Time never goes back."""
        self.now = now = max(now, self.now)
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()

    def next(self) -> float | None:
        """When something is due next."""
        return self._heap[0][0] if self._heap else None
