"""The blocking client: the same calls as `AsyncClient`, from any thread.

All I/O runs on an event loop in one background thread, so heartbeats never wait for user code and any number of
threads may call. A call is encoded and decoded in the thread that makes it; only its start is handed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import ssl as tls
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from warren.client.async_client import (
    DEFAULT_MAX_IN_FLIGHT,
    DEFAULT_MAX_WAITING_BYTES,
    DEFAULT_TIMEOUT,
    Encoding,
    Options,
    Targets,
    bare_target,
    encode_bare,
    encode_call,
    find_target,
    read_bare,
    read_confirm,
    read_result,
)
from warren.client.caller import Caller, Limits, ReplyQueue, Target
from warren.client.calls import PendingCall
from warren.connection.settings import Password, Settings, make_settings
from warren.errors import CallError, Cancelled, Execution
from warren.protocol import wire
from warren.protocol.problems import registry

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds after a call's deadline at which its thread stops believing in the I/O thread.
_GRACE = 5.0


class Client:
    """Calls methods of services, from any thread.

    One connection and one reply queue serve all threads. Use it as ``with``, or `close` it. Connecting begins with
    the first use and goes on in the background: calls wait for the connection within their own timeout, and a lost
    one is re-established. After a fork the child's client connects anew; the parent's calls stay the parent's.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        encoding: Encoding = "json",
        errors: Iterable[type[Exception]] = (),
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        max_message_size: int = wire.MAX_MESSAGE_SIZE,
        max_waiting_bytes: int = DEFAULT_MAX_WAITING_BYTES,
        reply: ReplyQueue = "exclusive",
        send_user: bool = False,
        name: str | None = None,
        username: str | None = None,
        password: Password | None = None,
        vhost: str | None = None,
        ssl: tls.SSLContext | None = None,
        heartbeat: int | None = None,
        liveness_timeout: float | None = None,
        connect_timeout: float | None = None,
    ) -> None:
        """Prepare a client; nothing is opened yet. Arguments and errors as for `AsyncClient`."""
        settings = make_settings(
            url,
            username=username,
            password=password,
            vhost=vhost,
            ssl=ssl,
            heartbeat=heartbeat,
            liveness_timeout=liveness_timeout,
            connect_timeout=connect_timeout,
            name=name,
        )
        self._options = Options(timeout=timeout, encoding=encoding)
        self._errors = registry(errors)
        self._targets: Targets = {}
        self._io = _IOThread(
            settings, Limits(max_in_flight, max_message_size, max_waiting_bytes, send_user, reply).checked()
        )

    def __enter__(self) -> Self:
        self._io.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Wait for the connection: to find out at start-up whether the broker can be reached.

        Raises:
            CallError: it cannot, each host having been tried once.
        """
        self._io.connect()

    def close(self) -> None:
        """End all calls under way with `Cancelled` and close the connection. Closing twice is no error."""
        self._io.close()

    def options(
        self,
        *,
        timeout: float | None = None,
        fail_fast: bool | None = None,
        resend: bool | None = None,
        encoding: Encoding | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Self:
        """The same client with other options for the calls made through it; see `AsyncClient.options`."""
        view = copy.copy(self)
        view._options = self._options.with_given(
            timeout=timeout, fail_fast=fail_fast, resend=resend, encoding=encoding, headers=headers
        )
        return view

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
        outcome = self._io.run(to, encode_call(to, args, kwargs), self._options.deadline())
        return read_result(outcome, to, self._errors)

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
        promise = _Promise(to, encode_call(to, args, kwargs), self._options.deadline(), self._errors, self._io)
        self._io.start(promise)
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
        read_confirm(self._io.run(to, encode_call(to, args, kwargs), self._options.deadline()))

    def call_bare(self, queue: str, body: bytes | str = b"", /) -> bytes:
        """Call a server that knows only RabbitMQ's tutorial six; see `AsyncClient.call_bare`.

        Raises:
            CallError: as for `call`.
        """
        to = bare_target(self._options, queue)
        return read_bare(self._io.run(to, encode_bare(body), self._options.deadline()), to)

    @property
    def ignored_replies(self) -> int:
        """Replies that nobody waited for any more: late, duplicate or foreign ones."""
        return self._io.ignored_replies


class _Waiter:
    """A request whose thread waits for its outcome: a lock that the I/O thread releases."""

    __slots__ = ("_lock", "body", "call", "deadline", "given_up", "outcome", "target")

    def __init__(self, target: Target, body: bytes, deadline: float) -> None:
        self.target = target
        self.body = body
        self.deadline = deadline
        self.call: PendingCall | None = None
        self.given_up = False
        self.outcome: Any = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def finish(self, outcome: Any) -> None:
        self.call = None
        self.outcome = outcome
        self._lock.release()

    def wait(self, timeout: float) -> bool:
        return self._lock.acquire(timeout=timeout)


class _Promise(Future[Any]):
    """A request whose outcome is a future's."""

    def __init__(
        self, target: Target, body: bytes, deadline: float, errors: dict[str, type[Exception]], io: _IOThread
    ) -> None:
        super().__init__()
        self.target = target
        self.body = body
        self.deadline = deadline
        self.call: PendingCall | None = None
        self.given_up = False
        self._errors = errors
        self._io = io

    def finish(self, outcome: Any) -> None:
        self.call = None
        # Not marked as running first, as executors do: a second lock and wake-up for a state that nobody sees.
        with contextlib.suppress(InvalidStateError):  # cancelled in this very moment
            try:
                self.set_result(read_result(outcome, self.target, self._errors))
            except InvalidStateError:
                raise
            except BaseException as error:
                self.set_exception(error)

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        if not self.given_up:
            self._io.give_up(self)
            self.set_running_or_notify_cancel()  # tells `concurrent.futures.wait` and its like
        return True


