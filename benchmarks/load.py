"""One load for every Python subject: calls in a closed loop, or at a fixed rate, and their latencies.

A peer is a module with a server and a client in two processes. The server prints ``ready ADDRESS`` once it serves.
The client warms up, prints ``ready``, waits for a line on standard input, so that the runner can read the others'
CPU clocks in between, measures, and prints one line of JSON. The C program does the same.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import math
import os
import resource
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

#: Seconds between two batches of an open loop; the C client has the same.
TICK = 0.001
#: Calls that an open loop may have under way: beyond it the rate is too high to measure anything.
OPEN_LIMIT = 65_536

AsyncCall = Callable[[int], Awaitable[None]]
Call = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What a peer is to do: where, in which of its modes, and how much of it."""

    verb: str
    mode: str
    url: str
    address: str
    window: int
    seconds: float
    calls: int
    warmup: float
    rate: float
    size: int


def read_job() -> Job:
    """The job that the command line describes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve", "call"])
    parser.add_argument("--mode", default="")
    parser.add_argument("--url", default="amqp://localhost")
    parser.add_argument("--address", default="bench")
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--warmup", type=float, default=0.3)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--size", type=int, default=0)
    return Job(**vars(parser.parse_args()))


@dataclass(slots=True)
class Samples:
    """The calls of one measurement. Those begun in time but ended late have a latency, and no part in the rate."""

    begin: float
    end: float
    latencies: list[float] = field(default_factory=list)
    in_time: int = 0
    last: float = 0.0

    def add(self, since: float, done: float) -> None:
        self.latencies.append(done - since)
        self.in_time += done <= self.end
        self.last = done


def expect(answer: Any, wanted: Any) -> None:
    """Every answer is looked at: a fast wrong one counts for nothing."""
    if answer != wanted:
        raise SystemExit(f"wrong answer: {answer!r} for {wanted!r}")


# --- the two ends of the protocol with the runner -----------------------------------------------------------------


def ready(address: str = "") -> None:
    """Tell the runner that this server serves, and where."""
    print(f"ready {address}", flush=True)


async def serve_forever(address: str = "") -> None:
    """For an asyncio server that has been started: say so, and wait to be terminated."""
    ready(address)
    await asyncio.Event().wait()


@contextmanager
def measured() -> Iterator[list[Samples]]:
    """Around the measurement proper: wait for the runner's word, and report what was put into the list."""
    ready()
    if not sys.stdin.readline():
        sys.exit(0)
    cpu = time.process_time()
    samples: list[Samples] = []
    yield samples
    cpu = time.process_time() - cpu
    print(json.dumps(summarise(merge(samples), cpu)), flush=True)


def merge(samples: list[Samples]) -> Samples:
    """The samples of several threads as one."""
    whole = Samples(min(s.begin for s in samples), max(s.end for s in samples))
    for one in samples:
        whole.latencies += one.latencies
        whole.in_time += one.in_time
        whole.last = max(whole.last, one.last)
    return whole


