"""Small pure parts: timers, faults, tables, expirations, status."""

from __future__ import annotations

from functools import partial

import pytest
from pika import spec

from tests.support.sessions import connect, make_state, method, publish, split
from warren.amqp.tables import decode_value
from warren.broker.errors import AmqpError
from warren.broker.faults import Faults
from warren.broker.message import parse_expiration
from warren.broker.status import answer_status, take_status
from warren.broker.tables import type_name
from warren.broker.timers import Timers


def test_timers_run_in_order_of_time() -> None:
    timers = Timers(0.0)
    ran: list[float] = []
    for when in (3.0, 1.0, 2.0):
        timers.at(when, partial(ran.append, when))
    timers.run(2.0)
    assert (ran, timers.next()) == ([1.0, 2.0], 3.0)


def test_what_a_timer_asks_for_now_runs_now() -> None:
    timers, ran = Timers(0.0), []
    timers.at(1.0, lambda: timers.at(1.0, lambda: ran.append("later")))
    timers.run(1.0)
    assert (ran, timers.next()) == (["later"], None)


def test_a_cancelled_timer_does_not_run() -> None:
    timers, ran = Timers(0.0), []
    one = timers.at(1.0, lambda: ran.append("one"))
    other = timers.at(1.0, lambda: ran.append("other"))
    one.cancel()
    one.cancel()
    timers.run(1.0)
    other.cancel()
    assert (ran, len(timers), timers.next()) == (["other"], 0, None)


def test_cancelled_timers_are_swept_out_and_the_others_stay_in_order() -> None:
    timers, ran = Timers(0.0), list[int]()
    for number in range(10_000):
        timer = timers.at(float(number), partial(ran.append, number))
        if number % 100:
            timer.cancel()
    assert len(timers) < 2_500
    timers.run(10_000.0)
    assert ran == list(range(0, 10_000, 100))


def test_time_does_not_go_back() -> None:
    timers = Timers(10.0)
    timers.run(5.0)
    assert timers.now == 10.0


def test_who_waits_is_told_of_what_is_due_before_all_else() -> None:
    timers, told = Timers(0.0), []
    timers.on_earlier = lambda: told.append(timers.next())
    for when in (3.0, 5.0, 1.0):
        timers.at(when, lambda: None)
    assert told == [3.0, 1.0]


@pytest.mark.parametrize("value", [b"0", b"1", b"+5", b"315360000000"])
def test_an_expiration_is_a_number_of_milliseconds(value: bytes) -> None:
    assert parse_expiration(value) == int(value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"1.5", '{leftover_string,".5"}'),
        (b"-1", "{value_negative,-1}"),
        (b"", "no_integer"),
        (b" 5", "no_integer"),
        (b"315360000001", "{value_too_large,315360000001}"),
    ],
)
def test_anything_else_is_not(value: bytes, problem: str) -> None:
    with pytest.raises(AmqpError) as refused:
        parse_expiration(value)
    assert refused.value.text == f"PRECONDITION_FAILED - invalid expiration '{value.decode()}': {problem}"


def test_a_moment_that_python_cannot_hold_is_its_number_of_seconds() -> None:
    assert decode_value(b"T" + (2**60).to_bytes(8)) == 2**60
    assert type_name(b"T") == "timestamp"


def test_faults_run_down() -> None:
    faults = Faults(withheld_confirms=1, nacked_publishes=1, duplicated_deliveries=1, delivery_delay=0.5)
    assert [faults.withholds_confirm() for _ in range(2)] == [True, False]
    assert [faults.nacks_publish() for _ in range(2)] == [True, False]
    assert [faults.duplicates_delivery("q") for _ in range(2)] == [True, False]
    assert faults.delays_delivery("q") == 0.5


def test_the_status_can_be_asked_for_by_any_client() -> None:
    state = make_state()
    peer = connect(state)
    sessions = [peer.session]
    state.services["status"] = lambda host, question: answer_status(
        take_status("Warren", "1", sessions, state.hosts.values()), host, question
    )
    peer.call(spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True))
    peer.send(publish("status", mandatory=True, reply_to="amq.rabbitmq.reply-to", correlation_id="7"))
    deliver, header, body = peer.frames()
    assert deliver.method.NAME == "Basic.Deliver"
    assert (header.properties.content_type, header.properties.correlation_id) == ("application/json", "7")
    assert b'"user": "guest"' in body.fragment
    peer.send(publish("status", mandatory=True))  # without an address there is nobody to answer, and no error
    assert peer.frames() == []


def test_only_clients_on_this_machine_may_ask() -> None:
    state = make_state()
    state.services["status"] = lambda host, question: None
    peer = connect(state)
    peer.session.loopback = False
    peer.send(publish("status", mandatory=True))
    assert peer.methods()[0].NAME == "Basic.Return"


# --- faults of a session ----------------------------------------------------------------------------------------------


def test_a_frozen_session_answers_when_it_is_thawed() -> None:
    peer = connect(make_state())
    peer.session.freeze(True)
    peer.send(method(1, spec.Queue.Declare(queue="q")))
    assert peer.session.take_output() == b""
    peer.session.freeze(False)
    assert split(peer.session.take_output())[0].method.NAME == "Queue.DeclareOk"


def test_all_can_be_blocked_at_once_and_hear_of_it_once() -> None:
    state = make_state()
    peer = connect(state)
    state.alarm = "hot"
    peer.session.block()
    peer.session.block()
    assert [m.NAME for m in peer.methods()] == ["Connection.Blocked"]


def test_setting_the_clock_forward_is_no_silence() -> None:
    state = make_state()
    peer = connect(state)
    peer.session.client.heartbeat = 10
    peer.session.skip(3600)
    peer.session._talk._watch()
    assert not peer.session.ended


def test_what_is_to_come_late_does_not_come_on_a_channel_that_is_gone() -> None:
    state = make_state()
    state.faults.delivery_delay = 5.0
    peer = connect(state)
    peer.call(spec.Queue.Declare(queue="q"))
    peer.call(spec.Basic.Consume(queue="q"))
    peer.send(publish("q"), method(1, spec.Channel.Close(200, "bye", 0, 0)))
    peer.methods()
    state.advance(1005.0)
    assert peer.frames() == []


def test_a_late_confirm_comes_in_time() -> None:
    state = make_state()
    state.faults.confirm_delay = 5.0
    peer = connect(state)
    peer.call(spec.Confirm.Select())
    peer.send(publish("q"))
    assert peer.frames() == []
    state.advance(1005.0)
    assert [m.NAME for m in peer.methods()] == ["Basic.Ack"]


def test_a_user_id_must_be_the_users_own() -> None:
    peer = connect(make_state())
    peer.send(publish("q", user_id="guest"))
    assert peer.frames() == []
    peer.send(publish("q", user_id="ann"))
    expected = "PRECONDITION_FAILED - user_id property set to 'ann' but authenticated user was 'guest'"
    assert peer.methods()[0].reply_text == expected
