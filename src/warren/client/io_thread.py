"""The thread in which the blocking client's event loop runs, and the ways into it.

A request is handed over in an inbox and finished there in any case: with its outcome, or with why there is none. An
`IOThread` has one life in one process: it is started once, by its first use, and ends once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextvars import Context
from typing import Any, Protocol

from warren.client.caller import Caller
from warren.client.calls import PendingCall
from warren.client.requests import Limits, Target
from warren.client.target import read_result
from warren.connection.settings import Settings
from warren.connection.supervisor import closed_error
from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol import evidence

log = get_logger("warren.client")

#: Seconds after a call's deadline at which its thread stops believing in the I/O thread.
_GRACE = 5.0
#: Seconds between two looks of a waiting thread at whether the I/O thread is alive.
_LOOK = 1.0
#: Seconds that closing may take: more than `Caller.close` needs, so that only a blocked I/O thread takes longer.
_CLOSE_LIMIT = 10.0


class Request(Protocol):
    """What is handed to the I/O thread."""

    given_up: bool

    def begin(self, caller: Caller) -> None:
        """In the I/O thread: start it."""

    def give_up(self, caller: Caller) -> None:
        """In the I/O thread: nobody waits for it any more."""

    def finish(self, outcome: Any) -> None:
        """Take the outcome; an exception stands for itself."""


class _Waiting:
    """Something whose thread waits for its outcome: a lock that the I/O thread releases."""

    __slots__ = ("_lock", "given_up", "outcome")

    def __init__(self) -> None:
        self.given_up = False
        self.outcome: Any = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def finish(self, outcome: Any) -> None:
        self.outcome = outcome
        self._lock.release()

    def wait(self, timeout: float) -> bool:
        return self._lock.acquire(timeout=timeout)


class _WaitingCall(_Waiting):
    """A call, cast or bare call whose thread waits."""

    __slots__ = ("_body", "_call", "_deadline", "_target")

    def __init__(self, target: Target, body: bytes, deadline: float) -> None:
        super().__init__()
        self._target = target
        self._body = body
        self._deadline = deadline
        self._call: PendingCall | None = None

    def begin(self, caller: Caller) -> None:
        body, self._body = self._body, b""
        self._call = caller.start(self._target, body, self._deadline, self)

    def give_up(self, caller: Caller) -> None:
        if self._call is not None:
            caller.cancel(self._call)

    def finish(self, outcome: Any) -> None:
        self._call = None
        super().finish(outcome)


class _WaitingForConnection(_Waiting):
    """A thread that waits for the connection."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        super().__init__()
        self._task: asyncio.Task[None] | None = None

    def begin(self, caller: Caller) -> None:
        self._task = caller.loop.create_task(caller.connected())
        self._task.add_done_callback(self._done)

    def give_up(self, caller: Caller) -> None:
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self.finish(closed_error() if task.cancelled() else task.exception())


class Promise(Future[Any]):
    """A call whose outcome is a future's."""

    def __init__(
        self, target: Target, body: bytes, deadline: float, errors: dict[str, type[Exception]], io: IOThread, owner: Any
    ) -> None:
        """`owner` is kept until the call has ended: what it owns must not end while a call is under way."""
        super().__init__()
        self.given_up = False
        self._target = target
        self._body = body
        self._deadline = deadline
        self._call: PendingCall | None = None
        self._errors = errors
        self._io = io
        self._owner = owner

    def begin(self, caller: Caller) -> None:
        body, self._body = self._body, b""
        self._call = caller.start(self._target, body, self._deadline, self)

    def give_up(self, caller: Caller) -> None:
        if self._call is not None:
            caller.cancel(self._call)

    def finish(self, outcome: Any) -> None:
        self._call = self._owner = None
        # Not marked as running first, as executors do: a second lock and wake-up for a state that nobody sees.
        with contextlib.suppress(InvalidStateError):  # cancelled in this very moment
            try:
                self.set_result(read_result(outcome, self._target, self._errors))
            except InvalidStateError:
                raise
            except Exception as error:
                self.set_exception(error)

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        with self._condition:  # two threads may cancel it at once
            first, self.given_up = not self.given_up, True
        if first:
            self._io.give_up(self)
            self._owner = None
            self.set_running_or_notify_cancel()  # tells `concurrent.futures.wait` and its like
        return True


