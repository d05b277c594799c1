"""What is kept with a dead request: how it is set aside, what is then known of its end, and how it begins again. Pure.

A request that nobody will answer for goes into the dead queue with its `Death` in headers ``rpc-dead-…``, which only
this file knows; docs/wire.md, Set aside, is its prose. What the broker itself puts there tells its own story in
``x-death``, which is read here, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from warren.amqp.frames import FrameError, Properties, encode_properties
from warren.amqp.tables import encode_value, join_table, split_table
from warren.errors import CallError
from warren.protocol.request import PERSISTENT, Request
from warren.protocol.slip import resumed

#: Characters of an error's text, and of each other word, that are kept.
TEXT_KEPT, WORD_KEPT = 1000, 200

_BROKERS_REASON = "x-first-death-reason"
_OF_FORMER_DEATHS = (b"rpc-dead-", b"x-")
#: Headers of one attempt at a request, which mean nothing for another.
_OF_AN_ATTEMPT = frozenset({b"CC", b"BCC", b"rpc-attempt", b"rpc-deadline", b"rpc-timeout-ms", b"rpc-user"})

_Table = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Death:
    """How a request ended; None for what is not known, like nearly all where the broker gave it up.

    Attributes:
        reason, code, execution, origin: as in `CallError`, as text; the reason may be the broker's, in small letters.
        type: the class of the exception.
        text: what it said, at most `TEXT_KEPT` characters.
        at: when, by the clock of whoever set it aside.
        instance: which server process that was.
        attempt: how many attempts had been made, this one included.
    """

    reason: str | None = None
    code: str | None = None
    execution: str | None = None
    origin: str | None = None
    type: str | None = None
    text: str | None = None
    at: datetime | None = None
    instance: str | None = None
    attempt: int | None = None

    @classmethod
    def of(cls, error: CallError, *, type: str | None = None, at: float, instance: str, attempt: int) -> Death:
        """The death by an error; its `type` is given where the error only stands for the handler's exception.

        Args:
            error: what its caller would be told.
            type: the class of the exception; as a rule the error's own.
            at: now, in seconds since the epoch.
            instance: this server process.
            attempt: which attempt ended so.
        """
        return cls(
            reason=error.reason,
            code=error.code,
            execution=error.execution,
            origin=error.origin,
            type=type or error.__class__.__name__,
            text=error.message,
            at=datetime.fromtimestamp(at, UTC),
            instance=instance,
            attempt=attempt,
        )

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Death:
        """What the headers of a message in a dead queue say; they are anybody's claim."""
        if "rpc-dead-reason" not in table:
            return cls(reason=_word(table, _BROKERS_REASON), at=_brokers_time(table))
        words = {name: _word(table, f"rpc-dead-{header}") for name, header in _WORDS.items()}
        at, attempt = _time(table.get("rpc-dead-at")), _number(table.get("rpc-dead-attempt"))
        return cls(**words, text=_word(table, "rpc-dead-text"), at=at, attempt=attempt)


_WORDS = {
    "reason": "reason",
    "code": "code",
    "execution": "executed",
    "origin": "origin",
    "type": "type",
    "instance": "instance",
}


def dead_properties(request: Request, death: Death, *, server_user: str, room: int) -> bytes:
    """The property bytes under which a request is set aside, without a time limit and with nothing of former deaths.

    What does not fit into `room` bytes is left out: first the text, then all of the death but its reason, then the
    headers that the request came with. Those that are no AMQP table are left out, too. The request stays as it is.
    """
    p = copy(request.properties)
    table = {k: v for k, v in _kept(p).items() if k not in (b"CC", b"BCC")}
    why = _headers(death)
    whose: _Table = {}
    if p.user_id is not None:  # the broker would refuse another's name
        whose[b"rpc-user"], p.user_id = encode_value(request.verified_user(server_user)), None
    p.expiration, p.delivery_mode = None, PERSISTENT
    encoded = b""
    for headers in _shorter_and_shorter(table, whose, why):
        p.table = join_table(headers)
        encoded = encode_properties(p)
        if len(encoded) <= room:
            break
    return encoded


def _shorter_and_shorter(table: _Table, whose: _Table, why: _Table) -> Iterator[_Table]:
    reason = {k: v for k, v in why.items() if k == b"rpc-dead-reason"}
    yield table | whose | why
    yield table | whose | {k: v for k, v in why.items() if k != b"rpc-dead-text"}
    yield table | whose | reason
    yield whose | reason


def retry_properties(request: Request, *, user: str) -> bytes:
    """The property bytes to publish a dead request once more, as if it had just been cast.

    Its ids, method and the application's headers stay. What told of its past goes, and so do its time limit and its
    reply address: whoever waited there has been answered long ago. A request that came with a user's name now names
    `user`, the AMQP user that publishes it: the broker would refuse any other, and a name in a header is anybody's
    claim.
    """
    p = resumed(request.properties)
    table = split_table(p.table or b"")
    if p.user_id is not None or b"rpc-user" in table:
        p.user_id = user.encode()
    table = {k: v for k, v in table.items() if k not in _OF_AN_ATTEMPT and not k.startswith(_OF_FORMER_DEATHS)}
    p.table = join_table(table) if table else None
    p.reply_to, p.expiration, p.delivery_mode = None, None, PERSISTENT
    return encode_properties(p)


def _kept(p: Properties) -> _Table:
    try:
        table = split_table(p.table or b"")
    except FrameError:
        return {}
    return {k: v for k, v in table.items() if not k.startswith(_OF_FORMER_DEATHS)}


def _headers(death: Death) -> _Table:
    found = {header: getattr(death, name) for name, header in _WORDS.items()}
    values: dict[str, Any] = {h: _sendable(str(v), WORD_KEPT) for h, v in found.items() if v is not None}
    if death.text is not None:
        values["text"] = _sendable(death.text, TEXT_KEPT)
    if death.at is not None:
        values["at"] = int(death.at.timestamp() * 1000)
    if death.attempt is not None:
        values["attempt"] = death.attempt
    return {f"rpc-dead-{name}".encode(): encode_value(value) for name, value in values.items()}


def _sendable(text: str, most: int) -> str:
    """The beginning of a text, without what UTF-8 cannot carry."""
    return text[:most].encode("utf-8", "replace").decode()


def _word(table: Mapping[str, Any], name: str) -> str | None:
    value = table.get(name)
    return None if value is None else str(value)[:TEXT_KEPT]


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _time(milliseconds: Any) -> datetime | None:
    number = _number(milliseconds)
    try:
        return None if number is None else datetime.fromtimestamp(number / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _brokers_time(table: Mapping[str, Any]) -> datetime | None:
    """When the broker took a message off its queue the last time."""
    deaths = table.get("x-death")
    newest = deaths[0] if isinstance(deaths, list) and deaths else None
    time = newest.get("time") if isinstance(newest, dict) else None
    if not isinstance(time, datetime):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
