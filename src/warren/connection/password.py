"""Asking for the password, where it is a function's to give."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from warren.connection.errors import ConnectFailed
from warren.connection.fork import disown_in_children
from warren.connection.settings import Password
from warren.protocol import evidence

#: Threads that may wait for an answer at a time.
_THREADS = 32


async def ask(password: Password) -> str:
    """The password to log in with now.

    A plain function is called in a thread, as it may read a file or ask a service, and the loop must go on meanwhile;
    an async function is awaited on the loop.

    Raises:
        ConnectFailed: the function raised, which may pass; or it returned no password, which will not.
    """
    if isinstance(password, str):
        return password
    try:
        given = await _call(password)
    except Exception as error:  # the user's function: whatever it raises, it may work the next time
        raise _unavailable(error) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise _unavailable(error) from error  # raised by the function itself
    if not isinstance(given, str):
        message = f"the password function returned {_kind(given)}: it must return a str, or be an async function of one"
        raise ConnectFailed(evidence.conclude(evidence.PASSWORD, message), permanent=True)
    return given


def _unavailable(error: BaseException) -> ConnectFailed:
    return ConnectFailed(evidence.conclude(evidence.NOT_CONNECTED, f"the password function failed: {error!r}; mend it"))


def _kind(given: object) -> str:
    return "None" if given is None else f"an object of type {type(given).__name__}"


async def _call(function: Callable[[], Any]) -> Any:
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        return await function()
    given, error = await asyncio.wrap_future(_threads.call(function))
    if error is not None:
        raise error
    return await given if inspect.isawaitable(given) else given


class _Threads:
    """The threads that ask: a bounded number, as a function may never answer."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(_THREADS)

    def disown(self) -> None:
        """In a forked child: the threads, and who holds the semaphore's lock, are not here."""
        self.__init__()  # type: ignore[misc]

    def call(self, function: Callable[[], Any]) -> concurrent.futures.Future[tuple[Any, Exception | None]]:
        """What the function gives or raises. The future never fails, as some exceptions cannot be a future's."""
        if not self._free.acquire(blocking=False):
            raise RuntimeError(
                f"{_THREADS} earlier calls of password functions have not returned yet: give them a time limit"
            )
        answer: concurrent.futures.Future[tuple[Any, Exception | None]] = concurrent.futures.Future()
        answer.set_running_or_notify_cancel()
        target = functools.partial(self._run, function, answer, self._free)
        threading.Thread(target=target, name="warren-password", daemon=True).start()
        return answer

    @staticmethod
    def _run(
        function: Callable[[], Any],
        answer: concurrent.futures.Future[tuple[Any, Exception | None]],
        free: threading.Semaphore,
    ) -> None:
        given, error = None, None
        try:
            given = function()
        except Exception as raised:
            error = raised
        except BaseException as raised:  # SystemExit, for example: it ends this thread only
            error = RuntimeError(repr(raised))
        free.release()
        answer.set_result((given, error))


_threads = _Threads()
disown_in_children(_threads)
