"""A running connection: channels, heartbeats, confirms, alarms, and how it ends."""

from __future__ import annotations

import pytest
from pika import frame, spec

from tests.support.sessions import HEADER, Peer, connect, make_state, message, method, publish, split
from warren.amqp.frames import HEARTBEAT_FRAME
from warren.broker.errors import AmqpError
from warren.broker.session import Phase

QUEUE = spec.Queue.Declare(queue="q")


def raw(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return bytes((kind,)) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + end


# --- channels ---------------------------------------------------------------------------------------------------------


def test_channels_open_and_close() -> None:
    peer = connect(make_state())
    assert isinstance(peer.call(spec.Channel.Open(), channel=7), spec.Channel.OpenOk)
    assert isinstance(peer.call(spec.Channel.Close(200, "bye", 0, 0), channel=7), spec.Channel.CloseOk)
    assert isinstance(peer.call(spec.Channel.Open(), channel=7), spec.Channel.OpenOk)


def test_a_channel_error_leaves_the_connection_and_its_other_channels_alone() -> None:
    peer = connect(make_state(), 1, 2)
    close = peer.call(spec.Queue.Declare(queue="nope", passive=True))
    assert isinstance(close, spec.Channel.Close)
    assert (close.reply_code, close.reply_text) == (404, "NOT_FOUND - no queue 'nope' in vhost '/'")
    assert (close.class_id, close.method_id) == (50, 10)
    assert isinstance(peer.call(QUEUE, channel=2), spec.Queue.DeclareOk)


def test_a_closed_channel_ignores_everything_until_the_client_has_answered() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="nope", passive=True))
    peer.send(method(1, QUEUE), publish("q"))
    assert peer.frames() == []
    peer.send(method(1, spec.Channel.CloseOk()))
    assert isinstance(peer.call(spec.Channel.Open()), spec.Channel.OpenOk)


def test_closes_that_cross_are_both_answered() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="nope", passive=True))
    assert isinstance(peer.call(spec.Channel.Close(200, "bye", 0, 0)), spec.Channel.CloseOk)


def test_the_publish_that_fails_is_named_in_the_close() -> None:
    peer = connect(make_state())
    peer.send(publish("k", exchange="nope"))
    (close,) = peer.methods()
    assert (close.reply_code, close.class_id, close.method_id) == (404, 60, 40)


def test_no_more_channels_than_agreed() -> None:
    peer = Peer(make_state(channel_max=2))
    peer.send(HEADER, method(0, spec.Connection.StartOk({}, "PLAIN", "\0guest\0guest")))
    peer.send(method(0, spec.Connection.TuneOk(2, 131072, 0)), method(0, spec.Connection.Open("/")))
    peer.send(*(method(number, spec.Channel.Open()) for number in (1, 2, 3)))
    close = peer.methods()[-1]
    assert close.reply_text == "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"


@pytest.mark.parametrize("active", [True, False])
def test_flow_can_be_asked_for_but_not_stopped(active: bool) -> None:
    answer = connect(make_state()).call(spec.Channel.Flow(active))
    assert getattr(answer, "active", None) is True if active else answer.reply_code == 540


# --- what is no AMQP --------------------------------------------------------------------------------------------------

