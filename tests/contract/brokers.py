"""The two brokers of the contract suite, and what its tests do to them from behind."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rabbit import Node
from tests.support import nodes
from tests.support.tls import Certificates
from warren.broker import Broker

BOTH = ("rabbitmq", "embedded")


class BrokerUnderTest(Protocol):
    """What a test needs of a broker beside AMQP."""

    @property
    def url(self) -> str:
        """AMQP URL of its default vhost, with the guest's login."""

    def close_connections(self) -> None:
        """Close all connections with Connection.Close 320."""

    def connection_names(self) -> list[str]:
        """What the connected clients call themselves."""

    def queue_names(self) -> list[str]:
        """All queues."""

    def delete_queue(self, name: str) -> None:
        """Delete a queue, also one that belongs to another connection alone."""

    def go_away(self) -> None:
        """Lose all connections and take no new ones."""

    def come_back(self) -> None:
        """Be reachable again at the same URL, with the durable queues."""


class RabbitMQ:
    """A private node, handled with rabbitmqctl."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def url(self) -> str:
        return self._node.url

    def close_connections(self) -> None:
        # Not by `ctl`, which boots a VM meanwhile: on a busy machine that outlasts the deadline of a call.
        self._node.eval('[rabbit_networking:close_connection(P, "a test") || P <- rabbit_networking:connections()], ok')

    def connection_names(self) -> list[str]:
        return nodes.connections(self._node)

    def queue_names(self) -> list[str]:
        return nodes.queue_names(self._node)

    def delete_queue(self, name: str) -> None:
        nodes.delete_queue(self._node, name)

    def go_away(self) -> None:
        self._node.shutdown()

    def come_back(self) -> None:
        self._node.start()


class Embedded:
    """The embedded broker, on a thread of this process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    @property
    def url(self) -> str:
        return self._broker.url

    def close_connections(self) -> None:
        self._broker.close_connections(320, "a test")

    def connection_names(self) -> list[str]:
        return [connection.name for connection in self._broker.status().connections]

    def queue_names(self) -> list[str]:
        return [queue.name for queue in self._broker.status().queues]

    def delete_queue(self, name: str) -> None:
        self._broker.delete_queue(name)

    def go_away(self) -> None:
        """A stopped one would forget its queues, as it has no disk: so it only cannot be reached."""
        self._broker.refuse_connections()
        self._broker.close_connections(320, "broker forced connection closure with reason 'shutdown'")
        end = time.monotonic() + 10
        while self._broker.status().connections and time.monotonic() < end:  # until the clients have understood
            time.sleep(0.01)

    def come_back(self) -> None:
        self._broker.refuse_connections(False)


@contextmanager
def private_broker(kind: str) -> Iterator[BrokerUnderTest]:
    """A broker of one test's own."""
    if kind == "embedded":
        with Broker() as broker:
            yield Embedded(broker)
    else:
        with Node(name="warren-private") as node:
            yield RabbitMQ(node)


@contextmanager
def tls_port(kind: str, certificates: Certificates) -> Iterator[int]:
    """The TLS port of a broker that demands a client certificate."""
    if kind == "embedded":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.cafile))
        context.load_cert_chain(certificates.server_cert, certificates.server_key)
        context.verify_mode = ssl.CERT_REQUIRED
        with Broker(tls=context) as broker:
            yield broker.port
    else:
        with Node(name="warren-tls", tls=certificates.node_files(verify=True)) as node:
            yield node.tls_port
