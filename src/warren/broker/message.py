"""A message inside the broker: content header and body stay the bytes that were sent.

Only the properties that steer the broker are read: expiration, priority, CC and BCC, user_id, reply_to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from warren.amqp.frames import Properties, decode_properties, encode_properties, shortstr
from warren.amqp.tables import decode_value, encode_value, join_table, split_table
from warren.broker.errors import precondition
from warren.broker.tables import Value, as_long, type_name

_STEERING = 0x2310  # headers, reply_to, expiration, user_id: see `Message.steers`
_MAX_TTL = 10 * 365 * 24 * 3600 * 1000  # ten years in milliseconds, RabbitMQ's limit of any time
_INTEGER = re.compile(r"[+-]?\d+")


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

    def read_copies(self) -> None:
        """Take notice of CC and BCC, and take BCC away: nobody is to see it.

        Raises:
            FrameError: the headers do not add up.
            AmqpError: 406.
        """
        table = self.properties.table
        if table and b"CC" in table:
            entries = split_table(table)
            copies = _routing_keys(entries, b"CC")
            self.keys = (self.key, *copies, *_routing_keys(entries, b"BCC"))
            if b"BCC" in entries:
                del entries[b"BCC"]
                self.rewrite(table=join_table(entries))

    def rewrite(self, **changes: bytes | int | None) -> None:
        """Replace properties; None takes one away. Everything else stays byte for byte."""
        properties = decode_properties(self.header)
        properties.__dict__.update(changes)
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


def _routing_keys(entries: dict[bytes, bytes], name: bytes) -> list[str]:
    raw = entries.get(name)
    if raw is None:
        return []
    keys = decode_value(raw)
    if not isinstance(keys, list):
        problem = f'{{unacceptable_type_in_header,"{name.decode()}",{type_name(raw)}}}'
        raise precondition(f"invalid message: {problem}")
    return [decode_name(key) for key in keys if isinstance(key, str | bytes)]


# --- dead letters -----------------------------------------------------------------------------------------------------


def dead_letter(message: Message, queue: str, reason: str, exchange: str, key: str | None, time: int) -> Message:
    """The copy of a message that goes to a dead-letter exchange, with its death on record.

    `key` replaces the routing keys, and CC with them; None keeps both. `time` is in seconds since 1970.
    """
    entries = message.headers()
    properties = message.properties
    first = b"x-death" not in entries
    deaths = _deaths(entries)
    recorded = _record(deaths, message, properties, queue, reason, time)
    entries[b"x-death"] = encode_value(recorded)
    names = (("reason", reason), ("queue", queue), ("exchange", message.exchange))
    for name, value in names:
        if first:
            entries[f"x-first-death-{name}".encode()] = encode_value(value)
        entries[f"x-last-death-{name}".encode()] = encode_value(value)
    if key is not None:
        entries.pop(b"CC", None)
    copy = Message.__new__(Message)
    copy.exchange, copy.key = exchange, message.key if key is None else key
    copy.route = make_route(copy.exchange, copy.key)
    copy.header, copy.body, copy.size = message.header, message.body, message.size
    copy.keys = (copy.key, *(_routing_keys(entries, b"CC")))
    copy.priority, copy.ttl, copy.steers = message.priority, None, False
    copy.rewrite(table=join_table(entries), expiration=None)
    return copy


def _deaths(entries: dict[bytes, bytes]) -> list[dict[str, Value]]:
    raw = entries.get(b"x-death")
    deaths = decode_value(raw) if raw else []
    return [death for death in deaths if isinstance(death, dict)] if isinstance(deaths, list) else []


def _record(
    deaths: list[dict[str, Value]], message: Message, properties: Properties, queue: str, reason: str, time: int
) -> list[dict[str, Value]]:
    """Count one more death; the latest comes first, the others in RabbitMQ 3.10's order."""
    same = next((d for d in deaths if d.get("queue") == queue and d.get("reason") == reason), None)
    if same is not None:
        count = same.get("count")
        same["count"] = as_long((count if isinstance(count, int) else 0) + 1)
        return [same, *(d for d in reversed(deaths) if d is not same)]
    death: dict[str, Value] = {
        "count": as_long(1),
        "reason": reason,
        "queue": queue,
        "time": datetime.fromtimestamp(time, UTC),
        "exchange": message.exchange,
        "routing-keys": list(_visible_keys(message)),
    }
    if properties.expiration is not None:
        death["original-expiration"] = properties.expiration.decode("utf-8", "replace")
    return [death, *deaths]


def _visible_keys(message: Message) -> Sequence[str]:
    return (message.key, *_routing_keys(message.headers(), b"CC"))


def goes_in_circles(message: Message, queue: str) -> bool:
    """Whether a dead letter would come back to a queue without a client's doing: RabbitMQ drops it then.

    A circle in which somebody rejected the message is no such circle.
    """
    deaths = _deaths(message.headers())
    names = [death.get("queue") for death in deaths]
    if queue not in names:
        return False
    return all(death.get("reason") != "rejected" for death in deaths[: names.index(queue) + 1])
