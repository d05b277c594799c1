"""The call that the running handler serves, as far as the handler may want to know."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar

from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol.progress import Progress, asked_for, checked
from warren.protocol.request import Request
from warren.protocol.running import get_running, set_running
from warren.protocol.signature import Arguments
from warren.protocol.uploading import own_name

if TYPE_CHECKING:  # until Python 3.13 has it for all; type checkers bring it along
    from typing_extensions import TypeVar as _TypeVar

    State = _TypeVar("State", default=Any)
else:
    State = TypeVar("State")

log = get_logger("warren.server")

P = ParamSpec("P")
R = TypeVar("R")


class Streams(Protocol):
    """The streams that a worker serves."""

    def open(self, call: CurrentCall[Any]) -> Any:
        """The way to a call's caller."""

    def returned(self, id: bytes | None) -> None:
        """A message to the caller with this correlation id came back."""

    def lost(self) -> None:
        """The channel of all of them is gone."""


class Uploads(Protocol):
    """What callers send to a worker's handlers."""

    def open(self, call: CurrentCall[Any], decoder: Callable[[str], Any]) -> Any:
        """The way of items to a call; `decoder` gives what reads those of an encoding."""

    def returned(self, id: bytes | None) -> None:
        """See `Streams`."""

    def lost(self) -> None:
        """See `Streams`."""


class _NoStreams:
    """Of a worker that nobody has given any."""

    def open(self, call: CurrentCall[Any], decoder: Any = None) -> Any:
        raise LookupError("this worker serves no streams: serve it with a Server")

    def returned(self, id: bytes | None) -> None:
        """It is no stream's."""

    def lost(self) -> None:
        """See `returned`."""


class Scope:
    """What all calls that a worker serves have in common, from its lifespan's beginning to its end.

    Attributes:
        user: the AMQP user that the worker is connected as.
        state: what the service's lifespan has yielded; None where it has none.
        supplies: what is found by type, by the type that is asked for.
        streams: those of methods that yield.
        uploads: those of methods that take items.
        reporter: makes what tells a call's caller of its progress.
    """

    streams: Streams
    uploads: Uploads
    reporter: Callable[[CurrentCall[Any]], Callable[[Progress], None]]

    def __init__(self, user: str) -> None:
        self.user = user
        self.streams = self.uploads = _NoStreams()
        self.reporter = lambda _call: _tell_nobody
        self.state: Any = None
        self.supplies: dict[Any, Any] = {}

    def returned(self, id: bytes | None) -> None:
        """A message to the caller with this correlation id came back."""
        self.streams.returned(id)
        self.uploads.returned(id)

    def lost(self) -> None:
        """The channel of all calls under way is gone: nobody will be answered."""
        self.streams.lost()
        self.uploads.lost()


def _tell_nobody(_said: Progress) -> None:
    """Of calls whose caller has not asked."""


class _Cancelled(threading.Event):
    """That the caller has given up, and who wants to hear of it."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: dict[object, Callable[[], None]] = {}

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        key = object()
        self._callbacks[key] = callback
        if self.is_set():
            self._call(key)
        return lambda: self._callbacks.pop(key, None) and None

    def _call(self, key: object) -> None:
        callback = self._callbacks.pop(key, None)  # whoever takes it out calls it: once, whichever thread that is
        if callback is not None:
            try:
                callback()
            except Exception:
                log.exception("what was to be done when a caller gives up has failed")

    def happen(self) -> None:
        self.set()
        for key in list(self._callbacks):
            self._call(key)


class _Facts:
    """What the caller has said of its request."""

    __slots__ = ("_request", "_scope")

    _request: Request
    _scope: Scope

    @property
    def kind(self) -> Literal["call", "cast", "bare"]:
        """What was made: a ``call``, a ``cast``, or a call by a peer that knows only tutorial six (``bare``)."""
        return self._request.kind

    @property
    def sent_at(self) -> float | None:
        """When the caller wrote the request, in seconds since 1970, by its clock; None where it does not say."""
        return self._request.sent_at

    @property
    def call_id(self) -> str | None:
        """The caller's ``message_id``, stable over retries: the idempotency key. None from a bare peer."""
        return self._request.call_id

    @property
    def root_id(self) -> str | None:
        """The ``call_id`` of the call that this one is made for: that which the outermost caller has.

        It goes along in nested calls and casts, and stands in every line of the log that is about one of them.
        """
        return self._request.root_id

    @property
    def caller(self) -> str | None:
        """What the caller calls itself (``app_id``); None when it gave no name."""
        return self._request.caller

    @property
    def user(self) -> str | None:
        """The caller's AMQP user, verified by the broker; None when it was not sent (``send_user``)."""
        return self._request.verified_user(self._scope.user)

    @property
    def headers(self) -> Mapping[str, Any]:
        """The application's own headers, as the caller set them with ``options(headers=…)``."""
        return self._request.headers()


