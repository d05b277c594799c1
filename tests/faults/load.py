"""The load of a soak: calls and casts from three clients, in all modes, patient, hasty and given up, odd and plain."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import random
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.faults.books import CANCELLED, TIMEOUT, Entry
from tests.support.doomed import note
from tests.support.soaked import LARGE, METHODS, RAISED
from warren import AsyncClient, CallError, Client

#: How often handlers are told to do what.
ACTS = {"work": 30, "large": 2, "unencodable": 1} | dict.fromkeys(RAISED, 1)
#: How often callers do what; a burst is of so many calls.
DEEDS = {"patient": 30, "cancelled": 4, "burst": 1}
BURST = 20
#: The deadlines of hasty calls, in seconds.
HASTE = 0.001, 0.05


class Load:
    """Calls without end.

    Attributes:
        begun: the keys of all calls that were begun; threads add to it, too.
        stopped: set to end it.
    """

    def __init__(self, services: list[str], folder: Path, seed: int) -> None:
        self.begun: set[str] = set()
        self.stopped = threading.Event()
        self._services = services
        self._entries = folder / "entries"
        self._seed = seed
        self._keys = itertools.count()

    async def call(self, client: AsyncClient, name: str, *, durable: bool) -> None:
        """Call, one after the other, until stopped; `durable` tells where the client's replies come."""
        rng = random.Random(f"{self._seed} {name}")
        while not self.stopped.is_set():
            deed = _draw(rng, DEEDS)
            if deed == "burst":
                hasty = [self._next(rng, durable=durable, timeout=rng.uniform(*HASTE)) for _ in range(BURST)]
                await asyncio.gather(*(self._call(client, entry, rng) for entry in hasty))
            elif deed == "cancelled":
                await self._give_up(client, self._next(rng, durable=durable, cancelled=True), rng)
            else:
                await self._call(client, self._next(rng, durable=durable), rng)
            await asyncio.sleep(rng.uniform(0, 0.05))

    def call_from_a_thread(self, client: Client, name: str) -> None:
        """The same for the blocking client."""
        rng = random.Random(f"{self._seed} {name}")
        while not self.stopped.is_set():
            cancelled = rng.random() < 0.1
            timeout = rng.uniform(*HASTE) if rng.random() < 0.1 else TIMEOUT
            entry = self._next(rng, kind="call", cancelled=cancelled, timeout=timeout)
            future = _view(client, entry).submit(*_request(entry, rng))
            if cancelled:
                self.stopped.wait(rng.uniform(0, 0.02))
                future.cancel()
            try:
                outcome: object = future.result()
            except (Exception, concurrent.futures.CancelledError) as error:
                outcome = error
            self._end(entry, outcome)
            self.stopped.wait(rng.uniform(0, 0.05))

    async def poison(self, client: AsyncClient, rng: random.Random) -> None:
        """Send a request that kills who runs it."""
        mode = rng.choice(["at-least-once", "at-least-once", "report", "at-most-once"])
        method = rng.choice([name for name, its in METHODS.items() if its == mode and name not in ("new", "changed")])
        entry = self._enter(rng, rng.choice(["call", "cast"]), method, "die")
        await self._call(client, entry, rng)

    async def _call(self, client: AsyncClient, entry: Entry, rng: random.Random) -> None:
        self._end(entry, *await asyncio.gather(_ask(client, entry, rng), return_exceptions=True))

    async def _give_up(self, client: AsyncClient, entry: Entry, rng: random.Random) -> None:
        task = asyncio.create_task(_ask(client, entry, rng))
        if rng.random() < 0.8:  # else before its first step
            await asyncio.sleep(rng.uniform(0, 0.02))
        task.cancel()
        self._end(entry, *await asyncio.gather(task, return_exceptions=True))

    def _next(self, rng: random.Random, *, kind: str = "", **more: Any) -> Entry:
        """Draw what to ask for: the entry that `_end` completes."""
        method, act = rng.choice(list(METHODS)), _draw(rng, ACTS)
        return self._enter(rng, kind or _draw(rng, {"call": 9, "cast": 1}), method, act, **more)

    def _enter(self, rng: random.Random, kind: str, method: str, act: str, **more: Any) -> Entry:
        mode, service = METHODS[method], rng.choice(self._services)
        resend = mode == "at-least-once" and act != "die" and rng.random() < 0.5
        key = str(next(self._keys))
        self.begun.add(key)
        begun = time.monotonic()
        return Entry(key, service, method, mode, kind, act, resend=resend, begun=begun, **more)

    def _end(self, entry: Entry, outcome: object) -> None:
        reason, execution = "result", ""
        if isinstance(outcome, CallError):
            reason, execution = outcome.reason, outcome.execution.value
        elif isinstance(outcome, (asyncio.CancelledError, concurrent.futures.CancelledError)):
            reason = CANCELLED
        elif isinstance(outcome, BaseException):
            reason = repr(outcome)
        elif outcome != (None if entry.kind == "cast" else f"{entry.key} done"):
            reason = f"wrong: {outcome!r}"
        seconds = time.monotonic() - entry.begun
        note(self._entries, entry._replace(seconds=seconds, reason=reason, execution=execution).line())


async def _ask(client: AsyncClient, entry: Entry, rng: random.Random) -> Any:
    view = _view(client, entry)
    ask: Callable[..., Awaitable[Any]] = view.call if entry.kind == "call" else view.cast
    return await ask(*_request(entry, rng))


def _view(client: Any, entry: Entry) -> Any:
    return client.options(resend=entry.resend, timeout=entry.timeout)


def _request(entry: Entry, rng: random.Random) -> tuple[Any, ...]:
    pad = "x" * LARGE if entry.act == "large" else ""
    return f"{entry.service}.{entry.method}", entry.key, rng.uniform(0, 0.02), entry.act, pad


def _draw(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
