"""One channel on the wire: frames in, methods carried out, answers out.

Content is put together here; what a method means is `channel.Channel`'s and `model.VirtualHost`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from warren.amqp import methods as amqp
from warren.amqp.frames import BODY, HEADER, METHOD, content_frames
from warren.amqp.methods import Method, encode_method
from warren.amqp.tables import join_table, split_table
from warren.broker.arguments import Raw, check_priority
from warren.broker.channel import Channel, Service
from warren.broker.errors import AmqpError, default_exchange
from warren.broker.frames import Publish, decode_method, delivery_prefix, describe_frame, encode_delivery, read_ack
from warren.broker.message import Message
from warren.broker.model import REPLY_TO, VirtualHost, end_consumers
from warren.broker.queues import Consumer, Entry, QueueOptions
from warren.broker.state import State
from warren.broker.tables import Value, encode_long

_NO_HEADER = "expected content header for class 60, got non content header frame instead"
_QUORUM_COUNT = b"x-delivery-count"


class Connection(Protocol):
    """The session, as its channels see it."""

    state: State
    host: VirtualHost
    user: str
    frame_max: int
    capabilities: dict[str, Value]

    def write(self, data: bytes) -> None:
        """Send bytes, soon."""

    def has_room(self) -> bool:
        """Whether the client reads what it is sent."""

    def confirm_later(self, channel: ChannelHandler) -> None:
        """Call `flush_confirms` when this turn's input is used up."""

    def service(self, name: str) -> Service | None:
        """What answers messages to a reserved queue name, for clients on this machine."""

    def publish_received(self) -> None:
        """The header of a message has been read; under an alarm nothing more is."""


class _Content:
    """A message on its way in."""

    __slots__ = ("chunks", "header", "missing", "publish")

    def __init__(self, publish: Publish) -> None:
        self.publish = publish
        self.header: bytes | None = None
        self.missing = 0
        self.chunks: list[bytes] = []


