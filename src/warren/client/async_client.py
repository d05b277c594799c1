"""The asyncio client.

What outlives a call here has one owner, `_Shared`, which a client and its views hold together: it opens the
connection, closes it, and ends it when all of them are dropped without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import Context
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from warren import keywords
from warren.client.async_gather import AsyncGather
from warren.client.async_map import AsyncMap
from warren.client.async_uploads import AsyncUploads
from warren.client.awaited import AwaitedCall
from warren.client.core import ClientCore
from warren.client.options import Limits
from warren.client.statistics import ClientStatistics
from warren.client.streams import AsyncStream
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
from warren.connection.settings import Settings
from warren.connection.supervisor import closed_error
from warren.protocol.uploading import STREAM

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Shared:
    """The connection of a client and its views: in one event loop of one process at a time, and closed once."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._core: ClientCore | None = None
        self._process = 0
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    def open(self) -> ClientCore:
        """The calls of the connection, for as long as it is not closed.

        Raises:
            Cancelled: it is closed.
            RuntimeError: it was opened on another event loop that is not closed, or before a fork.
        """
        if self._closed:
            raise closed_error()
        return self.core()

    def core(self) -> ClientCore:
        """As `open`, on the way of every call: the core itself says that it is closed."""
        core = self._core
        if core is None:
            core = self._begin()
        elif self._process != os.getpid() or core.loop is not asyncio.get_running_loop():
            core = self._begin_again(core)
        return core

    async def close(self) -> None:
        """Close it, once; whoever asks waits until it is closed, and may be cancelled without stopping that."""
        if self._core is None or self._process != os.getpid() or self._core.loop.is_closed():
            self._closed = True
            return  # never opened; the parent's; or ended with its loop
        core = self.core()
        self._closed = True
        if self._closing is None or self._closing.done():
            self._closing = _in_no_context(core.loop.create_task, core.close())
        await asyncio.shield(self._closing)

    @property
    def statistics(self) -> ClientStatistics:
        return self._core.statistics if self._core is not None else ClientStatistics()

    def _begin_again(self, core: ClientCore) -> ClientCore:
        """On another loop: where the old one is closed its connection has ended with it, and all calls on it."""
        if self._process == os.getpid() and core.loop.is_closed():
            return self._begin()
        raise RuntimeError(
            "this AsyncClient was opened on another event loop, which is not closed yet, and works there only: make one"
            " for each loop and in each forked process; for several threads use Client"
        )

    def _begin(self) -> ClientCore:
        if self._closed:
            raise closed_error()
        self._core = _in_no_context(ClientCore, self._settings, self._limits)
        self._process = os.getpid()
        _in_no_context(self._core.open)
        return self._core

    def __del__(self) -> None:
        if self._core is None or self._closed or self._process != os.getpid() or sys.is_finalizing():
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the connection with it
            self._core.loop.call_soon_threadsafe(_close_dropped, self._core, context=Context())
        todo = "use `async with` on it (a view's block closes nothing), or await its close()"
        message = f"an AsyncClient to {self._settings!r} was dropped unclosed: {todo}"
        warnings.warn(message, ResourceWarning, source=self, stacklevel=2)


def _in_no_context(function: Callable[..., T], *args: Any) -> T:
    """Call a function whose tasks and timers outlive the call: they must carry no context variable of its maker."""
    return Context().run(function, *args)


_dropped: set[asyncio.Task[None]] = set()  # a loop holds its tasks weakly


def _close_dropped(core: ClientCore) -> None:
    task = core.loop.create_task(core.close())
    _dropped.add(task)
    task.add_done_callback(_dropped.discard)