class RefusedCall(_Facts):
    """A request that ends before its handler begins; `Service(on_refused=…)` is told of it.

    Attributes:
        service: the service that was called.
        method: what was called; None where the request names no method.
        attempt: 1 for the first delivery; more where an at-least-once request came again.
    """

    __slots__ = ("attempt", "method", "service")

    def __init__(self, service: str, request: Request, scope: Scope) -> None:
        self.service = service
        self.method = own_name(request.method, service)
        self.attempt = request.attempt
        self._request = request
        self._scope = scope


class CurrentCall(_Facts, Generic[State]):
    """What a handler can learn about the call it serves. `State` is what the service's lifespan yields.

    Attributes:
        method: ``service.method``.
        deadline: when the caller stops waiting, in seconds of `time.monotonic`; None when it set no limit.
        ended: whether the handler has ended; what it has started may go on.
        attempt: 1 for the first delivery; more where an at-least-once request is run again.
    """

    __slots__ = (
        "_arguments", "_began", "_callers_deadline", "_cancelled", "_preparing", "_tell",
        "attempt", "deadline", "ended", "method",
    )  # fmt: skip

    # Unset where there is nothing: so they cost most calls nothing.
    _preparing: bool
    _cancelled: _Cancelled
    _tell: Callable[[Progress], None]

    def __init__(
        self,
        method: str,
        deadline: float | None,
        request: Request,
        scope: Scope,
        arguments: Arguments = ((), {}),
        began: float = 0.0,
        callers_deadline: float | None = None,
    ) -> None:
        """A call that begins at `began`; `deadline` is the earlier one of its caller's and its method's time limit."""
        self._arguments = arguments
        self._began = began
        self._callers_deadline = callers_deadline
        self.method = method
        self.deadline = deadline
        self.ended = False
        self.attempt = request.attempt
        self._request = request
        self._scope = scope

    def carry(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, to be run in a thread of the handler's own as if it were part of the handler.

        Threads that a handler starts know nothing of its call: calls made there have no deadline but their own. Each
        run has a copy of the context in which `carry` was called, so that several may run at a time::

            pool.submit(current_call().carry(client.call), other.method, 3)
        """
        context = contextvars.copy_context()
        context.run(set_running, self)

        def carried(*args: P.args, **kwargs: P.kwargs) -> R:
            return context.copy().run(function, *args, **kwargs)

        return carried

    @property
    def args(self) -> tuple[Any, ...]:
        """The handler's positional arguments, as they were decoded."""
        return self._arguments[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The handler's named arguments, as they were decoded; not what it depends on."""
        return self._arguments[1]

    @property
    def wait(self) -> float | None:
        """Seconds from the caller's write to the handler's turn: in queues, mostly; None where it does not say.

        As in the statistics: clocks that differ count for nothing, except by what the request's own time tells.
        """
        timeout = self._request.timeout_ms
        if timeout is None or self._callers_deadline is None:
            return None
        return max(0.0, self._began - self._callers_deadline + timeout / 1000)

    @property
    def state(self) -> State:
        """What the service's lifespan has yielded; None where it has none."""
        state: State = self._scope.state
        return state

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, 0 when it has passed; None when the caller set no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def service(self) -> str:
        """The service that is called."""
        return self.method.rpartition(".")[0]

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more: the caller has given up, or the deadline has passed.

        An ``async`` handler is cancelled then. A ``def`` handler cannot be: it looks here from time to time.
        """
        told = getattr(self, "_cancelled", None)
        return (told is not None and told.is_set()) or self.remaining == 0.0

    def wait_cancelled(self, timeout: float) -> bool:
        """Wait, in a ``def`` handler, until nobody waits for the result any more; for at most `timeout` seconds.

        Returns `cancelled`: a pause that ends early when there is nothing left to do it for.
        """
        left = self.remaining
        _cancelled_of(self).wait(timeout if left is None else min(timeout, left))
        return self.cancelled

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell the caller how far this call has come, from the loop or any thread, as often as you like.

        Nothing goes out where the caller has not asked (``options(on_progress=…)``). Otherwise the newest goes, at most
        ten times a second, and at once when a known total is done for the first time. It is news that may get lost:
        the call's outcome never depends on it.

        Args:
            done: how much is done, in any unit.
            total: how much there is, if you know.
            message: what is being done; at most 1,000 characters of it are sent.

        Raises:
            TypeError, ValueError: numbers that are negative or not finite, or a message that is no text.
        """
        said = checked(done, total, message)
        if not hasattr(self, "_tell"):
            asked = not self._request.bare and asked_for(self._request.properties)
            self._tell = self._scope.reporter(self) if asked else _tell_nobody
        self._tell(said)

    def on_cancelled(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, from the worker's loop, when the caller gives up; at once if it has. Returns what undoes that."""
        return _cancelled_of(self).add(callback)


#: Told of requests that are refused, with what their callers are told.
OnRefused = Callable[[RefusedCall, CallError], None]


def current_call() -> CurrentCall[Any]:
    """The call that the running handler serves.

    Raises:
        LookupError: not inside a handler; or that is called here like any function, alone or in a pipeline.
    """
    call = get_running()
    if not isinstance(call, CurrentCall):
        raise LookupError(
            "current_call() works inside a handler that serves a call, and there is none: pass on what it gives there;"
            " a handler that is called like any function, alone or in a pipeline, has none either: serve it, in a test"
            " with warren_serve, and call it with a client"
        )
    return call


def scope_of(call: CurrentCall[Any]) -> Scope:
    """What the call has in common with all others of its worker."""
    return call._scope


def streams_of(call: CurrentCall[Any]) -> Streams:
    """The streams of the call's worker."""
    return call._scope.streams


def uploads_of(call: CurrentCall[Any]) -> Uploads:
    """The uploads of the call's worker."""
    return call._scope.uploads


_cancelled_lock = threading.Lock()


def _cancelled_of(call: CurrentCall[Any]) -> _Cancelled:
    with _cancelled_lock:  # the worker's loop and the handler's thread may both be the first
        if not hasattr(call, "_cancelled"):
            call._cancelled = _Cancelled()
    return call._cancelled


def cancel(call: CurrentCall[Any]) -> None:
    """Tell a handler that its caller has given up."""
    _cancelled_of(call).happen()


def prepare(call: CurrentCall[Any]) -> None:
    """Note that what the handler depends on is being provided; middleware may have run the handler before."""
    if not hasattr(call, "_preparing"):
        call._preparing = True


def enter(call: CurrentCall[Any]) -> None:
    """Note that the handler begins."""
    call._preparing = False


def is_preparing(call: CurrentCall[Any]) -> bool:
    """Whether what the handler depends on is still being provided: the handler has never begun."""
    return getattr(call, "_preparing", False)