class ChannelHandler:
    """An open channel of a session."""

    def __init__(self, number: int, connection: Connection) -> None:
        self.number = number
        self.publishing = False  # from Basic.Publish to the end of its content
        self.closing = False  # Channel.Close has been sent: all but the answer is ignored
        self.channel = Channel(connection.host, connection, connection.user, self, connection.state.make_name)
        self._connection = connection
        self._content: _Content | None = None
        self._publishes = connection.state.publishes
        self._to_confirm = 0  # the last publish that is to be confirmed
        self._unconfirmed = 0  # how many of those before it are to be confirmed with it
        self._owed = 0  # confirms that are late or will never come: no later one may include them

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
        elif content.header is None:
            if kind != HEADER:
                raise AmqpError(505, _NO_HEADER)
            self._take_header(content, payload)
        elif kind == BODY:
            self._take_body(content, payload)
        else:
            raise AmqpError(505, "expected content body, got non content body frame instead")

    def _take_method(self, payload: bytes) -> None:
        index = payload[:4]
        if index == amqp.Basic.Publish.index:
            publish = self._publishes.read(payload)
            self._content = _Content(publish)
            self.publishing = True
        elif index == amqp.Basic.Ack.index:
            self.channel.ack(*read_ack(payload))
        else:
            method = decode_method(payload)
            handle = HANDLERS.get(method.kind)
            if handle is None:
                raise AmqpError(503, "unimplemented method")
            handle(self, method)

    def _take_header(self, content: _Content, payload: bytes) -> None:
        if len(payload) < 14:
            raise AmqpError(501, describe_frame(HEADER, payload) + ": unknown_frame")
        if payload[:2] != b"\x00\x3c":
            other = int.from_bytes(payload[:2])
            text = f"expected content header for class 60, got one for class {other} instead"
            raise AmqpError(505, text)
        size = int.from_bytes(payload[4:12])
        limit = self._connection.state.settings.max_message_size
        if size > limit:
            self._content = None
            raise AmqpError(406, f"message size {size} is larger than configured max size {limit}")
        content.header = payload[12:]
        content.missing = size
        if not size:
            self._publish(content, b"")
        self._connection.publish_received()

    def _take_body(self, content: _Content, payload: bytes) -> None:
        content.missing -= len(payload)
        if content.missing < 0:
            raise AmqpError(501, "content body is longer than its header says")
        if content.missing:
            if payload:  # frames of nothing may go on for ever
                content.chunks.append(payload)
        elif content.chunks:
            content.chunks.append(payload)
            self._publish(content, b"".join(content.chunks))
        else:
            self._publish(content, payload)

    def _publish(self, content: _Content, body: bytes) -> None:
        self._content = None
        publish, header = content.publish, content.header or b""
        if publish.immediate:
            raise AmqpError(540, "immediate=true")
        message = Message(publish.exchange, publish.key, publish.route, header, body)
        if self.channel.confirming and self._connection.state.faults.nacks_publish():
            self.channel.published += 1
            self.confirm(self.channel.published, False)
        else:
            self.channel.publish(publish.exchange, message, publish.mandatory)
        self.publishing = False

    # --- the channel's output -----------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        return self._connection.has_room()

    def deliver(self, consumer: Consumer, tag: int, message: Message, entry: Entry | None) -> None:
        redelivered = entry is not None and entry.redelivered
        method = encode_delivery(self.number, consumer.prefix, tag, redelivered, message.route)
        header = _counted(entry) if entry is not None and entry.deliveries else message.header
        data = b"".join((method, *content_frames(self.number, header, message.body, self._connection.frame_max)))
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
            self._later(delay, lambda: self._connection.write(data))
        else:
            self._connection.write(data)

    def send_message(self, entry: Entry, method: Method) -> None:
        """Basic.GetOk and what was got."""
        self._send_content(method, _counted(entry) if entry.deliveries else entry.message.header, entry.message.body)

    def service(self, name: str) -> Service | None:
        return self._connection.service(name)

    def give_back(self, message: Message) -> None:
        method = amqp.Basic.Return(312, "NO_ROUTE", message.exchange, message.key)
        self._send_content(method, message.header, message.body)

    def _send_content(self, method: Method, header: bytes, body: bytes) -> None:
        content = b"".join(content_frames(self.number, header, body, self._connection.frame_max))
        self._connection.write(encode_method(self.number, method) + content)

    def confirm(self, tag: int, taken: bool) -> None:
        """Remember what to confirm; consecutive confirms leave as one."""
        faults = self._connection.state.faults
        if faults.withheld_confirms or faults.reordered_confirms:
            self._confirm_badly(tag, taken)
        elif not taken:
            self.flush_confirms()
            self._send_confirm(_confirm(tag, taken))
        else:
            self._to_confirm = tag
            self._unconfirmed += 1
            if self._unconfirmed == 1:
                self._connection.confirm_later(self)

    def _confirm_badly(self, tag: int, taken: bool) -> None:
        self.flush_confirms()
        self._owed += 1
        faults = self._connection.state.faults
        if not faults.withholds_confirm():
            faults.keeps_confirm(partial(self._pay, _confirm(tag, taken)))

    def flush_confirms(self) -> None:
        """Confirm what has been taken."""
        if self._unconfirmed:
            last = self._to_confirm
            tags = range(last - self._unconfirmed + 1, last + 1)
            self._unconfirmed = 0
            if self._owed:
                for tag in tags:
                    self._send_confirm(_confirm(tag, True))
            else:
                self._send_confirm(amqp.Basic.Ack(last, len(tags) > 1))

    def _send_confirm(self, method: Method) -> None:
        delay = self._connection.state.faults.confirm_delay
        if delay:
            self._owed += 1
            self._later(delay, partial(self._pay, method))
        else:
            self.send(method)

    def _pay(self, method: Method) -> None:
        """Send a confirm that was owed."""
        self._owed -= 1
        if not self.closing:
            self.send(method)

    def cancel(self, consumer: Consumer) -> None:
        if self._connection.capabilities.get("consumer_cancel_notify"):
            self.send(amqp.Basic.Cancel(consumer.tag, nowait=True))

    def _later(self, delay: float, write: Callable[[], None]) -> None:
        def unless_closed() -> None:
            if not self.closing:
                write()

        timers = self._connection.state.timers
        timers.at(timers.now + delay, unless_closed)

    def send(self, method: Method) -> None:
        """Write one method frame."""
        self._connection.write(encode_method(self.number, method))

    def close(self) -> None:
        """The channel is over; nothing more is sent on it but what the session sends."""
        self.closing = True
        self._content = None
        self.channel.close()


def _confirm(tag: int, taken: bool) -> Method:
    return amqp.Basic.Ack(tag, False) if taken else amqp.Basic.Nack(tag, False, False)


def _counted(entry: Entry) -> bytes:
    """The header with what quorum queues tell of earlier deliveries."""
    message = entry.message
    if not entry.queue.arguments.quorum:
        return message.header
    copy = Message(message.exchange, message.key, message.route, message.header, message.body)
    entries = copy.headers() | {_QUORUM_COUNT: encode_long(entry.deliveries)}
    copy.rewrite(table=join_table(entries))
    return copy.header


# --- what each method does --------------------------------------------------------------------------------------------


