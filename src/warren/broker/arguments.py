"""The optional arguments of a queue: what may stand there, and what a second declaration must repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from warren.amqp.tables import decode_value
from warren.broker.errors import precondition
from warren.broker.tables import Value, type_name

MAX_TTL = 10 * 365 * 24 * 3600 * 1000  # ten years in milliseconds, RabbitMQ's limit of any time
_MAX_PRIORITY = 255
#: What RabbitMQ writes for a value that is not a number.
_INTEGERS = frozenset({"byte", "unsignedbyte", "short", "unsignedshort", "signedint", "unsignedint", "long"})


@dataclass(frozen=True, slots=True)
class QueueArguments:
    """A queue's arguments, checked. Times are in milliseconds."""

    expires: int | None = None
    message_ttl: int | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: str = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_key: str | None = None
    max_priority: int | None = None
    single_active: bool = False
    quorum: bool = False
    delivery_limit: int | None = None
    encoded: tuple[tuple[str, bytes], ...] = ()  # what a declaration of the same queue is compared with


Raw = Mapping[str, bytes]  # the values encoded, with their type letter


Check = Callable[[bytes], str | None]  # what is wrong with a value, in RabbitMQ's (Erlang's) words


def _integer(low: int, high: int | None = None, too_large: str = "value_too_large") -> Check:
    def check(raw: bytes) -> str | None:
        kind = type_name(raw)
        if kind not in _INTEGERS:
            return f'"expected integer, got {kind}"'
        value = decode_value(raw)
        assert isinstance(value, int)
        if value < 0:
            return f"{{value_negative,{value}}}"
        if value < low:
            return f"{{value_zero,{value}}}"
        return f"{{{too_large},{value}}}" if high is not None and value > high else None

    return check


def _text(*allowed: str, otherwise: str = "") -> Check:
    def check(raw: bytes) -> str | None:
        kind = type_name(raw)
        if kind != "longstr":
            return f"{{unacceptable_type,{kind}}}"
        value = decode_value(raw)
        return otherwise.format(value) if allowed and value not in allowed else None

    return check


def _boolean(raw: bytes) -> str | None:
    kind = type_name(raw)
    return None if kind == "bool" else f"{{unacceptable_type,{kind}}}"


def _anything(_: bytes) -> str | None:
    return None


#: In RabbitMQ's order, which decides what is complained of first.
_CHECKS: dict[str, Check] = {
    "x-expires": _integer(1, MAX_TTL),
    "x-message-ttl": _integer(0, MAX_TTL),
    "x-dead-letter-exchange": _anything,  # its type is checked before all others
    "x-dead-letter-routing-key": _text(),
    "x-max-length": _integer(0),
    "x-max-length-bytes": _integer(0),
    "x-max-priority": _integer(0, _MAX_PRIORITY, "max_value_exceeded"),
    "x-overflow": _text("drop-head", "reject-publish", "reject-publish-dlx", otherwise="invalid_overflow"),
    "x-queue-mode": _text("default", "lazy", otherwise="\"unsupported queue mode '{}'\""),
    "x-single-active-consumer": _boolean,
    "x-queue-type": _text("classic", "quorum", otherwise="\"unsupported queue type '{}'\""),
    "x-delivery-limit": _anything,  # what is no limit means that there is none
}
#: What a second declaration must repeat, in RabbitMQ's order; some of it has no effect here.
_COMPARED = {
    "classic": (
        "x-expires",
        "x-message-ttl",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-overflow",
        "x-queue-mode",
        "x-queue-version",
        "x-single-active-consumer",
        "x-queue-type",
        "x-queue-master-locator",
    ),
    "quorum": (
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-overflow",
        "x-single-active-consumer",
        "x-queue-type",
        "x-quorum-initial-group-size",
        "x-delivery-limit",
        "x-message-ttl",
        "x-queue-leader-locator",
    ),
}
_NOT_FOR = {
    "classic": (
        "x-delivery-limit",
        "x-dead-letter-strategy",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-max-age",
    ),
    "quorum": ("x-max-priority", "x-queue-mode"),
}


def parse_arguments(raw: Raw, described: str) -> QueueArguments:
    """Check the arguments of a declaration; `described` names the queue in errors.

    Raises:
        AmqpError: 406.
    """
    kind = _queue_type(raw.get("x-queue-type"))
    for name in _NOT_FOR[kind]:
        if name in raw:
            raise precondition(f"invalid arg '{name}' for {described} of queue type rabbit_{kind}_queue")
    check_name_arguments(("x-dead-letter-exchange",), raw, described)
    for name, check in _CHECKS.items():
        if name in raw and (problem := check(raw[name])):
            raise precondition(f"invalid arg '{name}' for {described}: {problem}")
    if "x-dead-letter-routing-key" in raw and "x-dead-letter-exchange" not in raw:
        problem = "routing_key_but_no_dlx_defined"
        raise precondition(f"invalid arg 'x-dead-letter-routing-key' for {described}: {problem}")
    return _collect({name: decode_value(raw[name]) for name in _CHECKS if name in raw}, raw)


