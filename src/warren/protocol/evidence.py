"""What a call ends in, and whether its handler may have run: the one place that decides it.

Three facts decide. What ended the call, an `Ending`: it proves something of the attempt that it ended. Whether the
handler was entered, where only that decides. And whether anything earlier may have begun the request: a redelivery, an
earlier attempt, a copy that was sent before. What is proven of one attempt only says nothing of those, so then NOT_SENT
and NOT_EXECUTED become UNKNOWN. Errors are built here, and a test forbids the evidence's words in other modules.
docs/wire.md has the table with the proofs; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from warren.errors import CallError, Code, Execution, FailedStage, Origin, make_error


@dataclass(frozen=True, slots=True)
class Ending:
    """One way for a call to end without a result.

    Attributes:
        code, reason, origin: as in `CallError`.
        proves: what is certain of the attempt that ended so; None where it depends on whether the handler was entered.
        proof: why that is certain.
    """

    code: Code
    reason: str
    origin: Origin
    proves: Execution | None
    proof: str


_NOTHING_LEFT = "nothing was written to the broker"
_BEFORE_HANDLER = "the worker that held the request ended it before its handler"
_BY_ENTERING = "the worker knows whether it entered the handler"


def _unsent(code: Code, reason: str, origin: Origin = Origin.CLIENT) -> Ending:
    return Ending(code, reason, origin, Execution.NOT_SENT, _NOTHING_LEFT)


def _unknown(code: Code, reason: str, origin: Origin, why: str) -> Ending:
    return Ending(code, reason, origin, Execution.UNKNOWN, why)


def _refused(code: Code, reason: str) -> Ending:
    return Ending(code, reason, Origin.SERVER, Execution.NOT_EXECUTED, _BEFORE_HANDLER)


def _of_handler(code: Code, reason: str, origin: Origin = Origin.SERVER) -> Ending:
    return Ending(code, reason, origin, None, _BY_ENTERING)


# --- at the client, before anything was written -------------------------------------------------------------------

ENCODE = _unsent(Code.INVALID_ARGUMENT, "ENCODE")
REQUEST_TOO_LARGE = _unsent(Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
CLIENT_LIMIT = _unsent(Code.RESOURCE_EXHAUSTED, "CLIENT_LIMIT")
NO_TIME = _unsent(Code.DEADLINE_EXCEEDED, "CLIENT_TIMER")
NOT_CONNECTED = _unsent(Code.UNAVAILABLE, "NOT_CONNECTED")
CLOSED_UNSENT = _unsent(Code.CANCELLED, "CLOSED")
AUTHENTICATION = _unsent(Code.UNAUTHENTICATED, "AUTHENTICATION", Origin.BROKER)
VHOST_DENIED = _unsent(Code.PERMISSION_DENIED, "VHOST", Origin.BROKER)
VHOST_MISSING = _unsent(Code.UNAVAILABLE, "VHOST", Origin.BROKER)
PASSWORD = _unsent(Code.INVALID_ARGUMENT, "PASSWORD")
TLS = _unsent(Code.UNAVAILABLE, "TLS")
TOPOLOGY = _unsent(Code.FAILED_PRECONDITION, "TOPOLOGY", Origin.BROKER)
QUEUE_ARGUMENTS = _unsent(Code.FAILED_PRECONDITION, "QUEUE_ARGUMENTS", Origin.BROKER)
SETUP_DENIED = _unsent(Code.PERMISSION_DENIED, "PERMISSION_DENIED", Origin.BROKER)
CONNECTION = _unsent(Code.INTERNAL, "CONNECTION")
LIFESPAN = _unsent(Code.FAILED_PRECONDITION, "LIFESPAN", Origin.SERVER)
NO_ANSWER = _unsent(Code.UNAVAILABLE, "NO_ANSWER")
NO_IO_THREAD = _unsent(Code.INTERNAL, "IO_THREAD")

# --- at the client, after the request was written -----------------------------------------------------------------

_GONE = "the broker may have the request, and a worker may have it from there"
TIMER = _unknown(Code.DEADLINE_EXCEEDED, "CLIENT_TIMER", Origin.CLIENT, _GONE)
CLOSED = _unknown(Code.CANCELLED, "CLOSED", Origin.CLIENT, _GONE)
CONNECTION_LOST = _unknown(Code.UNAVAILABLE, "CONNECTION_LOST", Origin.CLIENT, _GONE)
CHANNEL_CLOSED = _unknown(Code.UNAVAILABLE, "CHANNEL_CLOSED", Origin.BROKER, _GONE)
PUBLISH_DENIED = _unknown(
    Code.PERMISSION_DENIED,
    "PERMISSION_DENIED",
    Origin.BROKER,
    "the broker does not say which of the publishes on the channel it refuses: those before were routed",
)
GIVEN_UP_OUTSIDE = _unknown(Code.CANCELLED, "CALLER", Origin.CLIENT, _GONE)
INSTANCE_LOST = _unknown(
    Code.UNAVAILABLE, "WORKER_LOST", Origin.BROKER, "the process that had the request has lost its queues"
)
IO_THREAD = _unknown(Code.INTERNAL, "IO_THREAD", Origin.CLIENT, _GONE)
NO_ROUTE = Ending(
    Code.UNAVAILABLE,
    "NO_ROUTE",
    Origin.BROKER,
    Execution.NOT_EXECUTED,
    "the broker returned the mandatory publish: it was put into no queue",
)
QUEUE_FULL = Ending(
    Code.RESOURCE_EXHAUSTED,
    "QUEUE_FULL",
    Origin.BROKER,
    Execution.NOT_EXECUTED,
    "the queue is there and the broker refused the publish (nack): it was not put into the queue",
)
QUEUE_DOWN = _unknown(
    Code.UNAVAILABLE,
    "QUEUE_DOWN",
    Origin.BROKER,
    "the broker also refuses what a queue had got when its node went down",
)

# --- from the broker, by a bounce ---------------------------------------------------------------------------------

_HELD_BEFORE = "a worker may have held the request before, and died: the broker does not say"
QUEUE_TTL = _unknown(Code.DEADLINE_EXCEEDED, "QUEUE_TTL", Origin.BROKER, _HELD_BEFORE)
NO_FREE_WORKER = _unknown(Code.UNAVAILABLE, "NO_FREE_WORKER", Origin.BROKER, _HELD_BEFORE)
DROPPED = _unknown(Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", Origin.BROKER, _HELD_BEFORE)
DELIVERY_LIMIT = _unknown(Code.INTERNAL, "POISON", Origin.BROKER, "workers held the request, and died or gave it back")
REJECTED = _unknown(Code.ABORTED, "REJECTED", Origin.BROKER, "a consumer had the request")
BOUNCED = _unknown(Code.INTERNAL, "BOUNCED", Origin.BROKER, _HELD_BEFORE)

# --- at a worker, before the handler ------------------------------------------------------------------------------

VERSION = _refused(Code.UNIMPLEMENTED, "VERSION")
METHOD = _refused(Code.UNIMPLEMENTED, "METHOD")
STREAM = _refused(Code.UNIMPLEMENTED, "STREAM")
STREAM_DOWN = _refused(Code.UNAVAILABLE, "STREAM_DOWN")
BROADCAST = _refused(Code.UNIMPLEMENTED, "BROADCAST")
ENCODING = _refused(Code.UNIMPLEMENTED, "ENCODING")
DECODE = _refused(Code.INVALID_ARGUMENT, "DECODE")
VALIDATION = _refused(Code.INVALID_ARGUMENT, "VALIDATION")
REQUEST_REFUSED = _refused(Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
ON_ARRIVAL = _refused(Code.DEADLINE_EXCEEDED, "ON_ARRIVAL")
HAND_BACK = _refused(Code.UNAVAILABLE, "HAND_BACK")
DRAINING = _refused(Code.UNAVAILABLE, "DRAINING")
INSTANCE_FULL = _refused(Code.RESOURCE_EXHAUSTED, "INSTANCE_FULL")
SERVER = _of_handler(Code.INTERNAL, "SERVER")
WORKER_LOST = _unknown(
    Code.UNAVAILABLE, "WORKER_LOST", Origin.SERVER, "the broker marks the request as delivered before"
)
POISON = _unknown(
    Code.INTERNAL,
    "POISON",
    Origin.SERVER,
    "workers held the request, begun or not, and were lost, as often as it may be",
)

# --- at a worker, in middleware or handler ------------------------------------------------------------------------

HANDLER_EXCEPTION = _of_handler(Code.UNKNOWN, "HANDLER_EXCEPTION", Origin.HANDLER)
HANDLER_DEADLINE = _of_handler(Code.DEADLINE_EXCEEDED, "HANDLER")
TIME_LIMIT = _of_handler(Code.DEADLINE_EXCEEDED, "TIME_LIMIT")
ENCODE_REPLY = _of_handler(Code.INTERNAL, "ENCODE_REPLY")
RESULT_TOO_LARGE = _of_handler(Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
DRAIN = _of_handler(Code.CANCELLED, "DRAIN")
GIVEN_UP = _of_handler(Code.CANCELLED, "CALLER")
OPERATOR = _of_handler(Code.CANCELLED, "OPERATOR")
_TAKES = "only a handler that was begun asks for items"
UPLOAD_BROKEN = Ending(Code.DATA_LOSS, "STREAM_BROKEN", Origin.HANDLER, Execution.EXECUTED, _TAKES)
ITEM_REFUSED = Ending(Code.INVALID_ARGUMENT, "ITEM", Origin.HANDLER, Execution.EXECUTED, _TAKES)
ITEM_TOO_LARGE = Ending(Code.RESOURCE_EXHAUSTED, "TOO_LARGE", Origin.HANDLER, Execution.EXECUTED, _TAKES)

# --- at the client, from a reply ----------------------------------------------------------------------------------

_RAN = "only a handler's result comes without an error's marks"
REPLY_TOO_LARGE = Ending(Code.RESOURCE_EXHAUSTED, "TOO_LARGE", Origin.CLIENT, Execution.EXECUTED, _RAN)
ERROR_TOO_LARGE = _unknown(
    Code.RESOURCE_EXHAUSTED, "TOO_LARGE", Origin.CLIENT, "an error's headers say what is known, where they can be read"
)
_ITEMS = "only a handler that was begun yields items"
IDLE = _unknown(Code.DEADLINE_EXCEEDED, "IDLE", Origin.CLIENT, _GONE)
STREAM_BROKEN = Ending(Code.DATA_LOSS, "STREAM_BROKEN", Origin.CLIENT, Execution.EXECUTED, _ITEMS)
DECODE_REPLY = Ending(Code.INTERNAL, "DECODE_REPLY", Origin.CLIENT, Execution.EXECUTED, _RAN)
DECODE_ERROR = _unknown(
    Code.INTERNAL, "DECODE_REPLY", Origin.CLIENT, "an error's headers say what is known, where they can be read"
)


def endings() -> Iterator[tuple[str, Ending]]:
    """All endings with their names, for the tests and the documentation."""
    return ((name, value) for name, value in globals().items() if isinstance(value, Ending))


def weigh(execution: Execution, *, earlier: bool, sent: bool = False) -> Execution:
    """What is certain of a call, given what is certain of one attempt at it.

    Args:
        execution: what is certain of the attempt.
        earlier: whether something before this attempt may have begun the request.
        sent: whether an attempt before this one has left this process.
    """
    if earlier and execution in (Execution.NOT_SENT, Execution.NOT_EXECUTED):
        return Execution.UNKNOWN
    if sent and execution is Execution.NOT_SENT:
        return Execution.NOT_EXECUTED
    return execution


#: From what is least to what is most: of several attempts at one call, the most of them is certain.
_MORE = (Execution.NOT_SENT, Execution.NOT_EXECUTED, Execution.UNKNOWN, Execution.EXECUTED)


def _most(one: Execution, another: Execution) -> Execution:
    return one if _MORE.index(one) >= _MORE.index(another) else another


def begun(error: CallError) -> bool:
    """Make an error say that the handler was begun: items of its stream have come; returns whether that is new."""
    said, error.execution = error.execution, _most(error.execution, Execution.EXECUTED)
    return error.execution is not said


def unsent(error: CallError) -> None:
    """Make an error say that nothing was sent, nor will be."""
    error.execution = Execution.NOT_SENT


def of_stage(error: CallError, number: int, name: str, *, undone: bool = False) -> None:
    """Make an error that is about one stage of a pipeline say so, and what is certain of all of them together.

    The request of a later stage is only there because the stages before it have run.
    """
    error.stage = FailedStage(number, name, error.execution, undone)
    if number > 1:
        error.execution = _most(error.execution, Execution.EXECUTED)


def of_some_stage(error: CallError) -> None:
    """Make an error of a pipeline that does not say of which stage it is claim nothing about those before."""
    error.execution = weigh(error.execution, earlier=error.execution is not Execution.NOT_SENT)


class Attempts:
    """What is certain of a call of which several attempts may be made, some of them at a time."""

    __slots__ = ("_ended", "_under_way")

    def __init__(self) -> None:
        self._under_way = 0
        self._ended = Execution.NOT_SENT

    def begin(self) -> None:
        """One is under way."""
        self._under_way += 1

    def end(self, error: BaseException | None, *, is_cast: bool) -> None:
        """One has ended: in a result, in an exception of the handler's own, in a `CallError`, or it was given up."""
        self._under_way -= 1
        if isinstance(error, CallError):
            certain = error.execution
        elif is_cast or not (error is None or isinstance(error, Exception)):
            certain = Execution.UNKNOWN
        else:
            certain = Execution.EXECUTED
        self._ended = _most(self._ended, certain)

    @property
    def execution(self) -> Execution:
        """Of all of them so far."""
        return _most(self._ended, Execution.UNKNOWN) if self._under_way else self._ended

    def weigh(self, error: CallError) -> None:
        """Make an error say what is certain of all of them."""
        error.execution = _most(self.execution, error.execution)


