"""How calls are made, and what a client allows: options, checked before anything is opened."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

from warren.client.requests import Limits
from warren.protocol import codecs, wire
from warren.protocol.problems import registry
from warren.protocol.running import Running, get_running

Encoding = Literal["json", "msgpack"]
CONTENT_TYPES = {"json": codecs.JSON, "msgpack": codecs.MSGPACK}

#: Seconds a call may take when nothing else is said.
DEFAULT_TIMEOUT = 30.0
#: Calls, casts and bare calls that one client may have under way at a time.
DEFAULT_MAX_IN_FLIGHT = 65_536
#: Bytes of requests that may wait to be sent.
DEFAULT_MAX_WAITING_BYTES = 64 * 1024 * 1024
#: The longest timeout, in seconds: 23 days.
MAX_TIMEOUT = 2_000_000

#: What a nested call leaves its caller of the time that is left: this share,
RESERVED_SHARE = 0.05
#: at least so many seconds (but never more than half of what is left),
LEAST_RESERVED = 0.02
#: and at most so many.
MOST_RESERVED = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """How calls are made; see `AsyncClient.options`."""

    timeout: float = DEFAULT_TIMEOUT
    fail_fast: bool = False
    encoding: Encoding = "json"
    headers: Mapping[str, Any] | None = None
    resend: bool | None = None
    detached: bool = False

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        for name in ("fail_fast", "resend", "detached"):
            _check_flag(name, getattr(self, name), none=name == "resend")
        if not isinstance(self.encoding, str) or self.encoding not in CONTENT_TYPES:
            raise ValueError(f"encoding={self.encoding!r} is not one of {', '.join(CONTENT_TYPES)}")
        if self.headers is not None:
            object.__setattr__(self, "headers", _checked_headers(self.headers))

    def with_given(self, **given: Any) -> Options:
        """A copy with the given options replaced; None keeps the old value."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def own_deadline(self) -> float:
        """When a cast that begins now ends at the latest: whoever makes it, as it is not bound to its maker's time."""
        return time.monotonic() + self.timeout

    def deadline(self) -> float:
        """When a call that begins now ends at the latest: inside a handler, a little before the handler's own call."""
        now = time.monotonic()
        own = now + self.timeout
        if self.detached:
            return own
        limit = nested_deadline(get_running(), now)
        return own if limit is None or own < limit else limit


def nested_deadline(running: Running | None, now: float) -> float | None:
    """When a call made inside `running` has to end; None where nothing limits it.

    Only a call that is under way limits. It is left a little of its time, so that what the nested call ended in, the
    better explanation, reaches its caller before that gives up.
    """
    if running is None or running.ended or running.deadline is None:
        return None
    left = max(0.0, running.deadline - now)
    return running.deadline - min(max(left * RESERVED_SHARE, LEAST_RESERVED), left / 2, MOST_RESERVED)


def check_timeout(timeout: object) -> None:
    """Refuse what is no timeout.

    Raises:
        TypeError: it is not a number.
        ValueError: a number out of range.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise TypeError(
            f"timeout={timeout!r} is not a number of seconds: say for example timeout=2.5;"
            f" for no limit to speak of say timeout={MAX_TIMEOUT:_}"
        )
    if not 0 < float(timeout) <= MAX_TIMEOUT:
        raise ValueError(f"timeout={timeout!r}: seconds, more than 0 and at most {MAX_TIMEOUT:,} (23 days)")


def _check_flag(name: str, value: object, *, none: bool = False) -> None:
    if not isinstance(value, bool) and not (none and value is None):
        raise TypeError(f"{name}={value!r} is neither True nor False")


def _checked_headers(headers: object) -> dict[str, Any]:
    """A copy of the headers: what was checked stays what is sent."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers={headers!r} is not a mapping: say for example headers={{'tenant': 'acme'}}")
    copied = dict(headers)
    for name in copied:
        if not isinstance(name, str):
            raise TypeError(f"header {name!r}: names are strings")
    wire.check_headers(copied)
    return copied


def make_limits(
    *, max_in_flight: int, max_message_size: int, max_waiting_bytes: int, send_user: bool, reply: Any
) -> Limits:
    """What a client allows and adds.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: one that lets nothing through, or an unknown kind of reply queue.
    """
    sizes = {
        "max_in_flight": max_in_flight,
        "max_message_size": max_message_size,
        "max_waiting_bytes": max_waiting_bytes,
    }
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}={value!r} is not a whole number: say for example {name}=1000")
    _check_flag("send_user", send_user)
    return Limits(max_in_flight, max_message_size, max_waiting_bytes, send_user, reply).checked()


def make_errors(errors: Iterable[type[Exception]]) -> dict[str, type[Exception]]:
    """The exception classes that a client raises as themselves, by name.

    Raises:
        TypeError: something that is not an exception class.
        ValueError: two classes of one name: which of them is meant cannot be told.
    """
    if isinstance(errors, type) or not isinstance(errors, Iterable):
        raise TypeError(f"errors={errors!r} is not a list of exception classes: say for example errors=[OutOfStock]")
    return registry(errors)
