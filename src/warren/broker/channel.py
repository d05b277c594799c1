"""A channel: its consumers and their deliveries, and its mode; what it publishes is `publishing`'s affair.

Pure: what is to be sent goes to an `Output`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from warren.broker.credit import Credit
from warren.broker.errors import AmqpError, precondition
from warren.broker.message import Message
from warren.broker.model import VirtualHost
from warren.broker.outstanding import Outstanding
from warren.broker.publishing import Answers, Publishing
from warren.broker.queues import Consumer, Entry, Queue
from warren.broker.replies import REPLY_TO


class Output(Answers, Protocol):
    """What a channel has to tell its client."""

    def deliver(self, consumer: Consumer, tag: int, message: Message, entry: Entry | None) -> None:
        """Basic.Deliver; a direct reply comes from no queue and has no entry."""

    def cancel(self, consumer: Consumer) -> None:
        """Basic.Cancel from the server."""

    def has_room(self) -> bool:
        """Whether the client reads what it is sent."""


class Channel:
    """The state of one open channel. `connection` identifies the owner of exclusive queues."""

    def __init__(
        self, host: VirtualHost, connection: object, user: str, output: Output, make_tag: Callable[[], str]
    ) -> None:
        self.host = host
        self.connection = connection
        self.consumers: dict[str, Consumer] = {}
        self.publishing = Publishing(host, user, output)
        self.credit = Credit(output.has_room)
        self.outstanding = Outstanding(self.credit)
        self._output = output
        self._make_tag = make_tag
        self._tag = 0
        self._reply_consumer: Consumer | None = None
        self.last_queue: Queue | None = None  # that it has declared: what the empty name means

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
        if self.last_queue is None:
            raise AmqpError(404, "no previously declared queue")
        return self.last_queue.name

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
        if queue.arguments.quorum and self.credit.shared:
            raise AmqpError(540, f"queue '{queue.name}' in vhost '{self.host.name}' does not support global qos")
        consumer = Consumer(tag, self, queue, no_ack, exclusive, priority, self.credit.prefetch)
        self.consumers[tag] = consumer
        queue.add_consumer(consumer)
        return consumer

    def _consume_replies(self, tag: str, no_ack: bool) -> Consumer:
        """It stands apart from the others, as with RabbitMQ: one of them may have its tag."""
        if not no_ack:
            raise precondition("reply consumer cannot acknowledge")
        if self._reply_consumer is not None:
            raise precondition("reply consumer already set")
        self.publishing.reply_address = self.host.replies.open(self)
        self._reply_consumer = Consumer(tag, self, None, True, False, 0, 0)
        return self._reply_consumer

    def begin(self, consumer: Consumer) -> None:
        """The client knows its consumer: deliveries may come."""
        if consumer.queue is not None:
            consumer.queue.dispatch()

    def cancel(self, tag: str) -> None:
        """End a consumer; what it holds stays unacknowledged. An unknown tag is ignored."""
        consumer = self.consumers.pop(tag, None)
        if consumer is not None and consumer.queue is not None:
            self.credit.forget(consumer)
            consumer.queue.remove_consumer(consumer)
        elif self._reply_consumer is not None and self._reply_consumer.tag == tag:
            self._close_reply_address()

    def _close_reply_address(self) -> None:
        assert self.publishing.reply_address is not None
        self.host.replies.close(self.publishing.reply_address)
        self._reply_consumer = self.publishing.reply_address = None

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
            self.outstanding.hold(self._tag, entry, None)
        return self._tag, entry, queue.waiting.count

    # --- as the receiver of deliveries --------------------------------------------------------------------------------

    def can_take(self, consumer: Consumer) -> bool:
        return self.credit.can_take(consumer)

    def park(self, consumer: Consumer) -> None:
        self.credit.park(consumer)

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        self._tag += 1
        if not consumer.no_ack:
            self.outstanding.hold(self._tag, entry, consumer)
        self._output.deliver(consumer, self._tag, entry.message, entry)

    def deliver_reply(self, message: Message) -> None:
        """Replies do not count the delivery tags up."""
        if self._reply_consumer is not None:
            self._output.deliver(self._reply_consumer, self._tag + 1, message, None)

    def lose_consumer(self, consumer: Consumer) -> None:
        if self.consumers.pop(consumer.tag, None) is not None:
            self.credit.forget(consumer)
            self._output.cancel(consumer)

    # --- modes --------------------------------------------------------------------------------------------------------

    def select_confirms(self) -> None:
        """Publishes are confirmed from now on.

        Raises:
            AmqpError: 406 on a transactional channel.
        """
        if self.outstanding.transactional:
            raise precondition("cannot switch from tx to confirm mode")
        self.publishing.confirming = True

    def select_transactions(self) -> None:
        """Publishes and acknowledgements wait for a commit from now on.

        Raises:
            AmqpError: 406 on a channel with confirms.
        """
        if self.publishing.confirming:
            raise precondition("cannot switch from confirm to tx mode")
        if not self.outstanding.transactional:
            self.publishing.waiting, self.outstanding.transactional = [], True

    def commit(self) -> None:
        """Do what has been waiting.

        Raises:
            AmqpError: 406 on a channel without transactions.
        """
        self._check_transactional()
        self.publishing.commit()
        self.outstanding.commit()

    def rollback(self) -> None:
        """Forget the publishes; what was acknowledged is outstanding again.

        Raises:
            AmqpError: 406 on a channel without transactions.
        """
        self._check_transactional()
        self.publishing.waiting = []
        self.outstanding.rollback()

    def _check_transactional(self) -> None:
        if not self.outstanding.transactional:
            raise precondition("channel is not transactional")

    def close(self) -> None:
        """End the consumers, and put back what was unacknowledged."""
        for consumer in list(self.consumers.values()):
            self.cancel(consumer.tag)
        if self._reply_consumer is not None:
            self._close_reply_address()
        self.publishing.waiting = None
        self.outstanding.end()
