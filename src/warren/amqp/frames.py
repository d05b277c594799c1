"""The AMQP 0-9-1 frames of the hot path: publishing, acknowledging, and the properties of a message.

Pure: bytes in, bytes and values out, no I/O and no clock. It knows just the frames that carry calls, `splitter` takes
those apart that come in, `methods` knows the others. Tests hold every byte written here against what Pika would write.
Numbers in brackets are sections of the AMQP 0-9-1 specification.

This file looks optimised because it runs for every message: structs are compiled once, and properties stay bytes until
somebody asks.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from warren.amqp.numbers import read_u32, read_u64

METHOD: Final = 1  # frame types [4.2.3]
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
END: Final = 0xCE
END_BYTE: Final = b"\xce"
OVERHEAD: Final = 8  # type, channel, size, end
CONTENT_HEAD: Final = 12  # of a header frame, before the properties [4.2.6.1]
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

# Method ids: class 60 (basic) << 16 | method [1.8.3]
_GET: Final = 60 << 16 | 70
_ACK: Final = 60 << 16 | 80
_REJECT: Final = 60 << 16 | 90
#: Content properties present in a header frame, highest bit first [4.2.6.1]
_CONTENT_TYPE: Final = 0x8000
_CONTENT_ENCODING: Final = 0x4000
_HEADERS: Final = 0x2000
_DELIVERY_MODE: Final = 0x1000
_PRIORITY: Final = 0x800
_CORRELATION_ID: Final = 0x400
_REPLY_TO: Final = 0x200
_EXPIRATION: Final = 0x100
_MESSAGE_ID: Final = 0x80
_TIMESTAMP: Final = 0x40
_TYPE: Final = 0x20
_USER_ID: Final = 0x10
_APP_ID: Final = 0x8
_CLUSTER_ID: Final = 0x4
_AFTER_CORRELATION_ID: Final = 0x3FC

_frame_head: Final = struct.Struct(">BHI")
_publish_head: Final = struct.Struct(">BHIIH")
_content_head: Final = struct.Struct(">BHIHHQ")
_get_head: Final = struct.Struct(">BHIIH")
_ack_frame: Final = struct.Struct(">BHIIQBB")
_u16: Final = struct.Struct(">H")
_u32: Final = struct.Struct(">I")
_u64: Final = struct.Struct(">Q")


class FrameError(Exception):
    """Bytes that are not AMQP 0-9-1: the connection cannot be trusted any further."""


# --- values -------------------------------------------------------------------------------------------------------


class Properties:
    """Basic content properties as they stand on the wire: UTF-8 bytes, and the headers as an encoded table."""

    __slots__ = (
        "app_id",
        "cluster_id",
        "content_encoding",
        "content_type",
        "correlation_id",
        "delivery_mode",
        "expiration",
        "message_id",
        "priority",
        "reply_to",
        "table",
        "timestamp",
        "type",
        "user_id",
    )

    def __init__(
        self,
        content_type: bytes | None = None,
        content_encoding: bytes | None = None,
        table: bytes | None = None,
        delivery_mode: int | None = None,
        priority: int | None = None,
        correlation_id: bytes | None = None,
        reply_to: bytes | None = None,
        expiration: bytes | None = None,
        message_id: bytes | None = None,
        timestamp: int | None = None,
        type: bytes | None = None,
        user_id: bytes | None = None,
        app_id: bytes | None = None,
        cluster_id: bytes | None = None,
    ) -> None:
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.table = table
        self.delivery_mode = delivery_mode
        self.priority = priority
        self.correlation_id = correlation_id
        self.reply_to = reply_to
        self.expiration = expiration
        self.message_id = message_id
        self.timestamp = timestamp
        self.type = type
        self.user_id = user_id
        self.app_id = app_id
        self.cluster_id = cluster_id


#: What a message's properties are called, without their headers. Compiled classes do not tell their slots.
PROPERTY_NAMES: Final = tuple(name for name in dir(Properties) if name[0] != "_" and name != "table")
#: The tag of what has come back: nothing to acknowledge. Broker's tags are not negative.
RETURNED: Final = -1


class Delivery:
    """One message from a queue. `body` is None when it was larger than the receiver's limit and thrown away."""

    __slots__ = ("body", "body_size", "envelope", "properties", "redelivered", "tag")

    def __init__(self, tag: int, redelivered: bool, envelope: bytes) -> None:
        self.tag = tag
        self.redelivered = redelivered
        self.envelope = envelope
        self.properties = b""
        self.body: bytes | None = b""
        self.body_size = 0

    def route(self) -> tuple[bytes, bytes]:
        """The exchange and routing key that the message was published with."""
        size = self.envelope[0]
        return self.envelope[1 : 1 + size], self.envelope[2 + size :]


