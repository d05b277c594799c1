"""Direct reply-to: addresses that stand for a channel instead of a queue. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from warren.broker import errors
from warren.broker.message import Message

REPLY_TO = "amq.rabbitmq.reply-to"
_PREFIX = REPLY_TO + "."


class ReplyReceiver(Protocol):
    """A channel that consumes direct replies."""

    def deliver_reply(self, message: Message) -> None:
        """Send a reply to its consumer."""


class ReplyAddresses:
    """The addresses of one virtual host that are open."""

    def __init__(self, vhost: str, make_name: Callable[[], str]) -> None:
        self._vhost = vhost
        self._make_name = make_name
        self._open: dict[str, ReplyReceiver] = {}

    def open(self, receiver: ReplyReceiver) -> str:
        """An address that delivers to a channel until it is closed."""
        address = f"{_PREFIX}{self._make_name()}.{self._make_name()}=="  # the shape of RabbitMQ's
        self._open[address] = receiver
        return address

    def close(self, address: str) -> None:
        """Replies to it are unroutable from now on."""
        self._open.pop(address, None)

    def deliver(self, message: Message) -> bool:
        """Deliver a message to the address that is its key; False if there is none."""
        receiver = self._open.get(message.key)
        if receiver is not None:
            receiver.deliver_reply(message)
        return receiver is not None

    def names(self, name: str) -> bool:
        """Whether a queue name is one of direct reply-to.

        Raises:
            AmqpError: 404 for an address whose channel is gone.
        """
        if name.startswith(_PREFIX) and name not in self._open:
            raise errors.not_found("queue", name, self._vhost)
        return name.startswith(REPLY_TO)
