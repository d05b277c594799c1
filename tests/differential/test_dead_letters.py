"""Dead letters: when, where to, with what on record; and where they stop."""

from __future__ import annotations

from typing import Any

import pytest
from pika.compat import long

from tests.differential.both import Brokers, on_both
from tests.differential.peer import Channel, Peer

_TO_DEAD = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}


def _queues(peer: Peer, **more: Any) -> Channel:
    """The queue q, whose dead letters go to the queue dead."""
    channel = peer.channel()
    channel.queue("dead")
    channel.queue("q", {**_TO_DEAD, **more})
    return channel


def _buried(peer: Peer, channel: Channel, count: int = 1, queue: str = "dead") -> None:
    """Take what has been dead-lettered; the record has its headers."""
    peer.wait_for(queue, count)
    for _ in range(count):
        channel.get(queue)


@pytest.mark.parametrize("operation", ["nack", "reject"])
def test_rejected(brokers: Brokers, operation: str) -> None:
    def script(peer: Peer) -> None:
        channel = _queues(peer)
        channel.publish("q", "hello", headers={"a": 1}, correlation_id="c", delivery_mode=2, priority=3)
        getattr(channel, operation)(channel.get("q").tag, requeue=False)
        _buried(peer, channel)

    brokers.compare(script)


@on_both
def test_expired_in_its_queue(peer: Peer) -> None:
    channel = _queues(peer, **{"x-message-ttl": 20})
    channel.publish("q", "hello")
    _buried(peer, channel)


@on_both
def test_expired_by_its_own_expiration(peer: Peer) -> None:
    channel = _queues(peer)
    channel.publish("q", "hello", expiration="20", message_id="m")
    _buried(peer, channel)


@on_both
def test_the_shorter_time_counts(peer: Peer) -> None:
    channel = _queues(peer, **{"x-message-ttl": 60000})
    channel.publish("q", "short", expiration="20")
    _buried(peer, channel)
    other = peer.channel()
    other.queue("r", {**_TO_DEAD, "x-message-ttl": 20})
    other.publish("r", "long", expiration="60000")
    _buried(peer, other)


@on_both
def test_too_many(peer: Peer) -> None:
    channel = _queues(peer, **{"x-max-length": 2})
    for body in "abcd":
        channel.publish("q", body)
    _buried(peer, channel, 2)
    peer.note([seen.text for seen in channel.take("q")])


@on_both
def test_too_large(peer: Peer) -> None:
    channel = _queues(peer, **{"x-max-length-bytes": 10})
    for body in ("12345", "67890", "x", "far too long for this"):
        channel.publish("q", body)
    _buried(peer, channel, 4)


@on_both
def test_refused_and_buried(peer: Peer) -> None:
    channel = _queues(peer, **{"x-max-length": 1, "x-overflow": "reject-publish-dlx"})
    channel.confirms()
    for body in "abc":
        channel.publish("q", body)
    channel.confirmed(3)
    _buried(peer, channel, 2)


@on_both
def test_deleted_and_purged_messages_are_not_buried(peer: Peer) -> None:
    channel = _queues(peer)
    channel.publish("q", "one")
    channel.purge("q")
    channel.publish("q", "two")
    channel.delete("q")
    channel.get("dead")


@on_both
def test_the_key_stays_without_another(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "topic")
    channel.queue("dead")
    channel.bind("dead", "x", "#")
    channel.queue("q", {"x-dead-letter-exchange": "x"})
    channel.bind("q", "amq.topic", "some.*")
    channel.publish("some.key", "hello", "amq.topic", headers={"CC": ["other.key"], "BCC": ["some.third"]})
    channel.reject(channel.get("q").tag, requeue=False)
    _buried(peer, channel)


@on_both
def test_another_key_ends_copies(peer: Peer) -> None:
    channel = _queues(peer)
    channel.queue("copy")
    channel.publish("q", "hello", headers={"CC": ["copy"]})
    channel.take("copy")
    channel.reject(channel.get("q").tag, requeue=False)
    _buried(peer, channel)
    channel.get("copy")


@on_both
def test_copies_are_buried_by_their_key(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x")
    channel.queue("dead")
    channel.bind("dead", "x", "copy")
    channel.queue("q", {"x-dead-letter-exchange": "x"})
    channel.publish("q", "hello", headers={"CC": ["copy"]})
    channel.reject(channel.get("q").tag, requeue=False)
    _buried(peer, channel)


@on_both
def test_an_exchange_that_is_not_there_loses_them(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-dead-letter-exchange": "nowhere"})
    channel.publish("q", "hello")
    channel.reject(channel.get("q").tag, requeue=False)
    channel.sync()
    peer.wait_for("q", 0)


@on_both
def test_deaths_add_up(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("one", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "two", "x-message-ttl": 20})
    channel.queue("two", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "three"})
    channel.queue("three", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "one"})
    channel.publish("one", "hello", expiration="60000")
    for _ in range(3):
        for queue in ("two", "three"):
            peer.wait_for(queue, 1)
            channel.reject(channel.get(queue).tag, requeue=False)
    peer.wait_for("two", 1)
    channel.get("two")


