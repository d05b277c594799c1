"""Control messages: what is said over the exchange ``warren.control``. Pure; docs/wire.md is the prose of this.

A question names its verb in ``type`` and carries a JSON object; each server process that is meant answers once, with
a JSON object too. What an object has in addition is ignored, so that versions can mix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from warren.amqp.frames import FrameError, Properties, decode_properties, encode_properties
from warren.amqp.tables import encode_table, pick
from warren.errors import CallError, Code, make_error
from warren.protocol.content import as_text

#: Bytes of the largest question that is taken.
MAX_QUESTION = 256 * 1024
#: Of a server's control queue: more questions than this many wait for nobody (the oldest go first).
QUEUE_ARGUMENTS: dict[str, Any] = {"x-max-length": 1000, "x-queue-type": "classic"}

#: Bytes of an id, an address or a routing key in AMQP, at most; a character has at least one.
LONGEST = 255

TO_ALL = "all"
CANCEL = "cancel"

_JSON = b"application/json"


def to_service(name: str) -> str:
    """The routing key that reaches each process that serves this service."""
    return f"service:{name}"


def to_instance(instance: str) -> str:
    """The routing key that reaches one process."""
    return f"instance:{instance}"


class Question(msgspec.Struct, frozen=True):
    """What is asked.

    Attributes:
        verb: what to do.
        body: its arguments.
        reply_to: where the answer goes; empty where none is wanted.
        id: what the answer shall be known by.
    """

    verb: str
    body: dict[str, Any]
    reply_to: bytes = b""
    id: bytes = b""


class Answer(msgspec.Struct, frozen=True):
    """What one process has answered.

    Attributes:
        id: of the question.
        instance: the process, by its random id.
        body: what it has said; nothing where it refuses.
        error: why it refuses.
        trouble: why it cannot be read; then who has said it is not known either.
    """

    id: bytes
    instance: str
    body: dict[str, Any]
    error: CallError | None = None
    trouble: str = ""


def question_properties(question: Question, *, patience: float) -> bytes:
    """The property bytes of a question; it waits for at most `patience` seconds."""
    return encode_properties(
        Properties(
            content_type=_JSON,
            type=question.verb.encode(),
            reply_to=question.reply_to or None,
            correlation_id=question.id or None,
            expiration=b"%d" % max(0, int(patience * 1000)),
        )
    )


def read_question(properties: bytes, body: bytes | None) -> Question:
    """A question as it came.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        p = decode_properties(properties)
    except FrameError as error:
        raise ValueError(f"its properties cannot be read: {error}") from error
    if body is None:
        raise ValueError(f"it has more than {MAX_QUESTION} bytes")
    return Question(as_text(p.type) or "", _read_object(body or b"{}"), p.reply_to or b"", p.correlation_id or b"")


def asked_service(properties: bytes) -> str:
    """The service of which a request asks for a method, by its full name; empty for a question, whose verb has no dot.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return (as_text(decode_properties(properties).type) or "").rpartition(".")[0]
    except FrameError as error:
        raise ValueError(f"its properties cannot be read: {error}") from error


def write_answer(question: Question, instance: str, body: Any) -> tuple[bytes, bytes]:
    """Property bytes and body of an answer."""
    p = Properties(content_type=_JSON, type=question.verb.encode(), correlation_id=question.id)
    return encode_properties(p), msgspec.json.encode({"instance": instance, **msgspec.to_builtins(body)})


def write_refusal(question: Question, instance: str, error: CallError) -> tuple[bytes, bytes]:
    """Property bytes and body of an answer that refuses."""
    table = encode_table({"rpc-status": error.code.value, "rpc-reason": error.reason})
    p = Properties(content_type=_JSON, type=b"error", correlation_id=question.id, table=table)
    return encode_properties(p), msgspec.json.encode({"instance": instance, "detail": error.message})


def read_answer(properties: bytes, body: bytes | None) -> Answer:
    """An answer as it came: one whose question is known and nothing else says in `trouble` what is wrong with it.

    Raises:
        ValueError: its properties cannot be read.
    """
    try:
        p = decode_properties(properties)
    except FrameError as error:
        raise ValueError(f"its properties cannot be read: {error}") from error
    id = p.correlation_id or b""
    try:
        return _read_said(id, p.table or b"", body)
    except ValueError as error:
        return Answer(id, "", {}, trouble=str(error))


def _read_said(id: bytes, headers: bytes, body: bytes | None) -> Answer:
    try:
        table = pick(headers, b"rpc-status", b"rpc-reason")
    except FrameError as error:
        raise ValueError(f"its properties cannot be read: {error}") from error
    if body is None:
        raise ValueError("it is larger than what is taken: ask for less")
    said = _read_object(body)
    instance = said.pop("instance", None)
    if not isinstance(instance, str) or not 0 < len(instance) <= LONGEST:
        raise ValueError(
            "it does not say who speaks, as `instance` is missing or no short text: look what else answers there"
        )
    return Answer(id, instance, said) if "rpc-status" not in table else Answer(id, instance, {}, _error(table, said))


def _error(table: Mapping[str, Any], said: Mapping[str, Any]) -> CallError:
    try:
        code = Code(table["rpc-status"])
    except ValueError:
        code = Code.UNKNOWN
    reason, detail = table.get("rpc-reason"), said.get("detail")
    return make_error(
        code,
        reason if isinstance(reason, str) else "UNKNOWN",
        detail if isinstance(detail, str) and detail else "it refuses, and does not say why",
    )


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not a JSON object: {error}") from error
    return value


# --- cancel -----------------------------------------------------------------------------------------------------


_Short = Annotated[str, msgspec.Meta(max_length=LONGEST)]
#: What every JSON reader takes for a whole number, at most: Python's own have no end.
_Milliseconds = Annotated[int, msgspec.Meta(le=2**53)]


class Cancel(msgspec.Struct, frozen=True):
    """Nobody waits any more for these calls.

    Attributes:
        calls: their correlation ids, each with the milliseconds that it still had.
        reply_to: their reply address: with an id it proves who says so, as only its caller and its worker know both.
    """

    calls: dict[_Short, _Milliseconds]
    reply_to: _Short


#: Calls of a service that a process serves at a time: AMQP's prefetch allows no more.
MAX_CONCURRENCY = 65_535
#: Calls in one message, at most.
MOST_CANCELLED = 1000


def read_cancel(body: Mapping[str, Any]) -> Cancel:
    """The calls that a question's body names.

    Raises:
        ValueError: it is none.
    """
    cancel = read_body(body, Cancel)
    if not cancel.reply_to:
        raise ValueError("it has no reply_to: name the reply queue of the calls")
    if len(cancel.calls) > MOST_CANCELLED:
        raise ValueError(f"it names {len(cancel.calls)} calls; {MOST_CANCELLED} are allowed")
    return cancel


# --- what operators may ask for -----------------------------------------------------------------------------------


class StopCall(msgspec.Struct, frozen=True):
    """End this call, wherever it is, and tell its caller."""

    call_id: str


class SetConcurrency(msgspec.Struct, frozen=True):
    """Serve so many calls of a service at a time."""

    service: str
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONCURRENCY)]


class SetLogLevel(msgspec.Struct, frozen=True):
    """Let a logger say more, or less."""

    level: str
    logger: str = "warren"


B = TypeVar("B", bound=msgspec.Struct)


def read_body(body: Mapping[str, Any], kind: type[B]) -> B:
    """The arguments in a question's body; what it has in addition is ignored.

    Raises:
        ValueError: they do not fit.
    """
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"its arguments do not fit: {error}; look what it takes up in docs/wire.md") from error
