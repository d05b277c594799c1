"""Queues: order, priorities, limits and time, seen by clients of sessions."""

from __future__ import annotations

from typing import Any

import pytest
from pika import spec

from tests.support.sessions import Peer, connect, make_state, method, publish


def declare(peer: Peer, queue: str = "q", **arguments: Any) -> Any:
    return peer.call(spec.Queue.Declare(queue=queue, arguments={k.replace("_", "-"): v for k, v in arguments.items()}))


def get(peer: Peer, queue: str = "q", no_ack: bool = True) -> bytes | None:
    peer.send(method(1, spec.Basic.Get(queue=queue, no_ack=no_ack)))
    frames = peer.frames()
    return None if frames[0].method.NAME == "Basic.GetEmpty" else frames[-1].fragment


def get_all(peer: Peer, queue: str = "q") -> list[bytes]:
    return list(iter(lambda: get(peer, queue), None))


def count(peer: Peer, queue: str = "q") -> int:
    answer = peer.call(spec.Queue.Declare(queue=queue, passive=True))
    messages: int = answer.message_count
    return messages


# --- order ------------------------------------------------------------------------------------------------------------


def test_messages_come_in_the_order_they_were_published() -> None:
    peer = connect(make_state())
    declare(peer)
    peer.send(*(publish("q", b"%d" % i) for i in range(5)))
    assert get_all(peer) == [b"0", b"1", b"2", b"3", b"4"]


def test_what_is_put_back_goes_where_it_was() -> None:
    peer = connect(make_state())
    declare(peer)
    peer.send(*(publish("q", b"%d" % i) for i in range(5)))
    for _ in range(4):
        get(peer, no_ack=False)
    peer.send(*(method(1, spec.Basic.Nack(tag, requeue=True)) for tag in (3, 1, 4)))
    assert get_all(peer) == [b"0", b"2", b"3", b"4"]


def test_what_is_put_back_is_marked_redelivered() -> None:
    peer = connect(make_state())
    declare(peer)
    peer.send(publish("q"))
    assert peer.call(spec.Basic.Get(queue="q")).redelivered is False
    peer.send(method(1, spec.Basic.Reject(1, requeue=True)))
    assert peer.call(spec.Basic.Get(queue="q")).redelivered is True


def test_higher_priorities_come_first_and_what_is_above_the_maximum_counts_as_it() -> None:
    peer = connect(make_state())
    declare(peer, x_max_priority=5)
    for body, priority in ((b"none", None), (b"1", 1), (b"5", 5), (b"200", 200), (b"5 again", 5)):
        peer.send(publish("q", body, priority=priority))
    assert get_all(peer) == [b"5", b"200", b"5 again", b"1", b"none"]


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_full_queue_drops_its_oldest_message() -> None:
    peer = connect(make_state())
    declare(peer, x_max_length=2)
    peer.send(*(publish("q", b"%d" % i) for i in range(4)))
    assert get_all(peer) == [b"2", b"3"]


def test_a_queue_can_be_limited_in_bytes() -> None:
    peer = connect(make_state())
    declare(peer, x_max_length_bytes=10)
    peer.send(*(publish("q", b"%d" % i * 4) for i in range(4)))
    assert get_all(peer) == [b"2222", b"3333"]
    peer.send(publish("q", bytes(11)))
    assert get_all(peer) == []


def test_messages_with_consumers_do_not_count() -> None:
    peer = connect(make_state())
    declare(peer, x_max_length=1)
    peer.call(spec.Basic.Consume(queue="q"))
    peer.send(*(publish("q", b"%d" % i) for i in range(3)))
    assert peer.bodies() == [b"0", b"1", b"2"]


def test_a_queue_of_no_length_still_serves_a_ready_consumer() -> None:
    peer = connect(make_state())
    declare(peer, x_max_length=0)
    peer.call(spec.Basic.Consume(queue="q"))
    peer.send(publish("q"))
    assert peer.bodies() == [b"m"]


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue_ttl", "expiration", "lives"), [(None, "200", 0.2), (200, None, 0.2), (100, "200", 0.1), (200, "100", 0.1)]
)
def test_a_message_lives_for_the_shorter_of_both_times(
    queue_ttl: int | None, expiration: str | None, lives: float
) -> None:
    state = make_state()
    peer = connect(state)
    arguments = {"x-message-ttl": queue_ttl} if queue_ttl is not None else {}
    peer.call(spec.Queue.Declare(queue="q", arguments=arguments))
    peer.send(publish("q", expiration=expiration))
    state.advance(1000.0 + lives - 0.001)
    assert count(peer) == 1
    state.advance(1000.0 + lives)
    assert count(peer) == 0


