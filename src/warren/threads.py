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

#: What a thread runs; the value it returns goes, with the job's item, to the loop.
Job = Callable[[], Any]


class WorkerThreads:
    """Up to `limit` daemon threads, started when they are needed."""

    def __init__(self, limit: int, name: str, on_done: Callable[[Any, Any], None]) -> None:
        """`on_done(item, value)` is called on the event loop for each finished job."""
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._name = name
        self._on_done = on_done
        self._jobs: SimpleQueue[tuple[Any, Job] | None] = SimpleQueue()
        self._finished: deque[tuple[Any, Any]] = deque()
        self._woken = False
        self._threads = 0
        self._unfinished = 0

    def run(self, item: Any, job: Job) -> None:
        """Run `job` in a thread. It must not raise."""
        self._unfinished += 1
        if self._unfinished > self._threads and self._threads < self._limit:
            self._threads += 1
            name = f"{self._name}-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._jobs.put((item, job))

    def close(self) -> None:
        """Let the threads end once their jobs are done."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            item, job = entry
            self._finished.append((item, job()))
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
            self._on_done(*finished.popleft())
