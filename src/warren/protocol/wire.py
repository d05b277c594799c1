"""Warren's wire protocol, version 1: how a call, a reply and a bounce look in AMQP properties and headers.

The only file that knows header names, except those of the dead (`dead_letter`); docs/wire.md is its prose. Pure: it
turns values into property bytes and back. The two things done for every message, `RequestTemplate.encode` and
`Request`, avoid building tables: all that does not change between two calls of a method is encoded once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from warren.amqp.frames import (
    Delivery,
    FrameError,
    Properties,
    decode_properties,
    encode_properties,
    shortstr,
)
from warren.amqp.tables import decode_table, encode_table, encode_value, join_table, pick, split_table
from warren.errors import CallError, Code, Origin, RemoteError, make_error
from warren.printable import printable
from warren.protocol import codecs, evidence, problems
from warren.protocol.evidence import Ending, conclude
from warren.protocol.problems import Problem

VERSION = 1
EXCHANGE = "warren"
BOUNCE_EXCHANGE = "warren.bounce"
DEFAULT_EXCHANGE = ""
DIRECT_REPLY_TO = b"amq.rabbitmq.reply-to"
#: Above this a request does not ask for its bounce: the body would travel back with it (bytes).
BOUNCE_LIMIT = 64 * 1024
#: RabbitMQ 4's largest message, and the default limit both ways (bytes).
MAX_MESSAGE_SIZE = 16 * 1024 * 1024

#: A content header must fit into one frame, and frame_max may be negotiated down to 4,096 bytes.
_MAX_HEADERS = 3000
_RESERVED = ("rpc-", "x-", "CC", "BCC")
_ERROR_TYPE = b"error"
#: What a server or a caller wants to know of a peer's header table; all else in it is the application's.
_OF_A_REQUEST = (b"rpc-v", b"rpc-timeout-ms", b"rpc-deadline", b"rpc-attempt")
_OF_A_REPLY = (b"rpc-status", b"rpc-reason", b"rpc-executed", b"x-first-death-reason")
#: Content encodings that leave a body as it is: some clients write the character set there.
_UNCHANGED = frozenset({b"", b"identity", b"utf-8", b"us-ascii", b"ascii", b"binary", b"8bit", b"7bit"})
_DEAD_REASON = "x-first-death-reason"

# The start of every Warren request's header table, with the two numbers that change left out.
_TABLE_START = b"\x05rpc-vI\x00\x00\x00\x01\x0erpc-timeout-msI"
_TIMES = struct.Struct(">i14sq")
_DEADLINE_KEY = b"\x0crpc-deadlinel"
_TABLE_FIXED = len(_TABLE_START) + _TIMES.size
_U32 = struct.Struct(">I")

# Property flags of the two templates below, see AMQP 0-9-1 section 4.2.6.1.
_CALL_FLAGS = 0xB7A0  # content type, headers, delivery mode, correlation id, reply to, expiration, message id, type
_CAST_FLAGS = 0xB4A0  # the same without reply to and expiration
_APP_ID_FLAG = 0x0008
_USER_ID_FLAG = 0x0010
_REPLY_FLAGS = b"\x84\x00"  # content type, correlation id
_BARE_REPLY_FLAGS = b"\x04\x00"  # correlation id
PERSISTENT = 2  # delivery mode


def service_queue(service: str) -> str:
    """The queue of a service: named after it, so that bare clients reach it through the default exchange."""
    return service


def dead_queue(service: str) -> str:
    """The queue that keeps what the service could not handle, and the exchange through which the broker adds to it."""
    return f"{service}.dead"


def reply_queue(token: str) -> str:
    """The durable reply queue of a client; an exclusive one is named by the broker."""
    return f"warren.reply.{token}"


def queue_arguments(*, quorum: bool, max_length: int | None) -> dict[str, Any]:
    """The arguments a service's queue is declared with: dead letters keep their keys, so the caller gets them."""
    arguments: dict[str, Any] = {"x-dead-letter-exchange": BOUNCE_EXCHANGE} | queue_type(quorum=quorum)
    if max_length is not None:
        # A publish that is refused was certainly not run; a message dropped from the head may have been.
        arguments |= {"x-max-length": max_length, "x-overflow": "reject-publish"}
    return arguments