_PUBLISH = method(1, spec.Basic.Publish(routing_key="q"))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (raw(1, 1, b"abcd", end=b"\x00"), 501),
        (raw(7, 1, b"abc"), 501),
        (raw(7, 0, b"abc"), 501),
        (raw(1, 1, bytes(200_000)), 501),
        (raw(1, 1, b"\x00\x32"), 501),
        (raw(1, 1, b"\x00\x32\x00\x0a\x00"), 501),
        (raw(1, 1, b"\x00\x3c\x00\x28\x00\x00\x00\x09k"), 501),
        (raw(1, 1, b"\x00\x3c\x00\x50\x00\x00"), 501),
        (raw(1, 1, b"\x00\x3c\x00\xff"), 503),
        (method(1, spec.Queue.DeclareOk("q", 0, 0)), 503),
        (method(1, spec.Connection.Open("/")), 503),
        (method(0, QUEUE), 504),
        (method(0, spec.Connection.Open("/")), 504),
        (method(1, spec.Channel.Open()), 504),
        (method(9, QUEUE), 504),
        (raw(8, 1, b""), 505),
        (raw(8, 0, b"x"), 501),
        (raw(3, 0, b"x"), 505),
        (raw(3, 1, b"x"), 505),
        (_PUBLISH + raw(3, 1, b"x"), 505),
        (_PUBLISH + _PUBLISH, 505),
        (_PUBLISH + raw(2, 1, b"\x00\x28" + bytes(12)), 505),
        (_PUBLISH + raw(2, 1, b"\x00\x3c"), 501),
        (_PUBLISH + raw(2, 1, b"\x00\x3c" + bytes(10) + b"\xff\xff"), 502),
        (_PUBLISH + raw(2, 1, b"\x00\x3c" + bytes(10) + b"\x00\x00junk"), 502),
        (_PUBLISH + raw(2, 1, b"\x00\x3c" + bytes(9) + b"\x01\x00\x00") * 2, 505),
        (_PUBLISH + raw(2, 1, b"\x00\x3c" + bytes(9) + b"\x01\x00\x00") + raw(3, 1, b"xx"), 501),
        (method(1, spec.Basic.Publish(routing_key="q", immediate=True)) + message(1, b""), 540),
        (method(1, spec.Basic.Qos(prefetch_size=1)), 540),
        (method(1, spec.Basic.Recover(False)), 540),
    ],
)
def test_what_is_no_amqp_closes_the_connection_with_a_code_and_nothing_else(data: bytes, code: int) -> None:
    state = make_state()
    peer, other = connect(state), connect(state)
    peer.send(data)
    close = peer.methods()[-1]
    assert isinstance(close, spec.Connection.Close)
    assert close.reply_code == code
    assert isinstance(other.call(QUEUE), spec.Queue.DeclareOk)


def test_a_message_that_is_too_large_closes_the_channel_before_it_has_come() -> None:
    peer = connect(make_state(max_message_size=10))
    peer.send(_PUBLISH, raw(2, 1, b"\x00\x3c" + bytes(9) + b"\x0b\x00\x00"))
    (close,) = peer.methods()
    assert close.reply_text == "PRECONDITION_FAILED - message size 11 is larger than configured max size 10"
    peer.send(raw(3, 1, b"12345678901"))
    assert peer.frames() == []


def test_after_connection_close_only_its_answer_counts() -> None:
    peer = connect(make_state())
    peer.send(method(0, QUEUE))
    assert peer.session.phase is Phase.CLOSING
    peer.methods()
    peer.send(method(1, QUEUE), method(0, QUEUE), raw(8, 0, b""))
    assert peer.frames() == []
    peer.send(method(0, spec.Connection.CloseOk()))
    assert peer.session.ended


def test_a_client_that_never_answers_connection_close_is_cut_off() -> None:
    state = make_state()
    peer = connect(state)
    peer.session.close(AmqpError(320, "bye"))
    state.advance(1005.0)
    assert peer.session.ended


@pytest.mark.parametrize("way", ["lost", "closed by the broker", "closed by the client"])
def test_what_a_connection_holds_does_not_go_to_another_of_its_channels_when_it_ends(way: str) -> None:
    state = make_state()
    peer, other = connect(state, 1, 2), connect(state)
    peer.call(QUEUE)
    for channel in (1, 2):
        peer.call(spec.Basic.Consume(queue="q", no_ack=channel == 2), channel=channel)
    peer.send(publish("q"))
    assert peer.bodies() == [b"m"]
    if way == "lost":
        peer.session.lost()
    elif way == "closed by the broker":
        peer.session.close(AmqpError(320, "bye"))
    else:
        peer.call(spec.Connection.Close(200, "bye", 0, 0), channel=0)
    assert peer.bodies() == []
    assert other.call(spec.Basic.Get(queue="q", no_ack=True)).NAME == "Basic.GetOk"


