"""Exchanges, queues and bindings: declared, compared, deleted, refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.differential.both import Brokers, Operation, on_both
from tests.differential.peer import Peer

# --- queues -----------------------------------------------------------------------------------------------------------


@on_both
def test_a_queue_is_declared_again_and_deleted(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.publish("q", "one")
    peer.wait_for("q", 1)
    channel.queue("q")
    channel.queue("q", passive=True)
    channel.delete("q")
    channel.delete("q")
    channel.queue("q", passive=True)


@on_both
def test_the_broker_names_a_queue_and_remembers_it_for_the_channel(peer: Peer) -> None:
    channel = peer.channel()
    name = channel.queue("", exclusive=True).fields["queue"]
    channel.exchange("x")
    channel.bind("", "x", "")  # the empty key is the queue's name as well
    channel.publish(name, "by name", "x")
    channel.publish(name, "directly")
    peer.note([seen.body for seen in channel.take("")])
    channel.consume("", "c")
    operations: tuple[Operation, ...] = (
        lambda: channel.queue("", passive=True),
        lambda: channel.purge(""),
        lambda: channel.delete(""),
    )
    for operation in operations:
        if operation().code:
            channel.reopen()


@on_both
def test_without_a_queue_declared_the_empty_name_is_unknown(peer: Peer) -> None:
    channel = peer.channel()
    for operation in (channel.get, channel.delete, channel.purge, channel.consume):
        operation("")
        channel.reopen()
    channel.queue("", passive=True)


@on_both
def test_no_queue_with_such_a_name(peer: Peer) -> None:
    channel = peer.channel()
    for operation in (channel.get, channel.delete, channel.purge, channel.consume):
        if operation("nowhere").code:
            channel.reopen()
    channel.bind("nowhere", "amq.direct")
    channel.reopen()
    channel.unbind("nowhere", "amq.direct")


@on_both
def test_an_exclusive_queue_is_its_connections_own(peer: Peer) -> None:
    owner, other = peer.channel(), peer.channel()
    owner.queue("mine", exclusive=True)
    owner.publish("mine", "hello")
    operations: tuple[Operation, ...] = (
        lambda: other.queue("mine", passive=True),
        lambda: other.queue("mine"),
        lambda: other.queue("mine", exclusive=True),
        lambda: other.get("mine"),
        lambda: other.consume("mine"),
        lambda: other.purge("mine"),
        lambda: other.delete("mine"),
        lambda: other.bind("mine", "amq.fanout"),
        lambda: other.unbind("mine", "amq.fanout"),
    )
    for operation in operations:
        if operation().code:
            other.reopen()
    other.publish("mine", "anybody may publish", mandatory=True)
    other.sync()
    owner.get("mine")
    owner.connection.close()
    peer.wait_until_gone("mine")


@on_both
def test_exclusive_again_on_the_same_connection_must_say_so(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("mine", exclusive=True)
    channel.queue("mine", exclusive=True)
    channel.queue("mine")


@on_both
def test_not_exclusive_cannot_become_exclusive(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.queue("q", exclusive=True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"durable": True}, {}),
        ({}, {"durable": True}),
        ({"auto_delete": True}, {}),
        ({}, {"auto_delete": True}),
        ({"durable": True, "auto_delete": True}, {"exclusive": True}),
    ],
)
def test_other_options_on_an_existing_queue(brokers: Brokers, first: dict[str, bool], second: dict[str, bool]) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q", **first)
        channel.queue("q", **second)
        channel.reopen()
        channel.queue("q", passive=True)

    brokers.compare(script)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"x-message-ttl": 60000}, {"x-message-ttl": 60001}),
        ({"x-message-ttl": 60000}, {}),
        ({}, {"x-message-ttl": 60000}),
        ({"x-message-ttl": 60000}, {"x-message-ttl": 60000}),
        ({"x-max-length": 5}, {"x-max-length": 6}),
        ({"x-max-length": 5}, {"x-max-length": "5"}),
        ({"x-max-length-bytes": 5}, {}),
        ({"x-dead-letter-exchange": "a"}, {"x-dead-letter-exchange": "b"}),
        ({"x-dead-letter-exchange": "a"}, {"x-dead-letter-exchange": "a", "x-dead-letter-routing-key": "k"}),
        ({"x-overflow": "reject-publish"}, {}),
        ({"x-overflow": "drop-head"}, {}),
        ({"x-max-priority": 5}, {"x-max-priority": 4}),
        ({"x-expires": 60000}, {"x-expires": 70000}),
        ({"x-single-active-consumer": True}, {}),
        ({"x-queue-mode": "lazy"}, {}),
        ({"x-queue-type": "classic"}, {}),
        ({}, {"x-queue-type": "classic"}),
        ({}, {"x-unknown": 1}),
        ({"x-unknown": 1}, {"x-unknown": 2}),
    ],
)
def test_other_arguments_on_an_existing_queue(brokers: Brokers, first: dict[str, Any], second: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q", first)
        channel.queue("q", second)

    brokers.compare(script)


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-message-ttl": -1},
        {"x-message-ttl": "60"},
        {"x-message-ttl": 2**32},
        {"x-message-ttl": 315_360_000_000},
        {"x-message-ttl": 315_360_000_001},
        {"x-message-ttl": 2**40},
        {"x-message-ttl": True},
        {"x-message-ttl": 0},
        {"x-expires": 0},
        {"x-expires": -5},
        {"x-expires": "soon"},
        {"x-expires": 2**40},
        {"x-expires": 315_360_000_000},
        {"x-expires": 315_360_000_001},
        {"x-max-length": -1},
        {"x-max-length": "a"},
        {"x-max-length-bytes": -1},
        {"x-max-priority": -1},
        {"x-max-priority": 256},
        {"x-max-priority": "high"},
        {"x-overflow": "explode"},
        {"x-overflow": 5},
        {"x-overflow": "reject-publish-dlx"},
        {"x-dead-letter-exchange": 5},
        {"x-dead-letter-exchange": ""},
        {"x-dead-letter-routing-key": "k"},
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": 5},
        {"x-single-active-consumer": 1},
        {"x-single-active-consumer": "yes"},
        {"x-queue-mode": "busy"},
        {"x-queue-mode": 3},
        {"x-queue-type": "best"},
        {"x-queue-type": 3},
        {"x-delivery-limit": 3},
        {"x-delivery-limit": -3},
        {"x-delivery-limit": "3"},
        {"x-max-age": "1D"},
        {"x-queue-version": 1},
        {"x-unknown": "whatever"},
    ],
)
def test_arguments_of_a_queue_are_checked(brokers: Brokers, arguments: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        peer.channel().queue("q", arguments)

    brokers.compare(script)


@on_both
def test_reserved_names_of_queues(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("amq.mine")
    channel.reopen()
    channel.queue("amq.mine", passive=True)


@on_both
def test_line_breaks_are_stripped_from_names(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("a\r\nb")
    channel.queue("ab", passive=True)
    channel.exchange("x\ny")
    channel.exchange("xy", passive=True)
    peer.queues.add("ab")
    peer.exchanges.add("xy")


@on_both
def test_deleting_a_queue_only_if_unused_or_empty(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.publish("q", "one")
    channel.delete("q", if_empty=True)
    channel.reopen()
    channel.get("q", no_ack=True)
    channel.consume("q", "c")
    channel.delete("q", if_unused=True)
    channel.reopen()
    channel.delete("q", if_empty=True, if_unused=True)


@on_both
def test_unacknowledged_messages_make_a_queue_neither_used_nor_full(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.publish("q", "one")
    channel.get("q")
    channel.delete("q", if_empty=True, if_unused=True)


@on_both
def test_purging_leaves_what_is_unacknowledged(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    for body in "abc":
        channel.publish("q", body)
    first = channel.get("q")
    channel.purge("q")
    channel.purge("q")
    channel.nack(first.tag)
    peer.wait_for("q", 1)
    channel.get("q")


@on_both
def test_an_auto_delete_queue_goes_with_its_last_consumer(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", auto_delete=True)
    channel.queue("q", auto_delete=True)
    channel.consume("q", "one")
    channel.consume("q", "two")
    channel.cancel("one")
    channel.queue("q", passive=True)
    channel.cancel("two")
    peer.wait_until_gone("q")


@on_both
def test_an_auto_delete_queue_goes_with_the_channel_of_its_consumer(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", auto_delete=True)
    channel.consume("q", "one")
    channel.close()
    peer.wait_until_gone("q")


@on_both
def test_an_auto_delete_queue_that_nobody_consumed_stays(peer: Peer) -> None:
    connection = peer.connect()
    connection.channel().queue("q", auto_delete=True)
    connection.close()
    peer.channel().queue("q", passive=True)


@on_both
def test_a_queue_that_may_expire_is_there_meanwhile(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-expires": 5000})
    channel.consume("q", "c")
    channel.cancel("c")
    peer.channel().queue("q", passive=True)


@on_both
def test_an_expired_queue_is_gone(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q", {"x-expires": 50, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    channel.queue("dead")
    channel.publish("q", "buried with it")
    peer.wait_until_gone("q", every=0.2)  # looking counts as use
    channel.get("dead")


# --- exchanges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["direct", "fanout", "topic", "headers"])
def test_an_exchange_is_declared_again_and_deleted(brokers: Brokers, kind: str) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.exchange("x", kind, durable=True)
        channel.exchange("x", kind, durable=True)
        channel.exchange("x", passive=True)
        channel.exchange("x", "nonsense", passive=True)
        channel.delete_exchange("x")
        channel.delete_exchange("x")
        channel.exchange("x", passive=True)

    brokers.compare(script)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"kind": "direct"}, {"kind": "fanout"}),
        ({"durable": True}, {}),
        ({"auto_delete": True}, {}),
        ({"internal": True}, {}),
        ({"arguments": {"alternate-exchange": "a"}}, {}),
        ({}, {"arguments": {"alternate-exchange": "a"}}),
        ({"arguments": {"alternate-exchange": "a"}}, {"arguments": {"alternate-exchange": "b"}}),
        ({"arguments": {"x-other": 1}}, {"arguments": {"x-other": 2}}),
    ],
)
def test_other_options_on_an_existing_exchange(brokers: Brokers, first: dict[str, Any], second: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.exchange("x", **first)
        channel.exchange("x", **second)

    brokers.compare(script)


@on_both
def test_an_unknown_exchange_type_costs_the_connection(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "nonsense")
    channel.connection.end()


@on_both
def test_an_alternate_exchange_must_be_a_name(peer: Peer) -> None:
    peer.channel().exchange("x", arguments={"alternate-exchange": 5})


@on_both
def test_the_brokers_own_exchanges(peer: Peer) -> None:
    channel = peer.channel()
    for name, kind in (
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ):
        channel.exchange(name, kind, durable=True)
        channel.exchange(name, passive=True)
    operations: tuple[Operation, ...] = (
        lambda: channel.exchange("amq.mine"),
        lambda: channel.exchange("amq.mine", passive=True),
        lambda: channel.exchange("amq.direct", "topic", durable=True),
        lambda: channel.delete_exchange("amq.direct"),
        lambda: channel.delete_exchange("amq.mine"),
    )
    for operation in operations:
        operation()
        channel.reopen()


@on_both
def test_the_default_exchange_cannot_be_touched(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    operations: tuple[Operation, ...] = (
        lambda: channel.exchange(""),
        lambda: channel.exchange("", passive=True),
        lambda: channel.delete_exchange(""),
        lambda: channel.bind("q", "", "q"),
        lambda: channel.unbind("q", "", "q"),
        lambda: channel.bind_exchange("", "amq.direct"),
        lambda: channel.bind_exchange("amq.direct", ""),
    )
    for operation in operations:
        if operation().code:
            channel.reopen()


@on_both
def test_deleting_an_exchange_only_if_unused(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x")
    channel.queue("q")
    channel.bind("q", "x", "k")
    channel.delete_exchange("x", if_unused=True)
    channel.reopen()
    channel.unbind("q", "x", "k")
    channel.delete_exchange("x", if_unused=True)
    channel.exchange("x", passive=True)


@on_both
def test_an_auto_delete_exchange_goes_with_its_last_binding(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", auto_delete=True)
    channel.queue("q")
    channel.exchange("x", passive=True)
    channel.bind("q", "x", "a")
    channel.bind("q", "x", "b")
    channel.unbind("q", "x", "a")
    channel.exchange("x", passive=True)
    channel.unbind("q", "x", "b")
    channel.exchange("x", passive=True)


@on_both
def test_auto_delete_exchanges_go_one_after_the_other(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", auto_delete=True)
    channel.exchange("y", auto_delete=True)
    channel.queue("q")
    channel.bind_exchange("y", "x")
    channel.bind("q", "y")
    channel.delete("q")
    for name in ("y", "x"):
        channel.exchange(name, passive=True)
        channel.reopen()


# --- bindings ---------------------------------------------------------------------------------------------------------


@on_both
def test_bindings_to_what_is_not_there(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    operations: tuple[Operation, ...] = (
        lambda: channel.bind("q", "nowhere"),
        lambda: channel.unbind("q", "nowhere"),
        lambda: channel.unbind("q", "amq.direct", "never bound"),
        lambda: channel.bind("nowhere", "nowhere"),
        lambda: channel.bind_exchange("nowhere", "amq.direct"),
        lambda: channel.bind_exchange("amq.direct", "nowhere"),
        lambda: channel.unbind_exchange("nowhere", "amq.direct"),
        lambda: channel.unbind_exchange("amq.fanout", "amq.direct"),
    )
    for operation in operations:
        if operation().code:
            channel.reopen()


@on_both
def test_bindings_go_with_their_queue_and_exchange(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "fanout")
    channel.queue("q")
    channel.bind("q", "x")
    channel.delete("q")
    channel.queue("q")
    channel.publish("", "not bound any more", "x", mandatory=True)
    channel.returned()
    channel.bind("q", "x")
    channel.delete_exchange("x")
    channel.exchange("x", "fanout")
    channel.publish("", "nor here", "x", mandatory=True)
    channel.returned()


@on_both
def test_a_binding_made_twice_is_one_and_its_arguments_tell_it_apart(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x")
    channel.queue("q")
    channel.bind("q", "x", "k")
    channel.bind("q", "x", "k")
    channel.bind("q", "x", "k", {"a": 1})
    channel.publish("k", "once", "x")
    peer.note(len(channel.take("q")))
    channel.unbind("q", "x", "k")
    channel.publish("k", "the other is still there", "x")
    peer.note(len(channel.take("q")))
    channel.unbind("q", "x", "k", {"a": 1})
    channel.publish("k", "none", "x", mandatory=True)
    channel.returned()
