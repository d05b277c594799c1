"""The thread in which the blocking client's event loop runs, and what waits for it in other threads.

An `IOThread` has one life in one process: it is started once, by its first use, and ends once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from concurrent.futures import Future, InvalidStateError
from contextvars import Context
from typing import Any

from warren.client.calls import PendingCall
from warren.client.core import ClientCore
from warren.client.core_loop import CoreLoop, Request, dead_error
from warren.client.options import Limits
from warren.client.requests import Target
from warren.client.target import read_result
from warren.connection.settings import Settings
from warren.connection.supervisor import closed_error
from warren.logs import get_logger
from warren.protocol import evidence

log = get_logger("warren.client")

#: Seconds after a call's deadline at which its thread stops believing in the I/O thread.
_GRACE = 5.0
#: Seconds between two looks of a waiting thread at whether the I/O thread is alive.
_LOOK = 1.0
#: Seconds that closing may take: more than `ClientCore.close` needs, so that only a blocked I/O thread takes longer.
_CLOSE_LIMIT = 10.0


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

    def begin(self, core: ClientCore) -> None:
        body, self._body = self._body, b""
        self._call = core.start(self._target, body, self._deadline, self)

    def give_up(self, core: ClientCore) -> None:
        if self._call is not None:
            core.cancel(self._call)

    def finish(self, outcome: Any) -> None:
        self._call = None
        super().finish(outcome)


class _WaitingForConnection(_Waiting):
    """A thread that waits for the connection."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        super().__init__()
        self._task: asyncio.Task[None] | None = None

    def begin(self, core: ClientCore) -> None:
        self._task = core.loop.create_task(core.connected())
        self._task.add_done_callback(self._done)

    def give_up(self, core: ClientCore) -> None:
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

    def begin(self, core: ClientCore) -> None:
        body, self._body = self._body, b""
        self._call = core.start(self._target, body, self._deadline, self)

    def give_up(self, core: ClientCore) -> None:
        if self._call is not None:
            core.cancel(self._call)

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
    """A `CoreLoop` in a daemon thread."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._calls = CoreLoop(settings, limits)
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def ignored_replies(self) -> int:
        return self._calls.ignored_replies

    @property
    def is_open(self) -> bool:
        """Whether there is anything that `close` would end."""
        return self._calls.is_open

    def open(self) -> None:
        """Start the thread, once.

        Raises:
            Cancelled: it is closed.
            CallError: it cannot be started, or has died.
        """
        with self._start_lock:
            if self._calls.closed:
                raise closed_error()
            if self._thread is None:
                self._thread = self._begin()
            if self._calls.dead:
                raise dead_error()

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
        if not self._calls.is_open:
            self.open()
        if sys.is_finalizing():
            raise evidence.conclude(evidence.NO_IO_THREAD, "the interpreter is ending: its other threads stand still")
        self._calls.put(request)

    def give_up(self, request: Request) -> None:
        """Nobody waits for a request any more; its `finish` may still be called."""
        request.given_up = True
        self._calls.put(request)

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
        """Begin to close, without waiting: see `CoreLoop.close`."""
        self._calls.close()

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

    def _forbid_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "this is the client's own I/O thread (a future's callback?): waiting here would wait for ever;"
                " use another thread, or submit() without waiting"
            )

    def _main(self, begun: Future[None]) -> None:
        try:
            self._calls.prepare()
        except BaseException as error:
            begun.set_exception(error)
            return
        begun.set_result(None)
        self._calls.run()
