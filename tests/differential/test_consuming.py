"""Consumers: their turns, limits, priorities, ends; and what the broker refuses them."""

from __future__ import annotations

from typing import Any

import pytest
from pika import spec

from tests.differential.both import Brokers, on_both
from tests.differential.peer import Channel, Peer
from tests.differential.wire import Seen


def _fill(channel: Channel, queue: str, bodies: str) -> None:
    for body in bodies:
        channel.publish(queue, body)


@on_both
def test_messages_come_in_order_with_tags_that_count_up(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    _fill(channel, "q", "abc")
    channel.consume("q", "c")
    channel.deliveries(3)
    _fill(channel, "q", "de")
    channel.deliveries(2)


@on_both
def test_the_broker_makes_up_a_tag(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    tag = channel.consume("q", no_ack=True).fields["consumer_tag"]
    channel.publish("q", "hello")
    channel.delivery()
    channel.cancel(tag)
    channel.cancel(tag)
    channel.cancel("nobody")


@on_both
def test_a_tag_is_in_use_once_on_a_channel(peer: Peer) -> None:
    connection = peer.connect()
    one, two = connection.channel(), connection.channel()
    one.queue("q")
    one.consume("q", "c")
    two.consume("q", "c")
    one.consume("q", "c")
    connection.end()


@on_both
def test_consumers_take_turns(peer: Peer) -> None:
    connection = peer.connect()
    channels = [connection.channel() for _ in range(3)]
    channels[0].queue("q")
    for number, channel in enumerate(channels):
        channel.consume("q", f"c{number}")
    _fill(channels[0], "q", "abcdefg")
    channels[0].deliveries(3)
    channels[1].deliveries(2)
    channels[2].deliveries(2)
    channels[1].cancel("c1")
    _fill(channels[0], "q", "hijk")
    channels[0].deliveries(2)
    channels[2].deliveries(2)


@on_both
def test_what_was_sent_to_a_cancelled_consumer_stays_unacknowledged(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    _fill(channel, "q", "ab")
    channel.consume("q", "c")
    first, second = channel.deliveries(2)
    channel.cancel("c")
    channel.ack(first.tag)
    channel.nack(second.tag)
    peer.wait_for("q", 1)
    channel.get("q")


@on_both
def test_no_ack_takes_all_at_once(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    _fill(channel, "q", "abcd")
    channel.qos(1)
    channel.consume("q", "c", no_ack=True)
    channel.deliveries(4)
    channel.ack(1)
    channel.end()


@on_both
def test_prefetch_limits_each_consumer(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.qos(2)
    channel.consume("q", "one")
    channel.qos(1)
    channel.consume("q", "two")
    _fill(channel, "q", "abcdef")
    given = channel.deliveries(3)
    channel.sync()
    peer.wait_for("q", 3)
    ones = [seen for seen in given if seen.fields["consumer_tag"] == "one"]
    twos = [seen for seen in given if seen.fields["consumer_tag"] == "two"]
    channel.ack(twos[0].tag)
    channel.delivery()
    channel.nack(ones[0].tag, requeue=False)
    channel.delivery()
    peer.wait_for("q", 1)


@on_both
def test_prefetch_of_the_channel_is_shared_by_its_consumers(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.queue("r")
    channel.qos(3, shared=True)
    channel.consume("q", "one")
    channel.consume("r", "two")
    _fill(channel, "q", "ab")
    channel.deliveries(2)
    _fill(channel, "r", "cd")
    last = channel.delivery()
    peer.wait_for("r", 1)
    channel.ack(last.tag, multiple=True)
    channel.delivery()
    channel.qos(0, shared=True)


@on_both
def test_consumers_of_a_queue_take_turns_with_the_shared_prefetch(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.qos(1, shared=True)
    channel.consume("q", "one")
    channel.consume("q", "two")
    _fill(channel, "q", "abcdef")
    for _ in range(5):
        channel.ack(channel.delivery().tag)
    channel.delivery()


@on_both
def test_the_shared_prefetch_holds_up_who_does_not_acknowledge_too(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.queue("r")
    channel.qos(1, shared=True)
    channel.consume("q", "one")
    channel.consume("r", "two", no_ack=True)
    _fill(channel, "r", "ab")
    channel.deliveries(2)
    _fill(channel, "q", "c")
    held = channel.delivery()
    _fill(channel, "r", "de")
    peer.wait_for("r", 2)
    channel.ack(held.tag)
    channel.deliveries(2)


@on_both
def test_raising_the_shared_prefetch_sends_what_waits(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    _fill(channel, "q", "abcd")
    channel.qos(1, shared=True)
    channel.consume("q", "one")
    channel.delivery()
    channel.sync()
    channel.qos(3, shared=True)
    channel.deliveries(2)
    channel.qos(0, shared=True)
    channel.delivery()


@on_both
def test_changing_the_prefetch_of_consumers_leaves_those_that_are_there(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    _fill(channel, "q", "abcd")
    channel.qos(1)
    channel.consume("q", "one")
    channel.delivery()
    channel.qos(10)
    channel.sync()
    peer.wait_for("q", 3)


@on_both
def test_get_does_not_count_for_prefetch(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    _fill(channel, "q", "abc")
    channel.qos(1, shared=True)
    channel.get("q")
    channel.consume("q", "c")
    channel.delivery()
    peer.wait_for("q", 1)


@on_both
def test_prefetch_by_size_is_not_implemented(peer: Peer) -> None:
    channel = peer.channel()
    channel.call(spec.Basic.Qos(prefetch_size=1000))
    channel.connection.end()


@on_both
def test_consumers_of_higher_priority_come_first(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.qos(1)
    channel.consume("q", "low", {"x-priority": -1})
    channel.consume("q", "high", {"x-priority": 10})
    channel.consume("q", "usual")
    for body in "abcd":
        channel.publish("q", body)
    peer.note([seen.fields["consumer_tag"] for seen in channel.deliveries(3)])
    channel.ack(1)
    peer.note(channel.delivery().fields["consumer_tag"])


@pytest.mark.parametrize("priority", ["high", True, 1.5, None, 2**40])
def test_priorities_of_consumers_are_checked(brokers: Brokers, priority: Any) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q")
        value = int(priority) if isinstance(priority, float) else priority
        channel.consume("q", "c", {"x-priority": value, "other": "argument"})

    brokers.compare(script)


@on_both
def test_an_exclusive_consumer_is_alone(peer: Peer) -> None:
    channel, other = peer.channel(), peer.channel()
    channel.queue("q")
    channel.consume("q", "c", exclusive=True)
    other.consume("q", "d")
    other.reopen()
    channel.publish("q", "hello")
    channel.delivery()
    other.get("q")
    channel.cancel("c")
    other.consume("q", "d")
    channel.consume("q", "c", exclusive=True)
    other.delivery()  # the closed channel gave it back


@on_both
def test_a_single_active_consumer_is_followed_by_the_next(peer: Peer) -> None:
    channel, other = peer.channel(), peer.channel()
    channel.queue("q", {"x-single-active-consumer": True})
    channel.consume("q", "first")
    channel.consume("q", "second")
    other.consume("q", "third")
    _fill(channel, "q", "ab")
    peer.note([seen.fields["consumer_tag"] for seen in channel.deliveries(2)])
    channel.cancel("first")
    _fill(channel, "q", "cd")
    peer.note([seen.fields["consumer_tag"] for seen in channel.deliveries(2)])
    channel.close()
    peer.note([(seen.text, seen.fields["redelivered"]) for seen in other.deliveries(4)])


@on_both
def test_a_single_active_queue_takes_no_exclusive_consumer(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-single-active-consumer": True})
    channel.consume("q", "c", exclusive=True)
    channel.end() if channel.open else None


@on_both
def test_a_consumer_is_told_that_its_queue_is_gone(peer: Peer) -> None:
    channel, other = peer.channel(), peer.channel()
    channel.queue("q")
    channel.consume("q", "c")
    channel.consume("q", "d", no_ack=True)
    channel.publish("q", "one")
    channel.delivery()
    other.delete("q")
    channel.cancelled()
    channel.cancelled()
    channel.ack(1)
    channel.sync()


@on_both
def test_a_consumer_that_cannot_be_told_is_not(peer: Peer) -> None:
    channel, other = peer.connect(capabilities={}).channel(), peer.channel()
    channel.queue("q")
    channel.consume("q", "c")
    other.delete("q")
    channel.sync()
    channel.cancel("c")
    channel.consume("q", "c")


@on_both
def test_deleting_ones_own_queue_ends_ones_consumer(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.consume("q", "c")
    channel.delete("q")
    channel.cancelled()
    channel.queue("q")
    channel.consume("q", "c")
    channel.publish("q", "hello")
    channel.delivery()


@on_both
def test_a_closed_channel_gives_back_what_it_held(peer: Peer) -> None:
    connection = peer.connect()
    one, two = connection.channel(), connection.channel()
    one.queue("q")
    _fill(one, "q", "abc")
    one.consume("q", "c")
    one.deliveries(3)
    one.ack(2)
    one.close()
    peer.wait_for("q", 2)
    peer.note([(seen.text, seen.fields["redelivered"]) for seen in two.take("q")])


@on_both
def test_a_lost_connection_gives_back_what_it_held(peer: Peer) -> None:
    one, two = peer.channel(), peer.channel()
    one.queue("q")
    _fill(one, "q", "ab")
    one.consume("q", "c")
    one.deliveries(2)
    one.connection.wire.close()
    peer.wait_for("q", 2)
    peer.note([(seen.text, seen.fields["redelivered"]) for seen in two.take("q")])


@on_both
def test_getting_says_how_many_are_left(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.get("q")
    _fill(channel, "q", "abc")
    for _ in range(4):
        channel.get("q")


@on_both
def test_nowait_is_not_answered(peer: Peer) -> None:
    channel = peer.channel()
    peer.queues.add("q")
    peer.exchanges.add("x")
    channel.send(
        spec.Queue.Declare(queue="q", nowait=True),
        spec.Exchange.Declare(exchange="x", nowait=True),
        spec.Queue.Bind(queue="q", exchange="x", routing_key="k", nowait=True),
        spec.Basic.Consume(queue="q", consumer_tag="c", nowait=True),
    )
    channel.publish("k", "hello", "x")
    channel.delivery()
    channel.send(
        spec.Basic.Cancel(consumer_tag="c", nowait=True),
        spec.Queue.Purge(queue="q", nowait=True),
        spec.Exchange.Bind(destination="x", source="amq.direct", nowait=True),
        spec.Exchange.Unbind(destination="x", source="amq.direct", nowait=True),
        spec.Queue.Delete(queue="q", nowait=True),
        spec.Exchange.Delete(exchange="x", nowait=True),
    )
    channel.sync()
    channel.queue("q", passive=True)


@on_both
def test_an_error_in_a_nowait_method_is_told_all_the_same(peer: Peer) -> None:
    channel = peer.channel()
    channel.send(spec.Queue.Bind(queue="nowhere", exchange="amq.direct", nowait=True))
    channel.end()


@on_both
def test_a_channel_can_have_many_queues_and_consumers(peer: Peer) -> None:
    channel = peer.channel()
    names = [f"q{number}" for number in range(20)]
    for name in names:
        channel.queue(name)
        channel.consume(name, name)
    found: list[Seen] = []
    for name in names:
        channel.publish(name, name)
        found += channel.deliveries(1)
    channel.ack(0, multiple=True)
    channel.sync()
    peer.note([peer.count(name) for name in names])


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_limit_for_each_consumer_ends_the_shared_one(brokers: Brokers, count: int) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q")
        channel.qos(1, shared=True)
        channel.consume("q", "c")
        for body in "abcdef":
            channel.publish("q", body)
        channel.sync()
        peer.wait_for("q", 5)
        channel.qos(count)
        peer.wait_for("q", 0)
        channel.consume("q", "d")
        channel.sync()

    brokers.compare(script)


@on_both
def test_consumers_of_a_deleted_queue_are_cancelled_in_the_order_of_their_tags(peer: Peer) -> None:
    channel, other = peer.channel(), peer.channel()
    channel.queue("q")
    for tag in ("b", "c", "a", "B"):
        channel.consume("q", tag)
    other.delete("q")
    for _ in range(4):
        channel.cancelled()
