"""Functions that ask the world outside and may never return: each call has a daemon thread of its own.

An executor's threads would do as well while all is fine. But Python waits for them when it ends: a process would stay
until the last name server has given up, and for ever in a child that C code has forked (uWSGI), where they do not run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from warren.connection.fork import disown_in_children

Answer = Future[tuple[Any, Exception | None]]


class Outside:
    """Threads that ask: a bounded number at a time."""

    def __init__(self, what: str, limit: int = 32) -> None:
        """`what` is asked, for names of threads and errors."""
        self._what, self._limit = what, limit
        self._free = threading.Semaphore(limit)
        disown_in_children(self)

    def disown(self) -> None:
        """In a forked child: the threads, and who holds the semaphore's lock, are not here."""
        self._free = threading.Semaphore(self._limit)

    async def ask(self, function: Callable[[], Any]) -> Any:
        """What the function returns or raises; cancelled, it goes on in its thread and nobody hears of it.

        Raises:
            RuntimeError: too many calls have not returned yet; or the function raised what ends a thread or a loop.
        """
        if not self._free.acquire(blocking=False):
            raise RuntimeError(f"{self._limit} earlier {self._what} have not returned yet: give them a time limit")
        answer: Answer = Future()
        answer.set_running_or_notify_cancel()
        try:
            self._thread(function, answer).start()
        except BaseException:
            self._free.release()
            raise
        given, error = await asyncio.wrap_future(answer)
        if error is not None:
            raise error
        return given

    def _thread(self, function: Callable[[], Any], answer: Answer) -> threading.Thread:
        name = f"warren-{self._what.replace(' ', '-')}"
        return threading.Thread(target=_run, args=(function, answer, self._free), name=name, daemon=True)


def _run(function: Callable[[], Any], answer: Answer, free: threading.Semaphore) -> None:
    """Answer with a value or an error, and never as a failed future, as some exceptions cannot be a future's."""
    given, error = None, None
    try:
        given = function()
    except Exception as raised:
        error = raised
    except BaseException as raised:  # SystemExit, for example: it ends this thread only
        error = RuntimeError(repr(raised))
    free.release()
    answer.set_result((given, error))
