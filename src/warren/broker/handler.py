"""One channel on the wire: frames in, methods carried out, answers out.

What a method means is `methods`', `channel.Channel`'s and `model.VirtualHost`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from warren.amqp import methods as amqp
from warren.amqp.frames import HEADER, METHOD, content_frames
from warren.amqp.methods import Method, encode_method
from warren.amqp.tables import join_table
from warren.broker.channel import Channel
from warren.broker.client import Client
from warren.broker.confirms import Confirms
from warren.broker.content import Content
from warren.broker.errors import AmqpError
from warren.broker.frames import Publish, decode_method, encode_delivery, read_ack
from warren.broker.message import Message
from warren.broker.methods import HANDLERS
from warren.broker.model import Service
from warren.broker.queues import Consumer, Entry
from warren.broker.replies import REPLY_TO
from warren.broker.state import State
from warren.broker.tables import encode_long

_QUORUM_COUNT = b"x-delivery-count"


class Connection(Protocol):
    """The session, as its channels see it."""

    state: State
    client: Client
    loopback: bool

    def write(self, data: bytes) -> None:
        """Send bytes, soon."""

    def has_room(self) -> bool:
        """Whether the client reads what it is sent."""

    def publish_received(self) -> None:
        """The header of a message has been read; under an alarm nothing more is."""


class ChannelHandler:
    """An open channel of a session."""

    def __init__(self, number: int, connection: Connection, confirm_later: Callable[[ChannelHandler], None]) -> None:
        """`confirm_later` has its confirms flushed when this turn's input is used up."""
        self.number = number
        self.publishing = False  # from Basic.Publish to the end of its content
        self.closing = False  # Channel.Close has been sent: all but the answer is ignored
        self.channel = Channel(
            connection.client.host, connection, connection.client.user, self, connection.state.make_name
        )
        self.confirms = Confirms(connection.state.faults, self._send_if_open, self._later, partial(confirm_later, self))
        self._connection = connection
        self._content: Content | None = None
        self._publishes = connection.state.publishes

    # --- frames in ----------------------------------------------------------------------------------------------------

    def take(self, kind: int, payload: bytes) -> None:
        """One frame.

        Raises:
            AmqpError: what ends the channel or the connection.
            FrameError: content that does not add up.
        """
        content = self._content
        if content is None:
            if kind != METHOD:
                raise AmqpError(505, "expected method frame, got non method frame instead")
            self._take_method(payload)
            return
        message = content.take(kind, payload)
        if message is not None:
            self._content = None
            self._publish(message, content.publish)
        if kind == HEADER:
            self._connection.publish_received()

    def _take_method(self, payload: bytes) -> None:
        index = payload[:4]
        if index == amqp.Basic.Publish.index:
            limit = self._connection.state.settings.max_message_size
            self._content = Content(self._publishes.read(payload), limit)
            self.publishing = True
        elif index == amqp.Basic.Ack.index:
            self.channel.outstanding.ack(*read_ack(payload))
        else:
            method = decode_method(payload)
            handle = HANDLERS.get(method.kind)
            if handle is None:
                raise AmqpError(503, "unimplemented method")
            handle(self, method)

    def _publish(self, message: Message, publish: Publish) -> None:
        if self.channel.publishing.confirming and self._connection.state.faults.nacks_publish():
            self.channel.publishing.refuse()
        else:
            self.channel.publishing.publish(publish.exchange, message, publish.mandatory)
        self.publishing = False

    # --- the channel's output -----------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        return self._connection.has_room()

    def deliver(self, consumer: Consumer, tag: int, message: Message, entry: Entry | None) -> None:
        redelivered = entry is not None and entry.redelivered
        method = encode_delivery(self.number, consumer.prefix, tag, redelivered, message.route)
        header = _counted(entry) if entry is not None and entry.deliveries else message.header
        data = b"".join((method, *content_frames(self.number, header, message.body, self._connection.client.frame_max)))
        faults = self._connection.state.faults
        if faults.duplicated_deliveries or faults.delivery_delay:
            self._deliver_badly(data, REPLY_TO if entry is None else entry.queue.name)
        else:
            self._connection.write(data)

    def _deliver_badly(self, data: bytes, queue: str) -> None:
        faults = self._connection.state.faults
        if faults.duplicates_delivery(queue):
            data += data
        delay = faults.delays_delivery(queue)
        if delay:
            self._later(delay, partial(self._write_if_open, data))
        else:
            self._connection.write(data)

    def send_message(self, entry: Entry, method: Method) -> None:
        """Basic.GetOk and what was got."""
        self._send_content(method, _counted(entry) if entry.deliveries else entry.message.header, entry.message.body)

    def service(self, name: str) -> Service | None:
        """Only clients on this machine may ask."""
        return self._connection.state.services.get(name) if self._connection.loopback else None

    def give_back(self, message: Message) -> None:
        method = amqp.Basic.Return(312, "NO_ROUTE", message.exchange, message.key)
        self._send_content(method, message.header, message.body)

    def _send_content(self, method: Method, header: bytes, body: bytes) -> None:
        content = b"".join(content_frames(self.number, header, body, self._connection.client.frame_max))
        self._connection.write(encode_method(self.number, method) + content)

    def confirm(self, tag: int, taken: bool) -> None:
        self.confirms.add(tag, taken)

    def cancel(self, consumer: Consumer) -> None:
        if self._connection.client.capabilities.get("consumer_cancel_notify"):
            self.send(amqp.Basic.Cancel(consumer.tag, nowait=True))

    def _later(self, delay: float, write: Callable[[], None]) -> None:
        timers = self._connection.state.timers
        timers.at(timers.now + delay, write)

    def _send_if_open(self, method: Method) -> None:
        if not self.closing:
            self.send(method)

    def _write_if_open(self, data: bytes) -> None:
        if not self.closing:
            self._connection.write(data)

    def send(self, method: Method) -> None:
        """Write one method frame."""
        self._connection.write(encode_method(self.number, method))

    def close(self) -> None:
        """The channel is over; nothing more is sent on it but what the session sends."""
        self.closing = True
        self._content = None
        self.channel.close()


def _counted(entry: Entry) -> bytes:
    """The header with what quorum queues tell of earlier deliveries."""
    message = entry.message
    if not entry.queue.arguments.quorum:
        return message.header
    copy = Message(message.exchange, message.key, message.route, message.header, message.body)
    entries = copy.headers() | {_QUORUM_COUNT: encode_long(entry.deliveries)}
    copy.rewrite(table=join_table(entries))
    return copy.header
