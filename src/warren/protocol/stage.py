"""Stages of pipelines in the form that Warren's own callers and workers write: their slip is found, and the next
stage's request is written, without taking headers apart that nobody asks for. Pure.

That is a fast path for lean pipelines, and no rule: `slip` reads and writes every form.
"""

from __future__ import annotations

from typing import Final

from warren.amqp.frames import FrameError, Properties, shortstr
from warren.amqp.tables import join_table, split_table
from warren.protocol import codecs
from warren.protocol.request import APP_ID_FLAG, CALL_FLAGS, DEADLINE_KEY, TABLE_FIXED, TABLE_START, TIMES, Request

#: Seconds for which a request's word counts that its pipeline's queues take everything: as long as a worker's does.
TRUST: Final = 1.0

SLIP: Final = "rpc-slip"
#: Headers of one attempt, or of one request only, which the next stage's does not have.
OWN: Final = frozenset({b"CC", b"BCC", b"rpc-attempt", b"rpc-lean", b"rpc-timeout-ms", b"rpc-user", SLIP.encode()})

_KEY: Final = shortstr(SLIP.encode()) + b"S"
_SIZE_AT: Final = TABLE_FIXED + len(_KEY)
_SLIP_AT: Final = _SIZE_AT + 4
_KEY_AT: Final = len(TABLE_START) + 4
_USUAL_FLAGS: Final = (CALL_FLAGS.to_bytes(2, "big"), (CALL_FLAGS | APP_ID_FLAG).to_bytes(2, "big"))
_TRANSIENT: Final = 1  # delivery mode
_NOT_LEAN: Final = frozenset({b"CC", b"rpc-attempt", b"x-death"})


class Following:
    """What the request of a lean pipeline's next stage has of its own.

    Attributes:
        queue: where it goes.
        kind: its type, as a short string.
        slip: the header field with its slip.
        here: that of the present one.
    """

    __slots__ = ("here", "kind", "queue", "slip")

    def __init__(self, queue: bytes, kind: bytes, slip: bytes, here: bytes) -> None:
        self.queue = queue
        self.kind = kind
        self.slip = slip
        self.here = here


def slip_field(text: bytes) -> bytes:
    """The header field that carries a slip; no table."""
    return _KEY + len(text).to_bytes(4, "big") + text


def slip_text(p: Properties) -> bytes | None:
    """The text of the slip, if it stands right behind the times."""
    table = p.table
    if table is None or len(table) < _SLIP_AT or table[TABLE_FIXED:_SIZE_AT] != _KEY or not _is_usual(table):
        return None
    if table[_SIZE_AT] or table[_SIZE_AT + 1]:  # longer than any slip
        return None
    end = _SLIP_AT + table[_SIZE_AT + 2] * 256 + table[_SIZE_AT + 3]
    return table[_SLIP_AT:end] if end <= len(table) else None


def _is_usual(table: bytes) -> bool:
    """Whether it begins with the version and the times."""
    return table.startswith(TABLE_START) and table[_KEY_AT : _KEY_AT + len(DEADLINE_KEY)] == DEADLINE_KEY


def as_argument(content_type: str, body: bytes) -> bytes:
    """An encoded result as a request's body: the one argument of the next stage."""
    if content_type == codecs.JSON:
        return b"[" + body + b"]"
    return b"\x91" + body if content_type == codecs.MSGPACK else body


def lean_next(request: Request, following: Following, left_ms: int) -> bytes | None:
    """The property bytes of the next stage's request; None of one that is written in another form, or asks for more.

    Args:
        request: of the stage that has run.
        following: of its slip.
        left_ms: milliseconds left.
    """
    p, given = request.properties, request.delivery.properties
    table, reply_to, expiration = p.table, p.reply_to, p.expiration
    if given[:2] not in _USUAL_FLAGS or p.delivery_mode != _TRANSIENT or expiration == b"0" or not reply_to:
        return None
    here, slip = following.here, following.slip
    end = TABLE_FIXED + len(here)
    if table is None or table[TABLE_FIXED:end] != here or not _is_usual(table):
        return None
    others = table[end:] and _carried(table[end:])
    if others is None or (table[end:] and b"rpc-attempt" in table):  # then `Request` may have read other times
        return None
    # What stays is taken as it stands there: between the table and the expiration, then the id, then behind the type.
    before = 3 + len(p.content_type or b"")
    mode = before + 4 + len(table)
    expires = mode + 3 + len(p.correlation_id or b"") + len(reply_to)
    id_ = expires + 1 + len(expiration or b"")
    type_ = id_ + 1 + len(p.message_id or b"")
    left = b"%d" % left_ms
    return b"".join(
        (
            given[:before],
            (TABLE_FIXED + len(slip) + len(others)).to_bytes(4, "big"),
            TABLE_START,
            TIMES.pack(left_ms, DEADLINE_KEY, request.deadline_ms),
            slip,
            others,
            given[mode:expires],
            shortstr(left),
            given[id_:type_],
            following.kind,
            given[type_ + 1 + len(p.type or b"") :],
        )
    )


def _carried(fields: bytes) -> bytes | None:
    """The fields that all stages have; None where one asks for more than a lean request may, or tells of others."""
    try:
        entries = split_table(fields)
    except FrameError:
        return None
    if not entries.keys().isdisjoint(_NOT_LEAN):
        return None
    return join_table({name: value for name, value in entries.items() if is_carried(name)})


def is_carried(name: bytes) -> bool:
    """Whether a header goes along to the next stage."""
    return name not in OWN and not name.startswith(b"x-")