class AsyncClient(AsyncMap, AsyncGather, AsyncUploads):
    """Calls methods of services, for asyncio.

    One connection and one reply queue serve any number of concurrent calls. Use it as ``async with``, or `close` it.
    Connecting begins then and goes on in the background: calls wait for the connection within their own timeout, and
    a lost one is re-established.
    """

    def _share(self, settings: Settings, limits: Limits) -> None:
        self._shared = _Shared(settings, limits)

    async def __aenter__(self) -> Self:
        self._shared.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_view:
            await self.close()

    async def connect(self) -> None:
        """Wait for the connection: to find out at start-up whether the broker can be reached.

        Raises:
            CallError: it cannot, each host having been tried once; or the client is closed.
        """
        await self._shared.open().connected()

    async def close(self) -> None:
        """End all calls under way with `Cancelled` and close the connection, for good, for all views.

        At any time, any number of times, before the first use, too. It goes on when the awaiting task is cancelled.
        In a forked child it leaves the parent's connection alone.
        """
        await self._shared.close()

    @overload
    async def call(self, target: str, /, *args: Any, returns: type[R], **kwargs: Any) -> R: ...
    @overload
    async def call(self, target: str, /, *args: Any, **kwargs: Any) -> Any: ...
    @overload
    async def call(self, target: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, target: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def call(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method and wait for its result.

        Args:
            target: a function declared with ``@service.method``, or ``"service.method"``.
            *args, **kwargs: its arguments; by name either all positional or all named. A call by name may say
                ``returns=Price``: the result is validated and built as that type, or the call ends as DECODE_REPLY,
                as the handler has run. An argument of this name is then given by position.

        Raises:
            CallError: every ending that is not a result; see the table in the README. When the awaiting task is
                cancelled the call is given up, and whether its handler runs is not known.
            TypeError: arguments that do not fit the function; nothing was sent.
            Exception: an exception class registered by the service or this client, raised by the handler.
        """
        to = find_target(self._targets, self._options, "call", target)
        if kwargs:
            to = returning(to, kwargs)
        deadline = self._options.deadline()
        if self._middleware:
            return await self._chained(to, args, kwargs, deadline).run(self._shared.core)
        future = AwaitedCall(self._shared.core(), to, encode_call(to, args, kwargs), deadline)
        args, kwargs = (), {}  # they are written: nothing of them is kept while the call is under way
        try:
            return read_result(await future, to, self._errors)
        finally:
            del future  # what it holds may be the exception that is raised: no cycle with this frame

    @overload
    async def cast(self, target: str, /, *args: Any, **kwargs: Any) -> None: ...
    @overload
    async def cast(self, target: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    async def cast(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> None:
        """Send a request that nobody answers; returns once the broker has confirmed that it has it.

        The request is stored durably and waits in the queue for as long as it takes; the timeout is for the
        broker's confirm only, and inside a handler it is not bound to the time that is left of its call.

        Raises:
            CallError: the broker does not have it, or (execution UNKNOWN) may or may not have it.
        """
        to = find_target(self._targets, self._options, "cast", target)
        deadline = self._options.own_deadline()
        if self._middleware:
            await self._chained(to, args, kwargs, deadline).run(self._shared.core)
        else:
            read_confirm(await AwaitedCall(self._shared.core(), to, encode_call(to, args, kwargs), deadline))

    @keywords.refusing("call_bare")
    async def call_bare(self, queue: str, body: bytes | str = b"", /) -> bytes:
        """Call a server that knows only RabbitMQ's tutorial six: the body goes as it is, and comes back as it is.

        Raises:
            CallError: as for `call`.
        """
        to = bare_target(self._options, queue)
        deadline = self._options.deadline()
        if self._middleware:
            result: bytes = await self._chained(to, (body,), {}, deadline).run(self._shared.core)
            return result
        return read_bare(await AwaitedCall(self._shared.core(), to, encode_bare(body), deadline), to)

    @overload
    def stream(self, target: str, /, *args: Any, returns: type[R], **kwargs: Any) -> AsyncStream[R]: ...
    @overload
    def stream(self, target: str, /, *args: Any, **kwargs: Any) -> AsyncStream[Any]: ...
    @overload
    def stream(self, target: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[R]: ...
    @overload
    def stream(self, target: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[R]: ...
    def stream(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> AsyncStream[Any]:
        """Call a method that yields, and have its items as they come: ``async for item in client.stream(…)``.

        The worker waits while this side is a window behind (256 items, or 8 MiB), so no side keeps more than that. The
        `timeout` is for the whole stream, ``idle_timeout`` for the wait for one item. Nothing is sent before the first
        item is asked for. No item is lost, or comes twice, without the stream ending in an error.

        Args:
            target: a function declared with ``@service.method``, or ``"service.method"``.
            *args, **kwargs: as for `call`; ``returns`` is the type of an item.

        Raises:
            CallError: here, what cannot be sent; while iterating, what `call` raises. A note says how many items came.
            TypeError: a method that yields nothing; arguments that do not fit.
            ValueError: a name that cannot be one; ``resend=True`` or ``expect`` among the options.
        """
        return AsyncStream(self._prepared(STREAM, target, args, kwargs), self._shared.core)

    @property
    def ignored_replies(self) -> int:
        """Replies that nobody waited for any more: late, duplicate or foreign ones."""
        return self.statistics.ignored_replies

    @property
    def statistics(self) -> ClientStatistics:
        """How the client stands: what is in flight, and how its connection is. From any thread."""
        return self._shared.statistics