def test_the_client_closes() -> None:
    peer = connect(make_state())
    assert isinstance(peer.call(spec.Connection.Close(200, "bye", 0, 0), channel=0), spec.Connection.CloseOk)
    assert peer.session.ended


def test_a_text_that_does_not_fit_is_cut() -> None:
    peer = connect(make_state())
    close = peer.call(spec.Queue.Declare(queue="n" * 255, passive=True))
    assert len(close.reply_text) == 255


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_heartbeats_are_sent_when_nothing_else_is() -> None:
    state = make_state()
    peer = Peer(state).handshake(heartbeat=10)
    peer.methods()
    state.advance(1004.0)
    assert peer.frames() == []
    state.advance(1005.0)
    assert isinstance(peer.frames()[0], frame.Heartbeat)


def test_a_silent_client_is_dropped_after_two_heartbeats() -> None:
    state = make_state()
    peer = Peer(state).handshake(heartbeat=10)
    state.advance(1015.0)
    assert not peer.session.ended
    state.advance(1020.0)
    assert peer.session.ended
    assert peer.session.ended_by == "no heartbeat for 20 s"


def test_any_bytes_are_a_sign_of_life() -> None:
    state = make_state()
    peer = Peer(state).handshake(heartbeat=10)
    for now in range(1005, 1100, 5):
        state.advance(now)
        peer.send(raw(8, 0, b""))
    assert not peer.session.ended


# --- confirms ---------------------------------------------------------------------------------------------------------


def test_what_comes_together_is_confirmed_together() -> None:
    peer = connect(make_state())
    peer.call(QUEUE)
    peer.call(spec.Confirm.Select())
    peer.send(publish("q"), publish("q"), publish("q"))
    (ack,) = peer.methods()
    assert (ack.delivery_tag, ack.multiple) == (3, True)
    peer.send(publish("q"))
    (ack,) = peer.methods()
    assert (ack.delivery_tag, ack.multiple) == (4, False)


def test_a_return_comes_before_the_confirm() -> None:
    peer = connect(make_state())
    peer.call(spec.Confirm.Select())
    peer.send(publish("nowhere", b"lost", mandatory=True, correlation_id="7"))
    returned, header, body, ack = peer.frames()
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert (returned.method.exchange, returned.method.routing_key) == ("", "nowhere")
    assert (header.properties.correlation_id, body.fragment) == ("7", b"lost")
    assert isinstance(ack.method, spec.Basic.Ack)


def test_what_a_full_queue_refuses_is_nacked_in_its_turn() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q", arguments={"x-max-length": 1, "x-overflow": "reject-publish"}))
    peer.call(spec.Confirm.Select())
    peer.send(publish("q"), publish("q"), publish("elsewhere"))
    acks = peer.methods()
    assert [(type(m), m.delivery_tag) for m in acks] == [(spec.Basic.Ack, 1), (spec.Basic.Nack, 2), (spec.Basic.Ack, 3)]


# --- alarms -----------------------------------------------------------------------------------------------------------


def test_under_an_alarm_who_publishes_is_blocked_until_it_is_over() -> None:
    state = make_state()
    peer = connect(state)
    peer.call(QUEUE)
    state.alarm = "low on memory"
    peer.send(publish("q", b"held"), method(1, spec.Queue.Declare(queue="q", passive=True)))
    (blocked,) = peer.methods()
    assert blocked.reason == "low on memory"
    assert peer.session.stalled
    assert connect(state).call(spec.Queue.Declare(queue="q", passive=True)).message_count == 0
    state.alarm = None
    peer.session.unblock()
    unblocked, answer = peer.methods()
    assert isinstance(unblocked, spec.Connection.Unblocked)
    assert answer.message_count == 1


def test_under_an_alarm_who_only_consumes_is_not_blocked() -> None:
    state = make_state()
    state.alarm = "low on memory"
    peer = connect(state)
    assert isinstance(peer.call(QUEUE), spec.Queue.DeclareOk)
    assert not peer.session.stalled


