"""What each method on a channel does, and what is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from warren.amqp import methods as amqp
from warren.amqp.methods import Method
from warren.amqp.tables import split_table
from warren.broker.arguments import Raw, check_priority
from warren.broker.channel import Channel
from warren.broker.errors import AmqpError, default_exchange
from warren.broker.frames import delivery_prefix
from warren.broker.model import end_consumers
from warren.broker.queues import Entry, QueueOptions


class Peer(Protocol):
    """The client of a channel."""

    channel: Channel

    def send(self, method: Method) -> None:
        """Write one method frame."""

    def send_message(self, entry: Entry, method: Method) -> None:
        """Basic.GetOk and what was got."""


def _flow(peer: Peer, method: Method) -> None:
    if not method.active:
        raise AmqpError(540, "active=false")
    peer.send(amqp.Channel.FlowOk(True))


def _request_access(peer: Peer, method: Method) -> None:
    """A relic of AMQP 0-8 that RabbitMQ still answers."""
    peer.send(amqp.Access.RequestOk(1))


def _ignore(peer: Peer, method: Method) -> None:
    """Flow-ok, and the answer to a server's Basic.Cancel."""


def _name(name: str) -> str:
    """RabbitMQ takes line ends out of the names of what is declared."""
    return name.replace("\r", "").replace("\n", "")


def _raw(arguments: bytes) -> Raw:
    return {key.decode("utf-8", "replace"): raw for key, raw in split_table(arguments).items()}


def _declare_exchange(peer: Peer, method: Method) -> None:
    host, name = peer.channel.host, _name(method.exchange)
    if method.passive:
        if name == "":
            raise default_exchange()
        host.exchanges.get(name)
    else:
        arguments = _raw(method.arguments)
        flags = {name: getattr(method, name) for name in ("durable", "auto_delete", "internal")}
        host.exchanges.declare(name, method.type, arguments, **flags)
    if not method.nowait:
        peer.send(amqp.Exchange.DeclareOk())


def _delete_exchange(peer: Peer, method: Method) -> None:
    peer.channel.host.exchanges.delete(_name(method.exchange), if_unused=method.if_unused)
    if not method.nowait:
        peer.send(amqp.Exchange.DeleteOk())


def _bind_exchange(peer: Peer, method: Method) -> None:
    host = peer.channel.host
    host.exchanges.check_source(method.source)  # RabbitMQ complains of it first
    arguments = _raw(method.arguments)
    host.exchanges.bind(method.source, host.exchanges.get(method.destination), method.routing_key, arguments)
    if not method.nowait:
        peer.send(amqp.Exchange.BindOk())


def _unbind_exchange(peer: Peer, method: Method) -> None:
    host = peer.channel.host
    arguments = _raw(method.arguments)
    destination = host.exchanges.by_name.get(method.destination)
    if destination is not None:  # what is not there is unbound already
        host.exchanges.unbind(method.source, destination, method.routing_key, arguments)
    if not method.nowait:
        peer.send(amqp.Exchange.UnbindOk())


def _declare_queue(peer: Peer, method: Method) -> None:
    channel, name = peer.channel, _name(method.queue)
    if channel.host.replies.names(name):
        _answer_declare(peer, method, name, 0, 1)
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
    channel.last_queue = queue
    _answer_declare(peer, method, queue.name, queue.waiting.count, len(queue.consumers))


def _answer_declare(peer: Peer, method: Method, name: str, messages: int, consumers: int) -> None:
    if not method.nowait:
        peer.send(amqp.Queue.DeclareOk(name, messages, consumers))


def _bind_queue(peer: Peer, method: Method) -> None:
    channel = peer.channel
    channel.host.exchanges.check_source(method.exchange)  # RabbitMQ complains of it first
    queue = channel.queue(method.queue)
    arguments = _raw(method.arguments)
    channel.host.exchanges.bind(method.exchange, queue, _binding_key(method, queue.name), arguments)
    if not method.nowait:
        peer.send(amqp.Queue.BindOk())


def _binding_key(method: Method, queue: str) -> str:
    """With neither queue nor key it is the queue declared last, by its name [1.7.2.3.1]."""
    key: str = method.routing_key
    return key or ("" if method.queue else queue)


