"""A service whose handlers take items, and items that note that they were closed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from tests.support.yielding import Row
from warren import Service, current_call


class TooMuch(Exception):
    """Travels as itself."""


class Taking:
    """A service whose handlers write down what they have taken, and what it ended in."""

    def __init__(self, name: str, **options: Any) -> None:  # noqa: C901 - many handlers, each of them plain
        self.service = Service(name, errors=[TooMuch], **options)
        self.taken = 0
        self.ended: list[BaseException | None] = []
        self.go_on = threading.Event()  # of those that sleep

        @self.service.method
        async def on_loop(rows: AsyncIterator[Row], factor: int = 1) -> int:
            with self._ending():
                total = 0
                async for row in rows:
                    self.taken += 1
                    total += row.number * factor + len(row.text)
                return total

        @self.service.method
        def in_thread(rows: Iterator[Row], factor: int = 1) -> int:
            with self._ending():
                total = 0
                for row in rows:
                    self.taken += 1
                    total += row.number * factor + len(row.text)
                return total

        @self.service.method
        async def some_on_loop(rows: AsyncIterator[Row], count: int) -> int:
            with self._ending():
                while self.taken < count:
                    await anext(rows)
                    self.taken += 1
                return self.taken

        @self.service.method
        def some_in_thread(rows: Iterator[Row], count: int) -> int:
            with self._ending():
                while self.taken < count:
                    next(rows)
                    self.taken += 1
                return self.taken

        @self.service.method
        async def sleep_on_loop(rows: AsyncIterator[Row], count: int) -> int:
            with self._ending():
                async for _ in rows:
                    self.taken += 1
                    while self.taken == count and not self.go_on.is_set():
                        await asyncio.sleep(0.01)
                return self.taken

        @self.service.method
        def sleep_in_thread(rows: Iterator[Row], count: int) -> int:
            with self._ending():
                call = current_call()
                for _ in rows:
                    self.taken += 1
                    while self.taken == count and not self.go_on.wait(0.01) and not call.cancelled:
                        pass
                return self.taken

        @self.service.method
        async def fail_on_loop(rows: AsyncIterator[Row], count: int) -> int:
            async for _ in rows:
                self.taken += 1
                if self.taken == count:
                    raise TooMuch(count)
            return self.taken

        @self.service.method
        def fail_in_thread(rows: Iterator[Row], count: int) -> int:
            for _ in rows:
                self.taken += 1
                if self.taken == count:
                    raise TooMuch(count)
            return self.taken

        @self.service.method
        async def echo_on_loop(rows: AsyncIterator[Row], times: int = 1) -> AsyncIterator[Row]:
            with self._ending():
                async for row in rows:
                    self.taken += 1
                    for _ in range(times):
                        yield row

        @self.service.method
        def echo_in_thread(rows: Iterator[Row], times: int = 1) -> Iterator[Row]:
            with self._ending():
                for row in rows:
                    self.taken += 1
                    for _ in range(times):
                        yield row

        @self.service.method
        async def one() -> int:
            return 1

        self.on_loop, self.in_thread, self.one = on_loop, in_thread, one
        self.some_on_loop, self.some_in_thread = some_on_loop, some_in_thread
        self.sleep_on_loop, self.sleep_in_thread = sleep_on_loop, sleep_in_thread
        self.fail_on_loop, self.fail_in_thread = fail_on_loop, fail_in_thread
        self.echo_on_loop, self.echo_in_thread = echo_on_loop, echo_in_thread

    def _ending(self) -> _Ending:
        return _Ending(self.ended)


class _Ending:
    """Notes what a handler ends in."""

    def __init__(self, ended: list[BaseException | None]) -> None:
        self._ended = ended

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._ended.append(error)


class Source:
    """Items to send, which note how many were taken from them, and that they were closed."""

    def __init__(self, count: int, size: int = 0, *, fail: Exception | None = None, hang: bool = False) -> None:
        """After `count` items they end, fail, or hang."""
        self.given = 0
        self.closed: list[float] = []
        self._count, self._size, self._fail, self._hang = count, size, fail, hang
        self._hung = threading.Event()

    def _next(self) -> Row:
        self.given += 1
        return Row(self.given - 1, "x" * self._size)

    async def on_loop(self) -> AsyncIterator[Row]:
        try:
            while self.given < self._count:
                yield self._next()
            if self._hang:
                await asyncio.Event().wait()
            if self._fail is not None:
                raise self._fail
        finally:
            await asyncio.sleep(0)  # it may await while it is closed
            self.closed.append(time.monotonic())

    def in_thread(self) -> Iterator[Row]:
        try:
            while self.given < self._count:
                yield self._next()
            if self._fail is not None:
                raise self._fail
        finally:
            self.closed.append(time.monotonic())
