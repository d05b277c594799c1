"""A worker whose handlers kill their own process: ``python -m tests.support.victim NAME QUEUE URL``.

Each handler writes a line with its pid to a file before anything else, so that a test can count how often it began.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Literal

from warren import Server, Service

name, queue, url = sys.argv[1:]
kind: Literal["classic", "quorum"] = "quorum" if queue == "quorum" else "classic"
service = Service(name, queue=kind, concurrency=int(os.environ.get("CONCURRENCY", "1")))


def begin(log: str) -> int:
    """Note that a handler began; returns how many began before it."""
    before = 0
    if os.path.exists(log):
        with open(log) as file:
            before = len(file.readlines())
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    return before


def die_first(log: str) -> str:
    if begin(log) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@service.method
def report(log: str) -> str:
    return die_first(log)


@service.method(name="at-least-once", delivery="at-least-once")
def at_least_once(log: str) -> str:
    return die_first(log)


@service.method(name="at-most-once", delivery="at-most-once")
def at_most_once(log: str) -> str:
    return die_first(log)


@service.method(delivery="at-least-once", max_attempts=2)
def poison(log: str) -> None:
    begin(log)
    os.kill(os.getpid(), signal.SIGKILL)


@service.method
async def die_after(log: str, count: int) -> AsyncIterator[int]:
    """Yield so many items, and die when they have been sent."""
    begin(log)
    for number in range(count):
        yield number
    await asyncio.sleep(0.2)  # not long enough for anything but the event loop
    os.kill(os.getpid(), signal.SIGKILL)


@service.method(delivery="at-least-once", resumable=True)
async def die_half_way(log: str, count: int) -> AsyncIterator[int]:
    """Yield so many items; the first run dies when half of them have been sent."""
    is_first = begin(log) == 0
    for number in range(count):
        yield number
        if is_first and number == count // 2:
            await asyncio.sleep(0.2)  # not long enough for anything but the event loop
            os.kill(os.getpid(), signal.SIGKILL)


async def die_having_taken(items: AsyncIterator[int], log: str, count: int) -> int:
    begin(log)
    async for item in items:
        if item == count - 1:
            break
    await asyncio.sleep(0.2)  # long enough for the caller to hear how far it came
    os.kill(os.getpid(), signal.SIGKILL)
    return count


@service.method
async def take_and_die(items: AsyncIterator[int], log: str, count: int) -> int:
    """Take so many items, and die."""
    return await die_having_taken(items, log, count)


@service.method(delivery="at-most-once")
async def take_and_die_at_most_once(items: AsyncIterator[int], log: str, count: int) -> int:
    """The same, and no other worker gets the request."""
    return await die_having_taken(items, log, count)


@service.method
def pid() -> int:
    return os.getpid()


@service.method
def wait_for(log: str, path: str) -> int:
    """Begin, then wait until a file exists."""
    import time

    begin(log)
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid()


async def main() -> None:
    server = Server(service, url=url)
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(server.serve())
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    await server.ready()
    print("ready", flush=True)
    await task


asyncio.run(main())
