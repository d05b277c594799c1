"""The deliveries of a channel that are not acknowledged. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import takewhile

from warren.broker.credit import Credit
from warren.broker.errors import precondition
from warren.broker.queues import Consumer, Entry, Queue

#: What becomes of a delivery; None: it is put back.
Settlement = Callable[[Entry], None] | None


class Held:
    """A delivery that is not acknowledged; `consumer` is None after Basic.Get."""

    __slots__ = ("consumer", "entry")

    def __init__(self, entry: Entry, consumer: Consumer | None) -> None:
        self.entry = entry
        self.consumer = consumer


class Outstanding:
    """What a channel holds, by delivery tag, and how it settles that: at once, or with Tx.Commit."""

    def __init__(self, credit: Credit) -> None:
        # In the order of the tags. A plain dict takes ever longer to begin with when its first ones are gone.
        self.held: OrderedDict[int, Held] = OrderedDict()
        self.transactional = False
        self._credit = credit
        self._settled: list[tuple[int, Held, Settlement]] = []  # and waiting for Tx.Commit

    def hold(self, tag: int, entry: Entry, consumer: Consumer | None) -> None:
        """A delivery has been sent that is to be acknowledged."""
        if consumer is not None:
            self._credit.spend(consumer)
        self.held[tag] = Held(entry, consumer)

    def ack(self, tag: int, multiple: bool) -> None:
        """Deliveries are done with.

        Raises:
            AmqpError: 406 for a tag that is not outstanding.
        """
        self._settle(tag, multiple, lambda entry: entry.queue.settle(entry))

    def reject(self, tag: int, multiple: bool, requeue: bool) -> None:
        """Deliveries are refused: put back, or dead-lettered.

        Raises:
            AmqpError: 406 for a tag that is not outstanding.
        """
        self._settle(tag, multiple, None if requeue else lambda entry: entry.queue.reject(entry))

    def _settle(self, tag: int, multiple: bool, how: Settlement) -> None:
        chosen = [(number, self.held.pop(number)) for number in self._chosen(tag, multiple)]
        if self.transactional:
            self._settled += [(number, held, how) for number, held in chosen]
        else:
            self._finish([held for _, held in chosen], how)

    def _chosen(self, tag: int, multiple: bool) -> list[int]:
        if tag == 0 and multiple:
            return list(self.held)
        if tag not in self.held:
            raise precondition(f"unknown delivery tag {tag}")
        return list(takewhile(lambda number: number <= tag, self.held)) if multiple else [tag]

    def _finish(self, chosen: list[Held], how: Settlement) -> None:
        """Settle deliveries and use the credit that comes free."""
        consumers = [held.consumer for held in chosen if held.consumer is not None]
        for consumer in consumers:
            self._credit.give_back(consumer)
        if how is None:
            put_back([held.entry for held in chosen])
        else:
            for held in chosen:
                how(held.entry)
        self._credit.use_of(set(consumers))

    def recover(self) -> None:
        """Put back all that is unacknowledged."""
        held, self.held = list(self.held.values()), OrderedDict()
        self._finish(held, None)

    def commit(self) -> None:
        """Settle what has been waiting."""
        settled, self._settled = self._settled, []
        for _, held, how in settled:
            self._finish([held], how)

    def rollback(self) -> None:
        """What was settled is outstanding again."""
        self.held.update((number, held) for number, held, _ in self._settled)
        self._settled = []
        self.held = OrderedDict(sorted(self.held.items()))

    def end(self) -> None:
        """The channel is closed: put back all, also what a transaction has settled that is not over."""
        held = [*self.held.values(), *(held for _, held, _ in self._settled)]
        self.held, self._settled = OrderedDict(), []
        self._finish(held, None)


def put_back(entries: list[Entry]) -> None:
    """Deliveries that came to nothing, each to its queue."""
    by_queue: dict[Queue, list[Entry]] = {}
    for entry in entries:
        by_queue.setdefault(entry.queue, []).append(entry)
    for queue, its in by_queue.items():
        queue.put_back(its)