def test_messages_expire_at_the_head_only() -> None:
    state = make_state()
    peer = connect(state)
    declare(peer)
    peer.send(publish("q", b"old", expiration="5000"), publish("q", b"short", expiration="10"))
    state.advance(1001.0)
    assert count(peer) == 2
    assert get(peer) == b"old"
    assert count(peer) == 0


def test_a_message_that_may_not_wait_reaches_a_ready_consumer() -> None:
    peer = connect(make_state())
    declare(peer)
    peer.call(spec.Basic.Consume(queue="q"))
    peer.send(publish("q", expiration="0"))
    assert peer.bodies() == [b"m"]


def test_a_message_that_may_not_wait_is_gone_if_nobody_is_ready() -> None:
    peer = connect(make_state())
    declare(peer)
    peer.send(publish("q", expiration="0"))
    assert count(peer) == 0


def test_what_is_put_back_too_late_expires_at_once() -> None:
    state = make_state()
    peer = connect(state)
    declare(peer, x_message_ttl=100)
    peer.send(publish("q"))
    get(peer, no_ack=False)
    state.advance(1001.0)
    peer.send(method(1, spec.Basic.Nack(1, requeue=True)))
    assert count(peer) == 0


def test_an_unused_queue_expires() -> None:
    state = make_state()
    peer = connect(state)
    declare(peer, x_expires=1000)
    state.advance(1000.9)
    assert count(peer) == 0  # a look is a use
    state.advance(1001.8)
    assert count(peer) == 0
    state.advance(1002.8)
    assert peer.call(spec.Queue.Declare(queue="q", passive=True)).reply_code == 404


def test_a_consumer_keeps_a_queue_from_expiring() -> None:
    state = make_state()
    peer = connect(state)
    declare(peer, x_expires=1000)
    peer.call(spec.Basic.Consume(queue="q", consumer_tag="c"))
    state.advance(1010.0)
    peer.call(spec.Basic.Cancel("c"))
    state.advance(1010.9)
    assert "q" in state.hosts["/"].queues
    state.advance(1011.1)
    assert "q" not in state.hosts["/"].queues


# --- beginning and end ------------------------------------------------------------------------------------------------


def test_an_exclusive_queue_ends_with_its_connection_and_is_nobody_elses() -> None:
    state = make_state()
    owner, other = connect(state), connect(state)
    owner.call(spec.Queue.Declare(queue="q", exclusive=True))
    assert other.call(spec.Queue.Declare(queue="q", passive=True)).reply_code == 405
    owner.session.lost()
    assert state.hosts["/"].queues == {}


def test_an_auto_delete_queue_ends_with_its_last_consumer() -> None:
    state = make_state()
    one, two = connect(state), connect(state)
    one.call(spec.Queue.Declare(queue="q", auto_delete=True))
    for peer in (one, two):
        peer.call(spec.Basic.Consume(queue="q", consumer_tag="c"))
    one.call(spec.Basic.Cancel("c"))
    assert "q" in state.hosts["/"].queues
    two.session.lost()
    assert "q" not in state.hosts["/"].queues


def test_deleting_tells_consumers_after_the_answer() -> None:
    peer = connect(make_state())
    declare(peer)
    peer.call(spec.Basic.Consume(queue="q", consumer_tag="c"))
    peer.send(publish("q"), method(1, spec.Queue.Delete(queue="q")))
    names = [m.NAME for m in peer.methods()]
    assert names == ["Basic.Deliver", "Queue.DeleteOk", "Basic.Cancel"]
    peer.send(method(1, spec.Basic.Ack(1)))  # of a queue that is gone: no error
    assert peer.frames() == []


def test_a_deleted_queue_is_bound_no_more() -> None:
    state = make_state()
    peer = connect(state)
    declare(peer)
    peer.call(spec.Queue.Bind(queue="q", exchange="amq.direct", routing_key="k"))
    peer.call(spec.Queue.Delete(queue="q"))
    peer.send(publish("k", exchange="amq.direct", mandatory=True))
    assert peer.methods()[0].NAME == "Basic.Return"


def test_purging_leaves_what_consumers_hold() -> None:
    peer = connect(make_state())
    declare(peer)
    peer.send(*(publish("q", b"%d" % i) for i in range(3)))
    get(peer, no_ack=False)
    assert peer.call(spec.Queue.Purge(queue="q")).message_count == 2
    peer.send(method(1, spec.Basic.Nack(1, requeue=True)))
    assert get_all(peer) == [b"0"]
