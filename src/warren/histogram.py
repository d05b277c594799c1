"""Durations, in little memory. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


class Histogram:
    """Durations in buckets that are 2 % wide: what is read from it is 1 % off at most, and the memory is bounded.

    Those of several processes can be added up, and nothing is lost by that.

    Attributes:
        count: how many there are.
        total: their sum, exact.
        low, high: the shortest and the longest, exact.
        buckets: how many there are in each: in that of number n those of at least ``1.02 ** (n - ZERO)`` seconds, and
            less than 2 % more.
    """

    __slots__ = ("buckets", "count", "high", "low", "total")

    #: The number of the bucket that begins at one second; all numbers are positive.
    ZERO = 1200
    _PER_E = 1 / math.log(1.02)
    _SHORTEST = 1e-9  # shorter ones, which no clock can tell apart, are taken as this: a logarithm wants more than 0
    _LONGEST = 1e9

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.low = math.inf
        self.high = 0.0
        self.buckets: Counter[int] = Counter()

    def record(self, seconds: float) -> None:
        """Add one duration."""
        self.record_all([seconds])

    def record_all(self, durations: Iterable[float]) -> None:
        """Add durations, in seconds. Many at a time cost little each: sorting is cheaper than logarithms."""
        ordered = sorted(durations)
        if not ordered:
            return
        if not self._SHORTEST <= ordered[0] <= ordered[-1] <= self._LONGEST:
            ordered = sorted(min(max(seconds, self._SHORTEST), self._LONGEST) for seconds in ordered)
        self.count += len(ordered)
        self.total += sum(ordered)
        self.low, self.high = min(self.low, ordered[0]), max(self.high, ordered[-1])
        at = 0
        while at < len(ordered):
            number = int(math.log(ordered[at]) * self._PER_E + self.ZERO)
            end = max(at + 1, bisect_left(ordered, self._begin_of(number + 1), at))
            self.buckets[number] += end - at
            at = end

    def add(self, other: Histogram) -> None:
        """Add all that another one has."""
        self.count += other.count
        self.total += other.total
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        self.buckets.update(other.buckets)

    @property
    def mean(self) -> float:
        """Nan of nothing."""
        return self.total / self.count if self.count else math.nan

    def percentile(self, percent: float) -> float:
        """The duration that so many percent do not exceed (nearest rank), at most 1 % off; nan of nothing."""
        rank = max(1, math.ceil(percent * self.count / 100))
        reached = 0
        for number in sorted(self.buckets):
            reached += self.buckets[number]
            if reached >= rank:
                return min(max(self._begin_of(number + 0.5), self.low), self.high)
        return math.nan

    def below(self, seconds: float) -> int:
        """How many are shorter; those of the bucket that it is in count as half a bucket's worth at most, none here."""
        return sum(count for number, count in self.buckets.items() if self._begin_of(number + 1) <= seconds)

    def rows(self, most: int | None = None) -> list[tuple[float, float, int]]:
        """From, to and number of durations, without a gap; of equal width each, and at most so many where given."""
        if not self.count:
            return []
        first, last = min(self.buckets), max(self.buckets)
        step = 1 if most is None else math.ceil((last - first + 1) / most)
        return [
            (
                self._begin_of(start),
                self._begin_of(start + step),
                sum(self.buckets[number] for number in range(start, start + step)),
            )
            for start in range(first, last + 1, step)
        ]

    def _begin_of(self, number: float) -> float:
        return math.exp((number - self.ZERO) / self._PER_E)

    def as_object(self) -> dict[str, Any]:
        """What `from_object` makes it of, as JSON can carry it."""
        buckets = {str(number): count for number, count in self.buckets.items()}
        return {"total": self.total, "low": self.low if self.count else 0.0, "high": self.high, "buckets": buckets}

    @classmethod
    def from_object(cls, said: Mapping[str, Any]) -> Histogram:
        """Read what another process has written.

        Raises:
            ValueError: it is none.
        """
        made = cls()
        try:
            made.buckets = Counter({int(number): int(count) for number, count in said["buckets"].items()})
            made.total, made.low, made.high = float(said["total"]), float(said["low"]), float(said["high"])
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a histogram: {error!r}") from error
        if not all(0 <= number <= 2 * cls.ZERO and count >= 0 for number, count in made.buckets.items()):
            raise ValueError(f"not a histogram: buckets must have numbers from 0 to {2 * cls.ZERO}, and counts")
        made.count = sum(made.buckets.values())
        return made
