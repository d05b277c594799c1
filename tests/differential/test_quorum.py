"""Quorum queues: on one node, what a client sees of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.differential.both import Brokers, on_both
from tests.differential.peer import Channel, Peer

_QUORUM = {"x-queue-type": "quorum"}


def _queue(peer: Peer, **arguments: Any) -> Channel:
    channel = peer.channel()
    channel.queue("q", {**_QUORUM, **arguments}, durable=True)
    channel.confirms()
    return channel


def _publish(peer: Peer, channel: Channel, bodies: str) -> None:
    for number, body in enumerate(bodies, 1):
        channel.publish("q", body)
        channel.confirmed(number)


@on_both
def test_publish_get_and_acknowledge(peer: Peer) -> None:
    channel = _queue(peer)
    channel.queue("q", _QUORUM, durable=True)
    channel.queue("q", passive=True)
    _publish(peer, channel, "abc")
    for _ in range(4):
        channel.get("q", no_ack=True)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({}, {}),
        ({}, {"durable": True, "exclusive": True}),
        ({}, {"durable": True, "auto_delete": True}),
        ({"x-max-priority": 5}, {"durable": True}),
        ({"x-queue-mode": "lazy"}, {"durable": True}),
        ({"x-message-ttl": 60000}, {"durable": True}),
        ({"x-expires": 60000}, {"durable": True}),
        ({"x-overflow": "reject-publish"}, {"durable": True}),
        ({"x-overflow": "reject-publish-dlx"}, {"durable": True}),
        ({"x-delivery-limit": -1}, {"durable": True}),
        ({"x-delivery-limit": "many"}, {"durable": True}),
        ({"x-single-active-consumer": True}, {"durable": True}),
        ({"x-max-in-memory-length": 5}, {"durable": True}),
    ],
)
def test_what_a_quorum_queue_can_be(brokers: Brokers, arguments: dict[str, Any], options: dict[str, bool]) -> None:
    def script(peer: Peer) -> None:
        peer.channel().queue("q", {**_QUORUM, **arguments}, **options)

    brokers.compare(script)


@on_both
def test_a_quorum_queue_is_named_by_its_client(peer: Peer) -> None:
    peer.channel().queue("", _QUORUM, durable=True)


@on_both
def test_a_quorum_queue_declared_as_another_type(peer: Peer) -> None:
    channel = _queue(peer)
    channel.queue("q", durable=True)
    channel.reopen()
    channel.queue("q", {"x-queue-type": "classic"}, durable=True)
    channel.reopen()
    channel.queue("r", durable=True)
    channel.queue("r", _QUORUM, durable=True)


@on_both
def test_deliveries_that_come_to_nothing_are_counted(peer: Peer) -> None:
    channel = _queue(peer)
    channel.publish("q", "hello", headers={"a": 1})
    channel.confirmed(1)
    channel.consume("q", "c")
    for _ in range(3):
        channel.nack(channel.delivery().tag)
    channel.ack(channel.delivery().tag)
    channel.sync()


@on_both
def test_getting_counts_as_well(peer: Peer) -> None:
    channel = _queue(peer)
    _publish(peer, channel, "a")
    for _ in range(3):
        held = channel.get("q")
        channel.reject(held.tag)
        peer.wait_for("q", 1)


@on_both
def test_a_message_is_delivered_only_so_often(peer: Peer) -> None:
    to_dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel = _queue(peer, **{"x-delivery-limit": 2, **to_dead})
    channel.queue("dead")
    channel.publish("q", "hello", headers={"a": 1})
    channel.confirmed(1)
    channel.consume("q", "c")
    for _ in range(3):
        channel.nack(channel.delivery().tag)
    peer.wait_for("dead", 1)
    channel.get("dead")


@on_both
def test_a_delivery_limit_of_zero(peer: Peer) -> None:
    channel = _queue(peer, **{"x-delivery-limit": 0})
    _publish(peer, channel, "a")
    channel.consume("q", "c")
    channel.nack(channel.delivery().tag)
    channel.sync()
    peer.wait_for("q", 0)


@on_both
def test_a_lost_channel_counts(peer: Peer) -> None:
    channel = _queue(peer)
    _publish(peer, channel, "ab")
    other = channel.connection.channel()
    other.consume("q", "c")
    other.deliveries(2)
    other.close()
    peer.wait_for("q", 2)
    for _ in range(2):
        channel.get("q")


@on_both
def test_the_oldest_makes_room_in_a_quorum_queue(peer: Peer) -> None:
    channel = _queue(peer, **{"x-max-length": 2})
    _publish(peer, channel, "abcd")
    peer.wait_for("q", 2)
    for _ in range(2):
        channel.get("q")


@on_both
def test_rejected_by_a_quorum_queue(peer: Peer) -> None:
    channel = _queue(peer, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    channel.queue("dead")
    channel.publish("q", "hello", headers={"a": 1}, delivery_mode=2)
    channel.confirmed(1)
    channel.reject(channel.get("q").tag, requeue=False)
    peer.wait_for("dead", 1)
    channel.get("dead")


@on_both
def test_global_prefetch_is_not_for_quorum_queues(peer: Peer) -> None:
    channel = _queue(peer)
    channel.qos(5, shared=True)
    channel.consume("q", "c")


@on_both
def test_consumers_of_a_deleted_quorum_queue_are_told(peer: Peer) -> None:
    channel, other = _queue(peer), peer.channel()
    channel.consume("q", "c")
    other.delete("q")
    channel.cancelled()


@pytest.mark.parametrize("options", [{"if_unused": True}, {"if_empty": True}, {"if_unused": True, "if_empty": True}])
def test_a_quorum_queue_is_deleted_without_conditions(brokers: Brokers, options: dict[str, bool]) -> None:
    def script(peer: Peer) -> None:
        channel = _queue(peer)
        channel.delete("nowhere", **options)
        channel.delete("q", **options)
        channel.connection.end()

    brokers.compare(script)


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-message-ttl": 60000, "x-max-length": 5},
        {"x-dead-letter-exchange": "", "x-delivery-limit": 5},
        {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"},
        {"x-quorum-initial-group-size": 3, "x-single-active-consumer": True},
        {"x-queue-leader-locator": "client-local", "x-expires": 60000},
    ],
)
def test_what_of_a_quorum_queue_must_be_repeated(brokers: Brokers, arguments: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        channel = _queue(peer)
        channel.queue("q", {**_QUORUM, **arguments}, durable=True)
        channel.reopen()
        channel.delete("q")
        channel.queue("q", {**_QUORUM, **arguments}, durable=True)
        channel.queue("q", {**_QUORUM, **arguments}, durable=True)
        channel.queue("q", _QUORUM, durable=True)

    brokers.compare(script)


@on_both
def test_nobody_gets_from_a_queue_with_a_single_active_consumer(peer: Peer) -> None:
    channel = _queue(peer, **{"x-single-active-consumer": True})
    channel.get("q")


@on_both
def test_what_is_put_back_goes_to_consumers_before_the_queue_is_too_long(peer: Peer) -> None:
    channel = _queue(peer, **{"x-max-length": 1})
    channel.consume("q", "c")
    _publish(peer, channel, "abc")
    last = channel.deliveries(3)[-1]
    channel.nack(last.tag, multiple=True)
    channel.deliveries(3)
    peer.wait_for("q", 0)


@pytest.mark.parametrize("limit", [{"x-max-length": n} for n in (0, 1, 2, 10)] + [{"x-max-length-bytes": 10}], ids=str)
def test_a_full_queue_takes_one_too_many_and_then_refuses_until_a_fifth_is_free(
    brokers: Brokers, limit: dict[str, int]
) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q", {"x-queue-type": "quorum", "x-overflow": "reject-publish", **limit}, durable=True)
        channel.confirms()
        for n in range(1, 15):
            channel.publish("q", "x")
            channel.confirmed(n)  # one after the other: a quorum queue is a little late to say that it is full
        found = peer.count("q")
        assert isinstance(found, tuple)
        taken, _consumers = found
        peer.note(taken)
        for left in range(taken - 1, -1, -1):
            channel.get("q", no_ack=True)
            peer.wait_for("q", left)
        channel.publish("q", "x")
        channel.confirmed(15)
        peer.wait_for("q", 1)

    brokers.compare(script)
