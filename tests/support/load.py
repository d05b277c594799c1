"""A steady load of calls while something fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Self

from tests.support.evidence import Ending, ending
from tests.support.proxy import Proxy
from tests.support.waiting import until
from warren import AsyncClient

#: What calls under way may end in while their broker goes and comes back; nothing else, and nothing late.
TYPED = {None, "CONNECTION_LOST", "NOT_CONNECTED", "NO_ROUTE", "CLIENT_TIMER", "QUEUE_TTL", "WORKER_LOST"}


async def until_blocked(client: AsyncClient, proxy: Proxy, method: str) -> Ending:
    """Cast until an alarm blocks the client's connection, as it does at the next publish; how that cast ended."""
    await client.connect()  # so that the cast is written
    while (got := await ending(client.options(timeout=1).cast(method, "blocks"), within=1)).error is None:
        pass  # the alarm has not reached the broker's end of the connection yet
    await until(lambda: proxy.seen["down", "Connection.Blocked"])
    return got


class Load:
    """Calls without a pause from several lanes, for ``async with``, until `stop`; all endings are kept."""

    def __init__(
        self, client: AsyncClient, method: str, *, lanes: int = 10, timeout: float = 5.0, resend: bool = False
    ) -> None:
        self._client = client.options(timeout=timeout, resend=resend)
        self._method = method
        self._timeout = timeout
        self._stopped = False
        self.endings: list[Ending] = []
        self._tasks = [asyncio.create_task(self._run(lane)) for lane in range(lanes)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        for task in self._tasks:  # of a test that has failed
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, lane: int) -> None:
        number = 0
        while not self._stopped:
            text = f"{self._method} {lane}-{number}"
            got = await ending(self._client.call(self._method, text), within=self._timeout)
            assert got.error is not None or got.value == text, "a result went to another call"
            self.endings.append(got)
            number += 1
            await asyncio.sleep(0 if got.error is None else 0.05)

    def results(self) -> int:
        """Calls that have returned."""
        return sum(1 for one in self.endings if one.error is None)

    async def more(self, count: int = 50) -> None:
        """Wait until so many more calls have returned."""
        target = self.results() + count
        await until(lambda: self.results() >= target, seconds=60)

    async def stop(self) -> Counter[str | None]:
        """End the load; how often calls ended in which reason."""
        self._stopped = True
        await asyncio.gather(*self._tasks)
        return Counter(one.reason for one in self.endings)
