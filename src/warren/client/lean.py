"""Which service queues take whatever is published to them: calls to those ask the broker for less. Pure.

A confirm and a bounce tell a caller that a queue has refused its request, or given it back. Where a queue does neither
they tell nothing, and the broker works for them on every call [docs/adr/0036].
"""

from __future__ import annotations

from typing import Final

#: Seconds for which a worker's word about its queue counts. As short as this, since a queue may be deleted and made
#: anew with a limit, and the node of a queue may go down.
TRUST: Final = 1.0
#: Seconds for which it does not count, once the broker has refused a request or given one back all the same: then a
#: policy limits the queue, of which its workers do not know.
DISTRUST: Final = 60.0
_MOST: Final = 10_000


class LeanQueues:
    """What one client knows of the queues that it publishes to."""

    __slots__ = ("_barred", "_until")

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._barred: dict[str, float] = {}

    def knows(self, queue: str, now: float) -> bool:
        """Whether the queue is known to take everything."""
        return self._until.get(queue, 0.0) > now

    def heard(self, queue: str, now: float) -> None:
        """A worker says that its queue takes everything."""
        if self._barred.get(queue, 0.0) <= now:
            _put(self._until, queue, now + TRUST)

    def refused(self, queue: str, now: float) -> None:
        """It does not: the broker has refused a request, or given it back."""
        self._until.pop(queue, None)
        _put(self._barred, queue, now + DISTRUST)

    def forget(self) -> None:
        """There is another link, perhaps to another broker."""
        self._until.clear()


def _put(table: dict[str, float], queue: str, when: float) -> None:
    if len(table) >= _MOST and queue not in table:
        table.clear()
    table[queue] = when
