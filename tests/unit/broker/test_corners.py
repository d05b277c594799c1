"""Rare ways through the embedded broker."""

from __future__ import annotations

import pytest
from pika import spec

from tests.support.sessions import HEADER, Peer, connect, make_state, method, publish
from warren.broker import exchanges, frames
from warren.broker.session import Phase


def quiet_peer() -> Peer:
    """A client that knows none of RabbitMQ's extensions."""
    return Peer(make_state()).handshake(client_properties={})


def test_a_client_that_knows_no_cancel_notification_gets_none() -> None:
    peer = quiet_peer()
    peer.send(method(1, spec.Channel.Open()), method(1, spec.Queue.Declare(queue="q")))
    peer.send(method(1, spec.Basic.Consume(queue="q")), method(1, spec.Queue.Delete(queue="q")))
    assert peer.methods()[-1].NAME == "Queue.DeleteOk"


def test_a_client_that_knows_no_blocking_is_blocked_all_the_same() -> None:
    peer = quiet_peer()
    peer.send(method(1, spec.Channel.Open()))
    peer.methods()
    peer.state.alarm = "hot"
    peer.send(publish("q"))
    assert peer.session.stalled
    peer.session.unblock()
    peer.session.unblock()
    assert (peer.session.stalled, peer.frames()) == (False, [])


def test_quorum_queues_have_no_shared_prefetch() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q", durable=True, arguments={"x-queue-type": "quorum"}))
    peer.call(spec.Basic.Qos(prefetch_count=1, global_qos=True))
    expected = "NOT_IMPLEMENTED - queue 'q' in vhost '/' does not support global qos"
    assert peer.call(spec.Basic.Consume(queue="q")).reply_text == expected


def test_in_a_transaction_returns_come_with_the_commit() -> None:
    peer = connect(make_state())
    peer.call(spec.Tx.Select())
    peer.send(publish("nowhere", mandatory=True))
    assert peer.frames() == []
    peer.send(method(1, spec.Tx.Commit()))
    assert [m.NAME for m in peer.methods()] == ["Basic.Return", "Tx.CommitOk"]


@pytest.mark.parametrize("early", [spec.Tx.Commit(), spec.Tx.Rollback()])
def test_without_a_transaction_there_is_nothing_to_end(early: object) -> None:
    assert connect(make_state()).call(early).reply_text == "PRECONDITION_FAILED - channel is not transactional"


def test_a_transaction_that_ends_with_its_channel_gives_back_what_it_acked() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q"))
    peer.send(publish("q"), method(1, spec.Tx.Select()), method(1, spec.Basic.Get(queue="q")))
    peer.send(method(1, spec.Basic.Ack(1)), method(1, spec.Channel.Close(200, "", 0, 0)))
    assert peer.state.hosts["/"].queues["q"].waiting.count == 1


def test_a_queue_that_is_not_empty_can_be_spared() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q"))
    peer.send(publish("q"))
    close = peer.call(spec.Queue.Delete(queue="q", if_empty=True))
    assert close.reply_text == "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty"


def test_a_deleted_exchange_leaves_no_trace_at_those_it_was_bound_to() -> None:
    peer = connect(make_state())
    for name in ("source", "target"):
        peer.call(spec.Exchange.Declare(exchange=name))
    peer.call(spec.Exchange.Bind(destination="target", source="source"))
    peer.call(spec.Exchange.Delete(exchange="source"))
    assert peer.state.hosts["/"].exchanges.by_name["target"].incoming == set()


def test_the_default_exchange_cannot_be_unbound() -> None:
    close = connect(make_state()).call(spec.Exchange.Unbind(destination="amq.direct", source=""))
    assert close.reply_code == 403


def test_what_a_deleted_queue_had_given_out_is_gone() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q", arguments={"x-expires": 1000}))
    peer.send(publish("q"), publish("q"))
    for _ in range(2):
        peer.call(spec.Basic.Get(queue="q"))
    peer.call(spec.Queue.Delete(queue="q"))
    peer.send(method(1, spec.Basic.Nack(1, requeue=True)), method(1, spec.Basic.Reject(2, requeue=False)))
    peer.state.advance(1002.0)  # its own expiry comes too late, and to nothing
    assert peer.frames() == []


def test_recover_without_an_answer() -> None:
    peer = connect(make_state())
    peer.send(method(1, spec.Basic.RecoverAsync(requeue=True)))
    assert peer.frames() == []


def test_headers_that_cannot_be_read_match_nothing() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q"))
    peer.call(spec.Queue.Bind(queue="q", exchange="amq.headers", arguments={"late": 1}))
    entry = b"\x04late" + b"T" + (2**60).to_bytes(8)
    header = b"\x00\x3c" + bytes(10) + b"\x20\x00" + len(entry).to_bytes(4) + entry
    frame = b"\x02\x00\x01" + len(header).to_bytes(4) + header + b"\xce"
    peer.send(method(1, spec.Basic.Publish(exchange="amq.headers", mandatory=True)), frame)
    assert b"NO_ROUTE" in peer.session.take_output()


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "_REMEMBERED", 2)
    monkeypatch.setattr(frames, "_REMEMBERED", 2)
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q"))
    peer.call(spec.Queue.Bind(queue="q", exchange="amq.topic", routing_key="#"))
    for number in range(5):
        peer.send(publish(f"key.{number}", exchange="amq.topic"))
    topic = peer.state.hosts["/"].exchanges.by_name["amq.topic"]
    assert isinstance(topic, exchanges.Topic)
    assert len(topic._known) <= 2
    assert peer.call(spec.Queue.Purge(queue="q")).message_count == 5


def test_a_publish_that_is_cut_short_is_not_taken() -> None:
    peer = connect(make_state())
    payload = b"\x00\x3c\x00\x28\x00\x00\x00\x09k\x00"
    peer.send(b"\x01\x00\x01" + len(payload).to_bytes(4) + payload + b"\xce")
    assert peer.methods()[0].reply_code == 501


def test_an_answer_to_a_close_that_nobody_sent_is_no_error() -> None:
    peer = connect(make_state())
    peer.send(method(5, spec.Channel.CloseOk()))
    assert peer.frames() == []


def test_a_handshake_has_its_time_although_the_clock_is_set_forward() -> None:
    state = make_state()
    peer = Peer(state)
    peer.send(HEADER)
    peer.session.skip(3600.0)
    state.advance(4600.0)
    assert peer.session.phase is Phase.START
    state.advance(4610.0)
    assert peer.session.ended


def test_what_is_written_to_a_session_that_has_ended_is_lost() -> None:
    state = make_state()
    one, two = connect(state), connect(state)
    one.call(spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True))
    one.session.end("over")
    one.session.take_output()
    one.session.relieve()
    one.session.write(b"late")
    two.send(publish("amq.rabbitmq.reply-to.1"))
    assert one.session.take_output() == b""


def test_heartbeats_end_with_the_session() -> None:
    state = make_state()
    peer = Peer(state).handshake(heartbeat=10)
    peer.session.lost()
    state.advance(1100.0)
    assert state.timers.next() is None
