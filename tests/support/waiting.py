"""Waiting for what another process or the broker does: bounded polls, never a sleep that has to be long enough."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds for what takes less than one on a quiet machine; only a test that fails waits so long.
PATIENCE = 60.0


async def until(condition: Callable[[], T | None], *, seconds: float = PATIENCE) -> T:
    """Poll until the condition gives something true; return it."""
    async with asyncio.timeout(seconds):
        while not (value := condition()):
            await asyncio.sleep(0.01)
    return value
