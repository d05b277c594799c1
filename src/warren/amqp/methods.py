"""The methods of AMQP 0-9-1 as a table, and their frames. Pure.

`Connection.Start` and so on are what the specification calls them [1.4]: the classes below are the table, with each
method's ids and its arguments in their order on the wire. Calling one makes a `Method`, to be sent; what was received
is one as well. Tests hold every method against Pika's.

Names and texts are ``str``, whatever bytes they are: what is no UTF-8 survives as surrogates. Tables stay bytes, see
`warren.amqp.tables`.
"""

from __future__ import annotations

import struct
from itertools import groupby
from types import SimpleNamespace
from typing import Any, NamedTuple

from warren.amqp.frames import END_BYTE, METHOD, FrameError, shortstr

_head = struct.Struct(">BHI")


class Type(NamedTuple):
    """What an argument is [4.2.5]: the bytes of an integer, or of the length before a text; the default."""

    size: int
    default: Any


BIT = Type(0, False)  # packed with those beside it, the first one lowest
OCTET, SHORT, LONG, LONGLONG = Type(1, 0), Type(2, 0), Type(4, 0), Type(8, 0)
SHORTSTR, LONGSTR = Type(1, ""), Type(4, "")
TABLE = Type(4, b"")


class Method(SimpleNamespace):
    """A method with its arguments, which are attributes. `kind` is its entry of the table."""

    kind: Kind


class Kind:
    """One of AMQP's methods. Arguments that are not given are 0, False or empty."""

    def __init__(self, class_id: int, method_id: int, /, **arguments: Type) -> None:
        self.index = struct.pack(">HH", class_id, method_id)
        self.arguments = arguments
        self.fields: list[tuple[Type, tuple[str, ...]]] = []  # bits that stand together are one
        for is_bit, names in groupby(arguments, lambda name: arguments[name] is BIT):
            group = tuple(names)
            self.fields += [(BIT, group)] if is_bit else [(arguments[name], (name,)) for name in group]
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"{owner.__name__}.{name}"

    def __repr__(self) -> str:
        return self.name

    def __call__(self, *values: Any, **named: Any) -> Method:
        defaults = {name: kind.default for name, kind in self.arguments.items()}
        return Method(kind=self, **defaults | dict(zip(self.arguments, values, strict=False)) | named)


class Connection:
    """Work with connections [1.4]."""

    Start = Kind(
        10, 10, version_major=OCTET, version_minor=OCTET, server_properties=TABLE, mechanisms=LONGSTR, locales=LONGSTR
    )
    StartOk = Kind(10, 11, client_properties=TABLE, mechanism=SHORTSTR, response=LONGSTR, locale=SHORTSTR)
    Secure = Kind(10, 20, challenge=LONGSTR)
    SecureOk = Kind(10, 21, response=LONGSTR)
    Tune = Kind(10, 30, channel_max=SHORT, frame_max=LONG, heartbeat=SHORT)
    TuneOk = Kind(10, 31, channel_max=SHORT, frame_max=LONG, heartbeat=SHORT)
    Open = Kind(10, 40, virtual_host=SHORTSTR, capabilities=SHORTSTR, insist=BIT)
    OpenOk = Kind(10, 41, known_hosts=SHORTSTR)
    Close = Kind(10, 50, reply_code=SHORT, reply_text=SHORTSTR, class_id=SHORT, method_id=SHORT)
    CloseOk = Kind(10, 51)
    Blocked = Kind(10, 60, reason=SHORTSTR)
    Unblocked = Kind(10, 61)
    UpdateSecret = Kind(10, 70, new_secret=LONGSTR, reason=SHORTSTR)
    UpdateSecretOk = Kind(10, 71)


class Channel:
    """Work with channels."""

    Open = Kind(20, 10, out_of_band=SHORTSTR)
    OpenOk = Kind(20, 11, channel_id=LONGSTR)
    Flow = Kind(20, 20, active=BIT)
    FlowOk = Kind(20, 21, active=BIT)
    Close = Kind(20, 40, reply_code=SHORT, reply_text=SHORTSTR, class_id=SHORT, method_id=SHORT)
    CloseOk = Kind(20, 41)


class Access:
    """A relic of AMQP 0-8."""

    Request = Kind(30, 10, realm=SHORTSTR, exclusive=BIT, passive=BIT, active=BIT, write=BIT, read=BIT)
    RequestOk = Kind(30, 11, ticket=SHORT)


class Exchange:
    """Work with exchanges."""

    Declare = Kind(
        40,
        10,
        ticket=SHORT,
        exchange=SHORTSTR,
        type=SHORTSTR,
        passive=BIT,
        durable=BIT,
        auto_delete=BIT,
        internal=BIT,
        nowait=BIT,
        arguments=TABLE,
    )
    DeclareOk = Kind(40, 11)
    Delete = Kind(40, 20, ticket=SHORT, exchange=SHORTSTR, if_unused=BIT, nowait=BIT)
    DeleteOk = Kind(40, 21)
    Bind = Kind(
        40, 30, ticket=SHORT, destination=SHORTSTR, source=SHORTSTR, routing_key=SHORTSTR, nowait=BIT, arguments=TABLE
    )
    BindOk = Kind(40, 31)
    Unbind = Kind(
        40, 40, ticket=SHORT, destination=SHORTSTR, source=SHORTSTR, routing_key=SHORTSTR, nowait=BIT, arguments=TABLE
    )
    UnbindOk = Kind(40, 51)


