"""A virtual host: exchanges, queues and bindings by name, and the way of a message through them.

Pure: no sockets, no frames, no clock. Time is `timers.now`, random names come from `make_name`, results go to the
channels that consume. All of it lives in memory, as long as the object does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from warren.broker import errors
from warren.broker.arguments import Raw, check_same_arguments, check_same_flag, parse_arguments
from warren.broker.bindings import Bindings
from warren.broker.errors import AmqpError, precondition
from warren.broker.exchanges import Destination, Exchange
from warren.broker.message import Message, dead_letter, encode_name, goes_in_circles
from warren.broker.queues import Entry, Queue, QueueOptions
from warren.broker.replies import ReplyAddresses
from warren.broker.timers import Timers

#: What answers the messages to a queue name that the broker keeps for itself.
Service = Callable[["VirtualHost", Message], None]


class DeadLetters:
    """What has died in a queue and is still to be sent on."""

    def __init__(self, send: Callable[[Entry, str], None]) -> None:
        self._send = send
        self._waiting: deque[tuple[Entry, str]] = deque()
        self._holding = False

    def add(self, entry: Entry, reason: str) -> None:
        """Send a message on, now or when what is under way is done."""
        self._waiting.append((entry, reason))
        if not self._holding:
            self._send_all()

    def hold(self) -> bool:
        """Let them wait until `release`, which wants to know what this returns."""
        before, self._holding = self._holding, True
        return before

    def release(self, before: bool) -> None:
        """The end of `hold`; the last one sends what has come meanwhile."""
        self._holding = before
        if self._waiting and not before:
            self._send_all()

    def _send_all(self) -> None:
        """One after the other, those included that die of it."""
        self._holding = True
        try:
            while self._waiting:
                self._send(*self._waiting.popleft())
        finally:
            self._holding = False


class VirtualHost:
    """Everything that has a name in one virtual host."""

    def __init__(self, name: str, timers: Timers, make_name: Callable[[], str], epoch: float = 0.0) -> None:
        self.name = name
        self.timers = timers
        self.queues: dict[str, Queue] = {}
        self.exchanges = Bindings(name)
        self.replies = ReplyAddresses(name, make_name)
        self._dead_letters = DeadLetters(self._dead_letter)
        self._make_name = make_name
        self._epoch = epoch  # seconds between the timers' zero and 1970

    # --- queues -------------------------------------------------------------------------------------------------------

    def queue(self, name: str, owner: object | None = None) -> Queue:
        """A queue by name, for a connection.

        Raises:
            AmqpError: 404, or 405 for another connection's exclusive queue.
        """
        found = self.queues.get(name)
        if found is None:
            raise errors.not_found("queue", name, self.name)
        if found.options.owner is not None and found.options.owner is not owner:
            raise errors.locked(name, self.name)
        return found

    def declare_queue(self, name: str, options: QueueOptions, arguments: Raw, connection: object) -> Queue:
        """Make a queue, with a name of the broker's if it has none, or compare it with the one that is there.

        Raises:
            AmqpError: 403 for reserved names, 405, 406.
        """
        existing = self.queues.get(name) if name else None
        if existing is not None:
            self._check_same_queue(existing, options, arguments, connection)
            existing.used()
            return existing
        if name.startswith("amq."):
            raise errors.reserved("queue", name)
        server_named = not name
        name = name or f"amq.gen-{self._make_name()}"
        described = f"queue '{name}' in vhost '{self.name}'"
        parsed = parse_arguments(arguments, described)
        if parsed.quorum:
            if server_named:
                raise precondition("Cannot declare a server-named queue for type rabbit_quorum_queue")
            _check_quorum(options, described)
        queue = self.queues[name] = Queue(name, options, parsed, self)
        return queue

    def _check_same_queue(self, existing: Queue, options: QueueOptions, arguments: Raw, connection: object) -> None:
        owner = existing.options.owner
        if owner is not options.owner and (owner is not None or options.owner is not None):
            raise errors.locked(existing.name, self.name)
        described = f"queue '{existing.name}' in vhost '{self.name}'"
        check_same_flag("durable", options.durable, existing.options.durable, described)
        check_same_flag("auto_delete", options.auto_delete, existing.options.auto_delete, described)
        check_same_arguments(existing.arguments, arguments, described)

    def delete_queue(
        self, name: str, connection: object, *, if_unused: bool, if_empty: bool
    ) -> tuple[int, Queue | None]:
        """Remove a queue; returns how many messages waited, and the queue for `end_consumers`.

        Raises:
            AmqpError: 405; 406 if it is used or not empty and must not be; 540 for such conditions on a quorum queue.
        """
        if name not in self.queues:
            return 0, None
        queue = self.queue(name, connection)
        described = f"queue '{name}' in vhost '{self.name}'"
        if queue.arguments.quorum and (if_unused or if_empty):
            flag = "if-unused" if if_unused else "if-empty"
            text = f"queue.delete operations with {flag} flag set are not supported by quorum queues"
            raise AmqpError(540, f"cannot delete {described}. {text}")
        if if_unused and queue.consumers:
            raise precondition(f"{described} in use")
        if if_empty and queue.waiting.count:
            raise precondition(f"{described} not empty")
        count = queue.waiting.count
        self._take_out(queue)
        return count, queue

    def remove_queue(self, queue: Queue) -> None:
        """Delete a queue whatever its state, and tell its consumers."""
        if not queue.deleted:
            self._take_out(queue)
            end_consumers(queue)

    def _take_out(self, queue: Queue) -> None:
        del self.queues[queue.name]
        queue.delete()
        self.exchanges.forget(queue)

    # --- messages -----------------------------------------------------------------------------------------------------

    def publish(self, exchange: Exchange, message: Message) -> tuple[bool, bool]:
        """Bring a message into its queues; returns whether there were any, and whether all of them took it."""
        if exchange.name == "" and len(message.keys) == 1:  # the way of every reply
            queue = self.queues.get(message.key)
            if queue is not None:
                return True, queue.publish(message)
            return self.replies.deliver(message), True
        queues = self._route(exchange, message)
        taken = self._publish_to_all(queues, message)
        if exchange.name == "":
            return any([self.replies.deliver(message), queues]), taken
        return bool(queues), taken

    def _publish_to_all(self, queues: Collection[Queue], message: Message) -> bool:
        """What dies in one queue meanwhile waits, so that a copy does not overtake the message."""
        held_back = self._dead_letters.hold()
        taken = True
        for queue in queues:
            taken = queue.publish(message) and taken
        self._dead_letters.release(held_back)
        return taken

    def _route(self, exchange: Exchange, message: Message) -> Collection[Queue]:
        if exchange.name == "":
            found = (self.queues.get(key) for key in message.keys)
            return dict.fromkeys(queue for queue in found if queue is not None)
        queues: dict[Queue, None] = {}
        seen = {exchange}
        to_visit = [exchange]
        while to_visit:
            current = to_visit.pop()
            for destination in self._matches(current, message):
                if isinstance(destination, Queue):
                    queues[destination] = None
                elif isinstance(destination, Exchange) and destination not in seen:
                    seen.add(destination)
                    to_visit.append(destination)
        return queues

    def _matches(self, exchange: Exchange, message: Message) -> Collection[Destination]:
        if exchange.name == "":  # as somebody's alternate exchange
            return self._route(exchange, message)
        found = exchange.match(message)
        if not found and exchange.options.alternate is not None:
            alternate = self.exchanges.by_name.get(exchange.options.alternate)
            return () if alternate is None else (alternate,)
        return found

    def bury(self, entry: Entry, reason: str) -> None:
        """Send a message to its queue's dead-letter exchange, now or when what is under way is done."""
        if entry.queue.arguments.dead_letter_exchange is None:
            return
        self._dead_letters.add(entry, reason)

    def _dead_letter(self, entry: Entry, reason: str) -> None:
        arguments = entry.queue.arguments
        exchange = self.exchanges.by_name.get(arguments.dead_letter_exchange or "")
        if exchange is None:
            return
        time = int(self.timers.now + self._epoch)
        name, key = exchange.name, arguments.dead_letter_key
        message = dead_letter(entry.message, entry.queue.name, reason, name, key, time)
        for queue in self._route(exchange, message):
            if not goes_in_circles(message, queue.name):
                queue.publish(message)


def end_consumers(queue: Queue) -> None:
    """Tell the consumers of a deleted queue, by their tags, as RabbitMQ does."""
    for consumer in sorted(queue.take_consumers(), key=lambda consumer: encode_name(consumer.tag)):
        consumer.channel.lose_consumer(consumer)


def _check_quorum(options: QueueOptions, described: str) -> None:
    """Quorum queues must be durable and everybody's."""
    wrong = (
        ("exclusive-owner", options.owner is not None),
        ("non-durable", not options.durable),
        ("auto-delete", options.auto_delete),
    )
    for name, is_so in wrong:
        if is_so:
            raise precondition(f"invalid property '{name}' for {described}")