_Request = _Waiter | _Promise


class _IOThread:
    """An event loop with a `Caller` in a daemon thread, and the ways into it."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._caller: Caller | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._of_the_parent: list[object] = []
        self.begin_anew()
        _io_threads.add(self)

    def begin_anew(self) -> None:
        """Forget thread and connection: those of a process that was forked are its parent's."""
        self._of_the_parent += [self._loop, self._caller]  # kept, as to finalise them would disturb the parent's
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop = self._caller = None
        self._inbox: deque[_Request] = deque()
        self._woken = False

    @property
    def ignored_replies(self) -> int:
        return self._caller.ignored_replies if self._caller is not None else 0

    def open(self) -> asyncio.AbstractEventLoop:
        """Start the thread, once; returns its loop."""
        with self._start_lock:
            if self._closed:
                raise _closed()
            if self._thread is None:
                ready = threading.Event()
                thread = threading.Thread(target=self._main, args=(ready,), name="warren-client", daemon=True)
                thread.start()  # raises at the end of the interpreter (3.12)
                self._thread = thread
                ready.wait()
        assert self._loop is not None
        return self._loop

    def connect(self) -> None:
        loop = self.open()
        assert self._caller is not None
        self._forbid_own_thread()
        asyncio.run_coroutine_threadsafe(self._caller.connected(), loop).result()

    def run(self, target: Target, body: bytes, deadline: float) -> Any:
        """Start a request and wait in this thread for its outcome, whatever it is."""
        self._forbid_own_thread()
        waiter = _Waiter(target, body, deadline)
        self.start(waiter)
        try:
            # The I/O thread ends every call by its deadline; the grace is for a thread that died.
            if waiter.wait(max(0.0, deadline - time.monotonic()) + _GRACE):
                return waiter.outcome
        except BaseException:  # KeyboardInterrupt: nobody will take the outcome
            self.give_up(waiter)
            raise
        raise CallError("the client's I/O thread does not answer", reason="IO_THREAD", execution=Execution.UNKNOWN)

    def start(self, request: _Request) -> None:
        """Hand a request to the I/O thread, which finishes it in any case."""
        if self._loop is None or self._closed:
            self.open()
        self._inbox.append(request)
        self._wake()

    def give_up(self, request: _Request) -> None:
        """Nobody waits for a request any more; its `finish` may still be called."""
        request.given_up = True
        self._inbox.append(request)
        self._wake()

    def close(self) -> None:
        self._forbid_own_thread()
        with self._start_lock:
            self._closed = True
            thread, loop, caller = self._thread, self._loop, self._caller
            self._thread = None
        if thread is not None and loop is not None and caller is not None:
            asyncio.run_coroutine_threadsafe(caller.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _wake(self) -> None:
        if self._woken:
            return
        self._woken = True
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._take_inbox)
        except RuntimeError:  # the loop was closed in between
            self._refuse_inbox()

    def _take_inbox(self) -> None:
        # Cleared before looking: what is put in later either is seen now or wakes the loop again.
        self._woken = False
        inbox = self._inbox
        while inbox:
            self._take(inbox.popleft())

    def _take(self, request: _Request) -> None:
        assert self._caller is not None
        if request.given_up:
            if request.call is not None:
                self._caller.cancel(request.call)
            return
        body, request.body = request.body, b""
        try:
            request.call = self._caller.start(request.target, body, request.deadline, request)
        except Exception as error:  # a header that cannot be encoded, for one: the caller's to hear, not the loop's
            request.finish(error)

    def _refuse_inbox(self) -> None:
        while self._inbox:
            request = self._inbox.popleft()
            if not request.given_up:
                request.finish(_closed())

    def _forbid_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "this is the client's own I/O thread (a future's callback?): waiting here would wait for ever;"
                " use another thread, or submit() without waiting"
            )

    def _main(self, ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._start_caller(loop))
            ready.set()
            loop.run_forever()
            self._refuse_inbox()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            ready.set()
            loop.close()
            self._refuse_inbox()

    async def _start_caller(self, loop: asyncio.AbstractEventLoop) -> None:
        self._caller = Caller(self._settings, self._limits)
        self._caller.open()
        self._loop = loop


_io_threads: weakref.WeakSet[_IOThread] = weakref.WeakSet()


def _begin_anew() -> None:
    for io in list(_io_threads):
        io.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)


def _closed() -> Cancelled:
    return Cancelled("the client is closed", reason="CLOSED", execution=Execution.NOT_SENT)
