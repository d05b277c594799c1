"""Each fault hook, as a plain Pika client sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika import exceptions

from warren.broker import Broker

PATIENCE = 20.0


@pytest.fixture
def channel(broker: Broker) -> Iterator[Any]:
    """A channel of a blocking connection, with a queue called q."""
    connection = pika.BlockingConnection(pika.URLParameters(f"{broker.url}?socket_timeout=5"))
    channel = connection.channel()
    channel.queue_declare("q")
    yield channel
    if connection.is_open:
        connection.close()


def until(channel: Any, condition: Callable[[], object]) -> None:
    """Handle what comes until the condition is true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        channel.connection.process_data_events(0.01)


def consume(channel: Any) -> list[bytes]:
    """The bodies that come, in a list that grows."""
    bodies: list[bytes] = []
    channel.basic_consume("q", lambda _channel, _method, _properties, body: bodies.append(body), auto_ack=True)
    return bodies


@pytest.mark.parametrize("reset", [False, True])
def test_connections_can_be_dropped(broker: Broker, channel: Any, reset: bool) -> None:
    assert broker.drop_connections(reset=reset) == 1
    with pytest.raises((exceptions.AMQPConnectionError, ConnectionError)):
        channel.queue_declare("q")


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_can_be_dropped_after_some_frames_of_its_client(broker: Broker, channel: Any, reset: bool) -> None:
    come = confirms(channel)
    assert broker.drop_connections_after(6, reset=reset) == 1
    publish(channel)
    publish(channel)
    with pytest.raises((exceptions.AMQPConnectionError, ConnectionError)):
        until(channel, lambda: len(come) == 2)
    assert come == ["Basic.Ack 1"], "the last frame is not answered, those before it are"
    assert broker.status().queues[0].ready == 2, "the last frame is taken"
    assert broker.drop_connections() == 0


def test_the_frame_before_the_last_leaves_a_publish_unfinished(broker: Broker, channel: Any) -> None:
    broker.drop_connections_after(2)
    publish(channel)
    with pytest.raises(exceptions.AMQPConnectionError):
        channel.queue_declare("q")
    assert broker.status().queues[0].ready == 0


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_can_be_dropped_after_some_frames_to_its_client(broker: Broker, channel: Any, reset: bool) -> None:
    bodies: list[bytes] = []
    channel._impl.basic_consume("q", lambda _channel, _method, _properties, body: bodies.append(body), auto_ack=True)
    channel.queue_declare("q")
    # a method, a header and a body for each delivery
    broker.drop_connections_after(3 * 2 + 1, to_clients=True, reset=reset)
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as other:
        for body in (b"1", b"2", b"3"):
            other.channel().basic_publish("", "q", body)
    with pytest.raises((exceptions.AMQPConnectionError, ConnectionError)):
        until(channel, lambda: len(bodies) == 3)
    come = [b"1", b"2"]
    assert bodies == come or (reset and bodies == come[: len(bodies)])  # a reset may overtake what was sent before it


def test_only_connections_of_some_name_are_dropped(broker: Broker, channel: Any) -> None:
    named = pika.URLParameters(broker.url)
    named.client_properties = {"connection_name": "other one"}
    other = pika.BlockingConnection(named).channel()
    assert broker.drop_connections_after(1, name="other .*") == 1
    with pytest.raises(exceptions.AMQPConnectionError):
        other.queue_declare("q")
    channel.queue_declare("q")
    assert broker.drop_connections_after(0, name="nobody") == 0


def test_no_frames_more_drop_a_connection_at_once(broker: Broker, channel: Any) -> None:
    assert broker.drop_connections_after(0) == 1
    assert broker.status().queues[0].consumers == 0
    with pytest.raises(exceptions.AMQPConnectionError):
        channel.queue_declare("q")


def test_connections_can_be_closed_with_a_code(broker: Broker, channel: Any) -> None:
    assert broker.close_connections(320, "going down") == 1
    with pytest.raises(exceptions.ConnectionClosedByBroker, match="CONNECTION_FORCED - going down"):
        channel.queue_declare("q")


def test_channels_can_be_closed_with_a_code(broker: Broker, channel: Any) -> None:
    assert broker.close_channels(406, "on purpose") == 1
    with pytest.raises(exceptions.ChannelClosedByBroker, match="PRECONDITION_FAILED - on purpose"):
        channel.queue_declare("q")
    assert channel.connection.channel().is_open


def test_new_connections_can_be_refused(broker: Broker, channel: Any) -> None:
    broker.refuse_connections()
    with pytest.raises(exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(broker.url))
    channel.queue_declare("q", passive=True)
    broker.refuse_connections(False)
    pika.BlockingConnection(pika.URLParameters(broker.url)).close()


def test_a_frozen_broker_answers_when_it_is_thawed(broker: Broker, channel: Any) -> None:
    broker.freeze()
    answers: list[Any] = []
    channel._impl.queue_declare("q", callback=answers.append)
    channel.connection.process_data_events(0.2)
    assert answers == []
    broker.thaw()
    until(channel, lambda: answers)


def test_publishers_can_be_blocked(broker: Broker, channel: Any) -> None:
    events: list[str] = []
    channel.connection.add_on_connection_blocked_callback(lambda _, frame: events.append(frame.method.reason))
    channel.connection.add_on_connection_unblocked_callback(lambda _, frame: events.append("over"))
    broker.block("too warm")
    channel.basic_publish("", "q", b"m")
    until(channel, lambda: events)
    assert broker.status().connections[0].blocked
    broker.unblock()
    until(channel, lambda: len(events) == 2)
    assert events == ["too warm", "over"]


