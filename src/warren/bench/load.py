"""Makes calls after a plan, and records what becomes of them. Pure except for asyncio: the clock is passed in."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from warren.client.options import DEFAULT_MAX_IN_FLIGHT
from warren.errors import CallError
from warren.histogram import Histogram


@dataclass(frozen=True, slots=True)
class Plan:
    """Which calls to make, and when. Times are in seconds.

    Attributes:
        in_flight: calls under way at any time: a closed loop. Not used with a rate.
        rate: calls begun per second, whether or not the ones before have ended: an open loop.
        duration: how long calls that count are begun; None for as long as it takes to make `calls`.
        calls: how many calls that count are made at most.
        warmup: how long calls are made before that.
    """

    in_flight: int = 100
    rate: float | None = None
    duration: float | None = 10.0
    calls: int | None = None
    warmup: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.in_flight <= DEFAULT_MAX_IN_FLIGHT:
            raise ValueError(f"--in-flight {self.in_flight}: must be from 1 to {DEFAULT_MAX_IN_FLIGHT}")
        if self.rate is not None and not 0 < self.rate <= 1e6:
            raise ValueError(f"--rate {self.rate:g}: must be more than 0 and at most 1,000,000 calls per second")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise ValueError(f"--duration {self.duration:g}: must be more than 0 seconds")
        if self.calls is not None and self.calls < 1:
            raise ValueError(f"--calls {self.calls}: must be at least 1")
        if self.duration is None and self.calls is None:
            raise ValueError("say when to end: --duration or --calls")
        if not 0 <= self.warmup < math.inf:
            raise ValueError(f"--warmup {self.warmup:g}: must be 0 or more seconds")

    def __str__(self) -> str:
        how = f"{self.in_flight:,} in flight" if self.rate is None else f"{self.rate:,g} calls per second"
        bounds = [f"{self.duration:g} s"] if self.duration is not None else []
        bounds += [f"{self.calls:,} calls"] if self.calls is not None else []
        return f"{how}, {' or '.join(bounds)} after {self.warmup:g} s to warm up"


@dataclass(slots=True)
class Record:
    """What became of the calls that count, which are those begun after the warm-up.

    Attributes:
        latencies: of the calls that had a result.
        errors: of the others, by code and reason.
        begun: how many calls there were.
        seconds: until the last result, from the end of the warm-up.
        interrupted: whether it is less than was planned.
    """

    latencies: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    begun: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def rate(self) -> float:
        """Results per second."""
        return self.latencies.count / self.seconds if self.seconds else 0.0

    @property
    def unfinished(self) -> int:
        """Calls that were still under way: after an interruption only."""
        return self.begun - self.latencies.count - self.errors.total()


class Load:
    """Makes calls after a plan and records what becomes of them.

    The latency of a call in an open loop counts from the moment that it was due. Otherwise a service that stands
    still for a second would look good: the calls that it kept from being made would be missing (coordinated omission).

    Attributes:
        record: what became of the calls.
        in_flight: calls under way, warm-up included.
        ended: calls that have ended, warm-up included.
    """

    def __init__(self, plan: Plan, call: Callable[[], Awaitable[object]], clock: Callable[[], float]) -> None:
        self.record = Record()
        self.in_flight = 0
        self.ended = 0
        self._plan = plan
        self._call = call
        self._clock = clock
        self._zero = clock()
        self._end = math.inf if plan.duration is None else plan.warmup + plan.duration

    async def run(self) -> None:
        """Make all calls and wait until they have ended. Cancelling it ends those under way, uncounted."""
        self._zero = self._clock()
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._plan.rate is not None:
                    await self._make_on_schedule(self._plan.rate, tasks)
                else:
                    for _ in range(self._plan.in_flight):
                        tasks.create_task(self._make_in_turn())
        except asyncio.CancelledError:
            self.record.interrupted = True
            raise

    def now(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._zero

    @property
    def phase(self) -> str:
        """What it does now, for people."""
        if self.now() < self._plan.warmup:
            return "warming up"
        return "measuring" if self._more(self.now()) else "last calls"

    @property
    def progress(self) -> float:
        """The part that is done, from 0 to 1."""
        parts = [self.now() / self._end]
        if self._plan.calls is not None:
            parts.append((self.record.latencies.count + self.record.errors.total()) / self._plan.calls)
        return min(max(parts), 1.0)

    async def _make_in_turn(self) -> None:
        """Closed loop: one call after the other."""
        while self._more(now := self.now()):
            self.record.begun += self._counts(now)
            await self._make(now)

    async def _make_on_schedule(self, rate: float, tasks: asyncio.TaskGroup) -> None:
        """Open loop: each call when it is due; if we are late, as soon as possible."""
        numbers = itertools.count()
        while self._more(due := (number := next(numbers)) / rate):
            wait = due - self.now()
            if wait > 0 or number % 100 == 0:  # even if we are late for ever, replies must be read in between
                await asyncio.sleep(max(wait, 0))
            self.record.begun += self._counts(due)
            tasks.create_task(self._make(due))

    def _more(self, due: float) -> bool:
        return due < self._end and self.record.begun != self._plan.calls

    def _counts(self, due: float) -> bool:
        return due >= self._plan.warmup

    async def _make(self, due: float) -> None:
        self.in_flight += 1
        try:
            await self._call()
        except CallError as error:
            if self._counts(due):
                self.record.errors[f"{error.code}/{error.reason}"] += 1
            await asyncio.sleep(0)  # it may have failed without waiting, and in a loop that would stop all else
        else:
            if self._counts(due):
                now = self.now()
                self.record.latencies.record(now - due)
                self.record.seconds = now - self._plan.warmup
        finally:
            self.in_flight -= 1
            self.ended += 1