# --- encoding -----------------------------------------------------------------------------------------------------


_BYTES: Final = tuple(bytes((number,)) for number in range(256))


def shortstr(value: bytes) -> bytes:
    """A short string [4.2.5.3].

    Raises:
        ValueError: more than 255 bytes.
    """
    size = len(value)
    if size > 255:
        raise ValueError(f"{value[:20]!r}… has {size} bytes; AMQP allows 255 for names, ids and addresses")
    return _BYTES[size] + value


def encode_properties(p: Properties) -> bytes:
    """The property flags and list of a content header [4.2.6.1]; for messages that have no template."""
    flags = 0
    parts = []
    for bit, value in _in_wire_order(p):
        if value is None:
            continue
        flags |= bit
        if bit == _HEADERS:
            parts.append(_u32.pack(len(value)) + value)
        elif bit in (_DELIVERY_MODE, _PRIORITY):
            parts.append(bytes((value,)))
        elif bit == _TIMESTAMP:
            parts.append(_u64.pack(value))
        else:
            parts.append(shortstr(value))
    return _u16.pack(flags) + b"".join(parts)


def _in_wire_order(p: Properties) -> tuple[tuple[int, Any], ...]:
    return (
        (_CONTENT_TYPE, p.content_type),
        (_CONTENT_ENCODING, p.content_encoding),
        (_HEADERS, p.table),
        (_DELIVERY_MODE, p.delivery_mode),
        (_PRIORITY, p.priority),
        (_CORRELATION_ID, p.correlation_id),
        (_REPLY_TO, p.reply_to),
        (_EXPIRATION, p.expiration),
        (_MESSAGE_ID, p.message_id),
        (_TIMESTAMP, p.timestamp),
        (_TYPE, p.type),
        (_USER_ID, p.user_id),
        (_APP_ID, p.app_id),
        (_CLUSTER_ID, p.cluster_id),
    )


def publish_frame(channel: int, exchange: bytes, routing_key: bytes, *, mandatory: bool) -> bytes:
    """The Basic.Publish method frame: the same for every message that goes to one place, so worth keeping."""
    route = shortstr(exchange) + shortstr(routing_key) + (b"\x01" if mandatory else b"\x00")
    head = _publish_head.pack(METHOD, channel, 6 + len(route), 60 << 16 | 40, 0)
    return head + route + END_BYTE


def content_frames(channel: int, properties: bytes, body: bytes, frame_max: int) -> list[bytes | memoryview]:
    """The header frame and as many body frames as `frame_max` asks for (none for an empty body), in pieces to join.

    A body of one frame is copied together with the rest; of a larger one the pieces are views, so that whoever joins
    them makes the only copy.

    Raises:
        ValueError: the properties do not fit into one frame, for which the broker would close the connection.
    """
    size = len(body)
    if len(properties) > frame_max - OVERHEAD - CONTENT_HEAD:
        raise ValueError(
            f"properties and headers take {len(properties)} bytes, and have to fit into one frame of {frame_max}:"
            " send fewer headers, or let the broker have a larger frame_max"
        )
    head = _content_head.pack(HEADER, channel, 12 + len(properties), 60, 0, size)
    if size <= frame_max - OVERHEAD:
        if not size:
            return [b"".join((head, properties, END_BYTE))]
        return [b"".join((head, properties, END_BYTE, _frame_head.pack(BODY, channel, size), body, END_BYTE))]
    pieces: list[bytes | memoryview] = [head, properties, END_BYTE]
    view, step = memoryview(body), frame_max - OVERHEAD
    for start in range(0, size, step):
        chunk = view[start : start + step]
        pieces += (_frame_head.pack(BODY, channel, len(chunk)), chunk, END_BYTE)
    return pieces