def _flow(handler: ChannelHandler, method: Method) -> None:
    if not method.active:
        raise AmqpError(540, "active=false")
    handler.send(amqp.Channel.FlowOk(True))


def _request_access(handler: ChannelHandler, method: Method) -> None:
    """A relic of AMQP 0-8 that RabbitMQ still answers."""
    handler.send(amqp.Access.RequestOk(1))


def _ignore(handler: ChannelHandler, method: Method) -> None:
    """Flow-ok, and the answer to a server's Basic.Cancel."""


def _name(name: str) -> str:
    """RabbitMQ takes line ends out of the names of what is declared."""
    return name.replace("\r", "").replace("\n", "")


def _raw(arguments: bytes) -> Raw:
    return {key.decode("utf-8", "replace"): raw for key, raw in split_table(arguments).items()}


def _declare_exchange(handler: ChannelHandler, method: Method) -> None:
    host, name = handler.channel.host, _name(method.exchange)
    if method.passive:
        if name == "":
            raise default_exchange()
        host.exchange(name)
    else:
        arguments = _raw(method.arguments)
        flags = {name: getattr(method, name) for name in ("durable", "auto_delete", "internal")}
        host.declare_exchange(name, method.type, arguments, **flags)
    if not method.nowait:
        handler.send(amqp.Exchange.DeclareOk())


def _delete_exchange(handler: ChannelHandler, method: Method) -> None:
    handler.channel.host.delete_exchange(_name(method.exchange), if_unused=method.if_unused)
    if not method.nowait:
        handler.send(amqp.Exchange.DeleteOk())


def _bind_exchange(handler: ChannelHandler, method: Method) -> None:
    host = handler.channel.host
    host.check_source(method.source)  # RabbitMQ complains of it first
    arguments = _raw(method.arguments)
    host.bind(method.source, host.exchange(method.destination), method.routing_key, arguments)
    if not method.nowait:
        handler.send(amqp.Exchange.BindOk())


def _unbind_exchange(handler: ChannelHandler, method: Method) -> None:
    host = handler.channel.host
    arguments = _raw(method.arguments)
    destination = host.exchanges.get(method.destination)
    if destination is not None:  # what is not there is unbound already
        host.unbind(method.source, destination, method.routing_key, arguments)
    if not method.nowait:
        handler.send(amqp.Exchange.UnbindOk())


def _declare_queue(handler: ChannelHandler, method: Method) -> None:
    channel, name = handler.channel, _name(method.queue)
    if channel.host.is_reply_address(name):
        _answer_declare(handler, method, name, 0, 1)
        return
    if method.passive:
        queue = channel.host.queue(name, channel.connection)  # here the empty name is a name
        queue.used()
    else:
        arguments = _raw(method.arguments)
        owner = channel.connection if method.exclusive else None
        durable = method.durable and not method.exclusive  # exclusive queues never are
        options = QueueOptions(durable, method.auto_delete, owner)
        queue = channel.host.declare_queue(name, options, arguments, channel.connection)
    channel.declared(queue)
    _answer_declare(handler, method, queue.name, queue.waiting.count, len(queue.consumers))


def _answer_declare(handler: ChannelHandler, method: Method, name: str, messages: int, consumers: int) -> None:
    if not method.nowait:
        handler.send(amqp.Queue.DeclareOk(name, messages, consumers))


def _bind_queue(handler: ChannelHandler, method: Method) -> None:
    channel = handler.channel
    channel.host.check_source(method.exchange)  # RabbitMQ complains of it first
    queue = channel.queue(method.queue)
    arguments = _raw(method.arguments)
    channel.host.bind(method.exchange, queue, _binding_key(method, queue.name), arguments)
    if not method.nowait:
        handler.send(amqp.Queue.BindOk())


def _binding_key(method: Method, queue: str) -> str:
    """With neither queue nor key it is the queue declared last, by its name [1.7.2.3.1]."""
    key: str = method.routing_key
    return key or ("" if method.queue else queue)


def _unbind_queue(handler: ChannelHandler, method: Method) -> None:
    channel, host = handler.channel, handler.channel.host
    if method.exchange == "":
        raise default_exchange()
    name = channel.queue_name(method.queue)
    queue, key = host.queues.get(name), _binding_key(method, name)
    arguments = _raw(method.arguments)
    if queue is not None and host.is_bound(method.exchange, queue, key, arguments):
        host.unbind(method.exchange, channel.queue(name), key, arguments)
    handler.send(amqp.Queue.UnbindOk())


def _purge(handler: ChannelHandler, method: Method) -> None:
    count = handler.channel.queue(method.queue).purge()
    if not method.nowait:
        handler.send(amqp.Queue.PurgeOk(count))