def test_all_can_be_blocked_at_once(broker: Broker, channel: Any) -> None:
    events: list[str] = []
    channel.connection.add_on_connection_blocked_callback(lambda _, frame: events.append(frame.method.reason))
    broker.block("too warm", at_once=True)
    until(channel, lambda: events)
    broker.unblock()


def test_a_queue_can_be_deleted_under_its_consumer(broker: Broker, channel: Any) -> None:
    cancelled: list[Any] = []
    channel.add_on_cancel_callback(cancelled.append)
    consume(channel)
    broker.delete_queue("q")
    until(channel, lambda: cancelled)
    assert broker.status().queues == ()
    with pytest.raises(KeyError):
        broker.delete_queue("q")


def confirms(channel: Any) -> list[str]:
    """The confirms that come, in a list that grows."""
    come: list[str] = []

    def on_confirm(frame: Any) -> None:
        come.append(f"{frame.method.NAME} {frame.method.delivery_tag}")

    selected: list[Any] = []
    channel._impl.confirm_delivery(on_confirm, callback=selected.append)
    until(channel, lambda: selected)
    return come


def publish(channel: Any, body: bytes = b"m") -> None:
    """Publish, and wait for nothing."""
    channel._impl.basic_publish("", "q", body)


def test_a_confirm_can_be_withheld(broker: Broker, channel: Any) -> None:
    come = confirms(channel)
    broker.withhold_confirms(1)
    publish(channel)
    channel.connection.process_data_events(0.1)
    publish(channel)
    until(channel, lambda: come)
    assert come == ["Basic.Ack 2"]
    assert channel.queue_declare("q", passive=True).method.message_count == 2


def test_a_withheld_confirm_is_not_part_of_a_later_one(broker: Broker, channel: Any) -> None:
    come = confirms(channel)
    broker.withhold_confirms(1)
    broker.freeze()
    for _ in range(3):
        publish(channel)
    channel.connection.process_data_events(0)  # all three are there when the broker reads on
    broker.thaw()
    until(channel, lambda: len(come) == 2)
    assert come == ["Basic.Ack 2", "Basic.Ack 3"]


def test_confirms_can_come_out_of_order(broker: Broker, channel: Any) -> None:
    come = confirms(channel)
    broker.reorder_confirms(3)
    for _ in range(4):
        publish(channel)
    until(channel, lambda: len(come) == 4)
    assert come == ["Basic.Ack 3", "Basic.Ack 2", "Basic.Ack 1", "Basic.Ack 4"]


def test_confirms_that_are_kept_can_be_released(broker: Broker, channel: Any) -> None:
    come = confirms(channel)
    broker.reorder_confirms(10)
    publish(channel)
    publish(channel)
    channel.queue_declare("q", passive=True)
    assert come == []
    broker.reorder_confirms(0)
    until(channel, lambda: len(come) == 2)
    assert come == ["Basic.Ack 2", "Basic.Ack 1"]


def test_nacks_are_reordered_as_well(broker: Broker, channel: Any) -> None:
    come = confirms(channel)
    broker.reorder_confirms(2)
    broker.nack_publishes(1)
    publish(channel)
    publish(channel)
    until(channel, lambda: len(come) == 2)
    assert come == ["Basic.Ack 2", "Basic.Nack 1"]


def test_a_publish_can_be_nacked(broker: Broker, channel: Any) -> None:
    come = confirms(channel)
    broker.nack_publishes()
    publish(channel)
    publish(channel)
    until(channel, lambda: len(come) == 2)
    assert come == ["Basic.Nack 1", "Basic.Ack 2"]
    assert channel.queue_declare("q", passive=True).method.message_count == 1


def test_confirms_can_be_late(broker: Broker, channel: Any) -> None:
    come = confirms(channel)
    broker.delay_confirms(3600)
    publish(channel)
    channel.queue_declare("q", passive=True)
    assert come == []
    broker.advance(3600)
    until(channel, lambda: come)


def test_a_late_confirm_comes_by_itself(broker: Broker, channel: Any) -> None:
    come = confirms(channel)
    broker.delay_confirms(0.05)
    publish(channel)
    until(channel, lambda: come)


def test_a_delivery_can_come_twice(broker: Broker, channel: Any) -> None:
    bodies = consume(channel)
    broker.duplicate_deliveries()
    publish(channel, b"1")
    publish(channel, b"2")
    until(channel, lambda: len(bodies) == 3)
    assert bodies == [b"1", b"1", b"2"]


def test_deliveries_of_some_queues_only_can_come_twice(broker: Broker, channel: Any) -> None:
    bodies = consume(channel)
    broker.duplicate_deliveries(queue="other.*")
    publish(channel, b"1")
    publish(channel, b"2")
    until(channel, lambda: len(bodies) == 2)
    assert bodies == [b"1", b"2"]


def test_deliveries_can_be_late(broker: Broker, channel: Any) -> None:
    bodies = consume(channel)
    broker.delay_deliveries(0.05)
    publish(channel, b"1")
    publish(channel, b"2")
    until(channel, lambda: len(bodies) == 2)
    assert bodies == [b"1", b"2"]


def test_the_clock_can_be_set_forward(broker: Broker, channel: Any) -> None:
    channel.basic_publish("", "q", b"m", pika.BasicProperties(expiration="3600000"))
    broker.advance(3599)
    assert channel.queue_declare("q", passive=True).method.message_count == 1
    broker.advance(2)
    assert channel.queue_declare("q", passive=True).method.message_count == 0
