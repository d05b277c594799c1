"""Very many of something: nothing takes a time that grows with the square of them, and nothing piles up.

The bounds are far above what is needed, and far below what a square would take; on a slow machine they grow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pika import spec

from tests.support.sessions import Peer, connect, make_state, message, method, publish
from warren.broker.message import Message
from warren.broker.queues import Entry, Waiting

pytestmark = pytest.mark.slow


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Of the processor, on a machine that counts a million numbers in a tenth of a second or less."""
    limit = seconds * max(1.0, counting() / 0.1)
    begun = time.process_time()
    yield
    assert time.process_time() - begun < limit


def counting() -> float:
    begun, last = time.process_time(), {}
    for number in range(1_000_000):
        last[number & 1023] = number
    return time.process_time() - begun


def entry(order: int) -> Entry:
    queue: Any = None
    return Entry(queue, Message("", "q", b"\0\x01q", b"\0\0", b""), order, None)


def test_messages_that_are_put_back_among_others() -> None:
    entries = [entry(order) for order in range(200_000)]
    waiting = Waiting(None)
    for one in entries:
        waiting.add(one)
    taken = [waiting.pop() for _ in range(100_000)]
    with within(4):
        for one in (*taken[::2], *taken[1::2]):
            waiting.put_back(one)
        assert [waiting.pop() for _ in entries] == entries


@pytest.mark.parametrize("kind", ["direct", "fanout", "topic"])
def test_queues_bound_to_one_exchange(kind: str) -> None:
    peer = connect(make_state())
    peer.call(spec.Exchange.Declare(exchange="x", type=kind))
    with within(20):
        for number in range(20_000):
            name = f"q{number}"
            peer.send(method(1, spec.Queue.Declare(queue=name)))
            peer.send(method(1, spec.Queue.Bind(queue=name, exchange="x", routing_key=name)))
            peer.session.take_output()
        for number in range(20_000):
            peer.send(method(1, spec.Queue.Delete(queue=f"q{number}")))
            peer.session.take_output()


def test_routing_keys_of_a_topic_exchange_with_many_bindings() -> None:
    peer = connect(make_state())
    peer.call(spec.Exchange.Declare(exchange="x", type="topic"))
    peer.call(spec.Queue.Declare(queue="q"))
    for number in range(5_000):
        peer.send(method(1, spec.Queue.Bind(queue="q", exchange="x", routing_key=f"a.{number}", nowait=True)))
    with within(3):
        peer.send(*(publish(f"a.{number}", exchange="x") for number in range(4_000)))
    peer.session.take_output()
    assert peer.call(spec.Queue.Declare(queue="q", passive=True)).message_count == 4_000


def test_acknowledgements_beside_many_consumers() -> None:
    peer = connect(make_state(buffer_limit=1 << 30))
    peer.call(spec.Queue.Declare(queue="q"))
    peer.send(method(1, spec.Basic.Qos(prefetch_count=1)))
    peer.send(*(method(1, spec.Basic.Consume(queue="q", consumer_tag=f"c{n}", nowait=True)) for n in range(5_000)))
    peer.send(publish("q") * 10_000)
    with within(4):
        for tag in range(1, 5_001):
            peer.send(method(1, spec.Basic.Ack(tag)))
    assert peer.state.hosts["/"].queues["q"].waiting.count == 0


def test_timers_of_queues_that_are_gone_do_not_pile_up() -> None:
    peer = connect(make_state())
    for _ in range(5_000):
        peer.send(method(1, spec.Queue.Declare(queue="q", arguments={"x-expires": 86_400_000})))
        peer.send(publish("q", expiration="3600000"), method(1, spec.Queue.Delete(queue="q")))
        peer.session.take_output()
    assert len(peer.state.timers) < 2_500


@pytest.mark.parametrize("ending", ["lost", "closed"])
def test_timers_of_connections_that_are_gone_do_not_pile_up(ending: str) -> None:
    state = make_state()
    for _ in range(3_000):
        peer = Peer(state).handshake(heartbeat=60)
        if ending == "lost":
            peer.session.lost()
        else:
            peer.call(spec.Connection.Close(200, "bye", 0, 0), channel=0)
    assert len(state.timers) < 2_500


def test_priorities_of_consumers_that_are_gone_do_not_pile_up() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q"))
    for number in range(100):
        peer.call(spec.Basic.Consume(queue="q", consumer_tag="c", arguments={"x-priority": number}))
        peer.call(spec.Basic.Cancel("c"))
    assert len(peer.state.hosts["/"].queues["q"]._turns._levels) <= 1


def test_body_frames_of_nothing_take_no_memory() -> None:
    peer = connect(make_state())
    start = method(1, spec.Basic.Publish(routing_key="q"))
    content = message(1, b"body")
    peer.send(start, content[: -len(b"body") - 8], b"\x03\0\x01\0\0\0\0\xce" * 10_000)
    unfinished = peer.session.channels.by_number[1]._content
    assert unfinished is not None
    assert unfinished._chunks == []