@on_both
def test_a_circle_without_a_rejection_stops(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("one", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "two", "x-message-ttl": 20})
    channel.queue("two", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "one", "x-message-ttl": 500})
    channel.publish("one", "round and round")
    peer.wait_for("two", 1)
    peer.wait_for("two", 0)
    peer.wait_for("one", 0)


@on_both
def test_a_queue_that_buries_in_itself(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"})
    channel.publish("q", "again")
    for _ in range(3):
        peer.wait_for("q", 1)
        channel.reject(channel.get("q").tag, requeue=False)
    peer.wait_for("q", 1)
    channel.get("q")


@on_both
def test_a_full_queue_that_buries_in_itself_loses_the_message(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q", "x-max-length": 1})
    for body in "abc":
        channel.publish("q", body)
    peer.wait_for("q", 1)
    channel.get("q")


@on_both
def test_dead_letters_with_headers_that_look_like_the_brokers(peer: Peer) -> None:
    channel = _queues(peer)
    looks: list[dict[str, Any]]
    looks = [{"x-death": "nonsense"}, {"x-death": []}, {"x-death": [{}]}, {"x-first-death-queue": "mine"}]
    for headers in looks:
        channel.publish("q", "hello", headers=headers)
        channel.reject(channel.get("q").tag, requeue=False)
        _buried(peer, channel)


@on_both
def test_a_death_on_record_elsewhere_is_kept(peer: Peer) -> None:
    channel = _queues(peer)
    death = {"queue": "elsewhere", "reason": "rejected", "count": 7, "exchange": "", "routing-keys": ["k"]}
    channel.publish("q", "hello", headers={"x-death": [death]})
    channel.reject(channel.get("q").tag, requeue=False)
    _buried(peer, channel)


@on_both
def test_several_at_once_keep_their_order(peer: Peer) -> None:
    channel = _queues(peer)
    for body in "abcde":
        channel.publish("q", body)
    last = channel.get("q")
    for _ in range(4):
        last = channel.get("q")
    channel.nack(last.tag, multiple=True, requeue=False)
    peer.wait_for("dead", 5)
    peer.note([seen.text for seen in channel.take("dead")])


@pytest.mark.parametrize("count", [3, long(3), 3_000_000_000, -1])
def test_a_death_that_a_client_has_published_again_counts_on(brokers: Brokers, count: Any) -> None:
    """Who tries messages again publishes them with the headers that they had, as its client has read them."""

    def script(peer: Peer) -> None:
        channel = _queues(peer)
        death = {"count": count, "reason": "rejected", "queue": "q", "exchange": "", "routing-keys": ["q"]}
        channel.publish(
            "q", "hello", headers={"x-death": [{"queue": "elsewhere", "reason": "expired", "count": 2}, death]}
        )
        channel.reject(channel.get("q").tag, requeue=False)
        _buried(peer, channel)

    brokers.compare(script)


@on_both
def test_a_death_without_a_count_counts_as_one(peer: Peer) -> None:
    channel = _queues(peer)
    deaths = [{"queue": "elsewhere", "reason": "expired"}, {"queue": "q", "reason": "rejected"}]
    channel.publish("q", "hello", headers={"x-death": deaths})
    channel.reject(channel.get("q").tag, requeue=False)
    _buried(peer, channel)


@on_both
def test_deaths_are_turned_round_at_every_death(peer: Peer) -> None:
    channel = peer.channel()
    for n in range(5):
        channel.queue(f"c{n}", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"c{n + 1}"})
    channel.queue("c5")
    channel.publish("c0", "hello")
    for n in range(5):
        peer.wait_for(f"c{n}", 1)
        channel.reject(channel.get(f"c{n}").tag, requeue=False)
    peer.wait_for("c5", 1)
    channel.get("c5")


@pytest.mark.parametrize("count", [None, 7])
def test_deaths_of_one_cause_are_one_record(brokers: Brokers, count: int | None) -> None:
    """The first of them stands for all; how many there were is its count if it has none."""

    def script(peer: Peer) -> None:
        channel = _queues(peer)
        legacy = {"queue": "legacy", "reason": "rejected"}
        first = legacy if count is None else {**legacy, "count": count}
        other = {"queue": "other", "reason": "expired"}
        channel.publish("q", "hello", headers={"x-death": [first, other, {**legacy, "count": 3}, legacy, {}, {}]})
        channel.reject(channel.get("q").tag, requeue=False)
        _buried(peer, channel)

    brokers.compare(script)