def conclude(
    ending: Ending,
    message: str,
    *,
    earlier: bool = False,
    entered: bool = False,
    word: Execution | None = None,
    **where: str | None,
) -> CallError:
    """The error that a call ends in.

    Args:
        ending: what ended it.
        message: what happened and what to do about it, for people.
        earlier: see `weigh`.
        entered: whether the handler was entered in this attempt; counts where the ending proves nothing by itself.
        word: what the server has said of execution (see `told`), which then counts.
        **where: `method`, `queue`, `call_id`, as in `CallError`.
    """
    execution = weigh(word or _proven(ending, entered), earlier=earlier)
    return make_error(ending.code, ending.reason, message, execution=execution, origin=ending.origin, **where)


def raised(error: CallError, *, earlier: bool, entered: bool) -> CallError:
    """What a caller is told of a `CallError` that a handler or its middleware raised.

    Its own evidence may be about a nested call; the caller wants to know about this one.
    """
    execution = weigh(_proven(HANDLER_EXCEPTION, entered), earlier=earlier)
    return make_error(error.code, error.reason, error.message, execution=execution, origin=Origin.HANDLER)


def told(word: Any, *, earlier: bool) -> Execution:
    """What a reply's word on execution says of all attempts together; UNKNOWN where it says nothing readable."""
    try:
        execution = Execution(word)
    except ValueError:
        return Execution.UNKNOWN
    return weigh(execution, earlier=earlier)


def _proven(ending: Ending, entered: bool) -> Execution:
    if ending.proves is not None:
        return ending.proves
    return Execution.EXECUTED if entered else Execution.NOT_EXECUTED
