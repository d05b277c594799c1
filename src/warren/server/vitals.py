"""How a server process is: what it uses, how late its loop runs, how much ends, how often it had to connect again."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: Seconds between two looks at the event loop: a fraction of the shortest block that is worth a thought.
_EVERY = 0.25
#: Seconds for which its worst delay is told, and what has ended; and between two looks at the latter.
_WINDOW = 10.0
_MARK_EVERY = 1.0


class Lag:
    """How late an event loop wakes up who sleeps. Time (`time.monotonic`) is passed in."""

    def __init__(self, now: float) -> None:
        self._due = now + _EVERY
        self._late: deque[tuple[float, float]] = deque()  # when, and by how much

    def woken(self, now: float) -> None:
        """The one who sleeps has been woken, and sleeps again."""
        self._forget(now)
        self._late.append((now, max(0.0, now - self._due)))
        self._due = now + _EVERY

    def worst(self, now: float) -> float:
        """Seconds of the longest delay of late; one that is not over counts."""
        self._forget(now)
        return max((late for _when, late in self._late), default=0.0) if now <= self._due else self._with(now)

    def _with(self, now: float) -> float:
        return max(now - self._due, *(late for _when, late in self._late), 0.0)

    def _forget(self, now: float) -> None:
        while self._late and self._late[0][0] < now - _WINDOW:
            self._late.popleft()


class Pace:
    """How much has ended of late, by name: looked at from time to time, at no cost for what ends. Time is passed in."""

    def __init__(self, now: float) -> None:
        self._marks: deque[tuple[float, Mapping[str, int]]] = deque([(now, {})])  # when, and how many had ended

    def mark(self, now: float, ended: Mapping[str, int]) -> None:
        """So many have ended until now; a mark a second is enough."""
        if now - self._marks[-1][0] >= _MARK_EVERY:
            self._marks.append((now, ended))
        while len(self._marks) > 1 and self._marks[1][0] <= now - _WINDOW:
            self._marks.popleft()

    def lately(self, now: float, ended: Mapping[str, int]) -> dict[str, dict[str, float]]:
        """How many of them have ended in how many of the last seconds."""
        began, before = self._marks[0]
        return {
            name: {"ended": count - before.get(name, 0), "seconds": max(0.0, now - began)}
            for name, count in ended.items()
        }


class Vitals:
    """What is measured of this process, from one life's beginning on.

    Attributes:
        started: when, in seconds since 1970.
    """

    def __init__(self) -> None:
        self.started = time.time()
        self._began = time.monotonic()
        self._lag = Lag(self._began)
        self._pace = Pace(self._began)
        self._links = 0

    def connected(self) -> None:
        """It has a link, the first one or another."""
        self._links += 1

    async def run(self, ended: Callable[[], Mapping[str, int]]) -> None:
        """Watch the event loop, and how many calls have ended by service, for ever."""
        while True:
            await asyncio.sleep(_EVERY)
            now = time.monotonic()
            self._lag.woken(now)
            self._pace.mark(now, ended())

    def lately(self, ended: Mapping[str, int]) -> dict[str, dict[str, float]]:
        """How many of them have ended in the last ten seconds, or since it began: `ended`, `seconds`, by service."""
        return self._pace.lately(time.monotonic(), ended)

    @property
    def uptime(self) -> float:
        return time.monotonic() - self._began

    def as_object(self) -> dict[str, Any]:
        """All of it, as JSON can carry it."""
        return {
            "cpu": time.process_time(),
            "memory": resident_memory(),
            "lag": self._lag.worst(time.monotonic()),
            "reconnects": max(0, self._links - 1),
        }


def resident_memory() -> int | None:
    """Bytes of memory that this process has now; on macOS the most that it ever had; None where that is not known."""
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
