"""Kombu, and py-amqp below it: what Celery and Nameko stand on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import Empty
from typing import Any

import amqp
import kombu
import pytest
from kombu.pools import producers

from tests.broker_clients.conftest import HEADERS
from warren.broker import Broker


@pytest.fixture
def connection(broker: Broker) -> Iterator[Any]:
    """A connection with default options."""
    with kombu.Connection(broker.url) as connection:
        yield connection


def test_a_producer_and_a_consumer(connection: Any) -> None:
    exchange = kombu.Exchange("tasks", "topic", durable=True)
    queue = kombu.Queue("q", exchange, "a.*")
    got: list[Any] = []

    def take(body: Any, message: Any) -> None:
        got.append((body, message.headers, message.delivery_info["routing_key"]))
        message.ack()

    producer = connection.Producer(serializer="json")
    with connection.Consumer(queue, callbacks=[take]):
        producer.publish({"ünï": [1, 2]}, exchange=exchange, routing_key="a.b", headers=HEADERS, declare=[queue])
        connection.drain_events(timeout=10)
    assert got == [({"ünï": [1, 2]}, HEADERS, "a.b")]


def test_refusing_and_putting_back(connection: Any) -> None:
    queue = kombu.Queue("q", auto_delete=True)
    seen: list[tuple[str, bool]] = []

    def take(body: str, message: Any) -> None:
        seen.append((body, message.delivery_info["redelivered"]))
        if body == "a" and len(seen) == 1:
            message.requeue()
        elif body == "b":
            message.reject()
        else:
            message.ack()

    with connection.Consumer(queue, callbacks=[take], prefetch_count=1):
        for body in "abc":
            connection.Producer().publish(body, routing_key="q", declare=[queue])
        while len(seen) < 4:
            connection.drain_events(timeout=10)
    assert seen == [("a", False), ("a", True), ("b", False), ("c", False)]


def test_a_simple_queue(connection: Any) -> None:
    with connection.SimpleQueue("simple") as queue:
        queue.put({"hello": "world"}, compression="zlib")
        message = queue.get(timeout=10)
        assert message.payload == {"hello": "world"}
        message.ack()
        with pytest.raises(Empty):
            queue.get(block=False)


def test_confirmed_publishes(broker: Broker) -> None:
    with kombu.Connection(broker.url, transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        queue = kombu.Queue("full", max_length=0, queue_arguments={"x-overflow": "reject-publish"})(channel)
        queue.declare()
        kombu.Producer(channel).publish("fine", routing_key="nowhere")
        with pytest.raises(amqp.exceptions.MessageNacked):
            kombu.Producer(channel).publish("refused", routing_key="full")


def test_what_cannot_be_routed_comes_back(connection: Any) -> None:
    returned: list[Any] = []
    producer = connection.Producer(on_return=lambda error, exchange, key, message: returned.append((key, message.body)))
    producer.publish("lost", routing_key="nowhere", mandatory=True)
    connection.drain_events(timeout=10)
    assert returned == [("nowhere", "lost")]


@pytest.mark.parametrize("reset", [False, True])
def test_ensure_publishes_again_after_a_cut(broker: Broker, connection: Any, reset: bool) -> None:
    queue = kombu.Queue("q")
    producer = connection.Producer()
    producer.publish("before", routing_key="q", declare=[queue], retry=True)
    broker.drop_connections(reset=reset)
    policy = {"max_retries": 5, "interval_start": 0.05}
    for _ in range(5):  # the first may still go into the socket's buffer
        producer.publish("after", routing_key="q", declare=[queue], retry=True, retry_policy=policy)
    with connection.SimpleQueue(queue) as simple:
        bodies = {simple.get(timeout=10).payload for _ in range(2)}
    assert bodies == {"before", "after"}


def test_ensure_connection_gives_up_on_a_closed_port() -> None:
    with Broker() as broker:
        url = broker.url
    with kombu.Connection(url) as connection, pytest.raises(kombu.exceptions.OperationalError):
        connection.ensure_connection(max_retries=1, interval_start=0.01)


def test_a_pool_of_producers(connection: Any) -> None:
    queue = kombu.Queue("q")
    for number in range(3):
        with producers[connection].acquire(block=True) as producer:
            producer.publish(str(number), routing_key="q", declare=[queue])
    with connection.SimpleQueue(queue) as simple:
        assert [simple.get(timeout=10).payload for _ in range(3)] == ["0", "1", "2"]
    producers[connection].force_close_all()


def test_an_idle_connection_lives_on_heartbeats(broker: Broker) -> None:
    with kombu.Connection(broker.url, heartbeat=1) as connection:
        connection.connect()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            connection.heartbeat_check(rate=2)
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.25)
        connection.channel().queue_declare("q")


# --- py-amqp ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def channel(broker: Broker) -> Iterator[Any]:
    """A channel of a plain py-amqp connection, which logs in by AMQPLAIN."""
    with amqp.Connection(f"127.0.0.1:{broker.port}") as connection, connection.channel() as channel:
        yield channel


def test_the_life_of_a_channel(channel: Any) -> None:
    channel.exchange_declare("x", "fanout", auto_delete=False)
    name, _, _ = channel.queue_declare("", exclusive=True)
    channel.queue_bind(name, "x")
    channel.basic_publish(amqp.Message("hello", application_headers=HEADERS), "x")
    message = channel.basic_get(name)
    assert (message.body, message.headers) == ("hello", HEADERS)
    channel.basic_ack(message.delivery_tag)
    assert channel.basic_get(name) is None
    channel.queue_purge(name)
    channel.queue_unbind(name, "x")
    channel.queue_delete(name)
    channel.exchange_delete("x")


def test_exchanges_bound_to_exchanges(channel: Any) -> None:
    channel.exchange_declare("x", "topic", auto_delete=False)
    channel.exchange_declare("y", "fanout", auto_delete=False)
    channel.exchange_bind("y", "x", "a.#")
    channel.queue_declare("q", auto_delete=False)
    channel.queue_bind("q", "y")
    channel.basic_publish(amqp.Message("through"), "x", "a.b.c")
    assert channel.basic_get("q", no_ack=True).body == "through"
    channel.exchange_unbind("y", "x", "a.#")


def test_a_confirmed_publish(channel: Any) -> None:
    channel.queue_declare("q")
    channel.basic_publish_confirm(amqp.Message("hello"), "", "q")
    assert channel.queue_declare("q", passive=True).message_count == 1


def test_a_large_message(channel: Any) -> None:
    channel.queue_declare("q")
    channel.basic_publish(amqp.Message(b"x" * (1 << 20)), "", "q")
    assert len(channel.basic_get("q", no_ack=True).body) == 1 << 20


def test_an_error_closes_the_channel(channel: Any) -> None:
    with pytest.raises(amqp.exceptions.NotFound):
        channel.queue_declare("nowhere", passive=True)
    with channel.connection.channel() as other:
        other.queue_declare("q")
        with pytest.raises(amqp.exceptions.PreconditionFailed):
            other.queue_declare("q", durable=True)


def test_a_consumer_hears_that_its_queue_is_gone(broker: Broker, channel: Any) -> None:
    cancelled: list[str] = []
    channel.queue_declare("q")
    channel.basic_consume("q", "c", callback=lambda _: None, on_cancel=cancelled.append)
    broker.delete_queue("q")
    channel.connection.drain_events(timeout=10)
    assert cancelled == ["c"]
