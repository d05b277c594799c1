"""Connections: shaking hands, closing, and everything that costs a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pika import spec

from tests.differential.both import Brokers, on_both
from tests.differential.peer import Channel, Connection, Peer
from tests.differential.wire import method_frame

# --- shaking hands ----------------------------------------------------------------------------------------------------


def _capabilities(count: int) -> dict[str, bool]:
    """So many of 100 bytes each."""
    return {f"{number:097}": True for number in range(count)}


@pytest.mark.parametrize(
    "login",
    [
        {},
        {"mechanism": "AMQPLAIN"},
        {"header": b"AMQP\x01\x01\x00\x09"},
        {"heartbeat": 60},
        {"frame_max": 4096},
        {"channel_max": 1},
        {"capabilities": {}},
        {"capabilities": _capabilities(39)},
    ],
)
def test_ways_to_be_let_in(brokers: Brokers, login: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        peer.connect(**login).channel()

    brokers.compare(script)


@pytest.mark.parametrize(
    "login",
    [
        {"password": "wrong"},
        {"user": "nobody"},
        {"password": "wrong", "mechanism": "AMQPLAIN"},
        {"mechanism": "MAGIC"},
        {"vhost": "/nowhere"},
        {"vhost": ""},
        {"frame_max": 4095},
        {"frame_max": 131073},
        {"frame_max": 0},
        {"channel_max": 2048},
        {"channel_max": 0},
        {"password": "wrong", "capabilities": {}},
        {"capabilities": _capabilities(41)},  # before tuning a frame may be as large as every client must allow
    ],
)
def test_ways_to_be_refused(brokers: Brokers, login: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        peer.connect(**login).end()

    brokers.compare(script)


@pytest.mark.parametrize(
    "header", [b"AMQP\x00\x01\x00\x00", b"AMQP\x00\x00\x09\x02", b"HTTP/1.1", b"GET / HTTP/1.1\r\n"]
)
def test_other_protocols_are_told_which_one_it_is(brokers: Brokers, header: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.connect(header=header).end()

    brokers.compare(script)


# --- closing ----------------------------------------------------------------------------------------------------------


@on_both
def test_closing_is_answered_and_ends_the_connection(peer: Peer) -> None:
    connection = peer.connect()
    connection.channel()
    connection.call(spec.Connection.Close(200, "bye", 0, 0))


@on_both
def test_channel_numbers_can_be_used_again(peer: Peer) -> None:
    connection = peer.connect()
    channel = connection.channel(7)
    channel.close()
    channel.reopen()
    channel.exchange("nowhere", passive=True)
    channel.reopen()
    channel.sync()


@on_both
def test_both_close_a_channel_at_the_same_time(peer: Peer) -> None:
    channel = peer.channel()
    channel.send(
        spec.Exchange.Declare(exchange="nowhere", passive=True),
        spec.Channel.Close(200, "bye", 0, 0),
    )
    channel.end()
    channel.connection.expect(lambda seen: seen.name == "Channel.CloseOk")
    channel.reopen()
    channel.sync()


# --- channels ---------------------------------------------------------------------------------------------------------


def _bad(name: str) -> Callable[[Callable[[Connection, Channel], None]], None]:
    def add(operation: Callable[[Connection, Channel], None]) -> None:
        _BAD[name] = operation

    return add


_BAD: dict[str, Callable[[Connection, Channel], None]] = {}


@_bad("a channel opened twice")
def _(connection: Connection, channel: Channel) -> None:
    channel.send(spec.Channel.Open())


@_bad("a method on a channel that is not open")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send(9, spec.Basic.Qos(prefetch_count=1))


@_bad("content on a channel that is not open")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.publish(9, spec.Basic.Publish(routing_key="q"), spec.BasicProperties(), b"x")


@_bad("a channel method on channel 0")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send(0, spec.Channel.Open())


@_bad("a connection method on a channel")
def _(connection: Connection, channel: Channel) -> None:
    channel.send(spec.Connection.Open("/"))


@_bad("a connection opened twice")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send(0, spec.Connection.Open("/"))


@_bad("a method that only brokers send")
def _(connection: Connection, channel: Channel) -> None:
    channel.send(spec.Basic.GetEmpty())


@_bad("an answer that was not asked for")
def _(connection: Connection, channel: Channel) -> None:
    channel.send(spec.Queue.DeclareOk("q", 0, 0))


@_bad("flow turned off")
def _(connection: Connection, channel: Channel) -> None:
    channel.send(spec.Channel.Flow(False))


@_bad("an unknown method")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x03\xe7\xce")


@_bad("an unknown class")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(b"\x01\x00\x01\x00\x00\x00\x04\x03\xe7\x00\x0a\xce")


@_bad("a method frame without a method")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(b"\x01\x00\x01\x00\x00\x00\x02\x00\x3c\xce")


@_bad("a method that is cut short")
def _(connection: Connection, channel: Channel) -> None:
    whole = method_frame(1, spec.Queue.Declare(queue="a queue"))
    payload = whole[7:15]
    connection.wire.send_bytes(b"\x01\x00\x01" + len(payload).to_bytes(4) + payload + b"\xce")


@_bad("a method that goes on behind its end")
def _(connection: Connection, channel: Channel) -> None:
    payload = method_frame(1, spec.Basic.Qos(prefetch_count=1))[7:-1] + b"\x00"
    connection.wire.send_bytes(b"\x01\x00\x01" + len(payload).to_bytes(4) + payload + b"\xce")


@_bad("a name that runs over the end of its method")
def _(connection: Connection, channel: Channel) -> None:
    payload = method_frame(1, spec.Basic.Cancel("a tag"))[7:-1]
    payload = payload[:4] + b"\xff" + payload[5:]
    connection.wire.send_bytes(b"\x01\x00\x01" + len(payload).to_bytes(4) + payload + b"\xce")


@_bad("a frame of an unknown type")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(b"\x09\x00\x01\x00\x00\x00\x00\xce")


@_bad("a frame without its end")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(method_frame(1, spec.Basic.Qos(prefetch_count=1))[:-1] + b"\x00" * 20)


@_bad("a frame that is too large")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(b"\x03\x00\x01" + (131073).to_bytes(4) + b"x" * 131073 + b"\xce")


@_bad("a heartbeat on a channel")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(b"\x08\x00\x01\x00\x00\x00\x00\xce")


@_bad("a heartbeat with a payload")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(b"\x08\x00\x00\x00\x00\x00\x01x\xce")


@_bad("a body without a method")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(b"\x03\x00\x01\x00\x00\x00\x01x\xce")


@_bad("a content header without a method")
def _(connection: Connection, channel: Channel) -> None:
    connection.wire.send_bytes(b"\x02\x00\x01\x00\x00\x00\x0e\x00\x3c" + b"\x00" * 12 + b"\xce")


@_bad("a method where a content header should be")
def _(connection: Connection, channel: Channel) -> None:
    channel.send(spec.Basic.Publish(routing_key="q"), spec.Basic.Qos(prefetch_count=1))


@_bad("a body where a content header should be")
def _(connection: Connection, channel: Channel) -> None:
    channel.send(spec.Basic.Publish(routing_key="q"))
    connection.wire.send_bytes(b"\x03\x00\x01\x00\x00\x00\x01x\xce")


@_bad("a method where a body should be")
def _(connection: Connection, channel: Channel) -> None:
    channel.send(spec.Basic.Publish(routing_key="q"))
    header = b"\x00\x3c\x00\x00" + (5).to_bytes(8) + b"\x00\x00"
    connection.wire.send_bytes(b"\x02\x00\x01\x00\x00\x00\x0e" + header + b"\xce")
    channel.send(spec.Basic.Qos(prefetch_count=1))


@_bad("a content header of another class")
def _(connection: Connection, channel: Channel) -> None:
    channel.send(spec.Basic.Publish(routing_key="q"))
    header = b"\x00\x32\x00\x00" + (5).to_bytes(8) + b"\x00\x00"
    connection.wire.send_bytes(b"\x02\x00\x01\x00\x00\x00\x0e" + header + b"\xce")


@pytest.mark.parametrize("name", _BAD)
def test_what_costs_a_connection(brokers: Brokers, name: str) -> None:
    def script(peer: Peer) -> None:
        connection = peer.connect()
        channel = connection.channel()
        _BAD[name](connection, channel)
        connection.end()
        peer.channel().sync()  # the broker itself is well

    brokers.compare(script)


@pytest.mark.parametrize("size", [4088, 4089, 4096, 4097])
def test_a_frame_may_be_as_large_as_agreed_without_what_surrounds_it(brokers: Brokers, size: int) -> None:
    def script(peer: Peer) -> None:
        connection = peer.connect(frame_max=4096)
        channel = connection.channel()
        channel.queue("q")
        channel.send(spec.Basic.Publish(routing_key="q"))
        header = b"\x00\x3c\x00\x00" + size.to_bytes(8) + b"\x00\x00"
        connection.wire.send_bytes(b"\x02\x00\x01\x00\x00\x00\x0e" + header + b"\xce")
        connection.wire.send_bytes(b"\x03\x00\x01" + size.to_bytes(4) + b"x" * size + b"\xce")
        if size <= 4096:
            channel.get("q")
        else:
            connection.end()

    brokers.compare(script)


@on_both
def test_a_heartbeat_is_fine_at_any_time(peer: Peer) -> None:
    connection = peer.connect()
    channel = connection.channel()
    connection.wire.send_bytes(b"\x08\x00\x00\x00\x00\x00\x00\xce")
    channel.send(spec.Basic.Publish(routing_key="nowhere", mandatory=True))
    connection.wire.send_bytes(b"\x08\x00\x00\x00\x00\x00\x00\xce")
    connection.wire.send_bytes(b"\x02\x00\x01\x00\x00\x00\x0e\x00\x3c" + b"\x00" * 12 + b"\xce")
    channel.sync()


@on_both
def test_it_is_the_number_of_channels_that_counts(peer: Peer) -> None:
    peer.connect(channel_max=2).channel(3)
    peer.connect().channel(2048)


@on_both
def test_as_many_channels_as_agreed(peer: Peer) -> None:
    connection = peer.connect(channel_max=2)
    connection.channel()
    connection.channel()
    connection.wire.send(3, spec.Channel.Open())
    connection.end()


@on_both
def test_the_secret_can_be_renewed(peer: Peer) -> None:
    peer.connect().call(spec.Connection.UpdateSecret("guest", "a new one"))


@on_both
def test_heartbeats_come_from_the_broker(peer: Peer) -> None:
    connection = peer.connect(heartbeat=1)
    connection.channel()
    for _ in range(2):
        connection.expect(lambda seen: seen.name == "Heartbeat", len(connection.seen), seconds=5)
        connection.wire.send_bytes(b"\x08\x00\x00\x00\x00\x00\x00\xce")


@on_both
def test_the_broker_drops_who_sends_no_heartbeats(peer: Peer) -> None:
    connection = peer.connect(heartbeat=1)
    connection.channel()
    connection.end()