def _unbind_queue(peer: Peer, method: Method) -> None:
    channel, host = peer.channel, peer.channel.host
    if method.exchange == "":
        raise default_exchange()
    name = channel.queue_name(method.queue)
    queue, key = host.queues.get(name), _binding_key(method, name)
    arguments = _raw(method.arguments)
    if queue is not None and host.exchanges.is_bound(method.exchange, queue, key, arguments):
        host.exchanges.unbind(method.exchange, channel.queue(name), key, arguments)
    peer.send(amqp.Queue.UnbindOk())


def _purge(peer: Peer, method: Method) -> None:
    count = peer.channel.queue(method.queue).purge()
    if not method.nowait:
        peer.send(amqp.Queue.PurgeOk(count))


def _delete_queue(peer: Peer, method: Method) -> None:
    channel = peer.channel
    name = channel.queue_name(method.queue)
    unused, empty = method.if_unused, method.if_empty
    count, queue = channel.host.delete_queue(name, channel.connection, if_unused=unused, if_empty=empty)
    if not method.nowait:
        peer.send(amqp.Queue.DeleteOk(count))
    if queue is not None:
        end_consumers(queue)  # Basic.Cancel comes after the answer, as from RabbitMQ


def _qos(peer: Peer, method: Method) -> None:
    if method.prefetch_size:
        raise AmqpError(540, f"prefetch_size!=0 ({method.prefetch_size})")
    peer.channel.credit.limit(method.prefetch_count, shared=method.global_qos)
    peer.send(amqp.Basic.QosOk())
    peer.channel.credit.use()


def _consume(peer: Peer, method: Method) -> None:
    described = f"queue '{method.queue}' in vhost '{peer.channel.host.name}'"
    priority = check_priority(_raw(method.arguments), described)
    consumer = peer.channel.consume(
        method.queue, method.consumer_tag, no_ack=method.no_ack, exclusive=method.exclusive, priority=priority
    )
    consumer.prefix = delivery_prefix(consumer.tag)
    if not method.nowait:
        peer.send(amqp.Basic.ConsumeOk(consumer.tag))
    peer.channel.begin(consumer)


def _cancel(peer: Peer, method: Method) -> None:
    peer.channel.cancel(method.consumer_tag)
    if not method.nowait:
        peer.send(amqp.Basic.CancelOk(method.consumer_tag))


def _get(peer: Peer, method: Method) -> None:
    found = peer.channel.get(method.queue, method.no_ack)
    if found is None:
        peer.send(amqp.Basic.GetEmpty())
        return
    tag, entry, left = found
    message = entry.message
    peer.send_message(entry, amqp.Basic.GetOk(tag, entry.redelivered, message.exchange, message.key, left))


def _nack(peer: Peer, method: Method) -> None:
    peer.channel.outstanding.reject(method.delivery_tag, method.multiple, method.requeue)


def _reject(peer: Peer, method: Method) -> None:
    peer.channel.outstanding.reject(method.delivery_tag, False, method.requeue)


def _recover(peer: Peer, method: Method) -> None:
    if not method.requeue:
        raise AmqpError(540, "requeue=false")
    peer.channel.outstanding.recover()
    if method.kind is amqp.Basic.Recover:
        peer.send(amqp.Basic.RecoverOk())


def _select_confirms(peer: Peer, method: Method) -> None:
    peer.channel.select_confirms()
    if not method.nowait:
        peer.send(amqp.Confirm.SelectOk())


def _select_transactions(peer: Peer, method: Method) -> None:
    peer.channel.select_transactions()
    peer.send(amqp.Tx.SelectOk())


def _commit(peer: Peer, method: Method) -> None:
    peer.channel.commit()
    peer.send(amqp.Tx.CommitOk())


def _rollback(peer: Peer, method: Method) -> None:
    peer.channel.rollback()
    peer.send(amqp.Tx.RollbackOk())


#: All but Basic.Publish and Basic.Ack, which `ChannelHandler` takes itself.
HANDLERS: dict[amqp.Kind, Callable[[Peer, Method], None]] = {
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
