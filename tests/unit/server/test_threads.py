"""Worker threads. Everything here waits for events, with a limit only to fail instead of hanging."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest

from warren.server.threads import WorkerThreads

PATIENCE = 60.0
_numbers = itertools.count(1)


class Pool:
    """Threads with a name of their own, and what their jobs returned."""

    def __init__(self, limit: int) -> None:
        self.name = f"pool{next(_numbers)}"
        self.results: list[Any] = []
        self.collected_in: set[int] = set()
        self._arrival = asyncio.Event()
        self._workers = WorkerThreads(limit, self.name)
        self.gate = threading.Event()

    def run(self, job: Callable[[], Any]) -> None:
        self._workers.run(copy_context(), job, self._on_done)

    def _on_done(self, value: Any) -> None:
        self.results.append(value)
        self.collected_in.add(threading.get_ident())
        self._arrival.set()

    async def collect(self, count: int) -> list[Any]:
        """Wait until so many results have arrived."""
        async with asyncio.timeout(PATIENCE):
            while len(self.results) < count:
                self._arrival.clear()
                await self._arrival.wait()
        return self.results

    def blocked(self, begun: Callable[[], object] = lambda: None) -> Callable[[], str]:
        """A job that waits for the gate and returns its thread's name."""

        def job() -> str:
            begun()
            assert self.gate.wait(PATIENCE)
            return threading.current_thread().name

        return job

    def threads(self) -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith(f"{self.name}-")]

    def close(self) -> None:
        self._workers.close()

    def end(self) -> None:
        self.gate.set()
        self.close()
        for thread in self.threads():
            thread.join(PATIENCE)


MakePool = Callable[[int], Pool]


@pytest.fixture
async def make_pool() -> Any:
    """Makes pools; their threads have ended when the test has."""
    pools: list[Pool] = []

    def make(limit: int) -> Pool:
        pools.append(Pool(limit))
        return pools[-1]

    yield make
    for pool in pools:
        pool.end()


async def test_a_job_runs_in_a_thread_of_the_pool(make_pool: MakePool) -> None:
    pool = make_pool(2)
    pool.run(lambda: threading.current_thread().name)
    assert await pool.collect(1) == [f"{pool.name}-1"]


async def test_a_result_arrives_on_the_event_loop(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.run(lambda: None)
    await pool.collect(1)
    assert pool.collected_in == {threading.get_ident()}


async def test_every_jobs_result_arrives_once(make_pool: MakePool) -> None:
    pool = make_pool(4)
    for number in range(200):
        pool.run(partial(abs, -number))
    assert sorted(await pool.collect(200)) == list(range(200))


async def test_each_result_goes_where_its_job_wants_it() -> None:
    workers = WorkerThreads(2, "two")
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[str]] = [loop.create_future(), loop.create_future()]
    workers.run(copy_context(), lambda: "a", futures[0].set_result)
    workers.run(copy_context(), lambda: "b", futures[1].set_result)
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*futures) == ["a", "b"]
    workers.close()


async def test_no_thread_runs_before_there_is_a_job(make_pool: MakePool) -> None:
    assert make_pool(4).threads() == []


async def test_jobs_run_side_by_side_up_to_the_limit(make_pool: MakePool) -> None:
    pool = make_pool(3)
    together = threading.Barrier(3)
    for _ in range(3):
        pool.run(lambda: together.wait(PATIENCE))
    assert sorted(await pool.collect(3)) == [0, 1, 2]


async def test_there_are_never_more_threads_than_the_limit(make_pool: MakePool) -> None:
    pool = make_pool(2)
    for _ in range(5):
        pool.run(pool.blocked())
    assert len(pool.threads()) == 2
    pool.gate.set()
    assert set(await pool.collect(5)) <= {f"{pool.name}-1", f"{pool.name}-2"}


async def test_a_job_beyond_the_limit_waits_for_a_thread(make_pool: MakePool) -> None:
    pool, begun = make_pool(1), threading.Event()
    pool.run(pool.blocked(begun.set))
    pool.run(pool.gate.is_set)
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    pool.gate.set()
    assert (await pool.collect(2))[1] is True


async def test_an_idle_thread_is_used_again(make_pool: MakePool) -> None:
    pool = make_pool(8)
    for number in range(5):
        pool.run(lambda: None)
        await pool.collect(number + 1)
    assert len(pool.threads()) == 1


async def test_jobs_of_one_thread_run_in_order(make_pool: MakePool) -> None:
    pool = make_pool(1)
    for number in range(20):
        pool.run(partial(int, number))
    assert await pool.collect(20) == list(range(20))


async def test_closing_lets_jobs_finish_and_threads_end(make_pool: MakePool) -> None:
    pool = make_pool(2)
    for _ in range(4):
        pool.run(pool.blocked())
    threads = pool.threads()
    pool.close()
    pool.gate.set()
    await pool.collect(4)
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


async def test_threads_do_not_keep_the_process_alive(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.run(pool.blocked())
    assert all(thread.daemon for thread in pool.threads())


@pytest.fixture
def thread_errors() -> Iterator[list[str]]:
    """What threads died of."""
    errors: list[str] = []
    hook, threading.excepthook = threading.excepthook, lambda args: errors.append(repr(args.exc_value))
    yield errors
    threading.excepthook = hook


def test_a_job_that_outlives_the_loop_ends_its_thread_in_silence(thread_errors: list[str]) -> None:
    async def start() -> Pool:
        pool = Pool(1)
        pool.run(pool.blocked())
        return pool

    pool = asyncio.run(start())
    [thread] = pool.threads()
    pool.gate.set()
    thread.join(PATIENCE)
    assert (thread.is_alive(), thread_errors) == (False, [])
