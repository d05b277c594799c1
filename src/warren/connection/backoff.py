"""How long to wait before something is tried again. Pure: time and chance are passed in."""

from __future__ import annotations

import random


class Backoff:
    """Growing pauses with jitter, so that a thousand clients do not come back in the same instant. Pure."""

    def __init__(self, rng: random.Random, *, first: float = 0.1, longest: float = 10.0, calm: float = 5.0) -> None:
        """`calm`: after this many seconds without a call of `next` it starts again from `first`."""
        self._rng = rng
        self._first, self._longest, self._calm = first, longest, calm
        self._pause = first
        self._last = float("-inf")

    def next(self, now: float) -> float:
        """Seconds to wait before the next attempt: between half and the whole of a doubling pause."""
        if now - self._last > self._calm + self._pause:
            self._pause = self._first
        self._last = now
        pause, self._pause = self._pause, min(self._pause * 2, self._longest)
        return pause * self._rng.uniform(0.5, 1.0)
