"""Queues: messages in order, consumers in turn, limits, and time.

Pure: time is what `Surroundings.timers` says. What a queue gives up goes to `Surroundings.bury`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

from warren.broker.arguments import QueueArguments
from warren.broker.limits import Limits
from warren.broker.message import Message
from warren.broker.timers import Timer, Timers


class Entry:
    """One message in one queue, waiting or delivered but not acknowledged.

    `order` is its place: a message that is put back goes where it was.
    """

    __slots__ = ("deliveries", "expires", "message", "order", "queue", "redelivered")

    def __init__(self, queue: Queue, message: Message, order: int, expires: float | None) -> None:
        self.queue = queue
        self.message = message
        self.order = order
        self.expires = expires
        self.redelivered = False
        self.deliveries = 0  # that came to nothing; counted by quorum queues


class Receiver(Protocol):
    """The channel of a consumer, as its queues see it."""

    def can_take(self, consumer: Consumer) -> bool:
        """Whether prefetch limits and the connection allow one more delivery."""

    def park(self, consumer: Consumer) -> None:
        """It could not take what its queue had: call `credited` when it can."""

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        """Send a message, and hold it until it is acknowledged unless the consumer wants no acks."""

    def lose_consumer(self, consumer: Consumer) -> None:
        """Its queue is gone."""


class Surroundings(Protocol):
    """What a queue needs from its virtual host."""

    timers: Timers

    def bury(self, entry: Entry, reason: str) -> None:
        """Dead-letter a message, or forget it if the queue has no dead-letter exchange."""

    def remove_queue(self, queue: Queue) -> None:
        """Delete a queue that has come to its end."""


@dataclass(eq=False, slots=True)
class Consumer:
    """Somebody who is sent a queue's messages."""

    tag: str
    channel: Receiver
    queue: Queue | None  # None: direct replies
    no_ack: bool
    exclusive: bool
    priority: int
    prefetch: int
    prefix: bytes = b""  # of its deliveries, kept by the channel
    unacked: int = 0
    parked: bool = False


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How a queue was declared. `owner` is the connection of an exclusive queue."""

    durable: bool = False
    auto_delete: bool = False
    owner: object | None = None


class _Level:
    """Messages of one priority, in order: those that are new, and those that were put back."""

    __slots__ = ("new", "returned")

    def __init__(self) -> None:
        self.new: deque[Entry] = deque()
        self.returned: list[tuple[int, Entry]] = []  # a heap, by their order

    def __bool__(self) -> bool:
        return bool(self.new or self.returned)

    def _returned_first(self) -> bool:
        return bool(self.returned) and (not self.new or self.returned[0][0] < self.new[0].order)

    def head(self) -> Entry:
        return self.returned[0][1] if self.returned and self._returned_first() else self.new[0]

    def pop(self) -> Entry:
        if self.returned and self._returned_first():
            return heappop(self.returned)[1]
        return self.new.popleft()


class Waiting:
    """The messages that wait, by priority and then by order."""

    def __init__(self, max_priority: int | None) -> None:
        self._top = max_priority or 0
        self._levels: list[_Level | None] = [None] * (self._top + 1)  # made when they are needed
        self.count = 0
        self.bytes = 0

    def _level(self, entry: Entry) -> _Level:
        number = min(entry.message.priority, self._top) if self._top else 0
        level = self._levels[number]
        if level is None:
            level = self._levels[number] = _Level()
        self.count += 1
        self.bytes += entry.message.size
        return level

    def add(self, entry: Entry) -> None:
        """Append a new message."""
        self._level(entry).new.append(entry)

    def put_back(self, entry: Entry) -> None:
        """Insert a message where it was."""
        heappush(self._level(entry).returned, (entry.order, entry))

    def head(self) -> Entry | None:
        """The next message, left where it is."""
        return self._first().head() if self.count else None

    def _first(self) -> _Level:
        """The highest level that holds any."""
        return next(level for level in reversed(self._levels) if level)

    def pop(self) -> Entry:
        """Take the next message; there must be one."""
        entry = self._first().pop()
        self.count -= 1
        self.bytes -= entry.message.size
        return entry

    def clear(self) -> int:
        """Take all; returns how many they were."""
        count = self.count
        self._levels = [None] * (self._top + 1)
        self.count = self.bytes = 0
        return count


class Turns:
    """Consumers in turn: higher priorities first, round robin among equals, those without credit set apart."""

    def __init__(self) -> None:
        self._levels: list[tuple[int, deque[Consumer]]] = []

    def add(self, consumer: Consumer) -> None:
        """Put a consumer at the end of its level."""
        for priority, level in self._levels:
            if priority == consumer.priority:
                level.append(consumer)
                return
        self._levels = [entry for entry in self._levels if entry[1]]  # priorities come and go
        self._levels.append((consumer.priority, deque((consumer,))))
        self._levels.sort(key=lambda entry: -entry[0])

    def remove(self, consumer: Consumer) -> None:
        """Forget a consumer; one set apart is not here."""
        for priority, level in self._levels:
            if priority == consumer.priority and consumer in level:
                level.remove(consumer)

    def next(self) -> Consumer | None:
        """Whose turn it is; those found without credit are set apart until `credited`."""
        for _, level in self._levels:
            while level:
                consumer = level[0]
                if consumer.channel.can_take(consumer):
                    if len(level) > 1:
                        level.rotate(-1)
                    return consumer
                level.popleft()
                consumer.parked = True
                consumer.channel.park(consumer)
        return None


class Queue:
    """A queue. Its invariant: no message waits while a consumer could take it."""

    def __init__(self, name: str, options: QueueOptions, arguments: QueueArguments, around: Surroundings) -> None:
        self.name = name
        self.options = options
        self.arguments = arguments
        self.waiting = Waiting(None if arguments.quorum else arguments.max_priority)
        self.consumers: list[Consumer] = []
        self.unacked = 0
        self.deleted = False
        self._around = around
        self._turns = Turns()
        self._order = 0
        self._alarm: Timer | None = None  # for the message at the head
        self._end: Timer | None = None  # if nobody uses it
        self._used = around.timers.now
        self._limits = Limits(arguments)
        if arguments.expires is not None:
            self._end = self._around.timers.at(self._idle_until(), self._expire_if_idle)

    # --- messages -----------------------------------------------------------------------------------------------------

    def publish(self, message: Message) -> bool:
        """Take a message; False if the queue is full and rejects what comes.

        A ready consumer gets it even if its time to live is 0.
        """
        if self._limits.refuses(self.waiting.count, self.waiting.bytes, message.size):
            if self.arguments.overflow == "reject-publish-dlx":
                self._around.bury(self._entry(message), "maxlen")
            return False
        entry = self._entry(message)
        if not self.waiting.count and (consumer := self._turns.next()) is not None:
            self._hand_over(consumer, entry)
            return True
        self.waiting.add(entry)
        if self._limits.drops:
            self._drop_overflow()
        if entry.expires is not None or self._limits.given:
            self._expire_head()
        return True

    def _entry(self, message: Message) -> Entry:
        self._order += 1
        ttl = self.arguments.message_ttl
        if message.ttl is not None:
            ttl = message.ttl if ttl is None else min(ttl, message.ttl)
        return Entry(self, message, self._order, None if ttl is None else self._around.timers.now + ttl / 1000)

    def _drop_overflow(self) -> None:
        while self.waiting.count and not self._limits.fit(self.waiting.count, self.waiting.bytes):
            self._around.bury(self.waiting.pop(), "maxlen")

    def _hand_over(self, consumer: Consumer, entry: Entry) -> None:
        if not consumer.no_ack:
            self.unacked += 1
        consumer.channel.deliver(consumer, entry)

    def get(self) -> Entry | None:
        """Take the next message for Basic.Get; whoever acknowledges later counts it with `hold`."""
        self._used = self._around.timers.now
        self._expire_head()
        if not self.waiting.count:
            return None
        entry = self.waiting.pop()
        self._expire_head()
        return entry

    def settle(self, entry: Entry) -> None:
        """A delivery has been acknowledged."""
        self.unacked -= 1

    def reject(self, entry: Entry) -> None:
        """A delivery has been refused for good."""
        self.unacked -= 1
        if not self.deleted:
            self._around.bury(entry, "rejected")

    def put_back(self, entries: list[Entry]) -> None:
        """Deliveries that came to nothing wait again, each where it was."""
        self.unacked -= len(entries)
        if self.deleted:
            return
        for entry in entries:
            entry.redelivered = True
            entry.deliveries += 1
            limit = self.arguments.delivery_limit
            if self.arguments.quorum and limit is not None and entry.deliveries > limit:
                self._around.bury(entry, "delivery_limit")
            else:
                self.waiting.put_back(entry)
        if self.arguments.quorum:  # their consumers come first
            self.dispatch()
        if self._limits.drops:
            self._drop_overflow()
        self.dispatch()

    def purge(self) -> int:
        """Throw away what waits; returns how much it was."""
        return self.waiting.clear()

    def delete(self) -> None:
        """It is no more: what comes back to it is thrown away."""
        self.deleted = True
        self.waiting.clear()
        for timer in (self._alarm, self._end):
            if timer is not None:
                timer.cancel()

    def dispatch(self) -> None:
        """Give waiting messages to consumers while both last."""
        self._expire_head()
        waiting, turns = self.waiting, self._turns
        while waiting.count and (consumer := turns.next()) is not None:
            self._hand_over(consumer, waiting.pop())
            self._expire_head()

    # --- time ---------------------------------------------------------------------------------------------------------

    def _expire_head(self) -> None:
        """Messages expire when they reach the head [RabbitMQ: TTL, caveats]; come back when the head is due."""
        now = self._around.timers.now
        while (head := self.waiting.head()) is not None and head.expires is not None:
            if head.expires > now:
                self._wake(head.expires)
                return
            self._around.bury(self.waiting.pop(), "expired")

    def _wake(self, when: float) -> None:
        if self._alarm is not None:
            if self._alarm.when <= when:
                return
            self._alarm.cancel()
        self._alarm = self._around.timers.at(when, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        self._expire_head()

    def _idle_until(self) -> float:
        return self._used + (self.arguments.expires or 0) / 1000

    def used(self) -> None:
        """It has been declared again or looked at: x-expires counts from now."""
        self._used = self._around.timers.now

    def _expire_if_idle(self) -> None:
        if self.consumers:
            self._used = self._around.timers.now
        if self._idle_until() <= self._around.timers.now:
            self._around.remove_queue(self)
        else:
            self._end = self._around.timers.at(self._idle_until(), self._expire_if_idle)

    # --- consumers ----------------------------------------------------------------------------------------------------

    def add_consumer(self, consumer: Consumer) -> None:
        """Register a consumer. Call `dispatch` once it knows."""
        self.consumers.append(consumer)
        if not self.arguments.single_active or len(self.consumers) == 1:
            self._turns.add(consumer)

    def remove_consumer(self, consumer: Consumer) -> None:
        """Forget a consumer; its deliveries stay with its channel. An auto-delete queue goes with its last one."""
        was_active = self.consumers[0] is consumer
        self.consumers.remove(consumer)
        self._turns.remove(consumer)
        consumer.parked = False  # credit that comes back later must not revive it
        self._used = self._around.timers.now
        if not self.consumers:
            if self.options.auto_delete and not self.deleted:
                self._around.remove_queue(self)
        elif self.arguments.single_active and was_active:
            self._turns.add(self._promote())
            self.dispatch()

    def _promote(self) -> Consumer:
        """The next single active consumer: the oldest of the highest priority. It stands first from now on."""
        chosen = max(self.consumers, key=lambda consumer: consumer.priority)
        self.consumers.remove(chosen)
        self.consumers.insert(0, chosen)
        return chosen

    def credited(self, consumer: Consumer) -> None:
        """A consumer that was set apart may take messages again."""
        if consumer.parked:
            consumer.parked = False
            self._turns.add(consumer)

    def exclusive_consumer(self) -> bool:
        """Whether somebody has the queue for himself."""
        return any(consumer.exclusive for consumer in self.consumers)

    def take_consumers(self) -> Iterator[Consumer]:
        """The consumers of a queue that is being deleted."""
        consumers, self.consumers, self._turns = self.consumers, [], Turns()
        for consumer in consumers:
            consumer.parked = False
        return iter(consumers)
