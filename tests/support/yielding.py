"""A service whose handlers yield, and what a test takes from it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from warren import Service


@dataclass
class Row:
    number: int
    text: str = ""


class TooFar(Exception):
    """Travels as itself."""


class Yielding:
    """A service whose handlers write down how far they came, and that they were closed."""

    def __init__(self, name: str, **options: Any) -> None:
        self.service = Service(name, errors=[TooFar], **options)
        self.yielded = 0
        self.closed: list[float] = []

        @self.service.method
        async def on_loop(count: int, size: int = 0) -> AsyncIterator[Row]:
            try:
                for number in range(count):
                    self.yielded += 1
                    yield Row(number, "x" * size)
            finally:
                await asyncio.sleep(0)  # it may await while it is closed
                self.closed.append(time.monotonic())

        @self.service.method
        def in_thread(count: int, size: int = 0) -> Iterator[Row]:
            try:
                for number in range(count):
                    self.yielded += 1
                    yield Row(number, "x" * size)
            finally:
                self.closed.append(time.monotonic())

        @self.service.method
        async def hang(count: int) -> AsyncIterator[int]:
            try:
                for number in range(count):
                    yield number
                await asyncio.Event().wait()
            finally:
                self.closed.append(time.monotonic())

        @self.service.method
        async def fail(after: int, how: str) -> AsyncIterator[int]:
            for number in range(after):
                yield number
            if how == "own":
                raise TooFar(after)
            yield "not a number"  # type: ignore[misc]

        @self.service.method
        def fail_in_thread(after: int, how: str) -> Iterator[int]:
            yield from range(after)
            if how == "own":
                raise TooFar(after)
            yield "not a number"  # type: ignore[misc]

        @self.service.method
        async def one() -> int:
            return 1

        self.on_loop, self.in_thread, self.hang, self.one = on_loop, in_thread, hang, one
        self.fail, self.fail_in_thread = fail, fail_in_thread


async def taken(stream: AsyncIterator[Any]) -> tuple[list[Any], Exception | None]:
    """All items that come, and what the stream ends in."""
    items: list[Any] = []
    try:
        async for item in stream:
            items.append(item)  # noqa: PERF401 - what has come is kept when it ends in an error
    except Exception as error:
        return items, error
    return items, None