def test_a_blocked_client_may_be_silent() -> None:
    state = make_state()
    peer = Peer(state).handshake(heartbeat=10)
    peer.send(method(1, spec.Channel.Open()))
    state.alarm = "low on memory"
    peer.send(publish("q"))
    for now in range(1005, 1200, 5):
        state.advance(now)
    assert not peer.session.ended


def test_under_an_alarm_a_message_without_a_body_is_the_last_that_is_taken() -> None:
    state = make_state()
    peer = connect(state)
    peer.call(QUEUE)
    state.alarm = "low on memory"
    peer.send(publish("q", b""), publish("q", b""))
    assert peer.session.stalled
    assert connect(state).call(spec.Queue.Declare(queue="q", passive=True)).message_count == 1


# --- a client that does not read --------------------------------------------------------------------------------------


def test_for_a_client_that_does_not_read_only_so_much_is_kept() -> None:
    state = make_state(buffer_limit=10_000)
    peer, publisher = connect(state), connect(state)
    peer.call(QUEUE)
    peer.call(spec.Basic.Consume(queue="q", no_ack=True))
    for _ in range(100):
        publisher.send(publish("q", bytes(1000)))
    assert len(peer.bodies()) == 10
    assert publisher.call(spec.Queue.Declare(queue="q", passive=True)).message_count == 90


def test_it_gets_the_rest_when_it_reads_again() -> None:
    state = make_state(buffer_limit=10_000)
    peer, publisher = connect(state), connect(state)
    peer.call(QUEUE)
    peer.call(spec.Basic.Consume(queue="q", no_ack=True))
    for number in range(100):
        publisher.send(publish("q", b"%4d" % number * 250))
    got: list[bytes] = []
    while bodies := peer.bodies():
        got += bodies
        peer.session.relieve()
    assert got == [b"%4d" % number * 250 for number in range(100)]


def test_while_the_socket_takes_nothing_messages_wait_in_their_queue() -> None:
    state = make_state()
    peer = connect(state)
    peer.call(QUEUE)
    peer.call(spec.Basic.Consume(queue="q", no_ack=True))
    peer.session.congest()
    peer.send(publish("q"))
    assert peer.bodies() == []
    peer.session.relieve()
    assert peer.bodies() == [b"m"]


def test_what_a_client_asks_for_without_reading_waits() -> None:
    state = make_state(buffer_limit=10_000)
    peer, publisher = connect(state), connect(state)
    peer.call(QUEUE)
    publisher.send(publish("q", bytes(1000)) * 100)
    peer.send(method(1, spec.Basic.Get(queue="q", no_ack=True)) * 100)
    assert len(peer.session.take_output()) < 15_000
    count = 0
    peer.session.relieve()
    while bodies := peer.bodies():
        count += len(bodies)
        peer.session.relieve()
    assert count > 80
    assert publisher.call(spec.Queue.Declare(queue="q", passive=True)).message_count == 0


def test_half_a_frame_that_comes_while_a_client_does_not_read_is_put_together() -> None:
    state = make_state()
    peer = connect(state)
    data = method(1, QUEUE) + publish("q", bytes(2000)) + method(1, spec.Queue.Declare(queue="q", passive=True))
    peer.session.congest()
    for start in range(0, len(data), 700):
        peer.send(data[start : start + 700])
    assert peer.methods() == []
    peer.session.relieve()
    assert [answer.message_count for answer in peer.methods()] == [0, 1]


def test_from_a_client_that_does_not_read_only_so_much_is_taken() -> None:
    peer = connect(make_state(buffer_limit=10_000))
    peer.session.congest()
    peer.send(publish("q", bytes(5000)))
    assert not peer.session.stalled
    peer.send(publish("q", bytes(5000)))
    assert peer.session.stalled
    peer.session.relieve()
    assert not peer.session.stalled


@pytest.mark.parametrize("beats", [False, True])
def test_a_client_that_does_not_read_is_dropped_if_it_is_silent_as_well(beats: bool) -> None:
    state = make_state()
    peer = Peer(state).handshake(heartbeat=10)
    peer.session.congest()
    for now in range(1005, 1030, 5):
        if beats:
            peer.send(raw(8, 0, b""))
        state.advance(float(now))
    assert peer.session.ended is not beats