def summarise(samples: Samples, cpu: float) -> dict[str, float]:
    """The figures of one measurement, as the C program prints them."""
    latencies = sorted(samples.latencies)
    seconds = min(samples.end, samples.last) - samples.begin
    return {
        "calls": len(latencies),
        "seconds": seconds,
        "rate": samples.in_time / seconds,
        "p50_ms": percentile(latencies, 0.50) * 1e3,
        "p90_ms": percentile(latencies, 0.90) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "max_ms": latencies[-1] * 1e3,
        "cpu_s": cpu,
        "max_rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def percentile(ascending: list[float], share: float) -> float:
    """The nearest-rank percentile."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


# --- asyncio ------------------------------------------------------------------------------------------------------


async def measure(job: Job, call: AsyncCall) -> None:
    """Warm up and measure an asyncio client; `call` makes one call and looks at its answer."""
    await closed_loop(call, job.window, job.warmup, job.calls)
    with measured() as samples:
        if job.rate:
            samples.append(await open_loop(call, job.rate, job.seconds))
        else:
            samples.append(await closed_loop(call, job.window, job.seconds, job.calls))


async def closed_loop(call: AsyncCall, window: int, seconds: float, calls: int) -> Samples:
    """`window` tasks that make one call after the other."""
    now = time.perf_counter
    samples = Samples(now(), now() + seconds)
    add, end, left = samples.add, samples.end, calls

    async def caller() -> None:
        nonlocal left
        since = now()
        while left > 0 and since < end:
            left -= 1
            await call(left)
            done = now()
            add(since, done)
            since = done

    async with asyncio.TaskGroup() as group:
        for _ in range(window):
            group.create_task(caller())
    return samples


async def open_loop(call: AsyncCall, rate: float, seconds: float) -> Samples:
    """`rate` calls a second, due in batches of a millisecond whether or not earlier ones have ended."""
    loop, now = asyncio.get_running_loop(), time.perf_counter
    tasks: dict[int, asyncio.Task[None]] = {}

    async def one(number: int, due: float) -> None:
        await call(number)
        samples.add(due, now())
        del tasks[number]

    with every_tick() as turn:
        samples = Samples(now(), now() + seconds)
        started = 0
        for tick in range(int(seconds / TICK)):
            due = samples.begin + tick * TICK
            while now() < due:
                await turn()
            if len(tasks) > OPEN_LIMIT:
                raise SystemExit(f"{len(tasks)} calls are under way: the rate is too high")
            for number in range(started, int(rate * TICK * (tick + 1))):
                tasks[number] = loop.create_task(one(number, due))
            started = max(started, int(rate * TICK * (tick + 1)))
        await asyncio.gather(*tasks.values())
    return samples


@contextmanager
def every_tick() -> Iterator[Callable[[], Awaitable[None]]]:
    """An awaitable that returns with each tick of a kernel timer.

    Not `asyncio.sleep`: a selector waits for whole milliseconds, rounded up, and the C client does not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    monotonic, nonblocking = 1, os.O_NONBLOCK
    fd = libc.timerfd_create(monotonic, nonblocking)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    nanoseconds = int(TICK * 1e9)
    libc.timerfd_settime(fd, 0, struct.pack("qqqq", 0, nanoseconds, 0, nanoseconds), None)
    loop, ticked = asyncio.get_running_loop(), asyncio.Event()

    def on_tick() -> None:
        os.read(fd, 8)
        ticked.set()

    async def turn() -> None:
        ticked.clear()
        await ticked.wait()

    loop.add_reader(fd, on_tick)
    try:
        yield turn
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def measure_items(job: Job, items: Callable[[], AsyncIterator[Any]], check: Callable[[int, Any], None]) -> None:
    """Warm up and measure a stream without end: each item counts as a call, from the one before to this one."""
    await take_items(items(), check, job.warmup, job.calls)
    with measured() as samples:
        samples.append(await take_items(items(), check, job.seconds, job.calls))


async def take_items(
    items: AsyncIterator[Any], check: Callable[[int, Any], None], seconds: float, calls: int
) -> Samples:
    """Take items for so long, and look at each."""
    now = time.perf_counter
    samples = Samples(now(), now() + seconds)
    since, number = now(), 0
    async for item in items:
        check(number, item)
        number += 1
        done = now()
        samples.add(since, done)
        since = done
        if done >= samples.end or number == calls:
            break
    return samples


# --- threads ------------------------------------------------------------------------------------------------------


def measure_threads(job: Job, call: Call, threads: int) -> None:
    """Warm up and measure a blocking client, called from so many threads."""
    blocking_loops(call, threads, job.warmup, job.calls)
    with measured() as samples:
        samples += blocking_loops(call, threads, job.seconds, job.calls)


def blocking_loops(call: Call, threads: int, seconds: float, calls: int) -> list[Samples]:
    """So many threads that make one call after the other; in the main thread if it is one."""
    if threads == 1:
        return [blocking_loop(call, seconds, calls)]
    samples: list[Samples] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            samples.append(blocking_loop(call, seconds, calls // threads))
        except BaseException as failure:
            failures.append(failure)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failures:
        raise failures[0]
    return samples


def blocking_loop(call: Call, seconds: float, calls: int) -> Samples:
    """One call after the other."""
    now = time.perf_counter
    samples = Samples(now(), now() + seconds)
    since = now()
    for number in range(calls):
        if since >= samples.end:
            break
        call(number)
        done = now()
        samples.add(since, done)
        since = done
    return samples


def measure_futures(job: Job, submit: Callable[[int], Future[int]]) -> None:
    """Warm up and measure a client that gives futures: one thread that keeps `window` of them under way."""
    futures_loop(submit, job.window, job.warmup, job.calls)
    with measured() as samples:
        samples.append(futures_loop(submit, job.window, job.seconds, job.calls))


def futures_loop(submit: Callable[[int], Future[int]], window: int, seconds: float, calls: int) -> Samples:
    """A sliding window: submit one more, then wait for the oldest."""
    now = time.perf_counter
    samples = Samples(now(), now() + seconds)
    waiting: deque[tuple[float, int, Future[int]]] = deque()

    def take_oldest() -> None:
        since, number, future = waiting.popleft()
        expect(future.result(), number)
        samples.add(since, now())

    for number in range(calls):
        since = now()
        if since >= samples.end:
            break
        waiting.append((since, number, submit(number)))
        if len(waiting) >= window:
            take_oldest()
    while waiting:
        take_oldest()
    return samples
