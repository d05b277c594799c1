"""How much a worker does at a time. Pure.

A place is taken when code of an attempt is about to run and comes back when that code has stopped: its reply may have
left before, when middleware gave a thread up, for example.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Line(Generic[T]):
    """Items of one kind: how many have places, and which wait, each with the number of its arrival."""

    __slots__ = ("limit", "taken", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.waiting: dict[T, int] = {}

    @property
    def has_room(self) -> bool:
        return self.taken < self.limit


class Places(Generic[T]):
    """At most `limit` items at a time, and of some kinds fewer; those that have to wait do so in their order.

    An item waits because its kind is full, and then others overtake it. Or because there is no place at all: this
    happens only to ``at-most-once`` requests, since, acknowledged before they run, they let the broker send more than
    there are places; and to what waited for its kind before.

    Attributes:
        taken: the items that have places.
        waits: how many wait for one.
    """

    def __init__(self, limit: int, limits: Mapping[Any, int]) -> None:
        """`limits` are those of kinds that have one of their own."""
        self.limit = limit
        self.taken: set[T] = set()  # not a dict, which is made anew every few items
        self.waits = 0
        self._arrivals = 0
        self._limited: dict[object, _Line[T]] = {kind: _Line(most) for kind, most in limits.items()}
        self._simple = not limits  # nobody waits, and no kind has a limit: whoever comes needs only a place
        self._line_of: dict[T, _Line[T]] = {}  # of those in `taken` whose kind has a limit
        self._others: _Line[T] = _Line(limit)
        self._lines = [self._others, *self._limited.values()]

    def set_limit(self, limit: int) -> None:
        """From now on so many at a time; items that have places keep them."""
        self.limit = self._others.limit = limit

    def take(self, item: T, kind: object) -> bool:
        """Give the item a place; False when there is none or others of its line wait for one: then it waits."""
        if self._simple and len(self.taken) < self.limit:
            self.taken.add(item)
            return True
        line = self._limited.get(kind, self._others)
        if len(self.taken) < self.limit and line.has_room and not line.waiting:
            self._give(item, line)
            return True
        self._arrivals += 1
        line.waiting[item] = self._arrivals
        self.waits += 1
        self._simple = False
        return False

    def leave(self, item: T) -> None:
        """The item needs its place no more; one that has none is ignored."""
        self.taken.discard(item)
        if self._line_of and (line := self._line_of.pop(item, None)) is not None:
            line.taken -= 1

    def next(self) -> T | None:
        """Give the first of those that can begin a place, if there is one now; returns it."""
        if not self.waits or len(self.taken) >= self.limit:
            return None
        ready = [line for line in self._lines if line.waiting and line.has_room]
        if not ready:
            return None
        line = min(ready, key=lambda line: next(iter(line.waiting.values())))
        item = next(iter(line.waiting))
        self.withdraw(item)
        self._give(item, line)
        return item

    def _give(self, item: T, line: _Line[T]) -> None:
        self.taken.add(item)
        if line is not self._others:
            line.taken += 1
            self._line_of[item] = line

    def withdraw(self, item: T) -> bool:
        """The item waits no more; False when it did not."""
        for line in self._lines:
            if line.waiting.pop(item, None) is not None:
                self.waits -= 1
                self._simple = not self.waits and not self._limited
                return True
        return False

    def give_up_waiting(self) -> list[T]:
        """Take out those that wait, in their order."""
        waiting = self.waiting()
        for item in waiting:
            self.withdraw(item)
        return waiting

    def waiting(self) -> list[T]:
        """Those that wait, in the order in which they have come."""
        numbers = {item: number for line in self._lines for item, number in line.waiting.items()}
        return sorted(numbers, key=numbers.__getitem__)
