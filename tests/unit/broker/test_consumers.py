"""Consumers: whose turn it is, how much they may hold, and what acknowledging does."""

from __future__ import annotations

import re

import pytest
from pika import spec

from tests.support.sessions import Peer, connect, make_state, method, publish


def consume(peer: Peer, tag: str, *, prefetch: int = 0, channel: int = 1, **fields: object) -> None:
    peer.call(spec.Basic.Qos(prefetch_count=prefetch), channel=channel)
    peer.call(spec.Basic.Consume(queue="q", consumer_tag=tag, **fields), channel=channel)


def deliveries(peer: Peer) -> list[tuple[str, int]]:
    """Who got something, and under which delivery tag."""
    return [(m.consumer_tag, m.delivery_tag) for m in peer.methods() if m.NAME == "Basic.Deliver"]


@pytest.fixture
def peer() -> Peer:
    """A client with two channels and a queue."""
    peer = connect(make_state(), 1, 2)
    peer.call(spec.Queue.Declare(queue="q"))
    return peer


def send(peer: Peer, count: int) -> None:
    peer.send(*(publish("q", b"%d" % i) for i in range(count)))


def test_consumers_take_turns(peer: Peer) -> None:
    for tag in "abc":
        consume(peer, tag)
    send(peer, 7)
    assert "".join(tag for tag, _ in deliveries(peer)) == "abcabca"


def test_the_highest_priority_gets_all_it_can_take(peer: Peer) -> None:
    consume(peer, "low")
    consume(peer, "high", prefetch=2, arguments={"x-priority": 5})
    send(peer, 4)
    assert [tag for tag, _ in deliveries(peer)] == ["high", "high", "low", "low"]
    peer.send(method(1, spec.Basic.Ack(1)))
    send(peer, 1)
    assert [tag for tag, _ in deliveries(peer)] == ["high"]


def test_prefetch_limits_each_consumer(peer: Peer) -> None:
    consume(peer, "a", prefetch=1)
    consume(peer, "b", prefetch=2)
    send(peer, 5)
    assert sorted(tag for tag, _ in deliveries(peer)) == ["a", "b", "b"]


def test_an_ack_makes_room(peer: Peer) -> None:
    consume(peer, "a", prefetch=2)
    send(peer, 5)
    assert deliveries(peer) == [("a", 1), ("a", 2)]
    peer.send(method(1, spec.Basic.Ack(1)))
    assert deliveries(peer) == [("a", 3)]
    peer.send(method(1, spec.Basic.Ack(3, multiple=True)))
    assert deliveries(peer) == [("a", 4), ("a", 5)]


def test_a_shared_prefetch_limits_all_consumers_of_a_channel(peer: Peer) -> None:
    consume(peer, "a")
    consume(peer, "b")
    peer.call(spec.Basic.Qos(prefetch_count=2, global_qos=True))
    send(peer, 5)
    assert len(deliveries(peer)) == 2
    peer.send(method(1, spec.Basic.Ack(1)))
    assert len(deliveries(peer)) == 1
    peer.send(method(1, spec.Basic.Qos(prefetch_count=0, global_qos=True)))
    assert len(deliveries(peer)) == 2


def test_queues_take_turns_with_a_shared_prefetch(peer: Peer) -> None:
    peer.call(spec.Basic.Qos(prefetch_count=1, global_qos=True))
    for queue in "rst":
        peer.call(spec.Queue.Declare(queue=queue))
        peer.send(*(publish(queue, b"x") for _ in range(3)))
        peer.call(spec.Basic.Consume(queue=queue, consumer_tag=queue))
    served = ""
    for tag in range(1, 8):
        peer.send(method(1, spec.Basic.Ack(tag)))
        served += "".join(consumer for consumer, _ in deliveries(peer))
    assert served == "rstrsts"  # and r before them all, when it had nobody beside it


def test_a_consumer_that_was_cancelled_without_credit_stays_away(peer: Peer) -> None:
    consume(peer, "a", prefetch=1)
    send(peer, 2)
    peer.call(spec.Basic.Cancel("a"))
    peer.send(method(1, spec.Basic.Ack(1)))
    assert deliveries(peer) == []


