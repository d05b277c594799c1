"""Deadlines: how long a call may take, and finding the calls whose time is up.

A leaf: pure values and tables. Nothing here reads a clock; every function takes ``now``, in seconds of a
monotonic clock, so that a jump of the wall clock can neither end nor prolong a call.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")
#: Items that are due in the same `TICK`, in the order in which they were added.
Slice = dict[T, None]

#: Timers are rounded up to this many seconds: one wake-up serves all calls that end in the same slice.
TICK = 0.01

#: Seconds after its deadline beyond which a request is not late: the clocks disagree. The queue's own TTL
#: bounces what waited too long, so a request can only be late by the time it spent in a worker's buffers.
MAX_LATENESS = 5.0


def remaining_budget(timeout_ms: int | None, deadline_epoch_ms: int | None, wall_now: float) -> float | None:
    """The seconds a request may still take on arrival, or None when its sender set no limit.

    The relative budget is an upper bound, so a wrong clock can shorten a call but never lengthen it; a clock
    that is badly wrong (see `MAX_LATENESS`) would refuse every call, so it is not believed at all.
    """
    if timeout_ms is None:
        return None
    budget = timeout_ms / 1000
    if deadline_epoch_ms is None:
        return budget
    left = deadline_epoch_ms / 1000 - wall_now
    if left > budget or left < -MAX_LATENESS:
        return budget
    return left


class Timers(Generic[T]):
    """The items whose time has come, in slices of `TICK`: one timer for all calls, not one per call.

    Adding and removing cost one dictionary operation each, and a removed item is forgotten at once: with
    30 s deadlines and 30,000 calls a second a plain heap would keep a million finished calls alive.
    """

    __slots__ = ("_earliest", "_heap", "_on_earlier", "_slices")

    def __init__(self, on_earlier: Callable[[float], None]) -> None:
        """`on_earlier(when)` is called when an item is due before every other one known so far."""
        self._slices: dict[int, Slice[T]] = {}
        self._heap: list[int] = []
        self._earliest = 1 << 62
        self._on_earlier = on_earlier

    def add(self, when: float, item: T) -> Slice[T]:
        """Remember `item` until `when`; the returned slice is what `remove` wants back."""
        key = int(when / TICK) + 1
        group = self._slices.get(key)
        if group is None:
            group = self._slices[key] = {}
            heappush(self._heap, key)
            if key < self._earliest:
                self._earliest = key
                self._on_earlier(key * TICK)
        group[item] = None
        return group

    @staticmethod
    def remove(group: Slice[T], item: T) -> None:
        """Forget an item; one that is gone already is no error."""
        group.pop(item, None)

    def due(self, now: float) -> list[T]:
        """Remove and return the items whose time has come; `next_due` then says when to ask again."""
        items: list[T] = []
        heap = self._heap
        while heap and (heap[0] * TICK <= now or not self._slices[heap[0]]):
            items.extend(self._slices.pop(heappop(heap)))
        self._earliest = heap[0] if heap else 1 << 62
        return items

    def next_due(self) -> float | None:
        """The time of the earliest slice, or None when there is none."""
        return self._heap[0] * TICK if self._heap else None
