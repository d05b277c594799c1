"""A message inside the broker: content header and body stay the bytes that were sent.

Only the properties that steer the broker are read: expiration, priority, CC and BCC, user_id, reply_to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from warren.amqp.frames import FrameError, decode_properties, encode_properties, shortstr
from warren.amqp.tables import decode_value, join_table, split_array, split_table
from warren.broker.errors import precondition
from warren.broker.tables import type_name

_STEERING = 0x3310  # headers, delivery_mode, reply_to, expiration, user_id: see `Message.steers`
_TRANSIENT, _PERSISTENT = 1, 2
_MAX_TTL = 10 * 365 * 24 * 3600 * 1000  # ten years in milliseconds, RabbitMQ's limit of any time
_SHORTSTR_MAX = 255
_COUNT_MAX = 2**63 - 1  # of deaths
_ARRAY, _TEXT, _TABLE = b"A", b"S", b"F"  # types of values
_INTEGERS = frozenset((b"b", b"B", b"s", b"U", b"u", b"I", b"i", b"l", b"L"))
_INTEGER = re.compile(r"[+-]?[0-9]+")


class Message:
    """One published message; the queues it is routed to share it.

    Raises:
        FrameError: the header does not add up.

    `steers` tells that properties may mean something to the broker; whoever publishes reads them then.
    `route` is the exchange and routing key as two short strings, just as they stood in Basic.Publish and will stand in
    Basic.Deliver. `keys` are all routing keys: the key itself, CC and BCC.
    """

    __slots__ = (
        "body",
        "exchange",
        "header",
        "key",
        "keys",
        "priority",
        "properties",
        "route",
        "size",
        "steers",
        "ttl",
    )

    def __init__(self, exchange: str, key: str, route: bytes, header: bytes, body: bytes) -> None:
        self.exchange = exchange
        self.key = key
        self.route = route
        self.header = header
        self.body = body
        self.size = len(body)
        self.keys: tuple[str, ...] = (key,)
        self.ttl: int | None = None
        self.priority = 0
        self.properties = decode_properties(header)
        self.steers = (header[0] << 8 | header[1]) & _STEERING != 0
        if self.properties.priority is not None:
            self.priority = self.properties.priority

    def read_expiration(self) -> None:
        """Take notice of the expiration.

        Raises:
            AmqpError: 406.
        """
        if self.properties.expiration is not None:
            self.ttl = parse_expiration(self.properties.expiration)

    def check_delivery_mode(self) -> None:
        """It is transient, persistent, or does not say.

        Raises:
            AmqpError: 406.
        """
        mode = self.properties.delivery_mode
        if mode is not None and mode not in (_TRANSIENT, _PERSISTENT):
            raise precondition(f"invalid message: {{delivery_mode_unknown,{mode}}}")

    def read_copies(self) -> None:
        """Take notice of CC and BCC, and take BCC away: nobody is to see it.

        Raises:
            FrameError: the headers do not add up.
            AmqpError: 406.
        """
        table = self.properties.table
        entries = split_table(table) if table else {}  # whoever reads them later can do without doubts
        if b"CC" in entries or b"BCC" in entries:
            copies = _routing_keys(entries, b"CC")
            self.keys = (self.key, *copies, *_routing_keys(entries, b"BCC"))
            if b"BCC" in entries:
                del entries[b"BCC"]
                self.rewrite(table=join_table(entries))

    def rewrite(self, **changes: bytes | int | None) -> None:
        """Replace properties; None takes one away. Everything else stays byte for byte."""
        properties = decode_properties(self.header)
        for name, value in changes.items():
            setattr(properties, name, value)
        self.properties = properties
        self.header = encode_properties(properties)

    def headers(self) -> dict[bytes, bytes]:
        """The headers, undecoded; empty without any."""
        table = self.properties.table
        return split_table(table) if table else {}


def make_route(exchange: str, key: str) -> bytes:
    """Exchange and routing key as they stand in a delivery."""
    return shortstr(encode_name(exchange)) + shortstr(encode_name(key))


def encode_name(name: str) -> bytes:
    """The bytes of a name that `decode_name` read."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: str | bytes) -> str:
    """A name as text, whatever its bytes are; Pika leaves bytes that are not UTF-8."""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def parse_expiration(value: bytes) -> int:
    """The milliseconds of an expiration property.

    Raises:
        AmqpError: 406, in RabbitMQ's (Erlang's) words.
    """
    text = value.decode("utf-8", "replace")
    number = _INTEGER.match(text)
    problem = None
    if number is None:
        problem = "no_integer"
    elif rest := text[number.end() :]:
        problem = f'{{leftover_string,"{rest}"}}'
    elif (milliseconds := int(number[0])) < 0:
        problem = f"{{value_negative,{milliseconds}}}"
    elif milliseconds > _MAX_TTL:
        problem = f"{{value_too_large,{milliseconds}}}"
    else:
        return milliseconds
    raise precondition(f"invalid expiration '{text}': {problem}")


def _routing_keys(entries: Mapping[bytes, bytes], name: bytes) -> list[str]:
    raw = entries.get(name)
    if raw is None:
        return []
    if raw[:1] != _ARRAY:
        problem = f'{{unacceptable_type_in_header,"{name.decode()}",{type_name(raw)}}}'
        raise precondition(f"invalid message: {problem}")
    return [decode_name(one[5:]) for one in split_array(raw[5:]) if one[:1] == _TEXT]


