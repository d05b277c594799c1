"""Tasks that somebody owns: kept while they run, as a loop holds its tasks weakly, and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any


class Tasks:
    """The tasks of one owner."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """They run on `loop`; without one, on that which runs when each is started."""
        self._loop = loop
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], context: Context | None = None) -> asyncio.Task[Any]:
        """Start a task; with a context of its own, unless one is given: it belongs to no call."""
        task = (self._loop or asyncio.get_running_loop()).create_task(work, context=context or Context())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def cancel(self) -> None:
        """Cancel all of them."""
        for task in self._running:
            task.cancel()

    async def ended(self, patience: float | None = None) -> None:
        """Wait until they have ended, in whatever way; `patience` seconds at most, as users' code may run in them."""
        if self._running:
            done, _ = await asyncio.wait(self._running, timeout=patience)
            for task in done:
                if not task.cancelled():
                    task.exception()  # else asyncio would complain that nobody has asked
