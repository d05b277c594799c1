"""Services that run on a test's own event loop: what the fixture ``warren_async_serve`` hands out, without pytest."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from warren import Server, Service
from warren.testing.kit import DRAIN_TIMEOUT, START_TIMEOUT, Serve, TestingError


class AsyncWorkers(Protocol):
    """The workers of one service; they serve until the test's end, or `stop`."""

    async def stop(self) -> None:
        """Let them finish what runs, for a second at most, and end them. Again: nothing."""


class AsyncServe:
    """Serves services on the running event loop, until `close`: what the fixture ``warren_async_serve`` is."""

    def __init__(self, serve: Serve, url: str) -> None:
        """`serve` deletes the queues, after `close`."""
        self._serve = serve
        self._url = url
        self._workers: list[_LoopWorkers] = []

    async def __call__(self, service: Service, *, workers: int = 1) -> AsyncWorkers:
        """Serve a service; returns once requests are being consumed.

        Handlers and lifespan run on the test's own event loop, so they share with the test what belongs to a loop: an
        `AsyncClient`, an `asyncio.Event`. Each worker has its own connection.

        Raises:
            CallError: the broker refuses the service, or its lifespan fails.
            TestingError: it does not serve in time, or its queue is in use.
        """
        if workers < 1:
            raise ValueError(f"workers={workers} must be at least 1")
        self._serve.claim(service)
        served = _LoopWorkers()
        self._workers.append(served)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await served.start(service, self._url, workers)
        except TimeoutError as error:
            raise TestingError(f"{service.name} does not serve after {START_TIMEOUT:g} s; the log says why") from error
        return served

    async def close(self) -> None:
        """Stop all workers."""
        await asyncio.gather(*(workers.stop() for workers in self._workers))


class _LoopWorkers:
    """Workers of one service on the running event loop."""

    def __init__(self) -> None:
        self._running = contextlib.AsyncExitStack()

    async def start(self, service: Service, url: str, count: int) -> None:
        name = f"{service.name} worker of a test"
        async with contextlib.AsyncExitStack() as stack:  # if one cannot serve, none does
            for _ in range(count):
                await stack.enter_async_context(Server(service, url=url, drain_timeout=DRAIN_TIMEOUT, name=name))
            self._running = stack.pop_all()

    async def stop(self) -> None:
        await self._running.aclose()
