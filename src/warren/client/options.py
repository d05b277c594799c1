"""How calls are made, and what a client allows: options, checked before anything is opened."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from warren import checks
from warren.client.requests import Own
from warren.protocol import codecs
from warren.protocol.progress import PROGRESS_FIELD, Progress
from warren.protocol.request import encode_headers
from warren.protocol.running import Running, get_running
from warren.protocol.signature import Method, is_async

Encoding = Literal["json", "msgpack"]
ReplyQueue = Literal["exclusive", "durable"]
CONTENT_TYPES = {"json": codecs.JSON, "msgpack": codecs.MSGPACK}

#: Seconds a call may take when nothing else is said.
DEFAULT_TIMEOUT = 30.0
#: Calls, casts and bare calls that one client may have under way at a time.
DEFAULT_MAX_IN_FLIGHT = 65_536
#: Bytes of requests that may wait to be sent.
DEFAULT_MAX_WAITING_BYTES = 64 * 1024 * 1024

#: What a nested call leaves its caller of the time that is left: this share,
RESERVED_SHARE = 0.05
#: at least this many seconds (but never more than half of what is left),
LEAST_RESERVED = 0.02
#: and at most this many.
MOST_RESERVED = 1.0


class Limits(NamedTuple):
    """What a client allows and adds; see `BaseClient`."""

    max_in_flight: int
    max_message_size: int
    max_waiting_bytes: int
    send_user: bool
    reply: ReplyQueue

    def checked(self) -> Limits:
        """Itself.

        Raises:
            TypeError: a value of the wrong type.
            ValueError: one that lets nothing through, or an unknown kind of reply queue.
        """
        for name in ("max_in_flight", "max_message_size", "max_waiting_bytes"):
            checks.whole(name, getattr(self, name))
        checks.flag("send_user", self.send_user)
        if self.reply not in get_args(ReplyQueue):
            raise ValueError(f"reply={self.reply!r} is not one of {', '.join(get_args(ReplyQueue))}")
        return self


@dataclass(frozen=True)
class Options:
    """How calls are made; see `AsyncClient.options`. A client that is not `named` is called as the service it is in.

    Attributes:
        own: the headers as they are written, if there are any.
    """

    timeout: float = DEFAULT_TIMEOUT
    fail_fast: bool = False
    encoding: Encoding = "json"
    headers: Mapping[str, Any] | None = None
    resend: bool | None = None
    detached: bool = False
    wait: bool = False
    idle_timeout: float | None = None
    expect: int | None = None
    on_progress: Callable[[Progress], object] | None = None
    named: bool = True
    own: Own | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeout", checks.seconds("timeout", self.timeout))
        for name in ("fail_fast", "resend", "detached", "wait"):
            if not (name == "resend" and self.resend is None):
                checks.flag(name, getattr(self, name))
        if self.idle_timeout is not None:
            checks.seconds("idle_timeout", self.idle_timeout)
        if self.expect is not None:
            checks.whole("expect", self.expect)
        if not isinstance(self.encoding, str) or self.encoding not in CONTENT_TYPES:
            raise ValueError(f"encoding={self.encoding!r} is not one of {', '.join(CONTENT_TYPES)}")
        if self.on_progress is not None:
            _check_on_progress(self.on_progress)
        if self.headers is not None or self.on_progress is not None:
            self._set_headers(_copied_headers(self.headers or {}))

    def with_given(self, headers: Mapping[str, Any] | None = None, **given: Any) -> Options:
        """A copy with the given options replaced, and headers added; None keeps the old value."""
        changed = {name: value for name, value in given.items() if value is not None}
        made = replace(self, **changed) if changed else self
        return made if headers is None else made._with_headers(_copied_headers(headers))

    def _with_headers(self, added: dict[str, Any]) -> Options:
        """A copy that has these, too. Views may be made for each call, so what was checked is not checked again."""
        merged = {**self.headers, **added} if self.headers else added
        made = object.__new__(Options)
        made.__dict__.update(self.__dict__)
        made._set_headers({name: value for name, value in merged.items() if value is not None})
        return made

    def _set_headers(self, headers: dict[str, Any]) -> None:
        ours = b"" if self.on_progress is None else PROGRESS_FIELD
        own = Own(encode_headers(headers) + ours, None, ours, self.on_progress) if headers or ours else None
        self.__dict__.update(headers=headers or None, own=own)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What tells apart how requests are prepared: all but the time they have, and their headers."""
        return self.encoding, self.fail_fast, self.resend, self.wait

    def own_deadline(self) -> float:
        """When a cast that begins now ends at the latest: whoever makes it, as it is not bound to its maker's time."""
        return time.monotonic() + self.timeout

    def bound_to(self) -> Running | None:
        """The call that is being served here, for which a call that begins now is made; None where there is none."""
        return None if self.detached else get_running()

    def deadline(self) -> float:
        """When a call that begins now ends at the latest: inside a handler, a little before the handler's own call."""
        now = time.monotonic()
        own = now + self.timeout
        limit = nested_deadline(self.bound_to(), now)
        return own if limit is None or own < limit else limit


def resends(options: Options, method: Method | None) -> bool:
    """Whether a call is sent again when its connection is lost."""
    if options.resend is None:
        return method is not None and method.delivery == "at-least-once"
    return options.resend


def nested_deadline(running: Running | None, now: float) -> float | None:
    """When a call made inside `running` has to end; None where nothing limits it.

    Only a call that is under way limits. It is left a little of its time, so that what the nested call ended in, the
    better explanation, reaches its caller before that gives up.
    """
    if running is None or running.ended or running.deadline is None:
        return None
    left = max(0.0, running.deadline - now)
    return running.deadline - min(max(left * RESERVED_SHARE, LEAST_RESERVED), left / 2, MOST_RESERVED)


def _check_on_progress(on_progress: object) -> None:
    if not callable(on_progress) or is_async(on_progress) or inspect.isasyncgenfunction(on_progress):
        raise TypeError(f"on_progress={on_progress!r} is no plain function: say for example on_progress=print")


def _copied_headers(headers: object) -> dict[str, Any]:
    """A copy of the headers: what is checked stays what is sent."""
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise TypeError(f"headers={headers!r} is not a mapping: say for example headers={{'tenant': 'acme'}}")
    return check_names(dict(headers))


def check_names(headers: dict[str, Any]) -> dict[str, Any]:
    """Itself, if all names are text (`TypeError`)."""
    for name in headers:
        if not isinstance(name, str):
            raise TypeError(f"header names must be str, not {name!r}")
    return headers
