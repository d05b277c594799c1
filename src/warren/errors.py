"""What a call can end in besides a result: one exception, with the evidence of what happened.

The only place that maps status codes to exception classes. Every `CallError` tells *what* happened
(`code`, `reason`), *whether the handler may have run* (`execution`), *who says so* (`origin`) and *to which
call* (`method`, `queue`, `call_id`). Attributes hold what was sent; ``str(error)``, which ends up in logs and on
terminals, is escaped. Codes are gRPC's (https://grpc.io/docs/guides/status-codes/).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from warren.printable import printable


class Code(StrEnum):
    """gRPC's status codes, by name."""

    OK = "OK"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class Execution(StrEnum):
    """Whether the handler ran: the question that decides if a call may be repeated."""

    NOT_SENT = "NOT_SENT"  #: nothing left this process
    NOT_EXECUTED = "NOT_EXECUTED"  #: sent, and known not to have reached a handler
    UNKNOWN = "UNKNOWN"  #: a handler may have run, in part or whole
    EXECUTED = "EXECUTED"  #: the handler ran


class Origin(StrEnum):
    """Who ended the call."""

    CLIENT = "client"
    BROKER = "broker"
    SERVER = "server"
    HANDLER = "handler"


class FailedStage(NamedTuple):
    """The stage of a pipeline in which it ended.

    Attributes:
        number: which one; the first is 1.
        name: ``service.method``.
        execution: whether the handler of this stage may have run; `CallError.execution` is about all stages together.
        undone: whether what the stages before it have done is being undone.
    """

    number: int
    name: str
    execution: Execution
    undone: bool = False


class CallError(Exception):
    """A call, cast or connection attempt that did not end in a result.

    Attributes:
        code: the gRPC status code.
        reason: a stable UPPER_SNAKE word for programs, finer than the code (``NO_ROUTE``, ``QUEUE_TTL``, …).
        execution: whether the handler may have run.
        origin: who ended the call.
        message: what happened and what to do about it, for people.
        method: ``service.method``, where known.
        queue: the queue the request went to, where known.
        call_id: the call's ``message_id``, the same at the caller and in the server's log.
        stage: of a pipeline, the stage in which it ended; None where that is not known, and of all other calls.
    """

    code: Code = Code.UNKNOWN
    reason: str = "UNKNOWN"
    execution: Execution = Execution.UNKNOWN
    origin: Origin = Origin.CLIENT
    stage: FailedStage | None = None

    def __init__(
        self,
        message: str = "",
        *,
        code: Code | None = None,
        reason: str | None = None,
        execution: Execution | None = None,
        origin: Origin | None = None,
        method: str | None = None,
        queue: str | None = None,
        call_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.reason = reason or self.reason
        self.execution = execution or self.execution
        self.origin = origin or self.origin
        self.method = method
        self.queue = queue
        self.call_id = call_id

    @property
    def safe_to_retry(self) -> bool:
        """True when the handler certainly did not run, so that sending again cannot run it twice."""
        return self.execution in (Execution.NOT_SENT, Execution.NOT_EXECUTED)

    def locate(self, *, method: str | None, queue: str | None, call_id: str | None) -> CallError:
        """Fill in which call this is about, where it is not known yet; returns the error itself."""
        self.method = self.method or method
        self.queue = self.queue or queue
        self.call_id = self.call_id or call_id
        return self

    def __str__(self) -> str:
        subject = f"{self.method}: " if self.method else ""
        details = [f"{self.code.value}/{self.reason}", f"execution {self.execution.value}"]
        if self.call_id:
            details.append(f"call {self.call_id}")
        return printable(f"{subject}{self.message} [{', '.join(details)}]")

    def __reduce__(self) -> tuple[Any, ...]:
        # Rebuilt from its attributes, so that it crosses process pools whole (keyword-only arguments would not).
        return _rebuild, (type(self), self.message, self.__dict__)


def _rebuild(cls: type[CallError], message: str, state: dict[str, Any]) -> CallError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class Unavailable(CallError):
    """Nobody could take the call: no route, no connection, no free worker. Try again later, or elsewhere."""

    code = Code.UNAVAILABLE
    reason = "UNAVAILABLE"


class DeadlineExceeded(CallError, TimeoutError):
    """The time allowed for the call is over; the message says what is known about why."""

    code = Code.DEADLINE_EXCEEDED
    reason = "CLIENT_TIMER"


class Overloaded(CallError):
    """A limit was reached: a full queue, too many calls in flight, a message too large."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class InvalidArgument(CallError, ValueError):
    """The arguments do not fit the method's signature. Repeating the same call will fail the same way."""

    code = Code.INVALID_ARGUMENT
    reason = "VALIDATION"


class MethodNotFound(CallError):
    """The service runs, but has no such method (or does not know this protocol version or encoding)."""

    code = Code.UNIMPLEMENTED
    reason = "METHOD"


class PermissionDenied(CallError):
    """The broker or the service refuses this caller."""

    code = Code.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class Cancelled(CallError):
    """The caller cancelled the call, or closed the client while it was under way."""

    code = Code.CANCELLED
    reason = "CALLER"


class WorkerLost(Unavailable):
    """A worker was lost while it held the request, so the handler may have run; it was not run again."""

    reason = "WORKER_LOST"
    origin = Origin.SERVER


class LifespanError(CallError):
    """A service cannot be served: its lifespan, or what its methods depend on, has failed; `__cause__` is with what."""

    code = Code.FAILED_PRECONDITION
    reason = "LIFESPAN"
    execution = Execution.NOT_SENT
    origin = Origin.SERVER


class RemoteError(CallError):
    """The handler raised an exception that is not registered as an error of the service.

    Attributes:
        type: the class name of the remote exception.
        details: the exception's arguments, as far as they could be encoded.
        traceback: the remote traceback, only where the service has opted in to sending it.
    """

    code = Code.UNKNOWN
    reason = "HANDLER_EXCEPTION"
    execution = Execution.EXECUTED
    origin = Origin.HANDLER
    type: str = "Exception"
    details: Any = None
    traceback: str | None = None


_CLASS_OF_CODE: dict[Code, type[CallError]] = {
    Code.UNAVAILABLE: Unavailable,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.RESOURCE_EXHAUSTED: Overloaded,
    Code.INVALID_ARGUMENT: InvalidArgument,
    Code.OUT_OF_RANGE: InvalidArgument,
    Code.UNIMPLEMENTED: MethodNotFound,
    Code.PERMISSION_DENIED: PermissionDenied,
    Code.UNAUTHENTICATED: PermissionDenied,
    Code.CANCELLED: Cancelled,
    Code.UNKNOWN: RemoteError,
}
_CLASS_OF_REASON: dict[str, type[CallError]] = {"WORKER_LOST": WorkerLost, "LIFESPAN": LifespanError}


def error_class(code: Code, reason: str) -> type[CallError]:
    """The exception class for a status; a code without a class of its own is a plain `CallError`."""
    return _CLASS_OF_REASON.get(reason) or _CLASS_OF_CODE.get(code, CallError)


def make_error(code: Code, reason: str, message: str, **evidence: Any) -> CallError:
    """An error of the class that fits `code` and `reason`; `evidence` as in `CallError`."""
    return error_class(code, reason)(message, code=code, reason=reason, **evidence)