def queue_type(*, quorum: bool = False) -> dict[str, Any]:
    """Said of every queue: what is left out is decided by the vhost, which may have another default than classic."""
    return {"x-queue-type": "quorum" if quorum else "classic"}


#: The dead queue is bounded, oldest first: it is for people to look at, and must not fill the broker's disk.
DEAD_QUEUE_ARGUMENTS = {"x-max-length": 10_000, "x-max-length-bytes": 256 * 1024 * 1024}


def dead_queue_arguments(*, quorum: bool) -> dict[str, Any]:
    """The arguments of a service's dead queue, which lives on as many nodes as the service's own."""
    return DEAD_QUEUE_ARGUMENTS | queue_type(quorum=quorum)


#: Why the broker takes requests off a service's queue that are kept, each the arguments of a binding. What expired is
#: not: its caller waits no longer and is told, and a flood of it would push out the rest [docs/adr/0013].
KEPT_DEATHS: tuple[dict[str, Any], ...] = tuple(
    {"x-match": "all-with-x", "x-first-death-reason": reason} for reason in ("rejected", "delivery_limit", "maxlen")
)

#: An exclusive reply queue goes with its connection.
REPLY_ARGUMENTS = queue_type()
#: A durable reply queue goes when its client has been away for so long (milliseconds).
DURABLE_REPLY_ARGUMENTS = {"x-expires": 30 * 60 * 1000} | queue_type()

#: The usual spellings, found without decoding them.
_CONTENT_TYPES: dict[bytes | None, str] = {
    name.encode(): name for name in (codecs.JSON, codecs.MSGPACK, codecs.TEXT, codecs.OCTETS)
}


# --- requests -----------------------------------------------------------------------------------------------------


