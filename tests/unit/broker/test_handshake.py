"""How a connection begins: the handshake of a session, fed with bytes."""

from __future__ import annotations

from typing import Any

import pytest
from pika import spec

from tests.support.sessions import CAPABILITIES, HEADER, Peer, connect, make_state, method
from warren.broker.session import Phase


def start_ok(**fields: Any) -> bytes:
    given = {"client_properties": {"capabilities": CAPABILITIES}, "mechanism": "PLAIN", "response": "\0guest\0guest"}
    return method(0, spec.Connection.StartOk(**given | fields))


@pytest.mark.parametrize("header", [HEADER, b"AMQP\x01\x01\x00\x09", b"AMQP\x01\x01\x09\x01"])
def test_a_known_protocol_header_is_answered_with_start(header: bytes) -> None:
    peer = Peer(make_state())
    peer.send(header)
    (start,) = peer.methods()
    assert isinstance(start, spec.Connection.Start)
    assert start.mechanisms == b"PLAIN AMQPLAIN"
    assert start.server_properties["capabilities"]["publisher_confirms"] is True


def test_before_tuning_a_frame_may_have_the_size_that_every_client_must_allow() -> None:
    peer = Peer(make_state())
    peer.send(HEADER)
    peer.methods()
    peer.send(start_ok(client_properties={"comment": "x" * 4096}))
    (close,) = peer.methods()
    assert (close.reply_code, peer.session.ended) == (501, True)
    assert "frame_too_large" in close.reply_text


@pytest.mark.parametrize("header", [b"AMQP\x00\x01\x00\x00", b"GET / HT"])
def test_a_wrong_protocol_header_is_answered_with_the_right_one_and_the_end(header: bytes) -> None:
    peer = Peer(make_state())
    peer.send(header)
    assert peer.session.take_output() == HEADER
    assert peer.session.ended


def test_a_broker_may_call_itself_as_a_client_wants_it() -> None:
    peer = Peer(make_state(product="RabbitMQ", version="3.10.8"))
    peer.send(HEADER)
    (start,) = peer.methods()
    said = start.server_properties
    assert (said["product"], said["version"], said["platform"]) == ("RabbitMQ", "3.10.8", "Python")


@pytest.mark.parametrize(
    "login",
    [
        {},
        {"mechanism": "PLAIN", "response": "ignored\0guest\0guest"},
        {"mechanism": "AMQPLAIN", "response": "\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest"},
    ],
)
def test_who_knows_the_password_is_let_in(login: dict[str, str]) -> None:
    peer = Peer(make_state())
    peer.send(HEADER, start_ok(**login))
    assert isinstance(peer.methods()[-1], spec.Connection.Tune)


@pytest.mark.parametrize("response", ["\0guest\0wrong", "\0nobody\0guest", "\0guest\0", "\0guest\0\udcff"])
def test_who_does_not_is_told_so(response: str) -> None:
    peer = Peer(make_state())
    peer.send(HEADER, start_ok(response=response.encode("utf-8", "surrogateescape")))
    close = peer.methods()[-1]
    assert (close.reply_code, close.reply_text.partition(" - ")[0]) == (403, "ACCESS_REFUSED")


def test_a_client_that_cannot_be_told_is_just_cut_off() -> None:
    peer = Peer(make_state())
    peer.send(HEADER, start_ok(client_properties={}, response="\0guest\0wrong"))
    assert [type(m) for m in peer.methods()] == [spec.Connection.Start]
    assert peer.session.ended


def test_guest_is_let_in_from_this_machine_only() -> None:
    peer = Peer(make_state(users={"guest": "guest", "ann": "secret"}), loopback=False)
    peer.send(HEADER, start_ok())
    assert peer.methods()[-1].reply_code == 403
    peer = Peer(peer.state, loopback=False)
    peer.send(HEADER, start_ok(response="\0ann\0secret"))
    assert isinstance(peer.methods()[-1], spec.Connection.Tune)


@pytest.mark.parametrize(
    ("login", "code"),
    [
        ({"mechanism": "EXTERNAL"}, 503),
        ({"response": "guest"}, 501),
        ({"mechanism": "AMQPLAIN", "response": "\x05LOGINS\0\0\0\x05guest"}, 501),
        ({"mechanism": "AMQPLAIN", "response": "nonsense"}, 502),
    ],
)
def test_a_login_that_makes_no_sense_closes_the_connection(login: dict[str, str], code: int) -> None:
    peer = Peer(make_state())
    peer.send(HEADER, start_ok(**login))
    assert peer.methods()[-1].reply_code == code


@pytest.mark.parametrize(
    ("channel_max", "frame_max", "complaint"),
    [
        (0, 131072, "channel_max = 0 is higher than the maximum allowed value (2047)"),
        (2048, 131072, "channel_max = 2048 is higher than the maximum allowed value (2047)"),
        (10, 4095, "frame_max = 4095 is lower than the minimum allowed value (4096)"),
        (10, 131073, "frame_max = 131073 is higher than the maximum allowed value (131072)"),
    ],
)
def test_tuning_outside_the_offer_closes_the_connection(channel_max: int, frame_max: int, complaint: str) -> None:
    peer = Peer(make_state())
    peer.send(HEADER, start_ok(), method(0, spec.Connection.TuneOk(channel_max, frame_max, 0)))
    close = peer.methods()[-1]
    assert (close.reply_code, close.reply_text) == (530, f"NOT_ALLOWED - negotiated {complaint}")


def test_an_unknown_virtual_host_closes_the_connection() -> None:
    peer = Peer(make_state())
    peer.handshake(vhost="nope")
    close = peer.methods()[-1]
    assert (close.reply_code, close.reply_text) == (530, "NOT_ALLOWED - vhost nope not found")


def test_virtual_hosts_do_not_share_names() -> None:
    state = make_state(vhosts=("/", "other"))
    here, there = Peer(state).handshake(), Peer(state).handshake(vhost="other")
    for peer in (here, there):
        peer.send(method(1, spec.Channel.Open()))
        peer.methods()
    here.call(spec.Queue.Declare(queue="q"))
    assert there.call(spec.Queue.Declare(queue="q", passive=True)).reply_code == 404


@pytest.mark.parametrize(
    "early",
    [method(0, spec.Connection.Open("/")), method(1, spec.Channel.Open()), method(0, spec.Queue.Declare(queue="q"))],
)
def test_what_comes_too_early_closes_the_connection(early: bytes) -> None:
    peer = Peer(make_state())
    peer.send(HEADER, early)
    assert isinstance(peer.methods()[-1], spec.Connection.Close)


def test_a_handshake_that_takes_too_long_is_cut_off() -> None:
    state = make_state()
    peer = Peer(state)
    state.advance(1009.0)
    assert not peer.session.ended
    state.advance(1010.0)
    assert peer.session.ended


def test_an_open_connection_is_not_cut_off_by_the_handshake_timeout() -> None:
    state = make_state()
    peer = connect(state)
    state.advance(2000.0)
    assert peer.session.phase is Phase.RUNNING


def test_a_new_secret_is_acknowledged() -> None:
    peer = connect(make_state())
    assert isinstance(
        peer.call(spec.Connection.UpdateSecret("new", "reason"), channel=0), spec.Connection.UpdateSecretOk
    )