def test_consumers_without_acks_are_not_limited(peer: Peer) -> None:
    consume(peer, "a", prefetch=1, no_ack=True)
    send(peer, 3)
    assert len(deliveries(peer)) == 3


def test_consumers_of_direct_answers_know_their_tag_before_their_messages(peer: Peer) -> None:
    send(peer, 1)
    peer.send(method(1, spec.Basic.Consume(queue="q", consumer_tag="c")))
    assert [m.NAME for m in peer.methods()] == ["Basic.ConsumeOk", "Basic.Deliver"]


def test_a_lost_connection_gives_back_what_it_held(peer: Peer) -> None:
    lost = connect(peer.state)
    consume(lost, "c", prefetch=2)
    send(peer, 3)
    lost.session.lost()
    consume(peer, "d")
    got = [(m.delivery_tag, m.redelivered) for m in peer.methods() if m.NAME == "Basic.Deliver"]
    assert got == []  # they came with the answer to Consume
    assert peer.state.hosts["/"].queues["q"].unacked == 3


def test_a_cancelled_consumer_gets_nothing_more_but_may_ack(peer: Peer) -> None:
    consume(peer, "c", prefetch=1)
    send(peer, 2)
    peer.methods()
    peer.call(spec.Basic.Cancel("c"))
    peer.send(method(1, spec.Basic.Ack(1)))
    assert peer.frames() == []
    assert peer.call(spec.Queue.Declare(queue="q", passive=True)).message_count == 1


@pytest.mark.parametrize("answer", [spec.Basic.Ack(9), spec.Basic.Ack(0), spec.Basic.Nack(9), spec.Basic.Reject(9)])
def test_an_unknown_delivery_tag_closes_the_channel(peer: Peer, answer: object) -> None:
    close = peer.call(answer)
    assert (close.reply_code, close.reply_text.rpartition(" ")[0]) == (
        406,
        "PRECONDITION_FAILED - unknown delivery tag",
    )


def test_acking_twice_closes_the_channel(peer: Peer) -> None:
    consume(peer, "c")
    send(peer, 1)
    peer.methods()
    peer.send(method(1, spec.Basic.Ack(1)))
    assert peer.call(spec.Basic.Ack(1)).reply_text == "PRECONDITION_FAILED - unknown delivery tag 1"


def test_tag_zero_with_multiple_is_all_there_is(peer: Peer) -> None:
    consume(peer, "c", prefetch=3)
    send(peer, 5)
    peer.methods()
    peer.send(method(1, spec.Basic.Ack(0, multiple=True)))
    assert deliveries(peer) == [("c", 4), ("c", 5)]


def test_recover_delivers_again(peer: Peer) -> None:
    consume(peer, "c")
    send(peer, 2)
    peer.methods()
    peer.send(method(1, spec.Basic.Recover(requeue=True)))
    again = [m for m in peer.methods() if m.NAME == "Basic.Deliver"]
    assert [(m.delivery_tag, m.redelivered) for m in again] == [(3, True), (4, True)]


def test_a_tag_can_be_used_once_only(peer: Peer) -> None:
    consume(peer, "c")
    close = peer.call(spec.Basic.Consume(queue="q", consumer_tag="c"))
    assert (close.NAME, close.reply_text) == ("Connection.Close", "NOT_ALLOWED - attempt to reuse consumer tag 'c'")


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_an_exclusive_consumer_is_alone(peer: Peer, first: bool, second: bool) -> None:
    consume(peer, "c", exclusive=first)
    close = peer.call(spec.Basic.Consume(queue="q", exclusive=second), channel=2)
    assert close.reply_text == "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"


def test_of_single_active_consumers_the_next_takes_over() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q", arguments={"x-single-active-consumer": True}))
    for tag in "abc":
        consume(peer, tag)
    send(peer, 2)
    assert [tag for tag, _ in deliveries(peer)] == ["a", "a"]
    peer.call(spec.Basic.Cancel("a"))
    send(peer, 2)
    assert [tag for tag, _ in deliveries(peer)] == ["b", "b"]


