"""Signals that reach this process and its children, sent for real."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from warren.server.signals import ECHO, Signals

# pytest-xdist has a thread, and from Python 3.12 on a fork beside one is warned of: the children use none of its locks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

STOPS = (signal.SIGTERM, signal.SIGINT)


class Wishes:
    """What `Signals` reported, and the clock that it reads."""

    def __init__(self) -> None:
        self.stops: list[int] = []
        self.hurries: list[int] = []
        self.others: list[str] = []
        self.now = 0.0
        self.news = asyncio.Event()

    def taken(self) -> Signals:
        return Signals(
            self._stop,
            hurry=self.hurries.append,
            others={signal.SIGHUP: lambda: self.others.append("SIGHUP")},
            clock=lambda: self.now,
        )

    def _stop(self, number: int) -> None:
        self.stops.append(number)
        self.news.set()

    async def told(self) -> None:
        async with asyncio.timeout(20):
            await self.news.wait()


@pytest.fixture
async def wishes() -> Wishes:
    return Wishes()


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    """All that was taken over is given back, whatever the test did."""
    before = [signal.getsignal(number) for number in (*STOPS, signal.SIGHUP)]
    yield
    assert [signal.getsignal(number) for number in (*STOPS, signal.SIGHUP)] == before
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    assert wakeup == -1


@pytest.mark.parametrize("number", STOPS)
async def test_the_first_signal_asks_for_a_stop(wishes: Wishes, number: int) -> None:
    with wishes.taken():
        os.kill(os.getpid(), number)
        await wishes.told()
    assert (wishes.stops, wishes.hurries) == ([number], [])


async def test_the_same_signal_soon_after_is_an_echo_of_it(wishes: Wishes) -> None:
    with wishes.taken():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        wishes.now += ECHO * 0.99
        os.kill(os.getpid(), signal.SIGTERM)
        await wishes.told()
    assert (wishes.stops, wishes.hurries) == ([signal.SIGTERM], [])


async def test_the_same_signal_later_hurries(wishes: Wishes) -> None:
    with wishes.taken():
        os.kill(os.getpid(), signal.SIGTERM)
        wishes.now += ECHO
        os.kill(os.getpid(), signal.SIGTERM)
        await wishes.told()
    assert (wishes.stops, wishes.hurries) == ([signal.SIGTERM], [signal.SIGTERM])


async def test_another_signal_hurries_at_once_though_the_loop_does_not_turn(wishes: Wishes) -> None:
    with wishes.taken():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert wishes.hurries == [signal.SIGINT]


async def test_a_signal_that_a_thread_gets_wakes_the_loop(wishes: Wishes) -> None:
    with wishes.taken():
        sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        sender.start()
        await wishes.told()  # by then the loop sleeps in its selector
        sender.join()
    assert wishes.stops == [signal.SIGTERM]


async def test_other_signals_do_what_was_said_and_count_for_nothing(wishes: Wishes) -> None:
    with wishes.taken():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        await wishes.told()
    assert (wishes.others, wishes.stops, wishes.hurries) == (["SIGHUP"], [signal.SIGTERM], [])


async def test_what_was_ignored_stays_ignored_unless_it_is_a_stop(wishes: Wishes) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with wishes.taken():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_handlers_of_others_are_given_back_and_those_that_came_later_are_left(wishes: Wishes) -> None:
    def mine(_number: int, _frame: Any) -> None: ...

    before = [signal.signal(number, mine) for number in STOPS]
    try:
        with wishes.taken():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # somebody takes it over from us
        assert [signal.getsignal(number) for number in STOPS] == [mine, signal.SIG_IGN]
    finally:
        for number, handler in zip(STOPS, before, strict=True):
            signal.signal(number, handler)


async def test_in_another_thread_it_says_where_signals_are() -> None:
    async def take() -> None:
        with Wishes().taken():
            pass

    with pytest.raises(RuntimeError, match=r"main thread only.*server\.serve\(\).*server\.stop"):
        await asyncio.to_thread(asyncio.run, take())


# --- children ---------------------------------------------------------------------------------------------------------


def _sleep() -> None:
    time.sleep(60)


def ends_of(process: Any, number: int) -> int:
    os.kill(process.pid, number)
    process.join(20)
    return int(process.exitcode)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
async def test_a_child_of_multiprocessing_is_ended_by_its_own_sigterm_and_nobody_else_is_told(
    wishes: Wishes, method: str
) -> None:
    with wishes.taken():
        process = multiprocessing.get_context(method).Process(target=_sleep)  # type: ignore[attr-defined]
        await asyncio.to_thread(process.start)
        code = await asyncio.to_thread(ends_of, process, signal.SIGTERM)
        assert (code, wishes.stops) == (-signal.SIGTERM, [])
        os.kill(os.getpid(), signal.SIGTERM)
        await wishes.told()
    assert wishes.stops == [signal.SIGTERM]


def in_a_fork(work: Callable[[], None]) -> int:
    """Fork, do something in the child, and return its exit code: negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_forked_child_has_default_signals(wishes: Wishes, number: int) -> None:
    with wishes.taken():
        assert in_a_fork(lambda: os.kill(os.getpid(), number)) == -number
        assert in_a_fork(lambda: os._exit(-signal.set_wakeup_fd(-1))) == 1
        await asyncio.sleep(0)
    assert (wishes.stops, wishes.others) == ([], [])


async def test_ctrl_c_in_a_forked_child_is_a_keyboard_interrupt(wishes: Wishes) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            os._exit(7)

    with wishes.taken():
        assert in_a_fork(work) == 7


async def test_a_signal_that_comes_with_the_fork_is_not_lost(wishes: Wishes) -> None:
    with wishes.taken():
        assert {_fork_and_terminate() for _ in range(50)} == {-signal.SIGTERM}
        await asyncio.sleep(0)
    assert wishes.stops == []


def _fork_and_terminate() -> int:
    child = os.fork()
    if child == 0:
        _sleep()
        os._exit(0)
    os.kill(child, signal.SIGTERM)  # perhaps before the child has had its first turn
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def test_a_fork_holds_no_signal_back_afterwards(wishes: Wishes) -> None:
    def work() -> None:
        os._exit(len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with wishes.taken():
        assert in_a_fork(work) == len(before)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


async def test_a_child_that_leaves_the_block_gives_nothing_back_twice(wishes: Wishes) -> None:
    signals = wishes.taken()

    def work() -> None:
        signals.__exit__()
        os._exit(0 if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else 1)

    with signals:
        assert in_a_fork(work) == 0


_FORKED_IN_C = """
import asyncio, ctypes, os, signal, sys, time
from warren.server.signals import Signals

async def main():
    told = []
    with Signals(told.append):
        child = ctypes.PyDLL(None).fork()  # as uWSGI forks: Python's hooks do not run
        if child == 0:
            while True:
                time.sleep(0.01)
        os.kill(child, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        await asyncio.sleep(0.05)
        print(code, told)

asyncio.run(main())
"""


def test_a_child_that_c_code_has_forked_is_ended_by_its_own_sigterm_and_nobody_else_is_told() -> None:
    run = subprocess.run([sys.executable, "-c", _FORKED_IN_C], capture_output=True, text=True, timeout=60)
    assert (run.stdout.strip(), run.stderr) == (f"{-signal.SIGTERM} []", "")


async def test_a_program_started_meanwhile_has_default_signals(wishes: Wishes) -> None:
    program = "import signal; print(*(int(signal.getsignal(n) == signal.SIG_DFL) for n in (1, 15)))"
    with wishes.taken():
        run = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
        )
    assert run.stdout.strip() == "1 1"
