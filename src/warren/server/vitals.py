"""How a server process is: what it uses, how late its event loop runs, how often it had to connect again."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

#: Seconds between two looks at the event loop: a fraction of the shortest block that is worth a thought.
_EVERY = 0.25
#: Seconds for which its worst delay is told.
_WINDOW = 10.0


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


class Vitals:
    """What is measured of this process, from one life's beginning on.

    Attributes:
        started: when, in seconds since 1970.
    """

    def __init__(self) -> None:
        self.started = time.time()
        self._began = time.monotonic()
        self._lag = Lag(self._began)
        self._links = 0

    def connected(self) -> None:
        """It has a link, the first one or another."""
        self._links += 1

    async def run(self) -> None:
        """Watch the event loop, for ever."""
        while True:
            await asyncio.sleep(_EVERY)
            self._lag.woken(time.monotonic())

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
