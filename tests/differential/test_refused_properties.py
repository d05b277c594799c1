"""Properties that RabbitMQ does not take."""

import struct

import pytest
from pika import spec

from tests.differential.both import Brokers
from tests.differential.peer import Peer


@pytest.mark.parametrize("mode", [0, 1, 2, 3, 255])
@pytest.mark.parametrize("confirms", [False, True])
def test_a_delivery_mode_other_than_transient_and_persistent_closes_the_channel(
    brokers: Brokers, mode: int, confirms: bool
) -> None:
    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q")
        if confirms:
            channel.confirms()
        channel.publish("q", "hello", delivery_mode=mode)
        channel.sync()
        channel.reopen()
        peer.note(peer.count("q"))

    brokers.compare(script)


_FLOATS = {
    "NaN": struct.pack(">d", float("nan")),
    "infinity": struct.pack(">d", float("inf")),
    "minus infinity": struct.pack(">d", float("-inf")),
    "a number": struct.pack(">d", 1.5),
}
_PLACES = {
    "a value": lambda value: table(value),
    "a value in a table": lambda value: table(b"F" + long_bytes(table(value))),
    "a value in an array": lambda value: table(b"A" + long_bytes(value)),
    "a value deep inside": lambda value: table(b"A" + long_bytes(b"F" + long_bytes(table(value)))),
}


def long_bytes(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def table(value: bytes) -> bytes:
    """A table of one entry, without its length."""
    return b"\x01x" + value


@pytest.mark.parametrize("single", [False, True], ids=["double", "float"])
@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("what", _FLOATS)
def test_a_header_that_is_no_number_closes_the_connection(
    brokers: Brokers, what: str, place: str, single: bool
) -> None:
    (number,) = struct.unpack(">d", _FLOATS[what])
    value = b"f" + struct.pack(">f", number) if single else b"d" + _FLOATS[what]
    properties = struct.pack(">H", 0x2000) + long_bytes(_PLACES[place](value))
    header = struct.pack(">HHQ", 60, 0, 0) + properties

    def script(peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q")
        channel.send(spec.Basic.Publish(exchange="", routing_key="q"))
        channel.connection.wire.send_bytes(struct.pack(">BHI", 2, channel.number, len(header)) + header + b"\xce")
        channel.sync()
        peer.note(channel.connection.open)

    brokers.compare(script)
