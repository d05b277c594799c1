"""A virtual host: exchanges, queues and bindings by name, and the way of a message through them.

Pure: no sockets, no frames, no clock. Time is `timers.now`, random names come from `make_name`, results go to the
channels that consume. All of it lives in memory, as long as the object does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from warren.amqp.tables import decode_value, encode_value, join_table
from warren.broker import errors
from warren.broker.arguments import (
    Raw,
    check_name_arguments,
    check_same_argument,
    check_same_arguments,
    check_same_flag,
    parse_arguments,
    show_value,
)
from warren.broker.errors import AmqpError, precondition
from warren.broker.exchanges import MATCH_MODES, TYPES, Destination, Direct, Exchange, ExchangeOptions, Headers
from warren.broker.message import Message, dead_letter, encode_name, goes_in_circles
from warren.broker.queues import Entry, Queue, QueueOptions
from warren.broker.tables import type_name
from warren.broker.timers import Timers

#: What every virtual host has from the beginning [RabbitMQ: 3.1.3 and its own amq.rabbitmq.trace].
_PREDECLARED = (
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
)
_ALTERNATE = "alternate-exchange"
REPLY_TO = "amq.rabbitmq.reply-to"
_REPLY_ADDRESS = REPLY_TO + "."


class ReplyReceiver(Protocol):
    """A channel that consumes direct replies."""

    def deliver_reply(self, message: Message) -> None:
        """Send a reply to its consumer."""


class VirtualHost:
    """Everything that has a name in one virtual host."""

    def __init__(self, name: str, timers: Timers, make_name: Callable[[], str], epoch: float = 0.0) -> None:
        self.name = name
        self.timers = timers
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {"": Direct("", ExchangeOptions(durable=True))}
        for exchange, kind in _PREDECLARED:
            self.exchanges[exchange] = TYPES[kind](exchange, ExchangeOptions(durable=True))
        trace = ExchangeOptions(durable=True, internal=True)
        self.exchanges["amq.rabbitmq.trace"] = TYPES["topic"]("amq.rabbitmq.trace", trace)
        self._replies: dict[str, ReplyReceiver] = {}
        self._make_name = make_name
        self._epoch = epoch  # seconds between the timers' zero and 1970
        self._graves: deque[tuple[Entry, str]] = deque()
        self._holding = False  # dead letters wait

    # --- exchanges ----------------------------------------------------------------------------------------------------

    def exchange(self, name: str) -> Exchange:
        """An exchange by name.

        Raises:
            AmqpError: 404.
        """
        found = self.exchanges.get(name)
        if found is None:
            raise errors.not_found("exchange", name, self.name)
        return found

    def declare_exchange(
        self, name: str, kind: str, arguments: Raw, *, durable: bool, auto_delete: bool, internal: bool
    ) -> None:
        """Make an exchange, or compare it with the one that is there.

        Raises:
            AmqpError: 403 for reserved names, 406 if it differs, 503 for an unknown type.
        """
        if name == "":
            raise errors.default_exchange()
        if kind not in TYPES:
            raise AmqpError(503, f"unknown exchange type '{kind}'")
        check_name_arguments((_ALTERNATE,), arguments, f"exchange '{name}' in vhost '{self.name}'")
        alternate = decode_value(arguments[_ALTERNATE]) if _ALTERNATE in arguments else None
        options = ExchangeOptions(durable, auto_delete, internal, alternate if isinstance(alternate, str) else None)
        existing = self.exchanges.get(name)
        if existing is not None:
            self._check_same_exchange(existing, kind, options, arguments)
        elif name.startswith("amq."):
            raise errors.reserved("exchange", name)
        else:
            self.exchanges[name] = TYPES[kind](name, options)

    def _check_same_exchange(self, existing: Exchange, kind: str, options: ExchangeOptions, arguments: Raw) -> None:
        described = f"exchange '{existing.name}' in vhost '{self.name}'"
        check_same_flag("type", kind, existing.type, described)
        check_same_flag("durable", options.durable, existing.options.durable, described)
        check_same_flag("auto_delete", options.auto_delete, existing.options.auto_delete, described)
        check_same_flag("internal", options.internal, existing.options.internal, described)
        alternates = (arguments.get(_ALTERNATE), _encoded(existing.options.alternate))
        check_same_argument(_ALTERNATE, *alternates, described)

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """Remove an exchange; one that is not there is no error.

        Raises:
            AmqpError: 403 for the broker's own, 406 if it is in use.
        """
        if name == "":
            raise errors.default_exchange()
        if name.startswith("amq."):
            raise AmqpError(403, f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise precondition(f"exchange '{name}' in vhost '{self.name}' in use")
        self._remove_exchange(exchange)

    def _remove_exchange(self, exchange: Exchange) -> None:
        del self.exchanges[exchange.name]
        for binding in exchange.bindings.values():
            if isinstance(binding.to, Exchange):
                binding.to.incoming.discard(exchange)
        for source in list(exchange.incoming):
            self._forget(source, exchange)

    # --- bindings -----------------------------------------------------------------------------------------------------

    def bind(self, source: str, to: Destination, key: str, arguments: Raw) -> None:
        """Bind a queue or an exchange to an exchange.

        Raises:
            AmqpError: 403 for the default exchange, 404.
        """
        if to.name == "":
            raise errors.default_exchange()
        exchange = self.check_source(source)
        if isinstance(exchange, Headers):
            check_match(arguments)
        values = {name: decode_value(raw) for name, raw in arguments.items()}
        exchange.bind(to, key, _as_bytes(arguments), values)
        if isinstance(to, Exchange):
            to.incoming.add(exchange)

    def unbind(self, source: str, to: Destination, key: str, arguments: Raw) -> None:
        """Remove a binding; one that is not there is no error.

        Raises:
            AmqpError: 403 for the default exchange.
        """
        if to.name == "" or source == "":
            raise errors.default_exchange()
        exchange = self.exchanges.get(source)
        if exchange is not None and exchange.unbind(to, key, _as_bytes(arguments)):
            if isinstance(to, Exchange) and to not in exchange.destinations:
                to.incoming.discard(exchange)
            self._end_if_unused(exchange)

    def check_source(self, name: str) -> Exchange:
        """An exchange that something is to be bound to.

        Raises:
            AmqpError: 403 for the default exchange, 404.
        """
        if name == "":
            raise errors.default_exchange()
        return self.exchange(name)

    def is_bound(self, source: str, to: Destination, key: str, arguments: Raw) -> bool:
        """Whether there is such a binding."""
        exchange = self.exchanges.get(source)
        return exchange is not None and exchange.has(to, key, _as_bytes(arguments))

    def _forget(self, source: Exchange, to: Destination) -> None:
        if source.forget(to):
            self._end_if_unused(source)

    def _end_if_unused(self, exchange: Exchange) -> None:
        if exchange.options.auto_delete and not exchange.bindings and exchange.name in self.exchanges:
            self._remove_exchange(exchange)

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
        for exchange in list(self.exchanges.values()):
            if exchange.bindings:
                self._forget(exchange, queue)

    # --- messages -----------------------------------------------------------------------------------------------------

    def publish(self, exchange: Exchange, message: Message) -> tuple[bool, bool]:
        """Bring a message into its queues; returns whether there were any, and whether all of them took it."""
        if exchange.name == "" and len(message.keys) == 1:  # the way of every reply
            queue = self.queues.get(message.key)
            if queue is not None:
                return True, queue.publish(message)
            return self._deliver_reply(message), True
        queues = self._route(exchange, message)
        taken = self._publish_to_all(queues, message)
        if exchange.name == "":
            return any([self._deliver_reply(message), queues]), taken
        return bool(queues), taken

    def _publish_to_all(self, queues: Collection[Queue], message: Message) -> bool:
        """What dies in one queue meanwhile waits, so that a copy does not overtake the message."""
        holding, self._holding = self._holding, True
        taken = True
        for queue in queues:
            taken = queue.publish(message) and taken
        self._holding = holding
        if self._graves and not holding:
            self._bury_all()
        return taken

    def _deliver_reply(self, message: Message) -> bool:
        receiver = self._replies.get(message.key)
        if receiver is not None:
            receiver.deliver_reply(message)
        return receiver is not None

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
            alternate = self.exchanges.get(exchange.options.alternate)
            return () if alternate is None else (alternate,)
        return found

    def bury(self, entry: Entry, reason: str) -> None:
        """Send a message to its queue's dead-letter exchange, now or when what is under way is done."""
        if entry.queue.arguments.dead_letter_exchange is None:
            return
        self._graves.append((entry, reason))
        if not self._holding:
            self._bury_all()

    def _bury_all(self) -> None:
        """One after the other, those included that die of it."""
        self._holding = True
        try:
            while self._graves:
                self._dead_letter(*self._graves.popleft())
        finally:
            self._holding = False

    def _dead_letter(self, entry: Entry, reason: str) -> None:
        arguments = entry.queue.arguments
        exchange = self.exchanges.get(arguments.dead_letter_exchange or "")
        if exchange is None:
            return
        time = int(self.timers.now + self._epoch)
        name, key = exchange.name, arguments.dead_letter_key
        message = dead_letter(entry.message, entry.queue.name, reason, name, key, time)
        for queue in self._route(exchange, message):
            if not goes_in_circles(message, queue.name):
                queue.publish(message)

    # --- direct replies -----------------------------------------------------------------------------------------------

    def open_reply_address(self, receiver: ReplyReceiver) -> str:
        """An address that delivers to a channel for as long as it is open."""
        address = f"{_REPLY_ADDRESS}{self._make_name()}.{self._make_name()}=="  # the shape of RabbitMQ's
        self._replies[address] = receiver
        return address

    def close_reply_address(self, address: str) -> None:
        """Replies to it are unroutable from now on."""
        self._replies.pop(address, None)

    def is_reply_address(self, name: str) -> bool:
        """Whether a queue name is one of direct reply-to, alive or not.

        Raises:
            AmqpError: 404 for an address whose channel is gone.
        """
        if name.startswith(_REPLY_ADDRESS) and name not in self._replies:
            raise errors.not_found("queue", name, self.name)
        return name.startswith(REPLY_TO)


def end_consumers(queue: Queue) -> None:
    """Tell the consumers of a deleted queue, by their tags, as RabbitMQ does."""
    for consumer in sorted(queue.take_consumers(), key=lambda consumer: encode_name(consumer.tag)):
        consumer.channel.lose_consumer(consumer)


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else encode_value(text)


def _as_bytes(arguments: Raw) -> bytes:
    return join_table({name.encode(): arguments[name] for name in sorted(arguments)})


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


def check_match(arguments: Raw) -> None:
    """The x-match of a binding to a headers exchange.

    Raises:
        AmqpError: 406.
    """
    raw = arguments.get("x-match")
    if raw is None:
        return
    value = decode_value(raw)
    if type_name(raw) != "longstr":
        raise precondition(f"Invalid x-match field type {type_name(raw)} (value {show_value(raw)}); expected longstr")
    if value not in MATCH_MODES:
        expected = "all, any, all-with-x, or any-with-x"
        raise precondition(f'Invalid x-match field value <<"{value}">>; expected {expected}')
