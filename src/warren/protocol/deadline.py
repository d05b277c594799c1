"""Deadlines: how long a call may take, and finding the calls whose time is up.

A leaf: pure values and tables. Nothing here reads a clock; every function takes ``now``, in seconds of a
monotonic clock, so that a jump of the wall clock can neither end nor prolong a call.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, Generic, TypeVar

T = TypeVar("T")


class Slice(dict[T, None]):
    """Items that are due in the same `TICK`, in the order in which they were added; `key` says which tick."""

    __slots__ = ("key",)

    def __init__(self, key: int) -> None:
        self.key = key


#: Timers are rounded up to this many seconds: one wake-up serves all calls that end in the same slice.
TICK: Final = 0.01

_NEVER: Final = 1 << 62
#: Keys of slices that are gone which the heap may hold, besides as many as there are slices.
_SPARE: Final = 64

#: Seconds after its deadline beyond which a request is not late: the clocks disagree. The queue's own TTL
#: bounces what waited too long, so a request can only be late by the time it spent in a worker's buffers.
MAX_LATENESS: Final = 5.0


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
    30 s deadlines and 30,000 calls a second a plain heap would keep a million finished calls alive. A slice goes with
    its last item, so what is kept is bounded by the items that are waited for, however far away their time is.
    """

    __slots__ = ("_earliest", "_heap", "_on_earlier", "_slices")

    def __init__(self, on_earlier: Callable[[float], None]) -> None:
        """`on_earlier(when)` is called when an item is due before every other one known so far."""
        self._slices: dict[int, Slice[T]] = {}
        self._heap: list[int] = []  # the keys of all slices, and of some that are gone
        self._earliest = _NEVER
        self._on_earlier = on_earlier

    def __len__(self) -> int:
        """Items that are waited for."""
        return sum(map(len, self._slices.values()))

    def add(self, when: float, item: T) -> Slice[T]:
        """Remember `item` until `when`; the returned slice is what `remove` wants back."""
        key = int(when / TICK) + 1
        group = self._slices.get(key)
        if group is None:
            group = self._open(key)
        group[item] = None
        return group

    def remove(self, group: Slice[T], item: T) -> None:
        """Forget an item; one that is gone already is ignored."""
        group.pop(item, None)
        if not group:
            self.drop(group)

    def drop(self, group: Slice[T]) -> None:
        """Forget a slice that has become empty; its key stays in the heap until `_open` or `due` come across it."""
        if self._slices.get(group.key) is group:
            del self._slices[group.key]

    def due(self, now: float) -> list[T]:
        """Remove and return the items whose time has come; `next_due` then says when to ask again."""
        items: list[T] = []
        heap, slices = self._heap, self._slices
        while heap and (heap[0] * TICK <= now or heap[0] not in slices):
            items.extend(slices.pop(heappop(heap), ()))
        self._earliest = heap[0] if heap else _NEVER
        return items

    def next_due(self) -> float | None:
        """The time of the earliest slice, or None when there is none."""
        return self._heap[0] * TICK if self._heap else None

    def _open(self, key: int) -> Slice[T]:
        group = self._slices[key] = Slice(key)
        if len(self._heap) > 2 * len(self._slices) + _SPARE:  # seldom, so that its cost is shared by many
            self._heap[:] = sorted(self._slices)
        else:
            heappush(self._heap, key)
        if key < self._earliest:
            self._earliest = key
            self._on_earlier(key * TICK)
        return group