# --- dead letters -----------------------------------------------------------------------------------------------------
# Their records come back with whatever clients have made of them: they stay encoded except for what counts, and what
# is no record is forgotten.

Death = dict[bytes, bytes]  # an entry of x-death, its values encoded


def dead_letter(message: Message, queue: str, reason: str, exchange: str, key: str | None, time: int) -> Message:
    """The copy of a message that goes to a dead-letter exchange, with its death on record.

    `key` replaces the routing keys, and CC with them; None keeps both. `time` is in seconds since 1970.
    """
    entries = message.headers()
    first = b"x-death" not in entries
    recorded = _record(_deaths(entries), message, queue, reason, time)
    entries[b"x-death"] = encode_array([encode_entry(_TABLE, join_table(death)) for death in recorded])
    names = (("reason", reason), ("queue", queue), ("exchange", message.exchange))
    for name, value in names:
        if first:
            entries[f"x-first-death-{name}".encode()] = _encode_text(value)
        entries[f"x-last-death-{name}".encode()] = _encode_text(value)
    if key is not None:
        entries.pop(b"CC", None)
    copy = Message.__new__(Message)
    copy.exchange, copy.key = exchange, message.key if key is None else _cut(key)
    copy.route = make_route(copy.exchange, copy.key)
    copy.header, copy.body, copy.size = message.header, message.body, message.size
    copy.keys = (copy.key, *(_routing_keys(entries, b"CC")))
    copy.priority, copy.ttl, copy.steers = message.priority, None, False
    copy.rewrite(table=join_table(entries), expiration=None)
    return copy


def _cut(key: str) -> str:
    """What of an argument fits where routing keys stand."""
    return decode_name(encode_name(key)[:_SHORTSTR_MAX])


def _deaths(entries: Mapping[bytes, bytes]) -> list[Death]:
    raw = entries.get(b"x-death", b"")
    if raw[:1] != _ARRAY:
        return []
    try:
        return [split_table(one[5:]) for one in split_array(raw[5:]) if one[:1] == _TABLE]
    except FrameError:
        return []


def _record(deaths: list[Death], message: Message, queue: str, reason: str, time: int) -> list[Death]:
    """Count one more death: it comes first, the others in RabbitMQ 3.10's order."""
    named = (_encode_text(queue), _encode_text(reason))
    known = _grouped(deaths)
    same = known.pop(named, None)
    if same is None:
        same = _first_death(message, named, time)
    else:
        same[b"count"] = _encode_long(_count(same) + 1)
    return [same, *known.values()]


def _grouped(deaths: list[Death]) -> dict[tuple[bytes | None, bytes | None], Death]:
    """One record for each queue and reason, as RabbitMQ 3.10 makes it of all at every death: in reversed order.

    The first of a group stands for it; where it has no count, the size of the group is its count. A record that is
    the only one is left alone.
    """
    groups: dict[tuple[bytes | None, bytes | None], list[Death]] = {}
    for death in deaths:
        groups.setdefault((death.get(b"queue"), death.get(b"reason")), []).append(death)
    if len(deaths) > 1:
        for group in groups.values():
            group[0].setdefault(b"count", _encode_long(len(group)))
    return {cause: group[0] for cause, group in reversed(groups.items())}


def _first_death(message: Message, named: tuple[bytes, bytes], time: int) -> Death:
    """A record of this cause."""
    queue, reason = named
    new: Death = {
        b"count": _encode_long(1),
        b"reason": reason,
        b"queue": queue,
        b"time": b"T" + time.to_bytes(8),
        b"exchange": _encode_text(message.exchange),
        b"routing-keys": encode_array([_encode_text(key) for key in _visible_keys(message)]),
    }
    expiration = message.properties.expiration
    if expiration is not None:
        new[b"original-expiration"] = encode_entry(_TEXT, expiration)
    return new


def _count(death: Death) -> int:
    """Clients that publish a dead letter again may have written its count in another type."""
    raw = death.get(b"count", b"")
    return int(decode_value(raw)) if raw[:1] in _INTEGERS else 0


def _encode_long(value: int) -> bytes:
    return b"l" + min(value, _COUNT_MAX).to_bytes(8, signed=True)


def _encode_text(text: str) -> bytes:
    return encode_entry(_TEXT, encode_name(text))


def encode_array(values: Sequence[bytes]) -> bytes:
    """An array of encoded values."""
    return encode_entry(_ARRAY, b"".join(values))


def encode_entry(kind: bytes, data: bytes) -> bytes:
    """A value whose length stands before it."""
    return kind + len(data).to_bytes(4) + data


def _visible_keys(message: Message) -> Sequence[str]:
    return (message.key, *_routing_keys(message.headers(), b"CC"))


def goes_in_circles(message: Message, queue: str) -> bool:
    """Whether a dead letter would come back to a queue without a client's doing: RabbitMQ drops it then.

    A circle in which somebody rejected the message is no such circle.
    """
    deaths = _deaths(message.headers())
    names = [death.get(b"queue") for death in deaths]
    name = _encode_text(queue)
    if name not in names:
        return False
    return all(death.get(b"reason") != _encode_text("rejected") for death in deaths[: names.index(name) + 1])
