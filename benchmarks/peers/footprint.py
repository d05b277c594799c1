"""What Warren takes before and beside the calls: importing it, an idle client, calls in flight.

``python -m benchmarks.peers.footprint idle|hold|bare-tasks|bare-futures URL ADDRESS COUNT`` prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from warren import AsyncClient, Client, Server, Service

_SETTLE = 1.0  # seconds in which written requests leave and buffers drain


def rss_bytes() -> int:
    """Resident memory of this process, now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def holding_service(name: str) -> Service:
    """A service that takes one call and keeps it; all others wait in its queue."""
    service = Service(name, concurrency=1)

    @service.method(name="hold")
    async def hold(n: int) -> int:
        await asyncio.Event().wait()
        return n

    return service


async def serve(url: str, address: str) -> None:
    async with Server(holding_service(address), url=url, drain_timeout=0.1):
        print(f"ready {address}", flush=True)
        await asyncio.Event().wait()


async def idle_async(url: str) -> dict[str, float]:
    async with AsyncClient(url) as client:
        await client.connect()
        await asyncio.sleep(_SETTLE)
        return {"rss_bytes": rss_bytes()}


def idle_blocking(url: str) -> dict[str, float]:
    with Client(url) as client:
        client.connect()
        time.sleep(_SETTLE)
        return {"rss_bytes": rss_bytes()}


async def tasks_in_flight(url: str, address: str, count: int) -> dict[str, float]:
    """Calls of an `AsyncClient`, each in a task of its own."""
    hold = holding_service(address).methods["hold"].function
    async with AsyncClient(url, timeout=120) as client:
        await client.connect()
        return await _held_tasks(count, lambda n: client.call(hold, n))


async def bare_tasks(count: int) -> dict[str, float]:
    """The same number of tasks that wait for a future each: what asyncio itself takes."""

    async def wait(_n: int) -> None:
        await asyncio.get_running_loop().create_future()

    return await _held_tasks(count, wait)


async def _held_tasks(count: int, call: Callable[[int], Any]) -> dict[str, float]:
    async def quiet(n: int) -> None:
        await asyncio.gather(call(n), return_exceptions=True)

    await asyncio.sleep(_SETTLE)
    before = rss_bytes()
    tasks = [asyncio.ensure_future(call(n)) for n in range(count)]
    await asyncio.sleep(_SETTLE)
    after = rss_bytes()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"bytes_per_call": (after - before) / count}


def futures_in_flight(url: str, address: str, count: int) -> dict[str, float]:
    """Calls begun with `Client.submit`."""
    hold = holding_service(address).methods["hold"].function
    with Client(url, timeout=120) as client:
        client.connect()
        time.sleep(_SETTLE)
        before = rss_bytes()
        futures = [client.submit(hold, n) for n in range(count)]
        time.sleep(_SETTLE)
        after = rss_bytes()
        for future in futures:
            future.cancel()
    return {"bytes_per_call": (after - before) / count}


def bare_futures(count: int) -> dict[str, float]:
    """The same number of futures of the standard library."""
    before = rss_bytes()
    futures: list[Future[int]] = [Future() for _ in range(count)]
    after = rss_bytes()
    return {"bytes_per_call": (after - before) / len(futures)}


def main() -> None:
    what, url, address, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    if what == "serve":
        asyncio.run(serve(url, address))
        return
    found = {
        "idle-async": lambda: asyncio.run(idle_async(url)),
        "idle-blocking": lambda: idle_blocking(url),
        "tasks": lambda: asyncio.run(tasks_in_flight(url, address, count)),
        "bare-tasks": lambda: asyncio.run(bare_tasks(count)),
        "futures": lambda: futures_in_flight(url, address, count),
        "bare-futures": lambda: bare_futures(count),
    }[what]()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
