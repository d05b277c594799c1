"""Requests, written by the client and read by the server: properties and headers, protocol version 1.

docs/wire.md is the prose of this. The two things done for every message, `RequestTemplate.encode` and `Request`, avoid
building tables: all that does not change between two calls of a method is encoded once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from copy import copy
from typing import Any, Final, Literal

from warren.amqp.frames import (
    Delivery,
    FrameError,
    Properties,
    decode_properties,
    encode_properties,
    shortstr,
)
from warren.amqp.tables import decode_table, encode_table, encode_value, join_table, pick, split_table
from warren.printable import printable
from warren.protocol import codecs
from warren.protocol.content import as_text, usual_content_type, with_encoding

VERSION: Final = 1
#: Above this a request does not ask for its bounce: the body would travel back with it (bytes).
BOUNCE_LIMIT: Final = 64 * 1024
PERSISTENT: Final = 2  # delivery mode

#: A content header must fit into one frame, and frame_max may be negotiated down to 4,096 bytes.
_MAX_HEADERS: Final = 3000
_RESERVED: Final = ("rpc-", "x-", "CC", "BCC")
_RESERVED_BYTES: Final = tuple(start.encode() for start in _RESERVED)
#: In a request: its caller would do without confirm and bounce if it may; in a reply: the service's queue takes all.
LEAN: Final = "rpc-lean"
_LEAN_BYTES: Final = LEAN.encode()
_ROOT: Final = "rpc-root"
_ROOT_BYTES: Final = _ROOT.encode()
#: Bytes of the longest root id that is taken.
_MAX_ID: Final = 255
#: What a server wants to know of a peer's header table; all else in it is the application's.
_READ: Final = (b"rpc-v", b"rpc-timeout-ms", b"rpc-deadline", b"rpc-attempt")
#: The order in which Warren writes what those want to know who read a stage by its bytes: `stage`.
USUAL_ORDER: Final = (b"rpc-v", b"rpc-timeout-ms", b"rpc-deadline", b"rpc-slip")

# The start of every Warren request's header table, with the two numbers that change left out.
TABLE_START: Final = b"\x05rpc-vI\x00\x00\x00\x01\x0erpc-timeout-msI"
#: The same of a cast, which has no time.
_CAST_TABLE: Final = b"\x05rpc-vI\x00\x00\x00\x01"
TIMES: Final = struct.Struct(">i14sq")
DEADLINE_KEY: Final = b"\x0crpc-deadlinel"
TABLE_FIXED: Final = len(TABLE_START) + TIMES.size
# The same as RabbitMQ 4 gives it out, which sorts headers by their names: a bounce, both times, the version.
_CC: Final = b"\x02CCA"
_SORTED_FIRST: Final = struct.Struct(">14sq")
_ASKS_LEAN: Final = encode_table({"rpc-lean": True})
_TIMEOUT_KEY: Final = b"\x0erpc-timeout-msI"
_SORTED_LAST: Final = struct.Struct(">16si11s")
_U32: Final = struct.Struct(">I")

# Property flags of the two templates below, see AMQP 0-9-1 section 4.2.6.1.
CALL_FLAGS: Final = (
    0xB7A0  # content type, headers, delivery mode, correlation id, reply to, expiration, message id, type
)
_CAST_FLAGS: Final = 0xB4A0  # without reply to and expiration
APP_ID_FLAG: Final = 0x0008
_USER_ID_FLAG: Final = 0x0010


class RequestTemplate:
    """Everything in a request's properties that two calls of the same method have in common.

    Attributes:
        made_for: the reply address of the link that it was made on, for whoever keeps it.
    """

    __slots__ = (
        "_after_ids",
        "_before_times",
        "_flags_and_type",
        "_reply_to",
        "_table_size",
        "_table_tail",
        "made_for",
    )

    def __init__(
        self,
        method: str,
        *,
        content_type: str,
        reply_to: bytes | None,
        bounce: bool,
        durable: bool,
        asks: bool = False,
        slip: bytes = b"",
        app_id: str | None = None,
        user_id: str | None = None,
    ) -> None:
        """Prepare a call, or (without `reply_to`) a cast; names have passed the check below.

        `asks`: whether the worker shall say if its queue takes everything. `slip`: the header field of a pipeline's.
        """
        flags = _CAST_FLAGS if reply_to is None else CALL_FLAGS
        tail = slip + encode_table(_asked(reply_to if bounce else None, asks))
        after = shortstr(method.encode())
        if user_id is not None:
            flags |= _USER_ID_FLAG
            after += shortstr(user_id.encode())
        if app_id is not None:
            flags |= APP_ID_FLAG
            after += shortstr(app_id.encode())
        self._flags_and_type = flags.to_bytes(2, "big") + shortstr(content_type.encode())
        self._table_tail = tail + (b"\x02" if durable else b"\x01")
        self._table_size = len(tail)
        self._reply_to = None if reply_to is None else shortstr(reply_to)
        self._after_ids = after
        self.made_for = reply_to
        self._before_times = self._flags_and_type + _U32.pack(TABLE_FIXED + len(tail)) + TABLE_START

    def encode(
        self, correlation_id: bytes, message_id: bytes, timeout_ms: int, deadline_ms: int, expiration: bytes
    ) -> bytes:
        """The property bytes of one attempt of a call; of the first one both ids are the same object."""
        sized_id = bytes((len(message_id),)) + message_id
        return b"".join(
            (
                self._before_times,
                TIMES.pack(timeout_ms, DEADLINE_KEY, deadline_ms),
                self._table_tail,
                sized_id if correlation_id is message_id else shortstr(correlation_id),
                self._reply_to or b"",
                bytes((len(expiration),)),
                expiration,
                sized_id,
                self._after_ids,
            )
        )

    def encode_own(
        self,
        correlation_id: bytes,
        message_id: bytes,
        timeout_ms: int,
        deadline_ms: int,
        expiration: bytes,
        headers: bytes,
    ) -> bytes:
        """As `encode`, or `encode_cast` where there is no reply, with header fields of this one request (no table)."""
        if self._reply_to is None:
            table, times, reply, expires = _CAST_TABLE, b"", b"", b""
        else:
            table, times = TABLE_START, TIMES.pack(timeout_ms, DEADLINE_KEY, deadline_ms)
            reply, expires = self._reply_to, bytes((len(expiration),)) + expiration
        sized_id = bytes((len(message_id),)) + message_id
        tail = self._table_tail
        return b"".join(
            (
                self._flags_and_type,
                _U32.pack(len(table) + len(times) + self._table_size + len(headers)),
                table,
                times,
                tail[:-1],
                headers,
                tail[-1:],
                sized_id if correlation_id is message_id else shortstr(correlation_id),
                reply,
                expires,
                sized_id,
                self._after_ids,
            )
        )

    def encode_cast(self, correlation_id: bytes, message_id: bytes) -> bytes:
        """The property bytes of a cast: no reply, and it waits in the queue for as long as it takes."""
        size = _U32.pack(len(_CAST_TABLE) + self._table_size)
        ids = shortstr(correlation_id) + shortstr(message_id)
        return b"".join((self._flags_and_type, size, _CAST_TABLE, self._table_tail, ids, self._after_ids))


def bare_properties(call_id: bytes, reply_to: bytes, expiration: bytes) -> bytes:
    """A request as a tutorial-six client writes it, with an expiration so that it cannot outlive its caller."""
    return encode_properties(Properties(correlation_id=call_id, reply_to=reply_to, expiration=expiration))


def encode_headers(headers: Mapping[str, Any], taken: int = 0) -> bytes:
    """An application's headers as fields of a table, beside others that take so many bytes.

    Raises:
        ValueError: a name that is reserved, or a value that AMQP cannot carry.
    """
    for name in headers:
        if name.startswith(_RESERVED):
            raise ValueError(
                f"header {name!r}: names that start with {', '.join(_RESERVED)} are reserved; take another"
            )
    fields = encode_table(headers)
    if taken + len(fields) > _MAX_HEADERS:
        raise ValueError(f"the headers take more than {_MAX_HEADERS} bytes: send data as arguments")
    return fields


def root_field(root_id: str) -> bytes:
    """The header field that says for which call, made by somebody outside, a request is made; no table."""
    return encode_table({_ROOT: root_id})


def check_name(name: str) -> None:
    """Refuse a queue or method name that does not fit into AMQP's short strings (`ValueError`)."""
    shortstr(name.encode())


