"""Durations, in little memory. Pure."""

from __future__ import annotations

import math
from collections import Counter


class Histogram:
    """Durations in buckets that are 2 % wide: what is read from it is 1 % off at most, and the memory is bounded.

    Attributes:
        count: how many there are.
        total: their sum, exact.
        low, high: the shortest and the longest, exact.
    """

    _WIDTH = math.log(1.02)  # of a bucket, on a logarithmic scale
    _SHORTEST = 1e-9  # shorter ones, which no clock can tell apart, are taken as this: a logarithm wants more than 0

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.low = math.inf
        self.high = 0.0
        self._buckets: Counter[int] = Counter()

    def record(self, seconds: float) -> None:
        """Add one duration."""
        seconds = max(seconds, self._SHORTEST)
        self.count += 1
        self.total += seconds
        self.low = min(self.low, seconds)
        self.high = max(self.high, seconds)
        self._buckets[math.floor(math.log(seconds) / self._WIDTH)] += 1

    def percentile(self, percent: float) -> float:
        """The duration that so many percent do not exceed (nearest rank), at most 1 % off; nan of nothing."""
        rank = max(1, math.ceil(percent * self.count / 100))
        reached = 0
        for index in sorted(self._buckets):
            reached += self._buckets[index]
            if reached >= rank:
                middle = math.exp((index + 0.5) * self._WIDTH)
                return min(max(middle, self.low), self.high)
        return math.nan

    def rows(self, most: int | None = None) -> list[tuple[float, float, int]]:
        """From, to and number of durations, without a gap; of equal width each, and at most so many where given."""
        if not self.count:
            return []
        first, last = min(self._buckets), max(self._buckets)
        step = 1 if most is None else math.ceil((last - first + 1) / most)
        return [
            (
                math.exp(start * self._WIDTH),
                math.exp((start + step) * self._WIDTH),
                sum(self._buckets.get(index, 0) for index in range(start, start + step)),
            )
            for start in range(first, last + 1, step)
        ]