def check_name_arguments(names: Iterable[str], raw: Raw, described: str) -> None:
    """Arguments that hold the name of an exchange or a routing key must be text.

    Raises:
        AmqpError: 406.
    """
    for name in names:
        if name in raw and type_name(raw[name]) != "longstr":
            raise precondition(f"invalid type '{type_name(raw[name])}' for arg '{name}' in {described}")


def check_priority(raw: Raw, described: str) -> int:
    """The x-priority of a consumer.

    Raises:
        AmqpError: 406 if it is no integer.
    """
    encoded = raw.get("x-priority")
    if encoded is None:
        return 0
    value = decode_value(encoded)
    if type_name(encoded) not in _INTEGERS or not isinstance(value, int):
        raise precondition(f"invalid arg 'x-priority' for {described}: \"expected integer, got {type_name(encoded)}\"")
    return value


def _queue_type(encoded: bytes | None) -> str:
    return "quorum" if encoded is not None and decode_value(encoded) == "quorum" else "classic"


def _collect(values: Mapping[str, Value], raw: Raw) -> QueueArguments:
    def integer(name: str) -> int | None:
        value = values.get(name)
        return value if isinstance(value, int) else None

    def text(name: str) -> str | None:
        value = values.get(name)
        return value if isinstance(value, str) else None

    limit, quorum = integer("x-delivery-limit"), values.get("x-queue-type") == "quorum"
    return QueueArguments(
        expires=integer("x-expires"),
        message_ttl=integer("x-message-ttl"),
        max_length=integer("x-max-length"),
        max_bytes=integer("x-max-length-bytes"),
        overflow=text("x-overflow") or "drop-head",
        dead_letter_exchange=text("x-dead-letter-exchange"),
        dead_letter_key=text("x-dead-letter-routing-key"),
        max_priority=integer("x-max-priority"),
        single_active=values.get("x-single-active-consumer") is True,
        quorum=quorum,
        delivery_limit=limit if limit is not None and limit >= 0 else None,
        encoded=tuple((name, raw[name]) for name in _COMPARED["quorum" if quorum else "classic"] if name in raw),
    )


def check_same_arguments(current: QueueArguments, raw: Raw, described: str) -> None:
    """Compare a second declaration with what is there.

    Raises:
        AmqpError: 406, naming the first argument that differs.
    """
    present = dict(current.encoded)
    for name in _COMPARED["quorum" if current.quorum else "classic"]:
        received, existing = raw.get(name), present.get(name)
        if name == "x-queue-type" and _queue_type(received) == _queue_type(existing):
            continue
        check_same_argument(name, received, existing, described)


def check_same_argument(name: str, received: bytes | None, existing: bytes | None, described: str) -> None:
    """Compare one argument of a second declaration.

    Raises:
        AmqpError: 406.
    """
    if received is None and existing is None:
        return
    if received is None or existing is None:
        shown = [_shown(received), _shown(existing)]
    elif _same(received, existing):
        return
    else:
        shown = [f"'{show_value(received)}'", f"'{show_value(existing)}'"]
    raise precondition(f"inequivalent arg '{name}' for {described}: received {shown[0]} but current is {shown[1]}")


def _same(one: bytes, other: bytes) -> bool:
    kinds = type_name(one), type_name(other)
    return (kinds[0] == kinds[1] or _INTEGERS.issuperset(kinds)) and decode_value(one) == decode_value(other)


def _shown(raw: bytes | None) -> str:
    return "none" if raw is None else f"the value '{show_value(raw)}' of type '{type_name(raw)}'"


def show_value(raw: bytes) -> str:
    """A value as RabbitMQ (Erlang) writes it."""
    value = decode_value(raw)
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_same_flag(name: str, received: bool | str, current: bool | str, described: str) -> None:
    """Compare one field of a second declaration.

    Raises:
        AmqpError: 406.
    """
    if received != current:
        shown = f"received '{_flag(received)}' but current is '{_flag(current)}'"
        raise precondition(f"inequivalent arg '{name}' for {described}: {shown}")


def _flag(value: bool | str) -> str:
    return value if isinstance(value, str) else str(value).lower()
