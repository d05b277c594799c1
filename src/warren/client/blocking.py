"""The blocking client: the same calls as `AsyncClient`, from any thread.

All I/O runs on an event loop in one background thread, so heartbeats never wait for user code and any number of
threads may call. A call is encoded and decoded in the thread that makes it; only its start is handed over.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from warren import keywords
from warren.client.blocking_gather import BlockingGather
from warren.client.blocking_map import BlockingMap
from warren.client.blocking_uploads import BlockingUploads
from warren.client.io_thread import IOThread
from warren.client.options import Limits
from warren.client.statistics import ClientStatistics
from warren.client.streams import BlockingStream
from warren.client.target import (
    bare_target,
    encode_bare,
    encode_call,
    find_target,
    read_bare,
    read_confirm,
    read_result,
    returning,
)
from warren.client.waiters import ChainedPromise, Promise
from warren.connection.settings import Settings
from warren.protocol.uploading import STREAM

P = ParamSpec("P")
R = TypeVar("R")


class _Shared:
    """The I/O threads of a client and its views, one in each process.

    A forked child finds itself by its process id, at every use, as a fork made in C tells Python nothing. No lock is
    taken for that: one that was held at the fork would be held for ever. The parent's thread, loop and connection are
    kept in the child, untouched: to finalise them would disturb the parent's.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._closed = False
        self._of_process: dict[int, IOThread] = {}

    def io(self) -> IOThread:
        """That of this process, on the way of every call: it says itself that it is closed."""
        return self._of_process.get(os.getpid()) or self._begin()

    def close(self) -> None:
        """Close that of this process; from now on those of its children are closed, too."""
        self._closed = True
        self.io().close()

    def _begin(self) -> IOThread:
        fresh = IOThread(self._settings, self._limits)
        if self._closed:
            fresh.close()
        return self._of_process.setdefault(os.getpid(), fresh)

    def __del__(self) -> None:
        io = self._of_process.get(os.getpid())
        if io is None or not io.is_open or sys.is_finalizing():
            return
        io.abandon()
        todo = "use `with` on it (a view's block closes nothing), or call its close()"
        message = f"a Client to {self._settings!r} was dropped unclosed: {todo}"
        warnings.warn(message, ResourceWarning, source=self, stacklevel=2)


class Client(BlockingMap, BlockingGather, BlockingUploads):
    """Calls methods of services, from any thread.

    One connection and one reply queue serve all threads. Use it as ``with``, or `close` it. Connecting begins with
    the first use and goes on in the background: calls wait for the connection within their own timeout, and a lost
    one is re-established. After a fork the child's client connects again; the parent's calls stay the parent's.
    """

    def _share(self, settings: Settings, limits: Limits) -> None:
        self._shared = _Shared(settings, limits)

    def __enter__(self) -> Self:
        self._shared.io().open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_view:
            self.close()

    def connect(self) -> None:
        """Wait for the connection: to find out at start-up whether the broker can be reached.

        Raises:
            CallError: it cannot, each host having been tried once; or the client is closed.
        """
        self._shared.io().connect()

    def close(self) -> None:
        """End all calls under way with `Cancelled` and close the connection, for good, for all views.

        At any time, from any thread, any number of times; each returns when the connection is closed. From a future's
        callback it only begins that.
        """
        self._shared.close()

    @overload
    def call(self, target: str, /, *args: Any, returns: type[R], **kwargs: Any) -> R: ...
    @overload
    def call(self, target: str, /, *args: Any, **kwargs: Any) -> Any: ...
    @overload
    def call(self, target: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, target: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def call(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method and wait for its result; see `AsyncClient.call`.

        Raises:
            CallError: every ending that is not a result; see the table in the README.
            Exception: an exception class registered by the service or this client, raised by the handler.
        """
        to = find_target(self._targets, self._options, "call", target)
        if kwargs:
            to = returning(to, kwargs)
        deadline = self._options.deadline()
        if self._middleware:
            return self._shared.io().run_chained(self._chained(to, args, kwargs, deadline))
        body, running = encode_call(to, args, kwargs), self._options.bound_to()
        return read_result(self._shared.io().run(to, body, deadline, running), to, self._errors)

    @overload
    def submit(self, target: str, /, *args: Any, returns: type[R], **kwargs: Any) -> Future[R]: ...
    @overload
    def submit(self, target: str, /, *args: Any, **kwargs: Any) -> Future[Any]: ...
    @overload
    def submit(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, target: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin a call; its future gets the result, or the exception that `call` would raise.

        Cancelling the future gives the call up. Its callbacks run in the client's I/O thread: keep them short, and
        do not wait for another call in them.
        """
        to = find_target(self._targets, self._options, "call", target)
        if kwargs:
            to = returning(to, kwargs)
        deadline, io = self._options.deadline(), self._shared.io()
        promise: ChainedPromise | Promise = (
            ChainedPromise(self._chained(to, args, kwargs, deadline), io.give_up, owner=self._shared)
            if self._middleware
            else Promise(
                to, encode_call(to, args, kwargs, "submit"), deadline, self._errors, io.give_up, owner=self._shared
            )
        )
        io.start(promise)
        return promise

    @overload
    def cast(self, target: str, /, *args: Any, **kwargs: Any) -> None: ...
    @overload
    def cast(self, target: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    def cast(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> None:
        """Send a request that nobody answers; returns once the broker has confirmed it. See `AsyncClient.cast`.

        Raises:
            CallError: the broker does not have it, or (execution UNKNOWN) may or may not have it.
        """
        to = find_target(self._targets, self._options, "cast", target)
        deadline = self._options.own_deadline()
        if self._middleware:
            self._shared.io().run_chained(self._chained(to, args, kwargs, deadline))
        else:
            read_confirm(self._shared.io().run(to, encode_call(to, args, kwargs), deadline))

    @keywords.refusing("call_bare")
    def call_bare(self, queue: str, body: bytes | str = b"", /) -> bytes:
        """Call a server that knows only RabbitMQ's tutorial six; see `AsyncClient.call_bare`.

        Raises:
            CallError: as for `call`.
        """
        to = bare_target(self._options, queue)
        deadline = self._options.deadline()
        if self._middleware:
            result: bytes = self._shared.io().run_chained(self._chained(to, (body,), {}, deadline))
            return result
        return read_bare(self._shared.io().run(to, encode_bare(body), deadline, self._options.bound_to()), to)

    @overload
    def stream(self, target: str, /, *args: Any, returns: type[R], **kwargs: Any) -> BlockingStream[R]: ...
    @overload
    def stream(self, target: str, /, *args: Any, **kwargs: Any) -> BlockingStream[Any]: ...
    @overload
    def stream(
        self, target: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> BlockingStream[R]: ...
    @overload
    def stream(self, target: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs) -> BlockingStream[R]: ...
    def stream(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> BlockingStream[Any]:
        """Call a method that yields, and have its items as they come; see `AsyncClient.stream`.

        Raises:
            CallError: here, what cannot be sent; while iterating, what `call` raises.
            TypeError, ValueError: as for `AsyncClient.stream`.
        """
        return BlockingStream(self._prepared(STREAM, target, args, kwargs), self._shared.io, owner=self._shared)

    @property
    def ignored_replies(self) -> int:
        """Replies that nobody waited for any more: late, duplicate or foreign ones."""
        return self.statistics.ignored_replies

    @property
    def statistics(self) -> ClientStatistics:
        """How the client stands: what is in flight, and how its connection is. From any thread."""
        return self._shared.io().statistics
