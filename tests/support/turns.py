"""Threads of which one runs at a time, each until it would wait: so what they do is the same each time it is done.

They are real ones, for code that waits in its own frames; but they go on only when `ThreadsInTurn.step` lets them, and
what they wait for, and for how long, goes by a clock that a test moves. `stand_in` is for the name `threading` in the
modules under test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context
from types import SimpleNamespace
from typing import Any

from tests.support.virtual_time import Clock
from warren.server.threads import JobFailed

#: Seconds, of the wall clock, after which a thread that neither ends nor waits is taken for stuck.
_STUCK = 60.0


class Stopped(BaseException):
    """Ends a thread that waits when its test is over."""


class _Thread:
    def __init__(self, work: Callable[[], object]) -> None:
        self.go = threading.Semaphore(0)
        self.ready: Callable[[], bool] = lambda: True
        self.until: float | None = None
        self.hesitates = False
        self.ended = False
        self.work = work
        self.error: BaseException | None = None


class ThreadsInTurn:
    """All threads of one test.

    Attributes:
        hesitant: whether each of them gives way before it takes a lock, until it is urged.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._threads: list[_Thread] = []
        self._back = threading.Semaphore(0)
        self._stopping = False
        self.running: _Thread | None = None
        self.hesitant = False

    @property
    def stand_in(self) -> SimpleNamespace:
        """For the module `threading`."""
        return SimpleNamespace(
            Condition=lambda: Condition(self),
            Lock=lambda: Lock(self),
            Thread=lambda target, name, daemon: SimpleNamespace(start=lambda: self.start(target)),
        )

    def start(self, work: Callable[[], object]) -> None:
        """Have a thread do it, from its next step on."""
        thread = _Thread(work)
        self._threads.append(thread)
        threading.Thread(target=self._main, args=(thread,), daemon=True).start()

    def _main(self, thread: _Thread) -> None:
        thread.go.acquire()
        try:
            if not self._stopping:
                thread.work()
        except Stopped:
            pass
        except BaseException as error:
            thread.error = error
        finally:
            thread.ended = True
            self._back.release()

    def step(self) -> bool:
        """Let one go on that can, until it waits again; whether there was one."""
        for thread in self._threads:
            if self._may_go(thread):
                self._threads.remove(thread)  # the others are first from now on
                self._let(thread)
                return True
        return False

    def _may_go(self, thread: _Thread) -> bool:
        if thread.hesitates:
            return not self.hesitant
        return thread.ready() or (thread.until is not None and thread.until <= self._clock.now)

    def urge(self, which: int) -> bool:
        """Let one that hesitates go on; whether there was one."""
        waiting = [thread for thread in self._threads if thread.hesitates]
        if waiting:
            thread = waiting[which % len(waiting)]
            self._threads.remove(thread)
            self._let(thread)
        return bool(waiting)

    def _let(self, thread: _Thread) -> None:
        self.running = thread
        thread.go.release()
        if not self._back.acquire(timeout=_STUCK):
            raise AssertionError("a thread neither ends nor waits")
        self.running = None
        if not thread.ended:
            self._threads.append(thread)
        elif thread.error is not None:
            raise thread.error

    @property
    def due(self) -> float | None:
        """When the first of them has waited for long enough."""
        return min((t.until for t in self._threads if t.until is not None and not t.hesitates), default=None)

    @property
    def alive(self) -> int:
        """How many have not ended."""
        return len(self._threads)

    def stop(self) -> None:
        """End all of them."""
        self._stopping, self.hesitant = True, False
        for _ in range(1000):
            if not self._threads:
                return
            self._let(self._threads.pop(0))
        raise AssertionError("threads do not end")

    # --- in one of them -----------------------------------------------------------------------------------------

    def wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Give way until this is so, or for so long; whether it is so."""
        if self.running is None:
            raise AssertionError("the event loop would stand still here")
        self.running.ready = ready
        self.running.until = None if timeout is None else self._clock.now + timeout
        self._give_way(self.running)
        return ready()

    def hesitate(self) -> None:
        """Before a lock is taken."""
        thread = self.running
        if thread is not None and self.hesitant:
            thread.hesitates = True
            self._give_way(thread)
            thread.hesitates = False

    def _give_way(self, thread: _Thread) -> None:
        if self._stopping:
            raise Stopped
        self._back.release()
        thread.go.acquire()
        if self._stopping:
            raise Stopped


class Condition:
    """Stands for `threading.Condition`."""

    def __init__(self, threads: ThreadsInTurn) -> None:
        self._threads = threads
        self._owner: object = None
        self._depth = 0
        self._told = 0

    def __enter__(self) -> bool:
        me = self._threads.running or "the loop"
        if self._owner is not me:
            self._threads.hesitate()
            if self._owner is not None:
                self._threads.wait(lambda: self._owner is None)
            self._owner = me
        self._depth += 1
        return True

    def __exit__(self, *_error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def wait(self, timeout: float | None = None) -> bool:
        owner, depth, told = self._owner, self._depth, self._told
        assert owner is not None, "a condition is waited for without its lock"
        self._owner, self._depth = None, 0
        came = self._threads.wait(lambda: self._told != told and self._owner is None, timeout)
        self._owner, self._depth = owner, depth
        return came

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        until = None if timeout is None else self._threads._clock.now + timeout
        while not (found := predicate()):
            left = None if until is None else until - self._threads._clock.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return found

    def notify_all(self) -> None:
        assert self._owner is not None
        self._told += 1


class Lock:
    """Stands for `threading.Lock`."""

    def __init__(self, threads: ThreadsInTurn) -> None:
        self._threads = threads
        self._taken = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._taken:
            if not blocking or timeout == 0.0:
                return False
            if not self._threads.wait(lambda: not self._taken, None if timeout < 0 else timeout):
                return False
        self._taken = True
        return True

    def release(self) -> None:
        assert self._taken
        self._taken = False

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()


class WorkersThreads:
    """Stands for `WorkerThreads`, with threads of these."""

    def __init__(self, threads: ThreadsInTurn, loop: Any) -> None:
        self._threads = threads
        self._loop = loop
        self.limit = 0

    def run(self, context: Context, job: Callable[[], Any], on_done: Callable[[Any], None]) -> None:
        def work() -> None:
            try:
                result = context.run(job)
            except Stopped:
                raise
            except BaseException as error:
                result = JobFailed(error)
            self._loop.call_soon_threadsafe(on_done, result)

        self._threads.start(work)

    def close(self) -> None:
        pass
