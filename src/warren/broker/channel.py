"""A channel: its consumers, what they hold unacknowledged, its prefetch limits, confirms and transactions.

Pure: what is to be sent goes to an `Output`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Protocol

from warren.broker import errors
from warren.broker.errors import AmqpError, precondition
from warren.broker.exchanges import Exchange
from warren.broker.message import Message
from warren.broker.model import REPLY_TO, VirtualHost
from warren.broker.queues import Consumer, Entry, Queue
from warren.broker.tables import has_no_number

_ENCODED_REPLY_TO = REPLY_TO.encode()


#: What answers the messages to a queue name that the broker keeps for itself.
Service = Callable[[VirtualHost, Message], None]


class Output(Protocol):
    """What a channel has to tell its client."""

    def deliver(self, consumer: Consumer, tag: int, message: Message, entry: Entry | None) -> None:
        """Basic.Deliver; a direct reply comes from no queue and has no entry."""

    def give_back(self, message: Message) -> None:
        """Basic.Return, 312 NO_ROUTE."""

    def confirm(self, tag: int, taken: bool) -> None:
        """Basic.Ack or Basic.Nack of a publish."""

    def cancel(self, consumer: Consumer) -> None:
        """Basic.Cancel from the server."""

    def service(self, name: str) -> Service | None:
        """What stands behind a queue name, if the client may use it."""

    def has_room(self) -> bool:
        """Whether the client reads what it is sent."""


class Held:
    """A delivery that is not acknowledged; `consumer` is None after Basic.Get."""

    __slots__ = ("consumer", "entry")

    def __init__(self, entry: Entry, consumer: Consumer | None) -> None:
        self.entry = entry
        self.consumer = consumer


class Transaction:
    """What waits for Tx.Commit."""

    def __init__(self) -> None:
        self.publishes: list[tuple[Exchange, Message, bool]] = []
        self.settled: list[tuple[int, Held, Callable[[Entry], None] | None]] = []


class Channel:
    """The state of one open channel. `connection` identifies the owner of exclusive queues."""

    def __init__(
        self, host: VirtualHost, connection: object, user: str, output: Output, make_tag: Callable[[], str]
    ) -> None:
        self.host = host
        self.connection = connection
        self.user = user.encode()
        self.consumers: dict[str, Consumer] = {}
        # By delivery tag, in their order. A plain dict takes ever longer to begin with when its first ones are gone.
        self.unacked: OrderedDict[int, Held] = OrderedDict()
        self.prefetch = 0  # of consumers to come
        self.shared_prefetch = 0  # of all consumers together
        self.confirming = False
        self.published = 0
        self.transaction: Transaction | None = None
        self._output = output
        self._make_tag = make_tag
        self._tag = 0
        self._shared_unacked = 0
        self._parked: dict[Consumer, None] = {}  # consumers without credit, those that have waited longest first
        self._reply_consumer: Consumer | None = None
        self._reply_address = ""
        self._queue: Queue | None = None

    # --- names --------------------------------------------------------------------------------------------------------

    def queue(self, name: str) -> Queue:
        """A queue by name; the empty name is the queue that this channel declared last.

        Raises:
            AmqpError: 404, 405.
        """
        return self.host.queue(self.queue_name(name), self.connection)

    def queue_name(self, name: str) -> str:
        """The name, or that of the queue declared last.

        Raises:
            AmqpError: 404 if none was.
        """
        if name:
            return name
        if self._queue is None:
            raise AmqpError(404, "no previously declared queue")
        return self._queue.name

    def declared(self, queue: Queue) -> None:
        """Remember what the empty name means."""
        self._queue = queue

    # --- publishing ---------------------------------------------------------------------------------------------------

    def publish(self, exchange_name: str, message: Message, mandatory: bool) -> None:
        """Take a message from the client.

        Raises:
            AmqpError: 403, 404, 406.
        """
        host = self.host
        exchange = host.exchanges.get(exchange_name)
        if exchange is None:
            raise errors.not_found("exchange", exchange_name, host.name)
        if exchange.options.internal:
            raise AmqpError(403, f"cannot publish to internal exchange '{exchange_name}' in vhost '{host.name}'")
        if message.steers:
            self._read_properties(message)
        if self.transaction is not None:
            self.transaction.publishes.append((exchange, message, mandatory))
            return
        routed, taken = self._route(exchange, message)
        if mandatory and not routed:
            self._output.give_back(message)
        if self.confirming:
            self.published += 1
            self._output.confirm(self.published, taken)

    def _route(self, exchange: Exchange, message: Message) -> tuple[bool, bool]:
        """Whether the message has found anybody, and whether all have taken it."""
        service = self._output.service(message.key) if exchange.name == "" else None
        if service is None:
            return self.host.publish(exchange, message)
        service(self.host, message)
        return True, True

    def _read_properties(self, message: Message) -> None:
        """Those that tell the broker something, in RabbitMQ's order, which decides what is complained of first."""
        properties = message.properties
        if has_no_number(properties.table or b""):
            raise AmqpError(541, "", of_no_method=True)  # RabbitMQ's channel fails to read the headers
        if properties.user_id is not None and properties.user_id != self.user:
            claimed, actual = properties.user_id.decode("utf-8", "replace"), self.user.decode()
            text = f"user_id property set to '{claimed}' but authenticated user was '{actual}'"
            raise precondition(text)
        message.read_expiration()
        if properties.reply_to == _ENCODED_REPLY_TO:
            if self._reply_consumer is None:
                raise precondition("fast reply consumer does not exist")
            message.rewrite(reply_to=self._reply_address.encode())
        message.check_delivery_mode()
        message.read_copies()

    # --- consuming ----------------------------------------------------------------------------------------------------

    def consume(self, queue_name: str, tag: str, *, no_ack: bool, exclusive: bool, priority: int) -> Consumer:
        """Register a consumer; it gets nothing before `begin`.

        Raises:
            AmqpError: 403, 404, 405, 406, or 530 for a tag that is in use.
        """
        tag = tag or f"amq.ctag-{self._make_tag()}"
        if tag in self.consumers:
            raise AmqpError(530, f"attempt to reuse consumer tag '{tag}'")
        if queue_name == REPLY_TO:
            return self._consume_replies(tag, no_ack)
        queue = self.queue(queue_name)
        if queue.exclusive_consumer() or (exclusive and (queue.consumers or queue.arguments.single_active)):
            raise AmqpError(403, f"queue '{queue.name}' in vhost '{self.host.name}' in exclusive use")
        if queue.arguments.quorum and self.shared_prefetch:
            raise AmqpError(540, f"queue '{queue.name}' in vhost '{self.host.name}' does not support global qos")
        consumer = Consumer(tag, self, queue, no_ack, exclusive, priority, self.prefetch)
        self.consumers[tag] = consumer
        queue.add_consumer(consumer)
        return consumer

    def _consume_replies(self, tag: str, no_ack: bool) -> Consumer:
        """It stands apart from the others, as with RabbitMQ: one of them may have its tag."""
        if not no_ack:
            raise precondition("reply consumer cannot acknowledge")
        if self._reply_consumer is not None:
            raise precondition("reply consumer already set")
        self._reply_address = self.host.open_reply_address(self)
        self._reply_consumer = Consumer(tag, self, None, True, False, 0, 0)
        return self._reply_consumer

    def begin(self, consumer: Consumer) -> None:
        """The client knows its consumer: deliveries may come."""
        if consumer.queue is not None:
            consumer.queue.dispatch()

    def cancel(self, tag: str) -> None:
        """End a consumer; what it holds stays unacknowledged. An unknown tag is no error."""
        consumer = self.consumers.pop(tag, None)
        if consumer is not None and consumer.queue is not None:
            self._parked.pop(consumer, None)
            consumer.queue.remove_consumer(consumer)
        elif self._reply_consumer is not None and self._reply_consumer.tag == tag:
            self._close_reply_address()

    def _close_reply_address(self) -> None:
        self.host.close_reply_address(self._reply_address)
        self._reply_consumer = None

    def get(self, queue_name: str, no_ack: bool) -> tuple[int, Entry, int] | None:
        """One message: its tag, the message, and how many wait behind it.

        Raises:
            AmqpError: 404, 405.
        """
        queue = self.queue(queue_name)
        if queue.arguments.quorum and queue.arguments.single_active:
            text = "basic.get operations are not supported by quorum queues with single active consumer"
            raise AmqpError(
                405, f"cannot obtain access to locked queue '{queue.name}' in vhost '{self.host.name}'. {text}"
            )
        entry = queue.get()
        if entry is None:
            return None
        self._tag += 1
        if not no_ack:
            queue.unacked += 1
            self.unacked[self._tag] = Held(entry, None)
        return self._tag, entry, queue.waiting.count

    # --- as the receiver of deliveries --------------------------------------------------------------------------------

    def can_take(self, consumer: Consumer) -> bool:
        """The shared limit holds up consumers without acknowledgements, too, although they do not count for it."""
        if not self._output.has_room():
            return False
        if self.shared_prefetch and self._shared_unacked >= self.shared_prefetch:
            return False
        return consumer.no_ack or not consumer.prefetch or consumer.unacked < consumer.prefetch

    def park(self, consumer: Consumer) -> None:
        self._parked[consumer] = None

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        self._tag += 1
        if not consumer.no_ack:
            consumer.unacked += 1
            self._shared_unacked += 1
            self.unacked[self._tag] = Held(entry, consumer)
        self._output.deliver(consumer, self._tag, entry.message, entry)

    def deliver_reply(self, message: Message) -> None:
        """Replies do not count the delivery tags up."""
        if self._reply_consumer is not None:
            self._output.deliver(self._reply_consumer, self._tag + 1, message, None)

    def lose_consumer(self, consumer: Consumer) -> None:
        if self.consumers.pop(consumer.tag, None) is not None:
            self._parked.pop(consumer, None)
            self._output.cancel(consumer)

    # --- acknowledging ------------------------------------------------------------------------------------------------

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

    def _settle(self, tag: int, multiple: bool, how: Callable[[Entry], None] | None) -> None:
        chosen = [(number, self.unacked.pop(number)) for number in self._chosen(tag, multiple)]
        if self.transaction is not None:
            self.transaction.settled += [(number, held, how) for number, held in chosen]
        else:
            self._finish([held for _, held in chosen], how)

    def _chosen(self, tag: int, multiple: bool) -> list[int]:
        if tag == 0 and multiple:
            return list(self.unacked)
        if tag not in self.unacked:
            raise precondition(f"unknown delivery tag {tag}")
        return list(takewhile(lambda number: number <= tag, self.unacked)) if multiple else [tag]

    def _finish(self, chosen: list[Held], how: Callable[[Entry], None] | None) -> None:
        """Settle deliveries and use the credit that comes free; without `how` they are put back."""
        freed: set[Consumer] = set()
        for held in chosen:
            if held.consumer is not None:
                held.consumer.unacked -= 1
                self._shared_unacked -= 1
                freed.add(held.consumer)
        if how is None:
            put_back([held.entry for held in chosen])
        else:
            for held in chosen:
                how(held.entry)
        if self.shared_prefetch:
            self.use_credit()
        else:  # whoever has acknowledged nothing waits on
            parked = freed & self._parked.keys()
            self._use_credit(parked if len(parked) < 2 else [one for one in self._parked if one in parked])

    def use_credit(self) -> None:
        """Consumers that were waiting for credit, or for room, get what they can take."""
        self._use_credit(self._parked)

    def _use_credit(self, parked: Iterable[Consumer]) -> None:
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

    def recover(self) -> None:
        """Put back all that is unacknowledged."""
        held, self.unacked = list(self.unacked.values()), OrderedDict()
        self._finish(held, None)

    def limit(self, prefetch: int, *, shared: bool) -> None:
        """Basic.Qos: for consumers to come, or for all of the channel together; the former ends the latter."""
        if not shared:
            self.prefetch = prefetch
        self.shared_prefetch = prefetch if shared else 0

    # --- modes --------------------------------------------------------------------------------------------------------

    def select_confirms(self) -> None:
        """Publishes are confirmed from now on.

        Raises:
            AmqpError: 406 on a transactional channel.
        """
        if self.transaction is not None:
            raise precondition("cannot switch from tx to confirm mode")
        self.confirming = True

    def select_transactions(self) -> None:
        """Publishes and acknowledgements wait for a commit from now on.

        Raises:
            AmqpError: 406 on a channel with confirms.
        """
        if self.confirming:
            raise precondition("cannot switch from confirm to tx mode")
        if self.transaction is None:
            self.transaction = Transaction()

    def commit(self) -> None:
        """Do what has been waiting.

        Raises:
            AmqpError: 406 on a channel without transactions.
        """
        done, self.transaction = self._transaction(), Transaction()
        for exchange, message, mandatory in done.publishes:
            routed, _ = self._route(exchange, message)
            if mandatory and not routed:
                self._output.give_back(message)
        for _, held, how in done.settled:
            self._finish([held], how)

    def rollback(self) -> None:
        """Forget the publishes; what was acknowledged is outstanding again.

        Raises:
            AmqpError: 406 on a channel without transactions.
        """
        undone, self.transaction = self._transaction(), Transaction()
        for number, held, _ in undone.settled:
            self.unacked[number] = held
        self.unacked = OrderedDict(sorted(self.unacked.items()))

    def _transaction(self) -> Transaction:
        if self.transaction is None:
            raise precondition("channel is not transactional")
        return self.transaction

    def close(self) -> None:
        """End the consumers, and put back what was unacknowledged."""
        for consumer in list(self.consumers.values()):
            self.cancel(consumer.tag)
        if self._reply_consumer is not None:
            self._close_reply_address()
        held = list(self.unacked.values())
        if self.transaction is not None:
            held += [held for _, held, _ in self.transaction.settled]
        self.unacked, self.transaction = OrderedDict(), None
        self._finish(held, None)


def put_back(entries: list[Entry]) -> None:
    """Deliveries that came to nothing, each to its queue."""
    by_queue: dict[Queue, list[Entry]] = {}
    for entry in entries:
        by_queue.setdefault(entry.queue, []).append(entry)
    for queue, its in by_queue.items():
        queue.put_back(its)