def test_a_quorum_queue_counts_deliveries_and_gives_up() -> None:
    peer = connect(make_state())
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1}
    peer.call(spec.Queue.Declare(queue="q", durable=True, arguments=arguments))
    peer.send(publish("q", headers={"mine": 1}))
    peer.call(spec.Basic.Consume(queue="q"))
    peer.send(method(1, spec.Basic.Nack(1, requeue=True)))
    header = peer.frames()[1]
    assert header.properties.headers == {"mine": 1, "x-delivery-count": 1}
    peer.send(method(1, spec.Basic.Nack(2, requeue=True)))
    assert peer.frames() == []


# --- transactions -----------------------------------------------------------------------------------------------------


def test_publishes_and_acks_wait_for_the_commit(peer: Peer) -> None:
    send(peer, 1)
    peer.call(spec.Tx.Select())
    peer.call(spec.Basic.Get(queue="q"))
    peer.send(method(1, spec.Basic.Ack(1)), publish("q", b"new"))
    queue = peer.state.hosts["/"].queues["q"]
    assert (queue.waiting.count, queue.unacked) == (0, 1)
    peer.call(spec.Tx.Commit())
    assert (queue.waiting.count, queue.unacked) == (1, 0)


def test_a_rollback_forgets_publishes_and_takes_acks_back(peer: Peer) -> None:
    send(peer, 1)
    peer.call(spec.Tx.Select())
    peer.call(spec.Basic.Get(queue="q"))
    peer.send(method(1, spec.Basic.Ack(1)), publish("q", b"new"))
    peer.call(spec.Tx.Rollback())
    queue = peer.state.hosts["/"].queues["q"]
    assert (queue.waiting.count, queue.unacked) == (0, 1)
    peer.send(method(1, spec.Basic.Ack(1)), method(1, spec.Tx.Commit()))
    assert queue.unacked == 0


def test_a_channel_has_confirms_or_transactions(peer: Peer) -> None:
    peer.call(spec.Confirm.Select())
    assert peer.call(spec.Tx.Select()).reply_text == "PRECONDITION_FAILED - cannot switch from confirm to tx mode"
    peer.call(spec.Tx.Select(), channel=2)
    close = peer.call(spec.Confirm.Select(), channel=2)
    assert close.reply_text == "PRECONDITION_FAILED - cannot switch from tx to confirm mode"


# --- direct reply-to --------------------------------------------------------------------------------------------------


def test_a_direct_reply_reaches_the_channel_that_asked(peer: Peer) -> None:
    server = connect(peer.state)
    consume(server, "s")
    peer.call(spec.Basic.Consume(queue="amq.rabbitmq.reply-to", consumer_tag="r", no_ack=True))
    peer.send(publish("q", reply_to="amq.rabbitmq.reply-to", correlation_id="7"))
    address = server.frames()[1].properties.reply_to
    assert re.fullmatch(r"amq\.rabbitmq\.reply-to\.[^.]+\.[^.]+==", address)  # php-amqp's tests look at it
    server.send(publish(address, b"answer", correlation_id="7", mandatory=True))
    deliver, header, body = peer.frames()
    assert (deliver.method.consumer_tag, deliver.method.routing_key) == ("r", address)
    assert (header.properties.correlation_id, body.fragment) == ("7", b"answer")
    assert server.frames() == []


def test_a_reply_to_a_channel_that_is_gone_is_unroutable(peer: Peer) -> None:
    peer.call(spec.Basic.Consume(queue="amq.rabbitmq.reply-to", consumer_tag="r", no_ack=True))
    peer.call(spec.Basic.Cancel("r"))
    peer.send(publish("amq.rabbitmq.reply-to.1", mandatory=True))
    assert peer.methods()[0].NAME == "Basic.Return"


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ([spec.Basic.Consume(queue="amq.rabbitmq.reply-to")], "reply consumer cannot acknowledge"),
        ([spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True)] * 2, "reply consumer already set"),
    ],
)
def test_reply_consumers_are_one_and_without_acks(peer: Peer, methods: list[object], complaint: str) -> None:
    peer.send(*(method(1, each) for each in methods))
    assert peer.methods()[-1].reply_text == f"PRECONDITION_FAILED - {complaint}"


def test_asking_for_direct_replies_without_a_consumer_closes_the_channel(peer: Peer) -> None:
    peer.send(publish("q", reply_to="amq.rabbitmq.reply-to"))
    assert peer.methods()[0].reply_text == "PRECONDITION_FAILED - fast reply consumer does not exist"
