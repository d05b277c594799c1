"""Uploads: items that go from a caller to the worker of its call. Pure; docs/wire.md is its prose.

The other way round than a stream, and by the same rules: items have numbers, which have no gap, and the end says how
many there were. The caller may be ahead of the handler by a window of items and bytes. Where its items go, and how far
they were taken, the worker says in one kind of message, each of which is enough by itself: to lose one, or get it late,
does no harm.
"""

from __future__ import annotations

from typing import NamedTuple

from warren.amqp.frames import FrameError, Properties, encode_properties
from warren.amqp.tables import encode_table, pick
from warren.protocol.control import LONGEST
from warren.protocol.signature import Method
from warren.protocol.slip import MARK as STAGE_MARK
from warren.protocol.streaming import ITEM, MARK, Window, is_number, within_window

#: Behind the name of a method in ``type``: its items come from the caller; and go to it as well. See `streaming.MARK`.
UPLOAD_MARK, CONVERSATION_MARK = "[<]", "[<>]"
#: The ``type`` of a message that says how far a handler has taken what was sent, and where more goes.
TAKEN = b"taken"
#: The ``type`` of the message behind the last item.
END = b"end"

_TAKEN = (b"rpc-taken", b"rpc-items-to", b"rpc-instance", b"rpc-window-items", b"rpc-window-bytes")
_SENT = (b"rpc-seq", b"rpc-items")


class Kind(NamedTuple):
    """What goes between caller and handler.

    Attributes:
        noun: what a call of this kind is.
        verb: the client's method that makes it.
        mark: what stands behind its name in ``type``.
        shown: for people.
    """

    noun: str
    verb: str
    mark: str
    shown: str


CALL = Kind("call", "call", "", "takes no items and has one result")
STREAM = Kind("stream", "stream", MARK, "yields items")
UPLOAD = Kind("upload", "upload", UPLOAD_MARK, "takes items and has one result")
CONVERSATION = Kind("conversation", "converse", CONVERSATION_MARK, "takes items and yields others")
#: By whether the method takes items, and whether it yields some.
_KINDS = {(False, False): CALL, (False, True): STREAM, (True, False): UPLOAD, (True, True): CONVERSATION}


def kind_of(method: Method) -> Kind:
    """What goes between the caller of a method and its handler."""
    return kind_between(takes=method.takes, streams=method.streams)


def kind_between(*, takes: bool, streams: bool) -> Kind:
    """What goes between the caller and the handler of a method that takes items, or yields some."""
    return _KINDS[takes, streams]


def unmarked(name: str) -> str:
    """A method's own name, without what says how it is called: as a stage, or for its items."""
    name = name.removesuffix(STAGE_MARK)
    mark = next((mark for mark in (MARK, UPLOAD_MARK, CONVERSATION_MARK) if name.endswith(mark)), "")
    return name.removesuffix(mark)


def own_name(asked: str | None, service: str) -> str | None:
    """The method's own name where a request to a service has it marked, or in full, as one to all instances."""
    return None if asked is None else unmarked(asked.removeprefix(f"{service}."))


# --- from the worker ----------------------------------------------------------------------------------------------


class Taken(NamedTuple):
    """How far a handler has come.

    Attributes:
        number: how many items it has taken in all.
        to: the routing key, in the control exchange, where items go.
        source: that of the process, for control messages.
        window: how far the caller may be ahead.
    """

    number: int
    to: str
    source: str
    window: Window


def taken_properties(correlation_id: bytes, taken: Taken) -> bytes:
    """The property bytes of the message that says so; it has no body."""
    table = encode_table(
        {
            "rpc-taken": taken.number,
            "rpc-items-to": taken.to,
            "rpc-instance": taken.source,
            "rpc-window-items": taken.window.items,
            "rpc-window-bytes": taken.window.bytes,
        }
    )
    return encode_properties(Properties(correlation_id=correlation_id, type=TAKEN, table=table))


def read_taken(p: Properties) -> Taken | None:
    """What such a message says; None where it makes no sense."""
    try:
        table = pick(p.table or b"", *_TAKEN)
    except FrameError:
        return None
    number, to, source, items, size = (table.get(name.decode()) for name in _TAKEN)
    if not (is_number(number) and _is_key(to) and _is_key(source)):
        return None
    return Taken(number, to, source, within_window(items, size))  # type: ignore[arg-type]  # they are a number, and keys


def _is_key(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value.encode()) <= LONGEST


# --- from the caller ----------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """What a message from the caller says of itself.

    Attributes:
        seq: the number of its first item, or of the one that would come next; the first of all has 0.
        number: how many it has; none as a sign of life.
        is_end: whether no item has this number, nor a later one.
    """

    seq: int
    number: int
    is_end: bool


def sent_properties(content_type: str, correlation_id: bytes, reply_to: bytes, sent: Sent) -> bytes:
    """The property bytes of such a message. Id and address name the call: only its caller and its worker know both."""
    table = encode_table({"rpc-seq": sent.seq, "rpc-items": sent.number})
    return encode_properties(
        Properties(
            content_type=content_type.encode(),
            correlation_id=correlation_id,
            reply_to=reply_to,
            type=END if sent.is_end else ITEM,
            table=table,
        )
    )


def read_sent(p: Properties) -> Sent | None:
    """What such a message says of itself; None where it makes no sense."""
    try:
        table = pick(p.table or b"", *_SENT)
    except FrameError:
        return None
    seq, number = (table.get(name.decode()) for name in _SENT)
    if p.type not in (ITEM, END) or not (is_number(seq) and is_number(number)) or (p.type == END and number):
        return None
    return Sent(seq, number, p.type == END)  # type: ignore[arg-type]  # they are numbers
