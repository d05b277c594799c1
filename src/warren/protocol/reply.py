"""Replies, written by the server and read by the client: a result, or an error with its code, reason and evidence.

docs/wire.md is the prose of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from warren.amqp.frames import FrameError, Properties, encode_properties, shortstr
from warren.amqp.tables import encode_table, pick
from warren.errors import CallError, Code, FailedStage, Origin, RemoteError, make_error
from warren.protocol import codecs, evidence, problems
from warren.protocol.content import CONTENT_TYPES, as_text, usual_content_type, with_encoding
from warren.protocol.evidence import conclude
from warren.protocol.problems import Problem
from warren.protocol.request import LEAN, PERSISTENT, Request
from warren.protocol.topology import DEATH_REASON

_ERROR_TYPE: Final = b"error"
#: What a caller wants to know of the header table of what came; all else in it is the application's.
_READ: Final = (
    b"rpc-status", b"rpc-reason", b"rpc-executed", b"rpc-stage", b"rpc-stage-executed", b"rpc-undone",
    DEATH_REASON.encode(),
)  # fmt: skip
# Property flags, see AMQP 0-9-1 section 4.2.6.1.
_REPLY_FLAGS: Final = b"\x84\x00"  # content type, correlation id
_BARE_REPLY_FLAGS: Final = b"\x04\x00"  # correlation id

_LEAN_TABLE: Final = encode_table({LEAN: True})

#: Why a stage's request is not in its queue, or not for certain.
_NOT_REACHED: Final = frozenset(
    ending.reason for ending in (evidence.NO_ROUTE, evidence.QUEUE_DOWN, evidence.CHANNEL_CLOSED)
)

_decode_problem: Final = codecs.decoder(codecs.PROBLEM, Problem)
_REPLY_STARTS: Final = {name: _REPLY_FLAGS + shortstr(raw) for raw, name in CONTENT_TYPES.items() if raw is not None}


def result_properties(request: Request, content_type: str) -> bytes:
    """The property bytes of a reply that carries a result; it is as persistent as the request."""
    given = request.properties
    correlation_id = shortstr(given.correlation_id or b"")
    if request.version is None:  # bare
        if content_type == codecs.TEXT:
            return _BARE_REPLY_FLAGS + correlation_id
    elif given.delivery_mode == PERSISTENT:
        p = Properties(content_type=content_type.encode(), delivery_mode=PERSISTENT)
        p.correlation_id = given.correlation_id or b""
        return encode_properties(p)
    start = _REPLY_STARTS.get(content_type) or _REPLY_FLAGS + shortstr(content_type.encode())
    return start + correlation_id


def lean_result_properties(request: Request, content_type: str) -> bytes:
    """The same, and it says that the service's queue takes everything."""
    p = Properties(content_type=content_type.encode(), table=_LEAN_TABLE)
    p.correlation_id = request.properties.correlation_id or b""
    return encode_properties(p)


def says_lean(p: Properties) -> bool:
    """Whether a reply says so."""
    return p.table == _LEAN_TABLE


def stage_not_reached(p: Properties) -> int | None:
    """The number of the stage whose queue did not take its request, of a reply that says so."""
    try:
        table = read_headers(p.table or b"")
    except CallError:
        return None
    stage = _read_stage(table)
    if stage is None or stage.number < 1 or table.get("rpc-reason") not in _NOT_REACHED:
        return None
    return stage.number


def error_reply(request: Request, error: CallError, problem: Problem | None = None) -> tuple[bytes, bytes]:
    """Property bytes and body of a reply that carries an error: for a bare peer its text. Never raises."""
    stage = error.stage
    error = problems.harmless(error)
    table: dict[str, Any] = {
        "rpc-status": error.code.value,
        "rpc-reason": error.reason,
        "rpc-executed": error.execution.value,
    }
    if stage is not None:
        table |= {"rpc-stage": stage.number, "rpc-stage-executed": stage.execution.value}
        table |= {"rpc-undone": True} if stage.undone else {}
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
        table = read_headers(p.table or b"")
        if _is_error(p, table):
            raise _read_error(p, body, table, registered)
    name = usual_content_type(p.content_type) or codecs.normalise(as_text(p.content_type))
    return name if p.content_encoding is None else with_encoding(name, p)


_ONE_CONTRACT: Final = "; give caller and worker one version of the service"


def read_headers(table: bytes) -> dict[str, Any]:
    try:
        return pick(table, *_READ)
    except FrameError as error:
        raise _undecodable_error(str(error), {}) from error


def undecodable_reply(why: str) -> CallError:
    """A result came, so the handler ran, but it cannot be read."""
    return conclude(evidence.DECODE_REPLY, f"the reply cannot be read: {why}{_ONE_CONTRACT}")


def _undecodable_error(why: str, table: Mapping[str, Any]) -> CallError:
    """What came may not be a result: it is an error, or its headers cannot be read."""
    message = f"the reply cannot be read: {why}{_ONE_CONTRACT}"
    return conclude(evidence.DECODE_ERROR, message, word=evidence.told(table.get("rpc-executed"), earlier=False))


def reply_too_large(p: Properties, size: int, limit: int) -> CallError:
    """What a reply of more than `limit` bytes ends its call in; its headers have been read by `read_bounce`."""
    message = f"the reply has {size} bytes, the client's max_message_size is {limit}: raise it, or have less returned"
    table = read_headers(p.table or b"")
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
    error.stage = _read_stage(table)
    rebuilt = registered(problem, error)
    if rebuilt is not None:
        if error.stage is not None:
            undone = "; what the stages before it have done is being undone" if error.stage.undone else ""
            rebuilt.add_note(f"in stage {error.stage.number} of the pipeline{undone}")
        return rebuilt
    if isinstance(error, RemoteError):
        error.type = problem.error or "Exception"
        error.details, error.traceback = problem.details, problem.traceback
    for note in problem.notes:
        error.add_note(note)
    return error


def _read_stage(table: Mapping[str, Any]) -> FailedStage | None:
    """The stage that an error is about; its caller knows what it is called."""
    number = table.get("rpc-stage")
    if isinstance(number, bool) or not isinstance(number, int):
        return None
    executed = evidence.told(table.get("rpc-stage-executed"), earlier=False)
    return FailedStage(number, "", executed, table.get("rpc-undone") is True)


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
    table = read_headers(p.table or b"")
    if "rpc-executed" in table:
        p.table = encode_table({**table, "rpc-executed": evidence.told(table.get("rpc-executed"), earlier=True).value})
    return p


def _member(kind: Any, value: Any, default: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        return default
