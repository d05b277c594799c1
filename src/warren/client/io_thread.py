"""The thread in which the blocking client's event loop runs.

An `IOThread` has one life in one process: it is started once, by its first use, and ends once.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future
from contextvars import Context, copy_context
from typing import Any

from warren.client.chain import Chained
from warren.client.core import ClientCore
from warren.client.core_loop import CoreLoop, Request, dead_error
from warren.client.greenlets import forbid_late_patch, forbid_second_loop
from warren.client.options import Limits
from warren.client.requests import Target
from warren.client.statistics import ClientStatistics
from warren.client.waiters import Waiting, WaitingCall, WaitingForTask, Withdrawal, result_of
from warren.connection.settings import Settings
from warren.connection.supervisor import closed_error
from warren.logs import get_logger
from warren.protocol import evidence
from warren.protocol.running import Running

log = get_logger("warren.client")

#: Seconds after a call's deadline at which its thread stops believing in the I/O thread.
_GRACE = 5.0
#: Seconds between two looks of a waiting thread at whether the I/O thread is alive.
_LOOK = 1.0
#: Seconds that closing may take: more than `ClientCore.close` needs, so that only a blocked I/O thread takes longer.
_CLOSE_LIMIT = 10.0


class IOThread:
    """A `CoreLoop` in a daemon thread."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._calls = CoreLoop(settings, limits)
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def statistics(self) -> ClientStatistics:
        return self._calls.statistics

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
        self._run_task(WaitingForTask(ClientCore.connected), float("inf"))

    def run(self, target: Target, body: bytes, deadline: float, running: Running | None = None) -> Any:
        """Start a request and wait in this thread for its outcome, whatever it is.

        It is withdrawn when the caller of the `running` call, for which it is made, gives up.
        """
        self.forbid_own_thread()
        waiting = WaitingCall(target, body, deadline)
        self.start(waiting)
        if running is None or running.ended:
            self._wait(waiting, deadline + _GRACE)
        else:
            self._wait_within(running, waiting, Withdrawal(waiting), deadline + _GRACE)
        return waiting.outcome

    def take(self, taking: Waiting, withdrawal: Withdrawal, deadline: float, running: Running | None) -> Any:
        """Wait in this thread for what a stream brings next; it is withdrawn as a call is.

        What came before the deadline may be asked for when that has long passed.
        """
        self.forbid_own_thread()
        self.start(taking)
        until = max(deadline, time.monotonic()) + _GRACE
        if running is None or running.ended:
            self._wait(taking, until)
        else:
            self._wait_within(running, taking, withdrawal, until)
        return taking.outcome

    def _wait_within(self, running: Running, waiting: Waiting, withdrawal: Withdrawal, until: float) -> None:
        forget = running.on_cancelled(lambda: self._calls.put(withdrawal))
        try:
            self._wait(waiting, until)
        finally:
            forget()

    def run_chained(self, chained: Chained) -> Any:
        """Make a call through middleware, and wait in this thread for its result."""
        waiting = WaitingForTask(chained.run_alone, copy_context(), chained.locate)
        return self._run_task(waiting, chained.deadline + _GRACE)

    def _run_task(self, waiting: WaitingForTask, until: float) -> Any:
        self.forbid_own_thread()
        self.start(waiting)
        self._wait(waiting, until)
        return result_of(waiting.outcome)

    def start(self, request: Request) -> None:
        """Hand a request to the I/O thread, which finishes it in any case."""
        if not self._calls.is_open:
            self.open()
        if sys.is_finalizing():
            raise evidence.conclude(
                evidence.NO_IO_THREAD, "the interpreter is ending, and its other threads stand still: call earlier"
            )
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
            forbid_late_patch()
            thread.start()
            begun.result()
        except Exception as error:
            message = f"the client's I/O thread cannot be started: {error}; raise the limit of threads, or have fewer"
            raise evidence.conclude(evidence.NO_IO_THREAD, message) from error
        return thread

    def _wait(self, waiting: Waiting, until: float) -> None:
        """Wait for an outcome, which comes by its deadline; unless the thread that brings it is dead or blocked."""
        try:
            while not waiting.wait(max(0.0, min(_LOOK, until - time.monotonic()))):
                alive = self._thread is not None and self._thread.is_alive()
                if alive and time.monotonic() < until:
                    continue
                if not waiting.wait(0.0):
                    problem = (
                        "does not answer: does a future's callback block it?"
                        if alive
                        else "has died: make a new client"
                    )
                    error = evidence.conclude(evidence.IO_THREAD, f"the client's I/O thread {problem}")
                    waiting.locate(error)
                    raise error
                return
        except BaseException:  # KeyboardInterrupt: nobody will take the outcome
            self.give_up(waiting)
            raise

    def forbid_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "this is the client's own I/O thread (a future's callback, or middleware?): waiting here would wait"
                " for ever; use another thread, or submit() without waiting"
            )

    def _main(self, begun: Future[None]) -> None:
        try:
            forbid_second_loop()
            self._calls.prepare()
        except BaseException as error:
            begun.set_exception(error)
            return
        begun.set_result(None)
        self._calls.run()
