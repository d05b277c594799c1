"""What clients may send that nobody can read: it costs them their connection at most, and nobody else anything."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pika import frame, spec

from tests.support.sessions import Peer, connect, make_state, method, publish
from warren.amqp.frames import Properties, encode_properties
from warren.broker.state import State


def long(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack(">I", len(data)) + data


def table(**entries: bytes) -> bytes:
    """A table of encoded values; _ stands for -."""
    return b"".join(
        bytes((len(name),)) + name.encode() + value
        for name, value in ((name.replace("_", "-"), value) for name, value in entries.items())
    )


def nested(kind: bytes, name: bytes) -> bytes:
    value = b"V"
    for _ in range(5000):
        value = long(kind, name + value)
    return value


#: Values that are fine, beyond Python's range, beyond sense, or none.
VALUES = {
    "time beyond Python": b"T" + b"\x7f" * 8,
    "decimal": b"D\x05" + struct.pack(">i", 123),
    "decimal of 255 places": b"D\xff" + struct.pack(">i", -5),
    "not a number": b"f" + struct.pack(">f", float("nan")),
    "infinity": b"d" + struct.pack(">d", float("inf")),
    "nothing": b"V",
    "bytes": long(b"x", b"\xff\xfe"),
    "no UTF-8": long(b"S", b"\xff\xfe"),
    "the least": b"l" + struct.pack(">q", -(2**63)),
    "the most": b"l" + struct.pack(">q", 2**63 - 1),
    "byte": b"b\xff",
    "yes": b"t\x01",
    "list": long(b"A", b"VV"),
    "table": long(b"F", table(a=b"V")),
    "table that is none": long(b"F", b"\x05ab"),
    "list that is none": long(b"A", b"S\x00\x00\x00\xff"),
    "deep lists": nested(b"A", b""),
    "deep tables": nested(b"F", b"\x01a"),
    "unknown type": b"q123",
    "too short": b"S\x00\x00\x00\xff",
}


def _deaths(**fields: bytes) -> bytes:
    return long(b"A", long(b"F", table(**fields)))


def places(value: bytes) -> list[bytes]:
    """Headers with the value wherever the broker may look."""
    named = {"queue": long(b"S", b"q"), "reason": long(b"S", b"rejected")}
    names = ("queue", "reason", "count", "time", "exchange", "routing_keys")
    return [
        table(h=value),
        table(CC=value),
        table(CC=long(b"A", value)),
        table(BCC=long(b"A", value)),
        table(x_death=value),
        table(x_death=long(b"A", value)),
        *(table(x_death=_deaths(**{name: value})) for name in names),
        *(table(x_death=_deaths(**{**named, name: value})) for name in names),
    ]


def with_headers(key: str, headers: bytes, exchange: str = "", **properties: Any) -> bytes:
    """A publish whose headers nobody has checked."""
    payload = struct.pack(">HHQ", 60, 0, 1) + encode_properties(Properties(table=headers, **properties))
    start = method(1, spec.Basic.Publish(exchange=exchange, routing_key=key))
    head: bytes = frame.Frame(2, 1)._marshal([payload])
    body: bytes = frame.Body(1, b"m").marshal()
    return start + head + body


def works(peer: Peer) -> None:
    """The connection is as good as before."""
    peer.session.take_output()
    assert peer.call(spec.Queue.Declare(queue="dead", passive=True)).NAME == "Queue.DeclareOk"


def dying(state: State, **arguments: object) -> Peer:
    """A connection with a queue called q whose dead letters are matched by their headers."""
    peer = connect(state)
    peer.call(spec.Exchange.Declare(exchange="x", type="headers"))
    for queue, given in (("q", {"x-dead-letter-exchange": "x", **arguments}), ("dead", {})):
        peer.call(spec.Queue.Declare(queue=queue, arguments=given, durable="x-queue-type" in given))
    peer.call(spec.Queue.Bind(queue="dead", exchange="x", arguments={"h": 1, "x-match": "any"}))
    peer.call(spec.Queue.Bind(queue="dead", exchange="x"))
    return peer


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_any_header_of_a_message_that_is_rejected(value: bytes) -> None:
    for headers in places(value):
        state = make_state()
        peer, hostile = dying(state), connect(state)
        hostile.send(with_headers("q", headers))
        taken = state.hosts["/"].queues["q"].waiting.count
        peer.send(method(1, spec.Basic.Consume(queue="q")))
        peer.send(method(1, spec.Basic.Reject(1, requeue=False)) if taken else b"")
        works(peer)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_any_header_of_a_message_that_expires(value: bytes) -> None:
    for headers in places(value):
        state = make_state()
        peer, hostile = dying(state), connect(state)
        hostile.send(with_headers("q", headers, expiration=b"1000"))
        state.advance(1002.0)
        works(peer)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_any_header_of_a_message_that_must_make_room(value: bytes) -> None:
    for headers in places(value):
        state = make_state()
        peer, hostile = dying(state, **{"x-max-length": 1}), connect(state)
        hostile.send(with_headers("q", headers))
        peer.send(publish("q"))
        works(peer)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_any_header_of_a_message_that_is_delivered_too_often(value: bytes) -> None:
    for headers in places(value):
        state = make_state()
        peer, hostile = dying(state, **{"x-queue-type": "quorum", "x-delivery-limit": 1}), connect(state)
        hostile.send(with_headers("q", headers))
        taken = state.hosts["/"].queues["q"].waiting.count
        peer.send(method(1, spec.Basic.Consume(queue="q")))
        peer.send(*(method(1, spec.Basic.Reject(tag, requeue=True)) for tag in (1, 2) if taken))
        works(peer)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_any_header_of_a_message_that_is_matched_by_its_headers(value: bytes) -> None:
    for headers in places(value):
        state = make_state()
        peer, hostile = dying(state), connect(state)
        hostile.send(with_headers("q", headers, "x"))
        works(peer)


def test_a_dead_letter_keeps_what_it_cannot_read() -> None:
    state = make_state()
    peer, hostile = dying(state), connect(state)
    odd = long(b"F", table(queue=long(b"S", b"elsewhere"), time=VALUES["time beyond Python"]))
    hostile.send(with_headers("q", table(x_death=long(b"A", odd), CC=long(b"A", VALUES["no UTF-8"]))))
    peer.send(method(1, spec.Basic.Consume(queue="q")))
    peer.send(method(1, spec.Basic.Reject(1, requeue=False)))
    peer.session.take_output()
    peer.send(method(1, spec.Basic.Get(queue="dead")))
    assert odd in peer.session.take_output()


def test_a_dead_letter_routing_key_that_fits_no_frame_is_cut() -> None:
    state = make_state()
    peer = connect(state)
    peer.call(spec.Exchange.Declare(exchange="x", type="fanout"))
    arguments = {"x-dead-letter-exchange": "x", "x-dead-letter-routing-key": "k" * 300}
    peer.call(spec.Queue.Declare(queue="q", arguments=arguments))
    peer.call(spec.Queue.Declare(queue="dead"))
    peer.call(spec.Queue.Bind(queue="dead", exchange="x"))
    peer.send(publish("q", expiration="1000"))
    state.advance(1002.0)
    got = peer.call(spec.Basic.Get(queue="dead", no_ack=True))
    assert got.routing_key == "k" * 255