# --- contents ---------------------------------------------------------------------------------------------------------


def test_a_large_body_is_cut_to_the_frame_size_of_who_gets_it() -> None:
    peer = Peer(make_state())
    peer.send(HEADER, method(0, spec.Connection.StartOk({}, "PLAIN", "\0guest\0guest")))
    peer.send(method(0, spec.Connection.TuneOk(10, 4096, 0)), method(0, spec.Connection.Open("/")))
    peer.send(method(1, spec.Channel.Open()), method(1, QUEUE), method(1, spec.Basic.Consume(queue="q")))
    peer.methods()
    body = bytes(range(256)) * 40
    chunks = [body[i : i + 4000] for i in range(0, len(body), 4000)]
    header = frame.Header(1, len(body), spec.BasicProperties()).marshal()
    peer.send(_PUBLISH, header, *(frame.Body(1, chunk).marshal() for chunk in chunks))
    got = peer.bodies()
    assert b"".join(got) == body
    assert [len(chunk) for chunk in got] == [4088, 4088, 2064]


def test_a_body_of_no_bytes_has_no_body_frame() -> None:
    peer = connect(make_state())
    peer.call(QUEUE)
    peer.call(spec.Basic.Consume(queue="q"))
    peer.send(_PUBLISH, message(1, b""))
    deliver, header = peer.frames()
    assert (deliver.method.NAME, header.body_size) == ("Basic.Deliver", 0)


def test_headers_pass_through_byte_for_byte() -> None:
    """Timestamps beyond the year 9999 and small integers survive, which Python's types would not let them."""
    table = b"\x04late" + b"T" + (2**60).to_bytes(8) + b"\x04byte" + b"b\x7f" + b"\x05words" + b"s\x00\x01"
    properties = b"\x20\x40" + len(table).to_bytes(4) + table + (2**60).to_bytes(8)
    peer = connect(make_state())
    peer.call(QUEUE)
    peer.call(spec.Basic.Consume(queue="q"))
    header = b"\x00\x3c" + bytes(10) + properties
    peer.send(_PUBLISH, raw(2, 1, header))
    data = peer.session.take_output()
    deliver = split(data[: data.index(header) - 7])
    assert deliver[0].method.NAME == "Basic.Deliver"
    assert data.endswith(raw(2, 1, header))


def test_a_client_that_reads_nothing_is_cut_off_whatever_it_sends() -> None:
    state = make_state()
    peer = Peer(state).handshake(heartbeat=10)
    peer.session.congest()
    for now in range(1005, 1030, 5):
        state.advance(now)
        peer.send(HEARTBEAT_FRAME)
        assert not peer.session.ended
    state.advance(1030)
    assert peer.session.ended
    assert peer.session.resets


def test_a_client_that_reads_slowly_is_not_cut_off() -> None:
    state = make_state()
    backlog = [200_000]
    peer = Peer(state, backlog=lambda: backlog[0]).handshake(heartbeat=0)
    peer.session.congest()
    for now in range(1010, 1200, 10):
        backlog[0] -= 100
        state.advance(now)
        assert not peer.session.ended
    for now in range(1200, 1270, 10):
        state.advance(now)
    assert peer.session.ended


def test_a_client_that_reads_again_has_all_the_time_again() -> None:
    state = make_state()
    peer = Peer(state).handshake(heartbeat=0)
    for now in range(1000, 1200, 20):
        state.advance(now)
        peer.session.congest()
        state.advance(now + 19)
        peer.session.relieve()
    assert not peer.session.ended


def test_a_clock_that_is_set_forward_cuts_nobody_off() -> None:
    state = make_state()
    peer = Peer(state).handshake(heartbeat=0)
    peer.session.congest()
    peer.session.skip(1000)
    state.advance(2010)
    assert not peer.session.ended
    state.advance(2030)
    assert peer.session.ended
