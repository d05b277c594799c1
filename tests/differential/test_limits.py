"""Time to live, length, priority."""

from __future__ import annotations

from tests.differential.both import on_both
from tests.differential.peer import Channel, Peer


def _bodies(channel: Channel, queue: str) -> list[str]:
    return [seen.text for seen in channel.take(queue)]


def _let_time_pass(peer: Peer) -> None:
    """A tenth of a second by the broker's own clock."""
    channel = peer.channel()
    channel.queue("timer", {"x-message-ttl": 100, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "rang"})
    channel.queue("rang")
    channel.publish("timer", "tick")
    peer.wait_for("rang", 1)


@on_both
def test_a_message_expires_only_at_the_head(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.publish("q", "stays")
    channel.publish("q", "gone", expiration="20")
    channel.publish("q", "stays too")
    _let_time_pass(peer)
    peer.note(peer.count("q"))
    peer.note(_bodies(channel, "q"))


@on_both
def test_without_time_only_who_waits_gets_a_message(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-message-ttl": 0})
    channel.publish("q", "nobody there")
    channel.get("q")
    channel.consume("q", "c")
    channel.publish("q", "somebody there")
    channel.publish("q", "expires at once", expiration="0")
    channel.deliveries(2)


@on_both
def test_an_expiration_of_zero_and_a_consumer_without_credit(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    channel.queue("dead")
    channel.qos(1)
    channel.consume("q", "c")
    channel.publish("q", "taken", expiration="0")
    channel.delivery()
    channel.publish("q", "buried", expiration="0")
    peer.wait_for("dead", 1)
    channel.get("dead")


@on_both
def test_an_unacknowledged_message_expires_when_it_goes_back(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("dead")
    channel.queue("q", {"x-message-ttl": 30, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    channel.consume("q", "c")
    channel.publish("q", "hello")
    held = channel.delivery()
    channel.cancel("c")
    _let_time_pass(peer)
    peer.note(peer.count("dead"))
    channel.nack(held.tag)
    peer.wait_for("dead", 1)
    channel.get("dead")


@on_both
def test_a_message_that_goes_back_keeps_its_time(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-message-ttl": 60000})
    channel.publish("q", "hello")
    channel.nack(channel.get("q").tag)
    peer.wait_for("q", 1)


@on_both
def test_the_oldest_makes_room(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.queue("q", {"x-max-length": 3})
    for body in "abcde":
        channel.publish("q", body)
    channel.confirmed(5)
    peer.note(_bodies(channel, "q"))


@on_both
def test_unacknowledged_messages_take_no_room(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-max-length": 2})
    channel.publish("q", "a")
    held = channel.get("q")
    for body in "bc":
        channel.publish("q", body)
    channel.sync()
    peer.wait_for("q", 2)
    channel.nack(held.tag)
    channel.sync()
    channel.publish("q", "d")
    channel.sync()
    peer.wait_for("q", 2)
    peer.note(_bodies(channel, "q"))


@on_both
def test_what_goes_back_needs_room(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.queue("q", {"x-max-length": 2})
    channel.queue("r", {"x-max-length": 2, "x-overflow": "reject-publish"})
    for queue in "qr":
        channel.publish(queue, "a")
        held = channel.get(queue)
        for body in "bc":
            channel.publish(queue, body)
        channel.nack(held.tag)
    channel.confirmed(6)
    channel.sync()
    peer.wait_for("q", 2)
    peer.wait_for("r", 3)
    peer.note(_bodies(channel, "q"), _bodies(channel, "r"))


@on_both
def test_a_length_of_zero_is_a_queue_for_who_waits(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.queue("q", {"x-max-length": 0})
    channel.publish("q", "nobody there")
    channel.confirmed(1)
    channel.get("q")
    channel.consume("q", "c")
    channel.publish("q", "somebody there")
    channel.delivery()


@on_both
def test_a_full_queue_with_a_waiting_consumer_refuses_nothing(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.queue("q", {"x-max-length": 0, "x-overflow": "reject-publish"})
    channel.consume("q", "c", no_ack=True)
    channel.publish("q", "a")
    channel.confirmed(1)


@on_both
def test_the_length_in_bytes(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.queue("q", {"x-max-length-bytes": 10})
    channel.queue("r", {"x-max-length-bytes": 10, "x-overflow": "reject-publish"})
    for number, body in enumerate(("12345", "12345", "1", "", "12345678901"), 1):
        channel.publish("q", body)
        channel.publish("r", body)
        channel.confirmed(2 * number)
    peer.note(_bodies(channel, "q"), _bodies(channel, "r"))


@on_both
def test_both_lengths(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.queue("q", {"x-max-length": 3, "x-max-length-bytes": 10})
    for number, body in enumerate(("1234567", "1", "2", "3", "123456789"), 1):
        channel.publish("q", body)
        channel.confirmed(number)
    peer.note(_bodies(channel, "q"))


@on_both
def test_higher_priorities_come_first(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-max-priority": 5})
    for body, priority in (("none", None), ("two", 2), ("nine", 9), ("five", 5), ("zero", 0), ("two again", 2)):
        channel.publish("q", body, priority=priority)
    peer.note(_bodies(channel, "q"))


@on_both
def test_priorities_and_going_back(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-max-priority": 3})
    for body, priority in (("a1", 1), ("b1", 1), ("a3", 3), ("b3", 3)):
        channel.publish("q", body, priority=priority)
    held = [channel.get("q") for _ in range(3)]
    for seen in reversed(held):
        channel.nack(seen.tag)
    channel.sync()
    peer.note(_bodies(channel, "q"))


@on_both
def test_the_lowest_priority_makes_room(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.queue("q", {"x-max-priority": 3, "x-max-length": 2})
    for number, (body, priority) in enumerate((("high", 3), ("low", 0), ("middle", 2), ("high again", 3)), 1):
        channel.publish("q", body, priority=priority)
        channel.confirmed(number)
    peer.note(_bodies(channel, "q"))


@on_both
def test_expiry_by_priority(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-max-priority": 3})
    channel.publish("q", "high, gone", priority=3, expiration="20")
    channel.publish("q", "low, stays", priority=0)
    channel.publish("q", "low, behind it", priority=0, expiration="20")
    _let_time_pass(peer)
    peer.note(_bodies(channel, "q"))


@on_both
def test_a_queue_without_priorities_ignores_them(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.publish("q", "first", priority=1)
    channel.publish("q", "second", priority=9)
    peer.note(_bodies(channel, "q"))
