"""What a broker is doing: connections, queues, consumers. Anybody on this machine can ask for it over AMQP.

The question is a message to the default exchange with the key `QUEUE`, as to a tutorial-six server; the answer is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from warren.amqp.frames import Properties, encode_properties
from warren.broker.message import Message, decode_name, make_route
from warren.broker.model import VirtualHost
from warren.broker.queues import Consumer, Queue
from warren.broker.session import Session

QUEUE = "warren.broker.status"


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One client; `name` is what it calls itself."""

    address: str
    name: str
    user: str
    vhost: str
    channels: int
    heartbeat: int
    blocked: bool


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """One queue; `ready` messages wait, `unacked` ones are with consumers."""

    vhost: str
    name: str
    ready: int
    unacked: int
    consumers: int
    durable: bool
    exclusive: bool
    auto_delete: bool


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """One consumer."""

    vhost: str
    queue: str
    tag: str
    no_ack: bool
    prefetch: int
    unacked: int


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot."""

    product: str
    version: str
    connections: tuple[ConnectionStatus, ...]
    queues: tuple[QueueStatus, ...]
    consumers: tuple[ConsumerStatus, ...]


def take_status(product: str, version: str, sessions: Iterable[Session], hosts: Iterable[VirtualHost]) -> Status:
    """A snapshot of now."""
    queues = [(host, queue) for host in hosts for queue in host.queues.values()]
    return Status(
        product,
        version,
        tuple(_connection(session) for session in sessions if session.client.user),
        tuple(_queue(host, queue) for host, queue in queues),
        tuple(_consumer(host, queue, consumer) for host, queue in queues for consumer in queue.consumers),
    )


def parse_status(answer: dict[str, Any]) -> Status:
    """The status out of what `answer_status` has sent."""
    return Status(
        answer["product"],
        answer["version"],
        tuple(ConnectionStatus(**fields) for fields in answer["connections"]),
        tuple(QueueStatus(**fields) for fields in answer["queues"]),
        tuple(ConsumerStatus(**fields) for fields in answer["consumers"]),
    )


def _connection(session: Session) -> ConnectionStatus:
    client, channels = session.client, len(session.channels.by_number)
    return ConnectionStatus(
        session.address, client.name, client.user, client.host.name, channels, client.heartbeat, session.blocked
    )


def _queue(host: VirtualHost, queue: Queue) -> QueueStatus:
    options = queue.options
    return QueueStatus(
        host.name,
        queue.name,
        queue.waiting.count,
        queue.unacked,
        len(queue.consumers),
        options.durable,
        options.owner is not None,
        options.auto_delete,
    )


def _consumer(host: VirtualHost, queue: Queue, consumer: Consumer) -> ConsumerStatus:
    return ConsumerStatus(host.name, queue.name, consumer.tag, consumer.no_ack, consumer.prefetch, consumer.unacked)


def answer_status(status: Status, host: VirtualHost, question: Message) -> None:
    """Send the status to whoever asked; without an address to nobody."""
    properties = question.properties
    if properties.reply_to is None:
        return
    key = decode_name(properties.reply_to)
    header = encode_properties(Properties(content_type=b"application/json", correlation_id=properties.correlation_id))
    body = json.dumps(asdict(status)).encode("utf-8", "surrogateescape")
    host.publish(host.exchanges.get(""), Message("", key, make_route("", key), header, body))
