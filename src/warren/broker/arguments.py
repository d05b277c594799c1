"""The optional arguments of a queue: what may stand there, and what a second declaration must repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from warren.broker.errors import precondition
from warren.broker.tables import Value, decode_value, type_name

_MAX_TTL = 2**32 - 1
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


def _integer(raw: bytes, low: int = 0, high: int = 2**63) -> str | None:
    kind = type_name(raw)
    if kind not in _INTEGERS:
        return f"{{unacceptable_type,{kind}}}"
    value = decode_value(raw)
    assert isinstance(value, int)
    if value < 0:
        return f"{{value_negative,{value}}}"
    if value < low:
        return f"{{value_zero,{value}}}"
    return f"{{value_too_big,{value}}}" if value > high else None


def _text(*allowed: str, otherwise: str = "") -> Callable[[bytes], str | None]:
    def check(raw: bytes) -> str | None:
        kind = type_name(raw)
        if kind != "longstr":
            return f"{{unacceptable_type,{kind}}}"
        return otherwise if allowed and decode_value(raw) not in allowed else None

    return check


def _boolean(raw: bytes) -> str | None:
    kind = type_name(raw)
    return None if kind == "bool" else f"{{unacceptable_type,{kind}}}"


#: In RabbitMQ's order, which decides what is complained of first.
_CHECKS: dict[str, Callable[[bytes], str | None]] = {
    "x-expires": lambda raw: _integer(raw, 1, _MAX_TTL),
    "x-message-ttl": lambda raw: _integer(raw, 0, _MAX_TTL),
    "x-dead-letter-exchange": _text(),
    "x-dead-letter-routing-key": _text(),
    "x-max-length": _integer,
    "x-max-length-bytes": _integer,
    "x-max-priority": lambda raw: _integer(raw, 0, _MAX_PRIORITY),
    "x-overflow": _text("drop-head", "reject-publish", "reject-publish-dlx", otherwise="invalid_overflow"),
    "x-queue-mode": _text("default", "lazy", otherwise="invalid_queue_mode"),
    "x-single-active-consumer": _boolean,
    "x-queue-type": _text("classic", "quorum", otherwise="unsupported_queue_type"),
    "x-delivery-limit": _integer,
}


def parse_arguments(raw: Raw, described: str) -> QueueArguments:
    """Check the arguments of a declaration; `described` names the queue in errors.

    Raises:
        AmqpError: 406.
    """
    for name, check in _CHECKS.items():
        if name in raw and (problem := check(raw[name])):
            raise precondition(f"invalid arg '{name}' for {described}: {problem}")
    if "x-dead-letter-routing-key" in raw and "x-dead-letter-exchange" not in raw:
        problem = "routing_key_but_no_dlx_defined"
        raise precondition(f"invalid arg 'x-dead-letter-routing-key' for {described}: {problem}")
    return _collect({name: decode_value(raw[name]) for name in _CHECKS if name in raw}, raw)


def _collect(values: Mapping[str, Value], raw: Raw) -> QueueArguments:
    def integer(name: str) -> int | None:
        value = values.get(name)
        return value if isinstance(value, int) else None

    def text(name: str) -> str | None:
        value = values.get(name)
        return value if isinstance(value, str) else None

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
        quorum=values.get("x-queue-type") == "quorum",
        delivery_limit=integer("x-delivery-limit"),
        encoded=tuple((name, raw[name]) for name in _CHECKS if name in raw),
    )


def check_same_arguments(current: QueueArguments, raw: Raw, described: str) -> None:
    """Compare a second declaration with what is there.

    Raises:
        AmqpError: 406, naming the first argument that differs.
    """
    present = dict(current.encoded)
    for name in _CHECKS:
        received, existing = raw.get(name), present.get(name)
        if not _same(received, existing):
            shown = f"received {_shown(received)} but current is {_shown(existing)}"
            raise precondition(f"inequivalent arg '{name}' for {described}: {shown}")


def _same(one: bytes | None, other: bytes | None) -> bool:
    if one is None or other is None:
        return one is other
    kinds = type_name(one), type_name(other)
    return (kinds[0] == kinds[1] or _INTEGERS.issuperset(kinds)) and decode_value(one) == decode_value(other)


def _shown(raw: bytes | None) -> str:
    return "none" if raw is None else f"the value '{decode_value(raw)!s}' of type '{type_name(raw)}'"


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