def _delete_queue(handler: ChannelHandler, method: Method) -> None:
    channel = handler.channel
    name = channel.queue_name(method.queue)
    unused, empty = method.if_unused, method.if_empty
    count, queue = channel.host.delete_queue(name, channel.connection, if_unused=unused, if_empty=empty)
    if not method.nowait:
        handler.send(amqp.Queue.DeleteOk(count))
    if queue is not None:
        end_consumers(queue)  # Basic.Cancel comes after the answer, as from RabbitMQ


def _qos(handler: ChannelHandler, method: Method) -> None:
    if method.prefetch_size:
        raise AmqpError(540, f"prefetch_size!=0 ({method.prefetch_size})")
    handler.channel.limit(method.prefetch_count, shared=method.global_qos)
    handler.send(amqp.Basic.QosOk())
    handler.channel.use_credit()


def _consume(handler: ChannelHandler, method: Method) -> None:
    described = f"queue '{method.queue}' in vhost '{handler.channel.host.name}'"
    priority = check_priority(_raw(method.arguments), described)
    consumer = handler.channel.consume(
        method.queue, method.consumer_tag, no_ack=method.no_ack, exclusive=method.exclusive, priority=priority
    )
    consumer.prefix = delivery_prefix(consumer.tag)
    if not method.nowait:
        handler.send(amqp.Basic.ConsumeOk(consumer.tag))
    handler.channel.begin(consumer)


def _cancel(handler: ChannelHandler, method: Method) -> None:
    handler.channel.cancel(method.consumer_tag)
    if not method.nowait:
        handler.send(amqp.Basic.CancelOk(method.consumer_tag))


def _get(handler: ChannelHandler, method: Method) -> None:
    found = handler.channel.get(method.queue, method.no_ack)
    if found is None:
        handler.send(amqp.Basic.GetEmpty())
        return
    tag, entry, left = found
    message = entry.message
    handler.send_message(entry, amqp.Basic.GetOk(tag, entry.redelivered, message.exchange, message.key, left))


def _nack(handler: ChannelHandler, method: Method) -> None:
    handler.channel.reject(method.delivery_tag, method.multiple, method.requeue)


def _reject(handler: ChannelHandler, method: Method) -> None:
    handler.channel.reject(method.delivery_tag, False, method.requeue)


def _recover(handler: ChannelHandler, method: Method) -> None:
    if not method.requeue:
        raise AmqpError(540, "requeue=false")
    handler.channel.recover()
    if method.kind is amqp.Basic.Recover:
        handler.send(amqp.Basic.RecoverOk())


def _select_confirms(handler: ChannelHandler, method: Method) -> None:
    handler.channel.select_confirms()
    if not method.nowait:
        handler.send(amqp.Confirm.SelectOk())


def _select_transactions(handler: ChannelHandler, method: Method) -> None:
    handler.channel.select_transactions()
    handler.send(amqp.Tx.SelectOk())


def _commit(handler: ChannelHandler, method: Method) -> None:
    handler.channel.commit()
    handler.send(amqp.Tx.CommitOk())


def _rollback(handler: ChannelHandler, method: Method) -> None:
    handler.channel.rollback()
    handler.send(amqp.Tx.RollbackOk())


#: All but Basic.Publish and Basic.Ack, which `ChannelHandler` takes itself.
HANDLERS: dict[amqp.Kind, Callable[[ChannelHandler, Method], None]] = {
    amqp.Access.Request: _request_access,
    amqp.Channel.Flow: _flow,
    amqp.Channel.FlowOk: _ignore,
    amqp.Exchange.Declare: _declare_exchange,
    amqp.Exchange.Delete: _delete_exchange,
    amqp.Exchange.Bind: _bind_exchange,
    amqp.Exchange.Unbind: _unbind_exchange,
    amqp.Queue.Declare: _declare_queue,
    amqp.Queue.Bind: _bind_queue,
    amqp.Queue.Unbind: _unbind_queue,
    amqp.Queue.Purge: _purge,
    amqp.Queue.Delete: _delete_queue,
    amqp.Basic.Qos: _qos,
    amqp.Basic.Consume: _consume,
    amqp.Basic.Cancel: _cancel,
    amqp.Basic.CancelOk: _ignore,
    amqp.Basic.Get: _get,
    amqp.Basic.Nack: _nack,
    amqp.Basic.Reject: _reject,
    amqp.Basic.Recover: _recover,
    amqp.Basic.RecoverAsync: _recover,
    amqp.Confirm.Select: _select_confirms,
    amqp.Tx.Select: _select_transactions,
    amqp.Tx.Commit: _commit,
    amqp.Tx.Rollback: _rollback,
}