class RequestTemplate:
    """Everything in a request's properties that two calls of the same method have in common."""

    __slots__ = ("_after_ids", "_before_times", "_flags_and_type", "_reply_to", "_table_size", "_table_tail")

    def __init__(
        self,
        method: str,
        *,
        content_type: str,
        reply_to: bytes | None,
        bounce: bool,
        durable: bool,
        app_id: str | None = None,
        user_id: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare a call, or (without `reply_to`) a cast; names and headers have passed the checks below."""
        flags = _CAST_FLAGS if reply_to is None else _CALL_FLAGS
        tail = encode_table(_extra_headers(headers, reply_to if bounce else None))
        after = shortstr(method.encode())
        if user_id is not None:
            flags |= _USER_ID_FLAG
            after += shortstr(user_id.encode())
        if app_id is not None:
            flags |= _APP_ID_FLAG
            after += shortstr(app_id.encode())
        self._flags_and_type = flags.to_bytes(2, "big") + shortstr(content_type.encode())
        self._table_tail = tail + (b"\x02" if durable else b"\x01")
        self._table_size = len(tail)
        self._reply_to = None if reply_to is None else shortstr(reply_to)
        self._after_ids = after
        self._before_times = self._flags_and_type + _U32.pack(_TABLE_FIXED + len(tail)) + _TABLE_START

    def encode(
        self, correlation_id: bytes, message_id: bytes, timeout_ms: int, deadline_ms: int, expiration: bytes
    ) -> bytes:
        """The property bytes of one attempt of a call; of the first one both ids are the same object."""
        sized_id = bytes((len(message_id),)) + message_id
        return b"".join(
            (
                self._before_times,
                _TIMES.pack(timeout_ms, _DEADLINE_KEY, deadline_ms),
                self._table_tail,
                sized_id if correlation_id is message_id else shortstr(correlation_id),
                self._reply_to or b"",
                bytes((len(expiration),)),
                expiration,
                sized_id,
                self._after_ids,
            )
        )

    def encode_cast(self, correlation_id: bytes, message_id: bytes) -> bytes:
        """The property bytes of a cast: no reply, and it waits in the queue for as long as it takes."""
        table = _TABLE_START[: -len(b"\x0erpc-timeout-msI")]
        size = _U32.pack(len(table) + self._table_size)
        ids = shortstr(correlation_id) + shortstr(message_id)
        return b"".join((self._flags_and_type, size, table, self._table_tail, ids, self._after_ids))


def bare_properties(call_id: bytes, reply_to: bytes, expiration: bytes) -> bytes:
    """A request as a tutorial-six client writes it, with an expiration so that it cannot outlive its caller."""
    return encode_properties(Properties(correlation_id=call_id, reply_to=reply_to, expiration=expiration))


def check_headers(headers: Mapping[str, Any]) -> None:
    """Refuse application headers that could not be sent.

    Raises:
        ValueError: a name that is reserved, or a value that AMQP cannot carry.
    """
    for name in headers:
        if name.startswith(_RESERVED):
            raise ValueError(f"header {name!r}: names that start with {', '.join(_RESERVED)} are reserved")
    if len(encode_table(dict(headers))) > _MAX_HEADERS:
        raise ValueError(f"the headers take more than {_MAX_HEADERS} bytes: send data as arguments")


def check_name(name: str) -> None:
    """Refuse a queue or method name that does not fit into AMQP's short strings (`ValueError`)."""
    shortstr(name.encode())


def _extra_headers(headers: Mapping[str, Any] | None, bounce_to: bytes | None) -> dict[str, Any]:
    extra: dict[str, Any] = {} if bounce_to is None else {"CC": [bounce_to.decode()]}
    return extra | dict(headers or {})


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
        self.content_type = _CONTENT_TYPES.get(p.content_type) or codecs.normalise(_text(p.content_type))
        self.version: int | None = None
        self.timeout_ms: int | None = None
        self.deadline_ms: int | None = None
        self.attempt = 1
        self.readable = True
        table = p.table
        if table is None:
            self._read_foreign()
            return
        if len(table) >= _TABLE_FIXED and table.startswith(_TABLE_START) and b"rpc-attempt" not in table:
            timeout_ms, key, deadline_ms = _TIMES.unpack_from(table, len(_TABLE_START))
            if key == _DEADLINE_KEY and p.content_encoding is None:
                self.version, self.timeout_ms, self.deadline_ms = VERSION, timeout_ms, deadline_ms
                return
        try:
            self._read_table(pick(table, *_OF_A_REQUEST))
        except FrameError as error:
            self.readable = False
            raise UnreadableHeaders(str(error), self) from error
        self._read_foreign()

    def _read_table(self, table: dict[str, Any]) -> None:
        """Another peer's table: the same headers in any order and integer width."""
        self.version = _integer(table, "rpc-v")
        self.timeout_ms = _integer(table, "rpc-timeout-ms")
        self.deadline_ms = _integer(table, "rpc-deadline")
        self.attempt = max(1, _integer(table, "rpc-attempt") or 1)

    def _read_foreign(self) -> None:
        """What other peers write in other ways."""
        p = self.properties
        self.content_type = _encoded(self.content_type, p)
        if self.bare and self.content_type == codecs.OCTETS:
            self.content_type = codecs.TEXT  # several client libraries call everything so if they are not told

    @property
    def had_earlier_attempts(self) -> bool:
        """Whether an earlier attempt at it, or a queue that it was dead-lettered from, may have led to a handler."""
        return self.attempt > 1 or b"x-death" in (self.properties.table or b"")

    @property
    def name(self) -> str:
        """Its method and id, for the log; safe to print."""
        kind = "call" if self.properties.reply_to else "cast"
        return printable(f"{self.method or 'the default method'} ({kind} {self.call_id or 'without an id'})")

    @property
    def bare(self) -> bool:
        """From a peer that knows only tutorial six: it gets exactly one plain reply."""
        return self.version is None

    @property
    def method(self) -> str | None:
        """The method's name; None, as when it is written but empty, asks for the default method."""
        return _text(self.properties.type) or None

    @property
    def call_id(self) -> str | None:
        return _text(self.properties.message_id)

    @property
    def caller(self) -> str | None:
        return _text(self.properties.app_id)

    def verified_user(self, server_user: str) -> str | None:
        """The AMQP user whose request this is, vouched for by the broker; None when it does not say.

        The broker lets a publisher name only itself. A request that a worker published again names the worker's
        user, and in a header the caller's: that header counts only from the user that this server runs as.
        """
        user = _text(self.properties.user_id)
        if user == server_user and b"rpc-user" in (self.properties.table or b""):
            name = pick(self.properties.table or b"", b"rpc-user").get("rpc-user", user)
            return name if isinstance(name, str) else None
        return user

    def headers(self) -> Mapping[str, Any]:
        """The application's own headers."""
        table = decode_table(self.properties.table or b"")
        return {name: value for name, value in table.items() if not name.startswith(_RESERVED)}

    def again(self, *, budget: float | None, attempt: int, server_user: str, bounce: bool = True) -> bytes:
        """The property bytes to publish this request once more: the same, with the time that is left.

        Args:
            budget: seconds left, None for no limit.
            attempt: which attempt the receiver makes of it.
            server_user: the AMQP user that publishes it.
            bounce: whether its bounce may come back to the caller, who has asked for it.
        """
        p = self.properties
        table = {name: value for name, value in split_table(p.table or b"").items() if not name.startswith(b"x-")}
        # Other keys than the caller's own would bring the copy to queues that have the original already.
        if not bounce or table.get(b"CC") != encode_value([(p.reply_to or b"").decode("utf-8", "replace")]):
            table.pop(b"CC", None)
        table.pop(b"BCC", None)
        if p.user_id is not None:
            table[b"rpc-user"] = encode_value(self.verified_user(server_user))
            p.user_id = server_user.encode()
        if attempt > 1:
            table[b"rpc-attempt"] = encode_value(attempt)
        if budget is not None:
            left = max(0, int(budget * 1000))
            table[b"rpc-timeout-ms"] = encode_value(left)
            p.expiration = b"%d" % left
        p.table = join_table(table) if table else None
        return encode_properties(p)


def _encoded(content_type: str, p: Properties) -> str:
    """The content type of a body, with its content encoding where that has to be undone: nobody here can."""
    encoding = (p.content_encoding or b"").strip().lower()
    return content_type if encoding in _UNCHANGED else f"{content_type} in {_text(encoding)}"


def _integer(table: Mapping[str, Any], name: str) -> int | None:
    value = table.get(name)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


# --- replies ------------------------------------------------------------------------------------------------------


_decode_problem = codecs.decoder(codecs.PROBLEM, Problem)


_REPLY_STARTS = {name: _REPLY_FLAGS + shortstr(raw) for raw, name in _CONTENT_TYPES.items() if raw is not None}


def result_properties(request: Request, content_type: str) -> bytes:
    """The property bytes of a reply that carries a result; it is as persistent as the request."""
    given = request.properties
    correlation_id = shortstr(given.correlation_id or b"")
    if request.bare:
        if content_type == codecs.TEXT:
            return _BARE_REPLY_FLAGS + correlation_id
    elif given.delivery_mode == PERSISTENT:
        p = Properties(content_type=content_type.encode(), delivery_mode=PERSISTENT)
        p.correlation_id = given.correlation_id or b""
        return encode_properties(p)
    start = _REPLY_STARTS.get(content_type) or _REPLY_FLAGS + shortstr(content_type.encode())
    return start + correlation_id


def error_reply(request: Request, error: CallError, problem: Problem | None = None) -> tuple[bytes, bytes]:
    """Property bytes and body of a reply that carries an error: for a bare peer its text. Never raises."""
    error = problems.harmless(error)
    table = {
        "rpc-status": error.code.value,
        "rpc-reason": error.reason,
        "rpc-executed": error.execution.value,
    }
    p = Properties(table=encode_table(table), correlation_id=request.properties.correlation_id or b"")
    if request.bare:
        return encode_properties(p), f"{error.code.value}: {error.message}".encode()
    if request.properties.delivery_mode == PERSISTENT:
        p.delivery_mode = PERSISTENT
    p.content_type, p.type = codecs.PROBLEM.encode(), _ERROR_TYPE
    return encode_properties(p), problems.encode(problem or Problem(), error)


#: Makes a registered exception of a reply's body and of what its headers say; None where it is not registered.
ErrorFactory = Callable[[Problem, CallError], Exception | None]


def read_reply(p: Properties, body: bytes, registered: ErrorFactory) -> str:
    """The content type of a result.

    Raises:
        CallError: the reply is an error.
        Exception: an error that `registered` knows how to rebuild.
    """
    if p.type == _ERROR_TYPE or p.table is not None:
        table = _reply_table(p.table or b"")
        if _is_error(p, table):
            raise _read_error(p, body, table, registered)
    name = _CONTENT_TYPES.get(p.content_type) or codecs.normalise(_text(p.content_type))
    return name if p.content_encoding is None else _encoded(name, p)


class Bounce(NamedTuple):
    """Why the broker gave a request back."""

    ending: Ending
    message: str


def is_bounce(p: Properties) -> bool:
    """Whether a message is a bounce, as far as can be seen without reading its headers."""
    return p.table is not None and _DEAD_REASON.encode() in p.table


def read_bounce(p: Properties) -> Bounce | None:
    """Why the broker gave a request back; None when this is a reply and not a bounce.

    Raises:
        CallError: its headers cannot be read.
    """
    if p.table is None:
        return None
    why = _reply_table(p.table).get(_DEAD_REASON)
    if why is None:
        return None
    return _BOUNCES.get(str(why)) or Bounce(evidence.BOUNCED, f"the broker gave the request back: {why}")


def _reply_table(table: bytes) -> dict[str, Any]:
    try:
        return pick(table, *_OF_A_REPLY)
    except FrameError as error:
        raise _undecodable_error(str(error), {}) from error


def undecodable_reply(why: str) -> CallError:
    """A result came, so the handler ran, but it cannot be read."""
    return conclude(evidence.DECODE_REPLY, f"the reply cannot be read: {why}")


def _undecodable_error(why: str, table: Mapping[str, Any]) -> CallError:
    """What came may not be a result: it is an error, or its headers cannot be read."""
    message = f"the reply cannot be read: {why}"
    return conclude(evidence.DECODE_ERROR, message, word=evidence.told(table.get("rpc-executed"), earlier=False))


def reply_too_large(p: Properties, size: int, limit: int) -> CallError:
    """What a reply of more than `limit` bytes ends its call in; its headers have been read by `read_bounce`."""
    message = f"the reply has {size} bytes, the client's max_message_size is {limit}"
    table = _reply_table(p.table or b"")
    if _is_error(p, table):
        return conclude(evidence.ERROR_TOO_LARGE, message, word=evidence.told(table.get("rpc-executed"), earlier=False))
    return conclude(evidence.REPLY_TOO_LARGE, message)


def _is_error(p: Properties, table: Mapping[str, Any]) -> bool:
    return p.type == _ERROR_TYPE or "rpc-status" in table


def _read_error(p: Properties, body: bytes, table: Mapping[str, Any], registered: ErrorFactory) -> Exception:
    problem = _read_problem(p, body, table)
    code = _member(Code, table.get("rpc-status"), Code.UNKNOWN)
    reason = str(table.get("rpc-reason", "UNKNOWN"))
    error = make_error(
        code,
        reason,
        problem.detail,
        execution=evidence.told(table.get("rpc-executed"), earlier=False),
        origin=_member(Origin, problem.origin, Origin.SERVER),
    )
    rebuilt = registered(problem, error)
    if rebuilt is not None:
        return rebuilt
    if isinstance(error, RemoteError):
        error.type = problem.error or "Exception"
        error.details, error.traceback = problem.details, problem.traceback
    for note in problem.notes:
        error.add_note(note)
    return error


def _read_problem(p: Properties, body: bytes, table: Mapping[str, Any]) -> Problem:
    if p.type != _ERROR_TYPE:  # an answer to a bare call: text
        # As `error_reply` writes it, behind the code, which the headers have, too.
        return Problem(detail=body.decode("utf-8", "replace").removeprefix(f"{table.get('rpc-status')}: "))
    try:
        problem: Problem = _decode_problem(body)
    except codecs.CodecError as error:
        raise _undecodable_error(f"its error description is damaged: {error}", table) from error
    return problem


def doubted(p: Properties) -> Properties:
    """A reply's properties, where its claim that nothing was executed covers only the last of several attempts."""
    table = _reply_table(p.table or b"")
    if "rpc-executed" in table:
        p.table = encode_table({**table, "rpc-executed": evidence.told(table.get("rpc-executed"), earlier=True).value})
    return p


def _member(kind: Any, value: Any, default: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        return default


_BOUNCES = {
    "expired": Bounce(evidence.QUEUE_TTL, "the request's time ran out in the queue"),
    "maxlen": Bounce(
        evidence.DROPPED,
        "the queue is full and dropped the request, which a worker may have begun before: add workers or slow down",
    ),
    "delivery_limit": Bounce(
        evidence.DELIVERY_LIMIT, "the request was returned to its queue too often: it may be killing its workers"
    ),
    "rejected": Bounce(evidence.REJECTED, "a consumer of the queue refused the request without an answer"),
}