def _asked(bounce_to: bytes | None, asks: bool) -> dict[str, Any]:
    """The header fields of a request that asks for its bounce, or for the worker's word about its queue."""
    asked: dict[str, Any] = {} if bounce_to is None else {"CC": [bounce_to.decode()]}
    return {**asked, LEAN: True} if asks else asked


class UnreadableHeaders(FrameError):
    """The header table of a request cannot be read; `request` has everything else."""

    def __init__(self, why: str, request: Request) -> None:
        super().__init__(why)
        self.request = request


class Request:
    """A request as the server reads it.

    Raises:
        UnreadableHeaders: its header table is not AMQP, or holds what Python cannot represent.
        FrameError: its properties are not AMQP.
    """

    __slots__ = (
        "attempt",
        "content_type",
        "deadline_ms",
        "delivery",
        "properties",
        "readable",
        "timeout_ms",
        "version",
    )

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        p = self.properties = decode_properties(delivery.properties)
        self.content_type = usual_content_type(p.content_type) or codecs.normalise(as_text(p.content_type))
        self.version: int | None = None
        self.timeout_ms: int | None = None
        self.deadline_ms: int | None = None
        self.attempt = 1
        self.readable = True
        table = p.table
        if table is None:
            self._read_foreign()
            return
        if p.content_encoding is None:
            # In here, and not in a function: it runs for every request.
            if len(table) >= TABLE_FIXED and table.startswith(TABLE_START) and b"rpc-attempt" not in table:
                timeout_ms, key, deadline_ms = TIMES.unpack_from(table, len(TABLE_START))
                if key == DEADLINE_KEY:
                    self.version, self.timeout_ms, self.deadline_ms = VERSION, timeout_ms, deadline_ms
                    return
            if self._read_sorted(table):
                return
        try:
            if USUAL_ORDER[3] in table:
                table = p.table = in_usual_order(table)
            self._read_table(pick(table, *_READ))
        except FrameError as error:
            self.readable = False
            raise UnreadableHeaders(str(error), self) from error
        self._read_foreign()

    def _read_sorted(self, table: bytes) -> bool:
        """What Warren writes, as RabbitMQ 4 gives it out, if no other header stands between."""
        start = 8 + _U32.unpack_from(table, 4)[0] if table.startswith(_CC) and len(table) >= 8 else 0
        end = len(table) - _SORTED_LAST.size
        between = end - start - _SORTED_FIRST.size
        if between and (between != len(_ASKS_LEAN) or table[end - between : end] != _ASKS_LEAN):
            return False
        key, deadline_ms = _SORTED_FIRST.unpack_from(table, start)
        timeout_key, timeout_ms, version = _SORTED_LAST.unpack_from(table, end)
        if key != DEADLINE_KEY or timeout_key != _TIMEOUT_KEY or version != _CAST_TABLE:
            return False
        self.version, self.timeout_ms, self.deadline_ms = VERSION, timeout_ms, deadline_ms
        return True

    def _read_table(self, table: dict[str, Any]) -> None:
        """Another peer's table: the same headers in any order and integer width."""
        self.version = _integer(table, "rpc-v")
        self.timeout_ms = _integer(table, "rpc-timeout-ms")
        self.deadline_ms = _integer(table, "rpc-deadline")
        self.attempt = max(1, _integer(table, "rpc-attempt") or 1)

    def _read_foreign(self) -> None:
        """What other peers write in other ways."""
        p = self.properties
        self.content_type = with_encoding(self.content_type, p)
        if self.bare and self.content_type == codecs.OCTETS:
            self.content_type = codecs.TEXT  # several client libraries call everything so if they are not told

    @property
    def has_other_attempts(self) -> bool:
        """Whether a handler may be begun, or may have been, for what it is a copy of, or was in another queue."""
        table = self.properties.table or b""
        return b"rpc-attempt" in table or b"x-death" in table

    @property
    def asks_lean(self) -> bool:
        """Whether its caller wants to know if the queue takes everything, and may be told: bare ones may not."""
        p = self.properties
        return p.table is not None and _LEAN_BYTES in p.table and not self.bare and p.delivery_mode != PERSISTENT

    @property
    def name(self) -> str:
        """Its method and id, for the log; safe to print."""
        kind = "call" if self.properties.reply_to else "cast"
        own, root = self.call_id, self.root_id
        of = "" if root == own else f", made for {root}"
        return printable(f"{self.method or 'the default method'} ({kind} {own or 'without an id'}{of})")

    @property
    def bare(self) -> bool:
        """From a peer that knows only tutorial six: it gets exactly one plain reply."""
        return self.version is None

    @property
    def kind(self) -> Literal["call", "cast", "bare"]:
        """What was made: a call, a cast, or a call that knows only tutorial six."""
        if self.bare:
            return "bare"
        return "call" if self.properties.reply_to else "cast"

    @property
    def sent_at(self) -> float | None:
        """When its caller wrote it, in seconds since 1970, by its own clock; None where it does not say."""
        if self.deadline_ms is None or self.timeout_ms is None:
            return None
        return (self.deadline_ms - self.timeout_ms) / 1000

    @property
    def method(self) -> str | None:
        """The method's name; None, as when it is written but empty, asks for the default method."""
        return as_text(self.properties.type) or None

    @property
    def call_id(self) -> str | None:
        return as_text(self.properties.message_id)

    @property
    def root_id(self) -> str | None:
        """The id of the call, made by somebody outside, that all of this is done for; its own where it is that one."""
        table = self.properties.table
        if table is None or _ROOT_BYTES not in table or not self.readable:
            return self.call_id
        root = pick(table, _ROOT_BYTES).get(_ROOT)
        return root if isinstance(root, str) and 0 < len(root) <= _MAX_ID else self.call_id

    @property
    def caller(self) -> str | None:
        return as_text(self.properties.app_id)

    def verified_user(self, server_user: str) -> str | None:
        """The AMQP user whose request this is, vouched for by the broker; None when it does not say.

        The broker lets a publisher name only itself. A request that a worker published again names the worker's
        user, and in a header the caller's: that header counts only from the user that this server runs as. From another
        one it is not known whose request it is: not that worker's, who would lend its name to whoever calls it.
        """
        user = as_text(self.properties.user_id)
        if user is not None and b"rpc-user" in (self.properties.table or b""):
            said = pick(self.properties.table or b"", b"rpc-user")
            if said:
                name = said["rpc-user"]
                return name if user == server_user and isinstance(name, str) else None
        return user

    def headers(self) -> Mapping[str, Any]:
        """The application's own headers."""
        return decode_table(self.properties.table or b"", without=_RESERVED_BYTES)

    def next_attempt(
        self, *, budget: float | None, attempt: int | None, server_user: str, bounce: bool = True
    ) -> bytes:
        """The property bytes to publish this request once more: the same, with the time that is left.

        Args:
            budget: seconds left, None for no limit.
            attempt: which attempt the receiver makes of it; None where this one is not run as well, should it come
                back. What it says of others stays said, as do the broker's own headers, which are left out.
            server_user: the AMQP user that publishes it.
            bounce: whether its bounce may come back to the caller, who has asked for it.
        """
        p = copy(self.properties)  # the request stays as it is, should nobody take this one: it knows of its past
        table = {name: value for name, value in split_table(p.table or b"").items() if not name.startswith(b"x-")}
        # Other keys than the caller's own would bring the copy to queues that have the original already.
        if not bounce or table.get(b"CC") != encode_value([(p.reply_to or b"").decode("utf-8", "replace")]):
            table.pop(b"CC", None)
        table.pop(b"BCC", None)
        if p.user_id is not None:
            table[b"rpc-user"] = encode_value(self.verified_user(server_user))
            p.user_id = server_user.encode()
        if attempt is not None or self.has_other_attempts:
            table[b"rpc-attempt"] = encode_value(attempt or self.attempt)
        if budget is not None:
            left = max(0, int(budget * 1000))
            table[b"rpc-timeout-ms"] = encode_value(left)
            if p.expiration is not None:  # else it has to reach a worker, as a stage does behind which there is to undo
                p.expiration = b"%d" % left
        p.table = join_table(table) if table else None
        return encode_properties(p)


def in_usual_order(table: bytes) -> bytes:
    """A stage's table in the order in which Warren writes it: RabbitMQ sorts headers by their names from 4.0 on.

    Raises:
        FrameError: it does not add up.
    """
    entries = split_table(table)
    ordered = join_table({name: entries[name] for name in USUAL_ORDER if name in entries} | entries)
    return ordered if len(ordered) == len(table) else table  # a name stands there twice


def _integer(table: Mapping[str, Any], name: str) -> int | None:
    value = table.get(name)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None
