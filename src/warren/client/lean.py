"""Which service queues take whatever is published to them: calls to those ask the broker for less. Pure.

A confirm and a bounce tell a caller that a queue has refused its request, or given it back. Where a queue does neither
they tell nothing, and the broker works for them on every call [docs/adr/0036].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: Seconds for which a worker's word about its queue counts. As short as this, since a queue may be deleted and made
#: anew with a limit, and the node of a queue may go down.
TRUST: Final = 1.0
#: Seconds for which it does not count, once the broker has refused a request or given one back all the same: then a
#: policy limits the queue, of which its workers do not know.
DISTRUST: Final = 60.0
#: Seconds at the end of `TRUST` in which a call asks for the word again, so that the others need not; and seconds that
#: it gets for the answer until another call asks.
_RENEWAL: Final = 0.25
_ONE_ASKS: Final = 0.05
_MOST: Final = 10_000


class LeanQueues:
    """What one client knows of the queues that it publishes to."""

    __slots__ = ("_barred", "_fresh", "_until")

    def __init__(self) -> None:
        self._fresh: dict[str, float] = {}  # until when nobody has to ask
        self._until: dict[str, float] = {}
        self._barred: dict[str, float] = {}

    def knows(self, queue: str, now: float) -> bool:
        """Whether the queue is known to take everything, and this call need not ask whether it still does."""
        return self._fresh.get(queue, 0.0) > now or self._may_wait(queue, now)

    def _may_wait(self, queue: str, now: float) -> bool:
        """The word is old: this call asks, and those that follow need not until it has its answer."""
        until = self._until.get(queue, 0.0)
        if until > now:
            _put(self._fresh, queue, min(until, now + _ONE_ASKS))
        return False

    def knows_all(self, queues: Iterable[str], now: float) -> bool:
        """The same of several queues."""
        known = [self.knows(queue, now) for queue in queues]
        return False not in known

    def heard(self, queue: str, now: float) -> None:
        """A worker says that its queue took everything at this time."""
        until = now + TRUST
        if self._barred.get(queue, 0.0) <= now and until > self._until.get(queue, 0.0):
            _put(self._until, queue, until)
            _put(self._fresh, queue, until - _RENEWAL)

    def refused(self, queue: str, now: float) -> None:
        """It does not: the broker has refused a request, or given it back."""
        self._until.pop(queue, None)
        self._fresh.pop(queue, None)
        _put(self._barred, queue, now + DISTRUST)

    def forget(self) -> None:
        """There is another link, perhaps to another broker."""
        self._until.clear()
        self._fresh.clear()


def _put(table: dict[str, float], queue: str, when: float) -> None:
    if len(table) >= _MOST and queue not in table:
        table.clear()
    table[queue] = when
