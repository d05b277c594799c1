"""Worker threads for ``def`` handlers.

Not `concurrent.futures`: its future per job, each with a lock and a condition, and one wake-up of the event loop per
result, cost more than the rest of a call. Here results are collected and the loop is woken once for all that finished
since it last looked.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Any, Final

from warren.logs import get_logger

log: Final = get_logger("warren.server")

Job = Callable[[], Any]
OnDone = Callable[[Any], None]


class JobFailed:
    """What `on_done` gets in place of a result when the job raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class WorkerThreads:
    """Up to `limit` daemon threads, started when they are needed; those that are there stay when it is lowered."""

    def __init__(self, limit: int, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.limit = limit
        self._name = name
        self._jobs: SimpleQueue[tuple[Context, Job, OnDone] | None] = SimpleQueue()
        self._finished: deque[tuple[OnDone, Any]] = deque()
        self._woken = False
        self._closed = False
        self._threads = 0
        self._unfinished = 0

    def run(self, context: Context, job: Job, on_done: OnDone) -> None:
        """Run `job` in a thread and in `context`; its result, or a `JobFailed`, goes to `on_done` on the event loop.

        Raises:
            RuntimeError: there is no thread, and none can be started: the job will not run.
        """
        if self._closed:
            raise RuntimeError("the worker has ended, and its threads with it")
        if self._unfinished >= self._threads and self._threads < self.limit:
            self._start()
        self._unfinished += 1
        self._jobs.put((context, job, on_done))

    def close(self) -> None:
        """Let the threads end once their jobs are done."""
        if not self._closed:
            self._closed = True
            for _ in range(self._threads):
                self._jobs.put(None)

    def _start(self) -> None:
        """Start one more thread. Where that fails the others have to do, if there are any."""
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # a limit of the system: threads or memory
            if not self._threads:
                raise
            return
        self._threads += 1

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            context, job, on_done = entry
            try:
                result = context.run(job)
            except BaseException as error:  # of any class: a thread that ends takes its job along
                result = JobFailed(error)
            self._finished.append((on_done, result))
            del entry, context, job, on_done, result  # nothing of a call is kept while its thread waits for another
            if not self._wake():
                return

    def _wake(self) -> bool:
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:  # the loop was closed under a handler that outlived the drain
                return False
        return True

    def _collect(self) -> None:
        # Cleared before looking: a result that comes later either is seen now or wakes the loop again.
        self._woken = False
        finished = self._finished
        while finished:
            self._unfinished -= 1
            on_done, result = finished.popleft()
            try:
                on_done(result)
            except BaseException as error:  # those behind it must not wait for the next job
                log.exception("taking the result of a thread failed")
                if isinstance(error, KeyboardInterrupt):
                    self._wake()
                    raise
