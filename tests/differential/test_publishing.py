"""Publishing: where a message goes, what comes back, what is confirmed, what is refused."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
from pika import spec
from pika.compat import long

from tests.differential.both import Brokers, on_both
from tests.differential.peer import Channel, Peer
from tests.differential.wire import method_frame


def _queues(channel: Channel, *names: str) -> None:
    for name in names:
        channel.queue(name)


def _reached(peer: Peer, channel: Channel, *queues: str) -> None:
    """Note what is in each queue, and empty it."""
    peer.note({queue: [seen.text for seen in channel.take(queue)] for queue in queues})


# --- exchanges --------------------------------------------------------------------------------------------------------


@on_both
def test_a_direct_exchange_compares_keys(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x")
    _queues(channel, "a", "b")
    channel.bind("a", "x", "one")
    channel.bind("a", "x", "two")
    channel.bind("b", "x", "two")
    for key in ("one", "two", "three", ""):
        channel.publish(key, key, "x")
        _reached(peer, channel, "a", "b")


@on_both
def test_a_fanout_exchange_ignores_keys(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "fanout")
    _queues(channel, "a", "b", "c")
    channel.bind("a", "x", "one")
    channel.bind("a", "x", "two")
    channel.bind("b", "x")
    channel.publish("three", "hello", "x")
    _reached(peer, channel, "a", "b", "c")


_PATTERNS = [
    "#",
    "*",
    "a",
    "a.b",
    "a.*",
    "a.#",
    "*.b",
    "#.b",
    "*.*",
    "#.#",
    "*.#",
    "#.*",
    "a.#.c",
    "a.*.c",
    "",
    ".",
    "a..b",
]
_KEYS = ["", "a", "b", "a.b", "a.c", "a.b.c", "a.b.b.c", "b.c", ".", "..", "a.", ".a", "a..b", "*", "#", "a.*", "A.b"]


@on_both
def test_a_topic_exchange_compares_words(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "topic")
    for pattern in _PATTERNS:
        channel.queue(f"q {pattern}")
        channel.bind(f"q {pattern}", "x", pattern)
    for key in _KEYS:
        channel.publish(key, key, "x")
    for pattern in _PATTERNS:
        _reached(peer, channel, f"q {pattern}")


@on_both
def test_a_topic_binding_that_is_removed_matches_no_more(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "topic")
    channel.queue("q")
    channel.bind("q", "x", "a.*")
    channel.bind("q", "x", "#.b")
    channel.publish("a.b", "both", "x")
    channel.unbind("q", "x", "a.*")
    channel.publish("a.b", "one", "x")
    channel.publish("a.c", "none", "x", mandatory=True)
    channel.returned()
    _reached(peer, channel, "q")


_HEADER_BINDINGS: dict[str, dict[str, Any]] = {
    "all": {"x-match": "all", "a": 1, "b": "two"},
    "any": {"x-match": "any", "a": 1, "b": "two"},
    "default": {"a": 1, "b": "two"},
    "all-with-x": {"x-match": "all-with-x", "a": 1, "x-c": 3},
    "any-with-x": {"x-match": "any-with-x", "a": 1, "x-c": 3},
    "all-without-x": {"x-match": "all", "a": 1, "x-c": 3},
    "presence": {"x-match": "all", "a": None},
    "none": {},
    "any of none": {"x-match": "any"},
    "true": {"x-match": "all", "a": True},
}
_HEADERS: list[dict[str, Any] | None] = [
    None,
    {},
    {"a": 1},
    {"b": "two"},
    {"a": 1, "b": "two"},
    {"a": 1, "b": "two", "c": 3},
    {"a": 1, "x-c": 3},
    {"x-c": 3},
    {"a": "1"},
    {"a": long(1)},
    {"a": True},
    {"a": None},
    {"A": 1},
]


@on_both
def test_a_headers_exchange_compares_headers(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "headers")
    for name, arguments in _HEADER_BINDINGS.items():
        channel.queue(f"q {name}")
        channel.bind(f"q {name}", "x", "", arguments)
    for number, headers in enumerate(_HEADERS):
        channel.publish("", str(number), "x", headers=headers)
    for name in _HEADER_BINDINGS:
        _reached(peer, channel, f"q {name}")


@pytest.mark.parametrize("match", ["some", 5, True])
def test_x_match_is_checked(brokers: Brokers, match: Any) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.exchange("x", "headers")
        channel.queue("q")
        channel.bind("q", "x", "", {"x-match": match, "a": 1})

    brokers.compare(script)


@on_both
def test_exchanges_bound_to_exchanges_pass_messages_on_once(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "topic")
    channel.exchange("y", "fanout")
    channel.exchange("z", "direct")
    _queues(channel, "a", "b")
    channel.bind_exchange("y", "x", "to.*")
    channel.bind_exchange("z", "x", "#")
    channel.bind_exchange("x", "y", "round")  # a circle
    channel.bind("a", "y")
    channel.bind("b", "z", "to.b")
    channel.bind("a", "z", "to.b")
    for key in ("to.a", "to.b", "nowhere"):
        channel.publish(key, key, "x", mandatory=True)
        channel.sync()
        _reached(peer, channel, "a", "b")
    channel.unbind_exchange("y", "x", "to.*")
    channel.publish("to.a", "none", "x", mandatory=True)
    channel.sync()
    _reached(peer, channel, "a", "b")


@on_both
def test_an_alternate_exchange_takes_what_is_not_routed(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "direct", {"alternate-exchange": "other"})
    channel.exchange("other", "fanout", {"alternate-exchange": "last"})
    channel.exchange("last", "topic")
    _queues(channel, "a", "b", "c")
    channel.bind("a", "x", "k")
    channel.publish("nobody", "too early", "x", mandatory=True)
    channel.sync()
    channel.bind("c", "last", "nobody")
    channel.publish("nobody", "to the last", "x", mandatory=True)
    channel.bind("b", "other")
    channel.publish("k", "to a", "x", mandatory=True)
    channel.publish("nobody", "to b", "x", mandatory=True)
    channel.sync()
    _reached(peer, channel, "a", "b", "c")


@on_both
def test_an_alternate_exchange_that_is_not_there(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "direct", {"alternate-exchange": "nowhere"})
    channel.publish("k", "lost", "x", mandatory=True)
    channel.returned()
    channel.sync()


@on_both
def test_an_internal_exchange_takes_nothing_from_clients(peer: Peer) -> None:
    channel = peer.channel()
    channel.exchange("x", "fanout", internal=True)
    channel.exchange("y", "fanout")
    channel.queue("q")
    channel.bind("q", "x")
    channel.bind_exchange("x", "y")
    channel.publish("", "around", "y")
    _reached(peer, channel, "q")
    channel.publish("", "refused", "x")
    channel.end()


@on_both
def test_copies_go_where_CC_and_BCC_say_and_only_CC_is_seen(peer: Peer) -> None:
    channel = peer.channel()
    _queues(channel, "a", "b", "c")
    channel.publish("a", "hello", headers={"CC": ["b", "a"], "BCC": ["c"], "other": 1})
    for queue in "abc":
        channel.get(queue)
        channel.get(queue)


@on_both
def test_a_copy_alone_makes_a_message_routed(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("a")
    channel.publish("nowhere", "hello", headers={"BCC": ["a"]}, mandatory=True)
    channel.sync()
    channel.get("a")


@pytest.mark.parametrize(
    "headers", [{"CC": "a"}, {"BCC": "a"}, {"CC": [1]}, {"CC": ["a", 1]}, {"BCC": {}}, {"CC": None}]
)
def test_copies_must_be_lists_of_names(brokers: Brokers, headers: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.publish("q", "hello", headers=headers)
        channel.sync()

    brokers.compare(script)


# --- returns and confirms ---------------------------------------------------------------------------------------------


@on_both
def test_what_cannot_be_routed_comes_back_before_its_confirm(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.publish("nowhere", "first", mandatory=True, message_id="1", headers={"a": [1, {"b": None}]})
    channel.publish("nowhere", "not mandatory")
    channel.confirmed(2)
    names = [seen.name for seen in channel.connection.seen]
    peer.note(names.index("Basic.Return") < names.index("Basic.Ack"))
    channel.publish("k", b"\xff" * 300_000, "amq.topic", mandatory=True)
    channel.confirmed(3)


@on_both
def test_publishes_are_confirmed(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.confirms()
    channel.queue("q", durable=True)
    for number in range(20):
        channel.publish("q", str(number), delivery_mode=2)
    channel.confirmed(20)
    peer.wait_for("q", 20)


@on_both
def test_confirms_without_waiting(peer: Peer) -> None:
    channel = peer.channel()
    channel.send(spec.Confirm.Select(nowait=True))
    channel.publish("nowhere")
    channel.confirmed(1)


@on_both
def test_a_full_queue_refuses(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.queue("q", {"x-max-length": 2, "x-overflow": "reject-publish"})
    for body in "abcd":
        channel.publish("q", body)
    channel.confirmed(4)
    channel.publish("q", "returned? no, refused", mandatory=True)
    channel.confirmed(5)
    _reached(peer, channel, "q")


@on_both
def test_a_message_that_one_of_its_queues_refuses_is_refused(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.exchange("x", "fanout")
    channel.queue("full", {"x-max-length": 0, "x-overflow": "reject-publish"})
    channel.queue("free")
    channel.bind("full", "x")
    channel.bind("free", "x")
    channel.publish("", "hello", "x")
    channel.confirmed(1)
    _reached(peer, channel, "full", "free")


# --- refusals ---------------------------------------------------------------------------------------------------------


@on_both
def test_an_exchange_that_is_not_there(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.publish("k", "hello", "nowhere", mandatory=True)
    channel.end()
    channel.reopen()
    channel.sync()


@on_both
def test_what_is_sent_after_the_error_is_ignored(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    wire = channel.connection.wire
    publish = spec.Basic.Publish(exchange="nowhere", routing_key="k")
    wire.publish(1, publish, spec.BasicProperties(), b"bad")
    channel.publish("q", "ignored")
    channel.send(spec.Queue.Declare(queue="also ignored"))
    channel.end()
    channel.reopen()
    channel.queue("also ignored", passive=True)
    channel.reopen()
    channel.get("q")


_EXPIRATIONS = [
    "",
    "0",
    "1.5",
    "-1",
    "abc",
    "10s",
    " 5",
    "5 ",
    "+5",
    "1e3",
    "60000",
    "315360000000",
    "315360000001",
    "9" * 16,
    "²",
]


@pytest.mark.parametrize("expiration", _EXPIRATIONS)
def test_expirations_are_checked(brokers: Brokers, expiration: str) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.confirms()
        channel.publish("nowhere", "hello", expiration=expiration)
        channel.sync()

    brokers.compare(script)


@pytest.mark.parametrize("user", ["guest", "somebody", ""])
def test_the_user_id_is_checked(brokers: Brokers, user: str) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q")
        channel.publish("q", "hello", user_id=user)
        channel.sync()
        peer.channel().get("q")

    brokers.compare(script)


@on_both
def test_immediate_is_not_implemented(peer: Peer) -> None:
    channel = peer.channel()
    method = spec.Basic.Publish(exchange="", routing_key="k", immediate=True)
    channel.connection.wire.publish(1, method, spec.BasicProperties(), b"now")
    channel.connection.end()


# --- content ----------------------------------------------------------------------------------------------------------

_TIME = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@on_both
def test_properties_and_headers_pass_unchanged(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    headers = {
        "short": 1,
        "long": long(1),
        "negative": -5,
        "huge": 2**62,
        "text": "ünïcödé \U0001f430",
        "empty": "",
        "true": True,
        "nothing": None,
        "bytes": b"\x00\xff\xfe",
        "list": [1, "two", [3, None], {"four": 4}],
        "table": {"a": {"b": {"c": [1]}}},
        "time": _TIME,
        "decimal": Decimal("1.50"),
        "": "empty name",
        "ключ": "value",
    }
    channel.publish(
        "q",
        "everything",
        content_type="text/plain",
        content_encoding="utf-8",
        headers=headers,
        delivery_mode=2,
        priority=255,
        correlation_id="c" * 255,
        reply_to="somewhere",
        expiration="60000",
        message_id="m",
        timestamp=1577934245,
        type="t",
        user_id="guest",
        app_id="a",
        cluster_id="c",
    )
    got = channel.get("q")
    peer.note(got.header)
    channel.publish("q", "nothing")
    peer.note(channel.get("q").header)


@on_both
def test_unusual_properties_pass_byte_for_byte(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    values: tuple[bytes, ...] = (
        b"B\x07",
        b"b\xff",
        b"s\xff\xff",
        b"u\x00\x05",
        b"i\x00\x00\x00\x09",
        b"I\x00\x00\x00\x09",
        b"l" + b"\x00" * 8,
    )
    values += (b"f\x3f\x80\x00\x00", b"d" + b"\x3f" * 8, b"t\x01", b"V", b"T" + b"\x7f" * 8, b"x\x00\x00\x00\x01\xfe")
    headers = b"".join(b"\x01" + bytes([97 + index]) + value for index, value in enumerate(values))
    properties = b"\x20\x40" + len(headers).to_bytes(4) + headers + b"\x7f" * 8  # a time beyond year 9999
    header = b"\x00\x3c\x00\x00" + (2).to_bytes(8) + properties
    frames = method_frame(1, spec.Basic.Publish(exchange="", routing_key="q"))
    frames += b"\x02\x00\x01" + len(header).to_bytes(4) + header + b"\xce"
    frames += b"\x03\x00\x01\x00\x00\x00\x02hi\xce"
    channel.connection.wire.send_bytes(frames)
    channel.sync()
    got = channel.get("q")
    peer.note(got.header)


@pytest.mark.parametrize("size", [0, 1, 131064, 131065, 1 << 20, 3_000_001])
def test_bodies_of_all_sizes(brokers: Brokers, size: int) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q")
        channel.publish("q", bytes(i % 251 for i in range(size)))
        channel.get("q")
        small = peer.connect(frame_max=4096).channel()
        channel.publish("q", bytes(i % 251 for i in range(size)))
        small.consume("q", "c")
        small.delivery()

    brokers.compare(script)


@on_both
def test_names_and_keys_of_any_characters(peer: Peer) -> None:
    channel = peer.channel()
    name = "q ünï/\U0001f430?*#.%"
    channel.queue(name)
    channel.exchange("x" + name, "topic")
    channel.bind(name, "x" + name, "k" * 255)
    channel.publish("k" * 255, "hello", "x" + name)
    channel.get(name)
    channel.queue("q" * 255)