def body_head(channel: int, size: int) -> bytes:
    """What a body frame begins with."""
    return _frame_head.pack(BODY, channel, size)


def get_frame(channel: int, queue: bytes) -> bytes:
    """Basic.Get: ask for one message, to be acknowledged."""
    head = _get_head.pack(METHOD, channel, 8 + len(queue), _GET, 0)
    return head + shortstr(queue) + b"\x00" + END_BYTE


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Basic.Ack; with `multiple` for every delivery up to and including `tag`."""
    return _ack_frame.pack(METHOD, channel, 13, _ACK, tag, multiple, END)


def reject_frame(channel: int, tag: int) -> bytes:
    """Basic.Reject without requeue: the broker dead-letters the delivery."""
    return _ack_frame.pack(METHOD, channel, 13, _REJECT, tag, 0, END)


# --- decoding -----------------------------------------------------------------------------------------------------


def read_return(envelope: bytes) -> tuple[bytes, bytes, bytes]:
    """Why a message came back, in words, and the exchange and routing key that it was published with.

    Raises:
        FrameError: it does not add up.
    """
    try:
        why, i = _shortstr_at(envelope, 2)  # past the code
        exchange, i = _shortstr_at(envelope, i)
        key, i = _shortstr_at(envelope, i)
    except IndexError as error:
        raise FrameError("a return ends too early") from error
    if i != len(envelope):
        raise FrameError("a return does not end with its routing key")
    return why, exchange, key


def _shortstr_at(data: bytes, i: int) -> tuple[bytes, int]:
    end = i + 1 + data[i]
    return data[i + 1 : end], end


def decode_properties(data: bytes) -> Properties:
    """Take a property list apart.

    Raises:
        FrameError: it does not add up.
    """
    try:
        p, end = _read_properties(data)
    except (IndexError, struct.error) as error:
        raise FrameError("content properties end too early") from error
    if end != len(data):
        raise FrameError("content properties do not match their flags")
    return p


def _read_properties(data: bytes) -> tuple[Properties, int]:  # noqa: C901 - one test for each of the 14
    # Short strings are cut out in place: a function for it would double the time this takes.
    flags = data[0] << 8 | data[1]
    i = 2
    p = Properties()
    if flags & _CONTENT_TYPE:
        i, start = i + 1 + data[i], i + 1
        p.content_type = data[start:i]
    if flags & _CONTENT_ENCODING:
        i, start = i + 1 + data[i], i + 1
        p.content_encoding = data[start:i]
    if flags & _HEADERS:
        i, start = i + 4 + read_u32(data, i)[0], i + 4
        p.table = data[start:i]
    if flags & _DELIVERY_MODE:
        p.delivery_mode = data[i]
        i += 1
    if flags & _PRIORITY:
        p.priority = data[i]
        i += 1
    if flags & _CORRELATION_ID:
        i, start = i + 1 + data[i], i + 1
        p.correlation_id = data[start:i]
    if not flags & _AFTER_CORRELATION_ID:
        return p, i  # a reply
    if flags & _REPLY_TO:
        i, start = i + 1 + data[i], i + 1
        p.reply_to = data[start:i]
    if flags & _EXPIRATION:
        i, start = i + 1 + data[i], i + 1
        p.expiration = data[start:i]
    if flags & _MESSAGE_ID:
        i, start = i + 1 + data[i], i + 1
        p.message_id = data[start:i]
    if flags & _TIMESTAMP:
        p.timestamp = read_u64(data, i)[0]
        i += 8
    if flags & _TYPE:
        i, start = i + 1 + data[i], i + 1
        p.type = data[start:i]
    if flags & _USER_ID:
        i, start = i + 1 + data[i], i + 1
        p.user_id = data[start:i]
    if flags & _APP_ID:
        i, start = i + 1 + data[i], i + 1
        p.app_id = data[start:i]
    if flags & _CLUSTER_ID:
        i, start = i + 1 + data[i], i + 1
        p.cluster_id = data[start:i]
    return p, i
