"""Frames and methods, in and out, and how RabbitMQ complains of them.

What passes for every message (publish, deliver, ack) is cut by offset or remembered; tests hold it against Pika.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from warren.amqp import methods as amqp
from warren.amqp.frames import END, METHOD, OVERHEAD, FrameError, shortstr
from warren.amqp.methods import Method
from warren.amqp.tables import decode_table
from warren.broker.errors import AmqpError
from warren.broker.tables import has_no_number

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
#: What RabbitMQ also takes for 0-9-1; Perl's Net::AMQP sends the second.
ACCEPTED_HEADERS = frozenset({PROTOCOL_HEADER, b"AMQP\x01\x01\x00\x09", b"AMQP\x01\x01\x09\x01"})

_head = struct.Struct(">BHI")
_tag_and_flag = struct.Struct(">QB")
_REMEMBERED = 4000


class Publish(NamedTuple):
    """A decoded Basic.Publish. `route` is exchange and routing key as they were encoded."""

    exchange: str
    key: str
    mandatory: bool
    immediate: bool
    route: bytes


def decode_method(payload: bytes) -> Method:
    """The method of a method frame.

    Raises:
        AmqpError: 501 if it does not add up, 503 if there is no such method.
    """
    if len(payload) < 4:
        raise AmqpError(501, describe_frame(METHOD, payload) + ": unknown_frame")
    if payload[:4] not in amqp.KINDS:
        raise AmqpError(503, f"unknown method {int.from_bytes(payload[:2])}, {int.from_bytes(payload[2:4])}")
    try:
        method = amqp.decode_method(payload)
        _check_tables(method)
    except FrameError as error:
        raise AmqpError(501, f"cannot decode {_octets(payload[4:])}") from error
    return method


def _check_tables(method: Method) -> None:
    """Whatever is nested in a table adds up, and Erlang has it."""
    for name, kind in method.kind.arguments.items():
        if kind is amqp.TABLE and (table := getattr(method, name)):
            decode_table(table)
            if has_no_number(table):
                raise FrameError("a float is no number")


class PublishReader:
    """Decodes Basic.Publish; what goes to one place is the same bytes each time, so they are remembered."""

    def __init__(self) -> None:
        self._known: dict[bytes, Publish] = {}

    def read(self, payload: bytes) -> Publish:
        """Decode a Basic.Publish.

        Raises:
            AmqpError: 501 if it does not add up.
        """
        known = self._known.get(payload)
        if known is None:
            method = decode_method(payload)
            route = payload[6:-1]
            known = Publish(method.exchange, method.routing_key, method.mandatory, method.immediate, route)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[payload] = known
        return known


def read_ack(payload: bytes) -> tuple[int, bool]:
    """Delivery tag and `multiple` of a Basic.Ack.

    Raises:
        AmqpError: 501 if it does not add up.
    """
    if len(payload) != 13:
        raise AmqpError(501, f"cannot decode {_octets(payload[4:])}")
    tag, flags = _tag_and_flag.unpack_from(payload, 4)
    return tag, bool(flags & 1)


def describe_frame(kind: int, payload: bytes) -> str:
    """How RabbitMQ shows a frame it does not like."""
    return f"type {kind}, all octets = {_octets(payload)}"


def _octets(data: bytes) -> str:
    """Bytes as Erlang shows them."""
    if data and all(32 <= byte < 127 for byte in data):
        return f'<<"{data.decode()}">>'
    return f"<<{','.join(map(str, data[:64]))}>>"


def delivery_prefix(tag: str) -> bytes:
    """What all Basic.Deliver of one consumer begin with."""
    return amqp.Basic.Deliver.index + shortstr(tag.encode("utf-8", "surrogateescape"))


def encode_delivery(channel: int, prefix: bytes, tag: int, redelivered: bool, route: bytes) -> bytes:
    """The Basic.Deliver frame."""
    size = len(prefix) + 9 + len(route)
    return b"".join((_head.pack(1, channel, size), prefix, _tag_and_flag.pack(tag, redelivered), route, b"\xce"))


def split_frames(data: bytes) -> Iterator[bytes]:
    """Whole frames, each as its bytes."""
    position = 0
    while position < len(data):
        size = _head.unpack_from(data, position)[2]
        yield data[position : position + size + OVERHEAD]
        position += size + OVERHEAD


class FrameReader:
    """Cuts the bytes of a connection into frames; the result does not depend on how they were cut up on their way."""

    def __init__(self, frame_max: int) -> None:
        self.frame_max = frame_max
        self._data = b""
        self._position = 0
        self._rest = bytearray()
        self._wanted = 1

    @property
    def unread(self) -> int:
        """Bytes that are here and have not been taken."""
        return len(self._data) - self._position + len(self._rest)

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        left = self._data[self._position :]
        self._data, self._position = b"", 0
        if left:
            self._rest += left
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        self._data = data

    def take(self, count: int) -> bytes | None:
        """Exactly so many bytes, or None as long as there are fewer."""
        stop = self._position + count
        if stop > len(self._data):
            if not self._rest:
                self._wanted = count
            return None
        taken = self._data[self._position : stop]
        self._position, self._wanted = stop, 1
        return taken

    def next(self) -> tuple[int, int, bytes] | None:
        """The next frame as its type, channel and payload; None as long as it is not whole.

        Raises:
            AmqpError: 501 for what is no frame, or too large.
        """
        data, position = self._data, self._position
        if len(data) - position < OVERHEAD:
            if not self._rest:  # else it is known how much is missing, and there is nothing to look at before
                self._wanted = OVERHEAD
            return None
        kind, channel, size = _head.unpack_from(data, position)
        stop = position + size + OVERHEAD
        if size > self.frame_max:  # RabbitMQ forgives clients that do not count the overhead [4.2.3]
            limit = self.frame_max - OVERHEAD
            raise AmqpError(501, f"{describe_frame(kind, b'')}: {{frame_too_large,{size},{limit}}}")
        if stop > len(data):
            self._wanted = stop - position
            return None
        if data[stop - 1] != END:
            described = describe_frame(kind, data[position + 7 : stop - 1])
            raise AmqpError(501, f"{described}: {{invalid_frame_end_marker,{data[stop - 1]}}}")
        self._position, self._wanted = stop, 1
        return kind, channel, data[position + 7 : stop - 1]
