"""A test that hangs fails by itself, and says what it waits for; else its whole worker would be ended a while later.

Each of its phases gets half of pytest-timeout's time. A coroutine is cancelled then, so that its traceback shows where
it waits. Whatever is left is interrupted wherever the main thread is, again and again: an event loop swallows what is
raised in its callbacks.
"""

import asyncio
import contextlib
import functools
import inspect
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterator
from types import FrameType
from typing import Any

import pytest

#: Seconds that a coroutine gets to end once it is cancelled, and between two interruptions.
_GRACE = 10.0


def limit_of(item: pytest.Item) -> float:
    """Seconds for each phase of a test; one that is marked as long may take longer."""
    long, usual = item.get_closest_marker("timeout"), item.config.getoption("timeout") or item.config.getini("timeout")
    return max(float(usual or 600), float(long.args[0]) if long else 0.0) / 2


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    with _interrupted_after(limit_of(item) + _GRACE):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    limit = limit_of(item)
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _cancelled_after(limit, item.obj)
    with _interrupted_after(limit + _GRACE):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    with _interrupted_after(limit_of(item) + _GRACE):
        yield


Test = Callable[..., Coroutine[Any, Any, None]]


def _cancelled_after(seconds: float, test: Test) -> Test:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        loop, task, said = asyncio.get_running_loop(), asyncio.current_task(), list[str]()

        def give_up() -> None:
            said.append(f"it hangs: after {seconds:g} s {_who_waits()}")
            assert task is not None
            task.cancel()

        timer = loop.call_later(seconds, give_up)
        try:
            await test(*args, **kwargs)
        except asyncio.CancelledError as error:
            if not said:
                raise
            raise AssertionError(said[0]) from error
        except BaseException as error:  # which the cancel was made into
            for text in said:
                error.add_note(text)
            raise
        finally:
            timer.cancel()

    return run


@contextlib.contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        pytest.fail(f"it hangs: {_who_waits()}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _GRACE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _who_waits() -> str:
    """Where all tasks and the other threads of this process are."""
    loop = asyncio._get_running_loop()
    tasks = [f"{task!r}\n{_stack_of(task)}" for task in asyncio.all_tasks(loop)] if loop else []
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    threads = [
        f"{names.get(ident)}\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    ]
    return "\n".join(["these wait:", *tasks, *threads])


def _stack_of(task: "asyncio.Task[Any]") -> str:
    """Where a task waits, from the outside in: `Task.get_stack` has the outermost line only."""
    lines: list[str] = []
    waits: Any = task.get_coro()
    while (frame := getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None)) is not None:
        lines += traceback.format_list(traceback.StackSummary.extract([(frame, frame.f_lineno)]))
        waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
    return "".join(lines)
