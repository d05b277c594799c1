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
from queue import SimpleQueue
from typing import Any

Job = Callable[[], Any]
OnDone = Callable[[Any], None]


class WorkerThreads:
    """Up to `limit` daemon threads, started when they are needed."""

    def __init__(self, limit: int, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._name = name
        self._jobs: SimpleQueue[tuple[Job, OnDone] | None] = SimpleQueue()
        self._finished: deque[tuple[OnDone, Any]] = deque()
        self._woken = False
        self._threads = 0
        self._unfinished = 0

    def run(self, job: Job, on_done: OnDone) -> None:
        """Run `job`, which must not raise, in a thread; what it returns goes to `on_done` on the event loop."""
        self._unfinished += 1
        if self._unfinished > self._threads and self._threads < self._limit:
            self._threads += 1
            name = f"{self._name}-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._jobs.put((job, on_done))

    def close(self) -> None:
        """Let the threads end once their jobs are done."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, on_done = entry
            self._finished.append((on_done, job()))
            if not self._woken:
                self._woken = True
                try:
                    self._loop.call_soon_threadsafe(self._collect)
                except RuntimeError:  # the loop was closed under a handler that outlived the drain
                    return

    def _collect(self) -> None:
        # Cleared before looking: a result that comes later either is seen now or wakes the loop again.
        self._woken = False
        finished = self._finished
        while finished:
            self._unfinished -= 1
            on_done, value = finished.popleft()
            on_done(value)
