"""Waiting for what another process or the broker does: bounded polls, never a sleep that has to be long enough."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")

#: Seconds for what takes less than one on a quiet machine; only a test that fails waits so long.
PATIENCE = 60.0
#: Seconds by which a call may outlive its deadline. Warren promises 0.5; the rest is for machines that are busy with
#: other things while they test, the parallel workers of this suite among them.
LATE = 5.0


async def until(condition: Callable[[], T | None], *, seconds: float = PATIENCE) -> T:
    """Poll until the condition gives something true; return it."""
    async with asyncio.timeout(seconds):
        while not (value := condition()):
            await asyncio.sleep(0.01)
    return value


async def within(awaited: Awaitable[T], what: str, *, seconds: float = PATIENCE) -> T:
    """The result of this, which is bound to come."""
    try:
        async with asyncio.timeout(seconds):
            return await awaited
    except TimeoutError as error:
        raise AssertionError(f"waited {seconds:g} s in vain for {what}") from error


async def in_thread(work: Callable[[], T]) -> T:
    """`asyncio.to_thread` with a thread of its own, as the pool may be smaller than what it has to hold."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            finish = partial(done.set_result, work())
        except BaseException as error:
            finish = partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(lambda: None if done.done() else finish())

    threading.Thread(target=run, name=f"test {work}", daemon=True).start()
    return await done


def until_ended(thread: threading.Thread) -> None:
    """Return once the thread has ended."""
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"waited {PATIENCE:g} s in vain for the end of {thread.name}"
