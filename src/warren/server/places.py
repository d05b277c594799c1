"""How much a worker does at a time. Pure.

A place is taken when code of an attempt is about to run and comes back when that code has stopped: its reply may have
left before, when middleware gave a thread up, for example.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Places(Generic[T]):
    """At most `limit` items at a time; those that have to wait do so in their order.

    Only ``at-most-once`` requests have to wait: acknowledged before they run, they let the broker send more than there
    are places.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken: set[T] = set()
        self.waiting: deque[T] = deque()

    def take(self, item: T) -> bool:
        """Give the item a place; False when there is none or others wait for one: then it waits."""
        if len(self.taken) < self.limit and not self.waiting:
            self.taken.add(item)
            return True
        self.waiting.append(item)
        return False

    def leave(self, item: T) -> None:
        """The item needs its place no more; one that has none is ignored."""
        self.taken.discard(item)

    def next(self) -> T | None:
        """Give the first that waits a place, if there is one now; returns it."""
        if self.waiting and len(self.taken) < self.limit:
            item = self.waiting.popleft()
            self.taken.add(item)
            return item
        return None

    def give_up_waiting(self) -> Iterator[T]:
        """Take out those that wait."""
        while self.waiting:
            yield self.waiting.popleft()