class IOThread:
    """An event loop with a `Caller` in a daemon thread."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._context = Context()  # of all that outlives a call: it must carry nothing of the caller's
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._caller: Caller | None = None
        self._inbox: deque[Request] = deque()
        self._woken = False
        self._closed = False
        self._dead = False
        self._stopping = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def ignored_replies(self) -> int:
        return self._caller.ignored_replies if self._caller is not None else 0

    @property
    def is_open(self) -> bool:
        """Whether there is anything that `close` would end."""
        return self._loop is not None and not self._closed and not self._dead

    # --- from any thread ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the thread, once.

        Raises:
            Cancelled: it is closed.
            CallError: it cannot be started, or has died.
        """
        with self._start_lock:
            if self._closed:
                raise closed_error()
            if self._thread is None:
                self._thread = self._begin()
            if self._dead:
                raise _dead_error()

    def connect(self) -> None:
        """Wait for the connection; bounded by the attempts at each host."""
        self._forbid_own_thread()
        waiting = _WaitingForConnection()
        self.start(waiting)
        self._wait(waiting, float("inf"))
        if waiting.outcome is not None:
            raise waiting.outcome

    def run(self, target: Target, body: bytes, deadline: float) -> Any:
        """Start a request and wait in this thread for its outcome, whatever it is."""
        self._forbid_own_thread()
        waiting = _WaitingCall(target, body, deadline)
        self.start(waiting)
        self._wait(waiting, deadline + _GRACE)
        return waiting.outcome

    def start(self, request: Request) -> None:
        """Hand a request to the I/O thread, which finishes it in any case."""
        if self._loop is None or self._closed or self._dead:
            self.open()
        if sys.is_finalizing():
            raise evidence.conclude(evidence.NO_IO_THREAD, "the interpreter is ending: its other threads stand still")
        self._inbox.append(request)
        self._wake()

    def give_up(self, request: Request) -> None:
        """Nobody waits for a request any more; its `finish` may still be called."""
        request.given_up = True
        self._inbox.append(request)
        self._wake()

    def close(self) -> None:
        """End all calls, the connection and the thread; any number of times, each returns when all is ended.

        In the thread itself (a future's callback) it only begins that, as waiting there would wait for ever.
        """
        with self._start_lock:
            thread = self._thread
            self.abandon()
        if thread is None or thread is threading.current_thread() or sys.is_finalizing():
            return
        thread.join(_CLOSE_LIMIT)
        if thread.is_alive():
            log.warning("closing goes on in the background: a future's callback seems to block the I/O thread")

    def abandon(self) -> None:
        """Begin to close, without waiting and without a lock: the garbage collector may ask for it anywhere."""
        self._closed = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._begin_closing, context=self._context)

    def _begin(self) -> threading.Thread:
        begun: Future[None] = Future()
        thread = threading.Thread(target=Context().run, args=(self._main, begun), name="warren-client", daemon=True)
        try:
            if sys.is_finalizing():
                raise RuntimeError("the interpreter is ending")
            thread.start()
            begun.result()
        except Exception as error:
            message = f"the client's I/O thread cannot be started: {error}"
            raise evidence.conclude(evidence.NO_IO_THREAD, message) from error
        return thread

    def _wait(self, waiting: _WaitingCall | _WaitingForConnection, until: float) -> None:
        """Wait for an outcome, which comes by its deadline; unless the thread that brings it is dead or blocked."""
        try:
            while not waiting.wait(max(0.0, min(_LOOK, until - time.monotonic()))):
                alive = self._thread is not None and self._thread.is_alive()
                if alive and time.monotonic() < until:
                    continue
                if not waiting.wait(0.0):
                    problem = "does not answer: does a future's callback block it?" if alive else "has died"
                    raise evidence.conclude(evidence.IO_THREAD, f"the client's I/O thread {problem}")
                return
        except BaseException:  # KeyboardInterrupt: nobody will take the outcome
            self.give_up(waiting)
            raise

    def _wake(self) -> None:
        if self._woken:
            return
        self._woken = True
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._take_inbox, context=self._context)
        except RuntimeError:  # the loop was closed in between
            self._refuse_inbox()

    def _forbid_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "this is the client's own I/O thread (a future's callback?): waiting here would wait for ever;"
                " use another thread, or submit() without waiting"
            )

    # --- in the thread ------------------------------------------------------------------------------------------

    def _main(self, begun: Future[None]) -> None:
        loop: asyncio.AbstractEventLoop | None = None
        try:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            self._caller = loop.run_until_complete(self._make_caller())
        except BaseException as error:  # no descriptor left, for example
            if loop is not None:
                loop.close()
            begun.set_exception(error)
            return
        self._loop = loop
        begun.set_result(None)
        try:
            self._serve(loop)
        finally:
            self._end(loop)

    async def _make_caller(self) -> Caller:
        caller = Caller(self._settings, self._limits)
        caller.open()
        return caller

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping:
            try:
                loop.run_forever()
            except Exception:  # the loop itself is broken
                log.exception("the client's I/O thread dies")
                return
            except BaseException as error:  # a callback's SystemExit, for example: not ours to die of
                log.error("the client's I/O thread goes on after %r in a callback", error)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Finish what is left, if anything: whoever waits must not wait for ever."""
        if not self._stopping:
            self._die(loop)
        with contextlib.suppress(Exception):
            loop.run_until_complete(loop.shutdown_asyncgens())
        with contextlib.suppress(Exception):
            loop.close()
        self._woken = False  # whoever finds it so from now on finds the loop closed, too
        self._refuse_inbox()

    def _die(self, loop: asyncio.AbstractEventLoop) -> None:
        """End every call without a loop to rely on."""
        assert self._caller is not None
        self._dead = True
        try:
            loop.run_until_complete(self._caller.close())
        except Exception:
            closing = self._caller.close()  # its first step ends all calls, and needs no loop
            with contextlib.suppress(Exception, StopIteration):
                closing.send(None)
            closing.close()

    def _begin_closing(self) -> None:
        if self._closing is None:
            assert self._caller is not None
            self._closing = self._caller.loop.create_task(self._caller.close())
            self._closing.add_done_callback(self._stop)

    def _stop(self, closing: asyncio.Task[None]) -> None:
        if not closing.cancelled() and closing.exception() is not None:
            log.error("the client's connection could not be closed", exc_info=closing.exception())
        self._stopping = True
        closing.get_loop().stop()

    def _take_inbox(self) -> None:
        # Cleared before looking: what is put in later either is seen now or wakes the loop again.
        self._woken = False
        inbox = self._inbox
        while inbox:
            self._take(inbox.popleft())

    def _take(self, request: Request) -> None:
        assert self._caller is not None
        if request.given_up:
            request.give_up(self._caller)
            return
        try:
            request.begin(self._caller)
        except BaseException as error:  # the caller's to hear, not the loop's
            request.finish(error)

    def _refuse_inbox(self) -> None:
        with contextlib.suppress(IndexError):  # another thread may do the same
            while self._inbox:
                request = self._inbox.popleft()
                if not request.given_up:
                    request.finish(self._why_refused())

    def _why_refused(self) -> CallError:
        return closed_error() if self._closed else _dead_error()


def _dead_error() -> CallError:
    return evidence.conclude(evidence.NO_IO_THREAD, "the client's I/O thread has died: make a new client")
