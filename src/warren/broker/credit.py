"""How much a channel may hold unacknowledged, and whose turn it is when some of that comes free. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from warren.broker.queues import Consumer, Queue


class Credit:
    """The prefetch limits of one channel, and its consumers that wait for credit, or for room in the connection."""

    def __init__(self, has_room: Callable[[], bool]) -> None:
        self.prefetch = 0  # of consumers to come
        self.shared = 0  # the limit of all consumers together
        self._has_room = has_room
        self._unacked = 0  # by all consumers together
        self._parked: dict[Consumer, None] = {}  # those that have waited longest first

    def limit(self, prefetch: int, *, shared: bool) -> None:
        """Basic.Qos: for consumers to come, or for all of the channel together; the former ends the latter."""
        if not shared:
            self.prefetch = prefetch
        self.shared = prefetch if shared else 0

    def can_take(self, consumer: Consumer) -> bool:
        """The shared limit holds up consumers without acknowledgements, too, although they do not count for it."""
        if not self._has_room():
            return False
        if self.shared and self._unacked >= self.shared:
            return False
        return consumer.no_ack or not consumer.prefetch or consumer.unacked < consumer.prefetch

    def park(self, consumer: Consumer) -> None:
        """It could not take what its queue had."""
        self._parked[consumer] = None

    def forget(self, consumer: Consumer) -> None:
        """It is no consumer any more."""
        self._parked.pop(consumer, None)

    def spend(self, consumer: Consumer) -> None:
        """It holds one more delivery."""
        consumer.unacked += 1
        self._unacked += 1

    def give_back(self, consumer: Consumer) -> None:
        """It holds one delivery less."""
        consumer.unacked -= 1
        self._unacked -= 1

    def use_of(self, freed: set[Consumer]) -> None:
        """Give out what these have got back: without a shared limit, others wait on."""
        if self.shared:
            self.use()
        else:
            parked = freed & self._parked.keys()
            self._use(parked if len(parked) < 2 else [one for one in self._parked if one in parked])

    def use(self) -> None:
        """Consumers that were waiting for credit, or for room, get what they can take."""
        self._use(self._parked)

    def _use(self, parked: Iterable[Consumer]) -> None:
        """One queue after the other, so that what one of them uses up is not given out twice; a queue that still waits
        is the first one next time.
        """
        by_queue: dict[Queue | None, list[Consumer]] = {}
        for consumer in parked:
            by_queue.setdefault(consumer.queue, []).append(consumer)
        for queue, consumers in by_queue.items():
            self._resume(queue, [consumer for consumer in consumers if self.can_take(consumer)])

    def _resume(self, queue: Queue | None, consumers: list[Consumer]) -> None:
        for consumer in consumers:
            self._parked.pop(consumer, None)
            if queue is not None:
                queue.credited(consumer)
        if queue is not None and consumers:
            queue.dispatch()
