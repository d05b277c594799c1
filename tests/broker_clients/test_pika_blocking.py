"""Pika's BlockingConnection."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pika
import pika.exceptions
import pytest

from tests.broker_clients.conftest import HEADERS
from warren.broker import Broker


@pytest.fixture
def connection(broker: Broker) -> Iterator[Any]:
    """A connection with default options."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    yield connection
    if connection.is_open:
        connection.close()


@pytest.fixture
def channel(connection: Any) -> Any:
    """One of its channels."""
    return connection.channel()


def _consumed(channel: Any, queue: str, count: int) -> list[tuple[Any, Any, bytes]]:
    """The next so many deliveries, not acknowledged."""
    found: list[tuple[Any, Any, bytes]] = []
    for delivery in channel.consume(queue, inactivity_timeout=10):
        assert delivery[0] is not None, "nothing came"
        found.append(delivery)
        if len(found) == count:
            break
    return found


def test_a_message_goes_through_an_exchange_to_a_queue(channel: Any) -> None:
    channel.exchange_declare("x", "topic")
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "x", "a.*")
    channel.basic_publish("x", "a.b", b"hello", pika.BasicProperties(headers=HEADERS, content_type="text/plain"))
    method, properties, body = channel.basic_get(queue)
    assert (method.exchange, method.routing_key, method.redelivered, body) == ("x", "a.b", False, b"hello")
    assert properties.headers == HEADERS
    channel.basic_ack(method.delivery_tag)
    channel.queue_unbind(queue, "x", "a.*")
    channel.exchange_delete("x")


def test_confirmed_and_mandatory_publishes(channel: Any) -> None:
    channel.confirm_delivery()
    channel.queue_declare("q")
    channel.basic_publish("", "q", b"hello", mandatory=True)
    with pytest.raises(pika.exceptions.UnroutableError) as raised:
        channel.basic_publish("", "nowhere", b"lost", mandatory=True)
    assert raised.value.messages[0].body == b"lost"
    channel.queue_declare("full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    with pytest.raises(pika.exceptions.NackError):
        channel.basic_publish("", "full", b"refused")


def test_returns_without_confirms(connection: Any, channel: Any) -> None:
    returned: list[bytes] = []
    channel.add_on_return_callback(lambda _channel, _method, _properties, body: returned.append(body))
    channel.basic_publish("", "nowhere", b"lost", mandatory=True)
    connection.process_data_events(0)
    channel.queue_declare("q")
    connection.process_data_events(0)
    assert returned == [b"lost"]


def test_acknowledging_in_every_way(channel: Any) -> None:
    channel.queue_declare("q")
    for body in b"abcdef":
        channel.basic_publish("", "q", bytes([body]))
    tags = {body: method.delivery_tag for method, _, body in _consumed(channel, "q", 6)}
    channel.basic_ack(tags[b"b"], multiple=True)
    channel.basic_nack(tags[b"c"], requeue=False)
    channel.basic_reject(tags[b"d"], requeue=False)
    channel.basic_nack(tags[b"f"], multiple=True, requeue=True)
    again = [(body, method.redelivered) for method, _, body in _consumed(channel, "q", 2)]
    assert again == [(b"e", True), (b"f", True)]
    channel.cancel()
    channel.basic_recover(requeue=True)
    assert channel.queue_declare("q", passive=True).method.message_count == 2


def test_a_prefetch_of_one(connection: Any, channel: Any) -> None:
    channel.queue_declare("q")
    channel.basic_qos(prefetch_count=1)
    got: list[tuple[int, bytes]] = []
    channel.basic_consume("q", lambda _c, method, _p, body: got.append((method.delivery_tag, body)))
    for body in (b"one", b"two"):
        channel.basic_publish("", "q", body)
    connection.process_data_events(time_limit=10)
    channel.queue_declare("q", passive=True)
    assert [body for _, body in got] == [b"one"]
    channel.basic_ack(got[0][0])
    connection.process_data_events(time_limit=10)
    assert [body for _, body in got] == [b"one", b"two"]


def test_a_consumer_hears_that_its_queue_is_gone(broker: Broker, connection: Any, channel: Any) -> None:
    cancelled: list[str] = []
    channel.queue_declare("q")
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    tag = channel.basic_consume("q", lambda *_: None)
    broker.delete_queue("q")
    connection.process_data_events(time_limit=10)
    assert cancelled == [tag]
    assert not channel.consumer_tags


def test_an_error_closes_the_channel_and_the_connection_goes_on(connection: Any, channel: Any) -> None:
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as raised:
        channel.queue_declare("nowhere", passive=True)
    assert raised.value.reply_code == 404
    connection.channel().queue_declare("q")


def test_a_wrong_password_is_told(broker: Broker) -> None:
    parameters = pika.URLParameters(broker.url)
    parameters.credentials = pika.PlainCredentials("guest", "wrong")
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        pika.BlockingConnection(parameters)


@pytest.mark.parametrize("size", [0, 1, 131064, 1 << 20])
def test_bodies_of_all_sizes(channel: Any, size: int) -> None:
    body = bytes(index % 251 for index in range(size))
    channel.queue_declare("q")
    channel.basic_publish("", "q", body)
    assert _consumed(channel, "q", 1)[0][2] == body


def test_an_idle_connection_lives_on_heartbeats(broker: Broker) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url + "?heartbeat=1"))
    until = time.monotonic() + 3
    while time.monotonic() < until:
        connection.process_data_events(time_limit=0.5)
    connection.channel().queue_declare("q")
    connection.close()


def test_direct_replies(broker: Broker, channel: Any) -> None:
    channel.queue_declare("requests")

    def serve() -> None:
        connection = pika.BlockingConnection(pika.URLParameters(broker.url))
        served = connection.channel()
        method, properties, body = next(served.consume("requests", inactivity_timeout=10))
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        served.basic_publish("", properties.reply_to, body.upper(), reply)
        served.basic_ack(method.delivery_tag)
        connection.close()

    server = threading.Thread(target=serve)
    server.start()
    got: list[tuple[str, bytes]] = []
    channel.basic_consume(
        "amq.rabbitmq.reply-to", lambda _c, _m, props, body: got.append((props.correlation_id, body)), auto_ack=True
    )
    question = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="7")
    channel.basic_publish("", "requests", b"hello", question)
    channel.connection.process_data_events(time_limit=10)
    server.join()
    assert got == [("7", b"HELLO")]


def test_transactions(channel: Any) -> None:
    channel.queue_declare("q")
    channel.tx_select()
    channel.basic_publish("", "q", b"undone")
    channel.tx_rollback()
    channel.basic_publish("", "q", b"done")
    channel.tx_commit()
    assert channel.basic_get("q", auto_ack=True)[2] == b"done"
    assert channel.basic_get("q")[0] is None


def test_closed_from_the_outside(broker: Broker, connection: Any, channel: Any) -> None:
    broker.close_connections(320, "going down")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as raised:
        channel.queue_declare("q")
    assert raised.value.reply_code == 320


def test_a_blocked_connection_is_told_so(broker: Broker, connection: Any, channel: Any) -> None:
    told: list[str] = []
    connection.add_on_connection_blocked_callback(lambda _c, frame: told.append(frame.method.reason))
    connection.add_on_connection_unblocked_callback(lambda _c, _frame: told.append("over"))
    broker.block("low on patience")
    channel.basic_publish("", "nowhere", b"the last one")
    connection.process_data_events(time_limit=10)
    broker.unblock()
    connection.process_data_events(time_limit=10)
    assert told == ["low on patience", "over"]