class Queue:
    """Work with queues."""

    Declare = Kind(
        50,
        10,
        ticket=SHORT,
        queue=SHORTSTR,
        passive=BIT,
        durable=BIT,
        exclusive=BIT,
        auto_delete=BIT,
        nowait=BIT,
        arguments=TABLE,
    )
    DeclareOk = Kind(50, 11, queue=SHORTSTR, message_count=LONG, consumer_count=LONG)
    Bind = Kind(
        50, 20, ticket=SHORT, queue=SHORTSTR, exchange=SHORTSTR, routing_key=SHORTSTR, nowait=BIT, arguments=TABLE
    )
    BindOk = Kind(50, 21)
    Purge = Kind(50, 30, ticket=SHORT, queue=SHORTSTR, nowait=BIT)
    PurgeOk = Kind(50, 31, message_count=LONG)
    Delete = Kind(50, 40, ticket=SHORT, queue=SHORTSTR, if_unused=BIT, if_empty=BIT, nowait=BIT)
    DeleteOk = Kind(50, 41, message_count=LONG)
    Unbind = Kind(50, 50, ticket=SHORT, queue=SHORTSTR, exchange=SHORTSTR, routing_key=SHORTSTR, arguments=TABLE)
    UnbindOk = Kind(50, 51)


class Basic:
    """Work with messages."""

    Qos = Kind(60, 10, prefetch_size=LONG, prefetch_count=SHORT, global_qos=BIT)
    QosOk = Kind(60, 11)
    Consume = Kind(
        60,
        20,
        ticket=SHORT,
        queue=SHORTSTR,
        consumer_tag=SHORTSTR,
        no_local=BIT,
        no_ack=BIT,
        exclusive=BIT,
        nowait=BIT,
        arguments=TABLE,
    )
    ConsumeOk = Kind(60, 21, consumer_tag=SHORTSTR)
    Cancel = Kind(60, 30, consumer_tag=SHORTSTR, nowait=BIT)
    CancelOk = Kind(60, 31, consumer_tag=SHORTSTR)
    Publish = Kind(60, 40, ticket=SHORT, exchange=SHORTSTR, routing_key=SHORTSTR, mandatory=BIT, immediate=BIT)
    Return = Kind(60, 50, reply_code=SHORT, reply_text=SHORTSTR, exchange=SHORTSTR, routing_key=SHORTSTR)
    Deliver = Kind(
        60, 60, consumer_tag=SHORTSTR, delivery_tag=LONGLONG, redelivered=BIT, exchange=SHORTSTR, routing_key=SHORTSTR
    )
    Get = Kind(60, 70, ticket=SHORT, queue=SHORTSTR, no_ack=BIT)
    GetOk = Kind(
        60, 71, delivery_tag=LONGLONG, redelivered=BIT, exchange=SHORTSTR, routing_key=SHORTSTR, message_count=LONG
    )
    GetEmpty = Kind(60, 72, cluster_id=SHORTSTR)
    Ack = Kind(60, 80, delivery_tag=LONGLONG, multiple=BIT)
    Reject = Kind(60, 90, delivery_tag=LONGLONG, requeue=BIT)
    RecoverAsync = Kind(60, 100, requeue=BIT)
    Recover = Kind(60, 110, requeue=BIT)
    RecoverOk = Kind(60, 111)
    Nack = Kind(60, 120, delivery_tag=LONGLONG, multiple=BIT, requeue=BIT)


class Confirm:
    """RabbitMQ's publisher confirms."""

    Select = Kind(85, 10, nowait=BIT)
    SelectOk = Kind(85, 11)


class Tx:
    """Transactions."""

    Select = Kind(90, 10)
    SelectOk = Kind(90, 11)
    Commit = Kind(90, 20)
    CommitOk = Kind(90, 21)
    Rollback = Kind(90, 30)
    RollbackOk = Kind(90, 31)


KINDS: dict[bytes, Kind] = {
    kind.index: kind
    for methods in (Connection, Channel, Access, Exchange, Queue, Basic, Confirm, Tx)
    for kind in vars(methods).values()
    if isinstance(kind, Kind)
}


def encode_method(channel: int, method: Method) -> bytes:
    """A method frame.

    Raises:
        ValueError: a short text has more than 255 bytes.
        OverflowError: a number is out of range.
    """
    payload = method.kind.index + b"".join([_encode(kind, method, names) for kind, names in method.kind.fields])
    return _head.pack(METHOD, channel, len(payload)) + payload + END_BYTE


def _encode(kind: Type, method: Method, names: tuple[str, ...]) -> bytes:
    if kind is BIT:
        return bytes((sum(bool(getattr(method, name)) << bit for bit, name in enumerate(names)),))
    value = getattr(method, names[0])
    if isinstance(value, int):
        return value.to_bytes(kind.size)
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return shortstr(data) if kind is SHORTSTR else len(data).to_bytes(4) + data


def decode_method(payload: bytes) -> Method:
    """The method in a method frame's payload.

    Raises:
        KeyError: there is no such method.
        FrameError: its arguments do not add up; that of tables is not looked at.
    """
    kind = KINDS[payload[:4]]
    found: dict[str, Any] = {}
    end = 4
    for type_, names in kind.fields:
        start, end = end, end + (type_.size or 1)
        number = int.from_bytes(payload[start:end])
        if type_ is BIT:
            found |= {name: bool(number >> bit & 1) for bit, name in enumerate(names)}
        elif isinstance(type_.default, int):
            found[names[0]] = number
        else:
            start, end = end, end + number
            data = payload[start:end]
            found[names[0]] = data if type_ is TABLE else data.decode("utf-8", "surrogateescape")
    if end != len(payload):  # cut short, it ends beyond
        raise FrameError(f"{kind!r} does not add up")
    return Method(kind=kind, **found)
