"""What the client of a channel publishes: checked, routed, returned, confirmed. Pure."""

from __future__ import annotations

from typing import Protocol

from warren.broker import errors
from warren.broker.errors import AmqpError, precondition
from warren.broker.exchanges import Exchange
from warren.broker.message import Message
from warren.broker.model import Service, VirtualHost
from warren.broker.replies import REPLY_TO
from warren.broker.tables import has_no_number

_ENCODED_REPLY_TO = REPLY_TO.encode()


class Answers(Protocol):
    """What a publisher is told."""

    def give_back(self, message: Message) -> None:
        """Basic.Return, 312 NO_ROUTE."""

    def confirm(self, tag: int, taken: bool) -> None:
        """Basic.Ack or Basic.Nack of a publish."""

    def service(self, name: str) -> Service | None:
        """What stands behind a queue name, if the client may use it."""


class Publishing:
    """The publishes of one channel.

    Attributes:
        confirming: the channel is in confirm mode.
        waiting: what waits for Tx.Commit; None where there are no transactions.
        reply_address: what ``amq.rabbitmq.reply-to`` stands for; None without a consumer of direct replies.
    """

    def __init__(self, host: VirtualHost, user: str, answers: Answers) -> None:
        self.confirming = False
        self.waiting: list[tuple[Exchange, Message, bool]] | None = None
        self.reply_address: str | None = None
        self._host = host
        self._user = user.encode()
        self._answers = answers
        self._published = 0

    def publish(self, exchange_name: str, message: Message, mandatory: bool) -> None:
        """Take a message from the client.

        Raises:
            AmqpError: 403, 404, 406.
        """
        host = self._host
        exchange = host.exchanges.by_name.get(exchange_name)
        if exchange is None:
            raise errors.not_found("exchange", exchange_name, host.name)
        if exchange.options.internal:
            raise AmqpError(403, f"cannot publish to internal exchange '{exchange_name}' in vhost '{host.name}'")
        if message.steers:
            self._read_properties(message)
        if self.waiting is not None:
            self.waiting.append((exchange, message, mandatory))
            return
        routed, taken = self._route(exchange, message)
        if mandatory and not routed:
            self._answers.give_back(message)
        if self.confirming:
            self._published += 1
            self._answers.confirm(self._published, taken)

    def refuse(self) -> None:
        """A fault: throw a message away, and nack it."""
        self._published += 1
        self._answers.confirm(self._published, False)

    def commit(self) -> None:
        """Publish what has been waiting."""
        assert self.waiting is not None
        publishes, self.waiting = self.waiting, []
        for exchange, message, mandatory in publishes:
            routed, _ = self._route(exchange, message)
            if mandatory and not routed:
                self._answers.give_back(message)

    def _route(self, exchange: Exchange, message: Message) -> tuple[bool, bool]:
        """Whether the message has found anybody, and whether all have taken it."""
        service = self._answers.service(message.key) if exchange.name == "" else None
        if service is None:
            return self._host.publish(exchange, message)
        service(self._host, message)
        return True, True

    def _read_properties(self, message: Message) -> None:
        """Those that tell the broker something, in RabbitMQ's order, which decides what is complained of first."""
        properties = message.properties
        if has_no_number(properties.table or b""):
            raise AmqpError(541, "", of_no_method=True)  # RabbitMQ's channel fails to read the headers
        if properties.user_id is not None and properties.user_id != self._user:
            claimed, actual = properties.user_id.decode("utf-8", "replace"), self._user.decode()
            text = f"user_id property set to '{claimed}' but authenticated user was '{actual}'"
            raise precondition(text)
        message.read_expiration()
        if properties.reply_to == _ENCODED_REPLY_TO:
            if self.reply_address is None:
                raise precondition("fast reply consumer does not exist")
            message.rewrite(reply_to=self.reply_address.encode())
        message.check_delivery_mode()
        message.read_copies()
